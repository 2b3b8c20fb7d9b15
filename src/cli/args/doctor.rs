//! The arguments of `longshore doctor`.

use clap::Args;
use longshore::Platform;

use super::proxy::ProxyArguments;
use super::reference::image_reference;
use crate::cli::failure::Failure;

#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    /// An image to open, as for pull: each call is timed. Without it, no network is used
    #[arg(value_parser = image_reference)]
    pub(crate) image: Option<String>,
    /// The platform to choose from a multi-platform index (linux/arm64, linux/arm/v7); default: this
    /// machine's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", requires = "image")]
    pub(crate) platform: Option<Platform>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) proxy: ProxyArguments,
}

impl DoctorArguments {
    /// Returns a failure if options are of no use.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.image.is_none() && self.proxy.source.names_credentials() {
            let reason =
                "credentials are used only when an image is opened: name one, or leave them out";
            return Err(Failure::usage(reason.into()));
        }
        Ok(())
    }

    /// The image to open, if there is one.
    pub(crate) fn images(&self) -> Vec<&str> {
        self.image.as_deref().into_iter().collect()
    }
}
