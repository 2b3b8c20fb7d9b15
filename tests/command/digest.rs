//! `longshore digest` prints one line: the digest by which others know the image.

use std::fs;

use serde_json::json;

use crate::harness::{
    Longshore, Scratch, Served, Skopeo, newest_skopeo, output_of, skopeo_copy, skopeos, small_image,
};
use test_registry::image::write_index;

fn digest(scratch: &Scratch, skopeo: &Skopeo, image: &str) -> Longshore {
    let command = scratch.longshore();
    let command = command.args(["digest", "--tls-verify=false", "--skopeo"]);
    command.args([skopeo.path.to_str().unwrap(), image])
}

#[track_caller]
fn assert_prints(digest: Longshore, expected: impl AsRef<str>) {
    let run = digest.run().succeeded();
    assert_eq!(run.stderr, "");
    assert_eq!(run.stdout, format!("{}\n", expected.as_ref()));
}

#[test]
#[ignore = "needs skopeo"]
fn the_digest_is_that_of_the_index_or_of_the_platforms_manifest() {
    let served = Served::start();
    let images = [small_image(1), small_image(2).platform("linux", "arm64")];
    let index = write_index(served.folder.path(), "v1", &images).unwrap();
    let single = served.add("v2", &small_image(3));
    let docker = served.add("v3", &small_image(4).docker_schema2());
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let of = |tag| digest(&scratch, &skopeo, &served.reference(tag));
        let on = |tag, platform| of(tag).args(["--platform", platform]);
        assert_prints(of("v1"), &index.digest);
        for (platform, image) in [("linux/amd64", 0), ("linux/arm64", 1)] {
            assert_prints(on("v1", platform), &index.images[image].manifest_digest);
        }
        assert_prints(of("v2"), &single.manifest_digest);
        assert_prints(on("v2", "linux/amd64"), &single.manifest_digest);
        assert_prints(of("v3"), &docker.manifest_digest);
        assert_prints(on("v3", "linux/amd64"), &docker.manifest_digest);
        let by_tag = served.reference("v1");
        let (name, _) = by_tag.rsplit_once(':').unwrap();
        let by_digest = format!("{name}@{}", index.digest);
        assert_prints(digest(&scratch, &skopeo, &by_digest), &index.digest);
    }
}

#[test]
#[ignore = "needs skopeo, crane"]
fn crane_prints_the_same_digest() {
    let served = Served::start();
    let images = [small_image(5), small_image(6).platform("linux", "arm64")];
    write_index(served.folder.path(), "v1", &images).unwrap();
    served.add("v2", &small_image(7).docker_schema2());
    let scratch = Scratch::new();
    for tag in ["v1", "v2"] {
        let reference = served.reference(tag);
        let mut crane = crate::harness::programs::crane();
        let name = reference.strip_prefix("docker://").unwrap();
        let theirs = output_of(crane.args(["digest", "--insecure", name]));
        let theirs = String::from_utf8(theirs).unwrap();
        assert_prints(
            digest(&scratch, &newest_skopeo(), &reference),
            theirs.trim_end(),
        );
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_image_in_a_folder_has_the_digest_of_its_manifest() {
    let (served, image) = Served::image("v1", &small_image(8));
    let here = format!("oci:{}:v1", served.folder.path().display());
    let scratch = Scratch::new();
    let folder = format!("dir:{}", scratch.path("folder").display());
    skopeo_copy(&newest_skopeo(), &here, &folder);
    for skopeo in skopeos() {
        for reference in [&here, &folder] {
            assert_prints(digest(&scratch, &skopeo, reference), &image.manifest_digest);
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_signed_schema_1_manifest_has_no_digest() {
    let scratch = Scratch::new();
    let folder = scratch.path("folder");
    fs::create_dir(&folder).unwrap();
    let manifest = json!({ "schemaVersion": 1, "name": "a", "signatures": [{}] });
    fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    fs::write(folder.join("version"), "Directory Transport Version: 1.1\n").unwrap();
    let image = format!("dir:{}", folder.display());
    let message = digest(&scratch, &newest_skopeo(), &image);
    let message = message.run().failed(1);
    assert!(message.contains("schema 1"), "{message}");
}

#[test]
#[ignore = "needs skopeo"]
fn a_missing_image_is_reported() {
    let (served, _) = Served::image("v1", &small_image(10));
    let image = served.reference("v2");
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        for platform in [&["--platform", "linux/amd64"][..], &[]] {
            let digest = digest(&scratch, &skopeo, &image).args(platform.iter().copied());
            let message = digest.run().failed(1);
            let start = format!("longshore: can't find the digest of {image}: ");
            assert!(message.starts_with(&start), "{message}");
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_image_of_another_platform_is_reported() {
    let (served, image) = Served::image("v1", &small_image(11));
    let scratch = Scratch::new();
    let digest = digest(&scratch, &newest_skopeo(), &served.reference("v1"));
    let run = digest.args(["--platform", "linux/s390x"]).run().succeeded();
    assert_eq!(run.stdout, format!("{}\n", image.manifest_digest));
    assert!(
        run.stderr.contains("linux/amd64, not for linux/s390x"),
        "{run}"
    );
}
