//! Several images at once: each manifest is read once, each blob is fetched once, and each is found wherever it
//! is.

use std::fs;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use longshore::{Discard, Error, FetchOptions, Fetcher, Proxies, Pulled, Result};
use tempfile::TempDir;
use test_registry::image::ImageBuilder;
use test_registry::server::{Options, Registry};
use test_support::leaks::run;
use test_support::{soon, tools};

use crate::harness::{config, options, random};

const IMAGES: u64 = 12;
/// Of each image; as many more are the same in all.
const OWN: u64 = 3;

/// Images that share half of their layers, at a registry that is far away.
struct Several {
    registry: Registry,
    _layout: TempDir,
}

impl Several {
    fn new() -> Self {
        let layout = tempfile::tempdir().unwrap();
        for image in 0..IMAGES {
            let own = (0..OWN).map(|layer| 1000 + image * OWN + layer);
            let image_of = |image: ImageBuilder, seed| image.layer_random(2000, seed);
            let shared = random(OWN, 2000, 0);
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

    /// Of the images, in one repository or each in one of its own.
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
    soon(Box::pin(fetcher.pull_all(&images, &Arc::new(Discard)))).await
}

#[test]
#[ignore = "needs skopeo"]
fn each_manifest_is_read_once_and_each_blob_fetched_once() {
    run(async {
        for one_repository in [true, false] {
            for protocol in tools::SKOPEOS {
                let several = Several::new();
                let references = several.references(one_repository);
                let pulled = pull(protocol, options(), &references).await.unwrap();
                let blobs = OWN + IMAGES * OWN + IMAGES;
                assert_eq!(pulled.fetched_blobs as u64, blobs, "{protocol}");
                let requests = several.registry.requests();
                let gets = requests.iter().filter(|request| request.method == "GET");
                let gets = gets
                    .filter(|request| request.path.contains("/blobs/"))
                    .count();
                assert_eq!(gets as u64, blobs, "{protocol}");
                assert!(pulled.proxies > 2, "{protocol}: {}", pulled.proxies);
                let reads = several.registry.manifest_gets() as u64;
                // Each proxy has to open one; whoever has nothing to do opens another one to help with it.
                let most = IMAGES.max(pulled.proxies as u64) + 6;
                assert!((IMAGES..=most).contains(&reads), "{protocol}: {reads}");
            }
        }
    });
}

#[test]
#[ignore = "needs skopeo"]
fn one_that_is_not_there_is_named() {
    run(async {
        let several = Several::new();
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

/// Two images of one repository, of which a mirror has only the first: skopeo takes each from where it is.
#[test]
#[ignore = "needs skopeo"]
fn a_blob_that_a_mirror_does_not_have_is_asked_for_by_its_own_image() {
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
            let pulling = fetcher.pull_all(&images, &sink);
            let pulled = soon(Box::pin(pulling)).await.unwrap();
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
fn an_outage_holds_up_no_image_for_ever() {
    run(async {
        for protocol in tools::SKOPEOS {
            let several = Several::new();
            let references = several.references(false);
            // The layers that each image has for itself.
            let own = OWN..2 * OWN;
            let faults: Vec<String> = own.map(|n| format!("blob#{n}:status=503*4")).collect();
            let faults = faults.iter().map(|fault| fault.parse().unwrap());
            several.registry.set_faults(faults.collect());
            let options = options().retry(crate::harness::retries(100));
            let pulled = pull(protocol, options, &references).await.unwrap();
            let blobs = OWN + IMAGES * OWN + IMAGES;
            assert_eq!(pulled.fetched_blobs as u64, blobs, "{protocol}");
            assert!(pulled.retries > 0, "{protocol}");
        }
    });
}
