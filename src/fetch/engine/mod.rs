//! The engine carries out what the [`Scheduler`] decides: it starts units, gives them tasks, and passes their
//! reports on to the scheduler.

mod failure;
mod hosts;
mod idle_engine;
mod images;
mod reports;
mod units;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{self, Handle};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinSet};

pub(super) use self::idle_engine::IdleEngine;

use self::units::UnitHandle;
use super::claims::{Allowed, Claims};
use super::end::{AtWork, End, Idle};
use super::event::{EventKind, Events};
use super::handler::{Handler, Job};
use super::image::ImageData;
use super::options::FetchOptions;
use super::rate::Limit;
use super::scheduler::{
    Action, BlobId, HostId, ImageId, Login, Scheduler, Settings, UnitId, max_starts_at_a_time,
};
use super::starter::Starter;
use super::unit::{FetchContext, Kind, Report};
use super::{Image, ImageContent, Pulled};
use crate::error::{Error, Result, error_chain};
use crate::proxy::{ImageProxy, OpenedImage};
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
    claims: Claims,
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
    /// The time at which the scheduler has to decide again, if no report comes before. Later than this, nobody has asked
    /// the engine for its next outcome, or the process was stopped.
    due: Option<Instant>,
    end: End,
    /// Tells when no handler is at work. `None` if there is no handler.
    idle: Option<Idle>,
    runtime: runtime::Id,
}

impl Engine {
    /// Makes an engine without images.
    pub(super) fn new(starter: Arc<Starter>, options: FetchOptions, events: Events) -> Self {
        let most = Allowed {
            proxies: options.units(),
            blobs: options.workers.get(),
        };
        let claims = Claims::of(starter.proxy_pool(), most);
        let settings = Settings {
            retry: options.retry.clone(),
            starts_at_a_time: max_starts_at_a_time(),
            // Set before the first decision.
            units: 0,
            in_flight: 0,
            start_ahead: options.start_ahead,
            is_limited: options.limit_rate.is_some(),
        };
        let (reports, reported) = mpsc::channel(REPORTS);
        Self {
            starter,
            options,
            events,
            scheduler: Scheduler::new(settings, Instant::now()),
            claims,
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
            due: None,
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
    /// `await`. A handler that runs on a thread of its own is not waited for.
    pub(super) async fn stop(&mut self, error: &Error) {
        self.end.end_with(error);
        self.context = None;
        self.unit_tasks.shutdown().await;
        // The tasks that wait in the units' queues hold the context, too.
        self.units.clear();
        if let Some(idle) = self.idle.take() {
            idle.wait().await;
        }
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
            self.catch_up();
            self.carry_out();
            if let Some(outcome) = self.outcomes.pop_front() {
                self.due = Some(Instant::now());
                return outcome;
            }
            let wake = self.scheduler.wake(Instant::now());
            self.due = wake;
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

    /// Leaves out the time in which nobody asked for an outcome: the answers that came in this time are not late.
    fn catch_up(&mut self) {
        if let Some(due) = self.due {
            let missed = Instant::now().saturating_duration_since(due);
            self.scheduler.skip_time(missed);
        }
    }

    fn carry_out(&mut self) {
        self.claims.grow();
        let allowed = self.claims.allowed();
        self.scheduler.set_limits(allowed.proxies, allowed.blobs);
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
