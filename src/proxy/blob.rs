//! A blob on its way: read it, and learn whether it is what it should be.

mod flow;
mod split;
mod stream;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use oci_spec::image::{Descriptor, Digest};
use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};
use tokio::sync::{mpsc, watch};

pub use self::split::{BlobDriver, BlobReader};

pub(super) use self::flow::Patience;
pub(super) use self::stream::{Opened, Source};

use self::stream::Stream;
use crate::drain::buffered::Buffered;
use crate::drain::verify::Verifier;
use crate::error::{BlobError, Error, Result};

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

    /// A blob of these bytes, as if a proxy had sent them: for tests of whoever reads a blob. Must be called within a tokio
    /// runtime.
    pub(crate) fn of_bytes(bytes: Vec<u8>, descriptor: &Descriptor) -> Result<Self> {
        let digest = descriptor.digest();
        let verifier = Verifier::new(digest)
            .ok_or_else(|| Error::blob(digest)(BlobError::UnknownAlgorithm))?;
        let (_, closed) = watch::channel(None);
        let (lease, _) = mpsc::channel(1);
        Ok(Self::new(Opened {
            digest: digest.clone(),
            size: Some(descriptor.size()),
            announced: None,
            source: Source::of_bytes(bytes)?,
            verifier: Some(verifier),
            patience: Patience {
                stall_timeout: None,
                least_rate: 0,
            },
            closed,
            lease,
        }))
    }

    /// See [`Stream::take_verifier`].
    pub(crate) fn take_verifier(&mut self) -> Option<Verifier> {
        self.0.get_mut().take_verifier()
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

/// A blob that the proxy is sending, of which **nobody checks** size and digest:
/// [`ImageProxy::get_raw_blob`](crate::ImageProxy::get_raw_blob).
///
/// Read it, as [`AsyncRead`] or [`AsyncBufRead`], to its end. The end says that the proxy saw no error; an error of the
/// proxy or the registry comes instead of the end. Dropping the blob early cancels it.
///
/// ```no_run
/// # async fn example(proxy: longshore::ImageProxy) -> Result<(), Box<dyn std::error::Error>> {
/// use tokio::io::AsyncReadExt;
///
/// let image = proxy.open_image("docker://quay.io/fedora/fedora:latest").await?;
/// let (_, manifest) = proxy.fetch_manifest(&image).await?;
/// let mut blob = proxy.get_raw_blob(&image, manifest.config().digest()).await?;
/// let mut unchecked = Vec::new();
/// blob.read_to_end(&mut unchecked).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct RawBlob(Buffered<Stream>);

impl RawBlob {
    pub(super) fn new(opened: Opened) -> Self {
        Self(Buffered::new(Stream::new(opened)))
    }

    /// The digest by which the blob was asked for. The bytes may have another one.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        self.0.get_ref().digest()
    }

    /// The size in bytes that the registry announced, if it did. The bytes may be more or fewer.
    #[must_use]
    pub fn announced(&self) -> Option<u64> {
        self.0.get_ref().announced()
    }
}

/// Reads from the [`Buffered`] stream within.
macro_rules! read_from_within {
    ($($reader:ty)+) => {$(
        impl AsyncRead for $reader {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                out: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_read(cx, out)
            }
        }

        impl AsyncBufRead for $reader {
            fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
                Pin::new(&mut self.get_mut().0).poll_fill_buf(cx)
            }

            fn consume(mut self: Pin<&mut Self>, amount: usize) {
                Pin::new(&mut self.0).consume(amount);
            }
        }
    )+};
}

read_from_within!(Blob RawBlob BlobReader);
