//! Decompresses layers, and checks them against the `diff_id`s of the image config.

use std::io;
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use oci_spec::image::Digest;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt, Chain, ReadBuf};
use tokio::sync::oneshot;

use super::ordered::View;
use super::return_on_drop::ReturnOnDrop;
use super::{FetchOptions, Layer, LayerReader};
use crate::drain::verify::Verifier;
use crate::error::{BlobError, Error, Result};

/// How many bytes a layer may have beyond the bound on its expansion. Even an empty tar archive has ten kilobytes.
const EXTRA_BYTES: u64 = 1024 * 1024;

/// The number of bytes that are allowed beyond the bound on the expansion of what was read so far. It is as large as
/// the default of [`FetchOptions::max_zstd_window`](FetchOptions#structfield.max_zstd_window). A layer may begin with a
/// file of zeros, of which zstd compresses 30 MB to a kilobyte. A much larger value would weaken the bound where a
/// manifest claims too large a size.
const MAX_AHEAD_BYTES: u64 = 32 << 20;

/// The message of libzstd for a frame whose window is larger than allowed.
const WINDOW_TOO_LARGE: &str = "Frame requires too much memory";

/// The exponents of the window sizes that libzstd supports (`ZSTD_WINDOWLOG_ABSOLUTEMIN`, and `ZSTD_WINDOWLOG_MAX`
/// of machines with 32 bits).
const WINDOW_LOG: RangeInclusive<u32> = 10..=30;

/// The size of the buffer for bytes that are read only to be checked.
const SCRATCH_BYTES: usize = 64 * 1024;

/// The limits on decompressing a layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The maximum size of the decompressed bytes, as a multiple of the compressed size.
    expansion: u64,
    /// The maximum size of a zstd window, in bytes.
    zstd_window: NonZeroU64,
}

impl Bounds {
    pub(super) fn of(options: &FetchOptions) -> Self {
        Self {
            expansion: options.max_expansion.get(),
            zstd_window: options.max_zstd_window,
        }
    }
}

/// The [`View`] that decompresses layers.
pub(super) struct Decompressed(pub(super) Bounds);

impl View for Decompressed {
    type Reader = UncompressedReader;
    type Returned = oneshot::Receiver<Decompressing>;

    async fn open(
        &self,
        layer: &Layer,
        reader: LayerReader,
    ) -> Result<(UncompressedReader, Self::Returned)> {
        UncompressedReader::new(reader, layer, self.0).await
    }

    async fn close(returned: Self::Returned) -> Result<()> {
        let mut rest = returned.await.map_err(|_| Error::Cancelled)?;
        rest.read_to_end().await
    }
}

impl LayerReader {
    /// Returns a reader that decompresses the layer, for a handler or a sink that needs some layers decompressed and
    /// others as they are stored. Two of the `options` apply: [`max_expansion`](FetchOptions#structfield.max_expansion)
    /// and [`max_zstd_window`](FetchOptions#structfield.max_zstd_window).
    ///
    /// The returned reader reaches its end only if the blob has its digest, and the decompressed bytes have the
    /// layer's `diff_id`, if there is one. Read it to the end. If bytes are left unread, only the digest of the blob is
    /// checked, not the `diff_id`.
    ///
    /// ```no_run
    /// # async fn example(fetcher: longshore::Fetcher) -> longshore::Result<()> {
    /// use longshore::{FetchOptions, Layer, LayerReader};
    /// use tokio::io::{copy, sink};
    ///
    /// let image = fetcher.open("docker://quay.io/fedora/fedora:latest").await?;
    /// let handler = |layer: Layer, reader: LayerReader| async move {
    ///     let mut tar = reader.uncompressed(&layer, &FetchOptions::default()).await?;
    ///     copy(&mut tar, &mut sink()).await.map_err(longshore::Error::handler)
    /// };
    /// let sizes = fetcher.for_each_layer(&image, handler).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Image`] if the algorithm of the `diff_id` is unknown (known: sha256, sha384, sha512); [`Error::Blob`],
    /// or another error of reading the first bytes of the layer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future early has the same effect as dropping the reader.
    pub async fn uncompressed(
        self,
        layer: &Layer,
        options: &FetchOptions,
    ) -> Result<UncompressedReader> {
        let opened = UncompressedReader::new(self, layer, Bounds::of(options)).await;
        opened.map(|(reader, _)| reader)
    }
}

/// A reader that decompresses a layer. The reader reaches its end only if the blob has its digest, and the decompressed
/// bytes have the layer's `diff_id`, if there is one.
///
/// Bytes that a handler leaves unread are read and checked after the handler returns. For a reader from
/// [`LayerReader::uncompressed`], only the digest of the blob is checked then.
#[derive(Debug)]
pub struct UncompressedReader(ReturnOnDrop<Decompressing>);

/// A source of compressed bytes that counts what was read from it.
pub(crate) trait CountingReader: AsyncBufRead + Unpin {
    /// The number of bytes that were read.
    fn bytes_read(&self) -> u64;
}

impl CountingReader for LayerReader {
    fn bytes_read(&self) -> u64 {
        LayerReader::bytes_read(self)
    }
}

/// Decompresses a layer whose blob is known to be right, and returns an error unless the result has the layer's
/// `diff_id`. `options` bound what the layer may expand to.
pub(crate) async fn check_diff_id(
    blob: impl CountingReader,
    layer: &Layer,
    options: &FetchOptions,
) -> Result<()> {
    let decompressing = Decompressing::new(blob, layer, Bounds::of(options));
    decompressing.await?.read_to_end().await
}

/// A layer that is being decompressed.
pub(super) struct Decompressing<R = LayerReader> {
    decoder: Decoder<R>,
    bounds: Bounds,
    digest: Digest,
    /// The maximum number of decompressed bytes.
    limit: u64,
    diff_id: Option<Digest>,
    verifier: Option<Verifier>,
    /// The number of decompressed bytes that were read.
    read: u64,
    /// The verdict on the layer, once there is one.
    pub(super) ended: Option<Result<()>>,
}

impl<R> std::fmt::Debug for Decompressing<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decompressing")
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl UncompressedReader {
    /// Reads and checks the rest of the layer: the blob against its digest, and the decompressed bytes against the
    /// layer's `diff_id`, if there is one. A handler calls this before it makes visible what it has read.
    ///
    /// # Errors
    ///
    /// [`Error::Blob`] if the layer is wrong or its transfer failed; the error that ended the fetch, or
    /// [`Error::Cancelled`] if the fetch was dropped; the errors of the proxy.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future early has the same effect as dropping the reader.
    pub async fn finish(mut self) -> Result<()> {
        self.0.get().map_err(Error::handler)?.read_to_end().await
    }

    pub(super) async fn new(
        reader: LayerReader,
        layer: &Layer,
        bounds: Bounds,
    ) -> Result<(Self, oneshot::Receiver<Decompressing>)> {
        let decompressing = Decompressing::new(reader, layer, bounds).await?;
        let (decompressing, returned) = ReturnOnDrop::new(decompressing);
        Ok((Self(decompressing), returned))
    }
}

/// The bytes of a layer: the first ones, which were read to detect the compression, and the rest.
type Whole<R> = Chain<io::Cursor<Vec<u8>>, R>;

/// The decoder for the compression of a layer, which its first bytes show.
enum Decoder<R> {
    Gzip(GzipDecoder<Whole<R>>),
    Zstd(ZstdDecoder<Whole<R>>),
    Plain(Whole<R>),
}

impl<R: CountingReader> Decoder<R> {
    async fn detect(mut reader: R, bounds: Bounds) -> io::Result<Self> {
        const GZIP: [u8; 2] = [0x1f, 0x8b];
        const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
        /// The last three bytes of the magic number of a skippable zstd frame. Layers of stargz and others begin with
        /// such a frame.
        const SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

        let mut magic = [0; 4];
        let mut length = 0;
        while length < magic.len() {
            match reader.read(&mut magic[length..]).await? {
                0 => break,
                n => length += n,
            }
        }
        let magic = &magic[..length];
        let is_skippable = magic.len() == 4 && magic[0] & 0xf0 == 0x50 && magic[1..] == SKIPPABLE;
        let whole = io::Cursor::new(magic.to_vec()).chain(reader);
        Ok(if magic.starts_with(&GZIP) {
            let mut decoder = GzipDecoder::new(whole);
            decoder.multiple_members(true);
            Self::Gzip(decoder)
        } else if magic == ZSTD || is_skippable {
            let window = bounds.zstd_window.ilog2();
            let window = window.clamp(*WINDOW_LOG.start(), *WINDOW_LOG.end());
            let window = DParameter::window_log_max(window);
            let mut decoder = ZstdDecoder::with_params(whole, &[window]);
            decoder.multiple_members(true);
            Self::Zstd(decoder)
        } else {
            Self::Plain(whole)
        })
    }

    /// The number of compressed bytes that were read.
    fn compressed_read(&self) -> u64 {
        let whole = match self {
            Self::Gzip(decoder) => decoder.get_ref(),
            Self::Zstd(decoder) => decoder.get_ref(),
            Self::Plain(whole) => whole,
        };
        whole.get_ref().1.bytes_read()
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Gzip(decoder) => Pin::new(decoder).poll_read(cx, out),
            Self::Zstd(decoder) => Pin::new(decoder).poll_read(cx, out),
            Self::Plain(whole) => Pin::new(whole).poll_read(cx, out),
        }
    }
}

/// Returns an error of this library unchanged. Any other error comes from the decoder, and becomes a [`BlobError`].
fn read_error(error: io::Error, digest: &Digest, bounds: Bounds) -> Error {
    error.downcast().unwrap_or_else(|error| {
        Error::blob(digest)(if error.to_string().contains(WINDOW_TOO_LARGE) {
            let limit = bounds.zstd_window.get();
            BlobError::ZstdWindow { limit }
        } else {
            BlobError::Decompress(Arc::new(error))
        })
    })
}

impl<R: CountingReader> Decompressing<R> {
    async fn new(reader: R, layer: &Layer, bounds: Bounds) -> Result<Self> {
        let digest = layer.descriptor.digest().clone();
        let verifier = match &layer.diff_id {
            None => None,
            Some(diff_id) => Some(Verifier::new(diff_id).ok_or_else(|| {
                Error::image(format!(
                    "the layer {digest} has the diff_id {diff_id}, which can't be checked (known: sha256, sha384, sha512)"
                ))
            })?),
        };
        let decoder = Decoder::detect(reader, bounds)
            .await
            .map_err(|error| read_error(error, &digest, bounds))?;
        let limit = layer.descriptor.size().saturating_mul(bounds.expansion);
        Ok(Self {
            decoder,
            bounds,
            digest,
            limit: limit.saturating_add(EXTRA_BYTES),
            verifier,
            diff_id: layer.diff_id.clone(),
            read: 0,
            ended: None,
        })
    }

    fn poll(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        if let Some(verdict) = &self.ended {
            return Poll::Ready(verdict.clone());
        }
        let before = out.filled().len();
        let verdict = match ready!(self.decoder.poll_read(cx, out)) {
            Err(error) => Err(read_error(error, &self.digest, self.bounds)),
            Ok(()) if out.filled().len() > before => {
                let bytes = &out.filled()[before..];
                self.read += bytes.len() as u64;
                if let Some(verifier) = &mut self.verifier {
                    verifier.update(bytes);
                }
                let allowed = self
                    .decoder
                    .compressed_read()
                    .saturating_mul(self.bounds.expansion);
                let limit = self.limit.min(allowed.saturating_add(MAX_AHEAD_BYTES));
                if self.read <= limit {
                    return Poll::Ready(Ok(()));
                }
                Err(Error::blob(&self.digest)(BlobError::Expands { limit }))
            }
            Ok(()) => self.verdict_at_end(),
        };
        self.ended = Some(verdict.clone());
        Poll::Ready(verdict)
    }

    fn verdict_at_end(&mut self) -> Result<()> {
        match (self.verifier.take().map(Verifier::finish), &self.diff_id) {
            (Some(Err(computed)), Some(diff_id)) => {
                let (computed, diff_id) = (Box::new(computed), Box::new(diff_id.clone()));
                Err(Error::blob(&self.digest)(BlobError::WrongDiffId {
                    computed,
                    diff_id,
                }))
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn read_to_end(&mut self) -> Result<()> {
        let mut scratch = vec![0; SCRATCH_BYTES];
        loop {
            let mut room = ReadBuf::new(&mut scratch);
            std::future::poll_fn(|cx| self.poll(cx, &mut room)).await?;
            if room.filled().is_empty() {
                return Ok(());
            }
        }
    }
}

impl AsyncRead for UncompressedReader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let decompressing = self.get_mut().0.get()?;
        decompressing.poll(cx, out).map_err(io::Error::from)
    }
}
