//! Makes sure that no pull uses a layout while blobs are removed from it.
//!
//! A pull decides early that it does not fetch a blob, because the blob is there, and stores others long before
//! the index names them. So nothing may remove blobs while a pull is running. Each pull has a staging folder,
//! which it creates while it holds the lock of the layout, and which it locks until it ends. Whoever holds the
//! lock of the layout and finds no locked staging folder is alone: a pull that begins waits for the lock.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::blocking;
use super::folder::Folder;
use super::staging::{self, LayoutLock, Swept};
use crate::error::{Error, Result};

/// How often to look whether a pull has ended.
const POLL: Duration = Duration::from_millis(100);

/// The lock of a layout that nobody else uses.
pub(super) struct ExclusiveLock {
    pub(super) lock: LayoutLock,
    /// The staging folders of killed pulls that were removed.
    pub(super) swept: Swept,
}

/// Takes the lock of the layout while no pull is running. If one is running, waits for its end, but not longer than
/// `wait`. In errors, `what` names the action that failed.
pub(super) async fn lock(root: &Arc<Folder>, wait: Duration, what: &str) -> Result<ExclusiveLock> {
    let began = Instant::now();
    let mut swept = Swept::default();
    loop {
        let (root, failed) = (Arc::clone(root), Error::io(what.to_owned()));
        let (lock, more) = blocking(move || try_lock(&root).map_err(failed)).await?;
        swept.folders += more.folders;
        swept.bytes += more.bytes;
        if let Some(lock) = lock {
            return Ok(ExclusiveLock { lock, swept });
        }
        let left = wait.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Err(Error::io(what)(busy_error(&more.running_pulls)));
        }
        sleep(POLL.min(left)).await;
    }
}

/// Takes the lock of the layout. `None` if a pull is running.
fn try_lock(root: &Folder) -> io::Result<(Option<LayoutLock>, Swept)> {
    let lock = LayoutLock::take(root)?;
    let swept = staging::sweep(root)?;
    Ok((swept.running_pulls.is_empty().then_some(lock), swept))
}

fn busy_error(pulls: &[String]) -> io::Error {
    let folders = pulls.join("; ");
    let reason = format!(
        "a pull into this layout is running, here or on another host, or earlier pulls have left their folders \
         ({folders}); try again when no pull is running, and remove the folders that are then left"
    );
    io::Error::new(io::ErrorKind::ResourceBusy, reason)
}
