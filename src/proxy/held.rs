//! Guards of the images and pipes that the proxy holds for us, and the messages that release them.
//!
//! Releases go to the actor through an unbounded channel, because `Drop` can't wait. The channel can't grow without
//! bound: each message releases one image or pipe that was granted before, or ends the connection.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, Result};
use crate::protocol::{Call, Held, Violation};
use crate::time::timeout;

/// A message of a guard to the actor.
#[derive(Debug)]
pub(crate) enum GuardMessage {
    /// A guard releases what it holds, by this call. `reply` gets the proxy's answer.
    Release {
        call: Call,
        reply: Option<oneshot::Sender<Result<()>>>,
    },
    /// A guard finishes the pipe of a blob that is still being sent, and gives the connection up. `reply` gets the
    /// proxy's answer, which comes when the blob has ended.
    FinishEarly {
        call: Call,
        reply: oneshot::Sender<Result<()>>,
    },
    /// The proxy broke the protocol where only the reader of a pipe could see it.
    Violation(Violation),
}

/// A lease is held while a blob is open, and until the pipe of a document is being finished. `finalize` waits until all
/// leases are gone.
pub(crate) type Lease = mpsc::Sender<std::convert::Infallible>;

/// A pipe that ends only with `FinishPipe`.
///
/// Dropping a `HeldPipe` closes the read end first, and then finishes the pipe if that can't block.
#[derive(Debug)]
pub(crate) struct HeldPipe {
    pub(crate) data: OwnedFd,
    pub(crate) guard: ReleaseGuard,
}

/// The time that the rest of a pipe may take after the proxy has reported that all bytes are written. These bytes are
/// in the pipe already.
const PIPE_END_TIMEOUT: Duration = Duration::from_secs(10);

/// A guard of an image or pipe that the proxy holds for us. Dropping the guard releases the image or pipe, if that
/// can't block.
#[derive(Debug)]
pub(crate) struct ReleaseGuard {
    held: Option<Held>,
    release_tx: mpsc::UnboundedSender<GuardMessage>,
}

impl ReleaseGuard {
    pub(crate) fn new(held: Held, release_tx: mpsc::UnboundedSender<GuardMessage>) -> Self {
        let held = Some(held);
        Self { held, release_tx }
    }

    /// Records that the pipe is drained, so that `FinishPipe` can't block any more.
    pub(crate) fn set_drained(&mut self) {
        if let Some(held) = &mut self.held {
            held.set_drained();
        }
    }

    /// Releases the image or pipe. The future returns the proxy's answer, which contains the verdict on a blob's pipe.
    ///
    /// # Cancel safety
    ///
    /// The release is sent by this call, whether or not the future is awaited.
    pub(crate) fn release(&mut self) -> impl Future<Output = Result<()>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        self.send_release(Some(reply));
        // Without an actor, the reply was dropped with the message.
        async { answer.await.unwrap_or(Err(Error::Closed)) }
    }

    /// Finishes the pipe of a blob that is still being sent. The future returns the proxy's answer, which comes
    /// when the blob has ended. The connection is given up: it accepts no more requests, and ends when its open
    /// blobs have ended.
    pub(crate) fn finish_early(&mut self) -> impl Future<Output = Result<()>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        if let Some(call) = self.held.take().and_then(Held::finish_early) {
            // Without an actor, the reply was dropped with the message.
            let _ = self
                .release_tx
                .send(GuardMessage::FinishEarly { call, reply });
        }
        async { answer.await.unwrap_or(Err(Error::Closed)) }
    }

    /// Waits for `reading`, which reads a finished pipe to its end. The proxy has reported that its end of the pipe is
    /// closed. If the pipe does not end within [`PIPE_END_TIMEOUT`], the connection ends with a violation.
    pub(crate) async fn await_pipe_end<T>(&self, reading: impl Future<Output = T>) -> Result<T> {
        timeout(PIPE_END_TIMEOUT, reading).await.map_err(|_| {
            let violation = Violation::Unfinished;
            let _ = self
                .release_tx
                .send(GuardMessage::Violation(violation.clone()));
            violation.into()
        })
    }

    fn send_release(&mut self, reply: Option<oneshot::Sender<Result<()>>>) {
        let Some(held) = self.held.take() else {
            return;
        };
        if let Some(call) = held.release() {
            // Without an actor, nothing is held.
            let _ = self.release_tx.send(GuardMessage::Release { call, reply });
        } else {
            tracing::debug!(?held, "a pipe is left unfinished");
        }
    }
}

impl Drop for ReleaseGuard {
    fn drop(&mut self) {
        self.send_release(None);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;
    use crate::protocol::ImageId;

    #[tokio::test(start_paused = true)]
    async fn a_finished_pipe_may_end_late_if_this_process_was_stopped() {
        let second = Duration::from_secs(1);
        let (release_tx, mut messages) = mpsc::unbounded_channel();
        let image = ImageId::new(1).expect("not zero");
        let guard = ReleaseGuard::new(Held::Image(image), release_tx);
        let reading = async {
            sleep(5 * second).await;
            advance(60 * second).await;
            sleep(5 * second).await;
        };
        guard.await_pipe_end(reading).await.expect("no violation");
        messages.try_recv().expect_err("no violation");
        guard
            .await_pipe_end(sleep(11 * second))
            .await
            .expect_err("the pipe does not end");
        let violation = messages.try_recv().expect("a violation");
        assert!(
            matches!(violation, GuardMessage::Violation(_)),
            "{violation:?}"
        );
    }
}
