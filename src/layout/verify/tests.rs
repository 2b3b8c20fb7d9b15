//! Tests of `verify` with layouts of a few small blobs.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::testing::{INDEX, MANIFEST, TestLayout};
use super::*;
use crate::drain::verify::sha256;
use crate::fetch::Sink;

async fn verified(layout: &TestLayout, options: VerifyOptions) -> Verified {
    let verified = layout.oci().verify(&options).await;
    verified.expect("there is a layout")
}

/// The digest of each problem, what is wrong, and the images that name the blob.
async fn found(layout: &TestLayout, options: VerifyOptions) -> Vec<(String, String, String)> {
    let found = verified(layout, options).await.damaged.into_iter();
    let text = |blob: DamagedBlob| {
        let images = blob.images.join(" ");
        (blob.digest.to_string(), blob.damage.to_string(), images)
    };
    found.map(text).collect()
}

fn digest(descriptor: &Value) -> String {
    descriptor["digest"].as_str().expect("text").to_owned()
}

fn all() -> VerifyOptions {
    VerifyOptions::default()
}

#[tokio::test]
async fn an_undamaged_layout_has_no_problems() {
    let layout = TestLayout::new();
    assert_eq!(verified(&layout, all()).await.blobs, 0);
    let (one, other) = (layout.image(b"one"), layout.image(b"other"));
    let index = json!({ "manifests": [one.manifest, other.manifest] });
    let index = layout.put_typed(INDEX, &index);
    layout.list(&[("a", &one.manifest), ("b", &one.manifest), ("c", &index)]);
    let verified = verified(&layout, all().unnamed(true)).await;
    assert!(verified.damaged.is_empty(), "{verified:?}");
    assert_eq!((verified.images, verified.blobs), (3, 7));
    let blobs = fs::read_dir(layout.path().join("blobs/sha256")).expect("a folder");
    let sizes = blobs.map(|blob| blob.expect("a blob").metadata().expect("a size").len());
    assert_eq!(verified.bytes, sizes.sum::<u64>());
}

#[tokio::test]
async fn each_kind_of_damage_is_reported_with_the_images_that_name_the_blob() {
    let layout = TestLayout::new();
    let (one, other) = (layout.image(b"one"), layout.image(b"other"));
    layout.list(&[
        ("a", &one.manifest),
        ("b", &one.manifest),
        ("c", &other.manifest),
    ]);
    for blob in one.all() {
        let path = layout.path_of(blob);
        let bytes = fs::read(&path).expect("it is there");
        let mut wrong = bytes.clone();
        wrong[0] ^= 1;
        let problems: [(&[u8], String); 3] = [
            (&wrong, format!("digest {}", sha256(&wrong))),
            (
                &bytes[1..],
                format!("{} bytes instead of {}", bytes.len() - 1, bytes.len()),
            ),
            (b"", format!("0 bytes instead of {}", bytes.len())),
        ];
        for (damaged, words) in problems {
            fs::write(&path, damaged).expect("written");
            let found = found(&layout, all()).await;
            let [(found, damage, images)] = &found[..] else {
                panic!("not one problem: {found:?}");
            };
            assert_eq!((found, &**images), (&digest(blob), "a b"));
            assert!(damage.contains(&words), "{damage}");
        }
        fs::remove_file(&path).expect("removed");
        let missing = [(digest(blob), "is missing".to_owned(), "a b".to_owned())];
        assert_eq!(found(&layout, all()).await, missing);
        symlink("/dev/null", &path).expect("a link");
        let linked = found(&layout, all()).await;
        assert!(linked[0].1.contains("is a symbolic link"), "{linked:?}");
        fs::remove_file(&path).expect("removed");
        fs::create_dir(&path).expect("a folder");
        let folder = found(&layout, all()).await;
        assert!(folder[0].1.contains("is no plain file"), "{folder:?}");
        fs::remove_dir(&path).expect("removed");
        fs::write(&path, bytes).expect("written");
    }
    assert_eq!(found(&layout, all()).await, []);
}

#[tokio::test]
async fn one_image_is_verified_by_its_name_or_its_digest() {
    let layout = TestLayout::new();
    let (one, other) = (layout.image(b"one"), layout.image(b"other"));
    layout.list(&[("a", &one.manifest), ("b", &other.manifest)]);
    fs::write(layout.path_of(&one.layer), "two").expect("written");
    assert_eq!(found(&layout, all().image("a")).await.len(), 1);
    assert_eq!(
        found(&layout, all().image(digest(&one.manifest)))
            .await
            .len(),
        1
    );
    assert_eq!(found(&layout, all().image("b")).await, []);
    let error = layout.oci().verify(&all().image("c")).await;
    let Err(Error::Io { source, .. }) = error else {
        panic!("it is not there: {error:?}");
    };
    assert!(source.to_string().ends_with("it has a, b"), "{source}");
}

#[tokio::test]
async fn an_unusable_manifest_is_reported_and_the_rest_is_verified() {
    let layout = TestLayout::new();
    let image = layout.image(b"layer");
    let odd = layout.put_typed(MANIFEST, &json!({ "layers": [] }));
    let both = json!({ "manifests": [odd, image.manifest] });
    let index = layout.put_typed(INDEX, &both);
    layout.list(&[("a", &index)]);
    fs::write(layout.path_of(&image.layer), "wrong").expect("written");
    let mut found = found(&layout, all()).await;
    found.sort_by_key(|(digest, ..)| *digest != self::digest(&odd));
    assert_eq!(
        found[0].1,
        "can't be understood: its manifest names no config"
    );
    assert_eq!((&found[1].0, &*found[1].2), (&digest(&image.layer), "a"));
    assert_eq!(found.len(), 2);
}

#[tokio::test]
async fn an_index_of_a_layout_may_name_a_blob_that_is_no_image() {
    let layout = TestLayout::new();
    let letter = layout.put(b"<letter/>");
    layout.list(&[("letter", &letter)]);
    assert_eq!(verified(&layout, all()).await.blobs, 1);
    fs::write(layout.path_of(&letter), "<litter/>").expect("written");
    assert_eq!(found(&layout, all()).await.len(), 1);
}

#[tokio::test]
async fn a_subject_may_be_missing_and_is_verified_if_it_exists() {
    let layout = TestLayout::new();
    let subject = layout.image(b"subject");
    let signature = layout.image(b"signature");
    let referrer = json!({
        "config": signature.config,
        "layers": [signature.layer],
        "subject": subject.manifest,
    });
    let referrer = layout.put_typed(MANIFEST, &referrer);
    layout.list(&[("a", &referrer)]);
    fs::write(layout.path_of(&subject.layer), "object.").expect("written");
    assert_eq!(found(&layout, all()).await.len(), 1);
    fs::remove_file(layout.path_of(&subject.manifest)).expect("removed");
    assert_eq!(found(&layout, all()).await, []);
    layout.list(&[("a", &referrer), ("b", &subject.manifest)]);
    let missing = (
        digest(&subject.manifest),
        "is missing".to_owned(),
        "a b".to_owned(),
    );
    assert_eq!(found(&layout, all()).await, [missing]);
}

#[tokio::test]
async fn a_foreign_layer_may_be_missing() {
    let layout = TestLayout::new();
    let image = layout.image(b"layer");
    let mut foreign = layout.put(b"foreign");
    foreign["urls"] = json!(["https://example.com/layer"]);
    let manifest = json!({ "config": image.config, "layers": [foreign] });
    let manifest = layout.put_typed(MANIFEST, &manifest);
    layout.list(&[("a", &manifest)]);
    assert_eq!(verified(&layout, all()).await.foreign_layers, 0);
    fs::remove_file(layout.path_of(&foreign)).expect("removed");
    let verified = verified(&layout, all()).await;
    assert!(verified.damaged.is_empty());
    assert_eq!(verified.foreign_layers, 1);
}

#[tokio::test]
async fn blobs_that_no_image_names_are_verified_only_if_asked() {
    let layout = TestLayout::new();
    let stray = layout.put(b"stray");
    fs::write(layout.path_of(&stray), "straw").expect("written");
    fs::write(layout.path().join("blobs/sha256/letter"), "dear").expect("written");
    assert_eq!(found(&layout, all()).await, []);
    let found = found(&layout, all().unnamed(true)).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((&found[0].0, &*found[0].2), (&digest(&stray), ""));
}

#[tokio::test]
async fn a_blob_that_no_image_names_any_more_is_no_problem() {
    let layout = TestLayout::new();
    let image = layout.image(b"layer");
    layout.list(&[("a", &image.manifest)]);
    fs::remove_file(layout.path_of(&image.layer)).expect("removed");
    let damaged = verified(&layout, all()).await.damaged;
    assert_eq!(damaged.len(), 1);
    // As if another process had removed the image after the index was read.
    layout.list(&[]);
    let left =
        names::add_images(&layout.root(), damaged, &CancellationToken::new()).expect("an index");
    assert!(left.is_empty(), "{left:?}");
}

#[cfg(feature = "decompress")]
#[tokio::test]
async fn layers_are_compared_with_their_diff_ids_if_asked() {
    let layout = TestLayout::new();
    let gzip = {
        use std::io::Write as _;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"layer").expect("memory");
        gzip.finish().expect("memory")
    };
    let right = layout.image_with(&gzip, &[sha256(b"layer")]);
    let wrong = layout.image_with(&gzip, &[sha256(b"other")]);
    let broken = layout.image_with(&gzip[..gzip.len() - 4], &[sha256(b"layer")]);
    let several = layout.image_with(&gzip, &[sha256(b"layer"), sha256(b"layer")]);
    let compared = || all().diff_ids(true);
    layout.list(&[("right", &right.manifest)]);
    assert_eq!(verified(&layout, compared()).await.diff_ids, 1);
    assert_eq!(verified(&layout, all()).await.diff_ids, 0);
    let table = [
        (&wrong, &wrong.layer, "the image config says"),
        (&broken, &broken.layer, "can't be decompressed"),
        (&several, &several.config, "2 diff_ids for 1 layers"),
    ];
    for (image, blob, words) in table {
        layout.list(&[("a", &image.manifest)]);
        assert_eq!(found(&layout, all()).await, []);
        let found = found(&layout, compared()).await;
        assert_eq!((found.len(), &found[0].0), (1, &digest(blob)), "{found:?}");
        assert!(found[0].1.contains(words), "{found:?}");
    }
}

#[tokio::test]
async fn a_damaged_index_is_an_error() {
    let layout = TestLayout::new();
    for index in [
        "",
        "{",
        r#"{"manifests":7}"#,
        r#"{"manifests":[{"digest":"x"}]}"#,
    ] {
        fs::write(layout.path().join("index.json"), index).expect("written");
        layout.oci().verify(&all()).await.expect_err(index);
    }
    fs::remove_file(layout.path().join("index.json")).expect("removed");
    layout.oci().verify(&all()).await.expect_err("no index");
}

#[tokio::test]
async fn damaged_files_are_removed_and_others_are_not() {
    let layout = TestLayout::new();
    let images: Vec<_> = (0..6).map(|seed| layout.image(&[seed; 10])).collect();
    let names = ["a", "b", "c", "d", "e", "f"];
    let entries: Vec<_> = names
        .iter()
        .copied()
        .zip(images.iter().map(|image| &image.manifest))
        .collect();
    layout.list(&entries);
    // The descriptor of a good blob says a wrong size.
    let mut lying = images[5].layer.clone();
    lying["size"] = json!(9);
    let manifest = json!({ "config": images[5].config, "layers": [lying] });
    let lying = layout.put_typed(MANIFEST, &manifest);
    layout.list(&[&entries[..5], &[("f", &lying)]].concat());
    let path = |image: usize| layout.path_of(&images[image].layer);
    fs::write(path(0), [9; 10]).expect("written");
    fs::write(path(1), [9; 3]).expect("written");
    fs::remove_file(path(2)).expect("removed");
    fs::write(path(3), [9; 10]).expect("written");
    let verified = verified(&layout, all()).await;
    assert_eq!(verified.damaged.len(), 5, "{verified:?}");
    // Somebody has repaired a blob since.
    fs::write(path(3), [3; 10]).expect("written");

    let oci = layout.oci();
    let removed = oci.remove_damaged(&verified, Duration::ZERO).await;
    let removed: Vec<_> = removed
        .expect("removed")
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut expected = [digest(&images[0].layer), digest(&images[1].layer)];
    expected.sort();
    assert_eq!(removed, expected);
    let there: Vec<_> = images
        .iter()
        .map(|image| layout.has(&image.layer))
        .collect();
    assert_eq!(there, [false, false, false, true, true, true]);
}

#[tokio::test]
async fn nothing_is_removed_while_a_pull_is_running() {
    let layout = TestLayout::new();
    let image = layout.image(b"layer");
    layout.list(&[("a", &image.manifest)]);
    fs::write(layout.path_of(&image.layer), "lawyr").expect("written");
    let (pulling, oci) = (layout.oci(), layout.oci());
    Sink::prepare(&pulling).await.expect("a pull");
    let verified = verified(&layout, all()).await;
    let error = oci.remove_damaged(&verified, Duration::ZERO).await;
    let Err(Error::Io { source, .. }) = error else {
        panic!("a pull is running: {error:?}");
    };
    assert_eq!(source.kind(), io::ErrorKind::ResourceBusy);
    assert!(layout.has(&image.layer));

    let removing = oci.remove_damaged(&verified, Duration::MAX);
    let (removed, ()) = tokio::join!(removing, async { drop(pulling) });
    assert_eq!(removed.expect("removed").len(), 1);
    assert!(!layout.has(&image.layer));
}

#[tokio::test]
async fn verifying_stops_when_it_is_cancelled() {
    let layout = TestLayout::new();
    let image = layout.image(b"layer");
    let stop = CancellationToken::new();
    let root = std::sync::Arc::new(layout.root());
    let mut checker = Checker::new(root, stop.clone(), tokio::runtime::Handle::current());
    let digest = digest(&image.layer).parse().expect("a digest");
    assert_eq!(checker.has_digest(&digest), Some(true));
    stop.cancel();
    assert!(checker.is_stopped());
    assert_eq!(checker.has_digest(&digest), None);
    layout.list(&[("a", &image.manifest)]);
    let planned = plan(layout.path(), &all(), stop);
    let error = planned.map(drop).expect_err("it was stopped");
    assert_eq!(error.kind(), io::ErrorKind::Interrupted);
}

#[tokio::test]
async fn errors_of_a_hostile_layout_are_printable() {
    let hostile = "a\u{1b}[2J\nb\u{202e}";
    let layout = TestLayout::new();
    let image = layout.image(b"layer");
    let mut damaged = image.manifest.clone();
    damaged["digest"] = json!(hostile);
    let marker = json!({ "imageLayoutVersion": hostile }).to_string();
    let attacks: [(&str, &dyn Fn()); 3] = [
        ("a name", &|| layout.list(&[(hostile, &image.manifest)])),
        ("a digest", &|| layout.list(&[("b", &damaged)])),
        ("a version", &|| {
            fs::write(layout.path().join("oci-layout"), &marker).expect("written");
        }),
    ];
    for (what, attack) in attacks {
        attack();
        let verified = layout.oci().verify(&all().image("c")).await;
        let Err(Error::Io { source, .. }) = verified else {
            panic!("{what}: {verified:?}");
        };
        let text = source.to_string();
        assert_eq!(text, printable(&text), "{what}");
    }
}
