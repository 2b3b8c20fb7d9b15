//! Moments in the future, for durations that callers choose.

use std::ops::Add;
use std::time::Duration;

/// About 30 years: as good as never, and a moment that every clock has.
const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);

/// The moment `wait` after `now`, on whatever clock, but no more than about 30 years later. The sum
/// itself panics where the clock does not reach so far.
pub(crate) fn moment_after<T: Add<Duration, Output = T>>(now: T, wait: Duration) -> T {
    now + wait.min(FAR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_moment_can_be_as_far_away_as_anybody_likes() {
        let now = Instant::now();
        assert_eq!(moment_after(now, Duration::ZERO), now);
        let minute = Duration::from_secs(60);
        assert_eq!(moment_after(now, minute), now + minute);
        assert_eq!(moment_after(now, Duration::MAX), now + FAR);
        let now = tokio::time::Instant::now();
        assert_eq!(moment_after(now, Duration::MAX), now + FAR);
    }
}
