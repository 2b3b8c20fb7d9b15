//! The fetch engine: opens images, and fetches their layers with many workers
//! over as many proxies as pay.

mod ahead;
mod content;
#[cfg(feature = "decompress")]
mod decompress;
mod descriptors;
mod event;
mod governor;
mod image;
mod index;
mod ledger;
mod options;
mod ordered;
mod rate;
mod reader;
mod retry;
mod run;
mod sink;
mod starter;
mod unit;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oci_spec::image::Digest;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::instrument;

pub use self::content::{ImageContent, Layer};
#[cfg(feature = "decompress")]
pub use self::decompress::UncompressedReader;
pub use self::event::{BlobName, Event, EventKind, Events};
pub use self::image::Image;
pub use self::index::{Index, IndexContent};
pub use self::options::{DEFAULT_PROXIES_PER_HOST, DEFAULT_WORKERS, FetchOptions, Proxies};
pub use self::ordered::{LayerStream, OrderedReader};
pub use self::reader::LayerReader;
pub use self::retry::RetryPolicy;
pub use self::sink::{Discard, Sink};

use self::ahead::{Lent, Spare, Spares, while_opening};
use self::image::{Home, SameImage};
use self::ledger::Order;
use self::options::Transport;
use self::retry::passed;
use self::run::Start;
use self::starter::Starter;
use self::unit::Handler;
use crate::config::ImageProxyConfig;
use crate::error::{Error, Result};
use crate::proxy::{ImageProxy, OpenedImage};

/// Fetches images.
///
/// It starts proxies from one [`ImageProxyConfig`] as they are needed. A unit
/// of the engine is a proxy with its workers; all units eat from one queue of
/// blobs, large and small ones in turn. How many there are follows from what the
/// registry's answers take ([`Proxies`]). A blob that breaks is tried again, on
/// another proxy if there is one ([`RetryPolicy`]); a proxy that dies or hangs
/// is replaced.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use longshore::{FetchOptions, Fetcher, ImageProxyConfig};
/// use tokio::io::AsyncReadExt;
///
/// let fetcher = Fetcher::new(ImageProxyConfig::default(), FetchOptions::default()).await?;
/// let image = fetcher.open("docker://quay.io/fedora/fedora:latest").await?;
/// let sizes = fetcher
///     .for_each_layer(&image, |_layer, mut reader| async move {
///         let mut bytes = Vec::new();
///         reader.read_to_end(&mut bytes).await?;
///         Ok::<_, std::io::Error>(bytes.len())
///     })
///     .await?;
/// # Ok(()) }
/// ```
///
/// # The blob-info cache
///
/// skopeo notes each blob it fetches from a registry in a database that all
/// skopeos of a user share. Nothing in a pull reads it, and many proxies contend
/// for its lock, so for `docker://` images they are kept off it, unless
/// [`private_blob_info_cache`](FetchOptions::private_blob_info_cache) is turned
/// off. For root, the child gets a mount namespace in which
/// `/var/lib/containers/cache` is an empty read-only folder; where that is not
/// allowed, it uses the shared one. For others, `XDG_DATA_HOME` is set to
/// `/dev/null` in the child's environment; the credential helpers that skopeo
/// runs inherit that, so turn it off if yours keep data there.
#[derive(Debug, Clone)]
pub struct Fetcher {
    starter: Arc<Starter>,
    options: FetchOptions,
    events: Events,
    cancelled: CancellationToken,
}

/// What a pull did.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Pulled {
    /// The images, as they are in the sink now.
    pub images: Vec<Arc<ImageContent>>,
    /// Of all their layers, each blob once.
    pub bytes: u64,
    /// Blobs that came over the wire: layers, and configs.
    pub fetched_blobs: usize,
    /// Their bytes.
    pub fetched_bytes: u64,
    /// Layers' blobs that the sink already had.
    pub reused_blobs: usize,
    /// How often a blob was tried again.
    pub retries: usize,
    /// The most proxies that were at work at once.
    pub proxies: usize,
}

/// One blob to fetch.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// Its place among the jobs of its run.
    number: usize,
    /// The image by which it is asked for.
    image: usize,
    layer: Layer,
    /// How many tries have failed.
    failed: u32,
}

/// How long a spare may take to open the image before the first proxy is asked for
/// the config after all. It was started when that one had not opened it yet, so a
/// spare that takes longer hangs.
const SPARE_PATIENCE: Duration = Duration::from_secs(5);

/// Who is asked for the first config, before it is asked for layers: a layer would
/// have to wait for that answer.
enum Busy {
    Nobody,
    /// The first proxy, until this is cancelled.
    Home(CancellationToken),
    /// A spare, until it comes from here.
    Spare(oneshot::Receiver<Spare>),
}

impl Fetcher {
    /// Fetch by this configuration. Each proxy is started with it, so hooks in
    /// its [`skopeo_cmd`](ImageProxyConfig::skopeo_cmd) (`pre_exec`) do not
    /// apply here.
    ///
    /// # Errors
    ///
    /// [`Error::Config`]; [`Error::Io`] if the credentials can't be read.
    pub async fn new(config: ImageProxyConfig, options: FetchOptions) -> Result<Self> {
        let private = options.private_blob_info_cache;
        let starter = tokio::task::spawn_blocking(move || Starter::new(config, private));
        let starter = Arc::new(starter.await.map_err(panicked)??);
        let (events, cancelled) = (Events::none(), CancellationToken::new());
        Ok(Self {
            starter,
            options,
            events,
            cancelled,
        })
    }

    /// Tell what happens, there.
    #[must_use]
    pub fn with_events(mut self, events: Events) -> Self {
        self.events = events;
        self
    }

    /// End everything, also openings, with [`Error::Cancelled`] when this token is cancelled.
    #[must_use]
    pub fn cancel_with(mut self, token: CancellationToken) -> Self {
        self.cancelled = token;
        self
    }

    /// Open an image: start a proxy, and fetch the manifest. While the registry
    /// lets that wait, further proxies are started
    /// ([`start_ahead`](FetchOptions::start_ahead)); those that the image's
    /// first pull does not need end with it, or with the [`Image`].
    ///
    /// # Errors
    ///
    /// What starting and opening fail with, after the tries that the
    /// [`RetryPolicy`] allows.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, whatever was started is ended.
    #[instrument(level = "debug", skip(self))]
    pub async fn open(&self, reference: &str) -> Result<Image> {
        let opening = async || {
            let begun = Instant::now();
            let proxy = self.starter.start(Transport::of(reference)).await?;
            let starting = begun.elapsed();
            let opening = open_in(proxy, reference, starting);
            let bounds = self.options.ahead(Transport::of(reference));
            let (image, spares) = while_opening(opening, &self.starter, reference, bounds).await?;
            Ok(Image { spares, ..image })
        };
        let image = self.retrying(opening).await?;
        self.opened(&image, 0).await;
        Ok(image)
    }

    /// Open several images over one proxy, to be pulled together.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), of the first that fails.
    ///
    /// # Cancel safety
    ///
    /// As [`open`](Self::open).
    pub async fn open_all(&self, references: &[impl AsRef<str>]) -> Result<Vec<Image>> {
        let mut images: Vec<Image> = Vec::with_capacity(references.len());
        for (number, reference) in references.iter().enumerate() {
            let reference = reference.as_ref();
            let image = match images.first() {
                None => {
                    images.push(self.open(reference).await?);
                    continue;
                }
                Some(first) => {
                    let (proxy, starting) = (&first.proxy, first.starting);
                    self.retrying(async || open_in(proxy.clone(), reference, starting).await)
                        .await?
                }
            };
            self.opened(&image, number).await;
            images.push(image);
        }
        Ok(images)
    }

    async fn opened(&self, image: &Image, number: usize) {
        let event = || EventKind::ImageOpened {
            image: number,
            reference: image.reference().to_owned(),
            digest: image.digest().to_owned(),
            layers: image.manifest().layers().len(),
        };
        self.events.send(event).await;
    }

    /// Manifest, config and layers of an open image.
    ///
    /// # Errors
    ///
    /// What fetching the config fails with; [`Error::Decode`];
    /// [`Error::Image`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is kept of it.
    pub async fn content(&self, image: &Image) -> Result<ImageContent> {
        self.content_for(image, &Discard).await
    }

    async fn content_for(&self, image: &Image, sink: &impl Sink) -> Result<ImageContent> {
        let asked = (&image.proxy, &*image.opened);
        self.content_from(asked, image, sink).await
    }

    /// Ask this proxy, in which the image is open.
    async fn content_from(
        &self,
        (proxy, opened): (&ImageProxy, &OpenedImage),
        image: &Image,
        sink: &impl Sink,
    ) -> Result<ImageContent> {
        let manifest = &image.same.manifest;
        self.retrying(async || {
            let reference = image.reference();
            // Boxed, here and below, so that pulls are no larger than they must be.
            let resolving = content::resolve(proxy, opened, reference, manifest, sink);
            match Box::pin(resolving).await {
                Err(error) if retry::is_the_proxys(&error) => {
                    // Its proxy is gone, or hangs, but not the image.
                    Box::pin(async {
                        let proxy = self.starter.start(image.same.transport()).await?;
                        let opened = image.same.open_in(&proxy).await?;
                        content::resolve(&proxy, &opened, reference, manifest, sink).await
                    })
                    .await
                }
                other => other,
            }
        })
        .await
    }

    /// Run `handler` for each layer, many at once, each in its own task. The
    /// results come in the order of the layers; of a blob that is there twice,
    /// the handler gets one, and the result is cloned.
    ///
    /// The handler gets a reader of the layer's blob as it is stored: verified
    /// to the end, compressed or not. If the blob breaks, the handler is run
    /// again from the start with a fresh reader, as far as the [`RetryPolicy`]
    /// goes; what it did before must not matter, or be undone when its future
    /// ends. What it leaves unread is read and checked after it.
    ///
    /// # Errors
    ///
    /// The first fatal one, which stops all others at once: a blob's or a
    /// proxy's beyond its retries, [`Error::Handler`] with the handler's own.
    /// A blob's error is reported rather than the one it causes in the handler.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, all handlers are stopped.
    pub async fn for_each_layer<T, E, Fut>(
        &self,
        image: &Image,
        handler: impl Fn(Layer, LayerReader) -> Fut + Send + Sync + 'static,
    ) -> Result<Vec<T>>
    where
        T: Clone + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let content = self.content(image).await?;
        let jobs = jobs([content.layers()]);
        let handler = EachLayer(move |layer, reader| {
            let work = handler(layer, reader);
            async move { work.await.map_err(Error::handler) }
        });
        let (outputs, _) = self
            .run(&[image], jobs.clone(), Order::Mixed, Busy::Nobody, handler)
            .await?;
        let by_digest: HashMap<&Digest, T> = jobs
            .iter()
            .map(|job| job.layer.descriptor.digest())
            .zip(outputs)
            .collect();
        let result = |layer: &Layer| by_digest.get(layer.descriptor.digest()).cloned();
        // Each layer has a job, and each job its output.
        Ok(content.layers().iter().filter_map(result).collect())
    }

    /// Pull an image into a sink.
    ///
    /// # Errors
    ///
    /// As [`pull_all`](Self::pull_all).
    ///
    /// # Cancel safety
    ///
    /// As [`pull_all`](Self::pull_all).
    pub async fn pull<S: Sink>(&self, image: &Image, sink: &Arc<S>) -> Result<Pulled> {
        self.pull_all(std::slice::from_ref(image), sink).await
    }

    /// Pull several images into one sink, each blob once. An image becomes
    /// visible in the sink only when all of them are there.
    ///
    /// # Errors
    ///
    /// The first fatal one, which stops all others at once.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, all workers are stopped, and the sink keeps what was
    /// complete.
    pub async fn pull_all<S: Sink>(&self, images: &[Image], sink: &Arc<S>) -> Result<Pulled> {
        let pulled = self.pull_blobs(images, sink).await?;
        for content in &pulled.images {
            sink.commit(content).await?;
        }
        Ok(pulled)
    }

    /// Pull all images of an index, and the index.
    ///
    /// # Errors
    ///
    /// As [`pull_all`](Self::pull_all); [`Error::Image`] if the sink takes no
    /// index.
    ///
    /// # Cancel safety
    ///
    /// As [`pull_all`](Self::pull_all).
    pub async fn pull_index<S: Sink>(&self, index: &Index, sink: &Arc<S>) -> Result<Pulled> {
        let pulled = self.pull_blobs(index.images(), sink).await?;
        let content = IndexContent::new(index, &pulled.images)?;
        sink.commit_index(&content, &pulled.images).await?;
        Ok(pulled)
    }

    async fn pull_blobs<S: Sink>(&self, images: &[Image], sink: &Arc<S>) -> Result<Pulled> {
        let layers: Vec<Vec<Layer>> = images.iter().map(Image::layers).collect();
        let jobs = jobs(layers.iter().map(Vec::as_slice));
        // What a manifest says may be more than there is in the world.
        let sizes = jobs.iter().map(|job| job.layer.descriptor.size());
        let bytes = sizes.fold(0, u64::saturating_add);
        // The configs come beside the layers: no layer has to wait for them.
        let (mut lent, given_back) = self.lend_spare(images, &**sink).await?.unzip();
        let free = CancellationToken::new();
        let mut asking = Some(free.clone().drop_guard());
        let busy = given_back.map_or(Busy::Home(free), Busy::Spare);
        let contents = async {
            let mut contents = Vec::with_capacity(images.len());
            for image in images {
                let content = match lent.take() {
                    Some(lent) => self.content_by(lent, image, &**sink).await?,
                    None => self.content_for(image, &**sink).await?,
                };
                contents.push(Arc::new(content));
                asking.take();
            }
            Ok(contents)
        };
        let images: Vec<&Image> = images.iter().collect();
        let handler = IntoSink(Arc::clone(sink));
        let run = self.run(&images, jobs, Order::Mixed, busy, handler);
        let (contents, (_, pulled)) = tokio::try_join!(contents, run)?;
        let configs = contents
            .iter()
            .filter(|content| content.config_was_fetched());
        let config_bytes: u64 = configs
            .clone()
            .map(|content| content.config().len() as u64)
            .sum();
        Ok(Pulled {
            bytes,
            fetched_blobs: pulled.fetched_blobs + configs.count(),
            fetched_bytes: pulled.fetched_bytes + config_bytes,
            images: contents,
            ..pulled
        })
    }

    /// A spare to ask for the first image's config, so that the first proxy can begin
    /// with the largest layer, and where the run gets it after that. None, if there
    /// is no spare, or nothing to ask.
    async fn lend_spare(
        &self,
        images: &[Image],
        sink: &impl Sink,
    ) -> Result<Option<(Lent, oneshot::Receiver<Spare>)>> {
        match images.first() {
            Some(first) if !sink.has(first.manifest().config()).await? => {
                Ok(first.spares.take().map(Spare::lend))
            }
            _ => Ok(None),
        }
    }

    /// As [`content_for`](Self::content_for), but ask that spare, unless it can't open
    /// the image.
    async fn content_by(
        &self,
        mut lent: Lent,
        image: &Image,
        sink: &impl Sink,
    ) -> Result<ImageContent> {
        let opened = timeout(SPARE_PATIENCE, lent.spare.opened()).await;
        let asked = match &opened {
            Ok(Ok(spare)) => Some((&spare.proxy, &spare.image)),
            _ => None,
        };
        let content = match asked {
            Some(asked) => self.content_from(asked, image, sink).await,
            None => self.content_for(image, sink).await,
        };
        lent.give_back();
        content
    }

    async fn run<H: Handler>(
        &self,
        images: &[&Image],
        jobs: Vec<Job>,
        order: Order,
        busy: Busy,
        handler: H,
    ) -> Result<(Vec<H::Output>, Pulled)> {
        let Some(first) = images.first() else {
            return Ok((Vec::new(), Pulled::default()));
        };
        let (free, lent) = match busy {
            Busy::Nobody => (None, None),
            Busy::Home(free) => (Some(free), None),
            Busy::Spare(given_back) => (None, Some(given_back)),
        };
        let start = Start {
            starter: Arc::clone(&self.starter),
            options: &self.options,
            events: self.events.clone(),
            images: images.iter().map(|image| Arc::clone(&image.same)).collect(),
            home: home(first, images, free),
            opening: first.opening,
            starting: first.starting,
            spares: first.spares.clone(),
            lent,
            order,
        };
        tokio::select! {
            outcome = run::run(start, jobs, handler) => outcome,
            () = self.cancelled.cancelled() => Err(Error::Cancelled),
        }
    }

    /// Try something, and again as the policy says, until its deadline, or until
    /// it is cancelled.
    async fn retrying<T>(&self, attempt: impl AsyncFn() -> Result<T>) -> Result<T> {
        tokio::select! {
            done = self.retrying_on(attempt) => done,
            () = passed(self.options.retry.ends()) => Err(Error::DeadlineExceeded),
            () = self.cancelled.cancelled() => Err(Error::Cancelled),
        }
    }

    async fn retrying_on<T>(&self, attempt: impl AsyncFn() -> Result<T>) -> Result<T> {
        let mut failed = 0;
        loop {
            let error = match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            failed += 1;
            let Some(wait) = self.options.retry.next_try(&error, failed, fastrand::f64()) else {
                return Err(error);
            };
            tracing::debug!(error = run::chain(&error), ?wait, "will try again");
            sleep(wait).await;
        }
    }
}

async fn open_in(proxy: ImageProxy, reference: &str, starting: Duration) -> Result<Image> {
    let begun = Instant::now();
    let opened: OpenedImage = proxy.open_image(reference).await?;
    let opening = begun.elapsed();
    let manifest = content::fetch_manifest(&proxy, &opened, Transport::of(reference)).await?;
    let same = Arc::new(SameImage {
        reference: reference.to_owned(),
        manifest,
    });
    Ok(Image {
        same,
        proxy,
        opened: Arc::new(opened),
        opening,
        starting,
        spares: Spares::none(),
    })
}

/// The first image's proxy, with all of these that it has open.
fn home(first: &Image, images: &[&Image], free: Option<CancellationToken>) -> Home {
    let in_first = |(_, image): &(usize, &&Image)| image.opened.is_open_in(&first.proxy);
    let opened = images.iter().enumerate().filter(in_first);
    Home {
        proxy: first.proxy.clone(),
        opened: opened
            .map(|(number, image)| (number, Arc::clone(&image.opened)))
            .collect(),
        free,
    }
}

/// Each blob of these images once.
fn jobs<'a>(images: impl IntoIterator<Item = &'a [Layer]>) -> Vec<Job> {
    let mut seen = std::collections::HashSet::new();
    let mut jobs = Vec::new();
    for (image, layers) in images.into_iter().enumerate() {
        for layer in layers {
            if seen.insert(layer.descriptor.digest()) {
                jobs.push(Job {
                    number: jobs.len(),
                    image,
                    layer: layer.clone(),
                    failed: 0,
                });
            }
        }
    }
    jobs
}

/// A task that panicked panics on in its owner; one that was cancelled went
/// with its runtime.
pub(crate) fn panicked(error: tokio::task::JoinError) -> Error {
    if error.is_panic() {
        std::panic::resume_unwind(error.into_panic());
    }
    Error::Closed
}

/// A closure as a handler.
struct EachLayer<F>(F);

impl<F, T, Fut> Handler for EachLayer<F>
where
    F: Fn(Layer, LayerReader) -> Fut + Send + Sync + 'static,
    T: Send + 'static,
    Fut: Future<Output = Result<T>> + Send,
{
    type Output = T;

    async fn skip(&self, _: &Job) -> Result<Option<T>> {
        Ok(None)
    }

    async fn handle(&self, job: &Job, reader: LayerReader) -> Result<T> {
        (self.0)(job.layer.clone(), reader).await
    }
}

/// A sink as a handler.
struct IntoSink<S>(Arc<S>);

impl<S: Sink> Handler for IntoSink<S> {
    type Output = ();

    async fn skip(&self, job: &Job) -> Result<Option<()>> {
        Ok(self.0.has(&job.layer.descriptor).await?.then_some(()))
    }

    async fn handle(&self, job: &Job, reader: LayerReader) -> Result<()> {
        self.0.store(&job.layer.descriptor, reader).await
    }
}
