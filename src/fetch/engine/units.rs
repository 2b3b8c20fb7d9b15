//! The units of the engine: how they are started, given tasks, and ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinError};

use super::super::event::EventKind;
use super::super::retry::is_transient;
use super::super::scheduler::{ImageId, KindId, Task, UnitError, UnitId};
use super::super::unit::{ProxyOrigin, TaskData, Unit, Work};
use super::Engine;
use crate::error::{Result, error_chain, join_error};
use crate::proxy::{ImageProxy, OpenedImage};
use crate::reference::Place;

/// The engine's side of a unit.
pub(super) struct UnitHandle {
    pub(super) work: async_channel::Sender<Work>,
    /// The receiving end of `work`, through which the engine takes back tasks that the unit has not begun.
    pub(super) queue: async_channel::Receiver<Work>,
    pub(super) retire: watch::Sender<bool>,
    pub(super) abort: AbortHandle,
    pub(super) begun: Instant,
    pub(super) proxy: Option<ImageProxy>,
    pub(super) started: Duration,
    pub(super) opened: HashMap<ImageId, Arc<OpenedImage>>,
    pub(super) has_opened_image: bool,
    /// The error because of which the unit is retired, if there is one.
    pub(super) unusable: Option<String>,
}

impl Engine {
    pub(super) fn start(&mut self, unit: UnitId, kind: KindId) {
        let proxy = unit.0;
        self.events.send(|| EventKind::ProxyStarted { proxy });
        let kind = Arc::clone(&self.kinds[kind.0]);
        let proxies = self.units.len() + 1;
        self.spawn(unit, ProxyOrigin::New { kind, proxies });
    }

    pub(super) fn spawn(&mut self, number: UnitId, origin: ProxyOrigin) {
        let (work, queue) = async_channel::unbounded();
        let (retire, retired) = watch::channel(false);
        let proxy = match &origin {
            ProxyOrigin::Running(proxy) => Some(proxy.clone()),
            ProxyOrigin::New { .. } => None,
        };
        let unit = Unit {
            number,
            starter: Arc::clone(&self.starter),
            work: queue.clone(),
            retired,
            reports: self.reports.clone(),
        };
        let abort = self.unit_tasks.spawn(unit.run(origin));
        self.numbers.insert(abort.id(), number);
        let handle = UnitHandle {
            work,
            queue,
            retire,
            abort,
            begun: Instant::now(),
            proxy,
            started: Duration::ZERO,
            opened: HashMap::new(),
            has_opened_image: false,
            unusable: None,
        };
        self.units.insert(number, handle);
    }

    pub(super) fn give(&mut self, unit: UnitId, task: Task) {
        let data = self.task_data(unit, task);
        let work = self.units.get(&unit).map(|handle| &handle.work);
        let given = data.zip(work).is_some_and(|(data, work)| {
            // The channel is unbounded, and a receiver is held here, so this can't fail.
            work.try_send(Work { task, data }).is_ok()
        });
        if !given {
            self.scheduler.recalled(unit, task, Instant::now());
        }
    }

    fn task_data(&self, unit: UnitId, task: Task) -> Option<TaskData> {
        let opened = |image: &ImageId| {
            let opened = &self.units.get(&unit)?.opened;
            opened.get(image).map(Arc::clone)
        };
        Some(match task {
            Task::Open(image) => {
                let entry = self.images.get(&image)?;
                TaskData::Open {
                    reference: Arc::clone(&entry.reference),
                    known: entry.known.clone(),
                    number: entry.number,
                    events: self.events.clone(),
                }
            }
            Task::Config(image) => TaskData::Config {
                image: self.images.get(&image)?.known.clone()?,
                number: self.images.get(&image)?.number,
                opened: opened(&image)?,
                context: self.context.clone()?,
            },
            Task::Blob { blob, by } => TaskData::Blob {
                job: Box::new(self.jobs.get(&blob)?.clone()),
                opened: opened(&by)?,
                context: self.context.clone()?,
            },
        })
    }

    pub(super) fn recall(&mut self, unit: UnitId) {
        let now = Instant::now();
        let Some(handle) = self.units.get(&unit) else {
            return;
        };
        while let Ok(work) = handle.queue.try_recv() {
            self.scheduler.recalled(unit, work.task, now);
        }
    }

    pub(super) fn unit_ended(&mut self, ended: Result<(Id, Result<()>), JoinError>) {
        let (id, result) = match ended {
            Ok(ended) => ended,
            // The unit was abandoned.
            Err(error) if error.is_cancelled() => (error.id(), Ok(())),
            Err(error) => (error.id(), Err(join_error(error))),
        };
        // The reports that the unit sent before it ended come first.
        while let Ok(report) = self.reported.try_recv() {
            self.handle_report(report);
        }
        let Some(unit) = self.numbers.remove(&id) else {
            return;
        };
        let Some(handle) = self.units.remove(&unit) else {
            return;
        };
        let proxy = unit.0;
        let reason = result.as_ref().err().map(error_chain).or(handle.unusable);
        self.events.send(|| EventKind::ProxyEnded { proxy, reason });
        let lost = result.err().map(|error| UnitError {
            is_transient: is_transient(&error, Place::Registry { host: "" }),
            error,
        });
        self.scheduler.ended(unit, lost, Instant::now());
    }
}
