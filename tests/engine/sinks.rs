//! Sinks: what they are given, when they are told to discard it, and how they are tested without skopeo.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use longshore::oci_spec::image::{Descriptor, Digest, MediaType};
use longshore::{
    BlobError, Error, Fetcher, ImageContent, ImageRequest, Layer, LayerReader, Result, Sink,
};
use test_registry::image::ImageBuilder;
use test_registry::server::Options;
use test_support::fixture::blob_error;
use test_support::leaks::run;
use test_support::tools::SKOPEOS;
use test_support::{sha256, within_bound};
use tokio::io::AsyncReadExt as _;
use tokio::sync::{mpsc, watch};

use crate::harness::{Served, config, options};

/// A sink that records the layers that it is given.
struct RecordingSink {
    layers: mpsc::UnboundedSender<(Layer, Digest)>,
    discarded: Arc<AtomicUsize>,
}

impl RecordingSink {
    fn new() -> (
        Self,
        mpsc::UnboundedReceiver<(Layer, Digest)>,
        Arc<AtomicUsize>,
    ) {
        let (layers, received) = mpsc::unbounded_channel();
        let discarded = Arc::new(AtomicUsize::new(0));
        let sink = Self {
            layers,
            discarded: Arc::clone(&discarded),
        };
        (sink, received, discarded)
    }
}

impl Sink for RecordingSink {
    async fn has(&self, _: &Layer) -> Result<bool> {
        Ok(false)
    }

    async fn store(&self, layer: &Layer, mut reader: LayerReader) -> Result<()> {
        let mut bytes = Vec::new();
        let read = reader.read_to_end(&mut bytes).await;
        read.map_err(Error::handler)?;
        reader.finish().await?;
        self.layers.send((layer.clone(), sha256(&bytes))).unwrap();
        Ok(())
    }

    async fn commit(&self, _: &ImageContent) -> Result<()> {
        Ok(())
    }

    fn discard(&self) {
        self.discarded.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_sink_gets_the_index_and_the_known_diff_id_of_each_layer() {
    for knows in [false, true] {
        run(async {
            let served = Served::new(5, 5000);
            let fetcher = Fetcher::new(config("0.2.8"), options()).await.unwrap();
            let image = within_bound(fetcher.open(&served.reference()))
                .await
                .unwrap();
            if knows {
                within_bound(fetcher.content(&image)).await.unwrap();
            }
            let (sink, mut received, discarded) = RecordingSink::new();
            let pulled = within_bound(fetcher.pull(&image, sink)).await.unwrap();
            let mut given = Vec::new();
            while let Some(layer) = received.recv().await {
                given.push(layer);
            }
            given.sort_by_key(|(layer, _)| layer.index);
            let expected = pulled.images[0].layers();
            assert_eq!(given.len(), expected.len());
            for ((layer, digest), expected) in given.iter().zip(expected) {
                assert_eq!(layer.index, expected.index);
                assert_eq!(layer.descriptor.digest(), digest);
                let diff_id = expected.diff_id.clone().filter(|_| knows);
                assert_eq!(layer.diff_id, diff_id);
            }
            assert_eq!(discarded.load(Ordering::Relaxed), 0);
            // The config is fetched once.
            let gets = served.registry.blob_gets(&served.image.config_digest);
            assert_eq!(gets, 1);
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_pull_that_fails_or_is_dropped_is_discarded_once() {
    for protocol in SKOPEOS {
        run(async {
            let served = Served::new(5, 5000).faults(&["blob#3:status=404"]);
            let fetcher = Fetcher::new(config(protocol), options()).await.unwrap();
            let image = within_bound(fetcher.open(&served.reference()))
                .await
                .unwrap();
            let (sink, _told, discarded) = RecordingSink::new();
            within_bound(fetcher.pull(&image, sink)).await.unwrap_err();
            assert_eq!(discarded.load(Ordering::Relaxed), 1, "{protocol}");
            let (sink, _told, discarded) = RecordingSink::new();
            let pulling = Box::pin(fetcher.pull(&image, sink));
            let none = futures_util::FutureExt::now_or_never(pulling);
            assert!(none.is_none(), "{protocol}");
            assert_eq!(discarded.load(Ordering::Relaxed), 1, "{protocol}");
            // Of many images, one fails.
            let (sink, _told, discarded) = RecordingSink::new();
            let requests = [ImageRequest::new(served.reference())];
            let pulling = fetcher.pull_many(requests, sink);
            let pulled = within_bound(pulling.finish()).await.unwrap();
            assert_eq!(pulled.failed_images, 1, "{protocol}");
            assert_eq!(discarded.load(Ordering::Relaxed), 1, "{protocol}");
        });
    }
}

/// A sink that stores no layer to its end. It lets the layer `failing` be fetched when another one is being stored.
struct EndlessSink {
    failing: Digest,
    storing: watch::Sender<usize>,
    storing_at_discard: Arc<AtomicUsize>,
}

/// Counts one store, until it ends or is dropped.
struct Storing<'a>(&'a watch::Sender<usize>);

impl Drop for Storing<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|storing| *storing -= 1);
    }
}

impl Sink for EndlessSink {
    async fn has(&self, layer: &Layer) -> Result<bool> {
        if *layer.descriptor.digest() == self.failing {
            let mut storing = self.storing.subscribe();
            storing.wait_for(|storing| *storing > 0).await.unwrap();
        }
        Ok(false)
    }

    async fn store(&self, _: &Layer, _reader: LayerReader) -> Result<()> {
        self.storing.send_modify(|storing| *storing += 1);
        let _storing = Storing(&self.storing);
        std::future::pending().await
    }

    async fn commit(&self, _: &ImageContent) -> Result<()> {
        Ok(())
    }

    fn discard(&self) {
        self.storing_at_discard
            .store(*self.storing.borrow(), Ordering::Relaxed);
    }
}

#[test]
#[ignore = "needs skopeo"]
fn no_layer_of_a_failed_request_is_being_stored_when_it_is_discarded() {
    for protocol in SKOPEOS {
        run(async {
            // The larger layer is fetched first.
            let image = ImageBuilder::new()
                .layer_random(50_000, 1)
                .layer_random(500, 2);
            let served = Served::with(Options::default(), &image).faults(&["blob#1:status=404"]);
            let fetcher = Fetcher::new(config(protocol), options()).await.unwrap();
            let storing_at_discard = Arc::new(AtomicUsize::new(usize::MAX));
            let sink = EndlessSink {
                failing: served.image.layers[1].digest().clone(),
                storing: watch::Sender::new(0),
                storing_at_discard: Arc::clone(&storing_at_discard),
            };
            let requests = [ImageRequest::new(served.reference())];
            let pulled = within_bound(fetcher.pull_many(requests, sink).finish())
                .await
                .unwrap();
            assert_eq!(pulled.failed_images, 1, "{protocol}");
            assert_eq!(storing_at_discard.load(Ordering::Relaxed), 0, "{protocol}");
        });
    }
}

#[test]
fn a_sink_can_be_tested_without_skopeo() {
    run(async {
        let content = b"a layer";
        let descriptor =
            Descriptor::new(MediaType::ImageLayer, content.len() as u64, sha256(content));
        let layer = Layer::new(0, descriptor);
        let (sink, mut received, _) = RecordingSink::new();
        let reader = LayerReader::from_bytes(&layer, *content).unwrap();
        within_bound(sink.store(&layer, reader)).await.unwrap();
        assert_eq!(
            received.recv().await,
            Some((layer.clone(), sha256(content)))
        );
        for (bytes, is_short) in [(&b"a layes"[..], false), (b"a lay", true)] {
            let reader = LayerReader::from_bytes(&layer, bytes).unwrap();
            let error = within_bound(sink.store(&layer, reader)).await.unwrap_err();
            let error = blob_error(error);
            let is_expected = match error {
                BlobError::Short { read: 5, .. } => is_short,
                BlobError::Corrupt { .. } => !is_short,
                _ => false,
            };
            assert!(is_expected, "{error:?}");
        }
        let config = br#"{"os":"linux","architecture":"amd64"}"#;
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "config": {
                "mediaType": MediaType::ImageConfig,
                "digest": sha256(config),
                "size": config.len(),
            },
            "layers": [layer.descriptor],
        });
        let image = ImageContent::from_bytes("x:y", manifest.to_string(), *config).unwrap();
        assert_eq!(image.layers(), [layer]);
        assert_eq!(image.platform().as_deref(), Some("linux/amd64"));
        within_bound(sink.commit(&image)).await.unwrap();
        ImageContent::from_bytes("x:y", manifest.to_string(), "{}").unwrap_err();
    });
}

#[test]
#[ignore = "needs skopeo"]
fn the_last_error_contains_the_number_of_tries() {
    for protocol in SKOPEOS {
        run(async {
            let served = Served::new(3, 5000).faults(&["blob#1:corrupt"]);
            let fetcher = Fetcher::new(config(protocol), options()).await.unwrap();
            let image = within_bound(fetcher.open(&served.reference()))
                .await
                .unwrap();
            let handler = |_: Layer, mut reader: LayerReader| async move {
                tokio::io::copy(&mut reader, &mut tokio::io::sink()).await?;
                Ok::<_, io::Error>(())
            };
            let error = within_bound(fetcher.for_each_layer(&image, handler)).await;
            let error = error.unwrap_err();
            assert!(
                matches!(error, Error::Blob { tries: 5, .. }),
                "{protocol}: {error:?}"
            );
            assert!(error.to_string().ends_with(" (tried 5 times)"), "{error}");
        });
    }
}
