//! The fetch engine: opens images, and fetches their layers with many workers
//! over as many proxies as pay.

mod ahead;
mod configs;
mod content;
#[cfg(feature = "decompress")]
mod decompress;
mod descriptors;
pub(crate) mod document;
mod documents;
mod event;
mod fleet;
mod governor;
mod image;
mod index;
mod ledger;
mod many;
mod options;
mod ordered;
mod outage;
mod pace;
mod pull;
mod rate;
mod reader;
mod retry;
mod run;
mod sink;
mod starter;
mod unit;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::instrument;

use oci_spec::image::Digest;

pub use self::content::{ImageContent, Layer};
#[cfg(feature = "decompress")]
pub use self::decompress::UncompressedReader;
pub use self::event::{BlobName, Event, EventKind, EventStream, Events};
pub use self::image::Image;
pub use self::index::{Index, IndexContent};
pub use self::options::{DEFAULT_PROXIES_PER_HOST, DEFAULT_WORKERS, FetchOptions, Proxies};
pub use self::ordered::{LayerStream, OrderedReader};
pub use self::pull::Pulled;
pub(crate) use self::pull::is_foreign;
pub use self::reader::LayerReader;
pub use self::retry::RetryPolicy;
pub use self::sink::{Discard, Sink};

use self::ahead::{Spares, while_opening};
use self::configs::Busy;
use self::descriptors::Room;
use self::documents::Documents;
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
/// `/var/lib/containers/cache` is an empty read-only folder, which is made on the
/// host if it is not there; where a namespace is not allowed, the child uses the
/// shared one. For others, `XDG_DATA_HOME` is set to
/// `/dev/null` in the child's environment; the credential helpers that skopeo
/// runs inherit that, so turn it off if yours keep data there. Where
/// [`skopeo_cmd`](ImageProxyConfig#structfield.skopeo_cmd) is another program than
/// skopeo, `XDG_DATA_HOME` stays as it is.
#[derive(Debug, Clone)]
pub struct Fetcher {
    starter: Arc<Starter>,
    options: FetchOptions,
    events: Events,
    cancelled: CancellationToken,
}

/// One blob to fetch.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// Its place among the jobs of its run.
    number: usize,
    /// The first image that names it.
    image: usize,
    /// The others that do.
    also: Arc<[usize]>,
    layer: Layer,
    /// How many tries have failed.
    failed: u32,
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

    /// Send the events of one pull there.
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
        let ending = self.events.ending();
        let first = AtomicBool::new(true);
        let opening = || async {
            let begun = Instant::now();
            let proxy = self.starter.start(Transport::of(reference)).await?;
            let starting = begun.elapsed();
            let opening = open_in(proxy, reference, starting);
            // The one that opens it is not started yet.
            let room = Room::now().proxies - 1;
            let most = self.options.ahead(Transport::of(reference)).min(room);
            // What has failed once is tried by one alone.
            let most = if first.swap(false, Ordering::Relaxed) {
                most
            } else {
                0
            };
            let (image, spares) = while_opening(opening, &self.starter, reference, most).await?;
            Ok(Image { spares, ..image })
        };
        let image = self.retrying(reference, opening).await?;
        self.opened(&image, 0);
        ending.keep();
        Ok(image)
    }

    /// Open several images, to be pulled together: by several proxies at once, each image by one of them.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), of the first that fails; [`Error::DocumentsTooLarge`].
    ///
    /// # Cancel safety
    ///
    /// As [`open`](Self::open).
    pub async fn open_all(&self, references: &[impl AsRef<str>]) -> Result<Vec<Image>> {
        let ending = self.events.ending();
        let mut documents = Documents::within(self.options.max_documents_bytes);
        let images = self.open_each(references, &mut documents).await?;
        ending.keep();
        Ok(images)
    }

    fn opened(&self, image: &Image, number: usize) {
        let event = || EventKind::ImageOpened {
            image: number,
            reference: image.reference().to_owned(),
            digest: image.digest().to_owned(),
            layers: image.manifest().layers().len(),
        };
        self.events.send(event);
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
        let start = Start {
            starter: Arc::clone(&self.starter),
            options: &self.options,
            events: self.events.clone(),
            images: images.iter().map(|image| Arc::clone(&image.same)).collect(),
            homes: homes(images, busy.home),
            opening: first.opening,
            starting: first.starting,
            spares: first.spares.clone(),
            lent: busy.spare,
            order,
        };
        tokio::select! {
            outcome = run::run(start, jobs, handler) => outcome,
            () = self.cancelled.cancelled() => Err(Error::Cancelled),
        }
    }

    /// Try something about this image, and again as the policy says, until its deadline, or until
    /// it is cancelled.
    ///
    /// It takes no `AsyncFn`: nobody can say that the futures of one are [`Send`].
    async fn retrying<T, Fut>(&self, reference: &str, attempt: impl Fn() -> Fut + Send) -> Result<T>
    where
        T: Send,
        Fut: Future<Output = Result<T>> + Send,
    {
        tokio::select! {
            done = self.retrying_on(reference, attempt) => done,
            () = passed(self.options.retry.ends()) => Err(Error::DeadlineExceeded),
            () = self.cancelled.cancelled() => Err(Error::Cancelled),
        }
    }

    async fn retrying_on<T, Fut>(
        &self,
        reference: &str,
        attempt: impl Fn() -> Fut + Send,
    ) -> Result<T>
    where
        T: Send,
        Fut: Future<Output = Result<T>> + Send,
    {
        let source = Transport::of(reference);
        let mut failed = 0;
        loop {
            let error = match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if retry::is_throttled(&error) {
                return Err(error);
            }
            failed += 1;
            let random = fastrand::f64();
            let Some(wait) = self.options.retry.next_try(&error, source, failed, random) else {
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

/// The proxies of these images, the first image's first, each with those that it has open.
fn homes(images: &[&Image], free: Option<CancellationToken>) -> Vec<Home> {
    let mut homes: Vec<Home> = Vec::new();
    for (number, image) in images.iter().enumerate() {
        let opened = (number, Arc::clone(&image.opened));
        match homes
            .iter_mut()
            .find(|home| image.opened.is_open_in(&home.proxy))
        {
            Some(home) => home.opened.push(opened),
            None => homes.push(Home {
                proxy: image.proxy.clone(),
                opened: vec![opened],
                free: None,
            }),
        }
    }
    if let Some(first) = homes.first_mut() {
        first.free = free;
    }
    homes
}

/// Each blob of these images once. A blob has one size, whoever names it.
fn jobs<'a>(images: impl IntoIterator<Item = &'a [Layer]>) -> Result<Vec<Job>> {
    let mut known: HashMap<&Digest, usize> = HashMap::new();
    let mut blobs: Vec<(&Layer, Vec<usize>)> = Vec::new();
    for (image, layers) in images.into_iter().enumerate() {
        for layer in layers {
            let (digest, size) = (layer.descriptor.digest(), layer.descriptor.size());
            let Some(number) = known.get(digest) else {
                known.insert(digest, blobs.len());
                blobs.push((layer, vec![image]));
                continue;
            };
            let (first, named_by) = &mut blobs[*number];
            let other = first.descriptor.size();
            if other != size {
                return Err(Error::image(format!(
                    "layer {digest} has two sizes: {other} and {size} bytes"
                )));
            }
            if named_by.last() != Some(&image) {
                named_by.push(image);
            }
        }
    }
    let job = |(number, (layer, named_by)): (usize, (&Layer, Vec<usize>))| Job {
        number,
        image: named_by[0],
        also: named_by[1..].into(),
        layer: layer.clone(),
        failed: 0,
    };
    Ok(blobs.into_iter().enumerate().map(job).collect())
}

/// A task that panicked panics on in its owner; one that was cancelled went
/// with its runtime.
pub(crate) fn panicked(error: tokio::task::JoinError) -> Error {
    if error.is_panic() {
        std::panic::resume_unwind(error.into_panic());
    }
    Error::Closed
}
