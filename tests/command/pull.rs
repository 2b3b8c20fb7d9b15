//! What `longshore pull` fetches, what it does not fetch again, and what it prints.

use std::collections::BTreeSet;
use std::fs;

use longshore::oci_spec::image::{Descriptor, MediaType};
use serde_json::{Value, json};

use crate::harness::{
    ImageBuilder, Scratch, Served, assert_skopeo_accepts, newest_skopeo, skopeo_copy, skopeos,
    small_image, sorted,
};
use test_registry::image::Written;
use test_registry::store::Store;
use test_support::registry_process::RegistryProcess;

/// The digests of the blobs of an image, in order: everything that a first pull asks for.
fn blobs(image: &Written) -> Vec<String> {
    let layers = image.layers.iter().map(|layer| layer.digest().to_string());
    let mut blobs: Vec<_> = layers.chain([image.config_digest.to_string()]).collect();
    blobs.sort();
    blobs
}

fn size(layers: &[Descriptor]) -> u64 {
    layers.iter().map(Descriptor::size).sum()
}

#[test]
#[ignore = "needs skopeo"]
fn an_image_is_pulled_once() {
    let (served, image) = Served::image("v1", &small_image(1));
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let pull = || scratch.pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"));

        let first = pull().report();
        assert_eq!(sorted(served.take_blob_gets()), blobs(&image), "{skopeo:?}");
        assert_eq!(first["fetched_blobs"], 4);
        layout.assert_valid();
        assert_eq!(layout.tags()["v1"], image.manifest_digest.to_string());
        assert_skopeo_accepts(&skopeo, &layout.tagged("v1"));

        let second = pull().report();
        assert_eq!(served.take_blob_gets(), [""; 0], "{skopeo:?}");
        assert_eq!(second["fetched_blobs"], 0);
        assert_eq!(second["fetched_bytes"], 0);
        assert_eq!(second["reused_blobs"], 3);
        layout.assert_valid();
    }
}

#[test]
#[ignore = "needs skopeo, docker-registry"]
fn an_image_is_pulled_once_from_docker_registry() {
    let scratch = Scratch::new();
    let image = small_image(2).write(scratch.path("made"), "v1").unwrap();
    let registry = RegistryProcess::start();
    let reference = registry.reference("a/b:v1");
    let made = scratch.layout("made").tagged("v1");
    skopeo_copy(&newest_skopeo(), &made, &reference);
    registry.take_blob_gets();
    for skopeo in skopeos() {
        let layout = scratch.layout(skopeo.protocol);
        let pull = || scratch.pull(&skopeo, &reference, &layout.tagged("v1"));

        let first = pull().report();
        assert_eq!(sorted(registry.take_blob_gets()), blobs(&image));
        assert_eq!(
            first["images"][0]["digest"],
            image.manifest_digest.to_string()
        );
        layout.assert_valid();
        assert_skopeo_accepts(&skopeo, &layout.tagged("v1"));

        assert_eq!(pull().report()["fetched_blobs"], 0);
        assert_eq!(registry.take_blob_gets(), [""; 0], "{skopeo:?}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn the_report_has_these_fields_and_no_others() {
    let (served, image) = Served::image("v1", &small_image(3));
    let sizes = size(&image.layers);
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let reference = served.reference("v1");
        let mut report = scratch
            .pull(&skopeo, &reference, &layout.tagged("v1"))
            .report();

        let config = fs::metadata(layout.blob(&image.config_digest)).unwrap();
        // These values depend on the machine.
        for field in ["elapsed_ms", "peak_rss", "proxies"] {
            assert!(report[field].is_u64(), "{report}");
            report[field] = json!(0);
        }
        let version = report["skopeo"].take();
        assert!(version.as_str().unwrap().starts_with("1."), "{version}");
        assert_eq!(
            report,
            json!({
                "version": 1,
                "destination": layout.tagged("v1"),
                "images": [{
                    "requested": reference,
                    "image": reference,
                    "digest": image.manifest_digest,
                    "stored_digest": image.manifest_digest,
                    "index_digest": null,
                    "platform": "linux/amd64",
                    "layers": 3,
                }],
                "failed": [],
                "error": null,
                "bytes": sizes,
                "foreign_layers": [],
                "fetched_blobs": 4,
                "fetched_bytes": sizes + config.len(),
                "reused_blobs": 0,
                "proxies": 0,
                "retries": 0,
                "elapsed_ms": 0,
                "peak_rss": 0,
                "protocol": skopeo.protocol,
                "skopeo": null,
            })
        );
    }
}

#[test]
#[ignore = "needs skopeo"]
fn only_missing_blobs_are_fetched_again() {
    let (served, image) = Served::image("v1", &small_image(4));
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let pull = || scratch.pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"));
        pull().run().succeeded();
        served.take_blob_gets();

        let missing = image.layers[1].digest();
        fs::remove_file(layout.blob(missing)).unwrap();
        let report = pull().report();
        assert_eq!(served.take_blob_gets(), [missing.to_string()]);
        assert_eq!(report["fetched_blobs"], 1);
        assert_eq!(report["fetched_bytes"], image.layers[1].size());
        assert_eq!(report["reused_blobs"], 2);

        fs::remove_file(layout.blob(&image.config_digest)).unwrap();
        fs::remove_file(layout.blob(&image.manifest_digest)).unwrap();
        pull().run().succeeded();
        assert_eq!(served.take_blob_gets(), [image.config_digest.to_string()]);
        layout.assert_valid();
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_blob_of_the_wrong_size_is_fetched_again() {
    let (served, image) = Served::image("v1", &small_image(5));
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let pull = || {
        scratch.pull(
            &newest_skopeo(),
            &served.reference("v1"),
            &layout.tagged("v1"),
        )
    };
    pull().run().succeeded();
    served.take_blob_gets();

    let damaged = [image.layers[0].digest(), image.layers[2].digest()];
    let [short, long] = damaged.map(|digest| layout.blob(digest));
    fs::write(short, "").unwrap();
    fs::write(long, vec![0; 100_000]).unwrap();
    assert_eq!(pull().report()["fetched_blobs"], 2);
    assert_eq!(
        sorted(served.take_blob_gets()),
        sorted(damaged.map(ToString::to_string).to_vec())
    );
    layout.assert_valid();
}

#[test]
#[ignore = "needs skopeo"]
fn a_config_that_is_damaged_is_fetched_again() {
    let (served, image) = Served::image("v1", &small_image(6));
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let pull = || {
        scratch.pull(
            &newest_skopeo(),
            &served.reference("v1"),
            &layout.tagged("v1"),
        )
    };
    pull().run().succeeded();
    served.take_blob_gets();

    let config = layout.blob(&image.config_digest);
    let size = fs::metadata(&config).unwrap().len();
    fs::write(config, vec![b'x'; usize::try_from(size).unwrap()]).unwrap();
    pull().run().succeeded();
    assert_eq!(served.take_blob_gets(), [image.config_digest.to_string()]);
    layout.assert_valid();
}

#[test]
#[ignore = "needs skopeo"]
fn a_layout_holds_many_images_and_shares_their_blobs() {
    let shared = ImageBuilder::new().layer_random(20_000, 7);
    let (served, _) = Served::image("one", &shared);
    let second = served.add("two", &shared.clone().layer_random(5_000, 8));
    let scratch = Scratch::new();
    let layout = scratch.layout("images");
    let skopeo = newest_skopeo();
    let pull = |tag: &str| scratch.pull(&skopeo, &served.reference(tag), &layout.tagged(tag));

    pull("one").run().succeeded();
    served.take_blob_gets();
    let report = pull("two").report();
    assert_eq!(report["reused_blobs"], 1);
    let new = [second.layers[1].digest(), &second.config_digest];
    assert_eq!(
        sorted(served.take_blob_gets()),
        sorted(new.map(ToString::to_string).to_vec())
    );
    layout.assert_valid();
    assert!(layout.tags().keys().eq(["one", "two"]));
    for tag in ["one", "two"] {
        assert_skopeo_accepts(&skopeo, &layout.tagged(tag));
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_moved_tag_replaces_the_image() {
    let (served, old) = Served::image("latest", &small_image(9));
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let skopeo = newest_skopeo();
    let pull = || {
        let reference = served.reference("latest");
        scratch.pull(&skopeo, &reference, &layout.tagged("latest"))
    };
    pull().run().succeeded();
    let new = served.add("latest", &small_image(10));
    pull().run().succeeded();

    let entry = (Some("latest".to_owned()), new.manifest_digest.to_string());
    assert_eq!(layout.entries(), [entry]);
    assert!(
        layout.has(&old.manifest_digest),
        "somebody may be reading it"
    );
    layout.assert_valid();
    assert_skopeo_accepts(&skopeo, &layout.tagged("latest"));
}

#[test]
#[ignore = "needs skopeo"]
fn an_image_may_have_no_tag() {
    let (served, image) = Served::image("v1", &small_image(11));
    let digest = image.manifest_digest.to_string();
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let pull = |dest: &str| scratch.pull(&skopeo, &served.reference("v1"), dest);

        pull(&layout.all()).run().succeeded();
        pull(&layout.all()).run().succeeded();
        assert_eq!(layout.entries(), [(None, digest.clone())]);
        assert_skopeo_accepts(&skopeo, &layout.all());

        served.take_blob_gets();
        pull(&layout.tagged("v1")).run().succeeded();
        assert_eq!(layout.entries(), [(Some("v1".to_owned()), digest.clone())]);
        assert_eq!(served.take_blob_gets(), [""; 0]);
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_image_is_pulled_by_its_digest() {
    let (served, image) = Served::image("v1", &small_image(12));
    let digest = image.manifest_digest.to_string();
    let by_digest = served.reference("v1").replace(":v1", &format!("@{digest}"));
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let report = scratch
            .pull(&skopeo, &by_digest, &layout.tagged("pinned"))
            .report();
        assert_eq!(report["images"][0]["digest"], digest);
        assert_eq!(layout.tags()["pinned"], digest);
        layout.assert_valid();
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_layer_that_occurs_twice_is_fetched_once() {
    let image = ImageBuilder::new()
        .layer_random(20_000, 13)
        .layer_random(10_000, 14)
        .layer_random(20_000, 13);
    let (served, image) = Served::image("v1", &image);
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        served.take_blob_gets();
        let report = scratch
            .pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"))
            .report();

        let once: BTreeSet<_> = blobs(&image).into_iter().collect();
        assert_eq!(sorted(served.take_blob_gets()), Vec::from_iter(once));
        assert_eq!(report["images"][0]["layers"], 3);
        assert_eq!(report["fetched_blobs"], 3);
        assert_eq!(report["bytes"], size(&image.layers[..2]));
        layout.assert_valid();
        assert_skopeo_accepts(&skopeo, &layout.tagged("v1"));
    }
}

#[test]
#[ignore = "needs skopeo"]
fn any_number_of_workers_gives_the_same_layout() {
    let image = (0..20).fold(ImageBuilder::new(), |image, layer| {
        image.layer_random(1000 * layer, 100 + layer)
    });
    let (served, image) = Served::image("v1", &image);
    for skopeo in skopeos() {
        for workers in ["1", "2", "50"] {
            let scratch = Scratch::new();
            let layout = scratch.layout("image");
            served.take_blob_gets();
            scratch
                .pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"))
                .args(["--workers", workers])
                .run()
                .succeeded();
            assert_eq!(sorted(served.take_blob_gets()), blobs(&image));
            layout.assert_valid();
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn skopeos_debug_lines_begin_with_the_number_of_their_proxy() {
    let (served, _) = Served::image("v1", &small_image(1));
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let image = served.reference("v1");
        for (options, label) in [
            (&["--proxies", "2"][..], "proxy 0: "),
            (&["--platform", "all"], "skopeo inspect: "),
        ] {
            let pull = scratch.pull(&skopeo, &image, "oci:image").arg("-vv");
            let run = pull.args(options.iter().copied()).run().succeeded();
            // Our own log quotes what a skopeo said last.
            let is_skopeos =
                |line: &&str| line.contains("level=debug") && !line.contains("DEBUG longshore");
            let lines = run.stderr.lines().filter(is_skopeos);
            let is_labelled = |line: &str| {
                let label = line.split("time=").next().unwrap_or_default();
                label == "skopeo inspect: "
                    || label
                        .strip_prefix("proxy ")
                        .and_then(|label| label.strip_suffix(": "))
                        .is_some_and(|number| number.parse::<usize>().is_ok())
            };
            let (labelled, others): (Vec<_>, Vec<_>) = lines.partition(|line| is_labelled(line));
            assert!(others.is_empty(), "{others:?}");
            assert!(labelled.iter().any(|line| line.starts_with(label)), "{run}");
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_long_refusal_of_the_registry_is_reported() {
    let (served, _) = Served::image("v1", &small_image(1));
    served.faults(&["manifest:status=503*4"]);
    let scratch = Scratch::new();
    let image = served.reference("v1");
    let pull = scratch.pull(&newest_skopeo(), &image, "oci:image");
    let run = pull.args(["--proxies", "1"]).run().succeeded();
    let host = image.trim_start_matches("docker://").split('/').next();
    let start = format!("  a request to {} failed; the next one in ", host.unwrap());
    let line = run.stderr.lines().find(|line| line.starts_with(&start));
    assert!(line.is_some_and(|line| line.contains("503")), "{run}");
}

#[test]
#[ignore = "needs skopeo"]
fn progress_goes_to_stderr_and_results_to_stdout() {
    let (served, image) = Served::image("v1", &small_image(15));
    let skopeo = newest_skopeo();
    let pull = |scratch: &Scratch| {
        let layout = scratch.layout("image");
        scratch.pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"))
    };

    let scratch = Scratch::new();
    let run = pull(&scratch).arg("--verbose").run().succeeded();
    assert_eq!(run.stdout.lines().count(), 2, "{run}");
    assert!(run.stdout.contains(image.manifest_digest.as_ref()), "{run}");
    assert!(run.stdout.contains("4 blobs fetched"), "{run}");
    let fetched = run.stderr.lines().filter(|line| line.contains("] fetched"));
    assert_eq!(fetched.count(), 3, "{run}");
    assert!(run.stderr.contains("[3/3]"), "{run}");
    let run = pull(&scratch).arg("--verbose").run().succeeded();
    let reused = run.stderr.lines().filter(|line| line.contains("] reused"));
    assert_eq!(reused.count(), 3, "{run}");
    // A short pull has no line for each layer, unless it is asked for.
    let run = pull(&Scratch::new()).run().succeeded();
    assert!(!run.stderr.contains("] fetched"), "{run}");

    for (option, on_stdout) in [("--quiet", false), ("--json", true)] {
        let scratch = Scratch::new();
        let run = pull(&scratch).arg(option).run().succeeded();
        assert_eq!(run.stderr, "", "{run}");
        assert_eq!(!run.stdout.is_empty(), on_stdout, "{run}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn entries_of_other_tools_stay_in_the_index() {
    let (served, _) = Served::image("v1", &small_image(16));
    let scratch = Scratch::new();
    let skopeo = newest_skopeo();
    let layout = scratch.layout("image");
    skopeo_copy(&skopeo, &served.reference("v1"), &layout.tagged("copied"));
    let path = layout.folder().join("index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    index["annotations"] = json!({ "example.kept": "yes" });
    fs::write(&path, index.to_string()).unwrap();

    served.take_blob_gets();
    scratch
        .pull(&skopeo, &served.reference("v1"), &layout.tagged("pulled"))
        .run()
        .succeeded();
    assert_eq!(served.take_blob_gets(), [""; 0], "skopeo had stored them");
    let index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(index["annotations"]["example.kept"], "yes");
    assert!(layout.tags().keys().eq(["copied", "pulled"]));
    layout.assert_valid();
}

fn serve_manifest(served: &Served, manifest: &Value, tag: &str) {
    let store = Store::open(served.folder.path()).unwrap();
    let blob = store.put(manifest.to_string().as_bytes()).unwrap();
    let manifest = Descriptor::new(MediaType::ImageManifest, blob.size, blob.digest);
    store.tag(&manifest, tag).unwrap();
}

#[test]
#[ignore = "needs skopeo"]
fn an_oversized_config_is_not_read_from_the_layout() {
    let large = small_image(90).layer_random(5_000_000, 900);
    let (served, image) = Served::image("v1", &large);
    let layer = image.layers.last().unwrap();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/x", "digest": layer.digest(), "size": layer.size() },
        "layers": [],
    });
    serve_manifest(&served, &manifest, "config");

    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let pull = |tag: &str| {
        let dest = layout.tagged(tag);
        scratch.pull(&newest_skopeo(), &served.reference(tag), &dest)
    };
    pull("v1").run().succeeded();
    let message = pull("config").run().failed(1);
    assert!(
        message.contains("the image config has more than 4194304 bytes"),
        "{message}"
    );
}

#[test]
#[ignore = "needs skopeo"]
fn impossible_sizes_are_refused() {
    let (served, image) = Served::image("v1", &small_image(91));
    let layout = crate::harness::Layout::new(served.folder.path().to_owned());
    let mut manifest = layout.json(image.manifest_digest.as_ref());
    for layer in manifest["layers"].as_array_mut().unwrap() {
        layer["size"] = json!(i64::MAX);
    }
    serve_manifest(&served, &manifest, "huge");
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let dest = scratch.layout("image").tagged("v1");
        let image = served.reference("huge");
        let message = scratch.pull(&skopeo, &image, &dest).run().failed(1);
        assert!(
            message.contains("bytes is more than the protocol allows"),
            "{message}"
        );
        scratch.inspect(&skopeo, &image).run().succeeded();
    }
}

#[test]
#[ignore = "needs skopeo"]
fn the_largest_numbers_are_accepted() {
    let (served, _) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let (large, count) = (u64::MAX.to_string(), usize::MAX.to_string());
    let pull = || scratch.pull(&newest_skopeo(), &served.reference("v1"), "oci:image:v1");
    pull()
        .args(["--stall-timeout", &large, "--call-timeout", &large])
        .args(["--workers", &count, "--retries", "4294967295"])
        .args(["--limit-rate", &large, "--proxies", &format!("1-{count}")])
        .run()
        .succeeded();
    // The number of hours exceeds what seconds can express.
    pull()
        .args(["--stall-timeout", &format!("{large}h")])
        .run()
        .failed(2);
}
