//! Cleans text from outside: from registries, from skopeo, and from images. Messages are cleaned where they enter
//! the program, so that errors, logs and events can show them. Text in documents, such as labels, is cleaned when
//! it is shown.

/// Returns text from outside in a form that can be shown. Characters that could move a terminal's cursor, change its
/// colours or reverse the order of text are replaced, and secrets in URLs are removed.
///
/// Line breaks and tabs become spaces. Other control characters, and Unicode's directional formatting characters (UAX
/// #9, section 2), become `U+FFFD`. In each URL, the query becomes `?…`, because it can contain a signature. A user and
/// a password before the host become `…@`.
///
/// In the messages of this library's errors, events and logs, text from skopeo, registries and images is cleaned
/// already. Text from the caller, such as a path, a reference or the error of a handler, is not. The documents of an
/// image, such as its labels, are not either.
#[must_use]
pub fn printable(text: &str) -> String {
    let clean = |c| {
        if is_break(c) {
            ' '
        } else {
            replace_unprintable(c)
        }
    };
    without_secrets(&text.chars().map(clean).collect::<String>())
}

/// Returns text like [`printable`], but keeps each `\n` and each tab. Other line breaks become `U+FFFD`.
pub(crate) fn printable_lines(text: &str) -> String {
    let clean = |c| {
        if matches!(c, '\n' | '\t') {
            c
        } else {
            replace_unprintable(c)
        }
    };
    without_secrets(&text.chars().map(clean).collect::<String>())
}

fn is_break(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}')
}

fn replace_unprintable(c: char) -> char {
    if c.is_control() || is_break(c) || changes_text_direction(c) {
        char::REPLACEMENT_CHARACTER
    } else {
        c
    }
}

fn changes_text_direction(c: char) -> bool {
    let marks = ['\u{200e}', '\u{200f}', '\u{061c}'];
    marks.contains(&c) || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn without_secrets(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (before, url) = rest.split_at(start + "://".len());
        shown.push_str(before);
        let end = url.find(ends_a_url).unwrap_or(url.len());
        // Punctuation at the end belongs to the sentence, not to the URL.
        let end = url[..end]
            .trim_end_matches([':', ',', '.', ';', ')', '?'])
            .len();
        push_url(&mut shown, &url[..end]);
        rest = &url[end..];
    }
    shown.push_str(rest);
    shown
}

fn ends_a_url(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>' | '\\')
}

/// Appends the part of a URL that follows the scheme.
fn push_url(shown: &mut String, url: &str) {
    // A password can contain "/" or "?", which end a host. "user:pa" is then a part of the credentials and not a host,
    // because "pa" is no port.
    let first = url.split(['/', '?']).next().unwrap_or(url);
    let port = first.rsplit_once(':').filter(|_| !first.starts_with('['));
    let is_no_host = port.is_some_and(|(_, port)| !port.bytes().all(|b| b.is_ascii_digit()));
    if is_no_host
        && !first.contains('@')
        && let Some((_, rest)) = url.rsplit_once('@')
    {
        shown.push_str("…@");
        return push_url(shown, rest);
    }
    let (url, query) = match url.split_once('?') {
        Some((url, _)) => (url, "?…"),
        None => (url, ""),
    };
    let host_end = url.find('/').unwrap_or(url.len());
    let (host, path) = url.split_at(host_end);
    match host.rsplit_once('@') {
        Some((_, host)) => shown.extend(["…@", host]),
        None => shown.push_str(host),
    }
    shown.extend([path, query]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_clean(text: &str) -> bool {
        text.chars().all(|c| c == replace_unprintable(c))
    }

    proptest::proptest! {
        #[test]
        fn any_text_becomes_printable(text in proptest::prelude::any::<String>()) {
            let shown = printable(&text);
            assert!(is_clean(&shown), "{shown:?}");
            assert_eq!(printable(&shown), shown);
            let lines = printable_lines(&text);
            assert!(is_clean(&lines.replace(['\n', '\t'], " ")), "{lines:?}");
        }
    }

    #[test]
    fn control_characters_are_replaced() {
        let table = [
            ("a\x1b[31mb\nc", "a\u{fffd}[31mb c"),
            ("a\u{9b}b\u{202e}c\u{2066}", "a\u{fffd}b\u{fffd}c\u{fffd}"),
            ("\x07\x7f\r\t", "\u{fffd}\u{fffd}  "),
            ("caf\u{e9} \u{5d0}", "caf\u{e9} \u{5d0}"),
        ];
        for (text, shown) in table {
            assert_eq!(printable(text), shown);
        }
        assert_eq!(
            printable_lines("a\tb\n\x1bc\r\n"),
            "a\tb\n\u{fffd}c\u{fffd}\n"
        );
    }

    #[test]
    fn query_and_password_of_a_url_are_removed() {
        let table = [
            ("http://user:pa/ss@proxy:3128", "http://…@proxy:3128"),
            ("http://user:p?w@proxy:3128/x?y", "http://…@proxy:3128/x?…"),
            (
                "docker://a.b:5000/c@sha256:0",
                "docker://a.b:5000/c@sha256:0",
            ),
            ("http://[::1]:5000/a@b", "http://[::1]:5000/a@b"),
            (
                r#"Get "https://s3.example/a?X-Amz-Signature=abc&x=y": dial tcp: refused"#,
                r#"Get "https://s3.example/a?…": dial tcp: refused"#,
            ),
            (
                "see http://a:b@c.d:5/e?f#g, and more",
                "see http://…@c.d:5/e?…, and more",
            ),
            ("https://a?b: refused", "https://a?…: refused"),
            ("https://a/b@c/d", "https://a/b@c/d"),
            ("docker://a/b@sha256:c", "docker://a/b@sha256:c"),
            ("is it there? http://a", "is it there? http://a"),
            (
                "did you mean docker://a/b? (http://a?b)?",
                "did you mean docker://a/b? (http://a?…)?",
            ),
            ("http://u:p@a/b?", "http://…@a/b?"),
            ("http://u:p? and", "http://u:p? and"),
            ("(http://a?b) (http://c?d)", "(http://a?…) (http://c?…)"),
            ("http://", "http://"),
            ("msg=\"http://a?b\\\" c", "msg=\"http://a?…\\\" c"),
        ];
        for (text, shown) in table {
            assert_eq!(printable(text), shown);
        }
    }
}
