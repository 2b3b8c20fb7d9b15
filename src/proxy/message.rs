//! What handle and actor say to each other. They meet nowhere else.
//!
//! There are two channels. The **inbox** carries what somebody asks for; it is
//! bounded, and an asker who leaves before his call is sent has asked for
//! nothing. **Returns** carries what is given back: images and pipes that the
//! proxy holds for us. It is unbounded, because `Drop` can't wait, and can't
//! grow without bound, because each message gives back one thing that was
//! granted before.

use std::os::fd::OwnedFd;

use semver::Version;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::image::OpenedImage;
use crate::error::{Error, Result};
use crate::protocol::{Call, ImageId, LayerInfo, PipeId};

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

/// What is given back.
#[derive(Debug)]
pub(crate) enum Return {
    CloseImage {
        image: ImageId,
        reply: Option<oneshot::Sender<Answer>>,
    },
    /// Only for a pipe that is drained, or filled from memory and closed or
    /// being drained: anything else would block the connection.
    FinishPipe {
        pipe: PipeId,
        reply: Option<oneshot::Sender<Answer>>,
    },
}

/// A granted thing, in the hands of a guard that gives it back when dropped:
/// by the caller, or on the way to one who left.
#[derive(Debug)]
pub(crate) enum Granted {
    Done,
    Version(Version),
    Image(Option<OpenedImage>),
    Manifest {
        digest: String,
        pipe: MemoryPipe,
    },
    Document(MemoryPipe),
    Blob {
        size: Option<u64>,
        pipe: BlobPipe,
        lease: BlobLease,
    },
    RawBlob {
        size: Option<u64>,
        data: OwnedFd,
        error: OwnedFd,
        lease: BlobLease,
    },
    Layers(Vec<LayerInfo>),
    Socket(OwnedFd),
}

/// Held as long as a blob is open: `finalize` waits until all are gone.
pub(crate) type BlobLease = mpsc::Sender<std::convert::Infallible>;

/// A pipe that the proxy fills from memory.
///
/// Dropped, it closes the read end first and then has the pipe finished; the
/// proxy's writer ends with `EPIPE` at once, so this never blocks.
#[derive(Debug)]
pub(crate) struct MemoryPipe {
    pub(crate) data: OwnedFd,
    pub(crate) debt: PipeDebt,
}

/// A pipe that the proxy fills from the network.
#[derive(Debug)]
pub(crate) struct BlobPipe {
    pub(crate) data: OwnedFd,
    pub(crate) debt: PipeDebt,
}

/// The `FinishPipe` that a pipe still needs.
///
/// Dropped while [payable](Self::make_payable), it pays itself. Dropped before,
/// it is written off: the proxy then keeps one descriptor until it ends, which
/// is little against a connection that blocks.
#[derive(Debug)]
pub(crate) struct PipeDebt {
    pipe: Option<PipeId>,
    payable: bool,
    returns: mpsc::UnboundedSender<Return>,
}

impl PipeDebt {
    pub(crate) fn new(pipe: PipeId, payable: bool, returns: mpsc::UnboundedSender<Return>) -> Self {
        Self {
            pipe: Some(pipe),
            payable,
            returns,
        }
    }

    /// The pipe is drained: from now on `FinishPipe` can't block.
    pub(crate) fn make_payable(&mut self) {
        self.payable = true;
    }

    /// Send `FinishPipe`; the answer is the proxy's verdict.
    ///
    /// # Cancel safety
    ///
    /// Once called, it is sent whether or not the answer is awaited.
    pub(crate) fn pay(mut self) -> impl Future<Output = Result<()>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        if let Some(pipe) = self.pipe.take() {
            // A closed channel drops the reply with the message: `Closed`.
            let _ = self.returns.send(Return::FinishPipe {
                pipe,
                reply: Some(reply),
            });
        }
        async { answer.await.unwrap_or(Err(Error::Closed)).map(|_| ()) }
    }
}

impl Drop for PipeDebt {
    fn drop(&mut self) {
        match self.pipe.take() {
            Some(pipe) if self.payable => {
                // No actor, no debt.
                let _ = self.returns.send(Return::FinishPipe { pipe, reply: None });
            }
            Some(pipe) => tracing::debug!(pipe = pipe.get(), "left a pipe unfinished"),
            None => {}
        }
    }
}
