//! When proxies are started: one after the other.
//!
//! Each start takes a processor for a while. Many at once share the processors, so that
//! all are ready late, and those that were nearly ready, too. In turn, the first ones ask
//! for blobs while the last ones start.

use std::num::NonZeroUsize;
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What a proxy takes of a processor until it has opened an image (skopeo 1.22; 21 ms
/// where there are 400 layers).
const START_COST: Duration = Duration::from_millis(15);

/// More than so many proxies are not started at a time, so that an answer within
/// few milliseconds brings no crowd, however many processors there are.
const MOST_AT_A_TIME: usize = 4;

#[derive(Debug)]
pub(super) struct Pace {
    every: Duration,
    next: Instant,
}

impl Pace {
    /// The first start is due at once.
    pub(super) fn from_now() -> Self {
        Self {
            every: START_COST / at_a_time(),
            next: Instant::now(),
        }
    }

    /// Ready when the next start is due.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn due(&self) {
        sleep_until(self.next).await;
    }

    pub(super) fn is_due(&self) -> bool {
        self.next <= Instant::now()
    }

    /// One was started. The next is counted from when this one was due, for sleeps last a
    /// millisecond longer than they should; but if nobody wanted it then, from now.
    pub(super) fn started(&mut self) {
        let now = Instant::now();
        let on_time = now.duration_since(self.next) < self.every;
        self.next = if on_time { self.next } else { now } + self.every;
    }
}

/// How many proxies are started at a time: one on each processor that we may use.
pub(super) fn at_a_time() -> u32 {
    let processors = available_parallelism().map_or(1, NonZeroUsize::get);
    // Both are small.
    u32::try_from(processors.min(MOST_AT_A_TIME)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn starts_are_as_far_apart_as_one_takes_on_all_processors() {
        let begun = Instant::now();
        let mut pace = Pace::from_now();
        assert!(pace.is_due());
        for _ in 0..10 {
            pace.started();
            assert!(!pace.is_due());
            pace.due().await;
        }
        assert!(begun.elapsed() >= START_COST * 10 / at_a_time());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_started_when_it_was_due_is_not_made_up_for() {
        let mut pace = Pace::from_now();
        pace.started();
        advance(START_COST * 100).await;
        assert!(pace.is_due());
        pace.started();
        assert!(!pace.is_due());
    }
}
