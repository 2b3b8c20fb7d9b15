//! A fleet: many pulls at once through a pull-through cache that registries.conf names. The file is that of
//! `examples/fleet`, with other hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use test_registry::image::Written;
use test_support::registry_process::RegistryProcess;

use crate::harness::{
    ImageBuilder, Layout, Run, Running, Scratch, Skopeo, eventually, processes, skopeo_copy,
    skopeos,
};

/// The number of pulls at the same time.
const PULLS: usize = 8;

const LAYERS: u64 = 12;

/// How often docker-registry 2.8 asks its origin for a blob, at most, for one request: once to store the blob, and once to
/// send it on.
const GETS_PER_REQUEST: usize = 2;

/// A registry that has one image, a cache in front of it, and the settings of a user who knows both.
#[derive(Debug)]
struct Fleet {
    skopeo: Skopeo,
    scratch: Scratch,
    origin: RegistryProcess,
    cache: RegistryProcess,
    home: PathBuf,
    repository: &'static str,
    image: Written,
    /// The length of the origin's access log before the first pull.
    begun: usize,
}

impl Fleet {
    /// The image has the tag `v1` in this repository.
    fn new(skopeo: Skopeo, repository: &'static str) -> Self {
        let scratch = Scratch::new();
        let image = (0..LAYERS).fold(ImageBuilder::new(), |image, layer| {
            image.layer_random(200_000, layer)
        });
        let image = image.write(scratch.path("made"), "v1").unwrap();
        let origin = RegistryProcess::start();
        let made = scratch.layout("made").tagged("v1");
        skopeo_copy(
            &skopeo,
            &made,
            &origin.reference(&format!("{repository}:v1")),
        );
        let cache = RegistryProcess::cache_of(&origin);

        let conf = include_str!("../../examples/fleet/registries.conf")
            .replace("docker.io", origin.address())
            .replace("registry.example.com", origin.address())
            .replace("mirror.example.com:5000", cache.address())
            .replace("mirror.example.com:5001", cache.address());
        assert!(!conf.contains("example.com"), "{conf}");
        let home = scratch.path("home");
        let folder = home.join(".config/containers");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("registries.conf"), conf).unwrap();
        Self {
            begun: origin.access_log().len(),
            skopeo,
            scratch,
            origin,
            cache,
            home,
            repository,
            image,
        }
    }

    /// Starts a pull of the image into a layout of its own. The tag or digest begins with `:` or `@`.
    fn start(&self, tag_or_digest: &str, name: &str) -> (Layout, Running) {
        let layout = self.scratch.layout(name);
        let name = format!("{}{tag_or_digest}", self.repository);
        let reference = self.origin.reference(&name);
        let pull = self
            .scratch
            .pull(&self.skopeo, &reference, &layout.tagged("v1"))
            .arg("--json")
            .env("HOME", self.home.to_str().unwrap());
        (layout, pull.start())
    }

    /// Pulls the image once, and checks the layout. Returns the number of retries.
    #[track_caller]
    fn pull(&self, tag_or_digest: &str, name: &str) -> usize {
        let (layout, pull) = self.start(tag_or_digest, name);
        self.assert_whole(&layout, pull.end())
    }

    /// Pulls the image into [`PULLS`] layouts at the same time, and checks each of them. Returns the number of retries,
    /// of which there are some only if the machine is so busy that transfers stall.
    #[track_caller]
    fn pull_at_once(&self) -> usize {
        let pulls: Vec<_> = (0..PULLS)
            .map(|number| self.start(":v1", &format!("at-once-{number}")))
            .collect();
        let pulled = pulls.into_iter();
        pulled
            .map(|(layout, pull)| self.assert_whole(&layout, pull.end()))
            .sum()
    }

    /// Checks the layout of a pull. Returns the number of retries.
    #[track_caller]
    fn assert_whole(&self, layout: &Layout, run: Run) -> usize {
        let retries = run.report()["retries"].as_u64().unwrap();
        layout.assert_valid();
        let manifest = self.image.manifest_digest.to_string();
        assert_eq!(layout.tags()["v1"], manifest, "{:?}", self.skopeo);
        for digest in self.blobs() {
            assert!(layout.has(&digest), "{digest} is missing in {layout:?}");
        }
        usize::try_from(retries).unwrap()
    }

    /// The digests of the layers and the config.
    fn blobs(&self) -> BTreeSet<String> {
        let layers = self.image.layers.iter();
        let layers = layers.map(|layer| layer.digest().to_string());
        layers
            .chain([self.image.config_digest.to_string()])
            .collect()
    }

    /// Waits until the cache has stored all blobs. It sends a blob on before it is stored.
    #[track_caller]
    fn wait_until_the_cache_is_full(&self) {
        for digest in self.blobs() {
            eventually("the cache has stored each blob", || {
                self.cache.has(self.repository, &digest)
            });
        }
    }

    /// Checks that this registry has been asked for each blob, and never more often than `most`.
    #[track_caller]
    fn assert_each_blob_was_sent(&self, registry: &RegistryProcess, most: usize) {
        let mut gets = BTreeMap::new();
        // A registry logs a request when the answer is complete.
        eventually("each blob is requested", || {
            for digest in registry.take_blob_gets() {
                *gets.entry(digest).or_insert(0) += 1;
            }
            gets.len() == self.blobs().len()
        });
        assert!(gets.values().all(|count| *count <= most), "{gets:?}");
    }

    /// Checks that only the cache asked the origin.
    #[track_caller]
    fn assert_no_skopeo_asked_the_origin(&self) {
        let log = self.origin.access_log();
        let mut asked = log[self.begun..].lines();
        assert_eq!(asked.find(|line| line.contains("skopeo/")), None);
    }
}

#[test]
#[ignore = "needs skopeo, docker-registry"]
fn eight_concurrent_pulls_through_a_full_cache_fetch_no_blob_from_the_origin() {
    for skopeo in skopeos() {
        let fleet = Fleet::new(skopeo, "a/image");
        let first = fleet.pull(":v1", "first");
        fleet.wait_until_the_cache_is_full();
        let retries = first + fleet.pull_at_once();
        // That is what the first pull alone costs.
        fleet.assert_each_blob_was_sent(&fleet.origin, (1 + first) * GETS_PER_REQUEST);
        fleet.assert_each_blob_was_sent(&fleet.cache, 1 + PULLS + retries);
        fleet.assert_no_skopeo_asked_the_origin();
    }
}

#[test]
#[ignore = "needs skopeo, docker-registry"]
fn eight_concurrent_pulls_through_an_empty_cache_use_only_the_cache() {
    for skopeo in skopeos() {
        let fleet = Fleet::new(skopeo, "a/image");
        let most = PULLS + fleet.pull_at_once();
        fleet.assert_each_blob_was_sent(&fleet.cache, most);
        fleet.assert_each_blob_was_sent(&fleet.origin, most * GETS_PER_REQUEST);
        fleet.assert_no_skopeo_asked_the_origin();
    }
}

#[test]
#[ignore = "needs skopeo, docker-registry"]
fn a_mirror_for_digests_only_is_not_used_for_an_image_with_a_tag() {
    for skopeo in skopeos() {
        let fleet = Fleet::new(skopeo, "team/image");
        let retries = fleet.pull(":v1", "by-tag");
        fleet.assert_each_blob_was_sent(&fleet.origin, 1 + retries);
        assert_eq!(fleet.cache.access_log(), "");

        let by_digest = format!("@{}", fleet.image.manifest_digest);
        let retries = fleet.pull(&by_digest, "by-digest");
        fleet.assert_each_blob_was_sent(&fleet.cache, 1 + retries);
    }
}

#[test]
#[ignore = "needs skopeo, docker-registry"]
fn pulls_use_the_registry_if_the_mirror_is_down() {
    for skopeo in skopeos() {
        let fleet = Fleet::new(skopeo, "a/image");
        processes::signal(fleet.cache.pid(), Signal::SIGKILL);
        let most = PULLS + fleet.pull_at_once();
        fleet.assert_each_blob_was_sent(&fleet.origin, most);
    }
}
