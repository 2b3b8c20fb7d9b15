//! When proxies are started: one at each interval, not all at once.
//!
//! Each start needs a processor for a while. Proxies that start together share the processors, so all of them
//! are ready late. If they start in turn, the first ones ask for blobs while the last ones start.

use std::num::NonZeroUsize;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

/// The processor time that a proxy needs until it has opened an image (skopeo 1.22; 21 ms with 400 layers).
const START_COST: Duration = Duration::from_millis(15);

/// The maximum that is taken as the cost of a start. On a busy machine starts are slow, which is no reason to
/// start fewer proxies.
const MAX_START_COST: Duration = Duration::from_millis(40);

/// The maximum number of proxies that start at the same time. With a higher one, a machine with many processors would
/// start many proxies before the first answer of a fast registry shows that few are enough.
const MAX_AT_A_TIME: usize = 4;

#[derive(Debug, Clone, Hash)]
pub(super) struct StartInterval {
    at_a_time: u32,
    interval: Duration,
    next: Instant,
    /// How many more starts may be made before the first proxy is ready. Until then there is no work for
    /// proxies, so more of them would only share the processors.
    starts_before_ready: Option<u32>,
}

impl StartInterval {
    /// An interval whose first start is due at once. `at_a_time` proxies may start at the same time.
    pub(super) fn from(now: Instant, at_a_time: u32) -> Self {
        let at_a_time = at_a_time.max(1);
        Self {
            at_a_time,
            interval: START_COST / at_a_time,
            next: now,
            starts_before_ready: Some((at_a_time / 2).max(1)),
        }
    }

    /// Records that a proxy is ready, whose start took that long.
    pub(super) fn ready(&mut self, took: Duration, now: Instant) {
        if self.starts_before_ready.take().is_some() {
            self.interval = self.interval.max(took.min(MAX_START_COST) / self.at_a_time);
            self.next = now + self.interval;
        }
    }

    /// Records that a proxy ended before it was ready.
    pub(super) fn start_ended(&mut self) {
        self.starts_before_ready = self.starts_before_ready.map(|left| left + 1);
    }

    /// The time at which the next start is due.
    pub(super) fn due(&self) -> Instant {
        self.next
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.starts_before_ready != Some(0) && self.next <= now
    }

    /// Records a start. The next start is due one interval after this one was due, because sleeps last about
    /// a millisecond too long. If this one is more than an interval late, the interval begins now.
    pub(super) fn started(&mut self, now: Instant) {
        let on_time = now.saturating_duration_since(self.next) < self.interval;
        self.next = if on_time { self.next } else { now } + self.interval;
        self.starts_before_ready = self.starts_before_ready.map(|left| left.saturating_sub(1));
    }
}

/// How many proxies start at the same time: one on each processor that this process may use, up
/// to [`MAX_AT_A_TIME`].
pub(in crate::fetch) fn max_starts_at_a_time() -> u32 {
    let processors = available_parallelism().map_or(1, NonZeroUsize::get);
    // Both numbers are small.
    u32::try_from(processors.min(MAX_AT_A_TIME)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_one_interval_apart() {
        let begun = Instant::now();
        let mut start_interval = StartInterval::from(begun, 2);
        start_interval.ready(Duration::ZERO, begun);
        let mut now = start_interval.due();
        for _ in 0..10 {
            assert!(start_interval.is_due(now));
            start_interval.started(now);
            assert!(!start_interval.is_due(now));
            now = start_interval.due();
        }
        assert_eq!(now, begun + START_COST * 11 / 2);
    }

    #[test]
    fn missed_starts_are_not_made_up_for() {
        let begun = Instant::now();
        let mut start_interval = StartInterval::from(begun, 2);
        start_interval.ready(Duration::ZERO, begun);
        start_interval.started(begun);
        let later = begun + START_COST * 100;
        assert!(start_interval.is_due(later));
        start_interval.started(later);
        assert!(!start_interval.is_due(later));
    }

    #[test]
    fn few_proxies_are_started_before_the_first_one_is_ready() {
        let begun = Instant::now();
        for (processors, starts_before_ready) in [(1, 1), (2, 1), (4, 2)] {
            let mut start_interval = StartInterval::from(begun, processors);
            let mut now = begun;
            for _ in 0..starts_before_ready {
                assert!(start_interval.is_due(now));
                start_interval.started(now);
                now = start_interval.due();
            }
            let later = begun + START_COST * 100;
            assert!(!start_interval.is_due(later));
            start_interval.ready(MAX_START_COST * 2, later);
            assert_eq!(start_interval.due(), later + MAX_START_COST / processors);
        }
    }
}
