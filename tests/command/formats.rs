//! Images of all sorts, from all sources: what is stored is valid, and equal to what was there.

use std::fs;
use std::io::Read;

use flate2::read::GzDecoder;
use longshore::oci_spec::image::{Descriptor, MediaType};
use serde_json::json;

use crate::harness::layout::hash;
use crate::harness::{
    ImageBuilder, Layout, Scratch, Served, assert_skopeo_accepts, newest_skopeo, skopeo_copy,
    skopeo_inspect, skopeos, small_image,
};
use test_registry::format::Compression;
use test_registry::image::write_index;
use test_registry::store::Store;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hash("sha256", bytes))
}

/// Checks that the layers of the config are the layers of the manifest, uncompressed.
#[track_caller]
fn assert_diff_ids_match(layout: &Layout, tag: &str) {
    let manifest = layout.manifest(tag);
    let config = layout.json(manifest["config"]["digest"].as_str().unwrap());
    let layers = manifest["layers"].as_array().unwrap().iter();
    let diff_ids = layers.map(|layer| {
        let bytes = fs::read(layout.blob(layer["digest"].as_str().unwrap())).unwrap();
        let mut tar = Vec::new();
        match GzDecoder::new(&bytes[..]).read_to_end(&mut tar) {
            Ok(_) => sha256(&tar),
            Err(_) => sha256(&bytes),
        }
    });
    let diff_ids: Vec<_> = diff_ids.collect();
    assert_eq!(config["rootfs"]["diff_ids"], json!(diff_ids));
}

#[test]
#[ignore = "needs skopeo"]
fn a_docker_image_is_stored_as_an_oci_image() {
    let image = small_image(1).docker_schema2().label("kept", "yes");
    let (served, image) = Served::image("v1", &image);
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let pull = || scratch.pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"));
        let report = pull().report();

        layout.assert_valid();
        assert_diff_ids_match(&layout, "v1");
        assert_eq!(
            report["images"][0]["digest"],
            image.manifest_digest.to_string()
        );
        assert_eq!(report["images"][0]["stored_digest"], layout.tags()["v1"]);
        assert_ne!(
            report["images"][0]["stored_digest"],
            report["images"][0]["digest"]
        );
        let manifest = layout.manifest("v1");
        assert_eq!(manifest["mediaType"], OCI_MANIFEST);
        for layer in manifest["layers"].as_array().unwrap() {
            assert_eq!(layer["mediaType"], format!("{OCI_LAYER}+gzip"));
        }
        assert_skopeo_accepts(&skopeo, &layout.tagged("v1"));
        let shown = skopeo_inspect(&skopeo, &[], &layout.tagged("v1"));
        assert_eq!(shown["Labels"]["kept"], "yes");
        assert_eq!(shown["Digest"], report["images"][0]["stored_digest"]);

        served.take_blob_gets();
        assert_eq!(pull().report()["fetched_blobs"], 0);
        let asked = served.take_blob_gets();
        let layers = image.layers.iter().map(|layer| layer.digest().to_string());
        for layer in layers {
            assert!(!asked.contains(&layer), "{layer} is asked for again");
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn the_requested_platform_is_chosen_from_an_index() {
    let served = Served::start();
    let arm = small_image(2).platform("linux", "arm64");
    let images = [small_image(3), arm.clone()];
    let written = write_index(served.folder.path(), "oci", &images).unwrap();
    let images = images.map(ImageBuilder::docker_schema2);
    let docker = write_index(served.folder.path(), "docker", &images).unwrap();
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("images");
        for (number, platform) in ["linux/amd64", "linux/arm64"].into_iter().enumerate() {
            for (tag, index) in [("oci", &written), ("docker", &docker)] {
                let report = scratch
                    .pull(&skopeo, &served.reference(tag), &layout.tagged(tag))
                    .args(["--platform", platform])
                    .report();
                assert_eq!(report["images"][0]["platform"], platform);
                let digest = index.images[number].manifest_digest.to_string();
                assert_eq!(report["images"][0]["digest"], digest);
                layout.assert_valid();
            }
            assert_eq!(
                layout.tags()["oci"],
                written.images[number].manifest_digest.to_string()
            );
            let copied = skopeo_inspect(&skopeo, &["--raw"], &layout.tagged("oci"));
            assert_eq!(copied["mediaType"], OCI_MANIFEST);
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_missing_platform_is_reported() {
    let served = Served::start();
    write_index(served.folder.path(), "v1", &[small_image(4)]).unwrap();
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let message = scratch
            .pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"))
            .args(["--platform", "linux/riscv64"])
            .run()
            .failed(1);
        assert!(message.contains("riscv64"), "{message}");
        assert!(message.contains("--platform"), "{message}");
        assert!(!layout.folder().exists());
    }
}

#[test]
#[ignore = "needs skopeo"]
fn layers_may_be_uncompressed() {
    let image = small_image(5).compression(Compression::None);
    let (served, image) = Served::image("v1", &image);
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        scratch
            .pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"))
            .run()
            .succeeded();
        layout.assert_valid();
        assert_diff_ids_match(&layout, "v1");
        assert_eq!(layout.tags()["v1"], image.manifest_digest.to_string());
        assert_skopeo_accepts(&skopeo, &layout.tagged("v1"));
    }
}

#[test]
#[ignore = "needs skopeo"]
fn layers_may_be_tiny_or_empty() {
    let image = ImageBuilder::new()
        .layer_blob(OCI_LAYER, "")
        .layer_blob(OCI_LAYER, "x")
        .layer_random(1000, 6);
    let (served, image) = Served::image("v1", &image);
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let pull = || scratch.pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"));
        let report = pull().report();
        assert_eq!(report["fetched_blobs"], 4);
        layout.assert_valid();
        assert_eq!(
            fs::read(layout.blob(image.layers[0].digest())).unwrap(),
            b""
        );
        assert_eq!(
            fs::read(layout.blob(image.layers[1].digest())).unwrap(),
            b"x"
        );
        assert_eq!(pull().report()["reused_blobs"], 3);
        assert_skopeo_accepts(&skopeo, &layout.tagged("v1"));
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_image_may_have_no_layers() {
    let (served, _) = Served::image("v1", &ImageBuilder::new());
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let report = scratch
            .pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"))
            .report();
        assert_eq!(report["images"][0]["layers"], 0);
        assert_eq!(report["fetched_blobs"], 1);
        layout.assert_valid();
        assert_skopeo_accepts(&skopeo, &layout.tagged("v1"));
    }
}

/// Writes an image whose only layer has a sha512 digest, and returns this digest.
fn write_sha512_image(layout: &Layout) -> String {
    let image = ImageBuilder::new().layer_random(10_000, 7);
    let image = image.write(layout.folder(), "v1").unwrap();
    let layer = fs::read(layout.blob(image.layers[0].digest())).unwrap();
    let digest = format!("sha512:{}", hash("sha512", &layer));
    fs::create_dir(layout.folder().join("blobs/sha512")).unwrap();
    fs::write(layout.blob(&digest), layer).unwrap();

    let mut manifest = layout.manifest("v1");
    manifest["layers"][0]["digest"] = json!(digest);
    let manifest = manifest.to_string().into_bytes();
    fs::write(layout.blob(sha256(&manifest)), &manifest).unwrap();
    let entry = json!({
        "mediaType": OCI_MANIFEST,
        "digest": sha256(&manifest),
        "size": manifest.len(),
        "annotations": { "org.opencontainers.image.ref.name": "v1" },
    });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    fs::write(layout.folder().join("index.json"), index.to_string()).unwrap();
    digest
}

#[test]
#[ignore = "needs skopeo"]
fn a_layer_may_have_a_sha512_digest() {
    let served = Served::start();
    let digest = write_sha512_image(&Layout::new(served.folder.path().to_owned()));
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let pull = || scratch.pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"));
        pull().run().succeeded();
        assert!(layout.has(&digest));
        layout.assert_valid();
        // skopeo can't copy this image, because it uses only sha256 for names.
        let shown = skopeo_inspect(&skopeo, &[], &layout.tagged("v1"));
        assert_eq!(shown["Layers"], json!([digest]));
        served.take_blob_gets();
        pull().run().succeeded();
        assert_eq!(served.take_blob_gets(), [""; 0]);
    }
}

#[test]
#[ignore = "needs skopeo"]
fn zstd_layers_are_stored_as_they_are() {
    // Nothing parses the layer.
    let media_type = "application/vnd.oci.image.layer.v1.tar+zstd";
    let image = ImageBuilder::new().layer_blob(media_type, "not even zstd");
    let (served, image) = Served::image("v1", &image);
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        scratch
            .pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"))
            .run()
            .succeeded();
        layout.assert_valid();
        assert_eq!(layout.tags()["v1"], image.manifest_digest.to_string());
    }
}

/// Checks that exactly those layers are compressed whose media type says so.
#[track_caller]
fn assert_labels_are_right(layout: &Layout, tag: &str) {
    let manifest = layout.manifest(tag);
    for layer in manifest["layers"].as_array().unwrap() {
        let blob = fs::read(layout.blob(layer["digest"].as_str().unwrap())).unwrap();
        let is_gzip = blob.starts_with(&[0x1f, 0x8b]);
        let media_type = layer["mediaType"].as_str().unwrap();
        assert_eq!(media_type.ends_with("gzip"), is_gzip, "{layer}");
    }
}

/// Adds a layer to an image that is stored elsewhere. Returns the digest of the layer, and the new digest
/// of the manifest.
fn add_foreign_layer(served: &Served, tag: &str) -> (String, String) {
    let layout = Layout::new(served.folder.path().to_owned());
    let mut manifest = layout.manifest(tag);
    let foreign = format!("sha256:{}", "f".repeat(64));
    manifest["layers"].as_array_mut().unwrap().push(json!({
        "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "digest": foreign,
        "size": 7,
        "urls": ["https://example.com/layer"],
    }));
    let store = Store::open(served.folder.path()).unwrap();
    let blob = store.put(manifest.to_string().as_bytes()).unwrap();
    let descriptor = Descriptor::new(MediaType::ImageManifest, blob.size, blob.digest);
    store.tag(&descriptor, tag).unwrap();
    (foreign, descriptor.digest().to_string())
}

/// `skopeo copy` does the same. The container runtime fetches these layers from the addresses in
/// their descriptors.
#[test]
#[ignore = "needs skopeo"]
fn foreign_layers_are_left_out_with_a_warning() {
    for skopeo in skopeos() {
        let served = Served::start();
        let image = served.add("v1", &small_image(1));
        let (foreign, digest) = add_foreign_layer(&served, "v1");
        let scratch = Scratch::new();
        let pulled = scratch.layout("image");
        let run = scratch
            .pull(&skopeo, &served.reference("v1"), &pulled.tagged("v1"))
            .arg("--json")
            .run();
        assert!(run.stderr.contains("foreign layer"), "{run}");
        assert!(run.stderr.contains("https://example.com/layer"), "{run}");
        let report = run.report();
        assert_eq!(report["foreign_layers"], json!([foreign]));
        assert!(image.layers.iter().all(|layer| pulled.has(layer.digest())));
        assert_eq!(pulled.tags()["v1"], digest);
    }
}

#[test]
#[ignore = "needs skopeo"]
fn each_image_gets_a_warning_and_a_shared_foreign_layer_is_reported_once() {
    let served = Served::start();
    let tags = ["v1", "v2"];
    let mut foreign = String::new();
    for (seed, tag) in tags.iter().enumerate() {
        served.add(tag, &small_image(seed as u64));
        foreign = add_foreign_layer(&served, tag).0;
    }
    let images = tags.map(|tag| served.reference(tag));
    let scratch = Scratch::new();
    let run = scratch
        .pull(&newest_skopeo(), &images[0], &images[1])
        .args(["oci:images", "--json"])
        .run();
    for image in images {
        let warning = format!("warning: {image}: foreign layer {foreign} is left out");
        assert_eq!(run.stderr.matches(&warning).count(), 1, "{run}");
    }
    assert_eq!(run.report()["foreign_layers"], json!([foreign]));
}

#[test]
#[ignore = "needs skopeo"]
fn an_image_for_another_platform_is_pulled_with_a_warning() {
    let (served, _) = Served::image("v1", &small_image(1).platform("linux", "amd64"));
    let scratch = Scratch::new();
    for (platform, warned) in [("linux/s390x", true), ("linux/amd64", false)] {
        let run = scratch
            .pull(&newest_skopeo(), &served.reference("v1"), "oci:image:v1")
            .args(["--platform", platform])
            .run()
            .succeeded();
        let warning = "is for linux/amd64, not for linux/s390x";
        assert_eq!(run.stderr.contains(warning), warned, "{run}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn images_are_pulled_from_any_transport() {
    let scratch = Scratch::new();
    let source = scratch.layout("source");
    let image = small_image(8).write(source.folder(), "v1").unwrap();
    let path = |name: &str| scratch.path(name).display().to_string();
    let sources = [
        source.tagged("v1"),
        format!("dir:{}", path("dir")),
        format!("oci-archive:{}:v1", path("oci.tar")),
        format!("docker-archive:{}:image:v1", path("docker.tar")),
    ];
    for copy in &sources[1..] {
        skopeo_copy(&newest_skopeo(), &sources[0], copy);
    }
    for skopeo in skopeos() {
        for (number, from) in sources.iter().enumerate() {
            let layout = scratch.layout(&format!("{}-{number}", skopeo.protocol));
            let report = scratch.pull(&skopeo, from, &layout.tagged("v1")).report();
            assert_eq!(report["images"][0]["layers"], 3, "{from}");
            layout.assert_valid();
            assert_diff_ids_match(&layout, "v1");
            assert_labels_are_right(&layout, "v1");
            assert_skopeo_accepts(&skopeo, &layout.tagged("v1"));
            if !from.starts_with("docker-archive:") {
                let digest = image.manifest_digest.to_string();
                assert_eq!(layout.tags()["v1"], digest, "{from}");
            }
            assert_eq!(
                scratch.pull(&skopeo, from, &layout.tagged("v1")).report()["reused_blobs"],
                3
            );
        }
    }
}
