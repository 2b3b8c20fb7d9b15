//! A layout stays valid, whatever happens to the pulls into it, and complete blobs are not fetched again.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::harness::{
    ImageBuilder, Layout, Running, Scratch, Served, Skopeo, assert_skopeo_accepts, newest_skopeo,
    skopeos, small_image, sorted,
};
use test_registry::image::Written;
use test_registry::server::Options;

/// The layer whose bytes stop during a pull. It is the largest, so that a part of it gets through all buffers
/// into a file.
pub(crate) const STALLED_LAYER: usize = 1;

pub(crate) fn image_with_large_layer(seed: u64) -> ImageBuilder {
    ImageBuilder::new()
        .layer_random(20_000, seed)
        .layer_random(4_000_000, seed + 1)
        .layer_random(10_000, seed + 2)
}

/// A pull that has asked for the config, has stored all layers but this one, and has a part of this one, of
/// which no more bytes arrive.
#[track_caller]
pub(crate) fn pull_with_stalled_layer(
    scratch: &Scratch,
    skopeo: &Skopeo,
    served: &Served,
    image: &Written,
    layout: &Layout,
) -> Running {
    served.faults(&["blob#1:stall=half"]);
    let configs = || served.registry.blob_gets(&image.config_digest);
    let before = configs();
    let pull = scratch.pull(skopeo, &served.reference("v1"), &layout.tagged("v1"));
    let mut pull = pull.start();
    pull.wait_until("all but one layer are stored, and that one in part", |_| {
        let others = [&image.layers[0], &image.layers[2]];
        others.iter().all(|layer| layout.has(layer.digest()))
            && layout.is_written_to(1_000_000)
            && configs() > before
    });
    served.faults(&[]);
    served.take_blob_gets();
    pull
}

/// The blobs that a pull fetches if all layers but one are there. The config is fetched again, because it is
/// stored at the end with the manifest.
fn missing(image: &Written) -> Vec<String> {
    let missing = [&image.config_digest, image.layers[STALLED_LAYER].digest()];
    sorted(missing.map(ToString::to_string).to_vec())
}

#[test]
#[ignore = "needs skopeo"]
fn a_killed_pull_leaves_a_valid_layout_and_the_next_one_continues() {
    let (served, image) = Served::image("v1", &image_with_large_layer(10));
    let earlier = served.add("earlier", &small_image(1));
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let pull = |tag: &str| scratch.pull(&skopeo, &served.reference(tag), &layout.tagged(tag));
        pull("earlier").run().succeeded();

        let killed = pull_with_stalled_layer(&scratch, &skopeo, &served, &image, &layout);
        killed.signal(Signal::SIGKILL);
        killed.end_with_staging().assert_killed();
        assert_eq!(layout.staging().len(), 1, "there is something to sweep");
        layout.assert_valid();
        assert!(!layout.has(image.layers[STALLED_LAYER].digest()));
        assert_eq!(
            layout.entries(),
            [(
                Some("earlier".to_owned()),
                earlier.manifest_digest.to_string()
            )]
        );
        assert_skopeo_accepts(&skopeo, &layout.tagged("earlier"));

        let report = pull("v1").report();
        assert_eq!(
            sorted(served.take_blob_gets()),
            missing(&image),
            "{skopeo:?}"
        );
        assert_eq!(report["reused_blobs"], 2);
        assert_eq!(layout.unexpected_entries(), [""; 0]);
        layout.assert_valid();
        assert!(layout.tags().keys().eq(["earlier", "v1"]));
        assert_skopeo_accepts(&skopeo, &layout.tagged("v1"));
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_pull_killed_before_there_was_an_image_leaves_a_valid_layout() {
    let (served, image) = Served::image("v1", &image_with_large_layer(20));
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let skopeo = newest_skopeo();
    let killed = pull_with_stalled_layer(&scratch, &skopeo, &served, &image, &layout);
    killed.signal(Signal::SIGKILL);
    killed.end_with_staging().assert_killed();
    layout.assert_valid();
    assert_eq!(layout.entries(), []);
    scratch
        .pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"))
        .run()
        .succeeded();
    layout.assert_valid();
}

#[test]
#[ignore = "needs skopeo"]
fn an_interrupted_pull_leaves_only_complete_blobs() {
    let (served, image) = Served::image("v1", &image_with_large_layer(30));
    for skopeo in skopeos() {
        for (signal, code, word) in [
            (Signal::SIGINT, 130, "interrupted"),
            (Signal::SIGTERM, 143, "terminated"),
        ] {
            let scratch = Scratch::new();
            let layout = scratch.layout("image");
            let pull = pull_with_stalled_layer(&scratch, &skopeo, &served, &image, &layout);
            pull.signal(signal);
            let message = pull.end().failed(code);
            let last = message.lines().last().unwrap_or_default();
            let expected =
                format!("longshore: {word}: ending skopeo and removing incomplete files");
            assert!(last.starts_with(&expected), "{message}");
            assert_eq!(layout.unexpected_entries(), [""; 0]);
            layout.assert_valid();

            scratch
                .pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"))
                .run()
                .succeeded();
            assert_eq!(
                sorted(served.take_blob_gets()),
                missing(&image),
                "{skopeo:?}"
            );
            layout.assert_valid();
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_interrupted_first_request_leaves_nothing() {
    let (served, _) = Served::image("v1", &small_image(2));
    served.faults(&["manifest:headers-never"]);
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let before = served.registry.manifest_gets();
        let mut pull = scratch
            .pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"))
            .start();
        pull.wait_until("it waits for the manifest", |_| {
            served.registry.manifest_gets() > before
        });
        pull.signal(Signal::SIGINT);
        let message = pull.end().failed(130);
        assert!(message.starts_with("longshore: interrupted: "), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(!layout.folder().exists());
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_failed_pull_leaves_the_layout_as_it_was() {
    let (served, _) = Served::image("good", &small_image(3));
    let shared = small_image(3).layer_random(50_000, 44);
    let bad = served.add("bad", &shared);
    let [.., last] = &bad.layers[..] else {
        panic!("it has layers")
    };
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let pull = |tag: &str| scratch.pull(&skopeo, &served.reference(tag), &layout.tagged(tag));
        served.faults(&[]);
        pull("good").run().succeeded();
        let before = layout.entries();
        for fault in ["corrupt", "cut=half", "shorter=1", "longer=1", "status=404"] {
            let blob = format!("blob@{}:{fault}", last.digest());
            served.faults(&[&blob]);
            // An old skopeo does not report that a blob ends early.
            pull("bad")
                .args(["--stall-timeout", "1", "--retries", "0"])
                .run()
                .failed(1);
            layout.assert_valid();
            assert_eq!(layout.entries(), before, "{fault}");
            assert_eq!(layout.unexpected_entries(), [""; 0], "{fault}");
            assert!(!layout.has(last.digest()), "{fault}");
        }
        served.faults(&[]);
        pull("bad").run().succeeded();
        layout.assert_valid();
        assert!(layout.tags().keys().eq(["bad", "good"]));
    }
}

#[test]
#[ignore = "needs skopeo"]
fn the_staging_folder_of_a_running_pull_is_not_removed() {
    // The registry is so slow that the first pull is certainly stopped in the middle.
    let slow = Served::with(Options {
        bandwidth: Some(2_000_000),
        ..Options::default()
    });
    slow.add("slow", &image_with_large_layer(50));
    let (quick, _) = Served::image("quick", &small_image(4));
    let skopeo = newest_skopeo();
    let scratch = Scratch::new();
    let layout = scratch.layout("images");
    let mut first = scratch
        .pull(&skopeo, &slow.reference("slow"), &layout.tagged("slow"))
        .start();
    first.wait_until("it is writing a layer", |_| layout.is_written_to(300_000));
    first.signal(Signal::SIGSTOP);
    let working: Vec<PathBuf> = layout.staging();
    assert_eq!(working.len(), 1);

    scratch
        .pull(&skopeo, &quick.reference("quick"), &layout.tagged("quick"))
        .run()
        .succeeded();
    assert_eq!(layout.staging(), working);
    layout.assert_valid();

    first.signal(Signal::SIGCONT);
    first.end().succeeded();
    layout.assert_valid();
    assert_eq!(layout.unexpected_entries(), [""; 0]);
    assert!(layout.tags().keys().eq(["quick", "slow"]));
    assert_skopeo_accepts(&skopeo, &layout.tagged("slow"));
}

#[test]
#[ignore = "needs skopeo"]
fn only_staging_folders_of_dead_pulls_are_removed() {
    let (served, _) = Served::image("v1", &small_image(5));
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let pull = || {
        let reference = served.reference("v1");
        scratch.pull(&newest_skopeo(), &reference, &layout.tagged("v1"))
    };
    pull().run().succeeded();
    for name in [".longshore-1-0", ".longshore-99999999-7", ".other", "mine"] {
        let folder = layout.folder().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("0"), "half a blob").unwrap();
        // Pulls of this host write its boot id. A folder that may be another host's must be old.
        let here = fs::read("/proc/sys/kernel/random/boot_id").unwrap();
        fs::write(folder.join("lock"), here).unwrap();
    }
    pull().run().succeeded();
    let mut left = layout.unexpected_entries();
    left.sort();
    assert_eq!(left, [".other", "mine"]);
    layout.assert_valid();
}

#[test]
#[ignore = "needs skopeo"]
fn concurrent_pulls_into_one_layout_succeed() {
    const PULLS: u64 = 5;
    let served = Served::start();
    let shared = small_image(6);
    let tag = |number| format!("v{number}");
    for number in 0..PULLS {
        let image = shared.clone().layer_random(30_000, 60 + number);
        served.add(&tag(number), &image);
    }
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("images");
        let pulls = (0..PULLS).map(|number| {
            let (image, dest) = (served.reference(&tag(number)), layout.tagged(&tag(number)));
            scratch.pull(&skopeo, &image, &dest).start()
        });
        let pulls: Vec<_> = pulls.collect();
        for pull in pulls {
            pull.end().succeeded();
        }
        layout.assert_valid();
        assert_eq!(layout.unexpected_entries(), [""; 0]);
        let tags: Vec<_> = (0..PULLS).map(tag).collect();
        assert!(layout.tags().keys().eq(&tags));
        for tag in tags {
            assert_skopeo_accepts(&skopeo, &layout.tagged(&tag));
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn concurrent_pulls_of_one_image_into_one_layout_succeed() {
    let (served, image) = Served::image("v1", &small_image(7));
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let pull = || {
        let reference = served.reference("v1");
        scratch.pull(&newest_skopeo(), &reference, &layout.tagged("v1"))
    };
    let pulls: Vec<_> = (0..5).map(|_| pull().start()).collect();
    for pull in pulls {
        pull.end().succeeded();
    }
    layout.assert_valid();
    let entry = (Some("v1".to_owned()), image.manifest_digest.to_string());
    assert_eq!(layout.entries(), [entry]);
    assert_eq!(layout.unexpected_entries(), [""; 0]);
}
