//! The versions of the protocol, and the methods that each one has.

use semver::Version;

use super::Method;

/// The oldest protocol version that this library speaks: the first one with `GetFullConfig` (skopeo 1.6).
pub const FIRST_SUPPORTED: Version = Version::new(0, 2, 3);

/// The oldest protocol version whose proxy checks the signature policy when it opens an image (skopeo 1.13). An older
/// skopeo accepts `--policy` and ignores it.
pub(crate) const CHECKS_POLICY_SINCE: Version = Version::new(0, 2, 6);

impl Method {
    /// The first protocol version that has this method.
    pub(crate) fn since(self) -> Version {
        let patch = match self {
            Self::Initialize
            | Self::OpenImage
            | Self::CloseImage
            | Self::GetManifest
            | Self::GetBlob
            | Self::FinishPipe
            | Self::Shutdown => 1,
            Self::GetConfig => 2,
            Self::GetFullConfig => 3,
            Self::OpenImageOptional => 4,
            Self::GetLayerInfo => 5,
            Self::GetLayerInfoPiped => 7,
            Self::GetRawBlob => 8,
            Self::OpenVarlinkSocket => 9,
        };
        Version::new(0, 2, patch)
    }
}

/// Whether a proxy of version `found` has `method`.
pub(crate) fn supports(found: &Version, method: Method) -> bool {
    *found >= method.since()
}

/// Whether this library can speak with a proxy of this version: 0.2.3 or a later 0.2. The protocol is private to
/// skopeo, so another major or minor version may differ in any way.
pub(crate) fn is_compatible(found: &Version) -> bool {
    found.major == FIRST_SUPPORTED.major
        && found.minor == FIRST_SUPPORTED.minor
        && *found >= FIRST_SUPPORTED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compatible_from_0_2_3_within_0_2() {
        let table = [
            ("0.2.1", false),
            ("0.2.2", false),
            ("0.2.3", true),
            ("0.2.8", true),
            ("0.2.99", true),
            ("0.1.9", false),
            ("0.3.0", false),
            ("1.2.3", false),
        ];
        for (version, expected) in table {
            let version = version.parse().expect("a version");
            assert_eq!(is_compatible(&version), expected, "{version}");
        }
    }

    #[test]
    fn methods_by_generation() {
        let table = [
            ("0.2.3", Method::GetFullConfig, true),
            ("0.2.3", Method::GetLayerInfo, false),
            ("0.2.6", Method::GetLayerInfo, true),
            ("0.2.6", Method::GetRawBlob, false),
            ("0.2.8", Method::GetRawBlob, true),
            ("0.2.8", Method::OpenVarlinkSocket, false),
            ("0.2.9", Method::OpenVarlinkSocket, true),
        ];
        for (version, method, expected) in table {
            let version = version.parse().expect("a version");
            assert_eq!(supports(&version, method), expected, "{version} {method:?}");
        }
    }
}
