//! What handle and actor say to each other. They meet nowhere else.
//!
//! There are two channels. The **inbox** carries what somebody asks for; it is
//! bounded, and an asker who leaves before his call is sent has asked for
//! nothing. **Returns** carries what is given back: images and pipes that the
//! proxy holds for us. It is unbounded, because `Drop` can't wait, and can't
//! grow without bound, because each message gives back one thing that was
//! granted before, or ends the connection.

use std::os::fd::OwnedFd;
use std::time::Duration;

use oci_spec::image::Digest;
use semver::Version;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::image::OpenedImage;
use crate::error::{Error, Result};
use crate::protocol::{Call, Held, LayerInfo, Violation};

/// Room in the inbox. The actor empties it into its own queue at once, so
/// this only smooths bursts; what bounds that queue is that a caller waits for
/// one answer at a time.
pub(crate) const INBOX_MESSAGES: usize = 64;

pub(crate) type Answer = Result<Granted>;

/// What is asked for.
#[derive(Debug)]
pub(crate) enum Request {
    /// One call on the wire.
    Call {
        call: Call,
        reply: oneshot::Sender<Answer>,
        /// When, to tell what it waited for.
        asked: Instant,
    },
    /// Answer what is accepted, then end the proxy.
    Finalize { reply: oneshot::Sender<Result<()>> },
}

/// Messages of those who hold what was granted, to the actor.
#[derive(Debug)]
pub(crate) enum Return {
    /// Something [`Held`] is released.
    Release {
        call: Call,
        reply: Option<oneshot::Sender<Answer>>,
    },
    /// The proxy broke the protocol where only the reader of a pipe could see it.
    Violation(Violation),
}

/// What a call has granted. Dropping it releases it: by the caller, or on the way to a caller who has left.
#[derive(Debug)]
pub(crate) enum Granted {
    Done,
    Version(Version),
    Image(Option<OpenedImage>),
    Manifest {
        digest: Digest,
        pipe: HeldPipe,
        lease: Lease,
    },
    Document {
        pipe: HeldPipe,
        lease: Lease,
    },
    Blob {
        size: Option<u64>,
        pipe: HeldPipe,
        lease: Lease,
    },
    RawBlob {
        size: Option<u64>,
        data: OwnedFd,
        error: OwnedFd,
        lease: Lease,
    },
    Layers(Vec<LayerInfo>),
    Socket(OwnedFd),
}

/// A lease is held while a blob is open, and until the pipe of a document is being finished. `finalize` waits until all
/// leases are gone.
pub(crate) type Lease = mpsc::Sender<std::convert::Infallible>;

/// A pipe that ends only with `FinishPipe`.
///
/// Dropped, it closes the read end first, and is finished then if that can't
/// block.
#[derive(Debug)]
pub(crate) struct HeldPipe {
    pub(crate) data: OwnedFd,
    pub(crate) guard: ReleaseGuard,
}

/// How long the rest of a pipe may take after the proxy has said that all of it
/// is written: it is there already.
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

    /// The pipe is drained: from now on `FinishPipe` can't block.
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
        async { answer.await.unwrap_or(Err(Error::Closed)).map(|_| ()) }
    }

    /// Reads what is left in a pipe that is finished. The proxy says that it has
    /// closed its end: if that is not so, the connection ends.
    pub(crate) async fn end_of<T>(&self, reading: impl Future<Output = T>) -> Result<T> {
        timeout(AFTER_FINISH, reading).await.map_err(|_| {
            let violation = Violation::Unfinished;
            let _ = self.returns.send(Return::Violation(violation.clone()));
            violation.into()
        })
    }

    fn send_release(&mut self, reply: Option<oneshot::Sender<Answer>>) {
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

/// Asks the actor, and waits for its answer.
pub(super) async fn ask(
    inbox: &mpsc::Sender<Request>,
    closed: &watch::Receiver<Option<Error>>,
    call: Call,
) -> Result<Granted> {
    let (reply, answer) = oneshot::channel();
    let asked = Instant::now();
    inbox
        .send(Request::Call { call, reply, asked })
        .await
        .map_err(|_| close_reason(closed))?;
    answer.await.unwrap_or_else(|_| Err(close_reason(closed)))
}

/// Why there is no answer: what the actor left word of, or just that it is gone.
pub(super) fn close_reason(closed: &watch::Receiver<Option<Error>>) -> Error {
    closed.borrow().clone().unwrap_or(Error::Closed)
}
