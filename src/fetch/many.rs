//! Pulls many images: takes requests one after another, and returns the result of each.
//!
//! One task drives the engine for all images. The task holds a limited number of requests, and takes the next
//! request when another one is done.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use oci_spec::image::Descriptor;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use super::content::layers;
use super::engine::{Engine, Outcome};
use super::event::{EventKind, Events};
use super::index::{FetchedIndex, check_entry};
use super::options::FetchOptions;
use super::pull::{ForeignLayers, IntoSink};
use super::request::{ImageRequest, Platforms};
use super::request_indexes::{FetchedForRequest, RequestIndexes};
use super::scheduler::ImageId;
use super::starter::Starter;
use super::{ImageContent, IndexContent, Pulled, Sink};
use crate::error::{Error, Result, error_chain, join_error};
use crate::time::sleep_until_opt;

/// The next request is taken only while fewer requests than this are held, and fewer images than this are being pulled.
/// A request is held from the moment when it is taken until its result is taken. The number is larger than that of the
/// proxies for one host, so that each proxy always has an image to open.
const MAX_HELD_IMAGES: usize = 64;

/// The result of a request.
#[derive(Debug)]
#[non_exhaustive]
pub struct PulledImages {
    /// The number of the request, zero-based, in the order in which the requests came.
    pub number: usize,
    /// The request.
    pub request: ImageRequest,
    /// The images as they are in the sink: one, or all images of an index. An error if one of them could not
    /// be pulled.
    pub images: Result<Vec<Arc<ImageContent>>>,
    /// The index as it is in the sink. `None` if the request was not for [`Platforms::All`], if its reference names a
    /// single image, or if it failed.
    pub index: Option<IndexContent>,
    /// The foreign layers of the images, each blob once. They were not fetched ([`Pulled::foreign_layers`]).
    pub foreign_layers: Vec<Descriptor>,
}

/// A stream of the items of an iterator.
pub(super) struct IterStream<I>(pub(super) I);

// There are no pointers into the iterator.
impl<I> Unpin for IterStream<I> {}

impl<I: Iterator> Stream for IterStream<I> {
    type Item = I::Item;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<I::Item>> {
        Poll::Ready(self.get_mut().0.next())
    }
}

/// A pull of many images that is under way. Dropping it stops the pull.
#[derive(Debug)]
pub struct PullMany {
    done: mpsc::Receiver<PulledImages>,
    task: Option<JoinHandle<Result<Pulled>>>,
}

impl PullMany {
    pub(super) fn new(
        done: mpsc::Receiver<PulledImages>,
        task: JoinHandle<Result<Pulled>>,
    ) -> Self {
        Self {
            done,
            task: Some(task),
        }
    }

    /// Waits for the next request that is done, and returns its result. Returns `None` after the last request, or if
    /// the pull has ended early. [`finish`](Self::finish) tells these cases apart.
    ///
    /// # Cancel safety
    ///
    /// No result is lost if the future is dropped early.
    pub async fn next(&mut self) -> Option<PulledImages> {
        self.done.recv().await
    }

    /// Waits for the end of the pull. Returns what was fetched altogether, and how many requests
    /// [failed](Pulled::failed_images). Failed requests are no error. Results that [`next`](Self::next) has not
    /// returned are lost.
    ///
    /// [`images`](Pulled::images) and [`foreign_layers`](Pulled::foreign_layers) are empty here, because the
    /// result of each request contains its own.
    ///
    /// # Errors
    ///
    /// The error of [`Sink::prepare`] if the sink can't be used at all; [`Error::DeadlineExceeded`]. Some requests
    /// have no result then.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, the pull is stopped.
    pub async fn finish(mut self) -> Result<Pulled> {
        while self.done.recv().await.is_some() {}
        match &mut self.task {
            Some(task) => {
                let ended = task.await;
                self.task = None;
                ended.map_err(join_error)?
            }
            None => Err(Error::Closed),
        }
    }
}

impl Stream for PullMany {
    type Item = PulledImages;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<PulledImages>> {
        self.get_mut().done.poll_recv(cx)
    }
}

impl Drop for PullMany {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// A request that is being worked on.
struct HeldRequest {
    number: usize,
    request: ImageRequest,
    /// The index, if all of its images are wanted and the reference names an index.
    listed: Option<FetchedIndex>,
    /// The images of the request. Each is `None` until it has been fetched.
    contents: Vec<Option<Arc<ImageContent>>>,
    foreign_layers: ForeignLayers,
    /// The size of the documents of the request, in bytes. They are held until the result is taken.
    bytes: u64,
}

/// The result of a request, and the size of its documents in bytes.
type Finished = (PulledImages, u64);

/// The place of an image in its request.
#[derive(Debug, Clone, Copy)]
struct ImagePlace {
    request: usize,
    index: usize,
}

/// Pulls many images into a sink.
pub(super) struct Driver<S> {
    starter: Arc<Starter>,
    options: FetchOptions,
    events: Events,
    sink: Arc<S>,
    engine: Option<Engine>,
    /// The requests that are being worked on, by their numbers.
    held_requests: HashMap<usize, HeldRequest>,
    places: HashMap<ImageId, ImagePlace>,
    indexes: RequestIndexes,
    /// Requests whose images have been fetched, and are to be committed.
    ready: Vec<HeldRequest>,
    committing: JoinSet<Vec<Finished>>,
    /// The number of requests in the commit that is under way.
    in_commit: usize,
    /// Results that have not been taken.
    finished: VecDeque<Finished>,
    failed: usize,
    held_bytes: u64,
    next: usize,
    config_blobs: usize,
    config_bytes: u64,
    bytes: u64,
}

impl<S: Sink> Driver<S> {
    pub(super) fn new(
        starter: Arc<Starter>,
        options: FetchOptions,
        events: Events,
        sink: Arc<S>,
    ) -> Self {
        Self {
            indexes: RequestIndexes::new(Arc::clone(&starter), options.retry.clone()),
            starter,
            options,
            events,
            sink,
            engine: None,
            held_requests: HashMap::new(),
            places: HashMap::new(),
            ready: Vec::new(),
            committing: JoinSet::new(),
            in_commit: 0,
            finished: VecDeque::new(),
            failed: 0,
            held_bytes: 0,
            next: 0,
            config_blobs: 0,
            config_bytes: 0,
            bytes: 0,
        }
    }

    pub(super) async fn run<R>(
        mut self,
        requests: R,
        out: mpsc::Sender<PulledImages>,
    ) -> Result<Pulled>
    where
        R: Stream<Item: Into<ImageRequest>>,
    {
        let pulled = self.run_all(requests, out).await;
        let end = match &pulled {
            Err(error) => Some(error.clone()),
            // Blobs of the failed requests may still be under way.
            Ok(_) if self.failed > 0 => Some(Error::Cancelled),
            Ok(_) => None,
        };
        if let (Some(end), Some(engine)) = (end, &mut self.engine) {
            engine.stop(&end).await;
        }
        // Everything that the images of the running commits name is stored, so these commits may finish.
        while self.committing.join_next().await.is_some() {}
        pulled
    }

    async fn run_all<R>(&mut self, requests: R, out: mpsc::Sender<PulledImages>) -> Result<Pulled>
    where
        R: Stream<Item: Into<ImageRequest>>,
    {
        let mut requests = std::pin::pin!(requests);
        let deadline = self.options.retry.deadline_from_now();
        self.sink.prepare().await?;
        let mut has_all_requests = false;
        loop {
            self.ask_for_indexes();
            self.commit();
            if has_all_requests && self.held_count() == 0 {
                break;
            }
            let may_take_more = self.may_take_more();
            tokio::select! {
                request = next_request(requests.as_mut()), if !has_all_requests && may_take_more => match request {
                    Some(request) => self.accept(request.into()),
                    None => has_all_requests = true,
                },
                outcome = next_outcome(&mut self.engine), if !self.places.is_empty() => self.handle_outcome(outcome),
                Some(asked) = self.indexes.next() => self.index_fetched(asked?),
                Some(done) = self.committing.join_next() => {
                    self.in_commit = 0;
                    done.map_err(join_error)?.into_iter().for_each(|done| self.report(done));
                }
                permit = out.reserve(), if !self.finished.is_empty() => {
                    // There is no permit if the caller has dropped the receiver.
                    let permit = permit.map_err(|_| Error::Cancelled)?;
                    if let Some((finished, bytes)) = self.finished.pop_front() {
                        self.held_bytes = self.held_bytes.saturating_sub(bytes);
                        permit.send(finished);
                    }
                }
                () = sleep_until_opt(deadline) => return Err(Error::DeadlineExceeded),
            }
        }
        Ok(self.pulled())
    }

    fn pulled(&self) -> Pulled {
        let tally = self.engine.as_ref().map(|engine| engine.tally().clone());
        let tally = tally.unwrap_or_default();
        Pulled {
            bytes: self.bytes,
            failed_images: self.failed,
            fetched_blobs: tally.fetched_blobs + self.config_blobs,
            fetched_bytes: tally.fetched_bytes.saturating_add(self.config_bytes),
            ..tally
        }
    }

    /// The number of requests that are held.
    fn held_count(&self) -> usize {
        let held_requests = self.held_requests.len() + self.ready.len() + self.indexes.len();
        held_requests + self.in_commit + self.finished.len()
    }

    fn may_take_more(&self) -> bool {
        let images = self.places.len().max(self.held_count());
        let below_limit = self.held_bytes < self.options.max_documents_bytes;
        images < MAX_HELD_IMAGES && below_limit || self.held_count() == 0
    }

    fn accept(&mut self, request: ImageRequest) {
        let number = self.next;
        self.next += 1;
        match &request.platforms {
            Platforms::All => self.indexes.add(number, request),
            Platforms::Configured | Platforms::One(_) => self.open_images(number, request, None),
        }
    }

    fn ask_for_indexes(&mut self) {
        let engine = &mut self.engine;
        let refusal = |reference: &str| engine.as_mut()?.refusal(reference);
        for (number, request, listed) in self.indexes.ask(refusal) {
            self.index_fetched((number, request, listed));
        }
    }

    fn index_fetched(&mut self, (number, request, listed): FetchedForRequest) {
        match listed {
            Ok(listed) => self.open_images(number, request, listed),
            Err(error) => self.fail_request(number, request, error),
        }
    }

    /// Opens the image of a request, or all images of its index.
    fn open_images(&mut self, number: usize, request: ImageRequest, listed: Option<FetchedIndex>) {
        let engine = self.engine.get_or_insert_with(|| {
            let (starter, options) = (Arc::clone(&self.starter), self.options.clone());
            let events = self.events.clone();
            let mut engine = Engine::new(starter, options, events);
            engine.set_handler(IntoSink(Arc::clone(&self.sink)));
            engine
        });
        let references = match &listed {
            Some(listed) => listed.references(&request.reference),
            None => Ok(vec![request.reference.clone()]),
        };
        let references = match references {
            Ok(references) => references,
            Err(error) => return self.fail_request(number, request, error),
        };
        let platform = match &request.platforms {
            Platforms::One(platform) => Some(platform),
            Platforms::Configured | Platforms::All => None,
        };
        let bytes = listed.as_ref().map_or(0, |listed| listed.raw.len() as u64);
        self.held_bytes = self.held_bytes.saturating_add(bytes);
        for (index, reference) in references.iter().enumerate() {
            let id = engine.open(number, reference, platform);
            let place = ImagePlace {
                request: number,
                index,
            };
            self.places.insert(id, place);
        }
        let held_request = HeldRequest {
            number,
            request,
            listed,
            contents: vec![None; references.len()],
            foreign_layers: ForeignLayers::default(),
            bytes,
        };
        if references.is_empty() {
            self.ready.push(held_request);
        } else {
            self.held_requests.insert(number, held_request);
        }
    }

    fn fail_request(&mut self, number: usize, request: ImageRequest, error: Error) {
        let refused = PulledImages {
            number,
            request,
            images: Err(error),
            index: None,
            foreign_layers: Vec::new(),
        };
        self.report((refused, 0));
    }

    fn report(&mut self, (done, bytes): Finished) {
        self.failed += usize::from(done.images.is_err());
        let (image, reference) = (done.number, done.request.reference.clone());
        self.events.send(|| match &done.images {
            Ok(_) => EventKind::ImagePulled { image, reference },
            Err(error) => EventKind::ImageFailed {
                image,
                reference,
                reason: error_chain(error),
            },
        });
        self.finished.push_back((done, bytes));
    }

    fn handle_outcome(&mut self, outcome: Outcome) {
        let (id, result) = match outcome {
            Outcome::Opened(id) => (id, self.image_opened(id)),
            Outcome::Fetched(id) => (id, self.image_fetched(id)),
            Outcome::Failed(id, error) => (id, Err(error)),
        };
        if let Err(error) = result {
            self.image_failed(id, error);
        }
    }

    fn image_opened(&mut self, id: ImageId) -> Result<()> {
        let (Some(engine), Some(place)) = (&mut self.engine, self.places.get(&id)) else {
            return Ok(());
        };
        let Some(held_request) = self.held_requests.get_mut(&place.request) else {
            return Ok(());
        };
        let Some(known) = engine.known(id).cloned() else {
            return Ok(());
        };
        let manifest = &known.manifest;
        if let Some(listed) = &held_request.listed {
            check_entry(&listed.entries[place.index], manifest)?;
        }
        let config = manifest.manifest.config().size();
        let limit = self.starter.max_document_bytes();
        if config > limit {
            let what = "image config";
            return Err(Error::DocumentTooLarge { what, limit });
        }
        let bytes = config.saturating_add(manifest.raw.len() as u64);
        held_request.bytes = held_request.bytes.saturating_add(bytes);
        self.held_bytes = self.held_bytes.saturating_add(bytes);
        let limit = self.options.max_documents_bytes;
        if held_request.bytes > limit {
            return Err(Error::DocumentsTooLarge { limit });
        }
        let mut wanted = layers(&manifest.manifest, &[]);
        held_request.foreign_layers.take_from(&mut wanted);
        let added = engine.fetch(id, &wanted, true)?;
        self.bytes = self.bytes.saturating_add(added);
        Ok(())
    }

    fn image_fetched(&mut self, id: ImageId) -> Result<()> {
        let (Some(engine), Some(place)) = (&mut self.engine, self.places.remove(&id)) else {
            return Ok(());
        };
        let content = engine.content(id).cloned();
        engine.forget(id);
        let content = content.ok_or(Error::Closed)?;
        if content.config_was_fetched() {
            self.config_blobs += 1;
            self.config_bytes += content.config().len() as u64;
        }
        let Some(held_request) = self.held_requests.get_mut(&place.request) else {
            return Ok(());
        };
        let name = match held_request.listed {
            Some(_) => None,
            None => held_request.request.name.as_deref(),
        };
        held_request.contents[place.index] = Some(Arc::new(content.with_name(name)));
        if held_request.contents.iter().all(Option::is_some)
            && let Some(held_request) = self.held_requests.remove(&place.request)
        {
            self.ready.push(held_request);
        }
        Ok(())
    }

    /// Fails the request that this image belongs to.
    fn image_failed(&mut self, id: ImageId, error: Error) {
        let Some(place) = self.places.get(&id).copied() else {
            return;
        };
        let of_request: Vec<ImageId> = (self.places.iter())
            .filter(|(_, other)| other.request == place.request)
            .map(|(id, _)| *id)
            .collect();
        for id in of_request {
            self.places.remove(&id);
            if let Some(engine) = &mut self.engine {
                engine.forget(id);
            }
        }
        if let Some(held_request) = self.held_requests.remove(&place.request) {
            self.held_bytes = self.held_bytes.saturating_sub(held_request.bytes);
            self.fail_request(held_request.number, held_request.request, error);
        }
    }

    /// Commits everything that has become complete since the last commit.
    fn commit(&mut self) {
        if self.ready.is_empty() || !self.committing.is_empty() {
            return;
        }
        let (ready, sink) = (std::mem::take(&mut self.ready), Arc::clone(&self.sink));
        self.in_commit = ready.len();
        self.committing.spawn(commit(ready, sink));
    }
}

async fn commit<S: Sink>(held_requests: Vec<HeldRequest>, sink: Arc<S>) -> Vec<Finished> {
    let (single, listed): (Vec<HeldRequest>, Vec<HeldRequest>) = held_requests
        .into_iter()
        .partition(|held_request| held_request.listed.is_none());
    let mut finished = Vec::new();
    let contents = |held_request: &HeldRequest| {
        held_request
            .contents
            .iter()
            .flatten()
            .cloned()
            .collect::<Vec<_>>()
    };
    let images: Vec<Arc<ImageContent>> = single.iter().flat_map(contents).collect();
    let together = match images.len() {
        0 | 1 => false,
        _ => sink.commit_all(&images).await.is_ok(),
    };
    for held_request in single {
        let images = contents(&held_request);
        let committed = async {
            for image in &images {
                if !together {
                    sink.commit(image).await?;
                }
            }
            Ok(())
        };
        let committed = committed.await;
        finished.push(held_request.finished(committed.map(|()| images), None));
    }
    for held_request in listed {
        let images = contents(&held_request);
        match commit_index(&held_request, &images, &*sink).await {
            Ok(index) => finished.push(held_request.finished(Ok(images), Some(index))),
            Err(error) => finished.push(held_request.finished(Err(error), None)),
        }
    }
    finished
}

async fn commit_index<S: Sink>(
    held_request: &HeldRequest,
    images: &[Arc<ImageContent>],
    sink: &S,
) -> Result<IndexContent> {
    let Some(listed) = &held_request.listed else {
        return Err(Error::Closed);
    };
    let ImageRequest {
        reference, name, ..
    } = &held_request.request;
    let index = IndexContent::new(reference, &listed.raw, images)?.with_name(name.as_deref());
    sink.commit_index(&index, images).await?;
    Ok(index)
}

impl HeldRequest {
    fn finished(
        self,
        images: Result<Vec<Arc<ImageContent>>>,
        index: Option<IndexContent>,
    ) -> Finished {
        let pulled = PulledImages {
            number: self.number,
            request: self.request,
            images,
            index,
            foreign_layers: self.foreign_layers.into_vec(),
        };
        (pulled, self.bytes)
    }
}

async fn next_request<R: Stream>(mut requests: Pin<&mut R>) -> Option<R::Item> {
    std::future::poll_fn(|cx| requests.as_mut().poll_next(cx)).await
}

async fn next_outcome(engine: &mut Option<Engine>) -> Outcome {
    match engine {
        Some(engine) => engine.next().await,
        None => std::future::pending().await,
    }
}
