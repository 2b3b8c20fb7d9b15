//! The requests of a handle to the actor, and the answers. Handle and actor meet nowhere else.
//!
//! Requests come through the **inbox**. It is bounded, and a caller who leaves before the request is in it has asked for
//! nothing. What was granted comes back by another channel: see [`held`](super::held).

use std::os::fd::OwnedFd;

use oci_spec::image::Digest;
use semver::Version;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::held::{HeldPipe, Lease};
use super::image::OpenedImage;
use crate::error::{Error, Result};
use crate::protocol::{Call, LayerInfo};

/// The number of requests that the inbox has room for. The actor empties it into its own queue at once, so the room only
/// smooths bursts. The queue is bounded because each caller waits for one answer at a time.
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
    /// Answer what was accepted, then end the proxy.
    Finalize { reply: oneshot::Sender<Result<()>> },
}

/// The thing that a call has granted. Dropping it releases it, also on the way to a caller who has left.
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

/// The error of a request that was not answered: the reason why the connection closed, if the actor has told one.
pub(super) fn close_reason(closed: &watch::Receiver<Option<Error>>) -> Error {
    closed.borrow().clone().unwrap_or(Error::Closed)
}
