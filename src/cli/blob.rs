//! The command `longshore blob`.

mod file;
mod stdout;

use std::io::{self, BufRead, IsTerminal};

use async_channel::{Receiver, Sender};
use longshore::oci_spec::image::Digest;
use longshore::{BlockingReader, Image, ImageProxyConfig};

use self::file::Destination;
use super::advice::advised;
use super::args::{BlobArguments, Output};
use super::failure::Failure;
use super::format::bytes;
use super::open::Opener;
use super::within;

pub(crate) async fn run(arguments: BlobArguments, config: ImageProxyConfig) -> Result<(), Failure> {
    let destination = match arguments.output() {
        Output::StdoutUnlessTerminal if io::stdout().is_terminal() => {
            let reason =
                "a blob is not for a terminal: send stdout to a file or a program, or give -o FILE";
            return Err(Failure::usage(reason.into()));
        }
        Output::StdoutUnlessTerminal | Output::Stdout => None,
        // The file is made before anything is fetched, because that may fail.
        Output::File(path) => {
            let path = path.to_owned();
            let made = tokio::task::spawn_blocking(move || Destination::new(&path));
            Some(made.await.map_err(anyhow::Error::from)??)
        }
    };
    let shown = match arguments.output() {
        Output::File(path) => path.display().to_string(),
        Output::StdoutUnlessTerminal | Output::Stdout => "to stdout".to_owned(),
    };
    let BlobArguments {
        image: reference,
        digest,
        fetch,
        ..
    } = arguments;
    let source = &fetch.proxy.source;
    let (deadline, access) = (source.deadline, source.access());
    let failed = || Failure::on("fetch a blob of", &reference);
    let opener = within(deadline, Opener::new(config, fetch.options()));
    let opener = opener.await.map_err(failed())?;
    let fetcher = &opener.fetcher;
    let fetching = Box::pin(async {
        let image = opener.open(&reference).await?;
        let written = match destination {
            None => stdout::write(fetcher, &image, &digest).await?,
            Some(file) => file.write(fetcher, &image, &digest).await?,
        };
        Ok(written.map_err(|error| (error, size_of(&image, &digest))))
    });
    let written = within(deadline, fetching).await.map_err(failed());
    let written = advised(written, fetcher, access).await?;
    written.map_err(|(error, size)| cant_write(error, &shown, size))
}

/// The size of a layer or config of this image, in bytes. `None` for another blob.
fn size_of(image: &Image, digest: &Digest) -> Option<u64> {
    let manifest = image.manifest();
    let mut blobs = manifest.layers().iter().chain([manifest.config()]);
    Some(blobs.find(|blob| blob.digest() == digest)?.size())
}

/// The failure of writing a blob of this size.
fn cant_write(error: io::Error, shown: &str, size: Option<u64>) -> Failure {
    let error = anyhow::Error::from(error).context(format!("can't write {shown}"));
    let mut failure = Failure::from(error);
    for failed in failure.parts() {
        if let Some(size) = size.filter(|_| failed.is_full_disk()) {
            let size = bytes(size);
            failed.advise(format!(
                "the blob has {size}: free some space and run it again"
            ));
        }
    }
    failure
}

/// Passes all bytes of a blob to `write`. If `write` fails, its error also goes to `failed`. At its end, the reader
/// returns an error if the bytes are wrong.
fn pass_on(
    reader: &mut BlockingReader,
    failed: &Sender<io::Error>,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    loop {
        let bytes = reader.fill_buf()?;
        let count = bytes.len();
        if count == 0 {
            return Ok(());
        }
        if let Err(error) = write(bytes) {
            let kind = error.kind();
            // The channel has space for one error, and there is only one.
            let _ = failed.try_send(error);
            return Err(kind.into());
        }
        reader.consume(count);
    }
}

/// Waits for a blob, but returns at once when its bytes can't be written. The fetch would first read and check the rest
/// of the blob, to find out whether wrong bytes made the handler fail.
async fn unless_write_fails(
    failure: &Receiver<io::Error>,
    fetching: impl Future<Output = longshore::Result<()>>,
) -> longshore::Result<io::Result<()>> {
    tokio::select! {
        biased;
        Ok(error) = failure.recv() => Ok(Err(error)),
        fetched = fetching => fetched.map(Ok),
    }
}
