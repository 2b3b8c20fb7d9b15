//! Waiting for a proxy that lives in another runtime, which may not be running.
//!
//! A proxy's actor is a task of the runtime that the proxy was made in. A runtime of one thread runs
//! only as long as somebody is in its `block_on`. Whoever asks from another runtime would wait for ever.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::error::{Error, Result};
use crate::time::timeout;

/// How long an answer may take before it is looked whether the proxy's runtime runs at all.
const LOOK_AFTER: Duration = Duration::from_secs(5);

/// How long a task that does nothing may take in a runtime that runs.
const NOTICE: Duration = Duration::from_secs(5);

/// What `answer` gives, or an error if `runtime`, where the answer has to come from, does not run. In
/// that runtime itself, it runs.
///
/// # Cancel safety
///
/// As the future's.
pub(super) async fn answered_in<T>(
    runtime: &Handle,
    answer: impl Future<Output = Result<T>>,
) -> Result<T> {
    match Handle::try_current() {
        Ok(here) if here.id() != runtime.id() => tokio::select! {
            biased;
            answer = answer => answer,
            () = idle(runtime) => Err(Error::RuntimeIdle),
        },
        // Outside of any, there are no timers either.
        _ => answer.await,
    }
}

/// Ready when the runtime does not run.
async fn idle(runtime: &Handle) {
    loop {
        sleep(LOOK_AFTER).await;
        let task = runtime.spawn(async {});
        if timeout(NOTICE, task).await.is_err() {
            return;
        }
    }
}
