//! The arguments of `longshore blob`.

use std::path::{Path, PathBuf};

use clap::Args;
use longshore::oci_spec::image::Digest;
use longshore::{FetchOptions, Platform, RetryPolicy};

use super::proxy::ProxyArguments;
use super::reference::image_reference;

#[derive(Debug, Args)]
pub(crate) struct BlobArguments {
    /// The image, as for pull. At a registry, any image of the repository will do
    #[arg(value_parser = image_reference)]
    pub(crate) image: String,
    /// The digest of the blob: a layer, the config, or another blob of the repository
    #[arg(value_parser = digest)]
    pub(crate) digest: Digest,
    /// Write the blob into this file, which gets its name only when size and digest are right; - is stdout.
    /// Default: stdout. If the check fails, stdout has received bytes by then, and the exit code is 1
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The platform of the image to open, if the name stands for a multi-platform index; default: this machine's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<Platform>,
    /// How often to retry if the blob failed; 0 = never
    #[arg(long, value_name = "N", default_value_t = RetryPolicy::default().retries)]
    retries: u32,
    #[command(flatten)]
    pub(crate) proxy: ProxyArguments,
}

/// Where a blob goes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Output<'a> {
    /// Stdout, also if that is a terminal.
    Stdout,
    /// Stdout, unless that is a terminal.
    UnlessTerminal,
    File(&'a Path),
}

impl BlobArguments {
    pub(crate) fn output(&self) -> Output<'_> {
        match &self.output {
            None => Output::UnlessTerminal,
            Some(path) if path == Path::new("-") => Output::Stdout,
            Some(path) => Output::File(path),
        }
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
