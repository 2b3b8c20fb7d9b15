//! The arguments of `longshore inspect`.

use clap::Args;
use longshore::{Platform, Platforms};

use super::headings::{IMAGES, OUTPUT};
use super::proxy::ProxyArguments;
use super::reference::image_reference;
use super::values::platforms;
use crate::cli::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  longshore inspect docker://quay.io/fedora/fedora:latest
  longshore inspect --platform all docker://quay.io/fedora/fedora:latest
  longshore inspect --config oci:fedora:latest";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub(crate) struct InspectArguments {
    /// Image, as for pull: docker://HOST/NAME:TAG
    #[arg(value_parser = image_reference)]
    pub(crate) image: String,
    /// Platform to choose from an index, or all
    ///
    /// A platform is OS/ARCH[/VARIANT], such as linux/arm64 or linux/arm/v7. Default: this machine's. "all" lists the
    /// platforms of the index, with the digests and sizes of their manifests.
    #[arg(long, value_name = "PLATFORM", value_parser = platforms, help_heading = IMAGES)]
    pub(crate) platform: Option<Platforms>,
    /// Print one JSON object, with full digests
    #[arg(long, group = "form", help_heading = OUTPUT)]
    pub(crate) json: bool,
    /// Print the index, or else the manifest
    ///
    /// The document that the name refers to is printed byte for byte, as its source has it.
    #[arg(long, group = "form", conflicts_with = "platform", help_heading = OUTPUT)]
    raw: bool,
    /// Print the manifest of the chosen platform
    ///
    /// The manifest is printed byte for byte, as its source has it.
    #[arg(long, group = "form", help_heading = OUTPUT)]
    manifest: bool,
    /// Print the image config of the chosen platform
    ///
    /// The config is printed byte for byte, as its source has it.
    #[arg(long, group = "form", help_heading = OUTPUT)]
    config: bool,
    #[command(flatten)]
    pub(crate) proxy: ProxyArguments,
}

/// The output of `inspect`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InspectOutput {
    /// An overview of the image.
    Image,
    /// The platforms of an index.
    Platforms,
    /// The bytes of what the reference names.
    Raw,
    /// The bytes of the image's manifest.
    Manifest,
    /// The bytes of the image's config.
    Config,
}

impl InspectArguments {
    /// The platform that was chosen, if it is a single one.
    pub(crate) fn one_platform(&self) -> Option<&Platform> {
        match &self.platform {
            Some(Platforms::One(platform)) => Some(platform),
            _ => None,
        }
    }

    pub(crate) fn output(&self) -> InspectOutput {
        match self {
            Self { raw: true, .. } => InspectOutput::Raw,
            Self { manifest: true, .. } => InspectOutput::Manifest,
            Self { config: true, .. } => InspectOutput::Config,
            Self {
                platform: Some(Platforms::All),
                ..
            } => InspectOutput::Platforms,
            _ => InspectOutput::Image,
        }
    }

    /// Returns a failure if options contradict each other in a way that the parser does not see.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let output = self.output();
        let reason = match output {
            InspectOutput::Manifest | InspectOutput::Config
                if self.platform == Some(Platforms::All) =>
            {
                "--manifest and --config show one image: choose a platform, or use --raw for the index"
            }
            InspectOutput::Raw | InspectOutput::Platforms if self.proxy.demands_policy() => {
                "the signature policy is checked when an image is opened; neither --raw nor --platform all opens an \
                 image: leave out --policy and --require-policy"
            }
            _ => return Ok(()),
        };
        Err(Failure::usage(reason.into()))
    }
}
