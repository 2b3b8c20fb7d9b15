//! Names of images in parts: the transport, and the name in the form that the transport has.

use std::fmt;
use std::str::FromStr;

use oci_spec::distribution::{ParseError, Reference};

/// The error of a text that names no [`Transport`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportConversionError {
    /// The transport is unknown. The text is what stands where the transport should be.
    #[error("Invalid transport: {0}")]
    InvalidTransport(Box<str>),
    /// `docker:` is not followed by `//`. The text is the whole reference.
    #[error("Missing // in docker:// in {0}")]
    MissingDockerSlashes(Box<str>),
    /// The reference has no colon. No function of this version returns this variant.
    #[error("Missing ':' in imgref")]
    MissingColon,
}

/// The error of a text that is no [`ImageReference`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageReferenceError {
    /// The transport is unknown. The text is what stands before the first colon.
    #[error("Invalid transport: {0}")]
    InvalidTransport(Box<str>),
    /// `docker:` is not followed by `//`. The text is the whole reference.
    #[error("Missing // in docker:// in {0}")]
    MissingDockerSlashes(Box<str>),
    /// The reference has no colon, so it has no transport. The text is the whole reference.
    #[error("Missing ':' in {0}")]
    MissingColon(Box<str>),
    /// Nothing follows the transport. The text is the whole reference.
    #[error("Invalid empty name in {0}")]
    EmptyName(Box<str>),
}

/// A place where skopeo finds images, as the first part of a reference names it (containers-transports(5)).
#[derive(Debug, PartialEq, Eq, Clone, Copy, Hash)]
pub enum Transport {
    /// A registry: `docker://`, or `registry:`.
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
    /// The transport of this name, which has neither a colon nor slashes. `docker` is left to the caller.
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "registry" => Self::Registry,
            "oci" => Self::OciDir,
            "oci-archive" => Self::OciArchive,
            "docker-archive" => Self::DockerArchive,
            "containers-storage" => Self::ContainerStorage,
            "dir" => Self::Dir,
            "docker-daemon" => Self::DockerDaemon,
            _ => return None,
        })
    }
}

impl fmt::Display for Transport {
    /// Writes the text that stands before the name. A registry is written as `docker://`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        longshore::Transport::from(*self).fmt(f)
    }
}

impl TryFrom<&str> for Transport {
    type Error = TransportConversionError;

    /// Returns the transport of a reference, or of a transport's name alone (`oci`, `oci:`, `oci:FOLDER`). The rest of
    /// the reference is not looked at.
    fn try_from(reference: &str) -> Result<Self, Self::Error> {
        let end = reference.find(':').unwrap_or(reference.len());
        let (name, rest) = reference.split_at(end);
        match (name, Self::named(name)) {
            (_, Some(transport)) => Ok(transport),
            ("docker", _) if rest.starts_with("://") => Ok(Self::Registry),
            ("docker", _) => Err(Self::Error::MissingDockerSlashes(reference.into())),
            (unknown, _) => Err(Self::Error::InvalidTransport(unknown.into())),
        }
    }
}

impl From<Transport> for longshore::Transport {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Registry => Self::Registry,
            Transport::OciDir => Self::OciDir,
            Transport::OciArchive => Self::OciArchive,
            Transport::DockerArchive => Self::DockerArchive,
            Transport::ContainerStorage => Self::ContainerStorage,
            Transport::Dir => Self::Dir,
            Transport::DockerDaemon => Self::DockerDaemon,
        }
    }
}

/// A reference to an image in two parts: its transport and its name.
///
/// | transport | form of the name | example |
/// | --- | --- | --- |
/// | `Registry` | `HOST/REPOSITORY[:TAG]` or `HOST/REPOSITORY@DIGEST` | `quay.io/fedora/fedora:latest` |
/// | `OciDir` | `FOLDER[:TAG]` | `images/fedora:latest` |
/// | `OciArchive` | `FILE[:TAG]` | `fedora.tar:latest` |
/// | `DockerArchive` | `FILE[:REFERENCE]` | `fedora.tar:fedora:latest` |
/// | `ContainerStorage` | `[[STORE]]REFERENCE`, or an image's id | `localhost/fedora:latest` |
/// | `Dir` | `FOLDER` | `images/fedora` |
/// | `DockerDaemon` | `REFERENCE`, or an image's digest | `fedora:latest` |
///
/// ```
/// use containers_image_proxy::{ImageReference, Transport};
///
/// let image: ImageReference = "docker://quay.io/fedora/fedora:latest".parse()?;
/// assert_eq!(image.transport, Transport::Registry);
/// assert_eq!(image.name, "quay.io/fedora/fedora:latest");
/// # Ok::<(), containers_image_proxy::ImageReferenceError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageReference {
    /// The transport.
    pub transport: Transport,
    /// The name, in the form that the transport has.
    pub name: String,
}

impl ImageReference {
    /// Returns the reference of this transport and name. The name is not checked.
    pub fn new(transport: Transport, name: impl Into<String>) -> Self {
        let name = name.into();
        Self { transport, name }
    }

    /// Returns the reference of an image at a registry. When oci-spec parses a text with neither a tag nor a digest, it
    /// adds the tag `latest`. The name then has this tag, too.
    #[expect(clippy::needless_pass_by_value, reason = "the interface has it")]
    #[must_use]
    pub fn new_registry(reference: Reference) -> Self {
        Self::new(Transport::Registry, reference.whole())
    }

    /// Parses the name of an image at a registry, without a transport.
    ///
    /// # Errors
    ///
    /// The error of oci-spec if the name does not follow the grammar of references.
    pub fn try_new_registry(name: &str) -> Result<Self, ParseError> {
        name.parse().map(Self::new_registry)
    }

    /// Parses the name into registry, repository, tag and digest. `None` if the transport is not a registry.
    #[must_use]
    pub fn as_registry(&self) -> Option<Result<Reference, ParseError>> {
        (self.transport == Transport::Registry).then(|| self.name.parse())
    }

    /// Splits the name into the store and the image. `None` if the transport is not `containers-storage:`.
    #[must_use]
    pub fn as_containers_storage(&self) -> Option<ContainersStorageRef<'_>> {
        (self.transport == Transport::ContainerStorage)
            .then(|| ContainersStorageRef::new(&self.name))
    }
}

/// Parses `TRANSPORT:NAME`, as `FromStr` does.
impl TryFrom<&str> for ImageReference {
    type Error = ImageReferenceError;

    fn try_from(reference: &str) -> Result<Self, Self::Error> {
        let Some((before, name)) = reference.split_once(':') else {
            return Err(Self::Error::MissingColon(reference.into()));
        };
        let (transport, name) = match (before, Transport::named(before)) {
            (_, Some(transport)) => (transport, name),
            ("docker", _) => match name.strip_prefix("//") {
                Some(name) => (Transport::Registry, name),
                None => return Err(Self::Error::MissingDockerSlashes(reference.into())),
            },
            (unknown, _) => return Err(Self::Error::InvalidTransport(unknown.into())),
        };
        if name.is_empty() {
            return Err(Self::Error::EmptyName(reference.into()));
        }
        Ok(Self::new(transport, name))
    }
}

impl FromStr for ImageReference {
    type Err = ImageReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::try_from(text)
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.transport, self.name)
    }
}

/// Makes the reference of longshore's own interface, for programs that move to that.
impl From<ImageReference> for longshore::ImageReference {
    fn from(reference: ImageReference) -> Self {
        Self::new(reference.transport.into(), reference.name)
    }
}

/// The name of an image in `containers-storage:` in two parts, `[STORE]IMAGE`. The store can be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainersStorageRef<'a> {
    store: Option<&'a str>,
    image: &'a str,
}

impl<'a> ContainersStorageRef<'a> {
    fn new(name: &'a str) -> Self {
        let split = name.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        match split {
            Some((store, image)) => Self {
                store: Some(store),
                image,
            },
            None => Self {
                store: None,
                image: name,
            },
        }
    }

    /// The store between the brackets, such as `overlay@/var/lib/containers/storage`. `None` if the name
    /// has no brackets.
    #[must_use]
    pub fn store_spec(&self) -> Option<&'a str> {
        self.store
    }

    /// The image: the name without the store.
    #[must_use]
    pub fn image(&self) -> &'a str {
        self.image
    }

    /// The image in the form that skopeo accepts: an id without `sha256:` in front. With `sha256:`, skopeo reads the id
    /// as a name (skopeo issue 2750).
    #[must_use]
    pub fn image_for_skopeo(&self) -> &'a str {
        self.image.strip_prefix("sha256:").unwrap_or(self.image)
    }

    /// Puts the parts together again. With `normalize`, the image is that of
    /// [`image_for_skopeo`](Self::image_for_skopeo).
    #[must_use]
    pub fn to_image_reference(&self, normalize: bool) -> ImageReference {
        let image = if normalize {
            self.image_for_skopeo()
        } else {
            self.image
        };
        let name = match self.store {
            Some(store) => format!("[{store}]{image}"),
            None => image.to_owned(),
        };
        ImageReference::new(Transport::ContainerStorage, name)
    }
}
