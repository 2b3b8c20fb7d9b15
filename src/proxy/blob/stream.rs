//! The unbuffered stream of one blob's bytes, with the check of size and digest.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use oci_spec::image::Digest;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::unix::pipe::Receiver;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::finish_pipe::{FinishPipe, QuietWatch};
use super::flow::{Flow, TimeLimits};
use crate::drain::aligned::AlignedBuffer;
use crate::drain::pipe;
use crate::drain::verify::Verifier;
use crate::error::{BlobError, Error, Result};
use crate::protocol::{Refusal, Violation};
use crate::proxy::held::{HeldPipe, Lease};
use crate::proxy::runtime_check::answer_or_idle;
use crate::time::timeout;

/// How long to wait for the news that the whole proxy has died, after a pipe has ended early without a reason. That
/// news comes at about the same time, through another channel. A raw blob of unknown size always costs this wait,
/// because only that news distinguishes its end from the end of the proxy.
const CLOSE_REASON_WAIT: Duration = Duration::from_millis(500);

/// The maximum number of bytes that are read from an error pipe. It is larger than any message of skopeo.
const ERROR_BYTES: u64 = 64 * 1024;

/// The size of the buffer into which discarded bytes are read, in bytes.
const SCRATCH_BYTES: usize = 64 * 1024;

/// The source of a blob's bytes, and how the blob ends.
#[derive(Debug)]
pub(in crate::proxy) struct Source {
    // Fields are dropped in this order, so a held pipe is released after its read end is closed.
    data: Receiver,
    ends: BlobEnd,
}

/// The way in which a blob ends.
#[derive(Debug)]
enum BlobEnd {
    /// The blob ends with its pipe (`GetRawBlob`). An error pipe contains the reason of an early end.
    WithPipe { error: Option<Receiver> },
    /// The blob ends with `FinishPipe` (`GetBlob`). The answer to that call contains the reason of an early end.
    ByFinishPipe(FinishPipe),
}

/// The place where the digest of a blob is checked.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every blob has its verifier here"
)]
enum Check {
    /// The stream hashes each byte that it returns.
    ByStream(Verifier),
    /// The reader that took the verifier hashes the bytes, and gives the verifier back before the verdict.
    ByReader,
    /// Nobody checks the digest: the blob is a raw blob, or has been checked.
    None,
}

impl Source {
    pub(in crate::proxy) fn raw(data: OwnedFd, error: OwnedFd) -> Result<Self> {
        let data = pipe::blob_reader(data).map_err(not_a_pipe)?;
        let error = Some(pipe::reader(error).map_err(not_a_pipe)?);
        Ok(Self {
            data,
            ends: BlobEnd::WithPipe { error },
        })
    }

    pub(in crate::proxy) fn piped(pipe: HeldPipe) -> Result<Self> {
        let HeldPipe { data, guard } = pipe;
        let data = pipe::blob_reader(data).map_err(not_a_pipe)?;
        Ok(Self {
            data,
            ends: BlobEnd::ByFinishPipe(FinishPipe::new(guard)),
        })
    }

    /// Makes a source of these bytes, which also come through a pipe, for tests of code that reads blobs. This
    /// function must be called within a tokio runtime.
    pub(in crate::proxy) fn of_bytes(bytes: Vec<u8>) -> Result<Self> {
        let (mut sender, data) =
            tokio::net::unix::pipe::pipe().map_err(Error::io("can't make a pipe"))?;
        tokio::spawn(async move {
            // The reader may be dropped before the end.
            let _ = sender.write_all(&bytes).await;
        });
        let ends = BlobEnd::WithPipe { error: None };
        Ok(Self { data, ends })
    }
}

fn not_a_pipe(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::InvalidInput {
        Violation::NotAPipe.into()
    } else {
        Error::io("can't use the blob's pipe")(error)
    }
}

/// The parts and settings of a stream.
pub(in crate::proxy) struct Opened {
    pub(in crate::proxy) digest: Digest,
    /// The size that the blob must have, in bytes. `None` for a raw blob.
    pub(in crate::proxy) size: Option<u64>,
    pub(in crate::proxy) announced: Option<u64>,
    pub(in crate::proxy) source: Source,
    /// The verifier of the blob's digest. `None` for a raw blob.
    pub(in crate::proxy) verifier: Option<Verifier>,
    pub(in crate::proxy) limits: TimeLimits,
    pub(in crate::proxy) closed: watch::Receiver<Option<Error>>,
    pub(in crate::proxy) lease: Lease,
}

enum State {
    Reading,
    /// The pipe ended early. The future finds out why.
    Judging(Pin<Box<dyn Future<Output = Result<()>> + Send + Sync>>),
    /// The blob has ended with this verdict. `Ok` means that all bytes came, and, unless the blob is a raw blob, that
    /// they have the right digest.
    Ended(Result<()>),
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reading => f.write_str("Reading"),
            Self::Judging(_) => f.write_str("Judging"),
            Self::Ended(verdict) => f.debug_tuple("Ended").field(verdict).finish(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Stream {
    source: Source,
    digest: Digest,
    size: Option<u64>,
    announced: Option<u64>,
    read: u64,
    check: Check,
    state: State,
    flow: Flow,
    closed: watch::Receiver<Option<Error>>,
    runtime: Handle,
    lease: Lease,
}

impl Stream {
    /// Makes a stream. This function must be called within a tokio runtime, like those that make a [`Source`].
    pub(super) fn new(mut opened: Opened) -> Self {
        if let (Some(0), BlobEnd::ByFinishPipe(end)) = (opened.size, &mut opened.source.ends) {
            // All bytes of an empty blob are read.
            end.set_drained();
        }
        let Opened {
            digest,
            size,
            announced,
            source,
            verifier,
            limits,
            closed,
            lease,
        } = opened;
        Self {
            source,
            digest,
            size,
            announced,
            read: 0,
            check: verifier.map_or(Check::None, Check::ByStream),
            state: State::Reading,
            flow: Flow::new(limits),
            closed,
            runtime: Handle::current(),
            lease,
        }
    }

    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    pub(super) fn announced(&self) -> Option<u64> {
        self.announced
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.read
    }

    pub(super) fn stall_timeout(&self) -> Option<Duration> {
        self.flow.limits().stall_timeout
    }

    /// Lets a blob of `GetBlob` be finished early, as the watch says. Does nothing for other blobs, whose pipes tell
    /// that a transfer broke off.
    pub(super) fn watch_quiet(&mut self, watch: QuietWatch) {
        if let BlobEnd::ByFinishPipe(end) = &mut self.source.ends {
            end.watch_quiet(watch);
        }
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Takes the verifier, for a caller that hashes all bytes that it reads. From then on, the end comes after the
    /// last byte, without a verdict. [`return_verifier`](Self::return_verifier) must be called before
    /// [`finish`](Self::finish). `None` if bytes were already read.
    pub(super) fn take_verifier(&mut self) -> Option<Verifier> {
        match std::mem::replace(&mut self.check, Check::ByReader) {
            Check::ByStream(verifier) if self.read == 0 => Some(verifier),
            other => {
                self.check = other;
                None
            }
        }
    }

    pub(super) fn return_verifier(&mut self, verifier: Verifier) {
        self.check = Check::ByStream(verifier);
    }

    /// Returns the blob's pipe, in blocking mode, and a future that returns what the proxy reports when the blob ends.
    /// This library does not see the bytes, so it checks no size, and sets no time limit.
    pub(super) fn into_pipe(
        self,
    ) -> Result<(OwnedFd, impl Future<Output = Result<()>> + Send + use<>)> {
        let Self {
            source,
            digest,
            closed,
            lease,
            ..
        } = self;
        let data = source.data.into_blocking_fd();
        let data = data.map_err(Error::io("can't use the blob's pipe"))?;
        let ends = source.ends;
        let verdict = async move {
            let reported = match ends {
                BlobEnd::WithPipe { error: Some(error) } => read_error_pipe(error).await,
                BlobEnd::WithPipe { error: None } | BlobEnd::ByFinishPipe(_) => Ok(()),
            };
            let close_reason = || closed.borrow().clone();
            let verdict = reported.and_then(|()| match close_reason() {
                Some(error) => Err(BlobError::Connection(Box::new(error))),
                None => Ok(()),
            });
            // The lease is held until here, so that the proxy runs until it has reported how the blob ended.
            drop(lease);
            verdict.map_err(Error::blob(&digest))
        };
        Ok((data, verdict))
    }

    /// Whether no more bytes will be read, because all are read or the stream failed.
    pub(super) fn is_drained(&self) -> bool {
        self.size == Some(self.read) || !matches!(self.state, State::Reading)
    }

    /// Reads some bytes. If none are read, this is the end of a blob whose verdict is good.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            match &mut self.state {
                State::Ended(verdict) => return Poll::Ready(verdict.clone()),
                State::Judging(judging) => {
                    let verdict = ready!(judging.as_mut().poll(cx));
                    self.state = State::Ended(verdict);
                }
                State::Reading if self.size == Some(self.read) => {
                    if let Check::ByReader = self.check {
                        return Poll::Ready(Ok(()));
                    }
                    ready!(self.poll_end(cx));
                }
                State::Reading => {
                    let wanted = self.size.map_or(u64::MAX, |size| size - self.read);
                    let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
                    let room = out.initialize_unfilled_to(out.remaining().min(wanted));
                    let mut room = ReadBuf::new(room);
                    match ready!(self.poll_pipe(cx, &mut room)) {
                        Ok(0) => self.judge_early_end(),
                        Ok(n) => {
                            self.record(room.filled());
                            out.advance(n);
                            return Poll::Ready(Ok(()));
                        }
                        Err(error) => self.end(Err(error)),
                    }
                }
            }
        }
    }

    /// Counts and hashes bytes that came.
    fn record(&mut self, bytes: &[u8]) {
        self.read += bytes.len() as u64;
        if let Check::ByStream(verifier) = &mut self.check {
            verifier.update(bytes);
        }
        if self.size == Some(self.read)
            && let BlobEnd::ByFinishPipe(end) = &mut self.source.ends
        {
            end.set_drained();
        }
    }

    /// Finds the verdict after the last expected byte: checks that no byte follows, where the pipe shows that, and
    /// checks the digest.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let BlobEnd::WithPipe { .. } = self.source.ends {
            let mut excess = [0];
            match ready!(self.poll_pipe(cx, &mut ReadBuf::new(&mut excess))) {
                Ok(0) => {}
                Ok(_) => {
                    let size = self.read;
                    self.end(Err(BlobError::TooLong { size }));
                    return Poll::Ready(());
                }
                Err(error) => {
                    self.end(Err(error));
                    return Poll::Ready(());
                }
            }
        }
        let verdict = match std::mem::replace(&mut self.check, Check::None) {
            Check::ByStream(verifier) => verifier.finish(),
            Check::ByReader | Check::None => Ok(()),
        };
        self.end(verdict.map_err(|computed| BlobError::Corrupt { computed }));
        Poll::Ready(())
    }

    fn end(&mut self, verdict: Result<(), BlobError>) {
        self.state = State::Ended(verdict.map_err(Error::blob(&self.digest)));
    }

    /// Begins to find out why the pipe ended. It ended before the expected size, or no size is expected.
    fn judge_early_end(&mut self) {
        let reported: Option<Reported> = match &mut self.source.ends {
            BlobEnd::WithPipe { error } => error
                .take()
                .map(|error| Box::pin(read_error_pipe(error)) as Reported),
            BlobEnd::ByFinishPipe(end) => {
                let report = end.take_report();
                report.map(|report| Box::pin(report) as Reported)
            }
        };
        let expected = self.size.or(self.announced);
        let judging = end_reason(
            reported,
            self.read,
            expected,
            self.closed.clone(),
            self.stall_timeout(),
        );
        let digest = self.digest.clone();
        let judging = async move { judging.await.map_err(Error::blob(&digest)) };
        self.state = State::Judging(Box::pin(judging));
    }

    /// Reads from the pipe, within the time limits of the blob.
    fn poll_pipe(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<Result<usize, BlobError>> {
        match Pin::new(&mut self.source.data).poll_read(cx, room) {
            Poll::Ready(Ok(())) => {
                let bytes = room.filled().len();
                Poll::Ready(match self.flow.record(bytes) {
                    // The end of the pipe has no bytes, and is not too slow.
                    Err(over) if bytes > 0 => Err(BlobError::TooSlow {
                        least: self.flow.limits().least_rate,
                        over,
                        read: self.read,
                    }),
                    _ => Ok(bytes),
                })
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(BlobError::Read(Arc::new(error)))),
            Poll::Pending => {
                let since = self.flow.wait();
                if let BlobEnd::ByFinishPipe(end) = &mut self.source.ends
                    && let Poll::Ready(error) = end.poll_broken(since, cx)
                {
                    return Poll::Ready(Err(error));
                }
                let after = ready!(self.flow.poll(cx));
                Poll::Ready(Err(BlobError::Stalled {
                    after,
                    read: self.read,
                }))
            }
        }
    }

    /// Reads and checks the rest, and returns the verdict.
    pub(super) async fn finish(mut self) -> Result<()> {
        if let Check::ByReader = self.check {
            return Err(Error::blob(&self.digest)(BlobError::Abandoned {
                read: self.read,
            }));
        }
        if !matches!(self.state, State::Ended(_)) {
            let mut scratch = AlignedBuffer::new(SCRATCH_BYTES);
            while self.read_some(&mut scratch).await? > 0 {}
        }
        if let State::Ended(verdict) = &self.state {
            verdict.clone()?;
        }
        let Self {
            source: Source { data, ends },
            digest,
            read,
            runtime,
            lease,
            ..
        } = self;
        // A raw blob never ends by `FinishPipe`, so every blob that is finished below has been checked.
        let BlobEnd::ByFinishPipe(end) = ends else {
            return Ok(());
        };
        // `FinishPipe` blocks the connection until the proxy has written all bytes. A task waits for it, because this
        // future may not be polled any more.
        let finished = runtime.spawn(async move {
            match finish_pipe(data, end, read).await {
                // All bytes came and have the right digest. Only the proxy's answer is missing.
                Err(BlobError::Connection(_)) => Ok(()),
                verdict => verdict,
            }
        });
        let finished = async { Ok(finished.await.unwrap_or(Ok(()))) };
        let verdict = answer_or_idle(&runtime, finished).await.unwrap_or(Ok(()));
        // The lease is held by this future and not by the task, so that the proxy can end when nobody waits.
        drop(lease);
        verdict.map_err(Error::blob(&digest))
    }

    async fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut room = ReadBuf::new(buffer);
        poll_fn(|cx| self.poll(cx, &mut room)).await?;
        Ok(room.filled().len())
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().poll(cx, out).map_err(io::Error::from)
    }
}

/// Sends `FinishPipe` for a pipe of which `size` bytes were read, and checks that no more bytes come.
async fn finish_pipe(mut data: Receiver, end: FinishPipe, size: u64) -> Result<(), BlobError> {
    let excess = async move {
        // The read ends when the proxy has closed the pipe. If a byte comes instead, the read end is closed at once,
        // so that the proxy does not block on further bytes.
        let read = data.read(&mut [0]).await;
        drop(data);
        matches!(read, Ok(1))
    };
    let (mut released, guard) = end.finish();
    tokio::pin!(excess);
    let (released, excess) = tokio::select! {
        excess = &mut excess => (released.await, excess),
        released = &mut released => match released {
            Ok(()) => match guard.await_pipe_end(excess).await {
                Ok(excess) => (Ok(()), excess),
                Err(error) => (Err(error), false),
            },
            // The proxy reports an error of the blob. A byte too many may be the cause, and is in the pipe already.
            Err(error @ Error::Refused { .. }) => {
                let excess = timeout(CLOSE_REASON_WAIT, excess).await;
                (Err(error), excess.unwrap_or(false))
            }
            // The connection is gone.
            Err(error) => (Err(error), false),
        }
    };
    match released {
        _ if excess => Err(BlobError::TooLong { size }),
        Ok(()) => Ok(()),
        Err(Error::Refused { refusal, .. }) => Err(BlobError::Refused(refusal)),
        Err(error) => Err(BlobError::Connection(Box::new(error))),
    }
}

/// The JSON message in an error pipe.
#[derive(Deserialize)]
struct ErrorPipe {
    code: String,
    message: String,
}

/// What the proxy reports when a blob ends.
type Reported = Pin<Box<dyn Future<Output = Result<(), BlobError>> + Send + Sync>>;

/// Finds out why a pipe ended after `read` bytes: by an error that the proxy reports, by the exit of the proxy, or
/// without a reason. Returns `Ok` only if `read` bytes were expected, or no size is known.
async fn end_reason(
    reported: Option<Reported>,
    read: u64,
    expected: Option<u64>,
    mut closed: watch::Receiver<Option<Error>>,
    stall_timeout: Option<Duration>,
) -> Result<(), BlobError> {
    if let Some(reported) = reported {
        match stall_timeout {
            None => reported.await?,
            Some(after) => timeout(after, reported)
                .await
                .map_err(|_| BlobError::Stalled { after, read })??,
        }
    }
    if expected == Some(read) {
        return Ok(());
    }
    // This also matters where no size is known: the pipes of a proxy that exits end just like those of one that has
    // sent all bytes.
    let close_reason = timeout(CLOSE_REASON_WAIT, closed.wait_for(Option::is_some)).await;
    if let Ok(Ok(error)) = close_reason
        && let Some(error) = error.as_ref()
    {
        return Err(BlobError::Connection(Box::new(error.clone())));
    }
    match expected {
        None => Ok(()),
        Some(size) if read > size => Err(BlobError::TooLong { size }),
        Some(size) => Err(BlobError::Short { read, size }),
    }
}

/// Reads an error pipe to its end. `Err` is what the proxy wrote into it.
async fn read_error_pipe(error: Receiver) -> Result<(), BlobError> {
    let mut reported = Vec::new();
    let read = error.take(ERROR_BYTES).read_to_end(&mut reported).await;
    read.map_err(|e| BlobError::Read(Arc::new(e)))?;
    if reported.is_empty() {
        Ok(())
    } else {
        Err(BlobError::Refused(parse_refusal(&reported)))
    }
}

fn parse_refusal(message: &[u8]) -> Refusal {
    match serde_json::from_slice(message) {
        Ok(ErrorPipe { code, message }) => Refusal::from_wire(&code, &message),
        // The message is not in the right form, but is an error all the same.
        Err(_) => Refusal::from_wire("", &String::from_utf8_lossy(message)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::unix::pipe;
    use tokio::time::{advance, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_error_pipe_does_not_stall_while_this_process_is_stopped() {
        let second = Duration::from_secs(1);
        let (sender, error) = pipe::pipe().expect("a pipe");
        let (_closed, closed) = watch::channel(None);
        let reported: Reported = Box::pin(read_error_pipe(error));
        let verdict = end_reason(Some(reported), 7, Some(7), closed, Some(10 * second));
        let stopped = async {
            sleep(5 * second).await;
            advance(60 * second).await;
            sleep(5 * second).await;
            drop(sender);
        };
        let (verdict, ()) = tokio::join!(verdict, stopped);
        verdict.expect("no stall");
    }
}
