//! `--platform all`, and several images in one run.

use crate::harness::{Scratch, Served, assert_skopeo_accepts, newest_skopeo, skopeos, small_image};
use test_registry::image::write_index;

#[test]
#[ignore = "needs skopeo"]
fn all_platforms_come_with_their_index_as_it_is() {
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
fn an_index_of_docker_images_is_written_anew_for_the_converted_ones() {
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
fn a_single_image_is_no_index() {
    let (served, _) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let said = scratch
        .pull(&newest_skopeo(), &served.reference("v1"), "oci:image")
        .args(["--platform", "all"])
        .run()
        .failed(1);
    assert!(said.contains("not an index"), "{said}");
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
