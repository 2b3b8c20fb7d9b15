//! The arguments of `longshore digest`.

use clap::Args;
use longshore::Platform;

use super::proxy::ProxyArguments;
use super::reference::image_reference;
use crate::cli::failure::Failure;

#[derive(Debug, Args)]
pub(crate) struct DigestArguments {
    /// The image, as for pull
    #[arg(value_parser = image_reference)]
    pub(crate) image: String,
    /// Print the digest of this platform's manifest; default: the digest of what the name stands for, which
    /// is that of the index if there is one
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
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
