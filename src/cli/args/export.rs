//! The arguments of `longshore export`.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

use super::fetch::FetchArguments;
use super::output::Output;
use super::reference::{image_reference, transport_of};

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
    #[arg(value_name = "FILE", value_parser = OsStringValueParser::new().try_map(|text| archive_file(&text)))]
    output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) fetch: FetchArguments,
}

impl ExportArguments {
    pub(crate) fn output(&self) -> Output<'_> {
        Output::of(self.output.as_deref())
    }
}

/// Programs that compress, each with the ends of the names of its files.
const COMPRESSIONS: [(&str, &[&str]); 4] = [
    ("gzip", &["gz", "tgz"]),
    ("zstd", &["zst", "tzst"]),
    ("xz", &["xz", "txz"]),
    ("bzip2", &["bz2", "tbz2"]),
];

/// Returns the path of the archive, or a message if its name promises another kind of file.
fn archive_file(text: &OsStr) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let shown = text.to_string_lossy();
    if shown.is_empty() {
        return Err(
            "FILE is empty; it is the path of the archive, such as x.tar, or - for stdout".into(),
        );
    }
    if let Some(transport) = transport_of(&shown) {
        return Err(format!(
            "the archive is a plain tar of the image's files, so FILE is a path, such as x.tar; longshore pull \
             writes oci:, oci-archive: and dir:; for a file whose name begins with {transport}:, type ./{transport}:..."
        ));
    }
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    let extension = extension.to_ascii_lowercase();
    let is_made_by = |(_, ends): &&(&str, &[&str])| ends.contains(&&*extension);
    match COMPRESSIONS.iter().find(is_made_by) {
        Some((program, _)) => Err(format!(
            "the archive is not compressed; write x.tar, or longshore export IMAGE | {program} > {shown}"
        )),
        None => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_archive_is_that_of_a_plain_tar() {
        for good in [
            "x.tar",
            "x",
            "-",
            "./oci:x",
            "a.gz/x.tar",
            "gz",
            "/dev/null",
        ] {
            assert_eq!(archive_file(good.as_ref()), Ok(good.into()));
        }
        let table = [
            ("oci:x", "such as x.tar; longshore pull writes oci:"),
            ("", "FILE is empty"),
            ("docker-archive:x.tar", "type ./docker-archive:..."),
            ("x.tar.gz", "longshore export IMAGE | gzip > x.tar.gz"),
            ("x.TGZ", "| gzip > x.TGZ"),
            ("x.tar.zst", "| zstd > x.tar.zst"),
        ];
        for (text, advice) in table {
            let message = archive_file(text.as_ref()).expect_err(text);
            assert!(message.contains(advice), "{text}: {message}");
        }
    }
}
