//! A unit: one proxy with its workers.
//!
//! A proxy answers one call at a time, so its workers take turns in asking: who
//! has the unit's **slot** takes a task, asks for it, and passes the slot on when the answer is there; then it
//! drains the blob, beside the others. What the unit is to do comes through a channel; it decides nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::content::{ImageContent, fetch_manifest};
use super::event::{BlobRef, EventKind, Events};
use super::handler::Handler;
use super::image::SameImage;
use super::rate::Limit;
use super::reader::{LayerReader, Reading};
use super::scheduler::{ImageId, Task, UnitId};
use super::starter::Starter;
use super::{Job, panicked};
use crate::config::Platform;
use crate::error::{BlobError, Error, Result};
use crate::proxy::{Blob, ImageProxy, OpenedImage};
use crate::reference::Place;
use crate::time::timeout;

/// How many bytes of a blob are read, and for how long, to find out whether its handler failed because
/// the blob is wrong. More would hold up the news of a failure that is the handler's own.
const MOST_TO_BLAME: u64 = 128 * 1024 * 1024;
const TIME_TO_BLAME: Duration = Duration::from_secs(10);

/// What is done with what is fetched.
pub(super) struct Purpose {
    pub(super) handler: Box<dyn Handler>,
    pub(super) limit: Option<Limit>,
    pub(super) events: Events,
    /// Cancelled when nobody wants it any more.
    pub(super) over: CancellationToken,
}

/// What a unit is told to do.
pub(super) struct Work {
    pub(super) task: Task,
    pub(super) what: What,
}

pub(super) enum What {
    /// Open an image; the same as this one, if it is known already.
    Open {
        reference: Arc<str>,
        known: Option<Arc<SameImage>>,
    },
    /// Make an image's content of its config.
    Config {
        image: Arc<SameImage>,
        opened: Arc<OpenedImage>,
        purpose: Arc<Purpose>,
    },
    /// Fetch a blob by an image that is open.
    Blob {
        job: Box<Job>,
        opened: Arc<OpenedImage>,
        purpose: Arc<Purpose>,
    },
}

/// What units tell.
pub(super) enum Report {
    /// The proxy is started, which took that long.
    Ready {
        unit: UnitId,
        proxy: ImageProxy,
        started: Duration,
    },
    /// An image is open.
    Opened {
        unit: UnitId,
        image: ImageId,
        opened: Arc<OpenedImage>,
        known: Arc<SameImage>,
        took: Duration,
    },
    /// An image's content is there.
    Configured {
        unit: UnitId,
        image: ImageId,
        content: Arc<ImageContent>,
    },
    /// A blob begins to come.
    Answered {
        unit: UnitId,
        task: Task,
        took: Duration,
    },
    /// A blob is done; without fetching, if it was there already.
    Done {
        unit: UnitId,
        task: Task,
        fetched: bool,
    },
    /// A task failed.
    Failed {
        unit: UnitId,
        task: Task,
        failure: Failure,
        /// The unit asks for nothing before this is dropped.
        noted: Option<oneshot::Sender<()>>,
    },
}

impl Report {
    pub(super) fn unit(&self) -> UnitId {
        match self {
            Self::Ready { unit, .. }
            | Self::Opened { unit, .. }
            | Self::Configured { unit, .. }
            | Self::Answered { unit, .. }
            | Self::Done { unit, .. }
            | Self::Failed { unit, .. } => *unit,
        }
    }
}

pub(super) enum Failure {
    /// It did not come, or not right.
    Fetching(Error),
    /// The call for it, which began then, was refused.
    Refused { error: Error, began: Instant },
    /// The proxy was asked for it, and has not answered yet: it can't be asked
    /// for anything else.
    Unanswered(Error),
    /// The handler failed in its own right.
    Handling(Error),
}

/// What a proxy is started as.
#[derive(Debug)]
pub(super) struct Kind {
    /// An image such as it opens.
    pub(super) like: Arc<str>,
    /// What it chooses from indexes, if not what is configured.
    pub(super) platform: Option<Platform>,
}

/// What a unit starts from.
pub(super) enum Beginning {
    /// A proxy that is running already.
    Running(ImageProxy),
    /// A proxy for images such as this one.
    New { kind: Arc<Kind>, is_first: bool },
}

pub(super) struct Unit {
    pub(super) number: UnitId,
    pub(super) starter: Arc<Starter>,
    pub(super) work: async_channel::Receiver<Work>,
    /// Becomes `true` when it is to take no more work.
    pub(super) retired: watch::Receiver<bool>,
    pub(super) reports: mpsc::Sender<Report>,
}

impl Unit {
    /// Work until there is nothing to do, it is retired, or its proxy fails.
    pub(super) async fn run(self, beginning: Beginning) -> Result<()> {
        let mut retired = self.retired.clone();
        let proxy = tokio::select! {
            biased;
            // Not needed any more before it could do anything.
            _ = retired.wait_for(|retired| *retired) => return Ok(()),
            begun = self.begin(beginning) => begun?,
        };
        let crew = Arc::new(Crew {
            unit: self,
            proxy,
            slot: Arc::new(Semaphore::new(1)),
        });
        crew.work().await
    }

    async fn begin(&self, beginning: Beginning) -> Result<ImageProxy> {
        let begun = Instant::now();
        match beginning {
            Beginning::Running(proxy) => Ok(proxy),
            Beginning::New { kind, is_first } => {
                let (place, platform) = (Place::of(&kind.like), kind.platform.as_ref());
                let proxy = if is_first {
                    self.starter.start(place, platform).await?
                } else {
                    self.starter.start_further(place, platform).await?
                };
                self.tell(Report::Ready {
                    unit: self.number,
                    proxy: proxy.clone(),
                    started: begun.elapsed(),
                })
                .await;
                Ok(proxy)
            }
        }
    }

    /// If nobody listens any more, it is over, and we will be, too.
    async fn tell(&self, report: Report) {
        let _ = self.reports.send(report).await;
    }
}

/// A call for a blob that was answered.
struct Asked {
    began: Instant,
    answer: Result<Blob>,
    /// Kept where it was refused.
    slot: Option<OwnedSemaphorePermit>,
}

/// A unit at work.
struct Crew {
    unit: Unit,
    proxy: ImageProxy,
    /// One permit: whoever has it may ask the proxy.
    slot: Arc<Semaphore>,
}

impl Crew {
    async fn work(self: Arc<Self>) -> Result<()> {
        let mut workers = JoinSet::new();
        let mut ended = Ok(());
        loop {
            let (slot, work) = tokio::select! {
                biased;
                () = self.retired() => break,
                error = self.proxy.failed() => {
                    ended = Err(error);
                    break;
                }
                Some(done) = workers.join_next() => {
                    if let Err(error) = done.map_err(panicked).and_then(|done| done) {
                        ended = Err(error);
                        break;
                    }
                    continue;
                }
                turn = self.turn() => match turn {
                    Some(turn) => turn,
                    None => break,
                }
            };
            workers.spawn(Arc::clone(&self).worker(work, slot));
        }
        // All end what they are at: whoever has a task tells what became of it.
        while let Some(done) = workers.join_next().await {
            ended = ended.and(done.map_err(panicked).and_then(|done| done));
        }
        ended
    }

    /// The slot, and something to do. `None` if there will be no more.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: work is taken only when this is ready.
    async fn turn(&self) -> Option<(OwnedSemaphorePermit, Work)> {
        let slot = Arc::clone(&self.slot).acquire_owned().await.ok()?;
        let work = self.unit.work.recv().await.ok()?;
        Some((slot, work))
    }

    /// Ready when this unit is to take no more work, or nobody is there to give it any.
    async fn retired(&self) {
        let mut retired = self.unit.retired.clone();
        let _ = retired.wait_for(|retired| *retired).await;
    }

    /// One worker. `Err` means that the proxy is of no more use.
    async fn worker(self: Arc<Self>, work: Work, slot: OwnedSemaphorePermit) -> Result<()> {
        let Work { task, what } = work;
        match what {
            What::Open { reference, known } => {
                let span =
                    tracing::debug_span!("open", image = %reference, proxy = self.unit.number.0);
                self.open(task, &reference, known, slot)
                    .instrument(span)
                    .await
            }
            What::Config {
                image,
                opened,
                purpose,
            } => {
                let span = tracing::debug_span!(
                    "config",
                    image = image.reference,
                    proxy = self.unit.number.0
                );
                self.config(task, &image, &opened, &purpose, slot)
                    .instrument(span)
                    .await
            }
            What::Blob {
                job,
                opened,
                purpose,
            } => {
                let span = tracing::debug_span!(
                    "fetch",
                    image = %job.reference,
                    digest = %job.layer.descriptor.digest(),
                    proxy = self.unit.number.0,
                );
                // Boxed, because it is large.
                Box::pin(self.fetch(task, &job, opened, &purpose, slot))
                    .instrument(span)
                    .await
            }
        }
    }

    async fn open(
        &self,
        task: Task,
        reference: &Arc<str>,
        known: Option<Arc<SameImage>>,
        slot: OwnedSemaphorePermit,
    ) -> Result<()> {
        let Task::Open(image) = task else {
            return Ok(());
        };
        let began = Instant::now();
        match self.open_image(reference, known).await {
            Ok((opened, known, took)) => {
                drop(slot);
                let unit = self.unit.number;
                self.tell(Report::Opened {
                    unit,
                    image,
                    opened: Arc::new(opened),
                    known,
                    took,
                })
                .await;
                Ok(())
            }
            Err(error) => self.lost_or(task, error, began, slot).await,
        }
    }

    async fn open_image(
        &self,
        reference: &Arc<str>,
        known: Option<Arc<SameImage>>,
    ) -> Result<(OpenedImage, Arc<SameImage>, Duration)> {
        let begun = Instant::now();
        let opened = self.proxy.open_image(reference).await?;
        let took = begun.elapsed();
        let place = Place::of(reference);
        if let Some(known) = known {
            known.compare(&self.proxy, &opened).await?;
            Ok((opened, known, took))
        } else {
            let manifest = fetch_manifest(&self.proxy, &opened, place).await?;
            let same = SameImage {
                reference: reference.to_string(),
                manifest,
                content: OnceCell::new(),
            };
            Ok((opened, Arc::new(same), took))
        }
    }

    async fn config(
        &self,
        task: Task,
        image: &SameImage,
        opened: &OpenedImage,
        purpose: &Purpose,
        slot: OwnedSemaphorePermit,
    ) -> Result<()> {
        let Task::Config(id) = task else {
            return Ok(());
        };
        let began = Instant::now();
        let content = purpose.handler.content(&self.proxy, opened, image).await;
        match content {
            Ok(content) => {
                drop(slot);
                let unit = self.unit.number;
                self.tell(Report::Configured {
                    unit,
                    image: id,
                    content: Arc::new(content),
                })
                .await;
                Ok(())
            }
            Err(error) => self.lost_or(task, error, began, slot).await,
        }
    }

    /// Tell of a call that failed. `Err` if the proxy is lost with it.
    async fn lost_or(
        &self,
        task: Task,
        error: Error,
        began: Instant,
        slot: OwnedSemaphorePermit,
    ) -> Result<()> {
        let lost = error.is_closed().then(|| error.clone());
        let is_unanswered = matches!(
            error,
            Error::Blob {
                source: BlobError::Stalled { .. },
                ..
            }
        );
        match &error {
            Error::Refused { .. }
            | Error::Blob {
                source: BlobError::Refused(_),
                ..
            } => self.refused(task, error, began, slot).await,
            _ if is_unanswered => self.failed(task, Failure::Unanswered(error)).await,
            _ => self.failed(task, Failure::Fetching(error)).await,
        }
        lost.map_or(Ok(()), Err)
    }

    async fn fetch(
        &self,
        task: Task,
        job: &Job,
        opened: Arc<OpenedImage>,
        purpose: &Purpose,
        slot: OwnedSemaphorePermit,
    ) -> Result<()> {
        let unit = self.unit.number;
        match purpose.handler.skip(job).await {
            Ok(false) => {}
            Ok(true) => {
                let blob = job.name();
                purpose.events.send(|| EventKind::BlobReused { blob });
                let fetched = false;
                self.tell(Report::Done {
                    unit,
                    task,
                    fetched,
                })
                .await;
                return Ok(());
            }
            Err(error) => {
                self.failed(task, Failure::Handling(error)).await;
                return Ok(());
            }
        }
        let Some(asked) = self.ask(task, job, opened, purpose, slot).await else {
            let after = self.proxy.options().stall_limit().unwrap_or_default();
            let stalled = BlobError::Stalled { after, read: 0 };
            let stalled = Error::blob(job.layer.descriptor.digest())(stalled);
            self.failed(task, Failure::Unanswered(stalled)).await;
            return Ok(());
        };
        let Asked {
            began,
            answer,
            slot,
        } = asked;
        match answer {
            Ok(blob) => match self.handle(job, blob, purpose).await {
                Ok(()) => {
                    let (blob, proxy) = (job.name(), unit.0);
                    purpose
                        .events
                        .send(|| EventKind::BlobVerified { blob, proxy });
                    let fetched = true;
                    self.tell(Report::Done {
                        unit,
                        task,
                        fetched,
                    })
                    .await;
                    Ok(())
                }
                Err(failure) => {
                    let lost = failure.proxy_lost();
                    self.failed(task, failure).await;
                    lost.map_or(Ok(()), Err)
                }
            },
            Err(error) => {
                let lost = error.is_closed().then(|| error.clone());
                match slot {
                    Some(slot) => self.refused(task, error, began, slot).await,
                    None => self.failed(task, Failure::Fetching(error)).await,
                }
                lost.map_or(Ok(()), Err)
            }
        }
    }

    /// Tell that a call was refused, and ask for nothing before it has been decided who may.
    async fn refused(&self, task: Task, error: Error, began: Instant, slot: OwnedSemaphorePermit) {
        let (noted, wait) = oneshot::channel();
        let failure = Failure::Refused { error, began };
        self.tell(Report::Failed {
            unit: self.unit.number,
            task,
            failure,
            noted: Some(noted),
        })
        .await;
        // It is dropped, also when nobody is there any more.
        let _ = wait.await;
        drop(slot);
    }

    /// Ask for the blob, and pass the slot on when there is an answer. `None`
    /// if there is none within the stall timeout: then the slot stays with the
    /// call, until it is answered after all.
    async fn ask(
        &self,
        task: Task,
        job: &Job,
        opened: Arc<OpenedImage>,
        purpose: &Purpose,
        slot: OwnedSemaphorePermit,
    ) -> Option<Asked> {
        let unit = self.unit.number;
        let began = Instant::now();
        let (proxy, descriptor) = (self.proxy.clone(), job.layer.descriptor.clone());
        let mut asking = Box::pin(async move { proxy.get_descriptor(&opened, &descriptor).await });
        let patience = self.proxy.options().stall_limit();
        let Ok(answer) = timeout(patience, &mut asking).await else {
            let mut retired = self.unit.retired.clone();
            tokio::spawn(async move {
                tokio::select! {
                    late = asking => drop(late),
                    // Or nobody is there any more.
                    _ = retired.wait_for(|retired| *retired) => {}
                }
                drop(slot);
            });
            return None;
        };
        let took = began.elapsed();
        let is_refused = matches!(
            &answer,
            Err(Error::Blob {
                source: BlobError::Refused(_),
                ..
            })
        );
        // Otherwise it is passed on at once.
        let slot = is_refused.then_some(slot);
        if answer.is_ok() {
            self.tell(Report::Answered { unit, task, took }).await;
            let blob = job.name();
            let opened = || EventKind::BlobOpened {
                blob,
                proxy: unit.0,
                took,
            };
            purpose.events.send(opened);
        }
        Some(Asked {
            began,
            answer,
            slot,
        })
    }

    /// Have the blob handled, and find out whose fault it is if that fails.
    async fn handle(&self, job: &Job, blob: Blob, purpose: &Purpose) -> Result<(), Failure> {
        let (reader, mut returned) =
            LayerReader::new(blob, job.name(), purpose, self.proxy.options());
        let handled = purpose.handler.handle(job, reader).await;
        let Ok(mut reading) = returned.try_recv() else {
            return Err(Failure::Handling(
                handled.err().unwrap_or(Error::ReaderKept),
            ));
        };
        match (handled, reading.ended()) {
            // A blob that failed makes its handler fail, or should.
            (_, Some(Err(error))) if !is_unjudged(error) => Err(Failure::Fetching(error.clone())),
            (Err(error), None) => Err(whose_fault(error, reading).await),
            (Err(error), Some(_)) => Err(Failure::Handling(error)),
            (Ok(()), _) => reading.verdict().await.map_err(Failure::Fetching),
        }
    }

    async fn failed(&self, task: Task, failure: Failure) {
        self.tell(Report::Failed {
            unit: self.unit.number,
            task,
            failure,
            noted: None,
        })
        .await;
    }

    async fn tell(&self, report: Report) {
        self.unit.tell(report).await;
    }
}
/// A handler failed without having read all of its blob. If the blob is wrong, that is why: a handler
/// that parses what it reads may notice first. What is left is read to find out, if that is not too
/// much.
async fn whose_fault(error: Error, mut rest: Reading) -> Failure {
    if rest.left() > MOST_TO_BLAME {
        return Failure::Handling(error);
    }
    match timeout(TIME_TO_BLAME, rest.verdict()).await {
        Ok(Err(blob)) if !is_unjudged(&blob) => Failure::Fetching(blob),
        Ok(_) | Err(_) => Failure::Handling(error),
    }
}

/// Whether nothing is known of the blob, because a sink has its verifier or because nobody waited for the verdict.
fn is_unjudged(error: &Error) -> bool {
    matches!(
        error,
        Error::Blob {
            source: BlobError::Abandoned { .. },
            ..
        }
    )
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
    pub(super) fn name(&self) -> BlobRef {
        BlobRef::of(self.image, &self.layer)
    }
}
