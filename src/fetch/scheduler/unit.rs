//! The state of a unit, as the scheduler knows it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{HostId, ImageId, KindId, SourceId, Task};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    Starting,
    Ready,
}

/// What a unit was started for, or has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Use {
    /// The unit was started before it was known how many units are wanted.
    Ahead,
    /// The unit was wanted when it was started.
    Wanted,
    /// The unit was given something to fetch.
    Served,
}

#[derive(Debug, Clone, Hash)]
pub(super) struct Unit {
    pub(super) host: HostId,
    pub(super) kind: KindId,
    pub(super) stage: Stage,
    /// The time at which the unit was started.
    begun: Instant,
    /// The task for which the proxy is being asked, and since when. There is at most one such task, because a
    /// proxy answers one call at a time.
    asking: Option<(Task, Instant)>,
    /// The task that the unit does next.
    queued: Option<Task>,
    /// Whether the engine was asked to take back the queued task.
    pub(super) recalled: bool,
    /// The tasks whose calls were answered, and whose blobs are being drained.
    draining: Vec<Task>,
    /// The images that the unit has open, by source.
    pub(super) open: BTreeMap<SourceId, BTreeSet<ImageId>>,
    /// The sources whose images the unit could not open.
    pub(super) cannot_open: BTreeSet<SourceId>,
    /// The unit gets no task before this time.
    pub(super) paused_until: Option<Instant>,
    /// Whether the unit gets no more tasks.
    pub(super) retired: bool,
    pub(super) used: Use,
    /// The tasks whose blobs are quiet: no byte has come for a while, and only a call that blocks the proxy
    /// would tell why.
    pub(super) quiet: BTreeSet<Task>,
    /// When the unit last found, while it was idle, that no other unit needs its help.
    pub(super) no_help_needed_since: Option<Instant>,
}

impl Unit {
    /// A unit whose proxy is being started.
    pub(super) fn new(host: HostId, kind: KindId, now: Instant) -> Self {
        Self {
            host,
            kind,
            stage: Stage::Starting,
            begun: now,
            asking: None,
            queued: None,
            recalled: false,
            draining: Vec::new(),
            open: BTreeMap::new(),
            cannot_open: BTreeSet::new(),
            paused_until: None,
            retired: false,
            used: Use::Wanted,
            quiet: BTreeSet::new(),
            no_help_needed_since: None,
        }
    }

    pub(super) fn tasks(&self) -> impl Iterator<Item = Task> {
        let asking = self.asking.map(|(task, _)| task);
        let drained = self.draining.iter().copied();
        asking.into_iter().chain(self.queued).chain(drained)
    }

    pub(super) fn load(&self) -> usize {
        self.tasks().count()
    }

    pub(super) fn asking(&self) -> Option<Task> {
        self.asking.map(|(task, _)| task)
    }

    pub(super) fn queued(&self) -> Option<Task> {
        self.queued
    }

    pub(super) fn give(&mut self, task: Task, now: Instant) {
        if self.asking.is_none() {
            self.asking = Some((task, now));
        } else {
            self.queued = Some(task);
            self.recalled = false;
        }
        if !matches!(task, Task::Open(_)) {
            self.used = Use::Served;
        }
    }

    /// Records that the call for a task was answered. The blob is drained from now on.
    pub(super) fn answered(&mut self, task: Task, now: Instant) {
        if self.asking() == Some(task) {
            self.draining.push(task);
            self.ask_next(now);
        }
    }

    /// Removes the task. Returns whether the unit had it.
    pub(super) fn finish(&mut self, task: Task, now: Instant) -> bool {
        if self.asking() == Some(task) {
            self.ask_next(now);
        } else if self.queued == Some(task) {
            self.queued = None;
        } else if let Some(place) = self.draining.iter().position(|one| *one == task) {
            self.draining.swap_remove(place);
            self.quiet.remove(&task);
        } else {
            return false;
        }
        true
    }

    fn ask_next(&mut self, now: Instant) {
        self.asking = self.queued.take().map(|task| (task, now));
    }

    /// Whether the unit has been starting, or waiting for an answer, for longer than `after`.
    pub(super) fn is_late(&self, after: Duration, now: Instant) -> bool {
        let since = match (self.stage, self.asking) {
            (Stage::Starting, _) => Some(self.begun),
            (Stage::Ready, asking) => asking.map(|(_, since)| since),
        };
        since.is_some_and(|since| now.saturating_duration_since(since) > after)
    }

    /// Leaves this time out of how long the unit has been starting, or waiting for an answer.
    pub(super) fn skip_time(&mut self, time: Duration) {
        self.begun += time;
        if let Some((_, since)) = &mut self.asking {
            *since += time;
        }
    }

    pub(super) fn has(&self, source: SourceId, image: ImageId) -> bool {
        self.open
            .get(&source)
            .is_some_and(|open| open.contains(&image))
    }

    /// Whether the unit is opening this image.
    pub(super) fn is_opening(&self, image: ImageId) -> bool {
        self.asking() == Some(Task::Open(image))
    }
}
