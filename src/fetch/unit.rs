//! A unit: one proxy with its workers.
//!
//! A proxy answers one call at a time, so the workers take turns in asking. The worker that has the unit's
//! **slot** takes a task, sends the call, and passes the slot on when the answer is there. Then it drains the
//! blob, at the same time as the other workers. Tasks come through a channel; the unit decides nothing.

mod message;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::Instrument;

pub(super) use self::message::{Failure, FetchContext, Kind, ProxyOrigin, Report, TaskData, Work};

use super::event::{DocumentKind, EventKind, Events};
use super::handler::Job;
use super::image::ImageData;
use super::reader::{LayerReader, Reading};
use super::resolve::fetch_manifest;
use super::scheduler::{Task, UnitId};
use super::starter::Starter;
use crate::error::{BlobError, Error, Result, join_error};
use crate::proxy::{Blob, ImageProxy, OpenedImage, QuietWatch};
use crate::reference::Place;
use crate::time::timeout;

/// The maximum number of bytes of a blob that are read to find out whether its handler failed because the blob is
/// wrong. Reading more would delay the report if the handler itself is the cause.
const MAX_BYTES_TO_CHECK: u64 = 128 * 1024 * 1024;

/// How long a blob is read, at most, to find out whether its handler failed because the blob is wrong.
const TIME_TO_CHECK: Duration = Duration::from_secs(10);

/// A unit: a proxy with its workers.
pub(super) struct Unit {
    pub(super) number: UnitId,
    pub(super) starter: Arc<Starter>,
    pub(super) work: async_channel::Receiver<Work>,
    /// Becomes `true` when the unit is to take no more work.
    pub(super) retired: watch::Receiver<bool>,
    pub(super) reports: mpsc::Sender<Report>,
}

impl Unit {
    /// Runs until there is no more work, the unit is retired, or its proxy fails.
    pub(super) async fn run(self, origin: ProxyOrigin) -> Result<()> {
        let mut retired = self.retired.clone();
        let proxy = tokio::select! {
            biased;
            // The unit is retired before its proxy is ready.
            _ = retired.wait_for(|retired| *retired) => return Ok(()),
            begun = self.begin(origin) => begun?,
        };
        let workers = Arc::new(Workers {
            unit: self,
            _in_use: proxy.count_user(),
            proxy,
            slot: Arc::new(Semaphore::new(1)),
            quiet: watch::Sender::new(0),
            is_free: watch::Sender::new(false),
        });
        workers.run().await
    }

    async fn begin(&self, origin: ProxyOrigin) -> Result<ImageProxy> {
        let begun = Instant::now();
        match origin {
            ProxyOrigin::Running(proxy) => Ok(proxy),
            ProxyOrigin::New { kind, proxies } => {
                let (place, platform) = (Place::of(&kind.example), kind.platform.as_ref());
                let number = self.number.0;
                let proxy = if number == 0 {
                    self.starter.start(Some(number), place, platform).await?
                } else {
                    self.starter
                        .start_further((number, proxies), place, platform)
                        .await?
                };
                self.report(Report::Ready {
                    unit: self.number,
                    proxy: proxy.clone(),
                    started: begun.elapsed(),
                })
                .await;
                Ok(proxy)
            }
        }
    }

    /// Sends a report. If the receiver is gone, the fetch is over, and this unit will be ended.
    async fn report(&self, report: Report) {
        let _ = self.reports.send(report).await;
    }
}

/// An answered call for a blob.
struct BlobAnswer {
    began: Instant,
    answer: Result<Blob>,
    /// The slot, which is kept only if the call was refused.
    slot: Option<OwnedSemaphorePermit>,
}

/// The workers of a unit and their proxy.
struct Workers {
    unit: Unit,
    proxy: ImageProxy,
    /// Counts this unit as a user of the proxy.
    _in_use: Arc<()>,
    /// The slot: a semaphore with one permit. The worker that has the permit may ask the proxy.
    slot: Arc<Semaphore>,
    /// The number of workers whose blob was quiet at least once and is not handled yet.
    quiet: watch::Sender<usize>,
    /// Becomes `true` when there will be no more tasks, and only workers with quiet blobs are left, so that a call of
    /// one of them may block the connection. Stays `false` while another unit uses the proxy, too.
    is_free: watch::Sender<bool>,
}

impl Workers {
    async fn run(self: Arc<Self>) -> Result<()> {
        let mut workers = JoinSet::new();
        let mut ended = Ok(());
        loop {
            let (slot, work) = tokio::select! {
                biased;
                () = self.until_retired() => break,
                error = self.proxy.failed() => {
                    ended = Err(error);
                    break;
                }
                Some(done) = workers.join_next() => {
                    if let Err(error) = done.map_err(join_error).and_then(|done| done) {
                        ended = Err(error);
                        break;
                    }
                    continue;
                }
                next = self.next_work() => match next {
                    Some(next) => next,
                    None => break,
                }
            };
            workers.spawn(Arc::clone(&self).worker(work, slot));
        }
        // All workers finish their tasks, because each worker must report its result.
        let mut quiet = self.quiet.subscribe();
        loop {
            let are_quiet = *quiet.borrow_and_update() >= workers.len();
            let are_quiet = are_quiet && !self.proxy.has_several_users();
            self.is_free.send_if_modified(|is_free| {
                let becomes_free = are_quiet && !*is_free;
                *is_free |= are_quiet;
                becomes_free
            });
            tokio::select! {
                done = workers.join_next() => match done {
                    Some(done) => ended = ended.and(done.map_err(join_error).and_then(|done| done)),
                    None => return ended,
                },
                Ok(()) = quiet.changed() => {}
            }
        }
    }

    /// Waits for the slot and for a task. `None` if no more tasks will come.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, no task is lost: a task is taken only when this future is ready.
    async fn next_work(&self) -> Option<(OwnedSemaphorePermit, Work)> {
        let slot = Arc::clone(&self.slot).acquire_owned().await.ok()?;
        let work = self.unit.work.recv().await.ok()?;
        Some((slot, work))
    }

    /// Waits until the unit is to take no more work, or the engine is gone.
    async fn until_retired(&self) {
        let mut retired = self.unit.retired.clone();
        let _ = retired.wait_for(|retired| *retired).await;
    }

    /// Does one task. An error means that the proxy can't be used any more.
    async fn worker(self: Arc<Self>, work: Work, slot: OwnedSemaphorePermit) -> Result<()> {
        let Work { task, data } = work;
        match data {
            TaskData::Open {
                reference,
                known,
                number,
                events,
            } => {
                let span =
                    tracing::debug_span!("open", image = %reference, proxy = self.unit.number.0);
                self.open(task, (number, &reference), known, &events, slot)
                    .instrument(span)
                    .await
            }
            TaskData::Config {
                image,
                number,
                opened,
                context,
            } => {
                let span = tracing::debug_span!(
                    "config",
                    image = image.reference,
                    proxy = self.unit.number.0
                );
                self.config(task, (number, &image), &opened, &context, slot)
                    .instrument(span)
                    .await
            }
            TaskData::Blob {
                job,
                opened,
                context,
            } => {
                let span = tracing::debug_span!(
                    "fetch",
                    image = %job.reference,
                    digest = %job.layer.descriptor.digest(),
                    proxy = self.unit.number.0,
                );
                // The future is boxed because it is large.
                Box::pin(self.fetch(task, &job, opened, &context, slot))
                    .instrument(span)
                    .await
            }
        }
    }

    async fn open(
        &self,
        task: Task,
        (number, reference): (usize, &Arc<str>),
        known: Option<Arc<ImageData>>,
        events: &Events,
        slot: OwnedSemaphorePermit,
    ) -> Result<()> {
        let Task::Open(image) = task else {
            return Ok(());
        };
        let began = Instant::now();
        let named = (number, &**reference);
        let answered = events.document(named, DocumentKind::Manifest, self.unit.number.0);
        let result = self.open_image(reference, known).await;
        answered(result.as_ref().err());
        match result {
            Ok((opened, known, took)) => {
                drop(slot);
                let unit = self.unit.number;
                self.report(Report::Opened {
                    unit,
                    image,
                    opened: Arc::new(opened),
                    known,
                    took,
                })
                .await;
                Ok(())
            }
            Err(error) => self.report_failed_call(task, error, began, slot).await,
        }
    }

    async fn open_image(
        &self,
        reference: &Arc<str>,
        known: Option<Arc<ImageData>>,
    ) -> Result<(OpenedImage, Arc<ImageData>, Duration)> {
        let begun = Instant::now();
        let opened = self.proxy.open_image(reference).await?;
        let took = begun.elapsed();
        let place = Place::of(reference);
        if let Some(known) = known {
            known.compare(&self.proxy, &opened).await?;
            Ok((opened, known, took))
        } else {
            let manifest = fetch_manifest(&self.proxy, &opened, place).await?;
            let data = ImageData {
                reference: reference.to_string(),
                manifest,
                content: OnceCell::new(),
            };
            Ok((opened, Arc::new(data), took))
        }
    }

    async fn config(
        &self,
        task: Task,
        (number, image): (usize, &ImageData),
        opened: &OpenedImage,
        context: &FetchContext,
        slot: OwnedSemaphorePermit,
    ) -> Result<()> {
        let Task::Config(id) = task else {
            return Ok(());
        };
        let began = Instant::now();
        let named = (number, &*image.reference);
        let proxy = self.unit.number.0;
        let answered = context.events.document(named, DocumentKind::Config, proxy);
        let fetched = context.handler.content(&self.proxy, opened, image).await;
        answered(fetched.as_ref().err());
        match fetched {
            Ok(fetched) => {
                drop(slot);
                let unit = self.unit.number;
                self.report(Report::Configured {
                    unit,
                    image: id,
                    content: Arc::new(fetched),
                })
                .await;
                Ok(())
            }
            Err(error) => self.report_failed_call(task, error, began, slot).await,
        }
    }

    /// Reports a failed call. Returns an error if the proxy was lost.
    async fn report_failed_call(
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
        context: &FetchContext,
        slot: OwnedSemaphorePermit,
    ) -> Result<()> {
        let unit = self.unit.number;
        match context.handler.skip(job).await {
            Ok(false) => {}
            Ok(true) => {
                let blob = job.name();
                context.events.send(|| EventKind::BlobReused { blob });
                let fetched = false;
                self.report(Report::Done {
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
        let Some(asked) = self.ask(task, job, opened, context, slot).await else {
            let after = self.proxy.options().stall_limit().unwrap_or_default();
            let stalled = BlobError::Stalled { after, read: 0 };
            let stalled = Error::blob(job.layer.descriptor.digest())(stalled);
            self.failed(task, Failure::Unanswered(stalled)).await;
            return Ok(());
        };
        let BlobAnswer {
            began,
            answer,
            slot,
        } = asked;
        match answer {
            // The future is boxed because it is large.
            Ok(blob) => match Box::pin(self.handle_watched(task, job, blob, context)).await {
                Ok(()) => {
                    let (blob, proxy) = (job.name(), unit.0);
                    context
                        .events
                        .send(|| EventKind::BlobVerified { blob, proxy });
                    let fetched = true;
                    self.report(Report::Done {
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

    /// Reports a refused call, and keeps the slot until the scheduler has decided which unit may ask.
    async fn refused(&self, task: Task, error: Error, began: Instant, slot: OwnedSemaphorePermit) {
        let (recorded, wait) = oneshot::channel();
        let failure = Failure::Refused { error, began };
        self.report(Report::Failed {
            unit: self.unit.number,
            task,
            failure,
            recorded: Some(recorded),
        })
        .await;
        // The sender is also dropped if the engine is gone.
        let _ = wait.await;
        drop(slot);
    }

    /// Asks for the blob, and passes the slot on when the answer is there. `None` if there is no answer within the
    /// stall timeout. A spawned tokio task then keeps the slot until the call is answered or the unit is retired.
    async fn ask(
        &self,
        task: Task,
        job: &Job,
        opened: Arc<OpenedImage>,
        context: &FetchContext,
        slot: OwnedSemaphorePermit,
    ) -> Option<BlobAnswer> {
        let unit = self.unit.number;
        let began = Instant::now();
        context.events.send(|| EventKind::BlobRequested {
            blob: job.name(),
            proxy: unit.0,
        });
        let (proxy, descriptor) = (self.proxy.clone(), job.layer.descriptor.clone());
        let mut asking = Box::pin(async move { proxy.get_descriptor(&opened, &descriptor).await });
        let stall_timeout = self.proxy.options().stall_limit();
        let Ok(answer) = timeout(stall_timeout, &mut asking).await else {
            let mut retired = self.unit.retired.clone();
            tokio::spawn(async move {
                tokio::select! {
                    late = asking => drop(late),
                    // The unit was retired, or the engine is gone.
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
        // Without a refusal, the slot is passed on at once.
        let slot = is_refused.then_some(slot);
        if answer.is_ok() {
            self.report(Report::Answered { unit, task, took }).await;
            let blob = job.name();
            let opened = || EventKind::BlobOpened {
                blob,
                proxy: unit.0,
                took,
            };
            context.events.send(opened);
        }
        Some(BlobAnswer {
            began,
            answer,
            slot,
        })
    }

    /// Handles a blob, and meanwhile reports if the blob is quiet.
    async fn handle_watched(
        &self,
        task: Task,
        job: &Job,
        mut blob: Blob,
        context: &FetchContext,
    ) -> Result<(), Failure> {
        let (is_quiet, quiet) = oneshot::channel();
        if self.proxy.is_expendable() {
            blob.watch_quiet(QuietWatch {
                is_quiet,
                is_free: self.is_free.subscribe(),
            });
        }
        let handled = self.handle(job, blob, context);
        tokio::pin!(handled);
        tokio::select! {
            biased;
            handled = &mut handled => return handled,
            Ok(()) = quiet => {}
        }
        let unit = self.unit.number;
        self.quiet.send_modify(|quiet| *quiet += 1);
        let report = self.report(Report::Quiet { unit, task });
        let (handled, ()) = tokio::join!(handled, report);
        self.quiet.send_modify(|quiet| *quiet -= 1);
        handled
    }

    /// Runs the handler. If the handler fails, finds out whether the blob is the cause.
    async fn handle(&self, job: &Job, blob: Blob, context: &FetchContext) -> Result<(), Failure> {
        let (reader, mut returned) =
            LayerReader::new(blob, job.name(), context, self.proxy.options());
        let handled = context.handler.handle(job, reader).await;
        let Ok(mut reading) = returned.try_recv() else {
            return Err(Failure::Handling(
                handled.err().unwrap_or(Error::ReaderKept),
            ));
        };
        match (handled, reading.ended()) {
            // If the blob failed, that is the error, whatever the handler returned.
            (_, Some(Err(error))) if !has_no_verdict(error) => {
                Err(Failure::Fetching(error.clone()))
            }
            (Err(error), None) => Err(find_cause(error, reading).await),
            (Err(error), Some(_)) => Err(Failure::Handling(error)),
            (Ok(()), _) => reading.verdict().await.map_err(Failure::Fetching),
        }
    }

    async fn failed(&self, task: Task, failure: Failure) {
        self.report(Report::Failed {
            unit: self.unit.number,
            task,
            failure,
            recorded: None,
        })
        .await;
    }

    async fn report(&self, report: Report) {
        self.unit.report(report).await;
    }
}

/// Finds out why a handler failed that has not read all of its blob. The blob may be wrong, and a handler
/// that parses it may notice this first. So the rest of the blob is read and verified, unless it is too long.
async fn find_cause(error: Error, mut rest: Reading) -> Failure {
    if rest.unread_bytes() > MAX_BYTES_TO_CHECK {
        return Failure::Handling(error);
    }
    match timeout(TIME_TO_CHECK, rest.verdict()).await {
        Ok(Err(blob)) if !has_no_verdict(&blob) => Failure::Fetching(blob),
        Ok(_) | Err(_) => Failure::Handling(error),
    }
}

/// Whether there is no verdict on the blob, because a sink has taken the verifier, or nobody waited for the verdict.
fn has_no_verdict(error: &Error) -> bool {
    matches!(
        error,
        Error::Blob {
            source: BlobError::Abandoned { .. },
            ..
        }
    )
}
