//! What the engine does with each report of a unit.

use std::sync::Arc;
use std::time::Instant;

use super::super::event::EventKind;
use super::super::handler::Job;
use super::super::image::ImageData;
use super::super::scheduler::{FailureKind, ImageId, Next, Task, UnitId, call_time_from};
use super::super::unit::{Failure, Report};
use super::failure::classify;
use super::{Engine, FirstOpened, Outcome};
use crate::error::error_chain;
use crate::proxy::ImageProxy;

impl Engine {
    pub(super) fn handle_report(&mut self, report: Report) {
        // Reports of an abandoned unit may still arrive. Its tasks have been given to others already.
        if !self.units.contains_key(&report.unit()) {
            return;
        }
        let now = Instant::now();
        match report {
            Report::Ready {
                unit,
                proxy,
                started,
            } => {
                self.scheduler.ready(unit, started, now);
                self.tally.protocol = Some(proxy.protocol_version().clone());
                self.tally.policy_unchecked |= !proxy.checks_policy();
                if let Some(handle) = self.units.get_mut(&unit) {
                    (handle.proxy, handle.started) = (Some(proxy), started);
                }
            }
            Report::Opened {
                unit,
                image,
                opened,
                known,
                took,
            } => {
                let mut first_opened = None;
                if let Some(handle) = self.units.get_mut(&unit) {
                    handle.opened.insert(image, Arc::clone(&opened));
                    first_opened = handle.proxy.clone().map(|proxy| FirstOpened {
                        proxy,
                        opened,
                        opening: took,
                        starting: handle.started,
                    });
                    if !std::mem::replace(&mut handle.has_opened_image, true) {
                        let (proxy, took) = (unit.0, handle.begun.elapsed());
                        self.events.send(|| EventKind::ProxyReady { proxy, took });
                    }
                }
                self.scheduler
                    .opened(unit, image, call_time_from(took), now);
                self.record_first_opening(image, known, first_opened);
            }
            Report::Configured {
                unit,
                image,
                content,
            } => {
                if let Some(entry) = self.images.get_mut(&image) {
                    entry.content = Some(content);
                }
                self.scheduler.configured(unit, image, now);
            }
            Report::Answered { unit, task, took } => {
                self.scheduler.answered(unit, task, took, now);
            }
            Report::Quiet { unit, task } => self.scheduler.quiet(unit, task),
            Report::Done {
                unit,
                task,
                fetched,
            } => {
                self.count_blob(task, fetched);
                self.scheduler.done(unit, task, now);
            }
            Report::Failed {
                unit,
                task,
                failure,
                recorded,
            } => {
                self.task_failed(unit, task, failure, now);
                self.recorded.extend(recorded);
            }
        }
    }

    fn record_first_opening(
        &mut self,
        image: ImageId,
        known: Arc<ImageData>,
        first_opened: Option<FirstOpened>,
    ) {
        let Some(entry) = self.images.get_mut(&image) else {
            return;
        };
        if entry.known.is_some() {
            return;
        }
        self.starter.record_answer(&entry.reference);
        let event = || EventKind::ImageOpened {
            image: entry.number,
            reference: entry.reference.to_string(),
            digest: known.manifest.source_digest.clone(),
            layers: known.manifest.manifest.layers().len(),
        };
        self.events.send(event);
        (entry.first_opened, entry.known) = (first_opened, Some(known));
        self.outcomes.push_back(Outcome::Opened(image));
    }

    fn count_blob(&mut self, task: Task, fetched: bool) {
        let Task::Blob { blob, .. } = task else {
            return;
        };
        let Some(job) = self.jobs.remove(&blob) else {
            return;
        };
        let tally = &mut self.tally;
        if fetched {
            tally.fetched_blobs += 1;
            let size = job.layer.descriptor.size();
            tally.fetched_bytes = tally.fetched_bytes.saturating_add(size);
        } else {
            tally.reused_blobs += 1;
        }
    }

    fn task_failed(&mut self, unit: UnitId, task: Task, failure: Failure, now: Instant) {
        let reference = match task {
            Task::Open(image) | Task::Config(image) | Task::Blob { by: image, .. } => {
                let entry = self.images.get(&image);
                let reference = entry.map(|entry| Arc::clone(&entry.reference));
                // A forgotten image may still be open in the unit.
                reference.or_else(|| self.scheduler.source_key(unit, task).map(Arc::from))
            }
        };
        let job = match task {
            Task::Blob { blob, .. } => self.jobs.get(&blob).map(Job::name),
            _ => None,
        };
        let cancels = self
            .units
            .get(&unit)
            .and_then(|handle| handle.proxy.as_ref())
            .is_some_and(ImageProxy::supports_get_raw_blob);
        let failure_kind = classify(failure, &reference.unwrap_or_default(), cancels);
        let reason = error_chain(failure_kind.error());
        if let (FailureKind::Lost { unusable: true, .. }, Some(handle)) =
            (&failure_kind, self.units.get_mut(&unit))
        {
            handle.unusable.get_or_insert_with(|| reason.clone());
        }
        let next = self
            .scheduler
            .failed(unit, task, failure_kind, (now, fastrand::f64()));
        let proxy = unit.0;
        match next {
            Next::Retry { wait, .. } => {
                tracing::debug!(?task, proxy, %reason, ?wait, "will retry");
            }
            Next::GivenUp | Next::Rerouted => tracing::debug!(?task, proxy, %reason, "failed"),
        }
        let (Some(blob), proxy) = (job, unit.0) else {
            return;
        };
        match next {
            Next::Retry { failed, wait } => {
                self.tally.retries += 1;
                self.events.send(|| EventKind::BlobRetried {
                    blob,
                    proxy,
                    failed,
                    reason,
                    wait,
                });
            }
            Next::GivenUp => self.events.send(|| EventKind::BlobFailed {
                blob,
                proxy,
                reason,
            }),
            Next::Rerouted => {}
        }
    }
}
