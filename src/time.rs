//! Moments in the future, for durations that callers choose, in a process that may be stopped.

use std::ops::Add;
use std::pin::pin;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout_at};

/// About 30 years: as good as never, and a moment that every clock has.
const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);

/// A timer that fires so late tells that this process was stopped meanwhile (by Ctrl-Z, a debugger, a
/// paused container), or had no processor. Whoever it waits for may have been stopped, too.
const LATE: Duration = Duration::from_secs(1);

/// The moment `wait` after `now`, on whatever clock, but no more than about 30 years later. The sum
/// itself panics where the clock does not reach so far.
pub(crate) fn moment_after<T: Add<Duration, Output = T>>(now: T, wait: Duration) -> T {
    now + wait.min(FAR)
}

/// Whether so much time has passed since this moment that the process was stopped.
pub(crate) fn is_long_past(moment: Instant) -> bool {
    Instant::now().saturating_duration_since(moment) > LATE
}

/// Waits until this moment; for ever, if there is none.
pub(crate) async fn sleep_until_opt(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// The future's output, or an error if it takes longer than `after`. It begins anew where the process
/// was stopped when the time was up. `None` means no limit.
///
/// # Cancel safety
///
/// As the future's.
pub(crate) async fn timeout<F: Future>(
    after: impl Into<Option<Duration>>,
    future: F,
) -> Result<F::Output, Elapsed> {
    let Some(after) = after.into() else {
        return Ok(future.await);
    };
    let mut future = pin!(future);
    loop {
        let until = moment_after(Instant::now(), after);
        let output = timeout_at(until, &mut future).await;
        if output.is_ok() || !is_long_past(until) {
            return output;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    #[test]
    fn a_moment_can_be_as_far_away_as_anybody_likes() {
        let now = std::time::Instant::now();
        assert_eq!(moment_after(now, Duration::ZERO), now);
        let minute = Duration::from_secs(60);
        assert_eq!(moment_after(now, minute), now + minute);
        assert_eq!(moment_after(now, Duration::MAX), now + FAR);
        let now = Instant::now();
        assert_eq!(moment_after(now, Duration::MAX), now + FAR);
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_in_which_the_process_was_stopped_does_not_count() {
        let second = Duration::from_secs(1);
        let begun = Instant::now();
        timeout(10 * second, pending::<()>()).await.unwrap_err();
        assert_eq!(begun.elapsed(), 10 * second);

        // As if it had been stopped after 5 s, for a minute.
        let begun = Instant::now();
        let stopped = async {
            tokio::time::sleep(5 * second).await;
            tokio::time::advance(60 * second).await;
            pending::<()>().await;
        };
        timeout(10 * second, stopped).await.unwrap_err();
        assert_eq!(begun.elapsed(), 75 * second);
    }
}
