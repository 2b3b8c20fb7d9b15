//! The command line.

#![allow(
    clippy::doc_markdown,
    reason = "doc comments here are help texts for a terminal"
)]

mod blob;
mod destination;
mod digest;
mod doctor;
mod inspect;
mod list_tags;
mod other_tools;
mod proxy;
mod prune;
mod pull;
mod reference;
mod values;
mod verify;

use clap::{ArgAction, Parser, Subcommand};

pub(super) use self::blob::{BlobArguments, Output};
pub(super) use self::destination::Destination;
pub(super) use self::digest::DigestArguments;
pub(super) use self::doctor::DoctorArguments;
pub(super) use self::inspect::{InspectArguments, Shown};
pub(super) use self::list_tags::ListTagsArguments;
pub(super) use self::prune::PruneArguments;
pub(super) use self::pull::PullArguments;
pub(super) use self::reference::image_reference;
pub(super) use self::verify::VerifyArguments;

/// Fetch container images through skopeo.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub(super) struct Arguments {
    /// Show each layer, and debug messages (RUST_LOG selects in detail); twice: also what skopeo logs
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(super) verbose: u8,
    #[command(subcommand)]
    pub(super) command: Command,
}

impl Arguments {
    /// Parses the command line. For wrong usage it exits with 2, and for `--help` with 0.
    pub(super) fn of_process() -> Self {
        Self::try_parse().unwrap_or_else(|error| other_tools::with_advice(error).exit())
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Pull images into an OCI image layout
    #[command(allow_missing_positional = true)]
    Pull(PullArguments),
    /// Show the contents of an image
    Inspect(InspectArguments),
    /// Print the digest of an image or an index
    Digest(DigestArguments),
    /// Fetch one blob, verified
    Blob(BlobArguments),
    /// Compare the blobs of an OCI image layout with their digests
    Verify(VerifyArguments),
    /// Remove the blobs of an OCI image layout that no image names
    Prune(PruneArguments),
    /// List the tags of a repository
    ListTags(ListTagsArguments),
    /// Say whether pulls can work here, and what is missing
    Doctor(DoctorArguments),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }
}
