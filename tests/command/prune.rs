//! `longshore prune` removes what no image names, never what a pull relies on, and can be killed at any moment.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use longshore::oci_spec::image::Descriptor;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Layout, Longshore, Scratch, Served, assert_skopeo_accepts, newest_skopeo, output_of,
    small_image,
};
use crate::layout::{image_with_large_layer, pull_with_stalled_layer};
use test_registry::image::{Written, write_index};
use test_registry::server::Options;
use test_support::tools;

fn prune(scratch: &Scratch, layout: &Layout) -> Longshore {
    scratch.longshore().args(["prune", &layout.all()])
}

fn pull(scratch: &Scratch, served: &Served, tag: &str, dest: &str) -> Longshore {
    scratch.pull(&newest_skopeo(), &served.reference(tag), dest)
}

/// The digests of all blobs in a layout.
fn blobs(layout: &Layout) -> BTreeSet<String> {
    let entries = fs::read_dir(layout.folder().join("blobs/sha256")).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    entries
        .map(|entry| format!("sha256:{}", name(entry).to_str().unwrap()))
        .collect()
}

/// The digests of the manifest, the config and the layers of an image.
fn blobs_of(image: &Written) -> BTreeSet<String> {
    let layers = image.layers.iter().map(Descriptor::digest);
    let documents = [&image.manifest_digest, &image.config_digest];
    let all = documents.into_iter().chain(layers);
    all.map(ToString::to_string).collect()
}

/// Makes the index of a layout name nothing.
fn forget_all(layout: &Layout) {
    let index = json!({ "schemaVersion": 2, "manifests": [] }).to_string();
    fs::write(layout.folder().join("index.json"), index).unwrap();
}

fn removed(report: &Value) -> BTreeSet<String> {
    let removed = report["removed"].as_array().unwrap().iter();
    removed
        .map(|blob| blob["digest"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
#[ignore = "needs skopeo"]
fn blobs_of_a_moved_tag_are_removed_and_shared_ones_are_kept() {
    let (served, old) = Served::image("old", &small_image(1));
    let new = served.add("new", &small_image(1).layer_random(5_000, 99));
    let platforms = [
        small_image(2).platform("linux", "amd64"),
        small_image(3).platform("linux", "arm64"),
    ];
    write_index(served.folder.path(), "all", &platforms).unwrap();
    let scratch = Scratch::new();
    let layout = scratch.layout("images");
    let all = pull(&scratch, &served, "all", &layout.tagged("all"));
    all.args(["--platform", "all"]).run().succeeded();
    for tag in ["old", "new"] {
        pull(&scratch, &served, tag, &layout.tagged("v1"))
            .run()
            .succeeded();
    }

    let before = blobs(&layout);
    let gone: BTreeSet<_> = blobs_of(&old)
        .difference(&blobs_of(&new))
        .cloned()
        .collect();
    assert_eq!(gone.len(), 2, "the manifest and the config");
    let sizes = gone
        .iter()
        .map(|blob| fs::metadata(layout.blob(blob)).unwrap().len());
    let size: u64 = sizes.sum();

    let dry = prune(&scratch, &layout).arg("--dry-run").report();
    assert_eq!(
        (removed(&dry), &dry["removed_bytes"]),
        (gone.clone(), &json!(size))
    );
    assert_eq!(
        (&dry["version"], &dry["dry_run"]),
        (&json!(1), &json!(true))
    );
    let stdout = prune(&scratch, &layout)
        .arg("--dry-run")
        .run()
        .succeeded()
        .stdout;
    assert!(stdout.contains("2 blobs"), "{stdout}");
    assert!(stdout.contains("would be removed, 17 kept\n"), "{stdout}");
    assert!(stdout.lines().all(|line| line.len() <= 80), "{stdout}");
    assert_eq!(blobs(&layout), before);

    let report = prune(&scratch, &layout).report();
    assert_eq!(
        (removed(&report), &report["removed_bytes"]),
        (gone.clone(), &json!(size))
    );
    assert_eq!(
        (&report["kept_blobs"], &report["complete"]),
        (&json!(17), &json!(true))
    );
    assert_eq!(blobs(&layout), &before - &gone);
    layout.assert_valid();
    assert_eq!(layout.unexpected_entries(), [""; 0]);
    assert_skopeo_accepts(&newest_skopeo(), &layout.tagged("v1"));
    let stdout = prune(&scratch, &layout).run().succeeded().stdout;
    assert_eq!(stdout, "0 blobs (0 B) removed, 17 kept\n");
}

#[test]
#[ignore = "needs skopeo"]
fn files_of_killed_pulls_are_removed_and_those_of_running_ones_are_not() {
    let (served, image) = Served::image("v1", &image_with_large_layer(60));
    let skopeo = newest_skopeo();
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let pulling = pull_with_stalled_layer(&scratch, &skopeo, &served, &image, &layout);
    let before = blobs(&layout);
    assert_eq!(before.len(), 2, "two layers, which no image names yet");
    let message = prune(&scratch, &layout).run().failed(1);
    assert!(
        message.contains("a pull into this layout is running"),
        "{message}"
    );
    assert_eq!(blobs(&layout), before);

    let mut waiting = prune(&scratch, &layout)
        .args(["--wait", "1h", "--json"])
        .start();
    assert!(!waiting.has_ended());
    assert_eq!(blobs(&layout), before);
    pulling.signal(Signal::SIGKILL);
    pulling.end_with_staging().assert_killed();
    let report = waiting.end().report();
    assert_eq!(removed(&report), before);
    assert_eq!(report["abandoned_pulls"], 1);
    assert!(
        report["abandoned_bytes"].as_u64() >= Some(1_000_000),
        "{report}"
    );
    assert_eq!(blobs(&layout), BTreeSet::new());
    assert_eq!(layout.unexpected_entries(), [""; 0]);
    layout.assert_valid();
}

#[test]
#[ignore = "needs skopeo"]
fn a_running_pull_keeps_the_unnamed_blobs_that_it_reuses() {
    // The registry is so slow that the pull is certainly stopped in the middle.
    let slow = Served::with(Options {
        bandwidth: Some(2_000_000),
        ..Options::default()
    });
    let base = small_image(4);
    let old = slow.add("old", &base);
    let new = slow.add("new", &base.layer_random(4_000_000, 70));
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    pull(&scratch, &slow, "old", &layout.tagged("old"))
        .run()
        .succeeded();
    forget_all(&layout);

    let mut pulling = pull(&scratch, &slow, "new", &layout.tagged("new"))
        .arg("--json")
        .start();
    pulling.wait_until("it is writing the new layer", |_| {
        layout.is_written_to(300_000)
    });
    pulling.signal(Signal::SIGSTOP);
    let before = blobs(&layout);
    prune(&scratch, &layout).run().failed(1);
    let waiting = prune(&scratch, &layout)
        .args(["--wait", "1h", "--json"])
        .start();
    assert_eq!(blobs(&layout), before);
    pulling.signal(Signal::SIGCONT);
    assert_eq!(pulling.end().report()["reused_blobs"], 3);
    let gone: BTreeSet<_> = blobs_of(&old)
        .difference(&blobs_of(&new))
        .cloned()
        .collect();
    assert_eq!(removed(&waiting.end().report()), gone);
    assert_eq!(blobs(&layout), blobs_of(&new));
    layout.assert_valid();
}

#[test]
#[ignore = "needs skopeo, strace"]
fn a_pull_that_starts_during_a_prune_waits_and_fetches_removed_blobs() {
    let (served, image) = Served::image("v1", &small_image(5));
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    pull(&scratch, &served, "v1", &layout.tagged("v1"))
        .run()
        .succeeded();
    forget_all(&layout);
    served.take_blob_gets();
    let count = blobs(&layout).len();

    let mut pruning = injected(&scratch, &layout, "unlinkat:signal=SIGSTOP:when=2").start();
    pruning.wait_until("two blobs are gone", |_| blobs(&layout).len() == count - 2);
    let opened = served.registry.manifest_gets();
    let mut pulling = pull(&scratch, &served, "v1", &layout.tagged("v1")).start();
    pulling.wait_until("it has opened the image", |_| {
        served.registry.manifest_gets() > opened
    });
    assert!(layout.staging().is_empty());
    pruning.signal(Signal::SIGCONT);
    let stdout = pruning.end().succeeded().stdout;
    assert!(stdout.contains(&format!("{count} blobs")), "{stdout}");
    pulling.end().succeeded();
    assert_eq!(served.take_blob_gets().len(), image.layers.len() + 1);
    assert_eq!(blobs(&layout), blobs_of(&image));
    layout.assert_valid();
}

/// A prune of which strace tampers with a system call. The command keeps its process.
fn injected(scratch: &Scratch, layout: &Layout, how: &str) -> Longshore {
    let strace = tools::system("strace");
    let log = scratch.path("strace").display().to_string();
    let inject = format!("inject={how}");
    let args = ["-D", "-f", "-qq", "-o", &log, "-e", &inject];
    prune(scratch, layout).under(strace.to_str().unwrap(), args)
}

#[test]
#[ignore = "needs skopeo, strace"]
fn a_prune_killed_at_any_system_call_leaves_a_valid_layout() {
    let (served, kept) = Served::image("kept", &small_image(6));
    served.add("gone", &small_image(7));
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let [gone, kept_too] = ["gone", "kept"].map(|tag| (tag, layout.tagged("v1")));
    for (tag, dest) in [gone, kept_too] {
        pull(&scratch, &served, tag, &dest).run().succeeded();
    }
    let mut kills = 0;
    for call in ["unlinkat", "fsync", "flock"] {
        for when in 1.. {
            let copy = scratch.layout(&format!("{call}-{when}"));
            output_of(
                Command::new("cp")
                    .arg("-a")
                    .args([layout.folder(), copy.folder()]),
            );
            let how = format!("{call}:signal=SIGKILL:when={when}");
            let run = injected(&scratch, &copy, &how).start().end_with_staging();
            copy.assert_valid();
            assert_eq!(copy.entries(), layout.entries());
            if !run.was_killed() {
                run.succeeded();
                break;
            }
            kills += 1;
            prune(&scratch, &copy).run().succeeded();
            assert_eq!(blobs(&copy), blobs_of(&kept), "{how}");
            assert_eq!(copy.unexpected_entries(), [""; 0]);
        }
    }
    // Five blobs are removed, and the index and its folder are synced before.
    assert!(kills >= 8, "{kills}");
}

#[test]
#[ignore = "needs skopeo"]
fn a_damaged_layout_is_refused_and_unchanged() {
    let (served, image) = Served::image("v1", &small_image(8));
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    pull(&scratch, &served, "v1", &layout.tagged("v1"))
        .run()
        .succeeded();
    served.add("stray", &small_image(9));
    pull(&scratch, &served, "stray", &layout.tagged("stray"))
        .run()
        .succeeded();
    let index = layout.folder().join("index.json");
    let manifest = layout.blob(&image.manifest_digest);
    let before = blobs(&layout);
    for (path, words) in [
        (&index, "index.json"),
        (&manifest, "Repair the layout first"),
    ] {
        let whole = fs::read(path).unwrap();
        fs::write(path, &whole[1..]).unwrap();
        for option in ["--json", "--dry-run"] {
            let message = prune(&scratch, &layout).arg(option).run().failed(1);
            assert!(message.contains(words), "{message}");
        }
        assert_eq!(blobs(&layout), before);
        fs::write(path, whole).unwrap();
    }
    let nowhere = scratch.layout("nowhere");
    let message = prune(&scratch, &nowhere).run().failed(1);
    assert!(message.contains("can't prune"), "{message}");
    assert!(!nowhere.folder().exists());
}
