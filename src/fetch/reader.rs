//! The reader that a handler gets, and what comes back of it.

use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt, ReadBuf};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::event::{BlobRef, EventKind, Events};
use super::rate::Share;
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
/// The end is reached only if all bytes came and are the right ones (see [`Blob`]).
/// What is left unread when it is dropped is read and checked behind the
/// handler's back: a handler that returns `Ok` without reading all is counted
/// only if the whole blob is right. To give the blob up, return an error: if no
/// more than 128 MiB are left, they are read for 10 s at most, for if the blob is
/// wrong, that is the error, and the blob is tried again.
///
/// Once the fetch has ended, by an error or because its future was dropped, each
/// read fails with [`Error::Cancelled`], also on a blocking thread.
#[derive(Debug)]
pub struct LayerReader {
    blob: Option<Box<Blob>>,
    failed: Option<Error>,
    share: Share,
    read: u64,
    name: BlobRef,
    events: Events,
    /// The fetch has ended, and with it whoever wants these bytes.
    over: CancellationToken,
    /// Wakes a read that waits when it has.
    until_over: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// How long the proxy may take for its verdict; `None` means no limit.
    patience: Option<Duration>,
    /// Whether its word is needed: the digest is not checked here.
    trusting: bool,
    back: Option<oneshot::Sender<Returned>>,
}

/// What became of a blob in a handler's hands.
#[derive(Debug)]
pub(super) enum Returned {
    /// It was finished there, with this verdict.
    Finished(Result<()>),
    /// It failed while it was read.
    Failed(Error),
    /// It was dropped, perhaps before its end: this reads the rest.
    Dropped(Box<LayerReader>),
}

impl LayerReader {
    pub(super) fn new(
        blob: Blob,
        name: BlobRef,
        share: Share,
        events: Events,
        over: CancellationToken,
        connection: &ConnectionOptions,
    ) -> (Self, oneshot::Receiver<Returned>) {
        let (back, returned) = oneshot::channel();
        let reader = Self {
            blob: Some(Box::new(blob)),
            failed: None,
            share,
            read: 0,
            name,
            events,
            over,
            until_over: None,
            patience: connection.stall_limit(),
            trusting: connection.trust_proxy_verification,
            back: Some(back),
        };
        (reader, returned)
    }

    /// Reads what is left, and returns whether the blob is right, like [`Blob::finish`]. A sink calls this before it makes
    /// the blob visible.
    ///
    /// # Errors
    ///
    /// What is wrong with the blob.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, it is as if the reader was dropped.
    pub async fn finish(mut self) -> Result<()> {
        let verdict = self.verdict().await;
        self.give_back(Returned::Finished(verdict.clone()));
        verdict
    }

    /// As [`finish`](Self::finish), but if the verdict is bad it is the caller's
    /// alone, and the blob is not tried again.
    pub(super) async fn finish_for_good(mut self) -> Result<()> {
        let verdict = self.verdict().await;
        match &verdict {
            Ok(()) => self.give_back(Returned::Finished(Ok(()))),
            Err(_) => self.back = None,
        }
        verdict
    }

    /// For a sink that hashes what it reads itself, every byte of it: until the
    /// verifier is given back, the end of reading comes without a verdict. `None` if
    /// something was read already, or there is nothing to check.
    pub(crate) fn lend_verifier(&mut self) -> Option<Verifier> {
        self.blob.as_mut()?.lend_verifier()
    }

    /// Before [`finish`](Self::finish), which otherwise fails.
    pub(crate) fn give_back_verifier(&mut self, verifier: Verifier) {
        if let Some(blob) = &mut self.blob {
            blob.give_back_verifier(verifier);
        }
    }

    async fn verdict(&mut self) -> Result<()> {
        // Through this reader, so that the rest is counted and limited, too.
        let mut scratch = AlignedBuffer::new(SCRATCH_BYTES);
        while matches!(self.read(&mut scratch).await, Ok(1..)) {}
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let blob = self.blob.take().ok_or(Error::Closed)?;
        let finished = blob.finish();
        // Before protocol 0.2.8 this takes a call, which may have to wait for
        // another one's late answer.
        match timeout(self.patience, finished).await {
            Ok(verdict) => verdict,
            Err(_) if !self.trusting => Ok(()),
            Err(_) => {
                let stalled = BlobError::Stalled {
                    after: self.patience.unwrap_or_default(),
                    read: self.read,
                };
                Err(Error::blob(&self.name.digest)(stalled))
            }
        }
    }

    /// What is left of this reader when its handler is done with it.
    fn rest(&mut self, blob: Box<Blob>) -> Box<Self> {
        Box::new(Self {
            blob: Some(blob),
            failed: None,
            share: mem::take(&mut self.share),
            read: self.read,
            name: self.name.clone(),
            events: self.events.clone(),
            over: self.over.clone(),
            until_over: None,
            patience: self.patience,
            trusting: self.trusting,
            back: None,
        })
    }

    /// The bytes that were read.
    #[cfg(feature = "decompress")]
    pub(super) fn bytes_read(&self) -> u64 {
        self.read
    }

    /// The bytes that have not been read yet.
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

    fn give_back(&mut self, returned: Returned) {
        if let Some(back) = self.back.take() {
            // Nobody waits if the fetch was given up.
            let _ = back.send(returned);
        }
    }

    fn blob(&mut self) -> io::Result<Pin<&mut Box<Blob>>> {
        self.blob
            .as_mut()
            .map(Pin::new)
            .ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// Remember the library's own error: the handler may wrap or lose it.
    fn failed(&mut self, error: io::Error) -> io::Error {
        let ours = error
            .get_ref()
            .and_then(|e| e.downcast_ref::<Error>())
            .cloned();
        self.failed = Some(ours.unwrap_or_else(|| {
            Error::io("can't read a blob")(io::Error::new(error.kind(), error.to_string()))
        }));
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
}

impl Drop for LayerReader {
    fn drop(&mut self) {
        match (self.failed.take(), self.blob.take()) {
            (Some(error), _) => self.give_back(Returned::Failed(error)),
            (None, Some(blob)) if self.back.is_some() => {
                let rest = self.rest(blob);
                self.give_back(Returned::Dropped(rest));
            }
            (None, _) => {}
        }
    }
}

impl AsyncRead for LayerReader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.not_over()?;
        let allowed = ready!(this.share.poll(cx)).min(out.remaining());
        let room = out.initialize_unfilled_to(allowed);
        let mut room = ReadBuf::new(room);
        let Poll::Ready(read) = this.blob()?.poll_read(cx, &mut room) else {
            return this.poll_over(cx).map(Err);
        };
        let bytes = room.filled().len();
        match read {
            Ok(()) => {
                out.advance(bytes);
                this.took(bytes);
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(this.failed(error))),
        }
    }
}

impl AsyncBufRead for LayerReader {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        this.not_over()?;
        let allowed = ready!(this.share.poll(cx));
        // Asked twice, because a borrow that is returned can't also fail here:
        // the second time the buffer is there.
        match this.blob()?.poll_fill_buf(cx) {
            Poll::Pending => return this.poll_over(cx).map(Err),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(this.failed(error))),
            Poll::Ready(Ok(_)) => {}
        }
        let Some(blob) = &mut this.blob else {
            return Poll::Ready(Ok(&[]));
        };
        let filled = ready!(Pin::new(blob).poll_fill_buf(cx))?;
        Poll::Ready(Ok(&filled[..filled.len().min(allowed)]))
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        let this = self.get_mut();
        if let Some(blob) = &mut this.blob {
            Pin::new(blob).consume(amount);
        }
        this.took(amount);
    }
}
