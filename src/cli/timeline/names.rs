//! Short names of images and layers.

use super::picture::{Span, What};
use crate::cli::format::short;

/// The longest short name of an image, in characters.
const MAX_SHORT_CHARS: usize = 28;

/// The last part of an image's name, with its tag or the beginning of its digest: `fedora:latest`.
pub(super) fn short_image(reference: &str) -> String {
    let (name, digest) = match reference.split_once('@') {
        Some((name, digest)) => (name, Some(short(digest))),
        None => (reference, None),
    };
    let name = name.trim_end_matches('/');
    let last = name.rsplit('/').next().unwrap_or(name);
    // Without a path, the transport is still there: `oci:folder:tag`.
    let last = match last.split_once(':') {
        Some(("oci" | "dir" | "oci-archive" | "docker-archive" | "containers-storage", rest)) => {
            rest
        }
        _ => last,
    };
    match digest {
        Some(digest) => shorten_middle(&format!("{last}@{digest}"), MAX_SHORT_CHARS),
        None => shorten_middle(last, MAX_SHORT_CHARS),
    }
}

/// The name of an image without `docker://`.
pub(super) fn without_transport(reference: &str) -> &str {
    reference.strip_prefix("docker://").unwrap_or(reference)
}

/// Shortens text to at most `most` characters. The middle is left out, because both the beginning and the
/// end of a name distinguish it.
pub(super) fn shorten_middle(text: &str, most: usize) -> String {
    let length = text.chars().count();
    if length <= most {
        return text.to_owned();
    }
    let kept = most.saturating_sub(1);
    let head: String = text.chars().take(kept.div_ceil(2)).collect();
    let tail: String = text.chars().skip(length - kept / 2).collect();
    format!("{head}…{tail}")
}

/// The same text with only the beginning of each digest.
pub(super) fn with_short_digests(text: &str) -> String {
    let mut short = String::with_capacity(text.len());
    let is_hex = |c: char| c.is_ascii_hexdigit();
    let mut rest = text;
    while let Some(start) = rest.find(is_hex) {
        let (before, hex) = rest.split_at(start);
        let (hex, after) = hex.split_at(hex.find(|c| !is_hex(c)).unwrap_or(hex.len()));
        short.push_str(before);
        short.push_str(if hex.len() >= 64 { &hex[..12] } else { hex });
        rest = after;
    }
    short.push_str(rest);
    short
}

/// Names what a span fetched, with the image if there are several.
pub(super) fn of_span(span: &Span, several_images: bool) -> String {
    let what = match &span.what {
        What::Manifest => "manifest".to_owned(),
        What::Config => "config".to_owned(),
        What::Layer { layer, .. } => format!("layer {layer}"),
        What::Several { count, .. } => return format!("{count} tries"),
    };
    if several_images && !span.image.is_empty() {
        format!("{} {what}", short_image(&span.image))
    } else {
        what
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_by_their_last_part() {
        let hex = "0123456789abcdef".repeat(4);
        let table = [
            ("docker://quay.io/fedora/fedora:latest", "fedora:latest"),
            ("docker://localhost:5000/a", "a"),
            ("docker://debian", "debian"),
            ("oci:folder:tag", "folder:tag"),
            ("oci:/a/b/folder:tag", "folder:tag"),
            ("dir:/a/b/", "b"),
            ("", ""),
            ("a\u{e9}/\u{1f600}", "\u{1f600}"),
            (
                "docker://h/a/a-very-long-name-of-an-image-indeed:1.2.3",
                "a-very-long-na…-indeed:1.2.3",
            ),
        ];
        for (reference, expected) in table {
            assert_eq!(short_image(reference), expected, "{reference}");
        }
        let by_digest = format!("docker://h/a/b@sha256:{hex}");
        assert_eq!(short_image(&by_digest), "b@0123456789ab");
    }

    #[test]
    fn digests_within_text_are_shortened() {
        let hex = "0123456789abcdef".repeat(4);
        let text = format!("blob sha256:{hex}: cut at {hex}, \u{e9}a1");
        let expected = "blob sha256:0123456789ab: cut at 0123456789ab, \u{e9}a1";
        assert_eq!(with_short_digests(&text), expected);
    }

    #[test]
    fn long_text_is_shortened_in_the_middle() {
        let table = [
            ("abcdef", 6, "abcdef"),
            ("abcdef", 5, "ab…ef"),
            ("abcdef", 4, "ab…f"),
            ("abcdef", 1, "…"),
            ("\u{e9}\u{e9}\u{e9}\u{e9}", 3, "\u{e9}…\u{e9}"),
        ];
        for (text, most, expected) in table {
            assert_eq!(shorten_middle(text, most), expected);
        }
    }
}
