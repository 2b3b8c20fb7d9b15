//! Text for people, which fits into 80 columns.

use longshore::printable;

/// The width of the page, in columns.
const COLUMNS: usize = 80;

/// The width of the names and the space after them. A sha256 digest, which has 71 characters, fits beside them.
const NAME_COLUMNS: usize = 9;

/// A page: lines of a name and a value, and tables.
#[derive(Debug, Default)]
pub(crate) struct Page(String);

impl Page {
    /// Adds a value that people copy, on one line whatever its length.
    pub(crate) fn name(&mut self, name: &str, value: &str) {
        self.line(&format!("{name:<8} {}", printable(value)));
    }

    /// Adds a value, on as many lines as it needs.
    pub(crate) fn text(&mut self, name: &str, value: &str) {
        let value = printable(value);
        for (number, part) in wrapped(&value, COLUMNS - NAME_COLUMNS)
            .into_iter()
            .enumerate()
        {
            let name = if number == 0 { name } else { "" };
            self.line(&format!("{name:<8} {part}"));
        }
    }

    /// Adds a line as it is.
    pub(crate) fn line(&mut self, line: &str) {
        self.0.push_str(line.trim_end());
        self.0.push('\n');
    }

    pub(crate) fn into_text(self) -> String {
        self.0
    }
}

/// Appends text from outside to a row, as much of it as fits.
pub(crate) fn fit(row: &str, text: &str) -> String {
    let text = printable(text);
    let width = COLUMNS.saturating_sub(row.chars().count());
    if end_of(&text, width) == text.len() {
        return format!("{row}{text}");
    }
    let end = end_of(&text, width.saturating_sub(3));
    format!("{row}{}...", &text[..end])
}

/// Breaks text into lines of at most this width: at the last space, if there is one.
fn wrapped(text: &str, width: usize) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    loop {
        // A line has at least one character, so this comes to an end.
        let least = rest.chars().next().map_or(0, char::len_utf8);
        let end = end_of(rest, width).max(least);
        if end == rest.len() {
            lines.push(rest);
            return lines;
        }
        let (line, after) = match rest[..end].rfind(' ') {
            Some(space) if space > 0 => (&rest[..space], &rest[space + 1..]),
            _ => rest.split_at(end),
        };
        lines.push(line);
        rest = after;
    }
}

/// The length in bytes of the text that fits into this width. A character that is not ASCII counts for two columns,
/// which is the most that one takes.
fn end_of(text: &str, width: usize) -> usize {
    let mut columns = 0;
    let too_far = |c: &(usize, char)| {
        columns += if c.1.is_ascii() { 1 } else { 2 };
        columns > width
    };
    text.char_indices()
        .find(too_far)
        .map_or(text.len(), |(end, _)| end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_at_spaces_where_it_can_be() {
        let table: [(&str, &[&str]); 7] = [
            ("", &[""]),
            ("abcd", &["abcd"]),
            ("abcde", &["abcd", "e"]),
            ("ab cde", &["ab", "cde"]),
            ("ab  cde", &["ab ", "cde"]),
            (" abcd", &[" abc", "d"]),
            ("\u{e9}\u{e9}\u{e9}", &["\u{e9}\u{e9}", "\u{e9}"]),
        ];
        for (text, expected) in table {
            assert_eq!(wrapped(text, 4), expected, "{text:?}");
        }
        assert_eq!(wrapped("\u{e9}\u{e9}", 1), ["\u{e9}", "\u{e9}"]);
    }

    #[test]
    fn a_row_is_cut_where_the_page_ends() {
        let row = "x".repeat(COLUMNS - 5);
        for (text, expected) in [("", ""), ("12345", "12345"), ("123456", "12...")] {
            assert_eq!(fit(&row, text), format!("{row}{expected}"));
        }
    }

    #[test]
    fn a_digest_fits_beside_its_name() {
        let mut page = Page::default();
        page.name("digest", &format!("sha256:{}", "a".repeat(64)));
        assert_eq!(page.into_text().trim_end().len(), COLUMNS);
    }
}
