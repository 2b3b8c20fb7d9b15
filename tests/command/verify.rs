//! `longshore verify` finds every damage of a layout, and `--repair` has the next pull fetch what was damaged.

use std::fs;

use longshore::oci_spec::image::Descriptor;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Layout, Longshore, Run, Scratch, Served, newest_skopeo, skopeo_copy, small_image,
};
use crate::layout::{STALLED_LAYER, image_with_large_layer, pull_with_stalled_layer};
use test_registry::image::Written;

fn verify(scratch: &Scratch, layout: &str) -> Longshore {
    scratch.longshore().args(["verify", layout])
}

/// The object that a run prints that ends with this code.
#[track_caller]
fn report(run: &Run, code: i32) -> Value {
    assert_eq!(run.status.code(), Some(code), "{run}");
    let line = run.stdout.strip_suffix('\n');
    serde_json::from_str(line.unwrap()).unwrap()
}

/// The digest and the kind of each problem.
fn problems(report: &Value) -> Vec<(&str, &str)> {
    let problems = report["problems"].as_array().unwrap().iter();
    problems
        .map(|problem| {
            let text = |key: &str| problem[key].as_str().unwrap();
            (text("digest"), text("kind"))
        })
        .collect()
}

/// A layout with an image that was pulled.
struct Fixture {
    served: Served,
    image: Written,
    scratch: Scratch,
    layout: Layout,
}

impl Fixture {
    fn new() -> Self {
        let (served, image) = Served::image("v1", &small_image(1));
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let fixture = Self {
            served,
            image,
            scratch,
            layout,
        };
        fixture.pull().run().succeeded();
        fixture.served.take_blob_gets();
        fixture
    }

    fn pull(&self) -> Longshore {
        let reference = self.served.reference("v1");
        self.scratch
            .pull(&newest_skopeo(), &reference, &self.layout.tagged("v1"))
    }

    fn verify(&self) -> Longshore {
        verify(&self.scratch, &self.layout.all())
    }

    /// Changes a byte of a blob.
    fn damage(&self, digest: impl AsRef<str>) {
        let path = self.layout.blob(digest);
        let mut bytes = fs::read(&path).unwrap();
        bytes[0] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    /// The manifest, the config and the layers.
    fn blobs(&self) -> Vec<String> {
        let layers = self.image.layers.iter().map(Descriptor::digest);
        let documents = [&self.image.manifest_digest, &self.image.config_digest];
        documents
            .into_iter()
            .chain(layers)
            .map(ToString::to_string)
            .collect()
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_pulled_layout_has_no_damage() {
    let fixture = Fixture::new();
    for layout in [fixture.layout.all(), fixture.layout.tagged("v1")] {
        let run = verify(&fixture.scratch, &layout).arg("--diff-ids").run();
        let stdout = run.succeeded().stdout;
        assert!(stdout.starts_with("5 blobs of 1 image read ("), "{stdout}");
        assert!(
            stdout.ends_with("3 layers decompressed: all good\n"),
            "{stdout}"
        );
    }
    let report = fixture.verify().args(["--all", "--workers", "1"]).report();
    assert_eq!(report["version"], 1);
    assert_eq!(report["ok"], true);
    assert_eq!(report["layout"], fixture.layout.folder().to_str().unwrap());
    assert_eq!(
        (&report["images"], &report["blobs"]),
        (&json!(1), &json!(5))
    );
    assert_eq!(report["problems"], json!([]));
    assert_eq!(report["diff_ids"], Value::Null);
}

#[test]
#[ignore = "needs skopeo"]
fn a_layout_of_skopeo_has_no_damage() {
    let (served, _) = Served::image("v1", &small_image(2));
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let skopeo = newest_skopeo();
    skopeo_copy(&skopeo, &served.reference("v1"), &layout.tagged("v1"));
    let report = verify(&scratch, &layout.all()).arg("--diff-ids").report();
    assert_eq!(
        (&report["ok"], &report["diff_ids"]),
        (&json!(true), &json!(3))
    );
}

#[test]
#[ignore = "needs skopeo"]
fn each_damage_is_reported_with_its_kind_and_code_1() {
    let fixture = Fixture::new();
    let [missing, longer, damaged] = &fixture.image.layers[..] else {
        panic!("it has three layers")
    };
    fs::remove_file(fixture.layout.blob(missing.digest())).unwrap();
    let mut bytes = fs::read(fixture.layout.blob(longer.digest())).unwrap();
    bytes.push(0);
    fs::write(fixture.layout.blob(longer.digest()), bytes).unwrap();
    fixture.damage(damaged.digest());

    let run = fixture.verify().arg("--json").run();
    let report = report(&run, 1);
    let mut expected = [
        (missing.digest().as_ref(), "missing"),
        (longer.digest().as_ref(), "wrong_size"),
        (damaged.digest().as_ref(), "damaged"),
    ];
    expected.sort_unstable();
    assert_eq!(problems(&report), expected);
    for problem in report["problems"].as_array().unwrap() {
        assert_eq!(problem["images"], json!(["v1"]), "{problem}");
        let size = longer.size();
        let (expected, found) = match problem["kind"].as_str() {
            Some("wrong_size") => (json!(size), json!(size + 1)),
            _ => (Value::Null, Value::Null),
        };
        assert_eq!(problem["expected_size"], expected, "{problem}");
        assert_eq!(problem["found_size"], found, "{problem}");
        let is_damaged = problem["kind"] == "damaged";
        assert_eq!(problem["found_digest"].is_string(), is_damaged, "{problem}");
    }

    let run = fixture.verify().run();
    assert_eq!(run.status.code(), Some(1), "{run}");
    assert!(run.stderr.contains("3 problems found; --repair"), "{run}");
    let widest = run.stdout.lines().map(str::len).max();
    assert!(widest <= Some(80), "{run}");
    for words in [
        "is missing",
        "is damaged",
        "named by v1",
        "4 blobs of 1 image",
    ] {
        assert!(run.stdout.contains(words), "no {words:?} in {run}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_pull_reuses_a_damaged_layer_and_fetches_it_after_a_repair() {
    let fixture = Fixture::new();
    for blob in fixture.blobs() {
        fixture.damage(&blob);
        let run = fixture.verify().args(["--repair", "--json"]).run();
        let report = report(&run, 1);
        assert_eq!(problems(&report), [(&*blob, "damaged")]);
        assert_eq!(report["problems"][0]["removed"], true);
        assert!(!fixture.layout.has(&blob));
        assert_eq!(fixture.layout.unexpected_entries(), [""; 0]);

        fixture.served.take_blob_gets();
        fixture.pull().run().succeeded();
        // The manifest is always fetched, and is no blob for the registry.
        let fetched = fixture.served.take_blob_gets();
        let expected: &[String] = if blob == fixture.image.manifest_digest.as_ref() {
            &[]
        } else {
            std::slice::from_ref(&blob)
        };
        assert_eq!(fetched, expected);
        fixture.layout.assert_valid();
        fixture.verify().run().succeeded();
    }
    // Without a repair, the pull trusts the size.
    let layer = fixture.image.layers[0].digest();
    fixture.damage(layer);
    fixture.pull().run().succeeded();
    assert_eq!(fixture.served.take_blob_gets(), [""; 0]);
    let run = fixture.verify().arg("--repair").run();
    assert!(
        run.stdout
            .contains("removed: the next pull that needs it fetches it"),
        "{run}"
    );
    assert!(run.stderr.contains("pull the images again"), "{run}");
}

#[test]
#[ignore = "needs skopeo"]
fn verify_works_during_a_pull_and_repair_waits_for_it() {
    let (served, image) = Served::image("v1", &image_with_large_layer(40));
    let earlier = served.add("earlier", &small_image(3));
    let skopeo = newest_skopeo();
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let pull = |tag: &str| scratch.pull(&skopeo, &served.reference(tag), &layout.tagged(tag));
    pull("earlier").run().succeeded();
    let running = pull_with_stalled_layer(&scratch, &skopeo, &served, &image, &layout);

    let all = || verify(&scratch, &layout.all()).arg("--all");
    // Five blobs of the earlier image, and two of the pull.
    assert_eq!(all().report()["blobs"], 7);
    let damaged = earlier.layers[0].digest();
    let good = fs::read(layout.blob(damaged)).unwrap();
    fs::write(layout.blob(damaged), vec![0; good.len()]).unwrap();
    let run = all().arg("--repair").run();
    assert_eq!(run.status.code(), Some(1), "{run}");
    assert!(run.stdout.contains(damaged.as_ref()), "{run}");
    assert!(
        run.stderr.contains("a pull into this layout is running"),
        "{run}"
    );
    assert!(layout.has(damaged));

    let mut waiting = all().args(["--repair", "--wait", "1h"]).start();
    assert!(!waiting.has_ended());
    running.signal(Signal::SIGKILL);
    running.end_with_staging().assert_killed();
    let run = waiting.end();
    assert_eq!(run.status.code(), Some(1), "{run}");
    assert!(!layout.has(damaged));

    pull("earlier").run().succeeded();
    pull("v1").run().succeeded();
    assert!(layout.has(image.layers[STALLED_LAYER].digest()));
    layout.assert_valid();
    all().run().succeeded();
}

#[test]
#[ignore = "needs skopeo"]
fn damaged_blobs_of_a_killed_pull_are_found_before_they_are_reused() {
    let (served, image) = Served::image("v1", &image_with_large_layer(50));
    let skopeo = newest_skopeo();
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let killed = pull_with_stalled_layer(&scratch, &skopeo, &served, &image, &layout);
    killed.signal(Signal::SIGKILL);
    killed.end_with_staging().assert_killed();
    let left = image.layers[0].digest();
    let length = fs::metadata(layout.blob(left)).unwrap().len();
    fs::write(layout.blob(left), vec![0; usize::try_from(length).unwrap()]).unwrap();
    let named = verify(&scratch, &layout.all()).report();
    assert_eq!(named["blobs"], 0);
    let run = verify(&scratch, &layout.all()).args(["--all", "--repair", "--json"]);
    let run = run.run();
    assert_eq!(problems(&report(&run, 1)), [(left.as_ref(), "damaged")]);
    let pull = scratch.pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"));
    pull.run().succeeded();
    layout.assert_valid();
}

#[test]
#[ignore = "needs skopeo"]
fn a_failed_verification_is_code_1_and_changes_nothing() {
    let fixture = Fixture::new();
    let message = verify(&fixture.scratch, "oci:nowhere").run().failed(1);
    assert!(message.contains("can't verify nowhere"), "{message}");
    assert!(!fixture.scratch.path("nowhere").exists());
    let run = verify(&fixture.scratch, &fixture.layout.tagged("v2")).run();
    let message = run.failed(1);
    assert!(message.contains("it has v1"), "{message}");
    fs::create_dir(fixture.scratch.path("home")).unwrap();
    let message = verify(&fixture.scratch, "oci:home").run().failed(1);
    assert!(message.contains("no OCI image layout"), "{message}");
    fs::write(fixture.layout.folder().join("index.json"), "{").unwrap();
    let message = fixture.verify().arg("--repair").run().failed(1);
    assert!(message.contains("index.json"), "{message}");
}
