//! A run: the units, the queue, and what has become of each job. One task owns
//! all of it; units are told by channels and tell by reports.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::ahead::{Spare, Spares};
use super::descriptors::Room;
use super::event::{EventKind, Events};
use super::fleet::{Fleet, Running};
use super::governor::Governor;
use super::image::{Home, SameImage};
use super::ledger::{Ledger, Order};
use super::options::{FetchOptions, Transport};
use super::outage::{Gate, Outage};
use super::pace::{Pace, at_a_time};
use super::rate::Limit;
use super::retry::{RetryPolicy, may_pass, passed};
use super::starter::Starter;
use super::unit::{Beginning, Common, Failure, Handler, Report, Unit};
use super::{Job, Pulled, panicked};
use crate::error::{BlobError, Error, Result};
use crate::time::moment_after;

/// Reports that may wait while the run is busy. Units wait for room; the run
/// never waits for a unit, so this can't lock up.
const REPORTS: usize = 256;

/// How often the run looks for calls that are late. Everything else wakes it.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Workers of each proxy for each processor, where the number of proxies is not fixed.
/// On two processors one asks and three drain; seven were 2 to 5 % slower, for what
/// flows through so many pipes does not stay in the processors' caches. Where not
/// processors but the network or the handlers make all of them slow, there will be
/// further proxies ([`Run::is_starved`]).
const WORKERS_PER_PROCESSOR: usize = 2;

/// If more than one in so many units waits for a late answer, it is not their
/// fault.
const MANY_LATE: usize = 4;

/// What a run starts from.
pub(super) struct Start<'a> {
    pub(super) starter: Arc<Starter>,
    pub(super) options: &'a FetchOptions,
    pub(super) events: Events,
    pub(super) images: Vec<Arc<SameImage>>,
    pub(super) homes: Vec<Home>,
    /// What the opening of an image, and the start of a proxy, took.
    pub(super) opening: Duration,
    pub(super) starting: Duration,
    /// Proxies that have opened the first image, or are about to.
    pub(super) spares: Spares,
    /// One of them, that is asked for a config before.
    pub(super) lent: Option<oneshot::Receiver<Spare>>,
    pub(super) order: Order,
}

/// Do all jobs. Dropped early, all units are stopped.
pub(super) async fn run<H: Handler>(
    mut start: Start<'_>,
    jobs: Vec<Job>,
    handler: H,
) -> Result<(Vec<H::Output>, Pulled)> {
    let deadline = start.options.retry.ends();
    let lent = start.lent.take();
    let (homes, spares) = (std::mem::take(&mut start.homes), start.spares.clone());
    for job in &jobs {
        let queued = || EventKind::BlobQueued { blob: job.name() };
        start.events.send(queued);
    }
    let (mut run, mut reports) = Run::new(start, jobs, handler);
    // A reader on a blocking thread outlives the task of its handler.
    let _over = run.common.over.clone().drop_guard();
    if run.ledger.is_done() {
        return Ok(run.close());
    }
    run.employ(homes, lent, &spares);
    run.give_out()?;
    run.adjust();
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !run.ledger.is_done() {
        tokio::select! {
            Some(report) = reports.recv() => run.take(report)?,
            Some(ended) = run.units.join_next_with_id() => {
                let (id, result) = ended.map_err(panicked)?;
                run.unit_ended(id, result)?;
            }
            Some(waited) = run.waiting.join_next() => run.send(waited.map_err(panicked)?)?,
            () = run.ledger.more() => run.give_out()?,
            _ = look.tick() => run.take_back()?,
            () = run.pace.due(), if run.held_back => {}
            () = passed(run.outage.ends().map(Into::into)) => {}
            () = passed(deadline) => return Err(Error::DeadlineExceeded),
        }
        run.adjust();
        run.move_gate();
    }
    Ok(run.close())
}

struct Run<H: Handler> {
    common: Arc<Common<H>>,
    policy: RetryPolicy,
    governor: Governor,
    most: usize,
    /// The same, with those that wait for a late answer.
    most_with_late: usize,
    queue: async_channel::Sender<Job>,
    ledger: Ledger<H::Output>,
    units: JoinSet<Result<()>>,
    fleet: Fleet,
    started: usize,
    /// When a unit was last started, or asked for a blob.
    active: Instant,
    /// How often units failed before they did anything, since one did
    /// something; those that were started together count once.
    failed_starts: u32,
    /// Units from this number on were started after the last such failure.
    started_since: usize,
    /// No new ones before.
    start_again: Option<Instant>,
    /// One was refused for good, and so would others be.
    start_no_more: bool,
    outage: Outage,
    gate: watch::Sender<Gate>,
    pace: Pace,
    /// More are wanted than it allows yet.
    held_back: bool,
    /// Jobs that wait for their next try.
    waiting: JoinSet<Job>,
    reports: mpsc::Sender<Report<H::Output>>,
    retries: usize,
    proxies: usize,
}

impl<H: Handler> Run<H> {
    fn new(
        start: Start<'_>,
        jobs: Vec<Job>,
        handler: H,
    ) -> (Self, mpsc::Receiver<Report<H::Output>>) {
        let Start {
            starter,
            options,
            events,
            images,
            opening,
            starting,
            order,
            ..
        } = start;
        let sources: Vec<Transport<'_>> = images.iter().map(|image| image.transport()).collect();
        let (min, max) = options.bounds(&sources);
        let room = Room::now();
        let (min, max) = match &order {
            Order::Mixed => (min, max.min(room.proxies).max(min)),
            // More could not be at work.
            Order::Window { ahead, .. } => {
                let most = ahead.saturating_add(1);
                (min.min(most), max.min(most))
            }
        };
        let mut governor = Governor::new(min, max, at_a_time());
        governor.started(starting);
        if matches!(sources[..], [Transport::Registry { .. }, ..]) {
            governor.expect_call_time(call_time_from(opening));
        }
        let (queue, queued) = async_channel::unbounded();
        let (reports, reported) = mpsc::channel(REPORTS);
        let room = room.blobs_beside(max);
        let (workers, workers_per_unit) = match &order {
            // Each job of the window can be waiting for its turn, and one more
            // be tried again.
            Order::Window { ahead, .. } => (jobs.len(), ahead.saturating_add(2)),
            // A fixed number of proxies shares all workers between them.
            Order::Mixed if min == max => {
                let workers = options.workers.get();
                (workers.min(room), workers.div_ceil(min).max(2))
            }
            Order::Mixed => {
                let workers = options.workers.get().min(room);
                (workers, usual_workers().max(workers.div_ceil(max)))
            }
        };
        let (gate, moved) = watch::channel(Gate::Everybody);
        let sources = sources_of(&images);
        let common = Common {
            sources,
            starter,
            jobs: queued,
            gate: moved,
            in_flight: Arc::new(Semaphore::new(workers.min(Semaphore::MAX_PERMITS))),
            // More than jobs could not be at work.
            workers: workers_per_unit.min(jobs.len()),
            handler,
            limit: options.limit_rate.map(Limit::new),
            events,
            over: CancellationToken::new(),
            images,
        };
        let run = Self {
            common: Arc::new(common),
            policy: options.retry.clone(),
            governor,
            most: max,
            // A fixed number is one also while calls are late.
            most_with_late: if min == max {
                max
            } else {
                max.saturating_mul(2)
            },
            queue,
            ledger: Ledger::new(jobs, order),
            units: JoinSet::new(),
            fleet: Fleet::default(),
            started: 0,
            active: Instant::now(),
            failed_starts: 0,
            started_since: 0,
            start_again: None,
            start_no_more: false,
            outage: Outage::none(),
            gate,
            pace: Pace::from_now(),
            held_back: false,
            waiting: JoinSet::new(),
            reports,
            retries: 0,
            proxies: 0,
        };
        (run, reported)
    }

    /// Give out what may be given out now.
    fn give_out(&mut self) -> Result<()> {
        while let Some(job) = self.ledger.next() {
            self.send(job)?;
        }
        Ok(())
    }

    /// To whoever is free, or to one that need not open an image for it.
    fn send(&self, job: Job) -> Result<()> {
        let sources = &self.common.sources;
        let images = job.also.iter().chain([&job.image]);
        let of_job: Vec<usize> = images.map(|image| sources[*image]).collect();
        match self.fleet.nearest(&of_job, self.governor.late_after()) {
            Some(unit) => unit.own_jobs.try_send(job).map_err(|_| Error::Closed),
            None => self.send_to_all(job),
        }
    }

    fn send_to_all(&self, job: Job) -> Result<()> {
        // It has no bound, and `common` holds its other end.
        self.queue.try_send(job).map_err(|_| Error::Closed)
    }

    fn close(self) -> (Vec<H::Output>, Pulled) {
        let (outputs, pulled) = self.ledger.close();
        let Self {
            retries, proxies, ..
        } = self;
        (
            outputs,
            Pulled {
                retries,
                proxies,
                ..pulled
            },
        )
    }

    /// Those that are there already cost nothing more, so all are put to work that find some.
    fn employ(
        &mut self,
        homes: Vec<Home>,
        lent: Option<oneshot::Receiver<Spare>>,
        spares: &Spares,
    ) {
        let most = self.ledger.to_ask().blobs.min(self.most);
        for home in homes {
            if self.fleet.at_work() < most {
                self.start_unit(Beginning::Home(home));
            }
        }
        if self.fleet.at_work() < most
            && let Some(lent) = lent
        {
            self.start_unit(Beginning::Lent(lent));
        }
        while self.fleet.at_work() < most
            && let Some(spare) = spares.take()
        {
            self.start_unit(Beginning::Spare(spare));
        }
        spares.end();
    }

    /// This unit has this image open.
    fn opened(&mut self, unit: usize, image: usize) {
        let source = self.common.sources[image];
        if let Some(unit) = self.fleet.unit(unit) {
            unit.sources.insert(source);
        }
    }

    fn start_unit(&mut self, beginning: Beginning) {
        let images: Vec<usize> = match &beginning {
            Beginning::Home(home) => home.opened.iter().map(|(image, _)| *image).collect(),
            // It has opened the first one, or is about to.
            Beginning::Spare(_) | Beginning::Lent(_) | Beginning::New => vec![0],
        };
        let number = self.started;
        self.started += 1;
        self.active = Instant::now();
        // Before anything that it tells itself.
        self.common
            .events
            .send(|| EventKind::ProxyStarted { proxy: number });
        let (own_jobs, left_jobs) = async_channel::unbounded();
        let (retire, retired) = watch::channel(false);
        let unit = Unit {
            number,
            common: Arc::clone(&self.common),
            own_jobs: left_jobs.clone(),
            retired,
            reports: self.reports.clone(),
        };
        let task = self.units.spawn(unit.run(beginning));
        let running = Running::new(number, (own_jobs, left_jobs), retire);
        self.fleet.add(task.id(), running);
        for image in images {
            self.opened(number, image);
        }
        self.proxies = self.proxies.max(self.fleet.at_work());
    }

    fn take(&mut self, report: Report<H::Output>) -> Result<()> {
        match report {
            Report::Ready {
                unit,
                started,
                cancels,
            } => {
                if let Some(started) = started {
                    self.governor.started(started);
                }
                self.failed_starts = 0;
                if let Some(unit) = self.fleet.unit(unit) {
                    unit.ready = true;
                    unit.asking = None;
                    unit.cancels = cancels;
                }
            }
            Report::Opened { unit, image } => self.opened(unit, image),
            Report::Asking { unit } => {
                self.active = Instant::now();
                if let Some(unit) = self.fleet.unit(unit) {
                    unit.asking = Some(Instant::now());
                }
            }
            Report::Answered {
                unit,
                job,
                took,
                with_blob,
            } => {
                if with_blob {
                    self.outage.answered();
                }
                self.ledger.answered(job);
                if let Some(unit) = self.fleet.unit(unit) {
                    unit.asking = None;
                }
                let running = self.fleet.at_work();
                self.governor.answered(took, running);
            }
            Report::Done {
                job,
                output,
                fetched,
            } => {
                self.ledger.done(&job, output, fetched);
            }
            Report::Failed { unit, job, failure } => self.failed(unit, job, failure)?,
        }
        Ok(())
    }

    /// A try failed: another one, or the end.
    fn failed(&mut self, number: usize, mut job: Job, failure: Failure) -> Result<()> {
        let unanswered = matches!(failure, Failure::Unanswered(_));
        let common = Arc::clone(&self.common);
        let source = common.images[job.image].transport();
        let error = match failure {
            Failure::Handling(error) => return Err(error),
            Failure::Fetching(error) | Failure::Unanswered(error) => error,
            Failure::Refused {
                error,
                began,
                noted,
            } => {
                if may_pass(&error, source) {
                    let random = fastrand::f64();
                    self.outage
                        .refused(&self.policy, began, Instant::now(), random);
                    self.move_gate();
                }
                // The unit may go on.
                drop(noted);
                error
            }
        };
        job.failed += 1;
        let reason = chain(&error);
        let blob = job.name();
        let random = fastrand::f64();
        let next = self.policy.next_try(&error, source, job.failed, random);
        let Some(wait) = next.filter(|_| !self.outage.is_lasting(&self.policy)) else {
            self.common.events.send(|| EventKind::BlobFailed {
                blob,
                proxy: number,
                reason,
            });
            return Err(error);
        };
        tracing::debug!(digest = %blob.digest, proxy = number, %reason, ?wait, "will try again");
        let failed = job.failed;
        self.retries += 1;
        self.ledger.again(job.number);
        if let Error::Blob {
            source: BlobError::Stalled { .. } | BlobError::TooSlow { .. },
            ..
        } = &error
        {
            self.stalled(number, unanswered, &reason)?;
        }
        let event = || EventKind::BlobRetried {
            blob,
            proxy: number,
            failed,
            reason,
            wait,
        };
        self.common.events.send(event);
        if wait.is_zero() {
            return self.send_elsewhere(number, job);
        }
        self.waiting.spawn(async move {
            sleep(wait).await;
            job
        });
        Ok(())
    }

    /// A proxy that does not answer can't be asked for more, and one before
    /// 0.2.8 can't be told to give a stalled blob up: it gets no more jobs, and
    /// is replaced.
    fn stalled(&mut self, number: usize, unanswered: bool, reason: &str) -> Result<()> {
        if let Some(unit) = self.fleet.unit(number)
            && (unanswered || !unit.cancels)
        {
            unit.sick.get_or_insert_with(|| reason.to_owned());
            unit.retire();
        }
        self.take_back()
    }

    /// What waits for a unit that may not get to it goes to whoever is free.
    fn take_back(&self) -> Result<()> {
        let late = self.governor.late_after();
        for unit in self.fleet.stuck(late) {
            while let Ok(job) = unit.left_jobs.try_recv() {
                self.send_to_all(job)?;
            }
        }
        if self.common.jobs.is_empty()
            && let Some(unit) = self.fleet.crowded()
        {
            for _ in 0..unit.own_jobs.len() / 2 {
                if let Ok(job) = unit.left_jobs.try_recv() {
                    self.send_to_all(job)?;
                }
            }
        }
        Ok(())
    }

    /// To another unit, if there is one that is ready.
    fn send_elsewhere(&self, number: usize, job: Job) -> Result<()> {
        let late = self.governor.late_after();
        match self.fleet.another(number, late) {
            Some(unit) => unit.own_jobs.try_send(job).map_err(|_| Error::Closed),
            None => self.send_to_all(job),
        }
    }

    fn unit_ended(&mut self, id: Id, result: Result<()>) -> Result<()> {
        let Some(unit) = self.fleet.remove(id) else {
            return Ok(());
        };
        let proxy = unit.number;
        let reason = result.as_ref().err().map(chain).or(unit.sick);
        self.common
            .events
            .send(|| EventKind::ProxyEnded { proxy, reason });
        // Nothing can be added any more: we held the only sender.
        unit.left_jobs.close();
        while let Ok(job) = unit.left_jobs.try_recv() {
            self.send(job)?;
        }
        match result {
            Err(error @ Error::ImageChanged { .. }) => Err(error),
            Err(error) if !unit.ready => self.start_failed(proxy, error),
            Err(error) => {
                tracing::debug!(proxy, error = chain(&error), "lost a proxy");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// One that can't be started is no loss as long as others work; but the
    /// next start waits, or one that always fails would be started for ever.
    fn start_failed(&mut self, number: usize, error: Error) -> Result<()> {
        if number >= self.started_since {
            self.failed_starts += 1;
            self.started_since = self.started;
            let wait = self.policy.backoff(self.failed_starts);
            self.start_again = Some(moment_after(Instant::now(), wait));
        }
        let source = self.common.images[0].transport();
        let next = self
            .policy
            .next_try(&error, source, self.failed_starts, 1.0);
        let working = self.fleet.at_work();
        if working > 0 {
            self.governor.throttled(working * 2);
            self.start_no_more |= !may_pass(&error, source);
            return Ok(());
        }
        next.map(drop).ok_or(error)
    }

    /// As many units as pay. A few that wait for a late answer count for nothing;
    /// they are made up for as long as they are late. If many do, or the registry
    /// throttles, more units would make it slower.
    fn adjust(&mut self) {
        let resting = self.start_again.is_some_and(|then| Instant::now() < then);
        let to_ask = self.ledger.to_ask();
        self.held_back = false;
        // After a failed start, one at a time.
        let trying = self.failed_starts > 0 && self.fleet.is_starting();
        if to_ask.blobs == 0 || resting || trying {
            return;
        }
        let at_work = self.fleet.at_work();
        if at_work > 0 && (self.outage.is_on() || self.start_no_more) {
            return;
        }
        let late = self.fleet.late(self.governor.late_after());
        let many = late > (at_work / MANY_LATE).max(1);
        if many {
            self.governor.slowed(at_work, Instant::now());
        }
        let working = if many || self.governor.is_throttled() {
            at_work
        } else {
            at_work - late
        };
        let wanted = self.governor.wanted(to_ask);
        for _ in working..wanted {
            if self.fleet.at_work() >= self.most_with_late {
                break;
            }
            if !self.pace.is_due() {
                self.held_back = true;
                break;
            }
            self.pace.started();
            self.start_unit(Beginning::New);
            if self.failed_starts > 0 {
                break;
            }
        }
        if self.governor.is_throttled() {
            self.fleet.retire_newest(working.saturating_sub(wanted));
        }
        if self.is_starved() {
            self.start_unit(Beginning::New);
        }
    }

    /// Let those ask who may.
    fn move_gate(&mut self) {
        let askers = || self.fleet.askers(!self.common.jobs.is_empty());
        let can_ask = |unit| askers().any(|asker| asker == unit);
        let gate = self.outage.gate(Instant::now(), can_ask, askers().min());
        self.gate
            .send_if_modified(|before| std::mem::replace(before, gate) != gate);
    }

    /// Blobs wait, and nobody asks for them, because all workers of all units have been
    /// at work for long, and more blobs may be in flight: slow transfers, or slow
    /// handlers. A limit of the rate makes all slow, and more workers do not help.
    fn is_starved(&self) -> bool {
        !self.common.jobs.is_empty()
            && self.common.in_flight.available_permits() > 0
            && self.common.limit.is_none()
            && !self.governor.is_throttled()
            && self.fleet.at_work() < self.most
            && self.active.elapsed() >= self.governor.late_after()
            && !self.fleet.is_asking()
    }
}

/// For each image, the number of its source: images of the same one have the same.
fn sources_of(images: &[Arc<SameImage>]) -> Vec<usize> {
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut sources = Vec::with_capacity(images.len());
    for image in images {
        let next = known.len();
        sources.push(*known.entry(image.source()).or_insert(next));
    }
    sources
}

/// How many workers a proxy has.
fn usual_workers() -> usize {
    let processors = available_parallelism().map_or(1, NonZeroUsize::get);
    WORKERS_PER_PROCESSOR * processors.max(2)
}

/// `OpenImage` waits for two answers of the registry, one after the other, and
/// does some work of its own.
fn call_time_from(opening: Duration) -> Duration {
    const OWN_WORK: Duration = Duration::from_millis(6);
    opening.saturating_sub(OWN_WORK) / 2
}

/// An error with its causes, on one line.
pub(super) fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
