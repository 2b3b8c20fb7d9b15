//! The arguments of `longshore blob`.

use std::path::{Path, PathBuf};

use clap::Args;
use longshore::oci_spec::image::Digest;
use longshore::{FetchOptions, Platform, RetryPolicy};

use super::destination::folder_of;
use super::headings::{IMAGES, LIMITS, OUTPUT};
use super::proxy::ProxyArguments;
use super::reference::image_reference;

const EXAMPLES: &str = "\
Example, with a digest that longshore inspect --json shows:
  longshore blob -o layer.tar.gz docker://quay.io/fedora/fedora:latest DIGEST";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BlobArguments {
    /// Image that contains the blob, such as docker://HOST/NAME:TAG
    ///
    /// At a registry, any image of the repository will do.
    #[arg(value_parser = image_reference)]
    pub(crate) image: String,
    /// Digest of a layer, a config or another blob
    ///
    /// longshore inspect --json shows the digests of an image.
    #[arg(value_parser = digest)]
    pub(crate) digest: Digest,
    /// File to write; - (the default) is stdout
    ///
    /// The file gets its name only when size and digest are right. Stdout receives bytes before they are checked; the
    /// exit code is 1 if they are wrong. A terminal receives a blob only if "-" is given.
    #[arg(short, long, value_name = "FILE", help_heading = OUTPUT)]
    output: Option<PathBuf>,
    /// Platform to choose from an index
    ///
    /// A platform is OS/ARCH[/VARIANT], such as linux/arm64. Default: this machine's.
    #[arg(long, value_name = "PLATFORM", help_heading = IMAGES)]
    pub(crate) platform: Option<Platform>,
    #[command(flatten)]
    pub(crate) proxy: ProxyArguments,
    /// Retries if the blob failed
    ///
    /// 0 = no retries.
    #[arg(long, value_name = "N", default_value_t = RetryPolicy::default().retries, help_heading = LIMITS)]
    retries: u32,
}

/// Where a blob or an archive goes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Output<'a> {
    /// Stdout, also if that is a terminal.
    Stdout,
    /// Stdout, unless that is a terminal.
    UnlessTerminal,
    File(&'a Path),
}

impl<'a> Output<'a> {
    /// Where the output goes if this file is named; `-` is stdout.
    pub(super) fn of(path: Option<&'a Path>) -> Self {
        match path {
            None => Self::UnlessTerminal,
            Some(path) if path == Path::new("-") => Self::Stdout,
            Some(path) => Self::File(path),
        }
    }

    /// The folder of the file to write. `None` for stdout.
    pub(crate) fn folder(self) -> Option<PathBuf> {
        match self {
            Self::File(path) => Some(folder_of(path)),
            Self::Stdout | Self::UnlessTerminal => None,
        }
    }
}

impl BlobArguments {
    pub(crate) fn output(&self) -> Output<'_> {
        Output::of(self.output.as_deref())
    }

    pub(crate) fn options(&self) -> FetchOptions {
        let retry = RetryPolicy::default().retries(self.retries);
        FetchOptions::default().retry(retry)
    }
}

fn digest(text: &str) -> Result<Digest, String> {
    text.parse().map_err(|error| {
        format!(
            "{error}; a digest is sha256:HEX, and longshore inspect --json shows those of an image"
        )
    })
}
