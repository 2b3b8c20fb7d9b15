//! The command `longshore export`: the files of an image, with all its layers applied, as one tar archive.
//!
//! # Order and memory
//!
//! Upper layers decide which entries of lower layers are left, but layers come in any order. So there are two passes:
//!
//! 1. All layers are fetched at the same time. Each is decompressed, verified, and written into a temporary file without
//!    a name ([`layer`]). Of each entry, only the path and a position in that file stay in memory.
//! 2. When all layers are there, and right, their entries are applied to a tree in memory, from the base layer up
//!    ([`tree`]). The tree is then written in the order of the paths, with the bytes of the temporary files
//!    ([`archive`]). So a folder comes before what is in it, a hard link after its file, and the same image makes the
//!    same archive.
//!
//! The memory is some 200 bytes and twice the length of the names for each entry of all layers, and at most 1 GiB. The
//! temporary files have the size of the decompressed layers. They are in the folder of the archive, or in `TMPDIR` if
//! the archive goes to stdout.
//! A single pass from the top layer down would need no temporary files. But it would print bytes of an image that may
//! turn out to be wrong, and names of hard links before the files that they name.

mod archive;
mod layer;
mod pax;
mod tree;

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longshore::{BlockingReader, ImageProxyConfig, Layer};
use tokio_util::sync::CancellationToken;

use self::archive::Files;
use self::layer::{Budget, Contents};
use super::advice::advised;
use super::args::{ExportArguments, Form, Output};
use super::failure::Failure;
use super::open::Opener;
use super::output_path::{OutputPath, sync_folder};
use super::temporary_folder::TemporaryFolder;
use super::{blocking, within};

pub(crate) async fn run(
    arguments: ExportArguments,
    config: ImageProxyConfig,
) -> Result<(), Failure> {
    let target = match arguments.output() {
        Output::StdoutUnlessTerminal if io::stdout().is_terminal() => {
            let reason = "an archive is not for a terminal: send stdout to a file or a program, or name a FILE";
            return Err(Failure::usage(reason.into()));
        }
        Output::StdoutUnlessTerminal | Output::Stdout => Target::Stdout,
        // The temporary folder is made before anything is fetched, because that may fail.
        Output::File(path) => {
            let (path, shown) = (path.to_owned(), path.display().to_string());
            let begun = blocking(move || Target::file(&path)).await;
            begun.map_err(Failure::of_output(&shown))?
        }
    };
    let ExportArguments {
        image: reference,
        fetch,
        ..
    } = arguments;
    let shown = target.shown();
    let folder = target.temporary_folder();
    let source = &fetch.proxy.source;
    let (deadline, access) = (source.deadline, source.access());
    let failed = || Failure::on("export", &reference);
    let opener = within(deadline, Opener::new(config, fetch.options()));
    let opener = opener.await.map_err(failed())?;
    let fetcher = &opener.fetcher;
    let exporting = Box::pin(async {
        let image = opener.open(&reference).await?;
        let budget = Budget::default();
        let read = move |layer: Layer, reader: BlockingReader| {
            Contents::read(&layer, reader, &folder, &budget).map(Arc::new)
        };
        let layers = fetcher.for_each_layer_uncompressed_blocking(&image, read);
        let layers = layers.await?;
        let files = blocking(move || Files::new(layers)).await;
        let files = files.map_err(longshore::Error::handler)?;
        // If this future is dropped, the thread stops, and removes what it has made.
        let stop = CancellationToken::new();
        let _stopping = stop.clone().drop_guard();
        Ok(blocking(move || target.write(&files, &stop)).await)
    });
    let written = within(deadline, exporting).await.map_err(failed());
    let written = advised(written, fetcher, access).await?;
    let cant_write = |error| anyhow::Error::from(error).context(format!("can't write {shown}"));
    written.map_err(cant_write).map_err(Into::into)
}

/// The destination of an archive.
#[derive(Debug)]
enum Target {
    Stdout,
    /// A file, which gets its name when it is complete.
    File {
        output: OutputPath,
        temporary: TemporaryFolder,
    },
}

impl Target {
    fn file(path: &Path) -> io::Result<Self> {
        let output = OutputPath::of(path, Form::Archive)?;
        let temporary = TemporaryFolder::create_in(output.parent())?;
        Ok(Self::File { output, temporary })
    }

    fn shown(&self) -> String {
        match self {
            Self::Stdout => "to stdout".to_owned(),
            Self::File { output, .. } => output.path().display().to_string(),
        }
    }

    /// The folder for the temporary files of the layers.
    fn temporary_folder(&self) -> PathBuf {
        match self {
            // `temp_dir` is empty if `TMPDIR` is empty, and would then stand for the current folder.
            Self::Stdout => Some(std::env::temp_dir())
                .filter(|folder| !folder.as_os_str().is_empty())
                .unwrap_or_else(|| "/tmp".into()),
            Self::File { temporary, .. } => temporary.path().to_owned(),
        }
    }

    /// Writes the archive of these files. Blocks.
    fn write(self, files: &Files, stop: &CancellationToken) -> io::Result<()> {
        match self {
            Self::Stdout => {
                // This avoids the buffer of the standard library, which looks for line breaks.
                let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
                let written = files.write(&mut stdout, stop);
                match written.and_then(|()| stdout.flush()) {
                    // It is no failure if the reader of stdout has gone.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                    written => written,
                }
            }
            Self::File { output, temporary } => {
                let made = temporary.path().join("made");
                let mut file = File::create_new(&made)?;
                output.copy_permissions(&file)?;
                files.write(&mut file, stop)?;
                file.sync_all()?;
                fs::rename(&made, output.path())?;
                sync_folder(output.parent())
            }
        }
    }
}
