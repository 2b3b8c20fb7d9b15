//! Warnings about images that were opened or pulled successfully.

use longshore::oci_spec::image::Descriptor;
use longshore::{Platform, printable};

use super::say::say;

fn warn(what: &str) {
    say(format!("longshore: warning: {what}"));
}

/// Warns if the system's policy restricts images and the proxy does not check it.
pub(crate) fn of_policy(restricts_images: bool, is_checked: bool) {
    if restricts_images && !is_checked {
        warn(
            "this skopeo does not check the signature policy, so that the image is accepted whatever the policy \
             says: use skopeo 1.13 or later; with --require-policy, this is a failure",
        );
    }
}

/// Warns if an image is for another platform than the requested one.
pub(crate) fn of_platform(image: &str, wanted: Option<&Platform>, found: Option<&str>) {
    if let (Some(wanted), Some(found)) = (wanted, found)
        && !wanted.is(found)
    {
        let (image, found) = (printable(image), printable(found));
        warn(&format!(
            "{image} is for {found}, not for {wanted}: the source has only {found}"
        ));
    }
}

/// Warns about a layer of an image that was left out.
pub(crate) fn of_foreign(image: &str, layer: &Descriptor) {
    let (image, digest) = (printable(image), layer.digest());
    let urls = layer.urls().iter().flatten();
    let urls: Vec<String> = urls.map(|url| printable(url)).collect();
    warn(&format!(
        "{image}: foreign layer {digest} is left out, because its manifest says that it is stored elsewhere: {}",
        urls.join(", ")
    ));
}
