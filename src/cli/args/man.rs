//! The arguments of `longshore man`.

use std::path::PathBuf;

use clap::Args;

const EXAMPLES: &str = "\
Examples:
  longshore man | man -l -
  longshore man /usr/local/share/man/man1";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ManArguments {
    /// Existing folder to write all pages into
    ///
    /// The pages are longshore.1, and longshore-COMMAND.1 for each command. Without a folder, longshore.1 is printed.
    #[arg(value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
}
