//! What `longshore inspect` shows of an image, without fetching its layers.

use std::fs;

use longshore::oci_spec::image::Digest;
use serde_json::{Value, json};

use crate::harness::{
    Longshore, Scratch, Served, newest_skopeo, skopeo_copy, skopeo_inspect, skopeos, small_image,
};
use test_registry::image::write_index;
use test_support::sha256;

/// The digests of the uncompressed layers of an image, from its config.
fn diff_ids(served: &Served, config: &str) -> Vec<String> {
    let layout = crate::harness::Layout::new(served.folder.path().to_owned());
    let config = layout.json(config);
    serde_json::from_value(config["rootfs"]["diff_ids"].clone()).unwrap()
}

#[test]
#[ignore = "needs skopeo"]
fn json_is_one_object_with_these_fields() {
    let image = small_image(1)
        .created("2024-02-29T12:00:00Z")
        .label("maintainer", "nobody");
    let (served, image) = Served::image("v1", &image);
    let diff_ids = diff_ids(&served, image.config_digest.as_ref());
    let layers = image.layers.iter().zip(diff_ids).enumerate();
    let layers = layers.map(|(index, (layer, diff_id))| {
        json!({
            "index": index,
            "media_type": "application/vnd.oci.image.layer.v1.tar+gzip",
            "size": layer.size(),
            "digest": layer.digest(),
            "diff_id": diff_id,
        })
    });
    let expected = json!({
        "image": served.reference("v1"),
        "digest": image.manifest_digest,
        "platform": "linux/amd64",
        "created": "2024-02-29T12:00:00Z",
        "config": { "Labels": { "maintainer": "nobody" } },
        "layers": layers.collect::<Vec<_>>(),
    });
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        served.take_blob_gets();
        let report = scratch.inspect(&skopeo, &served.reference("v1")).report();
        assert_eq!(report, expected);
        let config = image.config_digest.to_string();
        assert_eq!(served.take_blob_gets(), [config], "no layer");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn text_has_a_line_for_each_layer_and_fits_80_columns() {
    let image = small_image(2)
        .label("maintainer", "nobody")
        .label("long", &"x ".repeat(100));
    let (served, image) = Served::image("v1", &image);
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let run = scratch.inspect(&skopeo, &served.reference("v1"));
        let run = run.run().succeeded();
        assert_eq!(run.stderr, "");
        let line = |start: &str| {
            let mut lines = run.stdout.lines();
            lines.find(|line| line.starts_with(start)).unwrap()
        };
        assert!(line("image ").ends_with(&served.reference("v1")));
        assert!(line("digest ").ends_with(image.manifest_digest.as_ref()));
        assert!(line("platform ").ends_with(" linux/amd64"));
        assert!(line("created ").ends_with(" 1970-01-01T00:00:00Z"));
        assert!(run.stdout.contains("maintainer=nobody"), "{run}");
        assert!(line("layers ").contains(" 3, "));
        for (number, layer) in image.layers.iter().enumerate() {
            let line = line(&format!("    {number}  "));
            assert!(line.contains(&layer.digest().digest()[..12]), "{line}");
            assert!(line.ends_with("  tar+gzip"), "{line}");
        }
        assert!(run.stdout.lines().all(|line| line.len() <= 80), "{run}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_platform_can_be_chosen() {
    let served = Served::start();
    let images = [small_image(3), small_image(4).platform("linux", "arm64")];
    let index = write_index(served.folder.path(), "v1", &images).unwrap();
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let inspect = scratch.inspect(&skopeo, &served.reference("v1"));
        let report = inspect.args(["--platform", "linux/arm64"]).report();
        assert_eq!(report["platform"], "linux/arm64");
        let digest = index.images[1].manifest_digest.to_string();
        assert_eq!(report["digest"], digest);
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_docker_image_is_shown_with_the_digest_at_its_registry() {
    let (served, image) = Served::image("v1", &small_image(5).docker_schema2());
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let report = scratch.inspect(&skopeo, &served.reference("v1")).report();
        assert_eq!(report["digest"], image.manifest_digest.to_string());
        let shown = skopeo_inspect(&skopeo, &[], &served.reference("v1"));
        assert_eq!(report["digest"], shown["Digest"]);
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_pulled_image_is_inspected_like_its_source() {
    let (served, _) = Served::image("v1", &small_image(6));
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let skopeo = newest_skopeo();
    let source = served.reference("v1");
    scratch
        .pull(&skopeo, &source, &layout.tagged("v1"))
        .run()
        .succeeded();
    let mut there = scratch.inspect(&skopeo, &source).report();
    let here = scratch.inspect(&skopeo, &layout.tagged("v1")).report();
    there["image"] = here["image"].clone();
    assert_eq!(there, here);
}

#[test]
#[ignore = "needs skopeo"]
fn text_of_an_image_cant_control_the_terminal() {
    let nasty = "\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}31mred\u{7f}\r\nlayers 0\u{202e}";
    let image = small_image(7)
        .label("nasty", nasty)
        .layer_blob(format!("x/{nasty}"), "layer")
        .created("1970-01-01T00:00:00Z");
    let (served, _) = Served::image("v1", &image);
    let scratch = Scratch::new();
    let skopeo = newest_skopeo();
    let inspect = || scratch.inspect(&skopeo, &served.reference("v1"));
    let pull = |name: &str| {
        let dest = scratch.layout(name).tagged("v1");
        scratch.pull(&skopeo, &served.reference("v1"), &dest)
    };
    for run in [
        inspect(),
        inspect().arg("--json"),
        pull("a"),
        pull("b").arg("--json"),
        pull("c").arg("-v").env("RUST_LOG", "trace"),
    ] {
        let run = run.run().succeeded();
        for message in [&run.stdout, &run.stderr] {
            let control = |c: char| c.is_control() && !"\n\t".contains(c);
            let control = message.chars().find(|c| control(*c));
            assert_eq!(control, None, "{message:?}");
            assert!(!message.contains("\nlayers 0"), "{message:?}");
        }
    }
    let run = inspect().run().succeeded();
    assert!(!run.stdout.contains('\u{202e}'), "{run}");
    let report = inspect().report();
    assert_eq!(report["config"]["Labels"]["nasty"], nasty);
}

#[test]
#[ignore = "needs skopeo"]
fn a_long_media_type_is_shortened() {
    let image = small_image(9).layer_blob(format!("x/{}", "x".repeat(100_000)), "layer");
    let (served, _) = Served::image("v1", &image);
    let scratch = Scratch::new();
    let inspect = scratch.inspect(&newest_skopeo(), &served.reference("v1"));
    let run = inspect.run().succeeded();
    assert!(run.stdout.lines().all(|line| line.len() <= 80), "{run}");
}

#[test]
#[ignore = "needs skopeo"]
fn a_missing_image_is_reported() {
    let (served, _) = Served::image("v1", &small_image(8));
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let image = served.reference("v2");
        let message = scratch.inspect(&skopeo, &image).run().failed(1);
        let start = format!("longshore: can't inspect {image}: ");
        assert!(message.starts_with(&start), "{message}");
        assert!(message.contains("manifest unknown"), "{message}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_single_image_for_another_platform_is_shown_with_a_warning() {
    let (served, _) = Served::image("v1", &small_image(1).platform("linux", "amd64"));
    let scratch = Scratch::new();
    for (platform, warned) in [("linux/s390x", true), ("linux/amd64", false)] {
        let inspect = scratch.inspect(&newest_skopeo(), &served.reference("v1"));
        let run = inspect.args(["--platform", platform]).run().succeeded();
        let warning = run.stderr.contains("warning") && run.stderr.contains("linux/amd64");
        assert_eq!(warning, warned, "{platform}: {run}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn all_platforms_of_an_index_are_listed_and_no_image_is_opened() {
    let served = Served::start();
    let images = [
        small_image(10),
        small_image(11).platform("linux", "arm64"),
        small_image(12).platform("unknown", "unknown"),
    ];
    let index = write_index(served.folder.path(), "v1", &images).unwrap();
    let layout = crate::harness::Layout::new(served.folder.path().to_owned());
    let raw = fs::read(layout.blob(index.digest.as_ref())).unwrap();
    let platforms = ["linux/amd64", "linux/arm64", "unknown/unknown"];
    let expected = index.images.iter().zip(platforms).map(|(image, platform)| {
        let manifest = fs::read(layout.blob(image.manifest_digest.as_ref())).unwrap();
        json!({
            "platform": platform,
            "os_version": null,
            "digest": image.manifest_digest,
            "size": manifest.len(),
            "media_type": "application/vnd.oci.image.manifest.v1+json",
            "annotations": {},
        })
    });
    let expected = json!({
        "image": served.reference("v1"),
        "digest": index.digest,
        "size": raw.len(),
        "is_index": true,
        "platforms": expected.collect::<Vec<_>>(),
    });
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let inspect = || {
            let inspect = scratch.inspect(&skopeo, &served.reference("v1"));
            inspect.args(["--platform", "all"])
        };
        let before = served.registry.requests().len();
        assert_eq!(inspect().report(), expected);
        let requests = served.registry.requests();
        let of_images = requests[before..].iter().filter(|request| {
            let mut images = index.images.iter();
            images.any(|image| request.path.contains(image.manifest_digest.as_ref()))
        });
        assert_eq!(of_images.count(), 0);
        let run = inspect().run().succeeded();
        assert!(run.stdout.contains(index.digest.as_ref()), "{run}");
        for (image, platform) in index.images.iter().zip(platforms) {
            let digest = &image.manifest_digest.digest()[..12];
            let line = run.stdout.lines().find(|line| line.contains(digest));
            assert!(line.unwrap().ends_with(platform), "{run}");
        }
        assert!(run.stdout.lines().all(|line| line.len() <= 80), "{run}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_single_image_has_no_list_of_platforms() {
    let (served, image) = Served::image("v1", &small_image(13));
    let scratch = Scratch::new();
    let inspect = || {
        let inspect = scratch.inspect(&newest_skopeo(), &served.reference("v1"));
        inspect.args(["--platform", "all"])
    };
    let report = inspect().report();
    assert_eq!(report["is_index"], false);
    assert_eq!(report["platforms"][0]["platform"], json!(null));
    let digest = json!(image.manifest_digest);
    assert_eq!(report["platforms"][0]["digest"], digest);
    let run = inspect().run().succeeded();
    assert!(run.stdout.contains("single image"), "{run}");
}

/// Checks that the command prints these bytes with this option, and says nothing.
#[track_caller]
fn assert_prints(inspect: Longshore, option: &str, expected: &[u8]) {
    let run = inspect.arg(option).run().succeeded();
    assert_eq!(run.stderr, "");
    assert_eq!(run.stdout.as_bytes(), expected, "{option}");
}

#[test]
#[ignore = "needs skopeo"]
fn documents_are_printed_byte_for_byte() {
    let served = Served::start();
    let images = [small_image(14), small_image(15).platform("linux", "arm64")];
    let index = write_index(served.folder.path(), "v1", &images).unwrap();
    let docker = served.add("v2", &small_image(16).docker_schema2());
    let layout = crate::harness::Layout::new(served.folder.path().to_owned());
    let blob = |digest: &Digest| fs::read(layout.blob(digest.as_ref())).unwrap();
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let inspect = |tag| scratch.inspect(&skopeo, &served.reference(tag));
        let arm = |tag| inspect(tag).args(["--platform", "linux/arm64"]);
        assert_prints(inspect("v1"), "--raw", &blob(&index.digest));
        let [amd64, arm64] = &index.images[..] else {
            panic!("two images");
        };
        assert_prints(inspect("v1"), "--manifest", &blob(&amd64.manifest_digest));
        assert_prints(arm("v1"), "--manifest", &blob(&arm64.manifest_digest));
        assert_prints(inspect("v1"), "--config", &blob(&amd64.config_digest));
        assert_prints(arm("v1"), "--config", &blob(&arm64.config_digest));
        // The proxy hands out this one only in a converted form.
        assert_prints(inspect("v2"), "--raw", &blob(&docker.manifest_digest));
        assert_prints(inspect("v2"), "--manifest", &blob(&docker.manifest_digest));
        assert_prints(inspect("v2"), "--config", &blob(&docker.config_digest));
    }
}

#[test]
#[ignore = "needs skopeo"]
fn documents_of_an_archive_are_those_of_its_source() {
    let (served, _) = Served::image("v1", &small_image(17));
    let scratch = Scratch::new();
    let archive = format!("docker-archive:{}:a:b", scratch.path("image.tar").display());
    skopeo_copy(&newest_skopeo(), &served.reference("v1"), &archive);
    for skopeo in skopeos() {
        let inspect = || scratch.inspect(&skopeo, &archive);
        let raw = inspect().arg("--raw").run().succeeded().stdout;
        assert_prints(inspect(), "--manifest", raw.as_bytes());
        let manifest: Value = serde_json::from_str(&raw).unwrap();
        let config = inspect().arg("--config").run().succeeded().stdout;
        let digest = manifest["config"]["digest"].as_str().unwrap();
        assert_eq!(sha256(config.as_bytes()).as_ref(), digest);
        let digest = inspect().report()["digest"].clone();
        assert_eq!(digest, json!(sha256(raw.as_bytes())));
    }
}
