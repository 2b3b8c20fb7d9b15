//! What becomes of a registry that refuses everybody.
//!
//! A refusal that may pass (429, 5xx, a refused connection) is the registry's affair, not that of the blob
//! that was asked for: nobody asks it for a while. Then one asks, and if that is answered, all do.

use std::time::Instant;

use crate::fetch::retry::RetryPolicy;
use crate::time::moment_after;

#[derive(Debug, Clone)]
pub(super) struct Outage {
    /// Refusals without an answer between them. Those of calls that were under way together count once.
    refusals: u32,
    /// When the last of those came that counted.
    since: Option<Instant>,
    /// Nobody asks before.
    until: Option<Instant>,
    /// The unit that asks first after that, once there is one.
    probe: Option<usize>,
    /// A blob was refused: that an image can be opened says nothing then.
    of_blobs: bool,
}

impl Outage {
    /// There is none.
    pub(super) fn none() -> Self {
        Self {
            refusals: 0,
            since: None,
            until: None,
            probe: None,
            of_blobs: false,
        }
    }

    /// A call that began then was refused in a way that may pass. `random` is from 0 to 1.
    pub(super) fn refused(
        &mut self,
        policy: &RetryPolicy,
        began: Instant,
        now: Instant,
        random: f64,
    ) {
        if self.since.is_some_and(|since| began <= since) {
            return;
        }
        self.refusals += 1;
        self.since = Some(now);
        self.probe = None;
        let wait = policy.jittered(self.refusals, random);
        self.until = Some(moment_after(now, wait));
    }

    /// A blob was refused.
    pub(super) fn is_of_blobs(&mut self) {
        self.of_blobs = true;
    }

    /// A call was answered with a blob.
    pub(super) fn answered(&mut self) {
        *self = Self::none();
    }

    /// An image could be opened.
    pub(super) fn opened(&mut self) {
        if !self.of_blobs {
            *self = Self::none();
        }
    }

    /// Whether it has lasted for too many refusals to go on.
    pub(super) fn is_lasting(&self, policy: &RetryPolicy) -> bool {
        self.refusals > policy.retries
    }

    /// When somebody may ask again, if nobody may now.
    pub(super) fn ends(&self) -> Option<Instant> {
        self.until
    }

    /// Whether this unit may ask now.
    pub(super) fn lets(&self, unit: usize, now: Instant) -> bool {
        let is_over = self.until.is_none_or(|until| until <= now);
        self.since.is_none() || is_over && self.probe.is_none_or(|probe| probe == unit)
    }

    /// This unit asks now, as it may.
    pub(super) fn asks(&mut self, unit: usize) {
        if self.since.is_some() {
            self.probe = Some(unit);
        }
    }

    /// This unit asks for nothing any more, and has learned nothing.
    pub(super) fn gone(&mut self, unit: usize) {
        self.probe = self.probe.filter(|probe| *probe != unit);
    }

    /// Whether there is one, be it that somebody asks again.
    pub(super) fn is_on(&self) -> bool {
        self.since.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn policy() -> RetryPolicy {
        RetryPolicy::default().retries(2).initial_backoff(MS(100))
    }

    #[test]
    fn after_a_refusal_nobody_asks_then_one_and_after_an_answer_all() {
        let (policy, begun) = (policy(), Instant::now());
        let mut outage = Outage::none();
        assert!(outage.lets(1, begun));
        outage.refused(&policy, begun, begun + MS(10), 1.0);
        assert!(outage.is_on());
        assert!(!outage.lets(1, begun + MS(109)));
        assert!(outage.lets(1, begun + MS(110)) && outage.lets(2, begun + MS(110)));
        outage.asks(2);
        assert!(!outage.lets(1, begun + MS(110)) && outage.lets(2, begun + MS(110)));
        outage.answered();
        assert!(outage.lets(1, begun));
        assert!(!outage.is_on());
    }

    #[test]
    fn refusals_of_calls_that_were_under_way_together_count_once() {
        let (policy, begun) = (policy(), Instant::now());
        let mut outage = Outage::none();
        for unit in 0..16 {
            outage.refused(&policy, begun, begun + MS(10 + unit), 1.0);
        }
        assert_eq!(outage.ends(), Some(begun + MS(110)));
        assert!(!outage.is_lasting(&policy));
        // Two more, each of one that asked after the wait, are as many as there are retries.
        for (count, at) in [(2, 200), (3, 600)] {
            outage.refused(&policy, begun + MS(at), begun + MS(at + 1), 1.0);
            assert_eq!(outage.is_lasting(&policy), count > 2);
        }
    }

    #[test]
    fn waits_get_longer_until_there_is_an_answer() {
        let (policy, begun) = (policy(), Instant::now());
        let mut outage = Outage::none();
        outage.refused(&policy, begun, begun, 1.0);
        outage.refused(&policy, begun + MS(100), begun + MS(100), 1.0);
        assert_eq!(outage.ends(), Some(begun + MS(300)));
        outage.answered();
        outage.refused(&policy, begun + MS(400), begun + MS(400), 0.0);
        assert_eq!(outage.ends(), Some(begun + MS(450)));
    }

    #[test]
    fn if_the_one_that_was_to_ask_can_not_another_one_does() {
        let (policy, begun) = (policy(), Instant::now());
        let mut outage = Outage::none();
        outage.refused(&policy, begun, begun, 1.0);
        let later = begun + MS(200);
        outage.asks(3);
        outage.gone(5);
        assert!(!outage.lets(5, later));
        outage.gone(3);
        assert!(outage.lets(5, later));
    }
}
