//! The [`LayerReader`] that a handler gets, and the [`Reading`] that comes back when it is dropped.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};
use tokio::sync::oneshot;

use super::Layer;
use super::end::EndWatch;
use super::event::{BlobRef, EventKind, Events};
use super::rate::Share;
use super::return_on_drop::ReturnOnDrop;
use super::unit::FetchContext;
use crate::config::ConnectionOptions;
use crate::drain::aligned::AlignedBuffer;
use crate::drain::verify::Verifier;
use crate::error::{BlobError, Error, Result};
use crate::proxy::Blob;
use crate::time::timeout;

/// The size of the buffer for bytes that are read only to be checked.
const SCRATCH_BYTES: usize = 64 * 1024;

/// A reader of a layer's blob, for a handler or a sink. The reader verifies the blob.
///
/// The reader reaches its end only if all bytes have arrived and have the digest of the blob (see [`Blob`]).
///
/// Bytes that a handler leaves unread are read and checked after it returns. A handler that returns `Ok` has
/// succeeded only if the whole blob is right. To give up the blob, a handler returns an error. If no more than
/// 128 MiB are left then, they are read for up to 10 s to find out whether the blob is wrong. If it is, the error
/// of the blob replaces that of the handler, and the blob is retried. A handler must drop the reader before it returns.
/// Otherwise the fetch fails with [`Error::ReaderKept`].
///
/// When the fetch has ended by an error, each read fails with this error. When the future of the fetch was dropped,
/// each read fails with [`Error::Cancelled`]. This is also so on a blocking thread.
#[derive(Debug)]
pub struct LayerReader(ReturnOnDrop<Reading>);

/// The state of a blob that is being read. A [`LayerReader`] has it, and sends it back to the worker when dropped.
#[derive(Debug)]
pub(super) struct Reading {
    /// `None` once the blob is finished.
    blob: Option<Box<Blob>>,
    /// The verdict on the blob, or the error of a read, once there is one.
    ended: Option<Result<()>>,
    share: Share,
    read: u64,
    name: BlobRef,
    events: Events,
    end: EndWatch,
    /// The future that wakes a waiting read when the fetch ends.
    until_end: Option<UntilEnd>,
    /// How long the proxy may take for its verdict. `None` means no limit.
    stall_timeout: Option<Duration>,
}

impl LayerReader {
    /// Makes a reader of these bytes, which are checked against the layer's descriptor: for tests of a
    /// [`Sink`](crate::Sink) or a handler, without skopeo.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use longshore::oci_spec::image::{Descriptor, MediaType};
    /// use longshore::{Layer, LayerReader};
    /// use tokio::io::AsyncReadExt;
    ///
    /// let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    /// let layer = Layer::new(0, Descriptor::new(MediaType::ImageLayer, 3, abc.parse::<longshore::oci_spec::image::Digest>()?));
    /// let mut read = Vec::new();
    /// LayerReader::from_bytes(&layer, "abc")?.read_to_end(&mut read).await?;
    /// assert_eq!(read, b"abc");
    /// LayerReader::from_bytes(&layer, "abd")?.finish().await.expect_err("other bytes");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Blob`] if the digest's algorithm is unknown; [`Error::Io`] if no pipe can be made.
    ///
    /// # Panics
    ///
    /// Panics if called outside of a tokio runtime.
    pub fn from_bytes(layer: &Layer, bytes: impl Into<Vec<u8>>) -> Result<Self> {
        let blob = Blob::of_bytes(bytes.into(), &layer.descriptor)?;
        let reading = Reading {
            blob: Some(Box::new(blob)),
            ended: None,
            share: Share::of(None),
            read: 0,
            name: BlobRef::of(0, layer),
            events: Events::none(),
            end: EndWatch::never(),
            until_end: None,
            stall_timeout: None,
        };
        Ok(Self::from_reading(reading).0)
    }

    pub(super) fn new(
        blob: Blob,
        name: BlobRef,
        context: &FetchContext,
        connection: &ConnectionOptions,
    ) -> (Self, oneshot::Receiver<Reading>) {
        Self::from_reading(Reading {
            blob: Some(Box::new(blob)),
            ended: None,
            share: Share::of(context.limit.clone()),
            read: 0,
            name,
            events: context.events.clone(),
            end: context.end.clone(),
            until_end: None,
            stall_timeout: connection.stall_limit(),
        })
    }

    /// Makes a reader, and the channel through which the blob comes back when the reader is dropped.
    pub(super) fn from_reading(reading: Reading) -> (Self, oneshot::Receiver<Reading>) {
        let (reading, returned) = ReturnOnDrop::new(reading);
        (Self(reading), returned)
    }

    /// Takes the blob, and the channel through which its worker waits for it.
    pub(super) fn into_parts(self) -> Option<(Reading, oneshot::Sender<Reading>)> {
        self.0.into_parts()
    }

    /// Reads and checks the rest of the blob, like [`Blob::finish`]. A sink calls this before it makes the
    /// blob visible.
    ///
    /// # Errors
    ///
    /// [`Error::Blob`] if the blob is wrong or its transfer failed; the error that ended the fetch, or
    /// [`Error::Cancelled`] if the fetch was dropped; the errors of the proxy.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future early has the same effect as dropping the reader.
    pub async fn finish(mut self) -> Result<()> {
        self.reading()?.verdict().await
    }

    /// Takes the verifier, for a sink that hashes the bytes itself. The end of the reader then comes without a verdict,
    /// so the sink must call [`finish_with`](Self::finish_with). `None` if bytes were read already.
    pub(crate) fn take_verifier(&mut self) -> Option<Verifier> {
        self.0.get().ok()?.blob.as_mut()?.take_verifier()
    }

    /// Finishes the blob with the verifier that [`take_verifier`](Self::take_verifier) returned.
    pub(crate) async fn finish_with(mut self, verifier: Option<Verifier>) -> Result<()> {
        let reading = self.reading()?;
        if let (Some(blob), Some(verifier)) = (&mut reading.blob, verifier) {
            blob.return_verifier(verifier);
        }
        reading.verdict().await
    }

    fn reading(&mut self) -> Result<&mut Reading> {
        self.0.get().map_err(Error::handler)
    }

    /// The number of bytes that were read.
    #[cfg(feature = "decompress")]
    pub(super) fn bytes_read(&self) -> u64 {
        self.0.peek().map_or(0, |reading| reading.read)
    }
}

/// A future that waits until the fetch has ended.
struct UntilEnd(Pin<Box<dyn Future<Output = ()> + Send + Sync>>);

impl fmt::Debug for UntilEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UntilEnd").finish_non_exhaustive()
    }
}

impl Reading {
    /// The verdict on the blob, or the error of a read, if there is one already.
    pub(super) fn ended(&self) -> Option<&Result<()>> {
        self.ended.as_ref()
    }

    /// Reads and checks the rest of the blob, and returns the verdict.
    pub(super) async fn verdict(&mut self) -> Result<()> {
        // The rest is read like the other bytes, so that it is counted and limited, too.
        let mut scratch = AlignedBuffer::new(SCRATCH_BYTES);
        while self.ended.is_none() {
            let mut room = ReadBuf::new(&mut scratch);
            let read = poll_fn(|cx| self.poll_read(cx, &mut room)).await;
            if read.is_err() || room.filled().is_empty() {
                break;
            }
        }
        if let Some(ended) = &self.ended {
            return ended.clone();
        }
        let unfinished = BlobError::Abandoned { read: self.read };
        let unfinished = Error::blob(&self.name.digest)(unfinished);
        let Some(blob) = self.blob.take() else {
            return Err(unfinished);
        };
        // This error stays if this future is dropped.
        self.ended = Some(Err(unfinished));
        // Before protocol 0.2.8, `finish` is a call, which may wait behind a late call. The bytes have been checked, so
        // a missing answer is no failure.
        let verdict = timeout(self.stall_timeout, blob.finish()).await;
        let verdict = verdict.unwrap_or(Ok(()));
        self.ended.insert(verdict).clone()
    }

    /// The number of bytes that have not been read yet.
    pub(super) fn unread_bytes(&self) -> u64 {
        self.name.size.saturating_sub(self.read)
    }

    /// Returns an error if the fetch has ended.
    fn check_not_ended(&mut self) -> io::Result<()> {
        match self.end.reason() {
            Some(reason) => Err(self.record_error(reason.into())),
            None => Ok(()),
        }
    }

    /// Waits until the fetch has ended, and returns the error for a waiting read.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let end = &self.end;
        let until_end = self.until_end.get_or_insert_with(|| UntilEnd(end.wait()));
        ready!(until_end.0.as_mut().poll(cx));
        let reason = self.end.reason().unwrap_or(Error::Cancelled);
        Poll::Ready(self.record_error(reason.into()))
    }

    fn blob(&mut self) -> io::Result<Pin<&mut Box<Blob>>> {
        self.blob
            .as_mut()
            .map(Pin::new)
            .ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// Records an error of a read, because the handler may wrap or lose it. Returns the error unchanged.
    fn record_error(&mut self, error: io::Error) -> io::Error {
        let ours = error
            .get_ref()
            .and_then(|e| e.downcast_ref::<Error>())
            .cloned();
        self.ended = Some(Err(ours.unwrap_or_else(|| {
            Error::io("can't read a blob")(io::Error::new(error.kind(), error.to_string()))
        })));
        error
    }

    fn record_read(&mut self, bytes: usize) {
        self.share.used(bytes);
        if bytes == 0 {
            return;
        }
        self.read += bytes as u64;
        let Self {
            name, read, events, ..
        } = self;
        events.count(|| EventKind::BlobBytes {
            blob: name.clone(),
            read: *read,
        });
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_not_ended()?;
        // A read that waits for its share of the limit ends with the fetch, too.
        let Poll::Ready(allowed) = self.share.poll(cx) else {
            return self.poll_end(cx).map(Err);
        };
        let allowed = allowed.min(out.remaining());
        let room = out.initialize_unfilled_to(allowed);
        let mut room = ReadBuf::new(room);
        let Poll::Ready(read) = self.blob()?.poll_read(cx, &mut room) else {
            return self.poll_end(cx).map(Err);
        };
        let bytes = room.filled().len();
        match read {
            Ok(()) => {
                out.advance(bytes);
                self.record_read(bytes);
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(self.record_error(error))),
        }
    }

    fn poll_fill_buf(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        self.check_not_ended()?;
        let Poll::Ready(allowed) = self.share.poll(cx) else {
            return self.poll_end(cx).map(Err);
        };
        // The buffer is polled twice, because the borrow checker does not allow `self.record_error` while the buffer is
        // borrowed. The second poll returns the same buffer.
        match self.blob()?.poll_fill_buf(cx) {
            Poll::Pending => return self.poll_end(cx).map(Err),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(self.record_error(error))),
            Poll::Ready(Ok(_)) => {}
        }
        let Some(blob) = &mut self.blob else {
            return Poll::Ready(Ok(&[]));
        };
        let filled = ready!(Pin::new(blob).poll_fill_buf(cx))?;
        Poll::Ready(Ok(&filled[..filled.len().min(allowed)]))
    }

    fn consume(&mut self, amount: usize) {
        if let Some(blob) = &mut self.blob {
            Pin::new(blob).consume(amount);
        }
        self.record_read(amount);
    }
}

impl AsyncRead for LayerReader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().0.get()?.poll_read(cx, out)
    }
}

impl AsyncBufRead for LayerReader {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        self.get_mut().0.get()?.poll_fill_buf(cx)
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        if let Ok(reading) = self.get_mut().0.get() {
            reading.consume(amount);
        }
    }
}
