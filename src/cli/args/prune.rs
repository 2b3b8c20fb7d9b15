//! The arguments of `longshore prune`.

use std::time::Duration;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

use super::destination::Destination;
use super::headings::{LIMITS, OUTPUT};
use super::values::duration;
use crate::cli::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  longshore prune --dry-run oci:mirror
  longshore prune --wait 10m oci:mirror";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PruneArguments {
    /// OCI image layout: oci:DIR
    ///
    /// No tool other than longshore may write into the layout at the same time.
    #[arg(value_name = "LAYOUT", value_parser = OsStringValueParser::new().try_map(|text| Destination::parse_existing(&text)))]
    pub(crate) layout: Destination,
    /// Only print what would be removed
    ///
    /// The list also contains blobs that a running pull has stored, because no image names them yet. It does not
    /// contain the incomplete files of killed pulls.
    #[arg(long, conflicts_with = "wait", help_heading = OUTPUT)]
    pub(crate) dry_run: bool,
    /// Time to wait for running pulls
    ///
    /// Examples: 90 or 90s (seconds), 2m, 1h, 500ms. Without this option, the command fails if a pull is running.
    #[arg(long, help_heading = LIMITS, value_name = "DURATION", default_value = "0", value_parser = duration)]
    pub(crate) wait: Duration,
    /// Print one JSON object
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) json: bool,
}

impl PruneArguments {
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.layout.tag.is_some() {
            let reason = "a layout is pruned as a whole; give oci:DIR without a TAG";
            return Err(Failure::usage(reason.into()));
        }
        Ok(())
    }
}
