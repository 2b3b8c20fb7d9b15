//! Deadlines and timeouts, for durations that callers choose, in a process that may be stopped.

use std::ops::Add;
use std::pin::pin;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout_at};

/// The longest wait, about 30 years. Every clock can represent a moment that far away.
const MAX_WAIT: Duration = Duration::from_secs(86_400 * 365 * 30);

/// A timer that fires this much too late shows that this process was stopped (by Ctrl-Z, a debugger, a paused
/// container) or had no processor. The other side may have been stopped as well.
const STOPPED_DELAY: Duration = Duration::from_secs(1);

/// The moment that comes `wait` after `now`, on any clock, but at most about 30 years after `now`. The plain sum
/// panics if the clock can't represent that moment.
pub(crate) fn deadline_after<T: Add<Duration, Output = T>>(now: T, wait: Duration) -> T {
    now + wait.min(MAX_WAIT)
}

/// Whether this moment passed so long ago that the process must have been stopped.
pub(crate) fn is_long_past(moment: Instant) -> bool {
    Instant::now().saturating_duration_since(moment) > STOPPED_DELAY
}

/// Formats a duration for messages: "300 ms", "1.5 s", "60 s".
pub(crate) fn format_duration(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        return format!("{} ms", time.as_millis());
    }
    let seconds = format!("{:.1}", time.as_secs_f64());
    format!("{} s", seconds.trim_end_matches(".0"))
}

/// Waits until this moment. `None` means for ever.
pub(crate) async fn sleep_until_opt(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Waits for the output of a future. Returns an error if that takes longer than `after`. `None` means no limit.
/// The time starts again if the process was stopped when the time was up.
///
/// # Cancel safety
///
/// This function is cancel safe if `future` is.
pub(crate) async fn timeout<F: Future>(
    after: impl Into<Option<Duration>>,
    future: F,
) -> Result<F::Output, Elapsed> {
    let Some(after) = after.into() else {
        return Ok(future.await);
    };
    let mut future = pin!(future);
    loop {
        let until = deadline_after(Instant::now(), after);
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
    fn a_deadline_of_any_length_does_not_overflow() {
        let now = std::time::Instant::now();
        assert_eq!(deadline_after(now, Duration::ZERO), now);
        let minute = Duration::from_secs(60);
        assert_eq!(deadline_after(now, minute), now + minute);
        assert_eq!(deadline_after(now, Duration::MAX), now + MAX_WAIT);
        let now = Instant::now();
        assert_eq!(deadline_after(now, Duration::MAX), now + MAX_WAIT);
    }

    #[test]
    fn durations_have_a_space_before_their_unit_and_at_most_one_decimal() {
        let table = [
            (0, "0 ms"),
            (300, "300 ms"),
            (999, "999 ms"),
            (1000, "1 s"),
            (1500, "1.5 s"),
            (60_013, "60 s"),
            (300_000, "300 s"),
        ];
        for (ms, expected) in table {
            assert_eq!(format_duration(Duration::from_millis(ms)), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_in_which_the_process_was_stopped_does_not_count() {
        let second = Duration::from_secs(1);
        let begun = Instant::now();
        timeout(10 * second, pending::<()>()).await.unwrap_err();
        assert_eq!(begun.elapsed(), 10 * second);

        // Simulates a process that was stopped for a minute after 5 s.
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
