//! The [`Fetcher`]: its constructors, and the methods that open images.

mod blob;
mod images;
mod layers;
mod source;
#[cfg(feature = "decompress")]
mod uncompressed;

use std::num::NonZeroUsize;
use std::sync::Arc;

use tracing::instrument;

use super::attempts::with_deadline;
use super::document_budget::DocumentBudget;
use super::engine::{Engine, IdleEngine, Outcome};
use super::starter::Starter;
use super::{Events, FetchOptions, Image, Proxies};
use crate::config::ImageProxyConfig;
use crate::error::{Error, Result, join_error};
use crate::protocol::RefusalKind;
use crate::proxy::ImageProxy;
use crate::reference::Place;

/// Opens images, and fetches their layers over several proxies at once.
///
/// A fetcher starts proxies as it needs them, all from one [`ImageProxyConfig`]. Their number depends on the
/// latency of the registry and on how much there is to fetch ([`Proxies`]). All proxies take blobs from one
/// job queue. A blob whose transfer fails is retried, with another proxy if there is one
/// ([`RetryPolicy`](crate::RetryPolicy)). A proxy that dies or hangs is replaced.
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
/// skopeo records each blob that it fetches from a registry in a database, the blob-info cache. All skopeo
/// processes of a user share this cache. Nothing in a pull reads it, and each blob would wait for its lock. So
/// proxies for `docker://` images do not use the shared cache, unless
/// [`private_blob_info_cache`](FetchOptions#structfield.private_blob_info_cache) is false.
///
/// - For root, each of these proxies runs in a mount namespace in which `/var/lib/containers/cache` is an empty
///   read-only folder. The folder is created on the host if it does not exist. Where a mount namespace is not allowed,
///   the proxy uses the shared cache.
/// - For other users, the environment of each of these proxies has `XDG_DATA_HOME=/dev/null`. The credential helpers
///   that skopeo runs inherit this variable, so set the option to false if your helpers keep data there. The variable
///   is not changed if [`skopeo_path`](ImageProxyConfig#structfield.skopeo_path) or
///   [`skopeo_cmd`](ImageProxyConfig#structfield.skopeo_cmd) names another program than skopeo.
#[derive(Debug, Clone)]
pub struct Fetcher {
    starter: Arc<Starter>,
    options: FetchOptions,
    events: Events,
}

impl Fetcher {
    /// Makes a fetcher that starts all its proxies with this configuration. No proxy is started yet. `pre_exec` hooks
    /// of [`skopeo_cmd`](ImageProxyConfig#structfield.skopeo_cmd) are not run, because they can't be copied to several
    /// processes; the field says what else a copy of the command loses.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the configuration can't be used; [`Error::Io`] if the credentials can't be read;
    /// [`Error::Spawn`] or [`Error::CallTimeout`] if
    /// [`user_agent_prefix`](ImageProxyConfig#structfield.user_agent_prefix) is set, and skopeo can't be asked
    /// for its version.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, no fetcher is made. Files of the configuration may have been read.
    pub async fn new(config: ImageProxyConfig, options: FetchOptions) -> Result<Self> {
        let private = options.private_blob_info_cache;
        let starter = tokio::task::spawn_blocking(move || Starter::new(config, private));
        let starter = Arc::new(starter.await.map_err(join_error)??);
        Ok(Self {
            starter,
            options,
            events: Events::none(),
        })
    }

    /// Makes a fetcher that uses these proxies and starts none. With [`ImageProxy::connect`], a proxy can be one
    /// that somebody else has started, with other privileges than this process has.
    ///
    /// The option [`proxies`](FetchOptions#structfield.proxies) is ignored. Without any proxy, each opening fails with
    /// [`Error::Closed`]. A proxy ends when this fetcher, its clones, its images, and all other handles of the proxy
    /// are dropped.
    ///
    /// Such a fetcher can't open an index as a whole, choose a platform for an image, fetch a document as it is at its
    /// source, or list tags, because these need another skopeo process.
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
            starter: Arc::new(Starter::connected(proxies)),
            events: Events::none(),
        }
    }

    /// Returns this fetcher with these [`Events`] in place of its former ones. All its calls send their events there.
    /// The events end when the first call that fetches layers, or one blob with `for_blob`, ends. If that call returns
    /// a stream of layers, they end with the stream. They end earlier if a call that opens an image, or fetches
    /// from one, fails or is dropped early. Later calls send none.
    #[must_use]
    pub fn with_events(mut self, events: Events) -> Self {
        self.events = events;
        self
    }

    /// Opens an image: starts a proxy, and fetches the manifest. The reference contains the transport, as in
    /// `docker://quay.io/fedora/fedora:latest`.
    ///
    /// While the image is being opened, warm proxies are started: proxies that the pull will probably need
    /// ([`start_ahead`](FetchOptions#structfield.start_ahead)). They are shut down when the first call that fetches
    /// layers of the image ends, or when the [`Image`] is dropped before such a call.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if the registry or the proxy refuses the image; the error of a proxy that can't be started;
    /// [`Error::Image`] or [`Error::Decode`] if the manifest can't be used; [`Error::DocumentTooLarge`] if it is larger
    /// than [`max_document_bytes`](crate::ConnectionOptions#structfield.max_document_bytes);
    /// [`Error::DocumentsTooLarge`] if it is larger than
    /// [`max_documents_bytes`](FetchOptions#structfield.max_documents_bytes); [`Error::DeadlineExceeded`] after the
    /// [deadline](crate::RetryPolicy#structfield.deadline). Failures are retried first, as the
    /// [`RetryPolicy`](crate::RetryPolicy) allows.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, the proxies that it started are ended.
    #[instrument(level = "debug", skip(self))]
    pub async fn open(&self, reference: &str) -> Result<Image> {
        let end_guard = self.events.end_guard();
        let image = self.open_one(reference).await?;
        end_guard.keep();
        Ok(image)
    }

    /// Opens an image. The events go on, even if this fails.
    async fn open_one(&self, reference: &str) -> Result<Image> {
        let mut budget = DocumentBudget::with_limit(self.options.max_documents_bytes);
        let images = self.open_each(&[reference], &mut budget).await?;
        images.into_iter().next().ok_or(Error::Closed)
    }

    /// Opens an image, or returns `None` if the image does not exist.
    ///
    /// At a registry, the refusal decides ([`RefusalKind::NotFound`]). For other sources, a proxy is asked once more,
    /// by [`open_image_optional`](ImageProxy::open_image_optional), if skopeo supports that (1.11 or later).
    /// What counts as missing is up to skopeo: before 1.19, a missing tag of an `oci:` layout is an error.
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
    /// The errors of [`open`](Self::open), except the refusal of an image that does not exist.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, the proxies that it started are ended.
    #[instrument(level = "debug", skip(self))]
    pub async fn open_optional(&self, reference: &str) -> Result<Option<Image>> {
        let end_guard = self.events.end_guard();
        let image = match self.open_one(reference).await {
            Ok(image) => Some(image),
            Err(error) if self.means_missing(&error, reference).await => None,
            Err(error) => return Err(error),
        };
        end_guard.keep();
        Ok(image)
    }

    /// Whether this error of an opening means that the image does not exist.
    async fn means_missing(&self, error: &Error, reference: &str) -> bool {
        let place = Place::of(reference);
        let is_not_found = error.kind() == Some(RefusalKind::NotFound);
        match (error, place) {
            (Error::Refused { .. }, Place::Registry { .. }) => is_not_found,
            (Error::Refused { .. }, _) => {
                let asked = self.is_missing(place, reference).await;
                asked.unwrap_or(is_not_found)
            }
            _ => false,
        }
    }

    /// Asks a proxy whether an image does not exist. `None` if this skopeo can't be asked.
    async fn is_missing(&self, place: Place<'_>, reference: &str) -> Option<bool> {
        let proxy = self.starter.start(None, place, None).await.ok()?;
        if !proxy.supports_open_image_optional() {
            return None;
        }
        let opened = proxy.open_image_optional(reference).await;
        Some(matches!(opened, Ok(None)))
    }

    /// Opens several images, to be pulled together. Several proxies open images at the same time. The images are
    /// returned in the order of `references`.
    ///
    /// # Errors
    ///
    /// The errors of [`open`](Self::open), for the first image that fails; [`Error::DocumentsTooLarge`] if the
    /// manifests together exceed [`max_documents_bytes`](FetchOptions#structfield.max_documents_bytes).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, the proxies that it started are ended.
    pub async fn open_all(&self, references: &[impl AsRef<str>]) -> Result<Vec<Image>> {
        let end_guard = self.events.end_guard();
        let mut budget = DocumentBudget::with_limit(self.options.max_documents_bytes);
        let images = self.open_each(references, &mut budget).await?;
        end_guard.keep();
        Ok(images)
    }

    /// Opens these images, and adds their manifests to `budget`.
    async fn open_each(
        &self,
        references: &[impl AsRef<str>],
        budget: &mut DocumentBudget,
    ) -> Result<Vec<Image>> {
        if references.is_empty() {
            return Ok(Vec::new());
        }
        let mut engine = self.engine();
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
                        budget.add(known.map_or(0, |known| known.manifest.raw.len() as u64))?;
                    }
                    Outcome::Fetched(_) => {}
                    Outcome::Failed(_, error) => return Err(error),
                }
            }
            Ok(())
        };
        with_deadline(&self.options.retry, opening).await?;
        let images: Option<Vec<_>> = ids.iter().map(|id| engine.image(*id)).collect();
        // Every image was opened.
        let images = images.ok_or(Error::Closed)?;
        let engine = IdleEngine::new(engine);
        let image = |(data, first_opened)| Image {
            data,
            first_opened,
            engine: engine.clone(),
        };
        Ok(images.into_iter().map(image).collect())
    }

    fn engine(&self) -> Engine {
        let starter = Arc::clone(&self.starter);
        Engine::new(starter, self.options.clone(), self.events.clone())
    }

    /// The engine that opened one of these images, with its proxies, if that engine is still idle. Otherwise a
    /// new engine.
    fn engine_for(&self, images: &[&Image]) -> Engine {
        let idle = images.iter().find_map(|image| image.engine.take());
        let idle = idle.filter(|engine| engine.is_of(&self.starter));
        idle.unwrap_or_else(|| self.engine())
    }

    /// Waits until `images` images are fetched. After an error, no async handler is at work any more.
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
        let fetched = with_deadline(&self.options.retry, fetching).await;
        if let Err(error) = &fetched {
            engine.stop(error).await;
        }
        fetched
    }
}
