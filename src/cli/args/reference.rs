//! The names of images on the command line.

/// Checks only that the reference has a transport, because skopeo's message for that is unclear.
pub(crate) fn image_reference(text: &str) -> Result<String, String> {
    match text.split_once(':') {
        Some((transport, rest)) if !rest.is_empty() && is_transport(transport) => {
            Ok(text.to_owned())
        }
        _ => Err(format!(
            "an image is TRANSPORT:REFERENCE; did you mean docker://{text}?"
        )),
    }
}

/// Whether skopeo knows this transport (containers-transports(5)).
fn is_transport(name: &str) -> bool {
    const TRANSPORTS: [&str; 10] = [
        "atomic",
        "containers-storage",
        "dir",
        "docker",
        "docker-archive",
        "docker-daemon",
        "oci",
        "oci-archive",
        "ostree",
        "sif",
    ];
    TRANSPORTS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use longshore::Platform;

    #[test]
    fn images_need_a_transport() {
        for good in ["docker://a/b", "oci:dir", "containers-storage:x"] {
            assert!(image_reference(good).is_ok(), "{good}");
        }
        for bad in ["debian", "debian:stable", "http://a/b", "docker:", ""] {
            assert!(image_reference(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn platforms() {
        assert!("linux/arm64".parse::<Platform>().is_ok());
        assert!("linux/arm/v7".parse::<Platform>().is_ok());
        for bad in ["linux", "", "linux/", "/arm", "a/b/c/d"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
