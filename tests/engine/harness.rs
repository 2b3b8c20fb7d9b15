//! Helpers of the engine tests: images at the test registry, and pulls of them with all events.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use longshore::oci_spec::image::{Descriptor, Digest, MediaType};
use longshore::{
    BlobError, ConnectionOptions, Discard, Event, EventKind, Events, FetchOptions, Fetcher,
    ImageProxyConfig, OciLayout, Proxies, Pulled, Result, RetryPolicy,
};
use tempfile::TempDir;

use test_registry::fault::Fault;
use test_registry::image::{ImageBuilder, Written};
use test_registry::server::{Options, Registry};
use test_registry::store::Store;
use test_support::{BOUND, chain, sha256, tools, within_bound};

/// The stall timeout, which is short for the tests that wait for it.
pub(crate) const STALL: Duration = Duration::from_secs(2);

/// An image at a registry of its own.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) registry: Registry,
    pub(crate) image: Written,
    pub(crate) layout: TempDir,
}

impl Served {
    /// Makes an image with this many layers of about this many bytes.
    pub(crate) fn new(layers: u64, size: u64) -> Self {
        Self::slow(layers, size, Options::default())
    }

    /// Makes an image at a registry with these options.
    pub(crate) fn slow(layers: u64, size: u64, options: Options) -> Self {
        Self::with(options, &random(layers, size, 0))
    }

    pub(crate) fn with(options: Options, image: &ImageBuilder) -> Self {
        let layout = tempfile::tempdir().unwrap();
        let image = image.write(layout.path(), "latest").unwrap();
        let registry = Registry::start(layout.path(), options).unwrap();
        Self {
            registry,
            image,
            layout,
        }
    }

    /// Sets the faults of the registry.
    pub(crate) fn faults(self, texts: &[&str]) -> Self {
        self.registry.set_faults(faults(texts));
        self
    }

    /// Changes the manifest of the image.
    pub(crate) fn edit_manifest(&self, change: impl FnOnce(&mut serde_json::Value)) {
        let store = Store::open(self.layout.path()).unwrap();
        let hex = self.image.manifest_digest.digest();
        let blob = self.layout.path().join("blobs/sha256").join(hex);
        let mut manifest = serde_json::from_slice(&fs::read(blob).unwrap()).unwrap();
        change(&mut manifest);
        let blob = store.put(manifest.to_string().as_bytes()).unwrap();
        let descriptor = Descriptor::new(MediaType::ImageManifest, blob.size, blob.digest);
        store.tag(&descriptor, "latest").unwrap();
    }

    pub(crate) fn reference(&self) -> String {
        self.registry.reference("latest")
    }

    pub(crate) fn digest(&self, layer: usize) -> &Digest {
        self.image.layers[layer].digest()
    }

    /// How often the registry was asked for a layer.
    pub(crate) fn gets(&self, layer: usize) -> usize {
        self.registry.blob_gets(self.digest(layer))
    }
}

pub(crate) fn faults(texts: &[&str]) -> Vec<Fault> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// An image of layers whose bytes depend on `seed` and on their number.
pub(crate) fn random(layers: u64, size: u64, seed: u64) -> ImageBuilder {
    (0..layers).fold(ImageBuilder::new(), |image, number| {
        image.layer_random(size, seed + number)
    })
}

/// Options with short waits between retries.
pub(crate) fn options() -> FetchOptions {
    FetchOptions::default().retry(retries(4))
}

pub(crate) fn retries(number: u32) -> RetryPolicy {
    RetryPolicy::default()
        .retries(number)
        .initial_backoff(Duration::from_millis(20))
}

pub(crate) fn proxies(number: usize) -> FetchOptions {
    options().proxies(Proxies::Fixed(NonZeroUsize::new(number).unwrap()))
}

/// A configuration that reaches the test registry.
pub(crate) fn config(protocol: &str) -> ImageProxyConfig {
    tools::config(protocol).insecure_skip_tls_verification(true)
}

/// A configuration with short timeouts.
pub(crate) fn short_stall_config(protocol: &str) -> ImageProxyConfig {
    let mut config = config(protocol);
    config.connection = ConnectionOptions::default().stall_timeout(STALL);
    config
}

/// A pull that has ended, with its events.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) result: Result<Pulled>,
    pub(crate) events: Vec<Event>,
    /// The folder of the layout.
    pub(crate) target: TempDir,
}

/// Pulls an image into a layout, within [`BOUND`].
pub(crate) async fn pull(
    config: ImageProxyConfig,
    options: FetchOptions,
    reference: &str,
) -> Outcome {
    pull_watched(config, options, reference, |_| {}).await
}

/// Pulls like [`pull`], and passes each event to `watch` when it comes.
pub(crate) async fn pull_watched(
    config: ImageProxyConfig,
    options: FetchOptions,
    reference: &str,
    mut watch: impl FnMut(&EventKind),
) -> Outcome {
    let target = tempfile::tempdir().unwrap();
    let (sending, mut stream) = Events::channel();
    // Boxed, because the future is large.
    let pulling = Box::pin(async {
        let fetcher = Fetcher::new(config, options).await?;
        let fetcher = fetcher.with_events(sending);
        let image = fetcher.open(reference).await?;
        let sink = OciLayout::new(target.path(), Some("latest".into()));
        fetcher.pull(&image, sink).await
    });
    let mut events: Vec<Event> = Vec::new();
    let watching = async {
        while let Some(event) = stream.recv().await {
            watch(&event.kind);
            events.push(event);
        }
    };
    let both = Box::pin(async { tokio::join!(pulling, watching) });
    let Ok((result, ())) = tokio::time::timeout(BOUND, both).await else {
        let outcome = without_bytes(&events);
        panic!("still at work after {BOUND:?}: {outcome:#?}");
    };
    Outcome {
        result,
        events,
        target,
    }
}

/// Pulls an image into [`Discard`](longshore::Discard), within [`BOUND`].
pub(crate) async fn discard(
    config: ImageProxyConfig,
    options: FetchOptions,
    reference: &str,
) -> Result<Pulled> {
    let pulling = async {
        let fetcher = Fetcher::new(config, options).await?;
        let image = fetcher.open(reference).await?;
        fetcher.pull(&image, Discard).await
    };
    within_bound(Box::pin(pulling)).await
}

impl Outcome {
    /// Checks that the pull has succeeded, and that the whole image is in its layout.
    #[track_caller]
    pub(crate) fn assert_succeeded(&self, served: &Served) -> &Pulled {
        let pulled = match &self.result {
            Ok(pulled) => pulled,
            Err(error) => panic!("{}: {:#?}", chain(error), self.without_bytes()),
        };
        let content = &pulled.images[0];
        assert_eq!(*content.source_digest(), served.image.manifest_digest);
        assert_image_stored(self.target.path(), &served.image);
        pulled
    }

    /// The error with which the pull ended.
    #[track_caller]
    pub(crate) fn error(&self) -> &longshore::Error {
        self.result.as_ref().expect_err("it succeeded")
    }

    /// The events except the byte counts.
    pub(crate) fn without_bytes(&self) -> Vec<&EventKind> {
        without_bytes(&self.events)
    }

    pub(crate) fn count(&self, wanted: impl Fn(&EventKind) -> bool) -> usize {
        self.events.iter().filter(|e| wanted(&e.kind)).count()
    }

    /// How often a layer was retried.
    pub(crate) fn retries_of(&self, layer: usize) -> usize {
        self.count(
            |kind| matches!(kind, EventKind::BlobRetried { blob, .. } if blob.layer == layer),
        )
    }

    pub(crate) fn started_proxies(&self) -> usize {
        self.count(|kind| matches!(kind, EventKind::ProxyStarted { .. }))
    }

    /// The reasons of proxies that ended while they were needed.
    pub(crate) fn lost_proxies(&self) -> Vec<&str> {
        let reason = |event: &'_ Event| match &event.kind {
            EventKind::ProxyEnded { reason, .. } => Some(reason.is_some()),
            _ => None,
        };
        let lost = self.events.iter().filter(|e| reason(e) == Some(true));
        lost.filter_map(|event| match &event.kind {
            EventKind::ProxyEnded { reason, .. } => reason.as_deref(),
            _ => None,
        })
        .collect()
    }
}

fn without_bytes(events: &[Event]) -> Vec<&EventKind> {
    let kinds = events.iter().map(|event| &event.kind);
    kinds
        .filter(|kind| !matches!(kind, EventKind::BlobBytes { .. }))
        .collect()
}

/// Checks that each blob of the image is in the layout, and matches its name.
#[track_caller]
pub(crate) fn assert_image_stored(layout: &Path, image: &Written) {
    let layers = image.layers.iter().map(Descriptor::digest);
    for digest in layers.chain([&image.config_digest, &image.manifest_digest]) {
        let path = layout.join("blobs/sha256").join(digest.digest());
        let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{digest}: {e}"));
        assert_eq!(sha256(&bytes), *digest);
    }
    let index = fs::read_to_string(layout.join("index.json")).unwrap();
    assert!(index.contains(image.manifest_digest.as_ref()), "{index}");
}

/// The digest and the error of a failed blob.
#[track_caller]
pub(crate) fn blob_error(error: &longshore::Error) -> (&Digest, &BlobError) {
    match error {
        longshore::Error::Blob { digest, source, .. } => (digest, source),
        other => panic!("not about a blob: {other:?}"),
    }
}
