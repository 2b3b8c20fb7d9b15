//! Which images are pulled.

use std::str::FromStr;

use crate::config::Platform;

/// Which images of an index are pulled.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Platforms {
    /// That of the platform that the [`ImageProxyConfig`](crate::ImageProxyConfig) names, or else of this
    /// machine's.
    #[default]
    Configured,
    /// That of this platform.
    One(Platform),
    /// All, and the index.
    All,
}

/// `all`, or a [`Platform`].
impl FromStr for Platforms {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Self::All),
            _ => text.parse().map(Self::One),
        }
    }
}

/// One of the images that [`Fetcher::pull_many`](crate::Fetcher::pull_many) pulls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ImageRequest {
    /// The image's name, with its transport: `docker://quay.io/fedora/fedora:latest`.
    pub reference: String,
    /// Which images, if the name is that of an index.
    pub platforms: Platforms,
    /// What the image is called in the sink, if sinks of that kind name images
    /// ([`OciLayout`](crate::OciLayout)); otherwise, the sink decides.
    pub name: Option<String>,
}

impl ImageRequest {
    /// The image of this name, of the platform that is configured.
    pub fn new(reference: impl Into<String>) -> Self {
        Self {
            reference: reference.into(),
            platforms: Platforms::Configured,
            name: None,
        }
    }

    /// Set [`platforms`](Self::platforms).
    #[must_use]
    pub fn platforms(mut self, platforms: Platforms) -> Self {
        self.platforms = platforms;
        self
    }

    /// Set [`name`](Self::name).
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

impl<S: Into<String>> From<S> for ImageRequest {
    fn from(reference: S) -> Self {
        Self::new(reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_platforms_or_one() {
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
