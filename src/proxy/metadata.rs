//! Reads whole documents from the proxy's memory: manifests, configs and layer info.

use super::held::{HeldPipe, Lease};
use crate::drain::{bounded, pipe};
use crate::error::{Error, Result};
use crate::protocol::Violation;

/// Reads the document while `FinishPipe` is in flight. The pipe ends only with `FinishPipe`, and a large document does
/// not fit into the pipe.
///
/// A document of more than `limit` bytes is an error, which names the document by `what`. The read end is then closed,
/// so the proxy's writer ends at once, and so does `FinishPipe`.
///
/// A task reads the document, because `FinishPipe` blocks the whole connection until the pipe is drained. The
/// task drains the pipe even if this future is not polled.
///
/// # Cancel safety
///
/// If the future is dropped early, the task ends by itself within the call timeout.
pub(super) async fn read(
    pipe: HeldPipe,
    lease: Lease,
    what: &'static str,
    limit: u64,
) -> Result<Vec<u8>> {
    let HeldPipe { data, mut guard } = pipe;
    let reader = pipe::reader(data).map_err(|_| Error::from(Violation::NotAPipe))?;
    let task = tokio::spawn(async move {
        let reading = async move {
            let read = bounded::read(reader, limit).await;
            let read = read.map_err(Error::io(format!("can't read the {what} from the proxy")))?;
            read.ok_or(Error::DocumentTooLarge { what, limit })
        };
        let releasing = guard.release();
        // The actor waits for the answer to the release, so the lease is not needed any more.
        drop(lease);
        tokio::pin!(reading, releasing);
        tokio::select! {
            read = &mut reading => {
                // The read end is closed, so `FinishPipe` can't block.
                let released = releasing.await;
                read.and_then(|document| released.map(|()| document))
            }
            released = &mut releasing => {
                released?;
                guard.await_pipe_end(reading).await?
            }
        }
    });
    task.await.unwrap_or(Err(Error::Closed))
}
