//! Retries an operation as often and as long as the [`RetryPolicy`] allows.

use tokio::time::sleep;

use super::retry::{RetryPolicy, is_throttled};
use crate::error::{Error, Result, error_chain};
use crate::protocol::RefusalKind;
use crate::reference::Place;
use crate::time::sleep_until_opt;

/// Runs `work` until it ends, but not beyond the deadline of the policy.
pub(super) async fn with_deadline<T>(
    policy: &RetryPolicy,
    work: impl Future<Output = Result<T>> + Send,
) -> Result<T> {
    tokio::select! {
        done = work => done,
        () = sleep_until_opt(policy.deadline_from_now()) => Err(Error::DeadlineExceeded),
    }
}

/// Runs `attempt` for this image, and retries it as the policy allows, until the deadline.
///
/// `attempt` is no `AsyncFn`, because a bound can't require the futures of one to be [`Send`].
pub(super) async fn with_retries<T, Fut>(
    policy: &RetryPolicy,
    reference: &str,
    attempt: impl Fn() -> Fut + Send,
) -> Result<T>
where
    T: Send,
    Fut: Future<Output = Result<T>> + Send,
{
    with_deadline(policy, retry_without_deadline(policy, reference, attempt)).await
}

async fn retry_without_deadline<T, Fut>(
    policy: &RetryPolicy,
    reference: &str,
    attempt: impl Fn() -> Fut + Send,
) -> Result<T>
where
    T: Send,
    Fut: Future<Output = Result<T>> + Send,
{
    let source = Place::of(reference);
    let mut failed = 0;
    loop {
        let error = match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        // The kind `NotFound` is checked first, because skopeo 1.22 marks the refusal of a missing object as retryable.
        if is_throttled(&error) || error.kind() == Some(RefusalKind::NotFound) {
            return Err(error);
        }
        failed += 1;
        let random = fastrand::f64();
        let Some(wait) = policy.next_try(&error, source, failed, random) else {
            return Err(error.with_tries(failed));
        };
        tracing::debug!(error = error_chain(&error), ?wait, "will retry");
        sleep(wait).await;
    }
}
