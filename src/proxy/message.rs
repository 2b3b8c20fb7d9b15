//! The requests of a handle to the actor, and the answers. Handle and actor share only this module
//! and [`held`](super::held).
//!
//! Requests come through the **inbox**, a bounded channel. If a caller leaves before the request is in the inbox,
//! nothing is asked. Releases come through another channel: see [`held`](super::held).

use std::os::fd::OwnedFd;

use oci_spec::image::Digest;
use semver::Version;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::held::{HeldPipe, Lease};
use super::image::OpenedImage;
use crate::error::{Error, Result};
use crate::protocol::{Call, LayerInfo};

/// The number of requests that the inbox has room for. The actor empties the inbox into its own queue at once, so the
/// room only absorbs bursts. The queue is bounded because each caller waits for one answer at a time, and because
/// requests of callers who left are removed.
pub(crate) const INBOX_MESSAGES: usize = 64;

/// The answer to a call.
pub(crate) type Answer = Result<Granted>;

/// A request of a handle.
#[derive(Debug)]
pub(crate) enum Request {
    /// One call on the wire.
    Call {
        call: Call,
        reply: oneshot::Sender<Answer>,
        /// The moment of the request, for the log.
        asked: Instant,
    },
    /// A request to end the proxy after all accepted requests are answered.
    Finalize { reply: oneshot::Sender<Result<()>> },
}

impl Request {
    /// Answers the request with this error. The caller may have left.
    pub(super) fn refuse(self, error: &Error) {
        let error = error.clone();
        let _ = match self {
            Self::Call { reply, .. } => reply.send(Err(error)).is_ok(),
            Self::Finalize { reply } => reply.send(Err(error)).is_ok(),
        };
    }
}

/// The grant of a successful call, with its guards. Dropping it releases what was granted, even in the channel to a
/// caller who has left.
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

/// Sends a call to the actor, and waits for the answer.
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

/// The error of a request that was not answered: the reason why the connection closed, or [`Error::Closed`] if no
/// reason is known.
pub(super) fn close_reason(closed: &watch::Receiver<Option<Error>>) -> Error {
    closed.borrow().clone().unwrap_or(Error::Closed)
}
