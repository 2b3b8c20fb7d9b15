//! The arguments of `longshore completions`.

use clap::Args;
use clap_complete::Shell;

const EXAMPLES: &str = "\
Examples:
  longshore completions bash > /etc/bash_completion.d/longshore
  longshore completions fish > ~/.config/fish/completions/longshore.fish";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompletionsArguments {
    /// Shell for which to print the script
    pub(crate) shell: Shell,
}
