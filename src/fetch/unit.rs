//! A unit: one proxy with its workers.
//!
//! A proxy answers one call at a time, so its workers take turns in asking: who
//! has the unit's **slot** takes a job, asks for its blob, and passes the slot
//! on when the answer is there; then it drains the blob, beside the others.
//! Nobody holds a job while waiting for the slot, so an answer that comes late
//! holds up one blob, and the other units take the rest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::ahead::{Opened, Spare};
use super::event::{BlobName, EventKind, Events};
use super::image::{Home, SameImage};
use super::outage::Gate;
use super::rate::{Limit, Share};
use super::reader::{LayerReader, Returned};
use super::retry::is_missing;
use super::starter::Starter;
use super::{Job, panicked};
use crate::error::{BlobError, Error, Result};
use crate::proxy::{Blob, ImageProxy, OpenedImage};
use crate::time::timeout;

/// How many bytes of a blob are read, and for how long, to find out whether its handler failed because
/// the blob is wrong. More would hold up the news of a failure that is the handler's own.
const MOST_TO_BLAME: u64 = 128 * 1024 * 1024;
const TIME_TO_BLAME: Duration = Duration::from_secs(10);

/// What is done with each blob.
pub(super) trait Handler: Send + Sync + 'static {
    type Output: Send + 'static;

    /// What it comes to without fetching, if that will do.
    fn skip(&self, job: &Job) -> impl Future<Output = Result<Option<Self::Output>>> + Send;

    fn handle(
        &self,
        job: &Job,
        reader: LayerReader,
    ) -> impl Future<Output = Result<Self::Output>> + Send;
}

/// What all units of a run have in common, and none changes.
pub(super) struct Common<H> {
    pub(super) starter: Arc<Starter>,
    pub(super) images: Vec<Arc<SameImage>>,
    /// For each image, the number of its source ([`SameImage::source`]).
    pub(super) sources: Vec<usize>,
    pub(super) jobs: async_channel::Receiver<Job>,
    /// Who may ask for blobs.
    pub(super) gate: watch::Receiver<Gate>,
    /// As many permits as blobs may be in flight over all units.
    pub(super) in_flight: Arc<Semaphore>,
    pub(super) workers: usize,
    pub(super) handler: H,
    pub(super) limit: Option<Limit>,
    pub(super) events: Events,
    /// Cancelled when the run has ended, however it did.
    pub(super) over: CancellationToken,
}

/// What units tell the run.
#[derive(Debug)]
pub(super) enum Report<T> {
    /// The proxy is started and has opened its image.
    Ready {
        unit: usize,
        /// What the start took, if it was not started before.
        started: Option<Duration>,
        /// Dropping a blob's pipes cancels it there.
        cancels: bool,
    },
    /// It has opened one more image.
    Opened { unit: usize, image: usize },
    /// A call begins.
    Asking { unit: usize },
    /// It was answered, with a blob or a refusal.
    Answered {
        unit: usize,
        job: usize,
        took: Duration,
        with_blob: bool,
    },
    /// A job is done.
    Done { job: Job, output: T, fetched: bool },
    /// A try failed.
    Failed {
        unit: usize,
        job: Job,
        failure: Failure,
    },
}

#[derive(Debug)]
pub(super) enum Failure {
    /// The blob did not come, or not right.
    Fetching(Error),
    /// The call for it, which began then, was refused. The unit asks for nothing before this is taken note of, and
    /// dropped.
    Refused {
        error: Error,
        began: Instant,
        noted: oneshot::Sender<()>,
    },
    /// The proxy was asked for it, and has not answered yet: it can't be asked
    /// for anything else.
    Unanswered(Error),
    /// The handler failed in its own right.
    Handling(Error),
}

/// What a unit starts from.
#[derive(Debug)]
pub(super) enum Beginning {
    /// A proxy that was there before the run.
    Home(Home),
    /// One that was started while the image was opened.
    Spare(Spare),
    /// Another such, that is asked for something else before.
    Lent(oneshot::Receiver<Spare>),
    /// Nothing yet.
    New,
}

/// A proxy, the images that it has open, and what its start took, if it was not
/// started before the run.
type Begun = (ImageProxy, Vec<(usize, Arc<OpenedImage>)>, Option<Duration>);

pub(super) struct Unit<H: Handler> {
    pub(super) number: usize,
    pub(super) common: Arc<Common<H>>,
    /// Jobs for this unit alone: second tries of what failed elsewhere.
    pub(super) own_jobs: async_channel::Receiver<Job>,
    /// Becomes `true` when it is to take no more jobs.
    pub(super) retired: watch::Receiver<bool>,
    pub(super) reports: mpsc::Sender<Report<H::Output>>,
}

impl<H: Handler> Unit<H> {
    /// Work until there is nothing to do, it is retired, or its proxy fails.
    pub(super) async fn run(self, beginning: Beginning) -> Result<()> {
        let begun = Instant::now();
        let mut retired = self.retired.clone();
        let (proxy, opened, started) = tokio::select! {
            biased;
            // Not needed any more before it could do anything.
            _ = retired.wait_for(|retired| *retired) => return Ok(()),
            begun = self.begin(beginning) => begun?,
        };
        let cancels = proxy.cancels_blobs();
        let images = self.common.images.iter().map(|_| OnceCell::new()).collect();
        let (number, reports) = (self.number, self.reports.clone());
        let crew = Arc::new(Crew {
            unit: self,
            proxy,
            images,
            slot: Arc::new(Semaphore::new(1)),
            broken: CancellationToken::new(),
        });
        for (image, opened) in opened {
            // The cell is new, so this can't fail.
            let _ = crew.images[image].set(opened);
        }
        tell(
            &reports,
            Report::Ready {
                unit: number,
                started,
                cancels,
            },
        )
        .await;
        let took = begun.elapsed();
        crew.unit.common.events.send(|| EventKind::ProxyReady {
            proxy: number,
            took,
        });

        let mut workers = JoinSet::new();
        for _ in 0..crew.unit.common.workers {
            workers.spawn(Arc::clone(&crew).work());
        }
        let mut ended = Ok(());
        while let Some(done) = workers.join_next().await {
            let done = done.map_err(panicked)?;
            if done.is_err() && ended.is_ok() {
                // The others end what they are at: whoever has a job tells
                // what became of it.
                crew.broken.cancel();
                ended = done;
            }
        }
        ended
    }
}

impl<H: Handler> Unit<H> {
    /// A proxy that has opened the first image. Most runs are about one image;
    /// others are opened when needed.
    async fn begin(&self, beginning: Beginning) -> Result<Begun> {
        let first = &self.common.images[0];
        let (proxy, image, starting) = match beginning {
            Beginning::Home(home) => {
                if let Some(free) = home.free {
                    free.cancelled().await;
                }
                return Ok((home.proxy, home.opened, None));
            }
            Beginning::Spare(spare) => self.begin_with(spare).await?,
            Beginning::Lent(back) => {
                let spare = back.await.map_err(|_| Error::Closed)?;
                self.begin_with(spare).await?
            }
            Beginning::New => {
                let begun = Instant::now();
                let proxy = self.common.starter.start_further(first.transport()).await?;
                let starting = begun.elapsed();
                let image = first.open_in(&proxy).await?;
                (proxy, image, starting)
            }
        };
        let opened = vec![(0, Arc::new(image))];
        Ok((proxy, opened, Some(starting)))
    }

    async fn begin_with(&self, spare: Spare) -> Result<(ImageProxy, OpenedImage, Duration)> {
        let Opened {
            proxy,
            image,
            starting,
        } = spare.into_opened().await?;
        let image = self.common.images[0].settle_in(&proxy, image).await?;
        Ok((proxy, image, starting))
    }
}

/// A call for a blob that was answered.
struct Asked {
    began: Instant,
    answer: Result<Blob>,
    /// Kept where it was refused.
    slot: Option<OwnedSemaphorePermit>,
}

/// The run has ended if it does not listen any more; then so will we.
async fn tell<T>(reports: &mpsc::Sender<Report<T>>, report: Report<T>) {
    let _ = reports.send(report).await;
}

/// A unit at work.
struct Crew<H: Handler> {
    unit: Unit<H>,
    proxy: ImageProxy,
    images: Vec<OnceCell<Arc<OpenedImage>>>,
    /// One permit: whoever has it may ask the proxy.
    slot: Arc<Semaphore>,
    /// The proxy is of no more use: no more jobs.
    broken: CancellationToken,
}

impl<H: Handler> Crew<H> {
    /// One worker. `Err` means that the proxy is of no more use.
    async fn work(self: Arc<Self>) -> Result<()> {
        loop {
            let (slot, job) = tokio::select! {
                biased;
                () = self.retired() => return Ok(()),
                () = self.broken.cancelled() => return Ok(()),
                error = self.proxy.failed() => return Err(error),
                turn = self.turn() => match turn {
                    Some(turn) => turn,
                    None => return Ok(()),
                }
            };
            let span = tracing::debug_span!(
                "fetch",
                image = self.unit.common.images[job.image].reference,
                digest = %job.layer.descriptor.digest(),
                proxy = self.unit.number,
            );
            self.fetch(job, slot).instrument(span).await?;
        }
    }

    /// The slot, and a job. `None` if there will be no more jobs.
    ///
    /// # Cancel safety
    ///
    /// No job is lost: one is taken only when this is ready.
    async fn turn(&self) -> Option<(OwnedSemaphorePermit, Job)> {
        let slot = Arc::clone(&self.slot).acquire_owned().await.ok()?;
        let mut gate = self.unit.common.gate.clone();
        loop {
            // If nobody moves it any more, the run is over.
            let lets = |gate: &Gate| gate.lets(self.unit.number);
            gate.wait_for(lets).await.ok()?;
            tokio::select! {
                biased;
                Ok(()) = gate.changed() => {}
                Ok(job) = self.unit.own_jobs.recv() => return Some((slot, job)),
                Ok(job) = self.unit.common.jobs.recv() => return Some((slot, job)),
                else => return None,
            }
        }
    }

    /// Ready when this unit is to take no more jobs, or the run is over.
    async fn retired(&self) {
        let mut retired = self.unit.retired.clone();
        let _ = retired.wait_for(|retired| *retired).await;
    }

    async fn fetch(&self, job: Job, slot: OwnedSemaphorePermit) -> Result<()> {
        let common = &self.unit.common;
        match common.handler.skip(&job).await {
            Ok(None) => {}
            Ok(Some(output)) => {
                let blob = job.name();
                common.events.send(|| EventKind::BlobReused { blob });
                self.tell(Report::Done {
                    job,
                    output,
                    fetched: false,
                })
                .await;
                return Ok(());
            }
            Err(error) => {
                self.failed(job, Failure::Handling(error)).await;
                return Ok(());
            }
        }
        let Ok(_in_flight) = Arc::clone(&common.in_flight).acquire_owned().await else {
            return Ok(());
        };
        let Some(asked) = self.ask_for(&job, slot).await? else {
            return Ok(());
        };
        let Asked {
            began,
            answer,
            slot,
        } = asked;
        match answer {
            Ok(blob) => match self.handle(&job, blob).await {
                Ok(output) => {
                    let (blob, proxy) = (job.name(), self.unit.number);
                    common
                        .events
                        .send(|| EventKind::BlobVerified { blob, proxy });
                    self.tell(Report::Done {
                        job,
                        output,
                        fetched: true,
                    })
                    .await;
                    Ok(())
                }
                Err(failure) => {
                    let lost = failure.proxy_lost();
                    self.failed(job, failure).await;
                    lost.map_or(Ok(()), Err)
                }
            },
            Err(error) => {
                let lost = error.is_closed().then(|| error.clone());
                match slot {
                    Some(slot) => self.refused(job, error, began, slot).await,
                    None => self.failed(job, Failure::Fetching(error)).await,
                }
                lost.map_or(Ok(()), Err)
            }
        }
    }

    /// Tell that a call was refused, and ask for nothing before the run has decided who may.
    async fn refused(&self, job: Job, error: Error, began: Instant, slot: OwnedSemaphorePermit) {
        let (noted, wait) = oneshot::channel();
        let failure = Failure::Refused {
            error,
            began,
            noted,
        };
        self.failed(job, failure).await;
        // It is dropped, also when the run has ended.
        let _ = wait.await;
        drop(slot);
    }

    /// Ask for the blob by an image of its source that is open, or by its own. `None` if what became of it has
    /// been told.
    async fn ask_for(&self, job: &Job, slot: OwnedSemaphorePermit) -> Result<Option<Asked>> {
        let mut slot = slot;
        let mut must_be_own = false;
        loop {
            let image = match self.image(job, must_be_own).await {
                Ok(image) => image,
                Err(error) => {
                    let failure = Failure::Fetching(error.clone());
                    self.failed(job.clone(), failure).await;
                    return Err(error);
                }
            };
            let own = self.images[job.image].get();
            let is_own = own.is_some_and(|own| Arc::ptr_eq(own, &image));
            match self.ask(image, job, slot).await {
                // Mirrors can have one image of a repository and not another.
                Some(Asked {
                    answer: Err(error),
                    slot: Some(kept),
                    ..
                }) if !is_own && is_missing(&error) => (slot, must_be_own) = (kept, true),
                Some(asked) => return Ok(Some(asked)),
                None => {
                    let after = self.proxy.options().stall_timeout;
                    let stalled = BlobError::Stalled { after, read: 0 };
                    let stalled = Error::blob(job.layer.descriptor.digest())(stalled);
                    self.failed(job.clone(), Failure::Unanswered(stalled)).await;
                    return Ok(None);
                }
            }
        }
    }

    /// Ask for the blob, and pass the slot on when there is an answer. `None`
    /// if there is none within the stall timeout: then the slot stays with the
    /// call, until it is answered after all.
    async fn ask(
        &self,
        image: Arc<OpenedImage>,
        job: &Job,
        slot: OwnedSemaphorePermit,
    ) -> Option<Asked> {
        let unit = self.unit.number;
        self.tell(Report::Asking { unit }).await;
        let begun = Instant::now();
        let (proxy, descriptor) = (self.proxy.clone(), job.layer.descriptor.clone());
        let mut asking = Box::pin(async move { proxy.get_descriptor(&image, &descriptor).await });
        let patience = self.proxy.options().stall_timeout;
        let answer = if patience.is_zero() {
            asking.await
        } else if let Ok(answer) = timeout(patience, &mut asking).await {
            answer
        } else {
            let mut retired = self.unit.retired.clone();
            tokio::spawn(async move {
                tokio::select! {
                    late = asking => drop(late),
                    // Or the run is over.
                    _ = retired.wait_for(|retired| *retired) => {}
                }
                drop(slot);
            });
            return None;
        };
        let took = begun.elapsed();
        let is_refused = matches!(
            &answer,
            Err(Error::Blob {
                source: BlobError::Refused(_),
                ..
            })
        );
        // Otherwise it is passed on at once.
        let slot = is_refused.then_some(slot);
        self.tell(Report::Answered {
            unit,
            job: job.number,
            took,
            with_blob: answer.is_ok(),
        })
        .await;
        if answer.is_ok() {
            let blob = job.name();
            let opened = || EventKind::BlobOpened {
                blob,
                proxy: unit,
                took,
            };
            self.unit.common.events.send(opened);
        }
        Some(Asked {
            began: begun,
            answer,
            slot,
        })
    }

    /// Have the blob handled, and find out whose fault it is if that fails.
    async fn handle(&self, job: &Job, blob: Blob) -> Result<H::Output, Failure> {
        let common = &self.unit.common;
        let share = Share::of(common.limit.clone());
        let (name, events) = (job.name(), common.events.clone());
        let (reader, mut returned) = LayerReader::new(
            blob,
            name,
            share,
            events,
            common.over.clone(),
            self.proxy.options(),
        );
        let handled = common.handler.handle(job, reader).await;
        match (handled, returned.try_recv()) {
            // A blob that failed makes its handler fail, or should.
            (_, Ok(Returned::Failed(error) | Returned::Finished(Err(error)))) => {
                Err(Failure::Fetching(error))
            }
            (Err(error), Ok(Returned::Dropped(rest))) => Err(whose_fault(error, *rest).await),
            (Err(error), _) => Err(Failure::Handling(error)),
            (Ok(output), Ok(Returned::Finished(Ok(())))) => Ok(output),
            (Ok(output), Ok(Returned::Dropped(rest))) => {
                rest.finish().await.map_err(Failure::Fetching)?;
                Ok(output)
            }
            (Ok(_), Err(_)) => Err(Failure::Handling(Error::ReaderKept)),
        }
    }

    /// An image by which this blob can be asked for, if possible one that is open: one that names it, or
    /// another one of the same source. Otherwise, or if it has to be, the first that names it is opened.
    async fn image(&self, job: &Job, own: bool) -> Result<Arc<OpenedImage>> {
        let number = job.image;
        let Common {
            images, sources, ..
        } = &*self.unit.common;
        if !own && self.images[number].get().is_none() {
            let named_by = job.also.iter().map(|image| &self.images[*image]);
            let same = |(_, source): &(_, &usize)| **source == sources[number];
            let others = self.images.iter().zip(sources).filter(same);
            let mut candidates = named_by.chain(others.map(|(image, _)| image));
            if let Some(open) = candidates.find_map(OnceCell::get) {
                return Ok(Arc::clone(open));
            }
        }
        let open = || async {
            let opened = images[number].open_in(&self.proxy).await?;
            let (unit, image) = (self.unit.number, number);
            self.tell(Report::Opened { unit, image }).await;
            Ok(Arc::new(opened))
        };
        self.images[number].get_or_try_init(open).await.cloned()
    }

    async fn failed(&self, job: Job, failure: Failure) {
        self.tell(Report::Failed {
            unit: self.unit.number,
            job,
            failure,
        })
        .await;
    }

    async fn tell(&self, report: Report<H::Output>) {
        tell(&self.unit.reports, report).await;
    }
}

/// A handler failed without having read all of its blob. If the blob is wrong, that is why: a handler
/// that parses what it reads may notice first. What is left is read to find out, if that is not too
/// much.
async fn whose_fault(error: Error, rest: LayerReader) -> Failure {
    if rest.left() > MOST_TO_BLAME {
        return Failure::Handling(error);
    }
    // Where a sink has the verifier, nothing can be said of the blob.
    let is_unknown = |error: &Error| {
        matches!(
            error,
            Error::Blob {
                source: BlobError::Abandoned { .. },
                ..
            }
        )
    };
    match timeout(TIME_TO_BLAME, rest.finish()).await {
        Ok(Err(blob)) if !is_unknown(&blob) => Failure::Fetching(blob),
        Ok(_) | Err(_) => Failure::Handling(error),
    }
}

impl Failure {
    /// The error with which the proxy is lost, if it is.
    fn proxy_lost(&self) -> Option<Error> {
        match self {
            Self::Fetching(error) if error.is_closed() => Some(error.clone()),
            _ => None,
        }
    }
}

impl Job {
    pub(super) fn name(&self) -> BlobName {
        BlobName::of(self.image, &self.layer)
    }
}
