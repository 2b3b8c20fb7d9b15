//! Checks whether a blob stalls or is too slow. Only the time counts in which a caller waits for bytes.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::time::{deadline_after, is_long_past};

/// The time limits of a blob.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct TimeLimits {
    /// The longest wait for a byte. `None` means no limit.
    pub(in crate::proxy) stall_timeout: Option<Duration>,
    /// The lowest rate over each stall timeout of waiting, in bytes per second.
    pub(in crate::proxy) least_rate: u64,
}

/// The measurement of one blob against its time limits.
#[derive(Debug)]
pub(super) struct Flow {
    limits: TimeLimits,
    /// The timer of the stall timeout, made at the first wait. Most blobs of a fast registry need no timer.
    sleep: Option<Pin<Box<Sleep>>>,
    /// The moment at which the current wait began. `None` if nobody waits.
    waiting: Option<Instant>,
    window: Window,
}

impl Flow {
    pub(super) fn new(limits: TimeLimits) -> Self {
        Self {
            limits,
            sleep: None,
            waiting: None,
            window: Window::default(),
        }
    }

    pub(super) fn limits(&self) -> TimeLimits {
        self.limits
    }

    /// Records that bytes came. If these bytes end a window whose bytes came too slowly, returns an error:
    /// the stall timeout.
    pub(super) fn record(&mut self, bytes: usize) -> Result<(), Duration> {
        let waited = self.waiting.take().map(|since| since.elapsed());
        match self.limits.stall_timeout {
            Some(over) => self
                .window
                .record(bytes, waited, self.limits.least_rate, over),
            None => Ok(()),
        }
    }

    /// Records that a caller waits, and returns since when.
    pub(super) fn wait(&mut self) -> Instant {
        if let Some(since) = self.waiting {
            return since;
        }
        let since = Instant::now();
        self.waiting = Some(since);
        if let (Some(sleep), Some(timeout)) = (&mut self.sleep, self.limits.stall_timeout) {
            sleep.as_mut().reset(deadline_after(since, timeout));
        }
        since
    }

    /// Becomes ready when the stall timeout has passed without progress, and then returns the stall timeout.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let since = self.wait();
        let Some(timeout) = self.limits.stall_timeout else {
            return Poll::Pending;
        };
        let until = || deadline_after(Instant::now(), timeout);
        let sleep = self.sleep.get_or_insert_with(|| {
            Box::pin(tokio::time::sleep_until(deadline_after(since, timeout)))
        });
        ready!(sleep.as_mut().poll(cx));
        if is_long_past(sleep.deadline()) {
            // This process was stopped, perhaps with the sender. The sender gets its whole time again.
            sleep.as_mut().reset(until());
            ready!(sleep.as_mut().poll(cx));
        }
        Poll::Ready(timeout)
    }
}

/// The bytes that came, and the time that a caller waited for them. A window ends when that time reaches the stall
/// timeout. Time in which nobody waited does not count, because a slow reader is not the sender's fault.
#[derive(Debug, Default)]
struct Window {
    waited: Duration,
    bytes: u64,
}

impl Window {
    fn record(
        &mut self,
        bytes: usize,
        waited: Option<Duration>,
        least_rate: u64,
        over: Duration,
    ) -> Result<(), Duration> {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        // A wait longer than the stall timeout was not reported as a stall, so this process was stopped during it.
        let Some(waited) = waited.filter(|waited| *waited <= over) else {
            return Ok(());
        };
        self.waited += waited;
        if self.waited < over {
            return Ok(());
        }
        let least = u128::from(least_rate) * self.waited.as_millis() / 1000;
        let enough = u128::from(self.bytes) >= least;
        *self = Self::default();
        if enough { Ok(()) } else { Err(over) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// The number of pieces after which a blob is too slow, if a caller waits `waited` for each piece of `bytes`
    /// bytes. `None` means never.
    fn pieces(bytes: usize, waited: Duration, least_rate: u64) -> Option<usize> {
        let mut window = Window::default();
        (1..=10_000).find(|_| {
            window
                .record(bytes, Some(waited), least_rate, MINUTE)
                .is_err()
        })
    }

    #[test]
    fn a_blob_below_the_lowest_rate_is_too_slow() {
        let seconds = Duration::from_secs;
        // The first blob has one byte every 59 s.
        assert_eq!(pieces(1, seconds(59), 100), Some(2));
        assert_eq!(pieces(99, seconds(1), 100), Some(60));
        assert_eq!(pieces(100, seconds(1), 100), None);
        assert_eq!(pieces(6_000, seconds(60), 100), None);
        assert_eq!(pieces(5_999, seconds(60), 100), Some(1));
        assert_eq!(pieces(1, seconds(59), 0), None);
        assert_eq!(pieces(usize::MAX, seconds(60), u64::MAX), Some(1));
    }

    #[test]
    fn each_window_counts_for_itself() {
        let mut window = Window::default();
        window
            .record(1_000_000, Some(MINUTE), 100, MINUTE)
            .expect("enough");
        window
            .record(1, Some(MINUTE), 100, MINUTE)
            .expect_err("not enough");
    }

    #[test]
    fn time_without_a_waiting_caller_does_not_count() {
        let mut window = Window::default();
        for _ in 0..1000 {
            window.record(1, None, 100, MINUTE).expect("nobody waited");
            let stopped = Some(MINUTE + Duration::from_secs(1));
            window
                .record(1, stopped, 100, MINUTE)
                .expect("we were stopped");
        }
    }
}
