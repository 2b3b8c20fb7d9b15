//! When proxies are started: one after the other.
//!
//! Each start takes a processor for a while. Many at once share the processors, so that
//! all are ready late, and those that were nearly ready, too. In turn, the first ones ask
//! for blobs while the last ones start.

use std::num::NonZeroUsize;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

/// What a proxy takes of a processor until it has opened an image (skopeo 1.22; 21 ms
/// where there are 400 layers).
const START_COST: Duration = Duration::from_millis(15);

/// The most that is believed of a start: a busy machine makes them slow, which is no reason to make no more.
const MOST_START_COST: Duration = Duration::from_millis(40);

/// More than so many proxies are not started at a time, so that an answer within
/// few milliseconds brings no crowd, however many processors there are.
const MOST_AT_A_TIME: usize = 4;

#[derive(Debug, Clone)]
pub(super) struct Pace {
    at_a_time: u32,
    every: Duration,
    next: Instant,
    /// How many more there may be before one is ready: until then there is nothing to wait for, so all would only
    /// share the processors.
    at_once: Option<u32>,
}

impl Pace {
    /// The first start is due at once; so many are started at a time.
    pub(super) fn from(now: Instant, at_a_time: u32) -> Self {
        let at_a_time = at_a_time.max(1);
        Self {
            at_a_time,
            every: START_COST / at_a_time,
            next: now,
            at_once: Some((at_a_time / 2).max(1)),
        }
    }

    /// One is ready, which took that long.
    pub(super) fn ready(&mut self, took: Duration, now: Instant) {
        if self.at_once.take().is_some() {
            self.every = self.every.max(took.min(MOST_START_COST) / self.at_a_time);
            self.next = now + self.every;
        }
    }

    /// One ended before it was ready.
    pub(super) fn gone(&mut self) {
        self.at_once = self.at_once.map(|left| left + 1);
    }

    /// When the next start is due.
    pub(super) fn due(&self) -> Instant {
        self.next
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.at_once != Some(0) && self.next <= now
    }

    /// One was started. The next is counted from when this one was due, for sleeps last a
    /// millisecond longer than they should; but if nobody wanted it then, from now.
    pub(super) fn started(&mut self, now: Instant) {
        let on_time = now.saturating_duration_since(self.next) < self.every;
        self.next = if on_time { self.next } else { now } + self.every;
        self.at_once = self.at_once.map(|left| left.saturating_sub(1));
    }
}

/// How many proxies are started at a time: one on each processor that we may use.
pub(in crate::fetch) fn at_a_time() -> u32 {
    let processors = available_parallelism().map_or(1, NonZeroUsize::get);
    // Both are small.
    u32::try_from(processors.min(MOST_AT_A_TIME)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_as_far_apart_as_one_takes_on_all_processors() {
        let begun = Instant::now();
        let mut pace = Pace::from(begun, 2);
        pace.ready(Duration::ZERO, begun);
        let mut now = pace.due();
        for _ in 0..10 {
            assert!(pace.is_due(now));
            pace.started(now);
            assert!(!pace.is_due(now));
            now = pace.due();
        }
        assert_eq!(now, begun + START_COST * 11 / 2);
    }

    #[test]
    fn what_was_not_started_when_it_was_due_is_not_made_up_for() {
        let begun = Instant::now();
        let mut pace = Pace::from(begun, 2);
        pace.ready(Duration::ZERO, begun);
        pace.started(begun);
        let later = begun + START_COST * 100;
        assert!(pace.is_due(later));
        pace.started(later);
        assert!(!pace.is_due(later));
    }

    #[test]
    fn before_one_is_ready_there_are_few_and_then_as_often_as_that_took() {
        let begun = Instant::now();
        for (processors, at_once) in [(1, 1), (2, 1), (4, 2)] {
            let mut pace = Pace::from(begun, processors);
            let mut now = begun;
            for _ in 0..at_once {
                assert!(pace.is_due(now));
                pace.started(now);
                now = pace.due();
            }
            let later = begun + START_COST * 100;
            assert!(!pace.is_due(later));
            pace.ready(MOST_START_COST * 2, later);
            assert_eq!(pace.due(), later + MOST_START_COST / processors);
        }
    }
}
