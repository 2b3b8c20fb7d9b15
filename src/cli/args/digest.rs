//! The arguments of `longshore digest`.

use clap::Args;
use longshore::Platform;

use super::headings::IMAGES;
use super::proxy::ProxyArguments;
use super::reference::image_reference;
use super::values::platform;
use crate::cli::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  longshore digest docker://quay.io/fedora/fedora:latest
  longshore digest --platform linux/arm64 docker://quay.io/fedora/fedora:latest";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DigestArguments {
    /// Image, as for pull: docker://HOST/NAME:TAG
    #[arg(value_parser = image_reference)]
    pub(crate) image: String,
    /// Print the digest of this platform's image
    ///
    /// A platform is OS/ARCH[/VARIANT], such as linux/arm64. Without this option, the digest of
    /// the index is printed, or of the manifest if there is no index.
    #[arg(long, value_name = "PLATFORM", value_parser = platform, help_heading = IMAGES)]
    pub(crate) platform: Option<Platform>,
    #[command(flatten)]
    pub(crate) proxy: ProxyArguments,
}

impl DigestArguments {
    /// Returns a failure if options contradict each other.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.platform.is_none() && self.proxy.demands_policy() {
            let reason = "the signature policy is checked when an image is opened, and digest opens one only \
                          with --platform: give a platform, or leave out --policy and --require-policy";
            return Err(Failure::usage(reason.into()));
        }
        Ok(())
    }
}
