//! Several images at once: each blob is fetched once, from wherever it is.
//!
//! How often manifests are read depends on the load of the machine: if answers come late, other proxies open an image,
//! too. The simulator of the scheduler asserts the numbers (`many_images_are_opened_about_once_each`).

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use longshore::oci_spec::image::{Descriptor, MediaType};
use longshore::{
    Discard, Error, FetchOptions, Fetcher, ImageContent, ImageRequest, Layer, LayerReader,
    OciLayout, Platforms, Proxies, Pulled, PulledImages, Result, Sink,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use test_registry::image::ImageBuilder;
use test_registry::server::{Options, Registry};
use test_registry::store::Store;
use test_support::leaks::{run, run_single};
use test_support::{sha256, tools, within_bound};
use tokio::task::yield_now;

use crate::harness::{config, options, random};

const IMAGES: u64 = 12;
/// The number of layers that only one image has. As many others are in all images.
const OWN_LAYERS: u64 = 3;

/// Images that share half of their layers, at a registry that is far away.
struct SharingImages {
    registry: Registry,
    _layout: TempDir,
}

impl SharingImages {
    fn new() -> Self {
        let layout = tempfile::tempdir().unwrap();
        for image in 0..IMAGES {
            let own = (0..OWN_LAYERS).map(|layer| 1000 + image * OWN_LAYERS + layer);
            let image_of = |image: ImageBuilder, seed| image.layer_random(2000, seed);
            let shared = random(OWN_LAYERS, 2000, 0);
            let built = own.fold(shared, image_of);
            built.write(layout.path(), &format!("i{image}")).unwrap();
        }
        let options = Options {
            ttfb: Duration::from_millis(50),
            ..Options::default()
        };
        let registry = Registry::start(layout.path(), options).unwrap();
        Self {
            registry,
            _layout: layout,
        }
    }

    /// The references of the images, in one repository or in one for each.
    fn references(&self, one_repository: bool) -> Vec<String> {
        let reference = |image| {
            let reference = self.registry.reference(&format!("i{image}"));
            if one_repository {
                reference
            } else {
                let (repository, tag) = reference.rsplit_once(':').unwrap();
                format!("{repository}-{image}:{tag}")
            }
        };
        (0..IMAGES).map(reference).collect()
    }
}

async fn pull(protocol: &str, options: FetchOptions, references: &[String]) -> Result<Pulled> {
    let fetcher = Fetcher::new(config(protocol), options).await?;
    let images = fetcher.open_all(references).await?;
    for (image, reference) in images.iter().zip(references) {
        assert_eq!(image.reference(), reference);
    }
    within_bound(Box::pin(fetcher.pull_all(&images, Discard))).await
}

#[test]
#[ignore = "needs skopeo"]
fn each_blob_of_several_images_is_fetched_once() {
    run(async {
        for one_repository in [true, false] {
            for protocol in tools::SKOPEOS {
                let several = SharingImages::new();
                let references = several.references(one_repository);
                let pulled = pull(protocol, options(), &references).await.unwrap();
                let blobs = OWN_LAYERS + IMAGES * OWN_LAYERS + IMAGES;
                assert_eq!(pulled.fetched_blobs as u64, blobs, "{protocol}");
                let requests = several.registry.requests();
                let gets = requests.iter().filter(|request| request.method == "GET");
                let gets = gets
                    .filter(|request| request.path.contains("/blobs/"))
                    .count();
                assert_eq!(gets as u64, blobs, "{protocol}");
                assert!(pulled.proxies > 2, "{protocol}: {}", pulled.proxies);
                let reads = several.registry.manifest_gets() as u64;
                assert!(reads >= IMAGES, "{protocol}: {reads}");
            }
        }
    });
}

#[test]
#[ignore = "needs skopeo"]
fn a_missing_image_is_named() {
    run(async {
        let several = SharingImages::new();
        let mut references = several.references(true);
        references[7].push_str("-not-there");
        let error = pull("0.2.8", options(), &references).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
        assert!(
            test_support::chain(&error).contains("not-there"),
            "{error:?}"
        );
    });
}

/// A mirror has only the first of two images of one repository. skopeo takes each from where it is.
#[test]
#[ignore = "needs skopeo"]
fn a_blob_that_a_mirror_lacks_is_requested_through_its_own_image() {
    run(async {
        for protocol in tools::SKOPEOS {
            let (mirror, origin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            random(1, 100, 0).write(mirror.path(), "first").unwrap();
            random(1, 100, 0).write(origin.path(), "first").unwrap();
            random(30, 100, 10).write(origin.path(), "second").unwrap();
            let far = Options {
                ttfb: Duration::from_millis(50),
                ..Options::default()
            };
            let mirror = Registry::start(mirror.path(), Options::default()).unwrap();
            let origin = Registry::start(origin.path(), far).unwrap();
            let references = ["first", "second"].map(|tag| origin.reference(tag));
            let host = |reference: String| {
                let name = reference.strip_prefix("docker://").unwrap();
                name.split('/').next().unwrap().to_owned()
            };
            let conf = format!(
                "[[registry]]\nlocation = \"{}\"\ninsecure = true\n\
                 [[registry.mirror]]\nlocation = \"{}\"\ninsecure = true\n",
                host(origin.reference("first")),
                host(mirror.reference("first")),
            );
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("registries.conf");
            fs::write(&path, conf).unwrap();
            let config = tools::config(protocol).registries_conf(path);
            let four = Proxies::Fixed(NonZeroUsize::new(4).unwrap());
            let fetcher = Fetcher::new(config, options().proxies(four)).await.unwrap();
            let images = fetcher.open_all(&references).await.unwrap();
            let sink = Arc::new(Discard);
            let pulling = fetcher.pull_all(&images, sink.clone());
            let pulled = within_bound(Box::pin(pulling)).await.unwrap();
            assert_eq!(pulled.fetched_blobs, 1 + 30 + 2, "{protocol}");
            assert!(
                mirror.manifest_gets() > 0 && pulled.proxies == 4,
                "{protocol}"
            );
        }
    });
}

/// Blobs wait for the proxies that have their images open, and after an outage only one proxy may ask.
#[test]
#[ignore = "needs skopeo"]
fn after_outages_all_images_are_pulled() {
    run(async {
        for protocol in tools::SKOPEOS {
            let several = SharingImages::new();
            let references = several.references(false);
            // The layers that each image has for itself.
            let own = OWN_LAYERS..2 * OWN_LAYERS;
            let faults: Vec<String> = own.map(|n| format!("blob#{n}:status=503*4")).collect();
            let faults = faults.iter().map(|fault| fault.parse().unwrap());
            several.registry.set_faults(faults.collect());
            let options = options().retry(crate::harness::retries(100));
            let pulled = pull(protocol, options, &references).await.unwrap();
            let blobs = OWN_LAYERS + IMAGES * OWN_LAYERS + IMAGES;
            assert_eq!(pulled.fetched_blobs as u64, blobs, "{protocol}");
            assert!(pulled.retries > 0, "{protocol}");
        }
    });
}

/// Pulls many images, and collects the results.
async fn pull_many(
    fetcher: &Fetcher,
    references: Vec<String>,
    sink: &Arc<OciLayout>,
) -> (Vec<PulledImages>, Pulled) {
    let mut pulling = fetcher.pull_many(references, Arc::clone(sink));
    let mut all = Vec::new();
    while let Some(pulled) = within_bound(pulling.next()).await {
        all.push(pulled);
    }
    all.sort_by_key(|pulled| pulled.number);
    (all, within_bound(pulling.finish()).await.unwrap())
}

#[test]
#[ignore = "needs skopeo"]
fn each_of_many_images_has_its_own_outcome() {
    run(async {
        for one_repository in [true, false] {
            for protocol in tools::SKOPEOS {
                let several = SharingImages::new();
                let mut references = several.references(one_repository);
                references.insert(5, format!("{}-missing", references[0]));
                // No server listens at that address.
                references.push("docker://127.0.0.1:1/a:b".to_owned());
                let fetcher = Fetcher::new(config(protocol), options()).await.unwrap();
                let target = tempfile::tempdir().unwrap();
                let sink = Arc::new(OciLayout::named_by_reference(target.path()));
                let (all, pulled) = pull_many(&fetcher, references.clone(), &sink).await;
                assert_eq!(all.len(), references.len(), "{protocol}");
                for (pulled, reference) in all.iter().zip(&references) {
                    assert_eq!(pulled.request, ImageRequest::new(reference));
                    let fails = reference.ends_with("-missing") || reference.contains(":1/");
                    match &pulled.images {
                        Ok(images) => {
                            assert!(!fails && images.len() == 1, "{protocol}: {pulled:?}");
                        }
                        Err(error) => assert!(fails, "{protocol}: {reference}: {error:?}"),
                    }
                }
                let blobs = OWN_LAYERS + IMAGES * OWN_LAYERS + IMAGES;
                assert_eq!(pulled.fetched_blobs as u64, blobs, "{protocol}");
                // In a second pull, everything is there.
                let (_, again) = pull_many(&fetcher, references, &sink).await;
                assert_eq!(again.fetched_blobs, 0, "{protocol}: {again:?}");
            }
        }
    });
}

/// A sink whose commits take long, so that many images are committed together.
struct SlowCommitSink(Arc<SharingImages>);

impl SlowCommitSink {
    /// Waits until enough images were opened, and gives the pull time to take more requests.
    async fn wait(&self) {
        while self.0.registry.manifest_gets() < 64 {
            yield_now().await;
        }
        for _ in 0..2000 {
            yield_now().await;
        }
    }
}

impl Sink for SlowCommitSink {
    async fn has(&self, _: &Layer) -> Result<bool> {
        Ok(false)
    }

    async fn store(&self, _: &Layer, reader: LayerReader) -> Result<()> {
        reader.finish().await
    }

    async fn commit(&self, _: &ImageContent) -> Result<()> {
        self.wait().await;
        Ok(())
    }

    async fn commit_all(&self, _: &[Arc<ImageContent>]) -> Result<()> {
        self.wait().await;
        Ok(())
    }
}

/// Requests are taken one after another, as other images are done.
#[test]
#[ignore = "needs skopeo"]
fn requests_are_taken_as_images_complete() {
    const MANY: usize = 300;
    run_single(async {
        let several = Arc::new(SharingImages::new());
        let reference = several.references(true).swap_remove(0);
        let (taken, mut outcome, mut most) = (Arc::new(AtomicUsize::new(0)), 0, 0);
        let counted = Arc::clone(&taken);
        let requests = (0..MANY).map(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            reference.clone()
        });
        let fetcher = Fetcher::new(config("0.2.8"), options()).await.unwrap();
        let mut pulling = fetcher.pull_many(requests, SlowCommitSink(several));
        while let Some(pulled) = within_bound(pulling.next()).await {
            pulled.images.unwrap();
            outcome += 1;
            most = most.max(taken.load(Ordering::Relaxed) - outcome);
        }
        assert_eq!(outcome, MANY);
        // One more result is on its way to the caller.
        assert!(most <= 65, "{most} were held at once");
        within_bound(pulling.finish()).await.unwrap();
    });
}

#[test]
#[ignore = "needs skopeo"]
fn dropping_the_stream_stops_many_pulls() {
    run(async {
        let several = SharingImages::new();
        let fetcher = Fetcher::new(config("0.2.8"), options()).await.unwrap();
        let mut pulling = fetcher.pull_many(several.references(false), Discard);
        within_bound(pulling.next()).await.unwrap().images.unwrap();
        drop(pulling);
    });
}

/// The registry is asked for none of the other images.
#[test]
#[ignore = "needs skopeo"]
fn a_wrong_password_for_many_images_is_tried_once() {
    run(async {
        for protocol in tools::SKOPEOS {
            let served = crate::few_requests::with_password();
            let config = crate::few_requests::login(&served, protocol, "wrong");
            let fetcher = Fetcher::new(config, options()).await.unwrap();
            let references: Vec<String> = (0..20)
                .map(|number| {
                    served
                        .reference()
                        .replace("/image:", &format!("/image-{number}:"))
                })
                .collect();
            let all = |reference: &String| ImageRequest::new(reference).platforms(Platforms::All);
            let indexes: Vec<ImageRequest> = references.iter().map(all).collect();
            let images: Vec<ImageRequest> = references.iter().map(ImageRequest::new).collect();
            for (requests, tried) in [(images, 1), (indexes, 2)] {
                let mut pulling = fetcher.pull_many(requests, Discard);
                let mut failed = 0;
                while let Some(pulled) = within_bound(pulling.next()).await {
                    pulled.images.unwrap_err();
                    failed += 1;
                }
                assert_eq!(failed, 20, "{protocol}");
                let ended = within_bound(pulling.finish()).await.unwrap();
                assert_eq!(ended.failed_images, 20, "{protocol}");
                // Each pull makes one more try, because the password may have been changed.
                assert_eq!(
                    crate::few_requests::requests(&served, "/token"),
                    tried,
                    "{protocol}"
                );
            }
        }
    });
}

#[test]
#[ignore = "needs skopeo"]
fn the_layers_of_an_image_that_occurs_twice_are_fetched_once() {
    run(async {
        let several = SharingImages::new();
        let fetcher = Fetcher::new(config("0.2.8"), options()).await.unwrap();
        let image = fetcher.open(&several.references(true)[0]).await.unwrap();
        let images = [image.clone(), image];
        let sink = Arc::new(Discard);
        let pulled = within_bound(fetcher.pull_all(&images, sink.clone()))
            .await
            .unwrap();
        assert_eq!(pulled.images.len(), 2);
        // The config of each image is counted as well.
        assert_eq!(pulled.fetched_blobs as u64, 2 * OWN_LAYERS + 2);
    });
}

/// Everything else is in the layout already, so the registry answers nothing else.
#[test]
#[ignore = "needs skopeo"]
fn an_unreadable_blob_fails_only_its_own_image() {
    run(async {
        let several = SharingImages::new();
        let references = several.references(false);
        let fetcher = Fetcher::new(config("0.2.8"), options()).await.unwrap();
        let target = tempfile::tempdir().unwrap();
        let sink = Arc::new(OciLayout::named_by_reference(target.path()));
        let (all, _) = pull_many(&fetcher, references.clone(), &sink).await;
        let last = all[5].images.as_ref().unwrap()[0].layers();
        let digest = last.last().unwrap().descriptor.digest().clone();
        let blob = target.path().join("blobs/sha256").join(digest.digest());
        fs::remove_file(blob).unwrap();
        let fault = format!("blob@{digest}:status=500");
        several.registry.set_faults(vec![fault.parse().unwrap()]);
        let (all, pulled) = pull_many(&fetcher, references, &sink).await;
        let failed = all.iter().filter(|pulled| pulled.images.is_err());
        let failed: Vec<usize> = failed.map(|pulled| pulled.number).collect();
        assert_eq!(failed, [5]);
        assert_eq!(pulled.failed_images, 1);
    });
}

#[test]
#[ignore = "needs skopeo"]
fn documents_over_the_total_bound_fail_their_image() {
    run(async {
        let several = SharingImages::new();
        let options = options().max_documents_bytes(0);
        let fetcher = Fetcher::new(config("0.2.8"), options).await.unwrap();
        let mut pulling = fetcher.pull_many(several.references(true), Discard);
        let mut failed = 0;
        while let Some(pulled) = within_bound(pulling.next()).await {
            let error = pulled.images.unwrap_err();
            assert!(
                matches!(error, Error::DocumentsTooLarge { limit: 0, .. }),
                "{error:?}"
            );
            failed += 1;
        }
        assert_eq!(failed, IMAGES);
    });
}

/// If there are more images than proxies, each image is opened once, and few are opened again by a proxy that helps with
/// their layers. The fewest openings of three pulls count, and half as many more are allowed: if the machine is busy and
/// answers come late, other proxies open an image, too. On an idle machine there are 24 to 26.
#[test]
#[ignore = "needs skopeo"]
fn many_images_need_few_more_openings_than_images() {
    run(async {
        for protocol in tools::SKOPEOS {
            let mut fewest = u64::MAX;
            for _ in 0..3 {
                let several = SharingImages::new();
                let one = several.references(false);
                // The same images are in as many other repositories.
                let other = one.iter().map(|image| image.replace("/image", "/other"));
                let references: Vec<String> = one.iter().cloned().chain(other).collect();
                let fetcher = Fetcher::new(config(protocol), options()).await.unwrap();
                let mut pulling = fetcher.pull_many(references, Discard);
                while let Some(pulled) = within_bound(pulling.next()).await {
                    pulled.images.unwrap();
                }
                fewest = fewest.min(several.registry.manifest_gets() as u64);
                if fewest <= 3 * IMAGES {
                    break;
                }
            }
            assert!(fewest <= 3 * IMAGES, "{protocol}: {fewest}");
        }
    });
}

#[test]
#[ignore = "needs skopeo"]
fn an_index_that_fails_does_not_affect_the_others() {
    run(async {
        for protocol in tools::SKOPEOS {
            let several = SharingImages::new();
            // Both tries of the first image fail.
            let fault = "manifest:status=500*2".parse().unwrap();
            several.registry.set_faults(vec![fault]);
            let options = options().retry(crate::harness::retries(1));
            let fetcher = Fetcher::new(config(protocol), options).await.unwrap();
            let all = |reference: String| ImageRequest::new(reference).platforms(Platforms::All);
            let requests = several.references(true).into_iter().map(all);
            let requests: Vec<ImageRequest> = requests.collect();
            let mut pulling = fetcher.pull_many(requests, Discard);
            let mut failed = Vec::new();
            while let Some(pulled) = within_bound(pulling.next()).await {
                if pulled.images.is_err() {
                    failed.push(pulled.number);
                }
            }
            assert_eq!(failed, [0], "{protocol}");
        }
    });
}

/// A server that accepts connections and never answers holds up only its own images.
#[test]
#[ignore = "needs skopeo"]
fn a_registry_that_does_not_answer_holds_up_no_index_of_another_one() {
    run(async {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = format!("docker://{}/a:b", silent.local_addr().unwrap());
        let several = SharingImages::new();
        let mut references = several.references(true);
        references.splice(0..0, [silent.clone(), silent]);
        let all = |reference: String| ImageRequest::new(reference).platforms(Platforms::All);
        let requests: Vec<ImageRequest> = references.into_iter().map(all).collect();
        let fetcher = Fetcher::new(config("0.2.8"), options()).await.unwrap();
        let mut pulling = fetcher.pull_many(requests, Discard);
        for _ in 0..IMAGES {
            let pulled = within_bound(pulling.next()).await.unwrap();
            assert!(pulled.number >= 2 && pulled.images.is_ok(), "{pulled:?}");
        }
    });
}

/// Writes an index of two images that have the same foreign layer. Returns the digest of that layer.
fn write_index_with_foreign_layer(layout: &Path, tag: &str) -> String {
    let store = Store::open(layout).unwrap();
    let foreign = sha256(b"foreign").to_string();
    let mut manifests = Vec::new();
    for (image, architecture) in ["amd64", "arm64"].into_iter().enumerate() {
        let builder = random(1, 100, image as u64).platform("linux", architecture);
        let digest = builder.write(layout, architecture).unwrap().manifest_digest;
        let path = layout.join("blobs").join(digest.as_ref().replace(':', "/"));
        let mut manifest: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let layers = manifest["layers"].as_array_mut().unwrap();
        layers.push(json!({
            "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "digest": foreign,
            "size": 7,
            "urls": ["https://example.com/layer"],
        }));
        let blob = store.put(manifest.to_string().as_bytes()).unwrap();
        manifests.push(json!({
            "mediaType": MediaType::ImageManifest,
            "digest": blob.digest,
            "size": blob.size,
            "platform": { "os": "linux", "architecture": architecture },
        }));
    }
    let media_type = MediaType::ImageIndex;
    let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
    let blob = store.put(index.to_string().as_bytes()).unwrap();
    let index = Descriptor::new(media_type, blob.size, blob.digest);
    store.tag(&index, tag).unwrap();
    foreign
}

#[test]
#[ignore = "needs skopeo"]
fn a_foreign_layer_of_several_images_of_an_index_is_reported_once() {
    run(async {
        let layout = tempfile::tempdir().unwrap();
        let foreign = write_index_with_foreign_layer(layout.path(), "all");
        let registry = Registry::start(layout.path(), Options::default()).unwrap();
        for protocol in tools::SKOPEOS {
            let fetcher = Fetcher::new(config(protocol), options()).await.unwrap();
            let request = ImageRequest::new(registry.reference("all"));
            let requests = [request.platforms(Platforms::All)];
            let mut pulling = fetcher.pull_many(requests, Discard);
            let pulled = within_bound(pulling.next()).await.unwrap();
            assert_eq!(pulled.images.unwrap().len(), 2, "{protocol}");
            let told = pulled.foreign_layers.iter();
            let told: Vec<&str> = told.map(|layer| layer.digest().as_ref()).collect();
            assert_eq!(told, [&foreign], "{protocol}");
            within_bound(pulling.finish()).await.unwrap();
        }
    });
}
