//! What becomes of a registry that refuses everybody. Pure.
//!
//! A refusal that may pass (429, 5xx, a refused connection) is the registry's affair, not that of the blob
//! that was asked for: nobody asks it for a while. Then one asks, and if that is answered, all do.

use std::time::Instant;

use super::retry::RetryPolicy;
use crate::time::moment_after;

/// Who may ask for blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    Everybody,
    Nobody,
    /// The unit of this number, to see whether the registry answers again.
    Only(usize),
}

impl Gate {
    pub(super) fn lets(self, unit: usize) -> bool {
        match self {
            Self::Everybody => true,
            Self::Nobody => false,
            Self::Only(one) => one == unit,
        }
    }
}

#[derive(Debug)]
pub(super) struct Outage {
    /// Refusals without an answer between them. Those of calls that were under way together count once.
    refusals: u32,
    /// When the last of those came that counted.
    since: Option<Instant>,
    /// Nobody asks before.
    until: Option<Instant>,
    /// Who asks first after that.
    probe: Option<usize>,
}

impl Outage {
    /// There is none.
    pub(super) fn none() -> Self {
        Self {
            refusals: 0,
            since: None,
            until: None,
            probe: None,
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

    /// A call was answered with a blob.
    pub(super) fn answered(&mut self) {
        *self = Self::none();
    }

    /// Whether it has lasted for too many refusals to go on.
    pub(super) fn is_lasting(&self, policy: &RetryPolicy) -> bool {
        self.refusals > policy.retries
    }

    /// When somebody may ask again, if nobody may now.
    pub(super) fn ends(&self) -> Option<Instant> {
        self.until
    }

    /// Who may ask now. `ready` tells whether a unit can, and `first` is one that can, if there is any.
    pub(super) fn gate(
        &mut self,
        now: Instant,
        ready: impl Fn(usize) -> bool,
        first: Option<usize>,
    ) -> Gate {
        if self.since.is_none() {
            return Gate::Everybody;
        }
        if self.until.is_some_and(|until| now < until) {
            return Gate::Nobody;
        }
        self.until = None;
        self.probe = self.probe.filter(|unit| ready(*unit)).or(first);
        self.probe.map_or(Gate::Nobody, Gate::Only)
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

    fn gate(outage: &mut Outage, now: Instant) -> Gate {
        outage.gate(now, |_| true, Some(3))
    }

    #[test]
    fn after_a_refusal_nobody_asks_then_one_and_after_an_answer_all() {
        let (policy, begun) = (policy(), Instant::now());
        let mut outage = Outage::none();
        assert_eq!(gate(&mut outage, begun), Gate::Everybody);
        outage.refused(&policy, begun, begun + MS(10), 1.0);
        assert!(outage.is_on());
        assert_eq!(gate(&mut outage, begun + MS(109)), Gate::Nobody);
        assert_eq!(gate(&mut outage, begun + MS(110)), Gate::Only(3));
        assert!(Gate::Only(3).lets(3) && !Gate::Only(3).lets(2) && !Gate::Nobody.lets(3));
        outage.answered();
        assert_eq!(gate(&mut outage, begun + MS(110)), Gate::Everybody);
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
        assert_eq!(outage.gate(later, |_| true, Some(3)), Gate::Only(3));
        assert_eq!(outage.gate(later, |_| true, Some(5)), Gate::Only(3));
        assert_eq!(outage.gate(later, |unit| unit != 3, Some(5)), Gate::Only(5));
        assert_eq!(outage.gate(later, |_| false, None), Gate::Nobody);
    }
}
