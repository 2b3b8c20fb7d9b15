//! The platforms by which images are chosen from an index.

use std::fmt;
use std::str::FromStr;

use crate::error::ParseError;

/// A platform (an operating system and an architecture), by which an image is chosen from an index.
///
/// The text form is `OS/ARCH[/VARIANT]`, such as `linux/arm64` or `linux/arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    /// The operating system (`linux`, ...).
    pub os: String,
    /// The architecture (`amd64`, `arm64`, ...).
    pub architecture: String,
    /// The variant of the architecture (`v7`, ...).
    pub variant: Option<String>,
}

impl Platform {
    /// Returns whether `found`, the platform of an image in the form `OS/ARCH[/VARIANT]`, is this platform. A variant
    /// that only one of the two has is ignored.
    #[must_use]
    pub fn is(&self, found: &str) -> bool {
        let mut found = found.split('/');
        let wanted = [
            Some(&self.os),
            Some(&self.architecture),
            self.variant.as_ref(),
        ];
        let mut pairs = wanted.into_iter().map(|wanted| (wanted, found.next()));
        pairs.all(|pair| match pair {
            (Some(wanted), Some(found)) => wanted == found,
            _ => true,
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            os,
            architecture,
            variant,
        } = self;
        write!(f, "{os}/{architecture}")?;
        variant
            .as_ref()
            .map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => {
                return Err(ParseError::new(
                    "a platform is OS/ARCH[/VARIANT], such as linux/arm64",
                ));
            }
        };
        if parts.iter().any(|part| part.is_empty()) {
            return Err(ParseError::new(
                "a platform is OS/ARCH[/VARIANT], without empty parts",
            ));
        }
        Ok(Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_has_two_or_three_parts() {
        for text in ["linux/arm64", "linux/arm/v7"] {
            let platform: Platform = text.parse().expect("a platform");
            assert_eq!(platform.to_string(), text);
        }
        for wrong in [
            "",
            "linux",
            "linux/",
            "/arm64",
            "linux/arm/v7/x",
            "linux//v7",
        ] {
            wrong.parse::<Platform>().expect_err(wrong);
        }
    }

    #[test]
    fn a_variant_that_only_one_has_does_not_matter() {
        let is = |wanted: &str, found: &str| wanted.parse::<Platform>().expect("one").is(found);
        assert!(is("linux/arm64", "linux/arm64/v8") && is("linux/arm/v7", "linux/arm"));
        assert!(!is("linux/arm/v7", "linux/arm/v6") && !is("linux/arm64", "linux/amd64"));
    }
}
