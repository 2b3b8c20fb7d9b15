//! The arguments of `longshore export`.

use std::path::PathBuf;

use clap::Args;
use longshore::{FetchOptions, Platform, RetryPolicy};

use super::blob::Output;
use super::headings::{IMAGES, LIMITS};
use super::proxy::ProxyArguments;
use super::reference::image_reference;

const EXAMPLES: &str = "\
Examples:
  longshore export docker://quay.io/fedora/fedora:latest fedora.tar
  longshore export oci:mirror:fedora | tar -tv";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExportArguments {
    /// Image, as for pull: docker://HOST/NAME:TAG or oci:DIR:TAG
    #[arg(value_parser = image_reference)]
    pub(crate) image: String,
    /// Archive to write; - (the default) is stdout
    ///
    /// Nothing is written before all layers are there and right. The file gets its name when it is complete. A terminal
    /// receives an archive only if "-" is given.
    ///
    /// Until then, the decompressed layers are in temporary files: in the folder of FILE, or in the folder that the
    /// variable TMPDIR names (/tmp without it) if the archive goes to stdout.
    #[arg(value_name = "FILE")]
    output: Option<PathBuf>,
    /// Platform to choose from an index
    ///
    /// A platform is OS/ARCH[/VARIANT], such as linux/arm64. Default: this machine's.
    #[arg(long, value_name = "PLATFORM", help_heading = IMAGES)]
    pub(crate) platform: Option<Platform>,
    #[command(flatten)]
    pub(crate) proxy: ProxyArguments,
    /// Retries of a layer that failed
    ///
    /// 0 = no retries.
    #[arg(long, value_name = "N", default_value_t = RetryPolicy::default().retries, help_heading = LIMITS)]
    retries: u32,
}

impl ExportArguments {
    pub(crate) fn output(&self) -> Output<'_> {
        Output::of(self.output.as_deref())
    }

    pub(crate) fn options(&self) -> FetchOptions {
        let retry = RetryPolicy::default().retries(self.retries);
        FetchOptions::default().retry(retry)
    }
}
