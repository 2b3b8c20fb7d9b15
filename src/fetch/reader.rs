//! The reader that a handler gets, and the blob that comes back from it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Layer;
use super::event::{BlobRef, EventKind, Events};
use super::rate::Share;
use super::returning::Returning;
use super::unit::Purpose;
use crate::config::ConnectionOptions;
use crate::drain::aligned::AlignedBuffer;
use crate::drain::verify::Verifier;
use crate::error::{BlobError, Error, Result};
use crate::proxy::Blob;
use crate::time::timeout;

/// To read what a handler does not want.
const SCRATCH_BYTES: usize = 64 * 1024;

/// A reader of a layer's blob, which a handler or a sink is given.
///
/// The end is reached only if all bytes came and are the right ones (see [`Blob`]). What is left unread when the reader is
/// dropped is read and checked after the handler: a handler that returns `Ok` without reading all is counted only if the
/// whole blob is right. To give the blob up, return an error: if no more than 128 MiB are left, they are read for 10 s at
/// most, for if the blob is wrong, that is the error, and the blob is tried again.
///
/// Once the fetch has ended, by an error or because its future was dropped, each read fails with [`Error::Cancelled`], also
/// on a blocking thread.
#[derive(Debug)]
pub struct LayerReader(Returning<Reading>);

/// A blob that is being read. It is in a [`LayerReader`] until that is dropped, and then in its owner's hands.
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
    /// Cancelled when the fetch has ended, and with it whoever wants these bytes.
    over: CancellationToken,
    /// Wakes a read that waits when the fetch ends.
    until_over: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// How long the proxy may take for its verdict; `None` means no limit.
    patience: Option<Duration>,
}

impl LayerReader {
    /// Returns a reader of these bytes, which are checked against the layer's descriptor like those of a proxy: for tests of a
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
    /// Outside of a tokio runtime.
    pub fn from_bytes(layer: &Layer, bytes: impl Into<Vec<u8>>) -> Result<Self> {
        let blob = Blob::of_bytes(bytes.into(), &layer.descriptor)?;
        let reading = Reading {
            blob: Some(Box::new(blob)),
            ended: None,
            share: Share::of(None),
            read: 0,
            name: BlobRef::of(0, layer),
            events: Events::none(),
            over: CancellationToken::new(),
            until_over: None,
            patience: None,
        };
        Ok(Self::lend(reading).0)
    }

    pub(super) fn new(
        blob: Blob,
        name: BlobRef,
        purpose: &Purpose,
        connection: &ConnectionOptions,
    ) -> (Self, oneshot::Receiver<Reading>) {
        Self::lend(Reading {
            blob: Some(Box::new(blob)),
            ended: None,
            share: Share::of(purpose.limit.clone()),
            read: 0,
            name,
            events: purpose.events.clone(),
            over: purpose.over.clone(),
            until_over: None,
            patience: connection.stall_limit(),
        })
    }

    /// A reader of a blob that comes back when the reader is dropped.
    pub(super) fn lend(reading: Reading) -> (Self, oneshot::Receiver<Reading>) {
        let (reading, returned) = Returning::new(reading);
        (Self(reading), returned)
    }

    /// The blob, and the way by which its owner waits for it.
    pub(super) fn into_parts(self) -> Option<(Reading, oneshot::Sender<Reading>)> {
        self.0.into_parts()
    }

    /// Reads what is left, and returns whether the blob is right, like [`Blob::finish`]. A sink calls this before it makes
    /// the blob visible.
    ///
    /// # Errors
    ///
    /// [`Error::Blob`], with what is wrong with the blob, and the other errors of its proxy.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, the future has the effect of dropping the reader.
    pub async fn finish(mut self) -> Result<()> {
        self.reading()?.verdict().await
    }

    /// Takes the verifier, for a sink that hashes every byte that it reads, itself: the end of reading then comes without a
    /// verdict, and [`finish_with`](Self::finish_with) must follow. `None` if something was read already.
    pub(crate) fn take_verifier(&mut self) -> Option<Verifier> {
        self.0.get().ok()?.blob.as_mut()?.take_verifier()
    }

    /// Finishes the blob with the verifier that was taken.
    pub(crate) async fn finish_with(mut self, verifier: Option<Verifier>) -> Result<()> {
        let reading = self.reading()?;
        if let (Some(blob), Some(verifier)) = (&mut reading.blob, verifier) {
            blob.give_back_verifier(verifier);
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

impl Reading {
    /// The verdict on the blob, or the error of a read, if there is one already.
    pub(super) fn ended(&self) -> Option<&Result<()>> {
        self.ended.as_ref()
    }

    /// Reads and checks what is left, and returns the verdict.
    pub(super) async fn verdict(&mut self) -> Result<()> {
        // By the same reads, so that the rest is counted and limited, too.
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
        // So it stays if this future is dropped.
        self.ended = Some(Err(unfinished));
        // Before protocol 0.2.8 this is a call, which may have to wait for another one's late answer. The bytes are
        // checked: without an answer in time, they are right all the same.
        let verdict = timeout(self.patience, blob.finish()).await;
        let verdict = verdict.unwrap_or(Ok(()));
        self.ended.insert(verdict).clone()
    }

    /// The number of bytes that have not been read yet.
    pub(super) fn left(&self) -> u64 {
        self.name.size.saturating_sub(self.read)
    }

    /// An error once the fetch has ended.
    fn not_over(&mut self) -> io::Result<()> {
        if self.over.is_cancelled() {
            return Err(self.failed(Error::Cancelled.into()));
        }
        Ok(())
    }

    /// Ready, with that error, once the fetch has ended: for a read that waits.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let over = &self.over;
        let until_over = self
            .until_over
            .get_or_insert_with(|| Box::pin(over.clone().cancelled_owned()));
        ready!(until_over.as_mut().poll(cx));
        Poll::Ready(self.failed(Error::Cancelled.into()))
    }

    fn blob(&mut self) -> io::Result<Pin<&mut Box<Blob>>> {
        self.blob
            .as_mut()
            .map(Pin::new)
            .ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// Remembers the library's own error: the handler may wrap or lose it.
    fn failed(&mut self, error: io::Error) -> io::Error {
        let ours = error
            .get_ref()
            .and_then(|e| e.downcast_ref::<Error>())
            .cloned();
        self.ended = Some(Err(ours.unwrap_or_else(|| {
            Error::io("can't read a blob")(io::Error::new(error.kind(), error.to_string()))
        })));
        error
    }

    fn took(&mut self, bytes: usize) {
        self.share.used(bytes);
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
        self.not_over()?;
        let allowed = ready!(self.share.poll(cx)).min(out.remaining());
        let room = out.initialize_unfilled_to(allowed);
        let mut room = ReadBuf::new(room);
        let Poll::Ready(read) = self.blob()?.poll_read(cx, &mut room) else {
            return self.poll_over(cx).map(Err);
        };
        let bytes = room.filled().len();
        match read {
            Ok(()) => {
                out.advance(bytes);
                self.took(bytes);
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(self.failed(error))),
        }
    }

    fn poll_fill_buf(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        self.not_over()?;
        let allowed = ready!(self.share.poll(cx));
        // Asked twice, because a borrow that is returned can't also fail here: the second time the buffer is there.
        match self.blob()?.poll_fill_buf(cx) {
            Poll::Pending => return self.poll_over(cx).map(Err),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(self.failed(error))),
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
        self.took(amount);
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
