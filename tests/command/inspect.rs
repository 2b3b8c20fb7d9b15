//! What `longshore inspect` shows of an image, without fetching its layers.

use serde_json::json;

use crate::harness::{Scratch, Served, newest_skopeo, skopeo_inspect, skopeos, small_image};
use test_registry::image::write_index;

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
fn text_has_a_line_for_each_layer() {
    let image = small_image(2).label("maintainer", "nobody");
    let (served, image) = Served::image("v1", &image);
    let diff_ids = diff_ids(&served, image.config_digest.as_ref());
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
        assert!(line("labels ").contains("nobody"));
        assert!(line("layers ").contains(" 3, "));
        for (number, (layer, diff_id)) in image.layers.iter().zip(&diff_ids).enumerate() {
            let line = line(&format!("    {number}  "));
            assert!(line.contains(layer.digest().as_ref()), "{line}");
            assert!(line.ends_with(diff_id), "{line}");
        }
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
fn a_docker_image_goes_by_the_digest_that_its_registry_knows() {
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
fn an_images_words_cant_control_the_terminal() {
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
        for said in [&run.stdout, &run.stderr] {
            let control = |c: char| c.is_control() && !"\n\t".contains(c);
            let control = said.chars().find(|c| control(*c));
            assert_eq!(control, None, "{said:?}");
            assert!(!said.contains("\nlayers 0"), "{said:?}");
        }
    }
    let run = inspect().run().succeeded();
    assert!(!run.stdout.contains('\u{202e}'), "{run}");
    let report = inspect().report();
    assert_eq!(report["config"]["Labels"]["nasty"], nasty);
}

#[test]
#[ignore = "needs skopeo"]
fn a_media_type_without_end_widens_no_other_line() {
    let image = small_image(9).layer_blob(format!("x/{}", "x".repeat(100_000)), "layer");
    let (served, _) = Served::image("v1", &image);
    let scratch = Scratch::new();
    let inspect = scratch.inspect(&newest_skopeo(), &served.reference("v1"));
    let run = inspect.run().succeeded();
    let long = run.stdout.lines().filter(|line| line.len() > 1000).count();
    assert_eq!(long, 1);
}

#[test]
#[ignore = "needs skopeo"]
fn an_image_that_is_not_there_is_told() {
    let (served, _) = Served::image("v1", &small_image(8));
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let image = served.reference("v2");
        let said = scratch.inspect(&skopeo, &image).run().failed(1);
        let start = format!("longshore: can't inspect {image}: ");
        assert!(said.starts_with(&start), "{said}");
        assert!(said.contains("manifest unknown"), "{said}");
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
