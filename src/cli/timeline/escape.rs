//! Escapes text from outside for XML and HTML.

use std::fmt::{self, Display, Write};

use longshore::printable;

/// Shows text so that it is only text in XML and HTML, in content and within quoted attributes. What could
/// reverse the order of other text, and what XML does not allow, is replaced.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in printable(self.0).chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // XML 1.0 excludes these characters, and `printable` keeps them.
                '\u{fffe}' | '\u{ffff}' => f.write_char(char::REPLACEMENT_CHARACTER)?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        let table = [
            ("docker://a/b:c", "docker://a/b:c"),
            ("<script>&\"'", "&lt;script&gt;&amp;&quot;&#39;"),
            ("]]>", "]]&gt;"),
            ("\0\u{1b}[31m\u{ffff}", "\u{fffd}\u{fffd}[31m\u{fffd}"),
            ("a\u{202e}b\nc", "a\u{fffd}b c"),
            ("\u{1f600}\u{e9}", "\u{1f600}\u{e9}"),
        ];
        for (text, expected) in table {
            assert_eq!(Escaped(text).to_string(), expected, "{text:?}");
        }
    }
}
