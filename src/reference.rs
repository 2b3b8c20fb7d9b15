//! References to images: their transport, and the parts of a name that matter for fetching. This module does no I/O.

use std::fmt;
use std::str::FromStr;

use oci_spec::image::Digest;

use crate::error::{Error, Result};

/// A transport of skopeo, named by the first part of a reference (containers-transports(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// A registry: `docker://`, or `registry:` as other tools write it.
    Registry,
    /// A folder in the OCI layout: `oci:`.
    OciDir,
    /// A tar archive of an OCI layout: `oci-archive:`.
    OciArchive,
    /// A tar archive as `docker save` writes it: `docker-archive:`.
    DockerArchive,
    /// The storage of podman and others on this machine: `containers-storage:`.
    ContainerStorage,
    /// A folder with the blobs of one image: `dir:`.
    Dir,
    /// The docker daemon on this machine: `docker-daemon:`.
    DockerDaemon,
}

impl Transport {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Registry, "docker://"),
        (Self::OciDir, "oci:"),
        (Self::OciArchive, "oci-archive:"),
        (Self::DockerArchive, "docker-archive:"),
        (Self::ContainerStorage, "containers-storage:"),
        (Self::Dir, "dir:"),
        (Self::DockerDaemon, "docker-daemon:"),
    ];

    /// The prefix of a reference, such as `docker://` or `oci:`.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        let known = Self::ALL.iter().find(|(known, _)| *known == self);
        known.map_or("", |(_, prefix)| prefix)
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.prefix())
    }
}

/// A reference to an image in parts: its transport and its name. `Display` writes the reference in the form that
/// [`Fetcher::open`](crate::Fetcher::open) and [`ImageProxy::open_image`](crate::ImageProxy::open_image) accept.
///
/// ```
/// use longshore::{ImageReference, Transport};
///
/// let image: ImageReference = "docker://quay.io/fedora/fedora:latest".parse()?;
/// assert_eq!(image.transport, Transport::Registry);
/// assert_eq!(image.name, "quay.io/fedora/fedora:latest");
/// let local = ImageReference::new(Transport::OciDir, "fedora:latest");
/// assert_eq!(local.to_string(), "oci:fedora:latest");
/// # Ok::<(), longshore::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageReference {
    /// The transport.
    pub transport: Transport,
    /// The name, in the form of the transport: `HOST/REPOSITORY:TAG` for a registry, `PATH:TAG` for a layout.
    pub name: String,
}

impl ImageReference {
    /// Makes a reference of a transport and a name.
    pub fn new(transport: Transport, name: impl Into<String>) -> Self {
        let name = name.into();
        Self { transport, name }
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.transport, self.name)
    }
}

impl From<ImageReference> for String {
    fn from(reference: ImageReference) -> Self {
        reference.to_string()
    }
}

/// Parses `TRANSPORT:NAME`. Returns an [`Error::Image`] if the transport is unknown or the name is empty.
impl FromStr for ImageReference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let registry = text.strip_prefix("registry:").map(|name| {
            let name = name.strip_prefix("//").unwrap_or(name);
            (Transport::Registry, name)
        });
        let mut known = Transport::ALL.iter();
        let found = registry
            .or_else(|| known.find_map(|(kind, prefix)| Some((*kind, text.strip_prefix(prefix)?))));
        match found {
            Some((transport, name)) if !name.is_empty() => Ok(Self::new(transport, name)),
            Some(_) => Err(Error::image(format!("{text:?} has no name"))),
            None => Err(Error::image(format!(
                "{text:?} begins with no known transport, such as docker:// or oci:"
            ))),
        }
    }
}

const DOCKER_HUB: &str = "docker.io";

/// Other host names of Docker Hub: the one of its API, which old references contain, and the one of its registry.
const DOCKER_HUB_ALIASES: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];

/// The place of an image, as far as it matters for fetching. A reference with an unknown transport also has a place,
/// because skopeo may know that transport, or reports the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// A registry. Blobs are fetched by digest, and the number of proxies per host is limited.
    Registry { host: &'a str },
    /// A container storage, whose layers are not those of the manifest.
    Storage,
    /// An archive. A compressed archive is unpacked at each opening.
    Archive,
    /// A folder or a daemon on this machine, or an unknown transport.
    Local,
}

impl<'a> Place<'a> {
    pub(crate) fn of(reference: &'a str) -> Self {
        if let Some(name) = reference.strip_prefix("docker://") {
            return Self::Registry {
                host: host_of(name),
            };
        }
        match reference.split_once(':').map(|(transport, _)| transport) {
            Some("containers-storage") => Self::Storage,
            Some("oci-archive" | "docker-archive" | "sif") => Self::Archive,
            _ => Self::Local,
        }
    }

    /// Whether the place is Docker Hub, under any of its names.
    pub(crate) fn is_docker_hub(self) -> bool {
        matches!(self, Self::Registry { host: DOCKER_HUB })
    }
}

/// The host of an image name: the first part, if the part looks like a host (the rule of distribution's reference
/// grammar). A name without a host is at docker.io.
fn host_of(name: &str) -> &str {
    match name.split_once('/') {
        Some((first, _)) if DOCKER_HUB_ALIASES.contains(&first) => DOCKER_HUB,
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => DOCKER_HUB,
    }
}

/// Returns `docker://REPOSITORY@DIGEST` for a reference to an image at a registry. `None` for other transports.
pub(crate) fn by_digest(reference: &str, digest: &Digest) -> Option<String> {
    Some(format!("{}@{digest}", repository(reference)?))
}

/// The digest in `docker://NAME@DIGEST`. `None` for every other reference.
pub(crate) fn digest_of(reference: &str) -> Option<Digest> {
    let (_, digest) = reference.strip_prefix("docker://")?.rsplit_once('@')?;
    digest.parse().ok()
}

/// The part of a reference that names the source of its blobs. An open image gives access to the blobs of every image
/// from the same source. At a registry, this is the repository: any open image of a repository serves any
/// blob of it (in skopeo 1.9 to 1.22). Elsewhere, this is the whole reference.
pub(crate) fn source_of(reference: &str) -> &str {
    repository(reference).unwrap_or(reference)
}

/// Whether the reference is `docker://REPOSITORY`, without a tag and a digest.
pub(crate) fn is_repository(reference: &str) -> bool {
    let name = reference.strip_prefix("docker://");
    name.is_some_and(|name| !name.is_empty()) && repository(reference) == Some(reference)
}

/// The part `docker://REPOSITORY` of a reference to an image at a registry. `None` for other transports.
fn repository(reference: &str) -> Option<&str> {
    let name = reference.strip_prefix("docker://")?;
    let prefix = reference.len() - name.len();
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    // A colon after the last slash starts a tag. A colon before that slash starts a port.
    let path = name.rfind('/').map_or(0, |slash| slash + 1);
    let end = name[path..]
        .find(':')
        .map_or(name.len(), |colon| path + colon);
    Some(&reference[..prefix + end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_parsed_and_written_as_skopeo_accepts_them() {
        let table = [
            ("docker://a.b/c:d", Transport::Registry, "a.b/c:d", None),
            (
                "registry:a.b/c",
                Transport::Registry,
                "a.b/c",
                Some("docker://a.b/c"),
            ),
            (
                "registry://a.b/c",
                Transport::Registry,
                "a.b/c",
                Some("docker://a.b/c"),
            ),
            ("oci:a:b", Transport::OciDir, "a:b", None),
            ("oci-archive:a.tar", Transport::OciArchive, "a.tar", None),
            ("docker-archive:a", Transport::DockerArchive, "a", None),
            (
                "containers-storage:a",
                Transport::ContainerStorage,
                "a",
                None,
            ),
            ("dir:/a", Transport::Dir, "/a", None),
            ("docker-daemon:a:b", Transport::DockerDaemon, "a:b", None),
        ];
        for (text, transport, name, written) in table {
            let parsed: ImageReference = text.parse().expect(text);
            assert_eq!(parsed, ImageReference::new(transport, name), "{text}");
            assert_eq!(String::from(parsed), written.unwrap_or(text));
        }
        for wrong in ["", "a", "a/b", "docker:a", "docker://", "oci:", "unknown:a"] {
            wrong.parse::<ImageReference>().expect_err(wrong);
        }
    }

    #[test]
    fn references_by_digest() {
        let table = [
            ("docker://a.b/c/d:tag", Some("docker://a.b/c/d@other:x")),
            ("docker://a.b:5000/c", Some("docker://a.b:5000/c@other:x")),
            (
                "docker://a.b:5000/c:tag",
                Some("docker://a.b:5000/c@other:x"),
            ),
            ("docker://name:tag", Some("docker://name@other:x")),
            ("docker://a.b/c@other:y", Some("docker://a.b/c@other:x")),
            ("oci:dir:tag", None),
        ];
        for (reference, expected) in table {
            let digest = "other:x".parse().expect("a digest");
            let pinned = by_digest(reference, &digest);
            assert_eq!(pinned.as_deref(), expected, "{reference}");
        }
    }

    #[test]
    fn only_a_docker_reference_by_digest_has_a_digest() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for name in ["docker://a/b", "docker://a:5/b:tag"] {
            let found = digest_of(&format!("{name}@{digest}"));
            assert_eq!(found.expect("a digest").as_ref(), digest);
            assert_eq!(digest_of(name), None);
        }
        assert_eq!(digest_of(&format!("oci:a@{digest}")), None);
        assert_eq!(digest_of("docker://a/b@sha256:../x"), None);
    }

    #[test]
    fn a_repository_has_neither_tag_nor_digest() {
        for (text, expected) in [
            ("docker://a.b/c", true),
            ("docker://a.b:5000/c/d", true),
            ("docker://debian", true),
            ("docker://a.b/c:tag", false),
            ("docker://debian:12", false),
            ("docker://a.b/c@sha256:x", false),
            ("docker://", false),
            ("oci:dir", false),
        ] {
            assert_eq!(is_repository(text), expected, "{text}");
        }
    }

    #[test]
    fn places_of_images() {
        let table = [
            ("docker://quay.io/a/b", Place::Registry { host: "quay.io" }),
            (
                "docker://localhost/a",
                Place::Registry { host: "localhost" },
            ),
            ("docker://debian", Place::Registry { host: DOCKER_HUB }),
            (
                "docker://index.docker.io/a",
                Place::Registry { host: DOCKER_HUB },
            ),
            ("oci-archive:x.tar", Place::Archive),
            ("containers-storage:x", Place::Storage),
            ("oci:x", Place::Local),
            ("unknown:x", Place::Local),
        ];
        for (reference, expected) in table {
            assert_eq!(Place::of(reference), expected, "{reference}");
        }
    }
}
