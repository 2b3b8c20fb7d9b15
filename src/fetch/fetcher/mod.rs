//! The [`Fetcher`]: makes one, and opens images.

mod blob;
mod images;
mod layers;
mod source;
#[cfg(feature = "decompress")]
mod uncompressed;

use std::num::NonZeroUsize;
use std::sync::Arc;

use tracing::instrument;

use super::attempts::bounded;
use super::documents::Documents;
use super::engine::{Engine, Outcome, Parked};
use super::starter::Starter;
use super::{Events, FetchOptions, Image, Proxies};
use crate::config::ImageProxyConfig;
use crate::error::{Error, Result, panicked};
use crate::protocol::RefusalKind;
use crate::proxy::ImageProxy;

/// Fetches images.
///
/// It starts proxies from one [`ImageProxyConfig`] as they are needed. A unit
/// of the engine is a proxy with its workers; all units eat from one queue of
/// blobs, large and small ones in turn. How many there are follows from what the
/// registry's answers take ([`Proxies`]). A blob that breaks is tried again, on
/// another proxy if there is one ([`RetryPolicy`](crate::RetryPolicy)); a proxy that dies or hangs
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
}

impl Fetcher {
    /// Makes a fetcher that starts all its proxies with this configuration. Hooks of its
    /// [`skopeo_cmd`](ImageProxyConfig::skopeo_cmd) (`pre_exec`) do not apply, for there are several proxies.
    ///
    /// # Errors
    ///
    /// [`Error::Config`]; [`Error::Io`] if the credentials can't be read.
    pub async fn new(config: ImageProxyConfig, options: FetchOptions) -> Result<Self> {
        let private = options.private_blob_info_cache;
        let starter = tokio::task::spawn_blocking(move || Starter::new(config, private));
        let starter = Arc::new(starter.await.map_err(panicked)??);
        Ok(Self {
            starter,
            options,
            events: Events::none(),
        })
    }

    /// Makes a fetcher over proxies that somebody else has started, such as one that
    /// [`ImageProxy::connect`] speaks to with other privileges than this process's. It starts none: it has no more proxies than
    /// these, and uses each for as many blobs at once as there are workers for it. [`proxies`](FetchOptions::proxies) is not
    /// looked at. The proxies live as long as this fetcher, its clones, its images, and whoever gave them.
    ///
    /// Indexes can't be opened as a whole, nor a platform be chosen for an image: both take a skopeo of its own.
    ///
    /// ```no_run
    /// # async fn example(socket: std::os::fd::OwnedFd) -> longshore::Result<()> {
    /// use longshore::{ConnectionOptions, FetchOptions, Fetcher, ImageProxy, OciLayout};
    ///
    /// let proxy = ImageProxy::connect(socket, ConnectionOptions::default()).await?;
    /// let fetcher = Fetcher::over([proxy], FetchOptions::default());
    /// let image = fetcher.open("docker://quay.io/fedora/fedora:latest").await?;
    /// fetcher.pull(&image, OciLayout::new("fedora", Some("latest".into()))).await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn over(proxies: impl IntoIterator<Item = ImageProxy>, options: FetchOptions) -> Self {
        let proxies: Vec<ImageProxy> = proxies.into_iter().collect();
        let min = NonZeroUsize::MIN;
        let max = NonZeroUsize::new(proxies.len()).unwrap_or(min);
        Self {
            options: options.proxies(Proxies::Range { min, max }),
            starter: Arc::new(Starter::given(proxies)),
            events: Events::none(),
        }
    }

    /// Sends the events of one pull to `events`.
    #[must_use]
    pub fn with_events(mut self, events: Events) -> Self {
        self.events = events;
        self
    }

    /// Opens an image: starts a proxy, and fetches the manifest. While the registry is waited for, further proxies are
    /// started ([`start_ahead`](FetchOptions::start_ahead)). Those that the first pull of the image does not need end with
    /// that pull, or with the [`Image`].
    ///
    /// # Errors
    ///
    /// What starting and opening fail with, after the tries that the
    /// [`RetryPolicy`](crate::RetryPolicy) allows.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, the proxies that were started are ended.
    #[instrument(level = "debug", skip(self))]
    pub async fn open(&self, reference: &str) -> Result<Image> {
        let ending = self.events.ending();
        let mut documents = Documents::within(self.options.max_documents_bytes);
        let images = self.open_each(&[reference], &mut documents).await?;
        ending.keep();
        images.into_iter().next().ok_or(Error::Closed)
    }

    /// Opens an image, or returns `None` if there is no image of that name: the registry, or the proxy, says that it was not
    /// found ([`RefusalKind::NotFound`]). skopeo before 1.22 says that of no tag that is missing in an `oci:` layout.
    ///
    /// ```no_run
    /// # async fn example(fetcher: longshore::Fetcher) -> longshore::Result<()> {
    /// if fetcher.open_optional("docker://quay.io/fedora/fedora:latest").await?.is_none() {
    ///     println!("not pushed yet");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`open`](Self::open), but for that one.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, the proxies that were started are ended.
    pub async fn open_optional(&self, reference: &str) -> Result<Option<Image>> {
        match self.open(reference).await {
            Err(error) if error.kind() == Some(RefusalKind::NotFound) => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Opens several images, to be pulled together. Several proxies open them at once, each image is opened by one proxy.
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

    /// Open each of these, by several proxies at once.
    async fn open_each(
        &self,
        references: &[impl AsRef<str>],
        documents: &mut Documents,
    ) -> Result<Vec<Image>> {
        let Some(first) = references.first() else {
            return Ok(Vec::new());
        };
        let mut engine = self.engine(first.as_ref());
        let ids: Vec<_> = (references.iter().enumerate())
            .map(|(number, reference)| engine.open(number, reference.as_ref(), None))
            .collect();
        let opening = async {
            let mut left = ids.len();
            while left > 0 {
                match engine.next().await {
                    Outcome::Opened(id) => {
                        left -= 1;
                        let known = engine.known(id);
                        documents.add(known.map_or(0, |known| known.manifest.raw.len() as u64))?;
                    }
                    Outcome::Fetched(_) => {}
                    Outcome::Failed(_, error) => return Err(error),
                }
            }
            Ok(())
        };
        bounded(&self.options.retry, opening).await?;
        let images: Option<Vec<_>> = ids.iter().map(|id| engine.image(*id)).collect();
        // Each was opened.
        let images = images.ok_or(Error::Closed)?;
        let engine = Parked::new(engine);
        let image = |(same, home)| Image {
            same,
            home,
            engine: engine.clone(),
        };
        Ok(images.into_iter().map(image).collect())
    }

    fn engine(&self, first: &str) -> Engine {
        let starter = Arc::clone(&self.starter);
        Engine::new(starter, self.options.clone(), self.events.clone(), first)
    }

    /// The engine that has opened one of these images, with the proxies that are there already; or a new one.
    fn engine_for(&self, images: &[&Image]) -> Engine {
        let parked = images.iter().find_map(|image| image.engine.take());
        let parked = parked.filter(|engine| engine.is_of(&self.starter));
        parked.unwrap_or_else(|| {
            let first = images.first().map(|image| image.reference());
            self.engine(first.unwrap_or_default())
        })
    }

    /// Wait until all that is wanted of so many images is there.
    async fn fetch_all(&self, engine: &mut Engine, images: usize) -> Result<()> {
        let fetching = async {
            let mut left = images;
            while left > 0 {
                match engine.next().await {
                    Outcome::Fetched(_) => left -= 1,
                    Outcome::Opened(_) => {}
                    Outcome::Failed(_, error) => return Err(error),
                }
            }
            Ok(())
        };
        bounded(&self.options.retry, fetching).await
    }
}
