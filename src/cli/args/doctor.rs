//! The arguments of `longshore doctor`.

use clap::Args;
use longshore::Platform;

use super::headings::{IMAGES, OUTPUT};
use super::proxy::ProxyArguments;
use super::reference::image_reference;
use super::values::platform;
use crate::cli::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  longshore doctor
  longshore doctor docker://quay.io/fedora/fedora:latest";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DoctorArguments {
    /// Image to open, such as docker://HOST/NAME:TAG
    ///
    /// The image is opened, and each call to skopeo is timed. Without an image, no registry is asked.
    #[arg(value_parser = image_reference)]
    pub(crate) image: Option<String>,
    /// Platform to choose from an index
    ///
    /// A platform is OS/ARCH[/VARIANT], such as linux/arm64. Default: this machine's.
    #[arg(long, value_name = "PLATFORM", value_parser = platform, requires = "image", help_heading = IMAGES)]
    pub(crate) platform: Option<Platform>,
    /// Print one JSON object
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) proxy: ProxyArguments,
}

impl DoctorArguments {
    /// Returns a failure if there are credentials and no image.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.image.is_none() && self.proxy.source.names_credentials() {
            let reason =
                "credentials are used only to open an image: name an image, or leave them out";
            return Err(Failure::usage(reason.into()));
        }
        Ok(())
    }

    /// The image to open, if there is one.
    pub(crate) fn images(&self) -> Vec<&str> {
        self.image.as_deref().into_iter().collect()
    }
}
