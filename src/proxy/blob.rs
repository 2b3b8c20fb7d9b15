//! A blob on its way: read it, and learn whether it is what it should be.

mod flow;
mod split;
mod stream;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use oci_spec::image::Digest;
use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

pub use self::split::{BlobDriver, BlobReader};

pub(super) use self::flow::Patience;
pub(super) use self::stream::{Opened, Source};

use self::stream::Stream;
use crate::drain::buffered::Buffered;
use crate::drain::verify::Verifier;
use crate::error::Result;

/// A blob that the proxy is sending.
///
/// Read it, as [`AsyncRead`] or [`AsyncBufRead`], straight from the
/// non-blocking pipe; then call [`finish`](Self::finish) for the verdict. To
/// reach the end of reading is to have all bytes, and the right ones: if the
/// size or the digest is wrong, or the blob broke off, the read that would
/// return "end" fails instead, with an [`Error`](crate::Error) inside the
/// [`io::Error`]. Bytes before that are not to be trusted yet.
///
/// ```no_run
/// # async fn example(proxy: longshore::ImageProxy) -> Result<(), Box<dyn std::error::Error>> {
/// use tokio::io::AsyncReadExt;
///
/// let image = proxy.open_image("docker://quay.io/fedora/fedora:latest").await?;
/// let (_, manifest) = proxy.fetch_manifest(&image).await?;
/// for layer in manifest.layers() {
///     let mut blob = proxy.get_descriptor(&image, layer).await?;
///     let mut bytes = Vec::new();
///     blob.read_to_end(&mut bytes).await?;
///     blob.finish().await?;
///     println!("{}: {} verified bytes", layer.digest(), bytes.len());
/// }
/// # Ok(()) }
/// ```
///
/// Many blobs of one proxy can be open and read at the same time. Dropping one
/// early cancels it; the connection stays good.
///
/// A proxy before 0.2.8 may have more than the right bytes; only `finish` tells
/// [that](crate::BlobError::TooLong).
///
/// There are two exceptions to "the end means verified", both asked for:
/// [`trust_proxy_verification`](crate::ConnectionOptions::trust_proxy_verification),
/// where only `finish` tells, and [`get_raw_blob`](crate::ImageProxy::get_raw_blob),
/// which checks nothing but that the proxy saw no error.
#[derive(Debug)]
pub struct Blob(Buffered<Stream>);

impl Blob {
    pub(super) fn new(opened: Opened) -> Self {
        Self(Buffered::new(Stream::new(opened)))
    }

    /// The digest of the blob, as it was asked for.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        self.0.get_ref().digest()
    }

    /// The size in bytes that the registry announced, if it did. It is not checked.
    #[must_use]
    pub fn announced(&self) -> Option<u64> {
        self.0.get_ref().announced()
    }

    /// Reads the rest of the blob, and returns whether all bytes came and are the right ones.
    ///
    /// The rest is checked, and not kept. To give a blob up, drop it.
    ///
    /// # Errors
    ///
    /// [`Error::Blob`](crate::Error::Blob), naming the blob, with what is wrong.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, the blob is given up, as by dropping it.
    pub async fn finish(self) -> Result<()> {
        self.0.into_inner().finish().await
    }

    /// See [`Stream::lend_verifier`].
    pub(crate) fn lend_verifier(&mut self) -> Option<Verifier> {
        self.0.get_mut().lend_verifier()
    }

    pub(crate) fn give_back_verifier(&mut self, verifier: Verifier) {
        self.0.get_mut().give_back_verifier(verifier);
    }

    /// Splits the blob into a reader and a driver, as the crate containers-image-proxy has them.
    ///
    /// They can be awaited in either order or together. The reader's end comes
    /// with the verdict, as here; the driver is a future of it. The driver
    /// needs no polling for the reader to reach its end. It fails as
    /// [abandoned](crate::BlobError::Abandoned) if the reader is dropped before
    /// all bytes are read, and as [unread](crate::BlobError::Unread) if nobody
    /// reads for the stall timeout while it is awaited.
    #[must_use]
    pub fn split(self) -> (BlobReader, BlobDriver) {
        split::split(self.0.into_inner())
    }
}

impl AsyncRead for Blob {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, out)
    }
}

impl AsyncBufRead for Blob {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        Pin::new(&mut self.get_mut().0).poll_fill_buf(cx)
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        Pin::new(&mut self.0).consume(amount);
    }
}
