//! The command line.

#![allow(
    clippy::doc_markdown,
    reason = "doc comments here are help texts for a terminal"
)]

mod blob;
mod completions;
mod destination;
mod digest;
mod doctor;
mod environment;
#[cfg(feature = "decompress")]
mod export;
mod fetch;
mod headings;
mod inspect;
mod list_tags;
mod local;
mod man;
mod mistakes;
mod options;
mod order;
mod other_tools;
mod output;
mod proxy;
mod prune;
mod pull;
mod reference;
mod similar;
mod tips;
mod values;
mod verify;

use std::ffi::OsString;
use std::io::{self, Write};

use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory, Parser, Subcommand};

pub(super) use self::blob::BlobArguments;
pub(super) use self::completions::CompletionsArguments;
pub(super) use self::destination::{Destination, Form};
pub(super) use self::digest::DigestArguments;
pub(super) use self::doctor::DoctorArguments;
pub(super) use self::environment::HELP as ENVIRONMENT;
#[cfg(feature = "decompress")]
pub(super) use self::export::ExportArguments;
pub(super) use self::inspect::{InspectArguments, InspectOutput};
pub(super) use self::list_tags::ListTagsArguments;
pub(super) use self::man::ManArguments;
pub(super) use self::output::Output;
pub(super) use self::prune::PruneArguments;
pub(super) use self::pull::PullArguments;
pub(super) use self::reference::{image_reference, repository_of};
pub(super) use self::values::platforms;
pub(super) use self::verify::VerifyArguments;

const EXAMPLES: &str = "\
Examples:
  longshore inspect docker://quay.io/fedora/fedora:latest
  longshore pull docker://quay.io/fedora/fedora:latest oci:fedora:latest

`longshore COMMAND --help` says all about a command.";

/// What `--help` says about the exit codes.
pub(super) const EXIT_CODES: &str = "  0              success
  1              a failure
  2              wrong usage
  129, 130, 143  ended by SIGHUP (closed terminal), Ctrl-C, or SIGTERM";

/// Fetch container images through skopeo.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
#[command(after_help = EXAMPLES, after_long_help = long_help())]
pub(super) struct Arguments {
    /// Show more: each layer and debug messages
    ///
    /// Given twice, this option also shows what skopeo logs, with the number of the proxy before each line. The picture
    /// of the progress is then not shown. If the variable RUST_LOG is set, as in RUST_LOG=longshore=debug, that
    /// variable selects the log messages.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(super) verbose: u8,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What `--help` says after the options.
fn long_help() -> String {
    format!("{EXAMPLES}\n\nEnvironment:\n{ENVIRONMENT}\n\nExit codes:\n{EXIT_CODES}")
}

/// Prints an error, or the help, and exits. An error quotes arguments, so passwords in their URLs are removed.
fn exit(error: &clap::Error) -> ! {
    let text = error.render().to_string();
    let cleaned: Vec<String> = text.lines().map(longshore::printable).collect();
    if !error.use_stderr() || cleaned.iter().map(String::as_str).eq(text.lines()) {
        error.exit();
    }
    // The reader of stderr may have gone, which is no reason for another exit code.
    let _ = writeln!(io::stderr(), "{}", cleaned.join("\n"));
    std::process::exit(error.exit_code())
}

impl Arguments {
    /// Parses the command line. For wrong usage it exits with 2, and for `--help` with 0.
    pub(super) fn of_process() -> Self {
        let words: Vec<OsString> = std::env::args_os().collect();
        if let Some(message) = mistakes::find(&words, &mut Self::command()) {
            exit(&clap::Error::raw(
                ErrorKind::ValueValidation,
                message + "\n",
            ));
        }
        let ordered = order::options_first(words.clone(), &mut Self::command());
        let parsed = Self::try_parse_from(ordered);
        let mut arguments = parsed.unwrap_or_else(|error| exit(&tips::with_tips(error, &words)));
        let applied = environment::apply(&mut arguments.command, |name| std::env::var_os(name));
        if let Err(reason) = applied {
            let wrong = Self::command().error(ErrorKind::ValueValidation, reason);
            exit(&wrong);
        }
        arguments
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Pull images into a layout, an archive or a folder
    #[command(allow_missing_positional = true)]
    Pull(PullArguments),
    /// Show the contents of an image
    Inspect(InspectArguments),
    /// Print the digest of an image or an index
    Digest(DigestArguments),
    /// Fetch and verify one blob
    Blob(BlobArguments),
    /// Write the files of an image as one tar archive
    #[cfg(feature = "decompress")]
    Export(ExportArguments),
    /// Compare the blobs of an OCI image layout with their digests
    Verify(VerifyArguments),
    /// Remove the blobs of an OCI image layout that no image names
    Prune(PruneArguments),
    /// List the tags of a repository
    ListTags(ListTagsArguments),
    /// Say whether pulls can work here, and what is missing
    Doctor(DoctorArguments),
    /// Print a completion script for a shell
    Completions(CompletionsArguments),
    /// Print the manual, or write all its pages
    Man(ManArguments),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    /// The help of the command and of each of its commands, 80 columns wide: the short one and the long one.
    fn helps() -> Vec<(String, String, String)> {
        let mut command = Arguments::command().term_width(80);
        command.build();
        let names: Vec<String> = command
            .get_subcommands()
            .map(|command| command.get_name().to_owned())
            .collect();
        let commands = names.into_iter().map(|name| {
            let found = command.find_subcommand(&name).expect("a command");
            (name, found.clone())
        });
        let all = commands.chain([("longshore".to_owned(), command.clone())]);
        all.map(|(name, mut command)| {
            let short = command.render_help().to_string();
            (name, short, command.render_long_help().to_string())
        })
        .collect()
    }

    #[test]
    fn the_help_fits_80_columns() {
        for (name, short, long) in helps() {
            for line in short.lines().chain(long.lines()) {
                assert!(line.chars().count() <= 80, "{name}: {line}");
            }
        }
    }

    #[test]
    fn the_help_of_the_command_names_variables_and_exit_codes() {
        let help = Arguments::command().render_long_help().to_string();
        for start in ["LONGSHORE_SKOPEO ", "LONGSHORE_AUTHFILE ", "0  ", "129, "] {
            let line = format!("\n  {start}");
            assert!(help.contains(&line), "{start}: {help}");
        }
    }

    #[test]
    fn the_short_help_has_one_line_for_each_option() {
        for (name, short, _) in helps() {
            for line in short.lines().filter(|line| line.starts_with("      --")) {
                let described = line.trim().contains("  ");
                assert!(described, "{name}: no text beside {line}");
            }
        }
    }

    #[test]
    fn the_examples_of_the_help_are_right() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let mut count = 0;
        for (_, short, _) in helps() {
            let lines = short.lines();
            for line in lines.filter(|line| line.starts_with("  longshore ")) {
                let line = line.replace("DIGEST", &digest);
                let words = line.split_whitespace();
                let words = words.take_while(|word| !["|", ">"].contains(word));
                let parsed = Arguments::try_parse_from(words);
                parsed.unwrap_or_else(|error| panic!("{line}: {error}"));
                count += 1;
            }
        }
        assert!(count > 10, "{count}");
    }
}
