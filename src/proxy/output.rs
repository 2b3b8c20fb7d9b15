//! What a program prints, when it is run once and ends by itself: kept as a
//! proxy is.

use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use tokio::io::AsyncReadExt;

use super::child::Child;
use crate::config::Launch;
use crate::drain::pipe;
use crate::error::{Error, Result};
use crate::time::timeout;

/// Run it to its end, and give what it printed: a document of no more than
/// `limit` bytes, which `what` is to name in an error.
///
/// # Cancel safety
///
/// Dropped early, the program is ended.
pub(crate) async fn output(
    launch: Launch,
    patience: Option<Duration>,
    what: &'static str,
    limit: u64,
) -> Result<Vec<u8>> {
    let program = launch.program.clone();
    let cant_read = || Error::io(format!("can't read what {program} prints"));
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| cant_read()(errno.into()))?;
    let mut child = Child::start(|| Ok(launch), Stdio::null(), Stdio::from(theirs)).await?;
    let reader = pipe::reader(ours).map_err(cant_read())?;
    let run = async {
        let mut printed = Vec::new();
        let mut bounded = reader.take(limit.saturating_add(1));
        let read = bounded.read_to_end(&mut printed).await;
        read.map_err(cant_read())?;
        if printed.len() as u64 > limit {
            return Err(Error::DocumentTooLarge { what, limit });
        }
        match child.exited().await {
            Some(exit) if exit.failed() => Err(Error::ProxyExited(exit)),
            // Whoever prints nothing has failed, also if nobody knows how it ended.
            Some(exit) if printed.is_empty() => Err(Error::ProxyExited(exit)),
            Some(_) => Ok(printed),
            None => Err(Error::Closed),
        }
    };
    match patience {
        None => run.await,
        Some(after) => {
            let late = |_| Error::CallTimeout {
                method: "skopeo inspect",
                after,
            };
            timeout(after, run).await.map_err(late)?
        }
    }
}
