//! The blobs that callers read: [`Blob`] with its verdict, and [`RawBlob`] without one.

mod finish_pipe;
mod flow;
mod split;
mod stream;

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use oci_spec::image::{Descriptor, Digest};
use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};
use tokio::sync::{mpsc, watch};

pub use self::split::{BlobDriver, BlobReader};

pub(crate) use self::finish_pipe::QuietWatch;
pub(super) use self::flow::TimeLimits;
pub(super) use self::stream::{Opened, Source};

use self::stream::Stream;
use crate::drain::buffered::Buffered;
use crate::drain::verify::Verifier;
use crate::error::{BlobError, Error, Result};

/// A blob that the proxy is sending.
///
/// Read the blob through [`AsyncRead`] or [`AsyncBufRead`], then call [`finish`](Self::finish) for the verdict. A read
/// reports the end (0 bytes) only if all bytes have arrived and have the right size and digest. Otherwise, that read
/// fails with an [`Error`](crate::Error) inside the [`io::Error`]. Do not trust the bytes before the end.
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
/// Many blobs of one proxy can be open and read at the same time. Dropping a blob early cancels it. The connection
/// stays good.
///
/// With a proxy before protocol 0.2.8, a read of the blob itself does not detect that the blob is longer than its size
/// ([`TooLong`](crate::BlobError::TooLong)). [`finish`](Self::finish) and both halves of [`split`](Self::split) do.
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

    /// The size in bytes that the registry announced. `None` if the registry announced no size. If the announced size
    /// is not the expected one, [`get_blob`](crate::ImageProxy::get_blob) fails.
    #[must_use]
    pub fn announced(&self) -> Option<u64> {
        self.0.get_ref().announced()
    }

    /// Reads the rest of the blob, and returns an error unless all bytes have arrived and have the right size
    /// and digest.
    ///
    /// The rest is checked and discarded. To cancel a blob instead, drop it.
    ///
    /// # Errors
    ///
    /// [`Error::Blob`](crate::Error::Blob) with the digest of the blob and the reason.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before all bytes are read, the blob is cancelled, as by dropping the blob.
    pub async fn finish(self) -> Result<()> {
        self.0.into_inner().finish().await
    }

    /// Makes a blob of these bytes, as if a proxy had sent them, for tests of code that reads blobs. This function
    /// must be called within a tokio runtime.
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
            limits: TimeLimits {
                stall_timeout: None,
                least_rate: 0,
            },
            closed,
            lease,
        }))
    }

    /// Lets the blob be finished early if it is quiet: see [`Stream::watch_quiet`].
    pub(crate) fn watch_quiet(&mut self, watch: QuietWatch) {
        self.0.get_mut().watch_quiet(watch);
    }

    /// Takes the verifier of the blob: see [`Stream::take_verifier`].
    pub(crate) fn take_verifier(&mut self) -> Option<Verifier> {
        self.0.get_mut().take_verifier()
    }

    pub(crate) fn return_verifier(&mut self, verifier: Verifier) {
        self.0.get_mut().return_verifier(verifier);
    }

    /// Splits the blob into a reader and a driver, like those of the crate containers-image-proxy.
    ///
    /// The reader reports the end only if the size and the digest are right, like the blob. The driver is a future that
    /// returns an error if the blob failed. Await the driver together with the reader, or after it. If the driver is
    /// awaited first, another task must read. The reader reaches its end even if the driver is not polled.
    ///
    /// The driver fails as [abandoned](crate::BlobError::Abandoned) if the reader is dropped before all bytes are
    /// read. It fails as [unread](crate::BlobError::Unread) if no byte is read for the stall timeout while the driver
    /// is awaited.
    #[must_use]
    pub fn split(self) -> (BlobReader, BlobDriver) {
        split::split(self.0.into_inner())
    }
}

/// A blob that the proxy is sending, **without any check** of its digest. It is returned by
/// [`ImageProxy::get_raw_blob`](crate::ImageProxy::get_raw_blob). If the registry announced a size, a read fails if
/// another number of bytes comes. Otherwise, and after [`into_pipe`](Self::into_pipe), the size is not checked either.
///
/// Read the blob to its end, through [`AsyncRead`] or [`AsyncBufRead`]. The end means that the proxy reported no
/// error. An error of the proxy or the registry comes instead of the end. Dropping the blob early cancels it.
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

    /// The digest by which the blob was asked for. The bytes may have another digest.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        self.0.get_ref().digest()
    }

    /// The size in bytes that the registry announced. `None` if the registry announced no size. If another number of
    /// bytes arrives, a read fails instead of reporting the end.
    #[must_use]
    pub fn announced(&self) -> Option<u64> {
        self.0.get_ref().announced()
    }

    /// Returns the pipe with the bytes of the blob, as a file descriptor, and a future that returns whether the proxy
    /// sent the whole blob.
    ///
    /// The pipe is in blocking mode. Call this method before the first read, because bytes that were already read are
    /// no longer in the pipe. The future completes when the proxy has written everything into the pipe, or when the
    /// pipe is closed. Read the pipe while the future is awaited, because a full pipe blocks the proxy. The future
    /// returns an error if the proxy reports one, or if the connection to the proxy is known to have failed or ended.
    /// If the proxy is killed, its exit may be known only after the end of the pipe, so check the size and the digest.
    /// Neither the stall timeout nor the lowest rate applies, because this library does not see the bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the pipe can't be put into blocking mode.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, the pipe stays open, but nothing reports whether the blob is complete. The proxy
    /// may then exit before it has sent the whole blob.
    pub fn into_pipe(self) -> Result<(OwnedFd, impl Future<Output = Result<()>> + Send + use<>)> {
        self.0.into_inner().into_pipe()
    }
}

/// Implements reading from the [`Buffered`] stream in the first field.
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
