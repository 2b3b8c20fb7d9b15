//! The arguments of `longshore inspect`.

use clap::Args;
use longshore::Platform;

use super::proxy::ProxyArguments;
use super::reference::image_reference;

#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// The image, as for pull
    #[arg(value_parser = image_reference)]
    pub(crate) image: String,
    /// The platform to choose from a multi-platform index (linux/arm64, linux/arm/v7); default: this
    /// machine's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<Platform>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) proxy: ProxyArguments,
}
