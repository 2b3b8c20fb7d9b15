//! Text for people.

use std::fmt::Write as _;

use serde::Serialize;

/// Bytes as people say them, with the units of `skopeo` and `docker`: powers
/// of a thousand.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if count < 1000 {
        return format!("{count} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let mut value = count as f64 / 1000.0;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if value < 999.95 {
            break;
        }
        value /= 1000.0;
        unit = larger;
    }
    format!("{value:.1} {unit}")
}

/// The first digits of a digest, enough to tell layers apart.
pub(crate) fn short(digest: &str) -> &str {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

/// Text from outside without what could move a terminal's cursor, change its
/// colours or turn the order of what it shows; line breaks become spaces.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => ' ',
            c if c.is_control() || turns_the_order(c) => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

/// Unicode's explicit directional formatting (UAX #9, 2).
fn turns_the_order(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// One line of JSON. Outside of strings it is ASCII, and serde escapes the rest
/// of what could control a terminal, but DEL and what follows it.
pub(crate) fn json_line(value: &impl Serialize) -> serde_json::Result<String> {
    let line = serde_json::to_string(value)?;
    Ok(line.chars().fold(String::new(), |mut line, c| {
        // Writing to a String can't fail.
        let _ = if c.is_control() {
            write!(line, "\\u{:04x}", u32::from(c))
        } else {
            line.write_char(c)
        };
        line
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_with_one_digit() {
        let table = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (123_456_789, "123.5 MB"),
            (u64::MAX, "18446744.1 TB"),
        ];
        for (count, expected) in table {
            assert_eq!(bytes(count), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_from_outside_can_be_printed(text in proptest::prelude::any::<String>()) {
            let shown = printable(&text);
            assert_eq!(shown.chars().count(), text.chars().count());
            assert!(!shown.contains(|c: char| c.is_control() || turns_the_order(c)), "{shown:?}");
        }
    }

    #[test]
    fn nothing_from_outside_reaches_the_terminal_as_control() {
        assert_eq!(printable("a\x1b[31mb\nc"), "a\u{fffd}[31mb c");
        assert_eq!(printable("a\u{9b}b\u{202e}c"), "a\u{fffd}b\u{fffd}c");
        let json = json_line(&"\x1b\x7f\u{9b}\u{e9}").expect("a string");
        assert_eq!(json, "\"\\u001b\\u007f\\u009b\u{e9}\"");
        let back: String = serde_json::from_str(&json).expect("JSON");
        assert_eq!(back, "\x1b\x7f\u{9b}\u{e9}");
    }
}
