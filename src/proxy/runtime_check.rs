//! Waits for the answer of a proxy whose runtime may not be running.
//!
//! A proxy's actor is a task of the runtime in which the proxy was made. A runtime of one thread runs only while some
//! thread is in its `block_on`. Without this module, a caller in another runtime could wait for ever.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::error::{Error, Result};
use crate::time::timeout;

/// How long an answer may take before this module checks whether the proxy's runtime runs.
const CHECK_AFTER: Duration = Duration::from_secs(5);

/// How long an empty task may take in a runtime that runs.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Waits for `answer`, which has to come from `runtime`. Returns [`Error::RuntimeIdle`] if that runtime does not run.
/// A caller in `runtime` itself needs no check.
///
/// # Cancel safety
///
/// This function is cancel safe if `answer` is.
pub(super) async fn answer_or_idle<T>(
    runtime: &Handle,
    answer: impl Future<Output = Result<T>>,
) -> Result<T> {
    match Handle::try_current() {
        Ok(here) if here.id() != runtime.id() => tokio::select! {
            biased;
            answer = answer => answer,
            () = idle(runtime) => Err(Error::RuntimeIdle),
        },
        // Outside of all runtimes, there are no timers for a check.
        _ => answer.await,
    }
}

/// Waits until the runtime does not run.
async fn idle(runtime: &Handle) {
    loop {
        sleep(CHECK_AFTER).await;
        let task = runtime.spawn(async {});
        if timeout(CHECK_TIMEOUT, task).await.is_err() {
            return;
        }
    }
}
