//! The outage of a registry that refuses all calls.
//!
//! A transient refusal (429, 5xx, a refused connection) concerns the registry, not the blob that was asked
//! for. So no unit asks the registry for a while. Then one unit asks. If it gets an answer, all units ask again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Task;
use crate::fetch::retry::RetryPolicy;
use crate::time::deadline_after;

#[derive(Debug, Clone, Hash)]
pub(super) struct Outage {
    /// The number of refusals without an answer in between. Refusals of calls that were under way together
    /// count once.
    refusals: u32,
    /// The images and blobs that were refused. A single blob that the registry can't read does not mean that the
    /// registry is to be given up, even if nothing else is asked for.
    refused: BTreeSet<Refusal>,
    /// The time of the last counted refusal.
    since: Option<Instant>,
    /// No unit asks before this time.
    until: Option<Instant>,
    /// The unit that asks first after that time.
    probe: Option<usize>,
    /// Whether a blob was refused. An opened image does not end the outage then.
    has_refused_blob: bool,
}

/// A refused image or blob, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Refusal {
    Image(usize),
    Blob(usize),
}

impl From<Task> for Refusal {
    fn from(task: Task) -> Self {
        match task {
            Task::Open(image) | Task::Config(image) => Self::Image(image.0),
            Task::Blob { blob, .. } => Self::Blob(blob.0),
        }
    }
}

impl Outage {
    /// The state without an outage.
    pub(super) fn none() -> Self {
        Self {
            refusals: 0,
            refused: BTreeSet::new(),
            since: None,
            until: None,
            probe: None,
            has_refused_blob: false,
        }
    }

    /// Records a transient refusal of a call that began at `began`. `random` is from 0 to 1. Returns the wait until a
    /// unit may ask again. `None` if the refusal does not count, because another one has begun this wait.
    pub(super) fn refused(
        &mut self,
        task: Task,
        policy: &RetryPolicy,
        began: Instant,
        (now, random): (Instant, f64),
    ) -> Option<Duration> {
        self.refused.insert(task.into());
        if self.since.is_some_and(|since| began <= since) {
            return None;
        }
        self.refusals += 1;
        self.since = Some(now);
        self.probe = None;
        let wait = policy.jittered(self.refusals, random);
        self.until = Some(deadline_after(now, wait));
        Some(wait)
    }

    /// Records that a blob was refused.
    pub(super) fn record_blob_refusal(&mut self) {
        self.has_refused_blob = true;
    }

    /// Records that a call for a blob was answered.
    pub(super) fn answered(&mut self) {
        *self = Self::none();
    }

    /// Records that an image was opened.
    pub(super) fn opened(&mut self) {
        if !self.has_refused_blob {
            *self = Self::none();
        }
    }

    /// Whether the registry is to be given up. That needs more refusals than there are retries, of several
    /// images or of more blobs than there are retries. A few blobs that can't be read are no reason to give
    /// up all others.
    pub(super) fn is_lasting(&self, policy: &RetryPolicy) -> bool {
        let is_image = |refused: &Refusal| matches!(refused, Refusal::Image(_));
        let images = self
            .refused
            .iter()
            .filter(|refused| is_image(refused))
            .count();
        let blobs = self.refused.len() - images;
        let of_many = images > 1 || u32::try_from(blobs).is_ok_and(|blobs| blobs > policy.retries);
        of_many && self.refusals > policy.retries
    }

    /// The time from which a unit may ask again.
    pub(super) fn ends_at(&self) -> Option<Instant> {
        self.until
    }

    /// Whether this unit may ask now.
    pub(super) fn may_ask(&self, unit: usize, now: Instant) -> bool {
        let wait_is_over = self.until.is_none_or(|until| until <= now);
        self.since.is_none() || wait_is_over && self.probe.is_none_or(|probe| probe == unit)
    }

    /// Records that this unit asks now. [`may_ask`](Self::may_ask) must have allowed it.
    pub(super) fn record_asking(&mut self, unit: usize) {
        if self.since.is_some() {
            self.probe = Some(unit);
        }
    }

    /// Records that this unit has nothing to ask for any more. Another unit may ask in its place.
    pub(super) fn release_probe(&mut self, unit: usize) {
        self.probe = self.probe.filter(|probe| *probe != unit);
    }

    /// Whether there is an outage. It lasts until a call is answered.
    pub(super) fn is_active(&self) -> bool {
        self.since.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BlobId, ImageId};
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn blob(number: u64) -> Task {
        Task::Blob {
            blob: BlobId(usize::try_from(number).expect("small")),
            by: ImageId(0),
        }
    }

    fn policy() -> RetryPolicy {
        RetryPolicy::default().retries(2).initial_backoff(MS(100))
    }

    #[test]
    fn after_a_refusal_one_unit_asks_and_after_an_answer_all_do() {
        let (policy, begun) = (policy(), Instant::now());
        let mut outage = Outage::none();
        assert!(outage.may_ask(1, begun));
        let wait = outage.refused(blob(0), &policy, begun, (begun + MS(10), 1.0));
        assert_eq!(wait, Some(MS(100)));
        assert!(outage.is_active());
        assert!(!outage.may_ask(1, begun + MS(109)));
        assert!(outage.may_ask(1, begun + MS(110)) && outage.may_ask(2, begun + MS(110)));
        outage.record_asking(2);
        assert!(!outage.may_ask(1, begun + MS(110)) && outage.may_ask(2, begun + MS(110)));
        outage.answered();
        assert!(outage.may_ask(1, begun));
        assert!(!outage.is_active());
    }

    #[test]
    fn refusals_of_calls_that_were_under_way_together_count_once() {
        let (policy, begun) = (policy(), Instant::now());
        let mut outage = Outage::none();
        for unit in 0..16_u64 {
            let wait = outage.refused(blob(unit), &policy, begun, (begun + MS(10 + unit), 1.0));
            assert_eq!(wait.is_some(), unit == 0);
        }
        assert_eq!(outage.ends_at(), Some(begun + MS(110)));
        assert!(!outage.is_lasting(&policy));
        // Two more refusals, each of a call made after the wait, exceed the number of retries.
        for (count, at) in [(2, 200), (3, 600)] {
            outage.refused(blob(0), &policy, begun + MS(at), (begun + MS(at + 1), 1.0));
            assert_eq!(outage.is_lasting(&policy), count > 2);
        }
    }

    #[test]
    fn waits_get_longer_until_there_is_an_answer() {
        let (policy, begun) = (policy(), Instant::now());
        let mut outage = Outage::none();
        outage.refused(blob(0), &policy, begun, (begun, 1.0));
        outage.refused(blob(0), &policy, begun + MS(100), (begun + MS(100), 1.0));
        assert_eq!(outage.ends_at(), Some(begun + MS(300)));
        outage.answered();
        outage.refused(blob(0), &policy, begun + MS(400), (begun + MS(400), 0.0));
        assert_eq!(outage.ends_at(), Some(begun + MS(450)));
    }

    #[test]
    fn another_unit_asks_if_the_probing_one_ends() {
        let (policy, begun) = (policy(), Instant::now());
        let mut outage = Outage::none();
        outage.refused(blob(0), &policy, begun, (begun, 1.0));
        let later = begun + MS(200);
        outage.record_asking(3);
        outage.release_probe(5);
        assert!(!outage.may_ask(5, later));
        outage.release_probe(3);
        assert!(outage.may_ask(5, later));
    }

    #[test]
    fn a_blob_that_is_always_refused_is_no_lasting_outage() {
        let (policy, begun) = (policy(), Instant::now());
        let refuse = |tasks: &[Task]| {
            let mut outage = Outage::none();
            for (count, task) in (0..).zip(tasks) {
                let now = begun + Duration::from_secs(count);
                outage.refused(*task, &policy, now, (now + MS(1), 1.0));
            }
            outage.is_lasting(&policy)
        };
        assert!(!refuse(&[blob(7); 20]));
        assert!(!refuse(&[blob(7), blob(8), blob(7), blob(8)]));
        assert!(refuse(&[blob(7), blob(8), blob(9)]));
        let open = |image| Task::Open(ImageId(image));
        assert!(!refuse(&[open(1); 20]));
        assert!(refuse(&[open(1), open(1), open(2)]));
    }
}
