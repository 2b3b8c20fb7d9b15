//! The units of a run, as the run sees them: what it can tell them, and what it
//! remembers of their reports.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::Id;

use super::Job;

/// How many blobs have to wait for a unit before another one opens an image for them: that takes about as long
/// as three calls.
const CROWD: usize = 4;

#[derive(Debug)]
pub(super) struct Running {
    pub(super) number: usize,
    pub(super) own_jobs: async_channel::Sender<Job>,
    /// To take back what it leaves.
    pub(super) left_jobs: async_channel::Receiver<Job>,
    retire: watch::Sender<bool>,
    pub(super) ready: bool,
    /// Dropping a blob's pipes cancels it there (protocol 0.2.8).
    pub(super) cancels: bool,
    /// When the call began, or the start, that it waits for.
    pub(super) asking: Option<Instant>,
    /// The sources of which it has an image open.
    pub(super) sources: HashSet<usize>,
    retired: bool,
    /// Why it was retired, if it was not for being too many.
    pub(super) sick: Option<String>,
}

impl Running {
    /// One that is being started.
    pub(super) fn new(
        number: usize,
        (own_jobs, left_jobs): (async_channel::Sender<Job>, async_channel::Receiver<Job>),
        retire: watch::Sender<bool>,
    ) -> Self {
        Self {
            number,
            own_jobs,
            left_jobs,
            retire,
            ready: false,
            cancels: false,
            asking: Some(Instant::now()),
            sources: HashSet::new(),
            retired: false,
            sick: None,
        }
    }

    /// Have it end what it is at, and then end.
    pub(super) fn retire(&mut self) {
        self.retired = true;
        self.retire.send_replace(true);
    }

    fn is_late(&self, after: Duration) -> bool {
        self.asking.is_some_and(|since| since.elapsed() > after)
    }
}

/// All that have not ended, by their tasks.
#[derive(Debug, Default)]
pub(super) struct Fleet(HashMap<Id, Running>);

impl Fleet {
    pub(super) fn add(&mut self, id: Id, unit: Running) {
        self.0.insert(id, unit);
    }

    pub(super) fn remove(&mut self, id: Id) -> Option<Running> {
        self.0.remove(&id)
    }

    pub(super) fn unit(&mut self, number: usize) -> Option<&mut Running> {
        self.0.values_mut().find(|unit| unit.number == number)
    }

    fn working(&self) -> impl Iterator<Item = &Running> {
        self.0.values().filter(|unit| !unit.retired)
    }

    /// Those that ask for a blob, or can: for one of their own, or for one of those that wait for anybody.
    pub(super) fn askers(&self, some_wait: bool) -> impl Iterator<Item = usize> {
        let has_some =
            move |unit: &&Running| some_wait || unit.asking.is_some() || !unit.own_jobs.is_empty();
        let ready = self.working().filter(|unit| unit.ready);
        ready.filter(has_some).map(|unit| unit.number)
    }

    /// Whether any is being started.
    pub(super) fn is_starting(&self) -> bool {
        self.working().any(|unit| !unit.ready)
    }

    /// How many there are that are not retired.
    pub(super) fn at_work(&self) -> usize {
        self.working().count()
    }

    /// How many of those wait for a call, or a start, that began longer ago than that.
    pub(super) fn late(&self, after: Duration) -> usize {
        self.working().filter(|unit| unit.is_late(after)).count()
    }

    /// Whether any of those waits for an answer.
    pub(super) fn is_asking(&self) -> bool {
        self.working().any(|unit| unit.asking.is_some())
    }

    /// Those that may not get to what waits for them.
    pub(super) fn stuck(&self, late: Duration) -> impl Iterator<Item = &Running> {
        let stuck = move |unit: &&Running| unit.retired || unit.is_late(late);
        self.0.values().filter(stuck)
    }

    /// The one with the least to do of those that are ready, other than this one.
    pub(super) fn another(&self, number: usize, late: Duration) -> Option<&Running> {
        self.working()
            .filter(|unit| unit.number != number && unit.ready && !unit.is_late(late))
            .min_by_key(|unit| unit.own_jobs.len())
    }

    /// One that need not open an image for a blob of these sources, if there are others that would have to: the
    /// one of those with the least to do.
    pub(super) fn nearest(&self, sources: &[usize], late: Duration) -> Option<&Running> {
        let near = |unit: &&Running| sources.iter().any(|source| unit.sources.contains(source));
        let able = || self.working().filter(|unit| !unit.is_late(late));
        if able().all(|unit| near(&unit)) {
            return None;
        }
        able().filter(near).min_by_key(|unit| unit.own_jobs.len())
    }

    /// One with much more to do than is worth waiting for, if there is another one that has nothing to do.
    pub(super) fn crowded(&self) -> Option<&Running> {
        let is_idle =
            |unit: &Running| unit.ready && unit.asking.is_none() && unit.own_jobs.is_empty();
        let crowded = self.working().max_by_key(|unit| unit.own_jobs.len());
        let crowded = crowded.filter(|unit| unit.own_jobs.len() >= CROWD);
        crowded.filter(|_| self.working().any(is_idle))
    }

    /// So many go, the newest, after what they are at.
    pub(super) fn retire_newest(&mut self, count: usize) {
        let mut units: Vec<_> = self.0.values_mut().filter(|unit| !unit.retired).collect();
        units.sort_by_key(|unit| Reverse(unit.number));
        for unit in units.into_iter().take(count) {
            unit.retire();
        }
    }
}
