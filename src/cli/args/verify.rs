//! The arguments of `longshore verify`.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

use super::destination::Destination;
use super::values::duration;
use crate::cli::failure::Failure;

#[derive(Debug, Args)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub(crate) struct VerifyArguments {
    /// The image layout: oci:DIR, or oci:DIR:TAG for one image of it
    #[arg(value_name = "LAYOUT", value_parser = OsStringValueParser::new().try_map(|text| Destination::parse_existing(&text)))]
    pub(crate) layout: Destination,
    /// Also decompress the layers, and compare them with the diff_ids of their image config
    #[cfg(feature = "decompress")]
    #[arg(long)]
    pub(crate) diff_ids: bool,
    /// Also verify blobs that no image names. Pulls that were killed leave such blobs, and later pulls reuse
    /// them
    #[arg(long)]
    pub(crate) all: bool,
    /// Remove damaged blobs, so that the next pull fetches them. Fails if a pull into the layout is running
    #[arg(long)]
    pub(crate) repair: bool,
    /// With --repair: wait this long for the end of a pull that is running
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = duration, requires = "repair")]
    pub(crate) wait: Duration,
    /// The number of threads that read blobs; default: the number of processors
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<NonZeroUsize>,
    /// Print one JSON object
    #[arg(long)]
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
