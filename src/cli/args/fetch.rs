//! The options that `longshore blob` and `longshore export` share.

use clap::Args;
use longshore::{FetchOptions, ImageProxyConfig, Platform, RetryPolicy};

use super::headings::{IMAGES, LIMITS};
use super::proxy::ProxyArguments;
use super::values::{count_or_none, platform};
use crate::cli::failure::Failure;

/// The options of a command that fetches from one image.
#[derive(Debug, Args)]
pub(crate) struct FetchArguments {
    /// Platform to choose from an index
    ///
    /// A platform is OS/ARCH[/VARIANT], such as linux/arm64. Default: this machine's.
    #[arg(long, value_name = "PLATFORM", value_parser = platform, help_heading = IMAGES)]
    platform: Option<Platform>,
    #[command(flatten)]
    pub(crate) proxy: ProxyArguments,
    /// Retries of a blob that failed
    ///
    /// 0 = no retries.
    #[arg(long, value_name = "N", default_value_t = RetryPolicy::default().retries, value_parser = count_or_none, help_heading = LIMITS)]
    retries: u32,
}

impl FetchArguments {
    /// Reads the files that are needed, and makes the configuration. Blocks.
    pub(crate) fn config(&self, image: &str, verbose: bool) -> Result<ImageProxyConfig, Failure> {
        self.proxy.check_policy()?;
        let platform = self.platform.as_ref();
        self.proxy.config(&[image], platform, verbose)
    }

    pub(crate) fn options(&self) -> FetchOptions {
        let retry = RetryPolicy::default().retries(self.retries);
        FetchOptions::default().retry(retry)
    }
}
