//! How many proxies make a fetch as fast as possible.
//!
//! A proxy answers one call at a time, and a call lasts until the registry's first byte arrives. With `n` blobs
//! to ask for, a latency of `c`, and `k` proxies, the calls take `n × c ÷ k` altogether. Meanwhile the
//! processors are busy for `w` with the blobs, and for `s` with the start of each proxy. More proxies make
//! the fetch faster until the calls take no longer than the work: `n × c ÷ k = w + k × s`.
//!
//! `c` is the lowest moving average so far. If latency rises because there are more proxies, the estimate
//! does not follow, so growth cannot feed itself.

use std::time::{Duration, Instant};

/// The processor time of a proxy besides its start: skopeo 1.22 needs this much to open an image and to exit.
const OPENING_COST: Duration = Duration::from_millis(5);

/// The number of calls that the opening of an image takes: two for its manifest, one for its config.
const CALLS_OF_AN_IMAGE: f64 = 3.0;

/// The time that a proxy itself takes for an opening, besides the wait for the registry's answers.
pub(super) const OPENING_WORK: Duration = Duration::from_millis(6);

/// The bounds of the estimated cost of a start. On a loaded machine a start takes longer, which is no reason
/// to start fewer proxies.
const COST_BOUNDS: (Duration, Duration) = (Duration::from_millis(15), Duration::from_millis(40));

/// The work that the model counts for each blob, and for each byte: about a third of the measured processor
/// time. Blobs arrive unevenly, so the processors are idle now and then even where there is more work than
/// waiting. docs/decisions.md compares the result with the best fixed numbers.
const WORK_PER_BLOB: Duration = Duration::from_millis(1);
const WORK_PER_GB: Duration = Duration::from_secs(1);

/// A call that takes this many times the usual latency was held back by the registry, if it also takes at least
/// [`THROTTLED_FROM`].
const THROTTLED_TIMES: u32 = 8;

/// The least latency of a call that counts as held back. A shorter delay may be due to a busy machine.
const THROTTLED_FROM: Duration = Duration::from_secs(1);

/// The minimum number of proxies while a registry throttles. Some of them wait as long as the registry told them,
/// while the others ask. docs/decisions.md has the measurement.
const MIN_WHEN_THROTTLED: usize = 4;

/// A call is late if it takes this many times the usual latency, and at least [`LATE_FROM`].
const LATE_TIMES: u32 = 10;
const LATE_FROM: Duration = Duration::from_millis(500);

/// A call is late after this time if no call has been answered yet.
const LATE_AT_FIRST: Duration = Duration::from_secs(5);

/// The weight of a new value in the moving average: one part in this many.
const SMOOTHING: u32 = 4;

/// How much is still to be asked for: images, blobs, and bytes. The sum of the sizes can exceed a `u64`,
/// because a manifest can claim any size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Backlog {
    /// The number of images to open.
    pub(super) images: usize,
    pub(super) blobs: usize,
    pub(super) bytes: u128,
}

impl Backlog {
    pub(super) fn add(&mut self, size: u64) {
        self.blobs += 1;
        self.bytes += u128::from(size);
    }

    pub(super) fn remove(&mut self, size: u64) {
        self.blobs -= 1;
        self.bytes -= u128::from(size);
    }
}

#[derive(Debug, Clone, Hash)]
pub(super) struct Governor {
    min: usize,
    max: usize,
    /// The number of processors that share the work.
    processors: u32,
    /// The lowest cost of one more proxy so far.
    cost: Duration,
    /// A moving average of the latency of calls.
    call_time: Option<Duration>,
    /// The lowest value of this average so far.
    lowest_call_time: Option<Duration>,
    /// The maximum while the registry throttles. The ceiling is only ever lowered.
    ceiling: usize,
    /// Whether the registry throttles. The flag is also set where the ceiling can't be lowered.
    throttled: bool,
    /// When many proxies last waited for late answers.
    late_answers_at: Option<Instant>,
}

impl Governor {
    pub(super) fn new(min: usize, max: usize, processors: u32) -> Self {
        Self {
            min,
            max,
            processors,
            cost: COST_BOUNDS.1,
            call_time: None,
            lowest_call_time: None,
            ceiling: max,
            throttled: false,
            late_answers_at: None,
        }
    }

    /// Lowers the maximum to `most`.
    pub(super) fn at_most(&mut self, most: usize) {
        self.min = self.min.min(most);
        self.max = self.max.min(most);
    }

    /// Whether there is an estimate of the latency of a call.
    pub(super) fn has_estimate(&self) -> bool {
        self.lowest_call_time.is_some()
    }

    /// Sets a first estimate of the latency. An estimate that is there already stays.
    pub(super) fn expect_call_time(&mut self, guess: Duration) {
        self.lowest_call_time.get_or_insert(guess);
    }

    /// Records that a proxy started in that time.
    pub(super) fn started(&mut self, took: Duration) {
        let (least, most) = COST_BOUNDS;
        let cost = (took + OPENING_COST).clamp(least, most);
        self.cost = self.cost.min(cost);
    }

    /// Records that a call was answered in that time, while `running` proxies were at work.
    pub(super) fn answered(&mut self, took: Duration, running: usize) {
        let average = self.call_time.map_or(took, |average| {
            (average * (SMOOTHING - 1) + took) / SMOOTHING
        });
        let best = match (self.call_time, self.lowest_call_time) {
            // The first measured answer replaces an estimate, unless the call was held back.
            (None, Some(guess)) if !is_held_back(took, guess) => average,
            (_, None) => average,
            (_, Some(best)) => best.min(average),
        };
        self.call_time = Some(average);
        self.lowest_call_time = Some(best);
        if is_held_back(took, best) {
            self.throttle(running);
        }
    }

    /// Records that many of the `running` proxies wait for late answers. This counts at most once in
    /// [`THROTTLED_FROM`], because the effect of fewer proxies is not seen at once.
    pub(super) fn record_late_answers(&mut self, running: usize, now: Instant) {
        if self
            .late_answers_at
            .is_none_or(|then| now.duration_since(then) >= THROTTLED_FROM)
        {
            self.late_answers_at = Some(now);
            self.throttle(running);
        }
    }

    /// Limits the number to the proxies that work, because others could not be started. The effect is that of
    /// [`throttle`](Self::throttle), with the same lower bounds.
    pub(super) fn limit_to_working(&mut self, working: usize) {
        self.throttle(working.saturating_mul(2));
    }

    /// Records that the registry throttles: at most half of the `running` proxies are wanted from now on, but not fewer
    /// than [`MIN_WHEN_THROTTLED`] or the minimum.
    pub(super) fn throttle(&mut self, running: usize) {
        let fewer = running.div_ceil(2).max(MIN_WHEN_THROTTLED).max(self.min);
        self.ceiling = self.ceiling.min(fewer);
        self.throttled = true;
    }

    /// Whether the registry throttles.
    pub(super) fn is_throttled(&self) -> bool {
        self.throttled
    }

    /// The maximum number of proxies while the registry throttles. `None` if it does not.
    pub(super) fn limit(&self) -> Option<usize> {
        self.throttled.then(|| self.most())
    }

    fn most(&self) -> usize {
        self.ceiling.min(self.max).max(self.min)
    }

    /// The time after which a call counts as late.
    pub(super) fn late_after(&self) -> Duration {
        self.lowest_call_time
            .map_or(LATE_AT_FIRST, |best| (best * LATE_TIMES).max(LATE_FROM))
    }

    /// How many proxies to run while this much is still to be asked for.
    pub(super) fn wanted(&self, backlog: Backlog) -> usize {
        self.fastest(backlog)
            .clamp(self.min, self.most())
            .min(backlog.blobs.saturating_add(backlog.images).max(1))
    }

    /// The `k` for which `asking ÷ k = work + k × start`, rounded.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it need not be exact, is never negative, and `as` clamps"
    )]
    fn fastest(&self, backlog: Backlog) -> usize {
        let (images, blobs) = (backlog.images as f64, backlog.blobs as f64);
        let gigabytes = backlog.bytes as f64 / 1e9;
        let calls = blobs + images * CALLS_OF_AN_IMAGE;
        let opening = images * OPENING_WORK.as_secs_f64();
        let asking = calls * self.lowest_call_time.unwrap_or_default().as_secs_f64() + opening;
        let processors = f64::from(self.processors);
        let work = blobs * WORK_PER_BLOB.as_secs_f64() + gigabytes * WORK_PER_GB.as_secs_f64();
        let (work, start) = (work / processors, self.cost.as_secs_f64() / processors);
        let root = (work * work + 4.0 * start * asking).sqrt();
        ((root - work) / (2.0 * start)).round() as usize
    }
}

fn is_held_back(took: Duration, usual: Duration) -> bool {
    took >= THROTTLED_FROM && took >= usual * THROTTLED_TIMES
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// A backlog of this many blobs without bytes.
    fn small(blobs: usize) -> Backlog {
        megabytes(blobs, 0)
    }

    fn megabytes(blobs: usize, megabytes: u128) -> Backlog {
        Backlog {
            images: 0,
            blobs,
            bytes: megabytes * 1_000_000,
        }
    }

    fn new(min: usize, max: usize) -> Governor {
        Governor::new(min, max, 2)
    }

    fn after(calls: &[u64], max: usize) -> Governor {
        let mut governor = new(1, max);
        governor.started(MS(10));
        for call in calls {
            governor.answered(MS(*call), 1);
        }
        governor
    }

    #[test]
    fn a_call_is_late_after_a_multiple_of_the_usual_time() {
        assert_eq!(new(1, 8).late_after(), LATE_AT_FIRST);
        assert_eq!(after(&[1], 8).late_after(), LATE_FROM);
        let slow = LATE_FROM * 2;
        let mut governor = new(1, 8);
        governor.expect_call_time(slow);
        assert_eq!(governor.late_after(), slow * LATE_TIMES);
    }

    #[test]
    fn proxies_are_added_until_calls_take_no_longer_than_the_work() {
        let table = [
            (50, megabytes(8, 150), 64, 4),
            (50, megabytes(85, 578), 64, 10),
            (50, megabytes(128, 8), 64, 25),
            (50, megabytes(400, 347), 64, 32),
            (200, megabytes(128, 8), 64, 54),
            (200, megabytes(128, 8), 16, 16),
            (10, megabytes(400, 347), 64, 9),
            (1, megabytes(400, 347), 64, 1),
            (50, small(1), 16, 1),
            (50, small(0), 16, 1),
            (0, small(400), 16, 1),
            (50, megabytes(8, u128::from(u64::MAX)), 16, 1),
        ];
        for (call, backlog, max, expected) in table {
            let wanted = after(&[call], max).wanted(backlog);
            assert_eq!(wanted, expected, "{call} ms, {backlog:?}");
        }
    }

    #[test]
    fn one_slow_answer_adds_no_proxies() {
        let before = after(&[10, 10, 10], 64).wanted(small(100));
        assert_eq!(after(&[10, 10, 10, 900], 64).wanted(small(100)), before);
    }

    #[test]
    fn a_throttling_registry_gets_fewer_proxies_for_good() {
        let mut governor = after(&[50; 8], 16);
        assert_eq!(governor.wanted(small(400)), 16);
        assert_eq!(governor.limit(), None);
        governor.answered(MS(2000), 16);
        assert_eq!(governor.wanted(small(400)), 8);
        assert_eq!(governor.limit(), Some(8));
        governor.answered(MS(4000), 8);
        governor.answered(MS(4000), 4);
        governor.answered(MS(4000), 2);
        assert_eq!(governor.wanted(small(400)), MIN_WHEN_THROTTLED);
        for _ in 0..50 {
            governor.answered(MS(50), 1);
        }
        assert_eq!(governor.wanted(small(400)), MIN_WHEN_THROTTLED);
    }

    #[test]
    fn a_first_answer_that_was_held_back_is_not_the_usual_time() {
        let mut governor = new(1, 16);
        governor.expect_call_time(MS(50));
        governor.answered(MS(2100), 16);
        assert_eq!(governor.wanted(small(400)), 8);
    }

    #[test]
    fn late_answers_count_at_most_once_a_second() {
        let mut governor = after(&[50; 8], 16);
        let now = Instant::now();
        governor.record_late_answers(16, now);
        governor.record_late_answers(8, now + MS(100));
        assert_eq!(governor.wanted(small(400)), 8);
        governor.record_late_answers(8, now + THROTTLED_FROM);
        assert_eq!(governor.wanted(small(400)), 4);
    }

    #[test]
    fn throttling_is_detected_with_few_proxies_too() {
        let mut governor = after(&[50; 8], 2);
        assert!(!governor.is_throttled());
        governor.answered(MS(2000), 2);
        assert!(governor.is_throttled());
        assert_eq!(governor.wanted(small(400)), 2);
    }

    #[test]
    fn a_fixed_number_is_kept_whatever_happens() {
        let mut governor = new(4, 4);
        assert_eq!(governor.wanted(small(100)), 4);
        governor.answered(MS(1), 4);
        governor.answered(MS(60_000), 4);
        assert_eq!(governor.wanted(small(100)), 4);
        assert_eq!(governor.wanted(small(3)), 3);
    }
}
