//! The requests: which images are pulled.

use std::str::FromStr;

use crate::config::Platform;
use crate::error::ParseError;
use crate::reference::ImageReference;

/// The selection of images of an index.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Platforms {
    /// The image for the platform that the [`ImageProxyConfig`](crate::ImageProxyConfig) names, or else
    /// for this machine.
    #[default]
    Configured,
    /// The image for this platform.
    One(Platform),
    /// All images, and the index itself.
    All,
}

/// Parses `all`, or a [`Platform`].
impl FromStr for Platforms {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Self::All),
            _ => text.parse().map(Self::One),
        }
    }
}

/// A request to [`Fetcher::pull_many`](crate::Fetcher::pull_many): an image, or an index with all its images, and its
/// name in the sink.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ImageRequest {
    /// The reference of the image, with its transport: `docker://quay.io/fedora/fedora:latest`.
    pub reference: String,
    /// Which images are pulled if the reference names an index.
    pub platforms: Platforms,
    /// The name of the image or index in the sink, if the sink names images ([`OciLayout`](crate::OciLayout) does).
    /// With `None`, the sink chooses the name.
    pub name: Option<String>,
}

impl ImageRequest {
    /// Makes a request for the image of this reference, for the configured platform.
    pub fn new(reference: impl Into<String>) -> Self {
        Self {
            reference: reference.into(),
            platforms: Platforms::Configured,
            name: None,
        }
    }

    /// Sets [`platforms`](Self#structfield.platforms).
    #[must_use]
    pub fn platforms(mut self, platforms: Platforms) -> Self {
        self.platforms = platforms;
        self
    }

    /// Sets [`name`](Self#structfield.name).
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

impl From<&str> for ImageRequest {
    fn from(reference: &str) -> Self {
        Self::new(reference)
    }
}

impl From<String> for ImageRequest {
    fn from(reference: String) -> Self {
        Self::new(reference)
    }
}

impl From<&String> for ImageRequest {
    fn from(reference: &String) -> Self {
        Self::new(reference)
    }
}

impl From<ImageReference> for ImageRequest {
    fn from(reference: ImageReference) -> Self {
        Self::new(reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_all_or_one() {
        assert_eq!("all".parse(), Ok(Platforms::All));
        let one = Platform {
            os: "linux".into(),
            architecture: "arm64".into(),
            variant: None,
        };
        assert_eq!("linux/arm64".parse(), Ok(Platforms::One(one)));
        "linux".parse::<Platforms>().expect_err("no platform");
    }
}
