//! The arguments of `longshore export`.

use std::path::PathBuf;

use clap::Args;

use super::fetch::FetchArguments;
use super::output::Output;
use super::reference::image_reference;

const EXAMPLES: &str = "\
Examples:
  longshore export docker://quay.io/fedora/fedora:latest fedora.tar
  longshore export oci:mirror:fedora | tar -tv";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExportArguments {
    /// Image, as for pull: docker://HOST/NAME:TAG or oci:DIR:TAG
    #[arg(value_parser = image_reference)]
    pub(crate) image: String,
    /// Archive to write; - (the default) is stdout
    ///
    /// Nothing is written before all layers are there and right. The file gets its name when it is complete. A terminal
    /// receives an archive only if "-" is given.
    ///
    /// The command needs space for the decompressed layers. They are in temporary files: in the folder of FILE or, if
    /// the archive goes to stdout, in the folder that the variable TMPDIR names (/tmp without it).
    #[arg(value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) fetch: FetchArguments,
}

impl ExportArguments {
    pub(crate) fn output(&self) -> Output<'_> {
        Output::of(self.output.as_deref())
    }
}
