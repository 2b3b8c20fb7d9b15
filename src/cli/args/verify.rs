//! The arguments of `longshore verify`.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

use super::destination::Destination;
use super::headings::{OUTPUT, SPEED};
use super::values::{count, duration};
use crate::cli::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  longshore verify oci:fedora
  longshore verify --repair --wait 10m oci:fedora";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub(crate) struct VerifyArguments {
    /// OCI image layout: oci:DIR, or oci:DIR:TAG for one image
    #[arg(value_name = "LAYOUT", value_parser = OsStringValueParser::new().try_map(|text| Destination::parse_existing(&text)))]
    pub(crate) layout: Destination,
    /// Also compare decompressed layers with their diff_ids
    ///
    /// The diff_ids, which are digests of decompressed layers, are in the image config.
    #[cfg(feature = "decompress")]
    #[arg(long)]
    pub(crate) diff_ids: bool,
    /// Also verify blobs that no image names
    ///
    /// Pulls that were killed leave such blobs, and later pulls reuse them.
    #[arg(long)]
    pub(crate) all: bool,
    /// Remove damaged blobs; the next pull fetches them
    ///
    /// If something is damaged and a pull into the layout is running, the command fails, or waits as long
    /// as --wait says.
    #[arg(long)]
    pub(crate) repair: bool,
    /// With --repair: time to wait for a running pull
    ///
    /// Examples: 90 or 90s (seconds), 2m, 1h, 500ms.
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = duration, requires = "repair")]
    pub(crate) wait: Duration,
    /// Threads that read; default: one for each processor
    ///
    /// There are at most 64 threads.
    #[arg(long, value_name = "N", value_parser = count, help_heading = SPEED)]
    pub(crate) workers: Option<NonZeroUsize>,
    /// Print one JSON object
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) json: bool,
}

impl VerifyArguments {
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.all && self.layout.tag.is_some() {
            let reason = "--all is for a whole layout; give oci:DIR without a TAG";
            return Err(Failure::usage(reason.into()));
        }
        Ok(())
    }
}
