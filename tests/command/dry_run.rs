//! A dry run of a pull says what would be fetched, and changes nothing.

use std::fs;

use longshore::oci_spec::image::Descriptor;
use serde_json::{Value, json};
use test_registry::image::{ImageBuilder, Written, write_index};

use crate::harness::{Layout, Longshore, Scratch, Served, newest_skopeo, skopeos, small_image};

/// The sizes of these layers, together.
fn layer_bytes(images: &[&Written]) -> u64 {
    let layers = images.iter().flat_map(|image| &image.layers);
    layers.map(Descriptor::size).sum()
}

/// Checks that these fields have these values.
#[track_caller]
fn assert_has(object: &Value, expected: &Value) {
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(object[field], *value, "{field} of {object}");
    }
}

fn dry_run(scratch: &Scratch, served: &Served, tag: &str, destination: &str) -> Longshore {
    scratch
        .pull(&newest_skopeo(), &served.reference(tag), destination)
        .arg("--dry-run")
}

#[test]
#[ignore = "needs skopeo"]
fn a_dry_run_predicts_the_pull() {
    for skopeo in skopeos() {
        let served = Served::start();
        let shared = ImageBuilder::new().layer_random(50_000, 1);
        let first = served.add("first", &shared);
        let second = served.add("second", &shared.layer_random(7_000, 2));
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let pull = |tag: &str| scratch.pull(&skopeo, &served.reference(tag), &layout.tagged(tag));

        let before = pull("first").arg("--dry-run").report();
        let bytes = layer_bytes(&[&first]);
        let expected = json!({
            "dry_run": true, "layers": 1, "bytes": bytes, "present_layers": 0, "present_bytes": 0,
            "blobs_to_fetch": 2,
        });
        assert_has(&before, &expected);
        assert!(!layout.folder().exists());
        assert!(
            !served
                .take_blob_gets()
                .contains(&first.layers[0].digest().to_string())
        );

        let pulled = pull("first").report();
        assert_eq!(before["bytes_to_fetch"], pulled["fetched_bytes"]);
        assert_eq!(before["blobs_to_fetch"], pulled["fetched_blobs"]);
        assert_eq!(before["images"][0]["digest"], pulled["images"][0]["digest"]);

        let plan = pull("second").arg("--dry-run").report();
        let expected = json!({
            "layers": 2, "bytes": layer_bytes(&[&second]), "present_layers": 1, "present_bytes": bytes,
            "blobs_to_fetch": 2,
        });
        assert_has(&plan, &expected);
        assert_has(
            &plan["images"][0],
            &json!({ "present_layers": 1, "present_bytes": bytes }),
        );
        assert_eq!(layout.tags().len(), 1);
        let pulled = pull("second").report();
        assert_eq!(plan["bytes_to_fetch"], pulled["fetched_bytes"]);
        assert_eq!(plan["present_layers"], pulled["reused_blobs"]);

        let rest = pull("second").arg("--dry-run").report();
        let expected = json!({ "present_layers": 2, "blobs_to_fetch": 0, "bytes_to_fetch": 0 });
        assert_has(&rest, &expected);
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_dry_run_prints_a_line_for_each_image_and_the_total() {
    let (served, image) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let run = dry_run(&scratch, &served, "v1", "oci:image:v1")
        .run()
        .succeeded();
    let lines: Vec<&str> = run.stdout.lines().collect();
    let [first, sum, total] = lines[..] else {
        panic!("{run}");
    };
    let reference = served.reference("v1");
    assert_eq!(first, format!("{reference}: {}", image.manifest_digest));
    assert!(sum.starts_with("  3 layers ("), "{sum}");
    assert!(
        sum.contains(": 0 already there (0 B), 3 to fetch ("),
        "{sum}"
    );
    assert!(
        total.starts_with("oci:image:v1: 4 blobs to fetch ("),
        "{total}"
    );
    assert!(total.ends_with("; nothing was written"), "{total}");
    assert!(!scratch.path("image").exists());

    let quiet = dry_run(&scratch, &served, "v1", "oci:image:v1").arg("--quiet");
    let quiet = quiet.run().succeeded();
    assert_eq!((&*quiet.stdout, &*quiet.stderr), ("", ""));
}

#[test]
#[ignore = "needs skopeo"]
fn blobs_that_several_images_of_a_list_share_count_once() {
    let served = Served::start();
    let shared = ImageBuilder::new().layer_random(50_000, 1);
    let first = served.add("a", &shared.clone().layer_random(3_000, 2));
    let second = served.add("b", &shared.layer_random(4_000, 3));
    let scratch = Scratch::new();
    let list = scratch.path("list");
    let lines = ["a", "b", "missing"].map(|tag| served.reference(tag) + "\n");
    fs::write(&list, lines.concat()).unwrap();
    let skopeo = newest_skopeo();
    let run = scratch
        .longshore()
        .args(["pull", "--tls-verify=false", "--dry-run", "--json"])
        .args(["--skopeo", skopeo.path.to_str().unwrap()])
        .args(["--from", list.to_str().unwrap(), "oci:mirror"])
        .run();
    assert_eq!(run.status.code(), Some(1), "{run}");
    let plan: Value = serde_json::from_str(&run.stdout).unwrap();
    let bytes = layer_bytes(&[&first, &second]) - first.layers[0].size();
    let expected = json!({ "layers": 3, "bytes": bytes, "blobs_to_fetch": 5, "error": null });
    assert_has(&plan, &expected);
    assert_eq!(plan["images"].as_array().unwrap().len(), 2);
    assert_eq!(plan["failed"][0]["image"], served.reference("missing"));
    assert!(run.stderr.contains("1 of 3 images"), "{run}");
    assert!(!scratch.path("mirror").exists());
}

#[test]
#[ignore = "needs skopeo"]
fn a_dry_run_of_all_platforms_names_each_image_and_the_index() {
    let served = Served::start();
    let images = [(1, "amd64"), (2, "arm64")];
    let images = images.map(|(seed, name)| small_image(seed).platform("linux", name));
    let index = write_index(served.folder.path(), "v1", &images).unwrap();
    let scratch = Scratch::new();
    let run = dry_run(&scratch, &served, "v1", "oci:all:v1").args(["--platform", "all"]);
    let plan = run.report();
    let digest = index.digest.to_string();
    for (image, expected) in plan["images"].as_array().unwrap().iter().zip(&index.images) {
        assert_eq!(image["index_digest"], digest);
        assert_eq!(image["digest"], expected.manifest_digest.to_string());
    }
    assert_has(&plan, &json!({ "layers": 6, "blobs_to_fetch": 8 }));
    let run = dry_run(&scratch, &served, "v1", "oci:all:v1").args(["--platform", "all"]);
    let stdout = run.run().succeeded().stdout;
    assert!(
        stdout.contains(&format!(": {digest} (index)\n")),
        "{stdout}"
    );
    assert!(!scratch.path("all").exists());
}

#[test]
#[ignore = "needs skopeo"]
fn a_dry_run_fails_as_the_pull_fails_before_its_layers() {
    let (served, _) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let fails = |tag: &str, destination: &str| {
        let pull = || scratch.pull(&newest_skopeo(), &served.reference(tag), destination);
        let real = pull().arg("--quiet").run().failed(1);
        let dry_run = pull().args(["--dry-run", "--quiet"]).run().failed(1);
        assert_eq!(dry_run, real);
        real
    };
    let message = fails("missing", "oci:image");
    assert!(message.contains("can't pull"), "{message}");
    assert!(!scratch.path("image").exists());

    let other = Layout::new(scratch.path("other"));
    fs::create_dir(other.folder()).unwrap();
    fs::write(other.folder().join("letter"), "dear").unwrap();
    let message = fails("v1", &other.tagged("v1"));
    assert!(message.contains("neither empty nor"), "{message}");
    assert_eq!(fs::read_dir(other.folder()).unwrap().count(), 1);

    let dry_run = dry_run(&scratch, &served, "v1", "oci:image:v1");
    let message = dry_run.args(["--events", "events"]).run().failed(2);
    assert!(message.contains("cannot be used with"), "{message}");
    assert!(!scratch.path("events").exists());
}

#[test]
#[ignore = "needs skopeo"]
fn the_failure_of_an_only_image_is_printed_once() {
    let (served, _) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let reference = served.reference("missing");
    let pull = scratch.pull(&newest_skopeo(), &reference, "oci:image");
    let message = pull.arg("--dry-run").run().failed(1);
    assert_eq!(message.matches("can't pull").count(), 1, "{message}");
    assert!(!message.contains("  failed:"), "{message}");
}
