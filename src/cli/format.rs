//! Formats values for people.

use std::fmt::Write as _;
use std::time::Duration;

use longshore::oci_spec::image::Descriptor;
use longshore::printable;
use serde::Serialize;

/// Formats a number of bytes with the units of `skopeo` and `docker`: powers of a thousand.
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

/// Formats a time in at most two units: "7 s", "3 min 14 s", "2 h 5 min".
pub(crate) fn seconds(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// Returns the rate in bytes per second. `None` if the time is too short to tell.
pub(crate) fn per_second(bytes: u64, time: Duration) -> Option<u64> {
    if time < Duration::from_millis(100) {
        return None;
    }
    u64::try_from(u128::from(bytes) * 1000 / time.as_millis()).ok()
}

/// Formats a number of things: "1 layer", "2 layers".
pub(crate) fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// Formats the first `most` of these things: "a, b and 3 more".
pub(crate) fn listed(things: &[String], most: usize) -> String {
    let shown = things.iter().take(most).map(String::as_str);
    let shown = shown.collect::<Vec<_>>().join(", ");
    match things.len().saturating_sub(most) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Formats the platform that an index gives to an entry: `linux/arm/v7`. `None` if it gives none.
pub(crate) fn platform_of(entry: &Descriptor) -> Option<String> {
    let platform = entry.platform().as_ref()?;
    let (os, architecture) = (platform.os(), platform.architecture());
    Some(match platform.variant() {
        Some(variant) => format!("{os}/{architecture}/{variant}"),
        None => format!("{os}/{architecture}"),
    })
}

/// Returns a message as [`printable`] text, without the numbers that Rust adds to the system's errors.
pub(crate) fn plain(message: &str) -> String {
    let message = printable(message);
    let mut parts = message.split(" (os error ");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(')') {
            Some((number, rest)) if number.bytes().all(|b| b.is_ascii_digit()) => text += rest,
            _ => text.extend([" (os error ", part]),
        }
    }
    text
}

/// The first digits of a digest, which suffice to distinguish layers.
pub(crate) fn short(digest: &str) -> &str {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

/// The part of a layer's media type that tells layers apart: `tar+gzip`, `tar+zstd`, or `docker tar.gzip`. Another type
/// is returned as it is.
pub(crate) fn short_type(media_type: &str) -> String {
    const KINDS: [(&str, &str); 4] = [
        (
            "application/vnd.oci.image.layer.nondistributable.v1.",
            "nondistributable ",
        ),
        ("application/vnd.oci.image.layer.v1.", ""),
        (
            "application/vnd.docker.image.rootfs.foreign.diff.",
            "docker foreign ",
        ),
        ("application/vnd.docker.image.rootfs.diff.", "docker "),
    ];
    let known = KINDS.iter().find_map(|(prefix, kind)| {
        let rest = media_type.strip_prefix(prefix)?;
        Some(format!("{kind}{rest}"))
    });
    known.unwrap_or_else(|| media_type.to_owned())
}

/// Serialises a value as one line of JSON. Outside of strings, JSON is ASCII. Characters that could control a
/// terminal or reverse the order of text are escaped, even where JSON does not require it.
pub(crate) fn json_line(value: &impl Serialize) -> serde_json::Result<String> {
    let line = serde_json::to_string(value)?;
    Ok(line.chars().fold(String::new(), |mut line, c| {
        let plain = c.is_ascii_graphic()
            || c == ' '
            || *printable(c.encode_utf8(&mut [0; 4])) == *c.to_string();
        // Writing to a `String` can't fail. All characters that are not printable have four hex digits.
        let _ = if plain {
            line.write_char(c)
        } else {
            write!(line, "\\u{:04x}", u32::from(c))
        };
        line
    }))
}

/// Removes the byte order mark (`U+FEFF`) at the start of a text file. Some editors write it.
pub(crate) fn without_byte_order_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_with_one_digit() {
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

    #[test]
    fn only_the_first_things_are_listed() {
        let things = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(listed(&things, 3), "a, b, c");
        assert_eq!(listed(&things, 2), "a, b and 1 more");
        assert_eq!(listed(&[], 2), "");
    }

    #[test]
    fn messages_contain_no_error_numbers() {
        let table = [
            ("a: No such file (os error 2)", "a: No such file"),
            ("a (os error 2): b (os error 13)!", "a: b!"),
            ("a (os error x) b", "a (os error x) b"),
            ("a (os error ", "a (os error "),
            ("", ""),
        ];
        for (message, expected) in table {
            assert_eq!(plain(message), expected);
        }
    }

    #[test]
    fn types_of_layers_are_short_if_they_are_known() {
        let table = [
            ("application/vnd.oci.image.layer.v1.tar+gzip", "tar+gzip"),
            ("application/vnd.oci.image.layer.v1.tar", "tar"),
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar",
                "nondistributable tar",
            ),
            (
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "docker tar.gzip",
            ),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "docker foreign tar.gzip",
            ),
            ("text/plain", "text/plain"),
        ];
        for (media_type, expected) in table {
            assert_eq!(short_type(media_type), expected);
        }
    }

    #[test]
    fn json_lines_contain_no_control_characters() {
        let text = "\x1b\x7f\u{9b}\u{e9}\u{202e}\u{2028}\u{1f600}";
        let json = json_line(&text).expect("a string");
        assert_eq!(
            json,
            "\"\\u001b\\u007f\\u009b\u{e9}\\u202e\\u2028\u{1f600}\""
        );
        let back: String = serde_json::from_str(&json).expect("JSON");
        assert_eq!(back, text);
    }
}
