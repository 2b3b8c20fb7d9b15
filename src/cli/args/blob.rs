//! The arguments of `longshore blob`.

use std::path::PathBuf;

use clap::Args;
use longshore::oci_spec::image::Digest;

use super::fetch::FetchArguments;
use super::headings::OUTPUT;
use super::output::Output;
use super::reference::image_reference;

const EXAMPLES: &str = "\
Example, with a digest that longshore inspect --json shows:
  longshore blob -o layer.tar.gz docker://quay.io/fedora/fedora:latest DIGEST";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BlobArguments {
    /// Image that contains the blob, such as docker://HOST/NAME:TAG
    ///
    /// At a registry, any image of the repository will do.
    #[arg(value_parser = image_reference)]
    pub(crate) image: String,
    /// Digest of a layer, a config or another blob
    ///
    /// longshore inspect --json shows the digests of an image.
    #[arg(value_parser = digest)]
    pub(crate) digest: Digest,
    /// File to write; - (the default) is stdout
    ///
    /// The file gets its name only when size and digest are right. Stdout receives bytes before they are checked; the
    /// exit code is 1 if they are wrong. A terminal receives a blob only if "-" is given.
    #[arg(short, long, value_name = "FILE", help_heading = OUTPUT)]
    output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) fetch: FetchArguments,
}

impl BlobArguments {
    pub(crate) fn output(&self) -> Output<'_> {
        Output::of(self.output.as_deref())
    }
}

fn digest(text: &str) -> Result<Digest, String> {
    text.parse().map_err(|error| {
        format!(
            "{error}; a digest is sha256:HEX, and longshore inspect --json shows those of an image"
        )
    })
}
