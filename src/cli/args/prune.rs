//! The arguments of `longshore prune`.

use std::time::Duration;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

use super::destination::Destination;
use super::values::duration;
use crate::cli::failure::Failure;

#[derive(Debug, Args)]
pub(crate) struct PruneArguments {
    /// The image layout: oci:DIR. No other tool than longshore may write into it meanwhile
    #[arg(value_name = "LAYOUT", value_parser = OsStringValueParser::new().try_map(|text| Destination::parse_existing(&text)))]
    pub(crate) layout: Destination,
    /// Only print what would be removed. What running pulls have stored is printed, too
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Wait this long for the end of a pull that is running; without it, fail at once
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = duration)]
    pub(crate) wait: Duration,
    /// Print one JSON object
    #[arg(long)]
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
