//! The reactions of the scheduler to each report of the engine.

use std::time::{Duration, Instant};

use super::blobs::BacklogChange;
use super::message::{Action, FailureKind, Next, RefusalReason, UnitError};
use super::unit::Stage;
use super::{BlobId, Config, HostId, ImageId, Opening, Scheduler, SourceId, Task, UnitId};
use crate::time::deadline_after;

/// How long no image is opened at a registry after an outage that lasted too long, or after the registry limited the
/// rate of openings, however many images are added.
const LOCKED_FOR: Duration = Duration::from_secs(60);

impl<E: Clone> Scheduler<E> {
    /// Records that a proxy has started. The start took as long as `started`.
    pub(in crate::fetch) fn ready(&mut self, unit: UnitId, started: Duration, now: Instant) {
        self.starts.succeeded();
        self.start_interval.ready(started, now);
        if let Some(unit) = self.units.get_mut(&unit) {
            unit.stage = Stage::Ready;
            self.hosts[unit.host.0].governor.started(started);
        }
    }

    /// Records that a unit has opened an image. `guess` is the latency of a call, estimated from the duration
    /// of the opening.
    pub(in crate::fetch) fn opened(
        &mut self,
        id: UnitId,
        image: ImageId,
        guess: Duration,
        now: Instant,
    ) {
        let host = self.host_of(id, Task::Open(image));
        self.finish(id, Task::Open(image), now);
        let first = self
            .images
            .get(&image)
            .filter(|image| image.opening != Opening::Opened);
        if let Some(source) = first.map(|image| image.source) {
            // Units that were refused while this one opened the image may try again.
            for unit in self.units.values_mut() {
                unit.cannot_open.remove(&source);
            }
        }
        if let Some(host) = host {
            let host = &mut self.hosts[host.0];
            host.opened();
            if host.rules.is_registry {
                host.governor.expect_call_time(guess);
            }
        }
        self.record_open(id, image);
    }

    /// Records that the config of an image has been fetched.
    pub(in crate::fetch) fn configured(&mut self, unit: UnitId, image: ImageId, now: Instant) {
        self.finish(unit, Task::Config(image), now);
        if let Some(of_image) = self.images.get_mut(&image) {
            of_image.config = Config::Done;
            of_image.failed = 0;
        }
        self.complete(image);
    }

    /// Records that no byte of a blob has come for a while, and that only a call that blocks the proxy would tell why.
    pub(in crate::fetch) fn quiet(&mut self, id: UnitId, task: Task) {
        if let Some(unit) = self.units.get_mut(&id) {
            unit.quiet.insert(task);
        }
    }

    /// Records that the proxy has answered the call for a blob. The answer took as long as `took`.
    pub(in crate::fetch) fn answered(
        &mut self,
        id: UnitId,
        task: Task,
        took: Duration,
        now: Instant,
    ) {
        let Task::Blob { blob, .. } = task else {
            return;
        };
        self.mark_asked(blob);
        let (Some(host), Some(unit)) = (self.host_of(id, task), self.units.get_mut(&id)) else {
            return;
        };
        unit.answered(task, now);
        let running = self.at_work(host);
        let of_host = &mut self.hosts[host.0];
        let before = of_host.governor.limit();
        of_host.answered();
        of_host.governor.answered(took, running);
        self.report_limit(host, before);
    }

    /// Reports the limit that a registry has because it throttles, unless it had the same one before. A limit above the
    /// number of units has no effect, and late answers may then be due to a busy machine.
    pub(super) fn report_limit(&mut self, host: HostId, before: Option<usize>) {
        let of_host = &self.hosts[host.0];
        let limit = of_host
            .governor
            .limit()
            .filter(|_| of_host.rules.is_registry);
        if let Some(units) = limit
            && before != limit
            && units < self.at_work(host)
        {
            self.actions.push_back(Action::Throttled { host, units });
        }
    }

    /// Reports that a registry gets no calls for this `wait`, because it refused a call with this error.
    fn report_pause(&mut self, host: HostId, wait: Option<Duration>, error: &E) {
        if let Some(wait) = wait
            && self.hosts[host.0].rules.is_registry
        {
            let error = error.clone();
            self.actions.push_back(Action::Paused { host, wait, error });
        }
    }

    /// Removes a blob from its host's backlog: the proxy has answered for it, or need not be asked.
    fn mark_asked(&mut self, blob: BlobId) {
        if let Some((host, size)) = self.blobs.mark_asked(blob) {
            self.hosts[host.0].backlog.remove(size);
        }
    }

    /// Records that a blob is done.
    pub(in crate::fetch) fn done(&mut self, unit: UnitId, task: Task, now: Instant) {
        self.finish(unit, task, now);
        let Task::Blob { blob, .. } = task else {
            return;
        };
        self.mark_asked(blob);
        for image in self.blobs.done(blob) {
            if let Some(of_image) = self.images.get_mut(&image) {
                of_image.unfinished_blobs -= 1;
            }
            self.complete(image);
        }
    }

    /// Records that a task failed, and decides whether and when it is retried. `random`, from 0 to 1, varies
    /// the wait.
    pub(in crate::fetch) fn failed(
        &mut self,
        unit: UnitId,
        task: Task,
        failure_kind: FailureKind<E>,
        (now, random): (Instant, f64),
    ) -> Next {
        let (host, source) = (self.host_of(unit, task), self.source_of(unit, task));
        self.finish(unit, task, now);
        self.may_have_lost = true;
        if let FailureKind::Lost { unusable: true, .. } = &failure_kind {
            self.retire(unit);
        }
        if let (Some(host), Some(began)) = (host, failure_kind.transient_since()) {
            let retry = &self.settings.retry;
            let outage = &mut self.hosts[host.0].outage;
            let wait = outage.refused(task, retry, began, (now, random));
            if let Task::Blob { .. } = task {
                outage.record_blob_refusal();
            }
            if !outage.is_lasting(retry) {
                self.report_pause(host, wait, failure_kind.error());
            }
        }
        match task {
            Task::Blob { blob, by } => self.blob_failed(
                (unit, host, source),
                (blob, by),
                failure_kind,
                (now, random),
            ),
            Task::Config(image) => self.config_failed(unit, image, failure_kind, (now, random)),
            Task::Open(image) => self.opening_failed(unit, image, failure_kind, (now, random)),
        }
    }

    fn blob_failed(
        &mut self,
        (unit, host, source): (UnitId, Option<HostId>, Option<SourceId>),
        (blob, by): (BlobId, ImageId),
        failure_kind: FailureKind<E>,
        (now, random): (Instant, f64),
    ) -> Next {
        let Some(of_blob) = self.blobs.get(blob) else {
            return Next::GivenUp;
        };
        let is_final =
            |why: RefusalReason| why != RefusalReason::Transient && why != RefusalReason::Throttled;
        if failure_kind.why().is_some_and(is_final) && !of_blob.images.contains(&by) {
            // A mirror can have, or allow, one image of a repository and not another.
            let change = self.blobs.restrict_to_its_images(blob, now);
            self.change_backlog(change);
            return Next::Rerouted;
        }
        let host = host.unwrap_or(of_blob.host);
        let failed = of_blob.failed + 1;
        let next = self.decide_retry(host, failed, &failure_kind, (now, random));
        match (&next, failure_kind.into_error()) {
            (Next::Retry { wait, .. }, _) => {
                let then = deadline_after(now, *wait);
                let change = self.blobs.retry_at(blob, unit, then, now);
                self.change_backlog(change);
                next
            }
            (_, error) => self.blob_given_up(blob, source, (&error, failed), now),
        }
    }

    /// Gives up a blob at a source. Images of other sources may still get it. `None` is a source whose images
    /// are all forgotten.
    fn blob_given_up(
        &mut self,
        blob: BlobId,
        source: Option<SourceId>,
        (error, tries): (&E, u32),
        now: Instant,
    ) -> Next {
        let images = self.blobs.get(blob).map(|blob| blob.images.clone());
        for image in images.unwrap_or_default() {
            let of_image = self.images.get(&image).map(|image| image.source);
            if source.is_some() && of_image == source {
                self.fail(image, error, tries);
            }
        }
        let change = self.blobs.reset_tries(blob, now);
        self.change_backlog(change);
        match self.blobs.get(blob) {
            Some(_) => Next::Rerouted,
            None => Next::GivenUp,
        }
    }

    fn config_failed(
        &mut self,
        unit: UnitId,
        image: ImageId,
        failure_kind: FailureKind<E>,
        (now, random): (Instant, f64),
    ) -> Next {
        let Some(of_image) = self.images.get_mut(&image) else {
            return Next::GivenUp;
        };
        of_image.failed += 1;
        let (host, failed) = (of_image.host, of_image.failed);
        // A failed proxy is no failure of the config. So the config is retried after its first failure, if the proxy
        // failed, even if the policy allows no retries.
        let proxy_failed = failed == 1 && matches!(failure_kind, FailureKind::Lost { .. });
        let next = if proxy_failed {
            let wait = Duration::ZERO;
            Next::Retry { failed, wait }
        } else {
            self.decide_retry(host, failed, &failure_kind, (now, random))
        };
        if let Next::Retry { wait, .. } = next {
            if let Some(of_image) = self.images.get_mut(&image) {
                of_image.config = Config::Waiting;
            }
            if let Some(unit) = self.units.get_mut(&unit) {
                unit.paused_until = Some(deadline_after(now, wait));
            }
            self.configs.insert(image);
        } else {
            self.fail(image, &failure_kind.into_error(), failed);
        }
        next
    }

    fn opening_failed(
        &mut self,
        unit: UnitId,
        image: ImageId,
        failure_kind: FailureKind<E>,
        (now, random): (Instant, f64),
    ) -> Next {
        let Some(of_image) = self.images.get_mut(&image) else {
            return Next::GivenUp;
        };
        let (host, source) = (of_image.host, of_image.source);
        let is_changed = matches!(failure_kind, FailureKind::Changed(_));
        let opening = of_image.opening;
        if opening != Opening::By(unit) && !is_changed {
            // Another unit has opened the image, or is opening it: this unit can't help with it.
            let is_final = failure_kind
                .why()
                .is_some_and(|why| why != RefusalReason::Transient);
            if is_final && matches!(opening, Opening::By(_)) {
                // Any other unit would be refused, too. The unit that opens the image first reports why.
                if let Some(unit) = self.units.get_mut(&unit) {
                    unit.cannot_open.insert(source);
                }
            } else {
                self.could_not_open(unit, source, &failure_kind.into_error(), now);
            }
            return Next::Rerouted;
        }
        of_image.failed += 1;
        let failed = of_image.failed;
        let next = self.decide_retry(host, failed, &failure_kind, (now, random));
        match (next, failure_kind.why(), failure_kind.into_error()) {
            (Next::Retry { .. }, ..) => {
                if let Some(of_image) = self.images.get_mut(&image) {
                    of_image.opening = Opening::Waiting;
                    self.hosts[host.0].waiting.insert(image);
                    self.hosts[host.0].failed_once = true;
                }
            }
            (_, Some(RefusalReason::Throttled), error) => {
                self.lock(host, (&error, failed), Some(now + LOCKED_FOR), false);
            }
            (_, Some(RefusalReason::Login), error)
                if self.hosts[host.0].has_unconfirmed_login() =>
            {
                self.lock(host, (&error, failed), None, false);
            }
            (_, _, error) => self.fail(image, &error, failed),
        }
        next
    }

    fn change_backlog(&mut self, change: BacklogChange) {
        match change {
            BacklogChange::Same => {}
            BacklogChange::More(host, size) => self.hosts[host.0].backlog.add(size),
            BacklogChange::Less(host, size) => self.hosts[host.0].backlog.remove(size),
        }
    }

    /// Decides whether and when to retry a task that has failed `failed` times. A registry that refuses for too
    /// long is not asked any more.
    fn decide_retry(
        &mut self,
        host: HostId,
        failed: u32,
        failure_kind: &FailureKind<E>,
        (now, random): (Instant, f64),
    ) -> Next {
        let retry = &self.settings.retry;
        let wait = match failure_kind {
            FailureKind::Lost { .. } => Duration::ZERO,
            FailureKind::Broken(_) => retry.jittered(failed, random),
            FailureKind::Refused {
                why: RefusalReason::Transient,
                error,
                ..
            } => {
                if self.hosts[host.0].outage.is_lasting(retry) {
                    let error = error.clone();
                    self.lock(host, (&error, failed), Some(now + LOCKED_FOR), true);
                    return Next::GivenUp;
                }
                retry.jittered(failed, random)
            }
            _ => return Next::GivenUp,
        };
        if failed > retry.retries {
            return Next::GivenUp;
        }
        Next::Retry { failed, wait }
    }

    /// Records that a task was taken back from a unit. Any unit may do it.
    pub(in crate::fetch) fn recalled(&mut self, unit: UnitId, task: Task, now: Instant) {
        self.finish(unit, task, now);
        self.put_back(unit, task, now);
    }

    fn put_back(&mut self, unit: UnitId, task: Task, now: Instant) {
        self.may_have_lost = true;
        match task {
            Task::Blob { blob, .. } => {
                let change = self.blobs.put_back(blob, now);
                self.change_backlog(change);
            }
            Task::Config(image) => {
                if let Some(of_image) = self.images.get_mut(&image) {
                    of_image.config = Config::Waiting;
                    self.configs.insert(image);
                }
            }
            Task::Open(image) => {
                if let Some(of_image) = self.images.get_mut(&image)
                    && of_image.opening == Opening::By(unit)
                {
                    of_image.opening = Opening::Waiting;
                    self.hosts[of_image.host.0].waiting.insert(image);
                }
            }
        }
    }

    /// Records that a unit has ended. All its earlier reports must have been passed on.
    pub(in crate::fetch) fn ended(&mut self, id: UnitId, lost: Option<UnitError<E>>, now: Instant) {
        let Some(unit) = self.units.remove(&id) else {
            return;
        };
        self.may_have_lost = true;
        for host in &mut self.hosts {
            host.outage.release_probe(id.0);
        }
        if unit.stage == Stage::Starting {
            self.start_interval.start_ended();
        }
        for task in unit.tasks() {
            self.in_flight -= usize::from(matches!(task, Task::Blob { .. }));
            self.put_back(id, task, now);
        }
        if let Some(lost) = lost
            && unit.stage == Stage::Starting
        {
            self.start_failed(id, unit.kind, &lost, now);
        }
    }

    fn finish(&mut self, id: UnitId, task: Task, now: Instant) {
        let host = self.host_of(id, task);
        let Some(unit) = self.units.get_mut(&id) else {
            return;
        };
        if unit.finish(task, now) {
            self.in_flight -= usize::from(matches!(task, Task::Blob { .. }));
        }
        let (assigned, to_ask) = (unit.host, [unit.asking(), unit.queued()]);
        for host in [Some(assigned), host].into_iter().flatten() {
            let is_at_host = |task: &Task| self.host_of(id, *task) == Some(host);
            if !to_ask.iter().flatten().any(is_at_host) {
                self.hosts[host.0].outage.release_probe(id.0);
            }
        }
    }

    /// The host that a unit asks for this task. The unit may have been moved to another host since it was
    /// given the task.
    pub(super) fn host_of(&self, id: UnitId, task: Task) -> Option<HostId> {
        let unit = self.units.get(&id)?;
        let source = self.source_of(id, task);
        let source = source.and_then(|source| self.sources.get(&source));
        Some(source.map_or(unit.host, |source| source.host))
    }

    /// The source (at a registry, the repository; elsewhere, the image) that a unit asks for this task.
    pub(in crate::fetch) fn source_key(&self, unit: UnitId, task: Task) -> Option<&str> {
        let source = self.source_of(unit, task)?;
        self.sources.get(&source).map(|source| source.key.as_str())
    }

    /// The source that a unit asks for this task. The image may be forgotten and still be open in the unit.
    fn source_of(&self, id: UnitId, task: Task) -> Option<SourceId> {
        let (Task::Open(image) | Task::Config(image) | Task::Blob { by: image, .. }) = task;
        let of_image = self.images.get(&image).map(|image| image.source);
        of_image.or_else(|| {
            let mut open = self.units.get(&id)?.open.iter();
            let (source, _) = open.find(|(_, images)| images.contains(&image))?;
            Some(*source)
        })
    }
}
