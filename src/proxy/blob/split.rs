//! A blob in two halves, reader and driver, like those of the crate containers-image-proxy.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use oci_spec::image::Digest;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::watch;

use super::stream::Stream;
use crate::drain::buffered::Buffered;
use crate::error::{BlobError, Error, Result};
use crate::time::timeout;

/// The value of `progress` when all bytes are read, so that only the verdict is missing.
const ALL_READ: u64 = u64::MAX;

/// The verdict on a blob. `None` while the blob is being read or judged.
type Verdict = Option<Result<()>>;

/// The reading half of a [`Blob`](super::Blob). See [`Blob::split`](super::Blob::split).
#[derive(Debug)]
pub struct BlobReader(pub(super) Buffered<SharedStream>);

/// The driver half of a [`Blob`](super::Blob): a future that returns the verdict.
/// See [`Blob::split`](super::Blob::split).
///
/// # Cancel safety
///
/// Dropping the driver does not affect the reader.
pub struct BlobDriver(Pin<Box<dyn Future<Output = Result<()>> + Send>>);

impl fmt::Debug for BlobDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BlobDriver").finish()
    }
}

pub(super) fn split(stream: Stream) -> (BlobReader, BlobDriver) {
    let (verdict, judged) = watch::channel(None);
    let progress = Arc::new(AtomicU64::new(stream.bytes_read()));
    let driver = drive(
        judged,
        Arc::clone(&progress),
        stream.digest().clone(),
        stream.stall_timeout(),
    );
    let mut reader = SharedStream {
        state: ReaderState::Reading(Box::new(stream)),
        verdict,
        progress,
    };
    if reader.is_drained() {
        // A blob of no bytes is judged at once, because its reader may never be polled.
        reader.judge();
    }
    (
        BlobReader(Buffered::new(reader)),
        BlobDriver(Box::pin(driver)),
    )
}

/// Waits for the verdict, as long as the reader makes progress.
async fn drive(
    mut judged: watch::Receiver<Verdict>,
    progress: Arc<AtomicU64>,
    digest: Digest,
    stall_timeout: Option<Duration>,
) -> Result<()> {
    let closed = || Error::blob(&digest)(BlobError::Connection(Box::new(Error::Closed)));
    let mut seen = progress.load(Ordering::Relaxed);
    loop {
        let verdict = judged.wait_for(Option::is_some);
        let verdict = match stall_timeout {
            None => verdict.await,
            Some(after) => {
                let Ok(verdict) = timeout(after, verdict).await else {
                    let now = progress.load(Ordering::Relaxed);
                    if now == seen && now != ALL_READ {
                        return Err(Error::blob(&digest)(BlobError::Unread { after }));
                    }
                    seen = now;
                    continue;
                };
                verdict
            }
        };
        // The sender is dropped without a verdict only if the runtime is gone.
        return verdict
            .ok()
            .and_then(|verdict| verdict.clone())
            .unwrap_or_else(|| Err(closed()));
    }
}

enum ReaderState {
    Reading(Box<Stream>),
    /// All bytes are read, and a task judges them. The future returns that verdict.
    Judging(Pin<Box<dyn Future<Output = Result<()>> + Send + Sync>>),
    Judged(Result<()>),
}

impl fmt::Debug for ReaderState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reading(stream) => f.debug_tuple("Reading").field(stream).finish(),
            Self::Judging(_) => f.write_str("Judging"),
            Self::Judged(verdict) => f.debug_tuple("Judged").field(verdict).finish(),
        }
    }
}

/// A stream whose verdict the driver waits for.
///
/// As soon as the last byte is read, a task finds the verdict. So each half ends even if the other is not polled. The
/// reader may be wrapped in a `take`, which never asks for the end. The driver may be awaited only after the
/// reader's end.
#[derive(Debug)]
pub(super) struct SharedStream {
    state: ReaderState,
    verdict: watch::Sender<Verdict>,
    progress: Arc<AtomicU64>,
}

impl SharedStream {
    fn is_drained(&self) -> bool {
        matches!(&self.state, ReaderState::Reading(stream) if stream.is_drained())
    }

    fn judge(&mut self) {
        self.progress.store(ALL_READ, Ordering::Relaxed);
        let mut judged = self.verdict.subscribe();
        let waiting = Box::pin(async move {
            let verdict = judged.wait_for(Option::is_some).await;
            verdict
                .ok()
                .and_then(|verdict| verdict.clone())
                .unwrap_or(Err(Error::Closed))
        });
        if let ReaderState::Reading(stream) =
            std::mem::replace(&mut self.state, ReaderState::Judging(waiting))
        {
            let verdict = self.verdict.clone();
            stream.runtime().clone().spawn(async move {
                verdict.send_replace(Some(stream.finish().await));
            });
        }
    }
}

impl AsyncRead for SharedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                ReaderState::Reading(stream) if !stream.is_drained() => {
                    let before = out.filled().len();
                    let polled = stream.poll(cx, out);
                    let drained = stream.is_drained();
                    this.progress.store(stream.bytes_read(), Ordering::Relaxed);
                    if drained {
                        this.judge();
                    }
                    match polled {
                        Poll::Ready(Ok(())) if out.filled().len() > before => {
                            return Poll::Ready(Ok(()));
                        }
                        // An end or an error comes with the verdict. If the stream is pending, it will wake the task
                        // that judges it, and not this reader, so the loop goes on to wait for that task.
                        _ if drained => {}
                        other => return other.map_err(io::Error::from),
                    }
                }
                ReaderState::Reading(_) => this.judge(),
                ReaderState::Judging(waiting) => {
                    let verdict = ready!(waiting.as_mut().poll(cx));
                    this.state = ReaderState::Judged(verdict);
                }
                ReaderState::Judged(verdict) => {
                    return Poll::Ready(verdict.clone().map_err(io::Error::from));
                }
            }
        }
    }
}

impl Drop for SharedStream {
    fn drop(&mut self) {
        if let ReaderState::Reading(stream) = &self.state {
            let abandoned = BlobError::Abandoned {
                read: stream.bytes_read(),
            };
            self.verdict
                .send_replace(Some(Err(Error::blob(stream.digest())(abandoned))));
        }
    }
}

impl Future for BlobDriver {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;
    use crate::drain::verify::sha256;

    #[tokio::test(start_paused = true)]
    async fn the_driver_waits_for_a_reader_that_was_stopped_with_this_process() {
        let second = Duration::from_secs(1);
        let (verdict, judged) = watch::channel(None);
        let progress = Arc::new(AtomicU64::new(0));
        let driving = drive(judged, progress, sha256(b""), Some(10 * second));
        let reading = async {
            sleep(5 * second).await;
            advance(60 * second).await;
            sleep(5 * second).await;
            verdict.send_replace(Some(Ok(())));
        };
        let (driven, ()) = tokio::join!(driving, reading);
        driven.expect("the reader is no slower than it may be");
    }
}
