//! Manifests, configs and layer info: whole documents from the proxy's memory.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::message::MemoryPipe;
use crate::drain::pipe;
use crate::error::{Error, Result};
use crate::protocol::Violation;

/// Read the document while `FinishPipe` is under way: the pipe ends only
/// there, and a large document does not fit into the pipe.
///
/// This is a task of its own. `FinishPipe` holds up the whole connection until
/// the pipe is drained, so draining must not depend on somebody polling us.
///
/// # Cancel safety
///
/// Dropped early, the task ends by itself within the call timeout.
pub(super) async fn read(pipe: MemoryPipe, call_timeout: Option<Duration>) -> Result<Vec<u8>> {
    let MemoryPipe { data, debt } = pipe;
    let mut reader = pipe::reader(data).map_err(|_| Error::Protocol(Violation::NotAPipe))?;
    let task = tokio::spawn(async move {
        let mut document = Vec::new();
        let paid = debt.pay();
        let read = async {
            let read = reader.read_to_end(&mut document).await;
            read.map_err(Error::io("can't read what the proxy hands out"))
        };
        let both = async { tokio::try_join!(paid, read) };
        match call_timeout {
            None => both.await?,
            Some(after) => timeout(after, both)
                .await
                .map_err(|_| Error::CallTimeout {
                    method: "FinishPipe",
                    after,
                })??,
        };
        Ok(document)
    });
    task.await.unwrap_or(Err(Error::Closed))
}
