//! How many proxies pay.
//!
//! A proxy answers one call at a time, and a call takes as long as the registry's
//! first byte. With `n` blobs to ask for, `c` a call, and `k` proxies, the asking takes
//! `n × c ÷ k`. Meanwhile the processors have the work `w` of bringing the blobs, and `s`
//! for each proxy's start. More proxies pay until asking takes no longer than that:
//! `n × c ÷ k = w + k × s`.

use std::time::{Duration, Instant};

/// What a proxy costs besides its start: skopeo 1.22 takes that much of a processor to
/// open an image, and to end.
const OPENING_COST: Duration = Duration::from_millis(5);

/// How many calls it takes to open an image: for its manifest, which takes two, and for its config.
const CALLS_OF_AN_IMAGE: f64 = 3.0;

/// What a proxy does itself to open one.
pub(super) const OPENING_WORK: Duration = Duration::from_millis(6);

/// The bounds of what is believed (a loaded machine starts them slowly, which is
/// no reason to think that more are as dear).
const COST_BOUNDS: (Duration, Duration) = (Duration::from_millis(15), Duration::from_millis(40));

/// The work that is counted for each blob, and for each byte: about a third of what a
/// processor has with it. Blobs do not come evenly, so it has to wait now and then even
/// where there is more work than waiting. (By these, 1 to 400 layers, real and made-up ones,
/// take within a tenth of what the best number takes them, mostly within 4 %, at 0, 10 and 50 ms.)
const WORK_PER_BLOB: Duration = Duration::from_millis(1);
const WORK_PER_GB: Duration = Duration::from_secs(1);

/// Calls that got that much slower than the fastest run of them say that the
/// registry is holding us back.
const THROTTLED: u32 = 8;

/// ... if they are also that slow: quicker ones may just be busy machines.
const THROTTLED_FROM: Duration = Duration::from_secs(1);

/// How few proxies a registry that throttles gets: while some wait as long as they
/// were told to, the others ask. (At ten requests a second, four were faster than one,
/// two, three or eight.)
const FEWEST: usize = 4;

/// A call is late if it takes that many times the usual, and at least this.
const LATE_TIMES: u32 = 10;
const LATE_FROM: Duration = Duration::from_millis(500);

/// ... or at least this, before there was an answer.
const LATE_AT_FIRST: Duration = Duration::from_secs(5);

/// The part of a first impression in the moving average.
const SMOOTHING: u32 = 4;

/// How much is still to be asked for: images, blobs, and their bytes. (A manifest may say anything of sizes: their sum
/// may be more than a `u64` holds.)
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ToAsk {
    /// Images to open.
    pub(super) images: usize,
    pub(super) blobs: usize,
    pub(super) bytes: u128,
}

impl ToAsk {
    pub(super) fn add(&mut self, size: u64) {
        self.blobs += 1;
        self.bytes += u128::from(size);
    }

    pub(super) fn remove(&mut self, size: u64) {
        self.blobs -= 1;
        self.bytes -= u128::from(size);
    }
}

#[derive(Debug, Clone)]
pub(super) struct Governor {
    min: usize,
    max: usize,
    /// How many are taken to share the work.
    processors: u32,
    /// Of one more proxy: the least that was seen.
    cost: Duration,
    /// A moving average of what calls take.
    call_time: Option<Duration>,
    /// The least that this average was.
    best: Option<Duration>,
    /// Lowered when the registry throttles; never raised again.
    ceiling: usize,
    /// It does, also where the ceiling could not be lowered.
    throttled: bool,
    /// When many proxies last waited for late answers.
    slowed: Option<Instant>,
}

impl Governor {
    pub(super) fn new(min: usize, max: usize, processors: u32) -> Self {
        Self {
            min,
            max,
            processors,
            cost: COST_BOUNDS.1,
            call_time: None,
            best: None,
            ceiling: max,
            throttled: false,
            slowed: None,
        }
    }

    /// No more than so many, from now on.
    pub(super) fn at_most(&mut self, most: usize) {
        self.min = self.min.min(most);
        self.max = self.max.min(most);
    }

    /// Whether there is an idea of what a call takes.
    pub(super) fn has_guess(&self) -> bool {
        self.best.is_some()
    }

    /// A first idea of what a call takes, from before there was one.
    pub(super) fn expect_call_time(&mut self, guess: Duration) {
        self.best.get_or_insert(guess);
    }

    /// A proxy was started in that time.
    pub(super) fn started(&mut self, took: Duration) {
        let (least, most) = COST_BOUNDS;
        let cost = (took + OPENING_COST).clamp(least, most);
        self.cost = self.cost.min(cost);
    }

    /// A call was answered in that time, while `running` proxies were at work.
    pub(super) fn answered(&mut self, took: Duration, running: usize) {
        let average = self.call_time.map_or(took, |average| {
            (average * (SMOOTHING - 1) + took) / SMOOTHING
        });
        let best = match (self.call_time, self.best) {
            // The first real answer beats any guess, unless it was held back.
            (None, Some(guess)) if !is_held_back(took, guess) => average,
            (_, None) => average,
            (_, Some(best)) => best.min(average),
        };
        self.call_time = Some(average);
        self.best = Some(best);
        if is_held_back(took, best) {
            self.throttled(running);
        }
    }

    /// Many of the `running` proxies wait for late answers. Counted at most once
    /// in the time that a throttled call takes: it takes a while to be seen
    /// whether fewer are better.
    pub(super) fn slowed(&mut self, running: usize, now: Instant) {
        if self
            .slowed
            .is_none_or(|then| now.duration_since(then) >= THROTTLED_FROM)
        {
            self.slowed = Some(now);
            self.throttled(running);
        }
    }

    /// No more than those that work, for others could not be started.
    pub(super) fn no_more_than(&mut self, working: usize) {
        self.throttled(working.saturating_mul(2));
    }

    /// The registry wants less of us.
    pub(super) fn throttled(&mut self, running: usize) {
        let fewer = running.div_ceil(2).max(FEWEST).max(self.min);
        self.ceiling = self.ceiling.min(fewer);
        self.throttled = true;
    }

    /// It does.
    pub(super) fn is_throttled(&self) -> bool {
        self.throttled
    }

    /// How old a call must be to be called late.
    pub(super) fn late_after(&self) -> Duration {
        self.best
            .map_or(LATE_AT_FIRST, |best| (best * LATE_TIMES).max(LATE_FROM))
    }

    /// How many proxies to run, with that still to ask for.
    pub(super) fn wanted(&self, to_ask: ToAsk) -> usize {
        self.pays(to_ask)
            .clamp(self.min, self.ceiling.min(self.max).max(self.min))
            .min(to_ask.blobs.saturating_add(to_ask.images).max(1))
    }

    /// The `k` for which `asking ÷ k = work + k × start`, rounded.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it need not be exact, is never negative, and `as` clamps"
    )]
    fn pays(&self, to_ask: ToAsk) -> usize {
        let (images, blobs) = (to_ask.images as f64, to_ask.blobs as f64);
        let gigabytes = to_ask.bytes as f64 / 1e9;
        let calls = blobs + images * CALLS_OF_AN_IMAGE;
        let opening = images * OPENING_WORK.as_secs_f64();
        let asking = calls * self.best.unwrap_or_default().as_secs_f64() + opening;
        let processors = f64::from(self.processors);
        let work = blobs * WORK_PER_BLOB.as_secs_f64() + gigabytes * WORK_PER_GB.as_secs_f64();
        let (work, start) = (work / processors, self.cost.as_secs_f64() / processors);
        let root = (work * work + 4.0 * start * asking).sqrt();
        ((root - work) / (2.0 * start)).round() as usize
    }
}

fn is_held_back(took: Duration, usual: Duration) -> bool {
    took >= THROTTLED_FROM && took >= usual * THROTTLED
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// So many blobs of hardly any bytes.
    fn small(blobs: usize) -> ToAsk {
        megabytes(blobs, 0)
    }

    fn megabytes(blobs: usize, megabytes: u128) -> ToAsk {
        ToAsk {
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
    fn a_call_is_late_after_a_multiple_of_the_usual_time_but_not_at_once() {
        assert_eq!(new(1, 8).late_after(), LATE_AT_FIRST);
        assert_eq!(after(&[1], 8).late_after(), LATE_FROM);
        let slow = LATE_FROM * 2;
        let mut governor = new(1, 8);
        governor.expect_call_time(slow);
        assert_eq!(governor.late_after(), slow * LATE_TIMES);
    }

    #[test]
    fn as_many_as_make_asking_no_longer_than_the_work() {
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
        for (call, to_ask, max, expected) in table {
            let wanted = after(&[call], max).wanted(to_ask);
            assert_eq!(wanted, expected, "{call} ms, {to_ask:?}");
        }
    }

    #[test]
    fn one_slow_answer_brings_no_more_proxies() {
        let before = after(&[10, 10, 10], 64).wanted(small(100));
        assert_eq!(after(&[10, 10, 10, 900], 64).wanted(small(100)), before);
    }

    #[test]
    fn a_throttling_registry_gets_fewer_and_never_more_again() {
        let mut governor = after(&[50; 8], 16);
        assert_eq!(governor.wanted(small(400)), 16);
        governor.answered(MS(2000), 16);
        assert_eq!(governor.wanted(small(400)), 8);
        governor.answered(MS(4000), 8);
        governor.answered(MS(4000), 4);
        governor.answered(MS(4000), 2);
        assert_eq!(governor.wanted(small(400)), FEWEST);
        for _ in 0..50 {
            governor.answered(MS(50), 1);
        }
        assert_eq!(governor.wanted(small(400)), FEWEST);
    }

    #[test]
    fn a_first_answer_that_was_held_back_is_not_taken_for_the_usual() {
        let mut governor = new(1, 16);
        governor.expect_call_time(MS(50));
        governor.answered(MS(2100), 16);
        assert_eq!(governor.wanted(small(400)), 8);
    }

    #[test]
    fn many_late_answers_count_once_in_a_while() {
        let mut governor = after(&[50; 8], 16);
        let now = Instant::now();
        governor.slowed(16, now);
        governor.slowed(8, now + MS(100));
        assert_eq!(governor.wanted(small(400)), 8);
        governor.slowed(8, now + THROTTLED_FROM);
        assert_eq!(governor.wanted(small(400)), 4);
    }

    #[test]
    fn a_registry_throttles_also_those_who_have_no_more_than_the_fewest() {
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
