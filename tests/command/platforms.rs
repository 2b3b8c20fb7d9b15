//! `--platform all`, and several images in one run.

use std::fs;

use longshore::oci_spec::image::{Descriptor, MediaType};
use serde_json::{Value, json};

use crate::harness::{
    Layout, Scratch, Served, assert_skopeo_accepts, newest_skopeo, skopeos, small_image,
};
use test_registry::image::write_index;
use test_registry::store::Store;

#[test]
#[ignore = "needs skopeo"]
fn all_platforms_are_pulled_with_their_unchanged_index() {
    for skopeo in skopeos() {
        let served = Served::start();
        let images = [
            small_image(1).platform("linux", "amd64"),
            small_image(2).platform("linux", "arm64"),
        ];
        let written = write_index(served.folder.path(), "v1", &images).unwrap();
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let report = scratch
            .pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"))
            .args(["--platform", "all"])
            .report();
        assert_eq!(report["images"].as_array().unwrap().len(), 2);
        let index = written.digest.to_string();
        assert_eq!(layout.tags(), [("v1".to_owned(), index.clone())].into());
        for image in &written.images {
            assert!(layout.has(&image.manifest_digest) && layout.has(&image.config_digest));
        }
        layout.assert_valid();
        assert_skopeo_accepts(&newest_skopeo(), &layout.tagged("v1"));
    }
}

#[test]
#[ignore = "needs skopeo"]
fn the_digest_of_the_index_is_printed_at_the_end() {
    let served = Served::start();
    let images = [
        small_image(1).platform("linux", "amd64"),
        small_image(2).docker_schema2().platform("linux", "arm64"),
    ];
    for (tag, images) in [("v1", &images[..1]), ("v2", &images[..])] {
        let written = write_index(served.folder.path(), tag, images).unwrap();
        let image = served.reference(tag);
        let expected = format!("{image}: {} (index)", written.digest);
        for from_list in [true, false] {
            let scratch = Scratch::new();
            let layout = scratch.layout("image");
            let pull = scratch.pull(&newest_skopeo(), &image, &layout.tagged("v1"));
            let pull = pull.args(["--platform", "all"]);
            let pull = if from_list {
                pull.arg("--keep-going")
            } else {
                pull
            };
            let run = pull.run().succeeded();
            let mut lines = run.stdout.lines().skip_while(|line| *line != expected);
            assert_eq!(lines.next(), Some(&*expected), "{run}");
            let stored = layout.tags()["v1"].clone();
            let is_other = stored != written.digest.to_string();
            assert_eq!(is_other, tag == "v2");
            let line = lines.next().unwrap();
            assert_eq!(line.contains(&stored), is_other, "{run}");
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_index_of_docker_images_names_the_converted_ones() {
    let served = Served::start();
    let images = [
        small_image(1).docker_schema2().platform("linux", "amd64"),
        small_image(2).docker_schema2().platform("linux", "arm64"),
    ];
    write_index(served.folder.path(), "v1", &images).unwrap();
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    scratch
        .pull(
            &newest_skopeo(),
            &served.reference("v1"),
            &layout.tagged("v1"),
        )
        .args(["--platform", "all"])
        .report();
    layout.assert_valid();
    assert_skopeo_accepts(&newest_skopeo(), &layout.tagged("v1"));
}

#[test]
#[ignore = "needs skopeo"]
fn all_platforms_of_a_single_image_are_that_image() {
    let (served, image) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let here = format!("oci:{}:v1", served.folder.path().display());
    for (tag, from) in [("registry", &served.reference("v1")), ("folder", &here)] {
        scratch
            .pull(&newest_skopeo(), from, &layout.tagged(tag))
            .args(["--platform", "all"])
            .report();
        assert_eq!(layout.tags()[tag], image.manifest_digest.to_string());
    }
    layout.assert_valid();
}

/// Makes an index of two images, and changes it before it is served.
fn changed_index(served: &Served, change: impl FnOnce(&mut Value)) -> String {
    let images = [
        small_image(1).platform("linux", "amd64"),
        small_image(2).platform("linux", "arm64"),
    ];
    let written = write_index(served.folder.path(), "v1", &images).unwrap();
    let layout = Layout::new(served.folder.path().to_owned());
    let mut index = layout.json(written.digest.as_ref());
    change(&mut index);
    let store = Store::open(served.folder.path()).unwrap();
    let blob = store.put(index.to_string().as_bytes()).unwrap();
    let digest = blob.digest.to_string();
    let descriptor = Descriptor::new(MediaType::ImageIndex, blob.size, blob.digest);
    store.tag(&descriptor, "v1").unwrap();
    digest
}

#[test]
#[ignore = "needs skopeo"]
fn an_index_with_a_wrong_digest_is_refused() {
    for skopeo in skopeos() {
        let served = Served::start();
        let asked = changed_index(&served, |index| index["annotations"] = json!({ "a": "b" }));
        let other = changed_index(&served, |_| {});
        let blob = Layout::new(served.folder.path().to_owned());
        fs::copy(blob.blob(&other), blob.blob(&asked)).unwrap();
        let by_tag = served.reference("v1");
        let (name, _) = by_tag.rsplit_once(':').unwrap();
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let message = scratch
            .pull(&skopeo, &format!("{name}@{asked}"), &layout.tagged("v1"))
            .args(["--platform", "all", "--retries", "1"])
            .run()
            .failed(1);
        // skopeo 1.22 compares the two itself.
        assert!(
            message.contains(&asked) || message.contains("does not match"),
            "{message}"
        );
        assert!(!layout.exists());
        // The tag names the other one.
        scratch
            .pull(&skopeo, &by_tag, &layout.tagged("v1"))
            .args(["--platform", "all"])
            .report();
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_index_with_invalid_entries_is_refused_before_it_is_named() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 6] = [
        (
            |index| {
                let inner = json!("application/vnd.oci.image.index.v1+json");
                index["manifests"][1]["mediaType"] = inner;
            },
            "another index",
        ),
        (
            |index| {
                let artifact = json!("application/vnd.oci.artifact.manifest.v1+json");
                index["manifests"][1]["mediaType"] = artifact;
            },
            "no image (application/vnd.oci.artifact",
        ),
        (
            |index| {
                let cache = json!("application/vnd.oci.image.layer.v1.tar+gzip");
                index["manifests"][1]["mediaType"] = cache;
            },
            "no image (application/vnd.oci.image.layer",
        ),
        (|index| index["manifests"][1]["size"] = json!(7), "7 bytes"),
        (
            |index| index["Manifests"] = index["manifests"].clone(),
            "more than once",
        ),
        (
            |index| index["layers"] = json!([]),
            "also has the key \"layers\"",
        ),
    ];
    for (change, expected) in cases {
        let served = Served::start();
        changed_index(&served, change);
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let message = scratch
            .pull(
                &newest_skopeo(),
                &served.reference("v1"),
                &layout.tagged("v1"),
            )
            .args(["--platform", "all"])
            .run()
            .failed(1);
        assert!(message.contains(expected), "{expected}: {message}");
        assert!(!layout.exists(), "{expected}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_odd_image_of_an_index_is_pulled_with_the_others() {
    let served = Served::start();
    let store = Store::open(served.folder.path()).unwrap();
    let stored = |document: &Value| {
        let blob = store.put(document.to_string().as_bytes()).unwrap();
        (blob.digest, blob.size)
    };
    let (config, config_size) = stored(&json!({ "config": { "Entrypoint": "x" } }));
    let odd = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config,
            "size": config_size,
        },
        "layers": null,
    });
    let (odd, size) = stored(&odd);
    let index = changed_index(&served, |index| {
        index["manifests"][1]["digest"] = json!(odd);
        index["manifests"][1]["size"] = json!(size);
    });
    // buildkit describes attestations in this way.
    let attested = small_image(3)
        .layer_blob("application/vnd.in-toto+json", "{}")
        .platform("unknown", "unknown");
    let attested = write_index(served.folder.path(), "v2", &[small_image(1), attested]).unwrap();
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        for (tag, digest) in [("v1", &index), ("v2", &attested.digest.to_string())] {
            scratch
                .pull(&skopeo, &served.reference(tag), &layout.tagged(tag))
                .args(["--platform", "all"])
                .report();
            assert_eq!(layout.tags()[tag], *digest);
        }
        assert!(layout.has(&odd) && layout.has(&config));
        layout.assert_valid();
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_image_that_an_index_names_twice_is_pulled_once() {
    let served = Served::start();
    changed_index(&served, |index| {
        let first = index["manifests"][0].clone();
        index["manifests"].as_array_mut().unwrap().push(first);
    });
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let report = scratch
        .pull(
            &newest_skopeo(),
            &served.reference("v1"),
            &layout.tagged("v1"),
        )
        .args(["--platform", "all"])
        .report();
    assert_eq!(report["images"].as_array().unwrap().len(), 2);
    layout.assert_valid();
    assert_skopeo_accepts(&newest_skopeo(), &layout.tagged("v1"));
}

#[test]
#[ignore = "needs skopeo"]
fn several_images_are_named_by_their_references_and_share_blobs() {
    let served = Served::start();
    let first = served.add("v1", &small_image(1));
    let second = served.add("v2", &small_image(1).label("another", "one"));
    assert_ne!(first.manifest_digest, second.manifest_digest);
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let (one, two) = (served.reference("v1"), served.reference("v2"));
    scratch
        .pull(&newest_skopeo(), &one, &two)
        .arg(&layout.all())
        .report();
    let name = |reference: &str| reference.strip_prefix("docker://").unwrap().to_owned();
    let expected = [
        (name(&one), first.manifest_digest.to_string()),
        (name(&two), second.manifest_digest.to_string()),
    ];
    assert_eq!(layout.tags(), expected.into());
    for layer in &first.layers {
        assert_eq!(served.registry.blob_gets(layer.digest()), 1);
    }
    layout.assert_valid();
}

#[test]
#[ignore = "needs skopeo"]
fn several_images_can_not_share_one_name() {
    let scratch = Scratch::new();
    scratch
        .pull(&newest_skopeo(), "oci:a", "oci:b")
        .args(["oci:image:v1"])
        .run()
        .failed(2);
}
