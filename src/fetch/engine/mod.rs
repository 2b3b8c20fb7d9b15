//! The engine carries out what the [`Scheduler`] decides: it starts units, gives them tasks, and passes their
//! reports on to the scheduler.

mod failure;
mod hosts;
mod idle_engine;
mod units;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{self, Handle};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinSet};

pub(super) use self::idle_engine::IdleEngine;

use self::failure::classify;
use self::units::UnitHandle;
use super::end::{AtWork, End, Idle};
use super::event::{EventKind, Events};
use super::fd_budget::FdBudget;
use super::handler::{Handler, Job};
use super::image::ImageData;
use super::options::FetchOptions;
use super::rate::Limit;
use super::scheduler::{
    Action, BlobId, FailureKind, HostId, ImageId, Login, Next, Scheduler, Settings, Task, UnitId,
    Wanted, call_time_from, max_starts_at_a_time,
};
use super::starter::Starter;
use super::unit::{Failure, FetchContext, Kind, ProxyOrigin, Report};
use super::{Image, ImageContent, Layer, Pulled};
use crate::config::Platform;
use crate::error::{Error, Result};
use crate::proxy::{ImageProxy, OpenedImage};
use crate::reference::{Place, source_of};
use crate::time::sleep_until_opt;

/// How many reports may wait while the engine is busy. Units wait for the channel, and the engine never waits
/// for a unit, so there is no deadlock.
const REPORTS: usize = 256;

/// The result of the engine's work on an image.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The image is open.
    Opened(ImageId),
    /// Everything that was wanted of the image has been fetched.
    Fetched(ImageId),
    /// The image can't be opened or fetched.
    Failed(ImageId, Error),
}

/// The engine's data of an image.
struct Entry {
    /// The number of the image, as callers and events count images.
    number: usize,
    reference: Arc<str>,
    known: Option<Arc<ImageData>>,
    /// The proxy that opened the image first, with the opened image.
    first_opened: Option<FirstOpened>,
    content: Option<Arc<ImageContent>>,
}

/// The proxy that opened an image first, with the opened image.
#[derive(Debug, Clone)]
pub(super) struct FirstOpened {
    pub(super) proxy: ImageProxy,
    pub(super) opened: Arc<OpenedImage>,
    /// The duration of `OpenImage`, which waits for two answers of the registry.
    pub(super) opening: Duration,
    /// The duration of the proxy's start.
    pub(super) starting: Duration,
}

/// The state of a fetch, from the opening of the first image to the last blob.
pub(super) struct Engine {
    starter: Arc<Starter>,
    options: FetchOptions,
    events: Events,
    scheduler: Scheduler<Error>,
    hosts: HashMap<String, HostId>,
    kinds: Vec<Arc<Kind>>,
    images: HashMap<ImageId, Entry>,
    jobs: HashMap<BlobId, Job>,
    context: Option<Arc<FetchContext>>,
    units: HashMap<UnitId, UnitHandle>,
    unit_tasks: JoinSet<Result<()>>,
    numbers: HashMap<Id, UnitId>,
    /// The tasks that find out whether there may be credentials for a host.
    logins: JoinSet<(HostId, Login)>,
    window: Option<watch::Receiver<usize>>,
    outcomes: VecDeque<Outcome>,
    recorded: Vec<oneshot::Sender<()>>,
    tally: Pulled,
    reports: mpsc::Sender<Report>,
    reported: mpsc::Receiver<Report>,
    end: End,
    /// Tells when no handler is at work. `None` if there is no handler.
    idle: Option<Idle>,
    runtime: runtime::Id,
}

impl Engine {
    /// Makes an engine without images. Its limits are computed for images at the host of `first`.
    pub(super) fn new(
        starter: Arc<Starter>,
        options: FetchOptions,
        events: Events,
        first: &str,
    ) -> Self {
        let budget = FdBudget::now();
        let (least, most) = options.bounds(&[Place::of(first)]);
        let most = most.min(budget.proxies).max(least);
        let workers = options.workers.get();
        let units = options.units().min(budget.proxies).max(most);
        let settings = Settings {
            retry: options.retry.clone(),
            starts_at_a_time: max_starts_at_a_time(),
            units,
            in_flight: workers.min(budget.blobs_with(most)),
            start_ahead: options.start_ahead,
            is_limited: options.limit_rate.is_some(),
        };
        let (reports, reported) = mpsc::channel(REPORTS);
        Self {
            starter,
            options,
            events,
            scheduler: Scheduler::new(settings, Instant::now()),
            hosts: HashMap::new(),
            kinds: Vec::new(),
            images: HashMap::new(),
            jobs: HashMap::new(),
            context: None,
            units: HashMap::new(),
            unit_tasks: JoinSet::new(),
            numbers: HashMap::new(),
            logins: JoinSet::new(),
            window: None,
            outcomes: VecDeque::new(),
            recorded: Vec::new(),
            tally: Pulled::default(),
            reports,
            reported,
            end: End::new(),
            idle: None,
            runtime: Handle::current().id(),
        }
    }

    /// Whether the engine starts proxies from the same configuration, and its units run in this runtime.
    pub(super) fn is_of(&self, starter: &Arc<Starter>) -> bool {
        let is_here = Handle::try_current().is_ok_and(|here| here.id() == self.runtime);
        is_here && Arc::ptr_eq(&self.starter, starter)
    }

    /// Adds an image to open, for this platform or else for the configured one. `number` is how the caller
    /// counts it.
    pub(super) fn open(
        &mut self,
        number: usize,
        reference: &str,
        platform: Option<&Platform>,
    ) -> ImageId {
        let (host, kind) = self.host_and_kind(reference, platform);
        let source = source_of(reference);
        let id = self.scheduler.add_image(host, kind, source, Instant::now());
        let entry = Entry {
            number,
            reference: reference.into(),
            known: None,
            first_opened: None,
            content: None,
        };
        self.images.insert(id, entry);
        id
    }

    /// The error because of which no image is opened now at the host of this reference, if there is one.
    pub(super) fn refusal(&mut self, reference: &str) -> Option<Error> {
        let (host, _) = self.host_and_kind(reference, None);
        self.scheduler.refusal(host, Instant::now())
    }

    /// Prepares to fetch from these images, and forgets all others. Returns the scheduler's numbers of these images.
    pub(super) fn begin(
        &mut self,
        images: &[&Image],
        events: Events,
        handler: impl Handler + 'static,
    ) -> Vec<ImageId> {
        self.events = events;
        let mut ids: Vec<ImageId> = Vec::with_capacity(images.len());
        for (number, image) in images.iter().enumerate() {
            let id = self.take_over(number, image, &ids);
            ids.push(id);
        }
        let others: Vec<ImageId> = (self.images.keys().copied())
            .filter(|id| !ids.contains(id))
            .collect();
        for id in others {
            self.forget(id);
        }
        self.set_handler(handler);
        ids
    }

    /// Sets the handler that gets the blobs.
    pub(super) fn set_handler(&mut self, handler: impl Handler + 'static) {
        let (at_work, idle) = AtWork::new();
        self.idle = Some(idle);
        self.context = Some(Arc::new(FetchContext {
            handler: Box::new(handler),
            limit: self.options.limit_rate.map(Limit::new),
            events: self.events.clone(),
            end: self.end.watch(),
            _at_work: at_work,
        }));
    }

    /// Ends the fetch because of this error, and waits until no handler is at work. An async handler ends at its next
    /// `await`. One that runs on a thread of its own is not waited for.
    pub(super) async fn stop(&mut self, error: &Error) {
        self.end.end_with(error);
        self.context = None;
        self.unit_tasks.shutdown().await;
        // The tasks that wait in the units' queues have the purpose, too.
        self.units.clear();
        if let Some(idle) = self.idle.take() {
            idle.wait().await;
        }
    }

    /// Takes over an image that was opened by this engine or by another one. An image that occurs twice gets
    /// a number of its own, which is none of `others`.
    fn take_over(&mut self, number: usize, image: &Image, others: &[ImageId]) -> ImageId {
        let known = self.images.iter_mut().find(|(id, entry)| {
            let known = entry.known.as_ref();
            known.is_some_and(|known| Arc::ptr_eq(known, &image.data)) && !others.contains(id)
        });
        let known = known.map(|(id, entry)| {
            entry.number = number;
            *id
        });
        let (host, kind) = self.host_and_kind(image.reference(), None);
        let has_it_open = |(_, handle): &(&UnitId, &UnitHandle)| {
            let proxy = handle.proxy.as_ref();
            proxy.is_some_and(|proxy| image.first_opened.opened.is_open_in(proxy))
        };
        let opened_by = self.units.iter().find(has_it_open).map(|(unit, _)| *unit);
        if let (Some(id), Some(_)) = (known, opened_by) {
            return id;
        }
        let now = Instant::now();
        self.tally.protocol = Some(image.proxy().protocol_version().clone());
        self.tally.policy_unchecked |= !image.proxy().checks_policy();
        let unit = opened_by.unwrap_or_else(|| {
            let unit = self.scheduler.add_unit(host, kind, now);
            self.spawn(unit, ProxyOrigin::Running(image.first_opened.proxy.clone()));
            unit
        });
        let id = if let Some(id) = known {
            self.scheduler.record_open(unit, id);
            id
        } else {
            let source = source_of(image.reference());
            self.scheduler.add_open_image(host, kind, source, unit)
        };
        let guess = call_time_from(image.first_opened.opening);
        self.scheduler
            .set_estimates(host, image.first_opened.starting, guess);
        if let Some(handle) = self.units.get_mut(&unit) {
            handle
                .opened
                .insert(id, Arc::clone(&image.first_opened.opened));
        }
        let entry = Entry {
            number,
            reference: image.reference().into(),
            known: Some(Arc::clone(&image.data)),
            first_opened: Some(image.first_opened.clone()),
            content: None,
        };
        self.images.insert(id, entry);
        id
    }

    /// Starts to fetch these layers of an open image, each blob once, and its config if `config` is true.
    /// Returns the size, in bytes, of those of the blobs that are new to the scheduler.
    ///
    /// # Errors
    ///
    /// [`Error::Image`] if the same digest occurs with two sizes.
    pub(super) fn fetch(&mut self, image: ImageId, layers: &[Layer], config: bool) -> Result<u64> {
        let once = distinct(layers)?.into_iter().map(|layer| (layer, 0));
        Ok(self.fetch_copies(image, once, config))
    }

    /// Starts to fetch these layers in their order. A layer that occurs twice is fetched twice. Up to `ahead`
    /// layers are fetched besides the one that is due, and only layers below the value of `window`.
    pub(super) fn fetch_in_order(
        &mut self,
        image: ImageId,
        layers: &[Layer],
        ahead: usize,
        window: watch::Receiver<usize>,
    ) -> Result<()> {
        distinct(layers)?;
        self.scheduler.switch_to_order(ahead);
        self.window = Some(window);
        let copies = layers.iter().cloned().zip(0..);
        self.fetch_copies(image, copies, false);
        Ok(())
    }

    fn fetch_copies(
        &mut self,
        image: ImageId,
        layers: impl Iterator<Item = (Layer, usize)>,
        config: bool,
    ) -> u64 {
        let Some(entry) = self.images.get(&image) else {
            return 0;
        };
        let mut bytes: u64 = 0;
        let layers: Vec<(Layer, usize)> = layers.collect();
        let wanted = |(layer, copy): &(Layer, usize)| Wanted {
            digest: layer.descriptor.digest().clone(),
            copy: *copy,
            size: layer.descriptor.size(),
        };
        let wanted: Vec<Wanted> = layers.iter().map(wanted).collect();
        let blobs = self.scheduler.fetch(image, &wanted, config);
        for ((blob, is_new), (layer, _)) in blobs.into_iter().zip(layers) {
            if is_new {
                let job = Job {
                    number: blob.0,
                    image: entry.number,
                    reference: Arc::clone(&entry.reference),
                    layer,
                };
                bytes = bytes.saturating_add(job.layer.descriptor.size());
                self.events
                    .send(|| EventKind::BlobQueued { blob: job.name() });
                self.jobs.insert(blob, job);
            }
        }
        bytes
    }

    /// Removes an image of which nothing is wanted any more.
    pub(super) fn forget(&mut self, image: ImageId) {
        self.images.remove(&image);
        self.scheduler.forget(image);
        let scheduler = &self.scheduler;
        self.jobs.retain(|blob, _| scheduler.has_blob(*blob));
    }

    /// The image and the proxy that opened it first, once it is open.
    pub(super) fn image(&self, id: ImageId) -> Option<(Arc<ImageData>, FirstOpened)> {
        let entry = self.images.get(&id)?;
        Some((entry.known.clone()?, entry.first_opened.clone()?))
    }

    pub(super) fn known(&self, id: ImageId) -> Option<&Arc<ImageData>> {
        self.images.get(&id)?.known.as_ref()
    }

    pub(super) fn content(&self, id: ImageId) -> Option<&Arc<ImageContent>> {
        self.images.get(&id)?.content.as_ref()
    }

    /// Returns the counts of what has been fetched so far, without configs.
    pub(super) fn tally(&self) -> &Pulled {
        &self.tally
    }

    /// Waits for the next outcome of an image. Must be called only while an outcome is to come.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, no outcome is lost.
    pub(super) async fn next(&mut self) -> Outcome {
        loop {
            self.carry_out();
            if let Some(outcome) = self.outcomes.pop_front() {
                return outcome;
            }
            let wake = self.scheduler.wake(Instant::now());
            tokio::select! {
                Some(report) = self.reported.recv() => self.handle_report(report),
                Some(ended) = self.unit_tasks.join_next_with_id() => self.unit_ended(ended),
                Some(login) = self.logins.join_next() => {
                    if let Ok((host, login)) = login {
                        self.scheduler.set_login(host, login);
                    }
                }
                end = next_window_end(&mut self.window) => self.scheduler.set_window_end(end),
                () = sleep_until_opt(wake.map(Into::into)) => {}
            }
        }
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.scheduler.next(Instant::now()) {
            match action {
                Action::Start { unit, kind } => self.start(unit, kind),
                Action::Give { unit, task } => self.give(unit, task),
                Action::Recall { unit } => self.recall(unit),
                Action::Retire { unit } => {
                    if let Some(handle) = self.units.get(&unit) {
                        handle.retire.send_replace(true);
                    }
                }
                Action::Abandon { unit } => {
                    if let Some(handle) = self.units.get(&unit) {
                        handle.abort.abort();
                    }
                }
                Action::Close { unit, image } => {
                    if let Some(handle) = self.units.get_mut(&unit) {
                        handle.opened.remove(&image);
                    }
                }
                Action::Fetched(image) => self.outcomes.push_back(Outcome::Fetched(image)),
                Action::Failed {
                    image,
                    error,
                    tries,
                } => {
                    let error = error.with_tries(tries);
                    self.outcomes.push_back(Outcome::Failed(image, error));
                }
                Action::Paused { host, wait, error } => {
                    let registry = self.registry(host);
                    let reason = error_chain(&error);
                    self.events.send(|| EventKind::RegistryPaused {
                        registry,
                        wait,
                        reason,
                    });
                }
                Action::Throttled { host, units } => {
                    let registry = self.registry(host);
                    self.events.send(|| EventKind::RegistryThrottled {
                        registry,
                        proxies: units,
                    });
                }
            }
        }
        if self.scheduler.is_fetching_blobs() {
            let at_work = self.scheduler.all_at_work();
            self.tally.proxies = self.tally.proxies.max(at_work);
        }
        // The scheduler has decided which units may ask now, so the refused units may go on.
        self.recorded.clear();
    }

    fn handle_report(&mut self, report: Report) {
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

/// Waits until the end of the window moves, and returns it. Never returns if there is no window, or if its
/// sender is gone.
async fn next_window_end(window: &mut Option<watch::Receiver<usize>>) -> usize {
    if let Some(end) = window
        && end.changed().await.is_ok()
    {
        return *end.borrow_and_update();
    }
    std::future::pending().await
}

/// Returns each blob of these layers once.
///
/// # Errors
///
/// [`Error::Image`] if the same digest occurs with two sizes.
pub(super) fn distinct(layers: &[Layer]) -> Result<Vec<Layer>> {
    let mut known = HashMap::new();
    let mut distinct = Vec::new();
    for layer in layers {
        let (digest, size) = (layer.descriptor.digest(), layer.descriptor.size());
        match known.insert(digest, size) {
            None => distinct.push(layer.clone()),
            Some(other) if other == size => {}
            Some(other) => return Err(two_sizes(digest, other, size)),
        }
    }
    Ok(distinct)
}

fn two_sizes(digest: &oci_spec::image::Digest, one: u64, other: u64) -> Error {
    Error::image(format!(
        "layer {digest} has two sizes: {one} and {other} bytes"
    ))
}

/// The message of an error and of its causes, on one line.
pub(super) fn error_chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
