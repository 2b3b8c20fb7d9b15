//! The protocol in words for people: what a call does, and which skopeo speaks which version.

use semver::Version;

/// Returns what skopeo does in a call, such as "opening the image". `method` is a method's name on the wire. Other text
/// is returned unchanged.
pub(crate) fn describe_call(method: &str) -> &str {
    match method {
        "Initialize" => "greeting the proxy",
        "OpenImage" | "OpenImageOptional" => "opening the image",
        "CloseImage" => "closing the image",
        "GetManifest" => "reading the manifest",
        "GetConfig" | "GetFullConfig" => "reading the image config",
        "GetBlob" | "GetRawBlob" => "fetching a blob",
        "GetLayerInfo" | "GetLayerInfoPiped" => "listing the layers",
        "FinishPipe" => "finishing a blob",
        "OpenVarlinkSocket" => "opening a varlink socket",
        "Shutdown" => "shutting the proxy down",
        other => other,
    }
}

/// Returns what a method can do that no method of an earlier protocol version can, such as "fetching a blob of unknown
/// size". Other text is returned unchanged, or as [`describe_call`] returns it.
pub(crate) fn describe_feature(method: &str) -> &str {
    match method {
        "OpenImageOptional" => "asking whether an image exists",
        "GetRawBlob" => "fetching a blob of unknown size",
        other => describe_call(other),
    }
}

/// The protocol versions, with the first and the last released skopeo that speaks each.
const RELEASED: [(u64, &str, &str); 6] = [
    (1, "1.5.1", "1.5.1"),
    (2, "1.5.2", "1.5.2"),
    (3, "1.6", "1.10"),
    (5, "1.11", "1.12"),
    (6, "1.13", "1.18"),
    (8, "1.19", "1.22"),
];

/// Returns the first skopeo that speaks this version of the protocol, or a later one: "1.13 or later".
pub(crate) fn first_skopeo(required: &Version) -> String {
    let mut released = RELEASED.iter();
    match released.find(|(patch, ..)| *patch >= required.patch) {
        Some((_, first, _)) => format!("{first} or later"),
        None => "later than 1.22".into(),
    }
}

/// Returns the released skopeos that speak this version of the protocol, or a later one: "skopeo 1.13 to 1.22".
pub(crate) fn skopeos_since(required: &Version) -> String {
    let mut released = RELEASED.iter();
    let first = released.find(|(patch, ..)| *patch >= required.patch);
    match (first, RELEASED.last()) {
        (Some((_, first, _)), Some((_, _, last))) => format!("skopeo {first} to {last}"),
        _ => "none that was released".into(),
    }
}

/// Returns which skopeo speaks this version of the protocol, with the version: "skopeo 1.6 to 1.10, protocol 0.2.3".
pub(crate) fn skopeo_of(found: &Version) -> String {
    let mut released = RELEASED.iter();
    let known = released.find(|(patch, ..)| Version::new(0, 2, *patch) == *found);
    match known {
        Some((_, first, last)) if first == last => format!("skopeo {first}, protocol {found}"),
        Some((_, first, last)) => format!("skopeo {first} to {last}, protocol {found}"),
        None => format!("protocol {found}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Method;

    #[test]
    fn no_message_names_a_method_of_the_protocol() {
        for method in Method::ALL {
            assert_ne!(describe_call(method.name()), method.name(), "{method}");
        }
    }

    #[test]
    fn versions_of_skopeo() {
        let version = |text: &str| text.parse::<Version>().expect("a version");
        assert_eq!(first_skopeo(&version("0.2.4")), "1.11 or later");
        assert_eq!(first_skopeo(&version("0.2.8")), "1.19 or later");
        assert_eq!(first_skopeo(&version("0.2.9")), "later than 1.22");
        assert_eq!(skopeos_since(&version("0.2.3")), "skopeo 1.6 to 1.22");
        let shown = skopeo_of(&version("0.2.3"));
        assert_eq!(shown, "skopeo 1.6 to 1.10, protocol 0.2.3");
        assert_eq!(skopeo_of(&version("0.2.9")), "protocol 0.2.9");
        assert_eq!(skopeo_of(&version("1.2.3")), "protocol 1.2.3");
    }
}
