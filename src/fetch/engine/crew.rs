//! The engine's units: started, given work, and ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinError};

use super::super::event::EventKind;
use super::super::panicked;
use super::super::retry::may_pass;
use super::super::scheduler::{ImageId, KindId, Lost, Task, UnitId};
use super::super::unit::{Beginning, Unit, What, Work};
use super::{Engine, chain};
use crate::error::Result;
use crate::proxy::{ImageProxy, OpenedImage};
use crate::reference::Place;

/// A unit of the engine.
pub(super) struct Member {
    pub(super) work: async_channel::Sender<Work>,
    /// To take back what it has not begun.
    pub(super) left: async_channel::Receiver<Work>,
    pub(super) retire: watch::Sender<bool>,
    pub(super) abort: AbortHandle,
    pub(super) begun: Instant,
    pub(super) proxy: Option<ImageProxy>,
    pub(super) started: Duration,
    pub(super) opened: HashMap<ImageId, Arc<OpenedImage>>,
    pub(super) was_useful: bool,
    /// Why it is retired, if not for being too many.
    pub(super) sick: Option<String>,
}

impl Engine {
    pub(super) fn start(&mut self, unit: UnitId, kind: KindId) {
        let proxy = unit.0;
        self.events.send(|| EventKind::ProxyStarted { proxy });
        let kind = Arc::clone(&self.kinds[kind.0]);
        let is_first = unit.0 == 0;
        self.spawn(unit, Beginning::New { kind, is_first });
    }

    pub(super) fn spawn(&mut self, number: UnitId, beginning: Beginning) {
        let (work, left) = async_channel::unbounded();
        let (retire, retired) = watch::channel(false);
        let proxy = match &beginning {
            Beginning::Running(proxy) => Some(proxy.clone()),
            Beginning::New { .. } => None,
        };
        let unit = Unit {
            number,
            starter: Arc::clone(&self.starter),
            work: left.clone(),
            retired,
            reports: self.reports.clone(),
        };
        let abort = self.units.spawn(unit.run(beginning));
        self.numbers.insert(abort.id(), number);
        let member = Member {
            work,
            left,
            retire,
            abort,
            begun: Instant::now(),
            proxy,
            started: Duration::ZERO,
            opened: HashMap::new(),
            was_useful: false,
            sick: None,
        };
        self.crew.insert(number, member);
    }

    pub(super) fn give(&mut self, unit: UnitId, task: Task) {
        let what = self.what(unit, task);
        let work = self.crew.get(&unit).map(|member| &member.work);
        let given = what.zip(work).is_some_and(|(what, work)| {
            // It has no bound, and its other end is here, too.
            work.try_send(Work { task, what }).is_ok()
        });
        if !given {
            self.scheduler.recalled(unit, task, Instant::now());
        }
    }

    fn what(&self, unit: UnitId, task: Task) -> Option<What> {
        let opened = |image: &ImageId| {
            let opened = &self.crew.get(&unit)?.opened;
            opened.get(image).map(Arc::clone)
        };
        Some(match task {
            Task::Open(image) => {
                let entry = self.images.get(&image)?;
                What::Open {
                    reference: Arc::clone(&entry.reference),
                    known: entry.known.clone(),
                }
            }
            Task::Config(image) => What::Config {
                image: self.images.get(&image)?.known.clone()?,
                opened: opened(&image)?,
                purpose: self.purpose.clone()?,
            },
            Task::Blob { blob, by } => What::Blob {
                job: Box::new(self.jobs.get(&blob)?.clone()),
                opened: opened(&by)?,
                purpose: self.purpose.clone()?,
            },
        })
    }

    pub(super) fn recall(&mut self, unit: UnitId) {
        let now = Instant::now();
        let Some(member) = self.crew.get(&unit) else {
            return;
        };
        while let Ok(work) = member.left.try_recv() {
            self.scheduler.recalled(unit, work.task, now);
        }
    }

    pub(super) fn unit_ended(&mut self, ended: Result<(Id, Result<()>), JoinError>) {
        let (id, result) = match ended {
            Ok(ended) => ended,
            // It was abandoned.
            Err(error) if error.is_cancelled() => (error.id(), Ok(())),
            Err(error) => (error.id(), Err(panicked(error))),
        };
        // What it told before it ended comes first.
        while let Ok(report) = self.reported.try_recv() {
            self.take(report);
        }
        let Some(unit) = self.numbers.remove(&id) else {
            return;
        };
        let Some(member) = self.crew.remove(&unit) else {
            return;
        };
        let proxy = unit.0;
        let reason = result.as_ref().err().map(chain).or(member.sick);
        self.events.send(|| EventKind::ProxyEnded { proxy, reason });
        let lost = result.err().map(|error| Lost {
            may_pass: may_pass(&error, Place::Registry { host: "" }),
            error,
        });
        self.scheduler.ended(unit, lost, Instant::now());
    }
}
