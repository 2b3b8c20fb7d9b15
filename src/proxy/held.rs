//! Guards of what the proxy holds for us, and the way by which it is released.
//!
//! Releases go to the actor through an unbounded channel, because `Drop` can't wait. The channel can't grow without bound:
//! each message releases one thing that was granted before, or ends the connection.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::protocol::{Call, Held, Violation};

/// A message of somebody who holds what was granted, to the actor.
#[derive(Debug)]
pub(crate) enum Return {
    /// Something [`Held`] is released. `reply` gets the proxy's answer.
    Release {
        call: Call,
        reply: Option<oneshot::Sender<Result<()>>>,
    },
    /// The proxy broke the protocol where only the reader of a pipe could see it.
    Violation(Violation),
}

/// A lease is held while a blob is open, and until the pipe of a document is being finished. `finalize` waits until all
/// leases are gone.
pub(crate) type Lease = mpsc::Sender<std::convert::Infallible>;

/// A pipe that ends only with `FinishPipe`.
///
/// Dropping it closes the read end first, and then finishes the pipe if that can't block.
#[derive(Debug)]
pub(crate) struct HeldPipe {
    pub(crate) data: OwnedFd,
    pub(crate) guard: ReleaseGuard,
}

/// The time that the rest of a pipe may take after the proxy has said that all of it is written. The rest is in the pipe
/// already.
const AFTER_FINISH: Duration = Duration::from_secs(10);

/// A guard of something that the proxy holds for us. Dropping the guard releases it, if that can't block.
#[derive(Debug)]
pub(crate) struct ReleaseGuard {
    held: Option<Held>,
    returns: mpsc::UnboundedSender<Return>,
}

impl ReleaseGuard {
    pub(crate) fn new(held: Held, returns: mpsc::UnboundedSender<Return>) -> Self {
        let held = Some(held);
        Self { held, returns }
    }

    /// Records that the pipe is drained, so that `FinishPipe` can't block any more.
    pub(crate) fn set_drained(&mut self) {
        if let Some(held) = &mut self.held {
            held.set_drained();
        }
    }

    /// Releases what is held. The answer is the proxy's verdict.
    ///
    /// # Cancel safety
    ///
    /// Once called, it is sent whether or not the answer is awaited.
    pub(crate) fn release(&mut self) -> impl Future<Output = Result<()>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        self.send_release(Some(reply));
        // Without an actor, the reply was dropped with the message.
        async { answer.await.unwrap_or(Err(Error::Closed)) }
    }

    /// Reads what is left in a pipe that is finished. The proxy says that it has closed its end; if that is not so, the
    /// connection ends.
    pub(crate) async fn end_of<T>(&self, reading: impl Future<Output = T>) -> Result<T> {
        timeout(AFTER_FINISH, reading).await.map_err(|_| {
            let violation = Violation::Unfinished;
            let _ = self.returns.send(Return::Violation(violation.clone()));
            violation.into()
        })
    }

    fn send_release(&mut self, reply: Option<oneshot::Sender<Result<()>>>) {
        let Some(held) = self.held.take() else {
            return;
        };
        if let Some(call) = held.release() {
            // Without an actor, nothing is held.
            let _ = self.returns.send(Return::Release { call, reply });
        } else {
            tracing::debug!(?held, "left unfinished");
        }
    }
}

impl Drop for ReleaseGuard {
    fn drop(&mut self) {
        self.send_release(None);
    }
}
