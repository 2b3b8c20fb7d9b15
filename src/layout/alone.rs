//! The sole use of a layout, for whatever removes blobs.
//!
//! A pull decides early that it does not fetch a blob, because the blob is there, and stores others long before
//! the index names them. So nothing may remove blobs while a pull is running. Each pull has a staging folder,
//! which it creates while it holds the lock of the layout, and which it locks until it ends. Whoever holds the
//! lock of the layout and finds no locked staging folder is alone: a pull that begins waits for the lock.

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::blocking;
use super::folder::Folder;
use super::staging::{self, LayoutLock};
use crate::error::{Error, Result};

/// How often to look whether a pull has ended.
const POLL: Duration = Duration::from_millis(100);

/// Takes the lock of the layout while no pull is running. If one is running, waits for its end, but not longer
/// than `wait`. `what` is the action that fails otherwise.
pub(super) async fn take(root: &Arc<Folder>, wait: Duration, what: &str) -> Result<LayoutLock> {
    let began = Instant::now();
    loop {
        let (root, failed) = (Arc::clone(root), Error::io(what.to_owned()));
        match blocking(move || attempt(&root).map_err(failed)).await? {
            Ok(lock) => return Ok(lock),
            Err(pull) => {
                let left = wait.saturating_sub(began.elapsed());
                if left.is_zero() {
                    return Err(Error::io(what)(busy(&pull)));
                }
                sleep(POLL.min(left)).await;
            }
        }
    }
}

/// Takes the lock of the layout, or returns the name of the staging folder of a pull that is running.
fn attempt(root: &Folder) -> io::Result<std::result::Result<LayoutLock, OsString>> {
    let lock = LayoutLock::take(root)?;
    let living = staging::sweep(root)?;
    Ok(match living.into_iter().next() {
        None => Ok(lock),
        Some(pull) => Err(pull),
    })
}

fn busy(pull: &OsStr) -> io::Error {
    let reason = format!(
        "a pull into it is running (its folder is {}): try again when it has ended",
        pull.display()
    );
    io::Error::new(io::ErrorKind::ResourceBusy, reason)
}
