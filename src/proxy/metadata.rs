//! Manifests, configs and layer info: whole documents from the proxy's memory.

use super::held::{HeldPipe, Lease};
use crate::drain::{bounded, pipe};
use crate::error::{Error, Result};
use crate::protocol::Violation;

/// Read the document while `FinishPipe` is under way: the pipe ends only there, and
/// a large document does not fit into the pipe.
///
/// One of more than `limit` bytes, which `what` names, is given up: with its read
/// end closed, the proxy's writer ends at once, and so does `FinishPipe`.
///
/// This is a task of its own. `FinishPipe` holds up the whole connection until
/// the pipe is drained, so draining must not depend on somebody polling us.
///
/// # Cancel safety
///
/// Dropped early, the task ends by itself within the call timeout.
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
            let read = read.map_err(Error::io("can't read what the proxy hands out"))?;
            read.ok_or(Error::DocumentTooLarge { what, limit })
        };
        let releasing = guard.release();
        // From here on the actor knows that an answer is awaited.
        drop(lease);
        tokio::pin!(reading, releasing);
        tokio::select! {
            read = &mut reading => {
                // The read end is closed by now, so this can't block.
                let released = releasing.await;
                read.and_then(|document| released.map(|()| document))
            }
            released = &mut releasing => {
                released?;
                guard.end_of(reading).await?
            }
        }
    });
    task.await.unwrap_or(Err(Error::Closed))
}
