//! Tests of `prune` with layouts of a few small blobs.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use super::super::staging::LayoutLock;
use super::super::testing::{INDEX as INDEX_TYPE, MANIFEST, TestLayout};
use super::*;
use crate::fetch::Sink;

/// Prunes, and returns the sorted digests of what was removed, after a dry run that must say the same.
async fn pruned(layout: &TestLayout) -> Vec<String> {
    let options = PruneOptions::default();
    let before = snapshot(layout);
    let dry = layout.oci().prune(&options.clone().dry_run(true)).await;
    let dry = dry.expect("a layout");
    assert_eq!(snapshot(layout), before);
    let pruned = layout.oci().prune(&options).await.expect("a layout");
    assert_eq!(pruned.removed, dry.removed);
    assert_eq!(pruned.kept_blobs, dry.kept_blobs);
    assert_eq!(pruned.removed_bytes, dry.removed_bytes);
    assert_eq!(
        blobs::all(&layout.root()).expect("blobs").len(),
        pruned.kept_blobs
    );
    pruned
        .removed
        .iter()
        .map(|blob| blob.digest.to_string())
        .collect()
}

/// The names of all files, sorted.
fn snapshot(layout: &TestLayout) -> Vec<String> {
    let mut all: Vec<_> = blobs::all(&layout.root())
        .expect("blobs")
        .iter()
        .map(ToString::to_string)
        .collect();
    let names = layout.root().names().expect("names");
    all.extend(names.iter().map(|name| name.display().to_string()));
    all.sort();
    all
}

fn digest(descriptor: &Value) -> String {
    descriptor["digest"].as_str().expect("text").to_owned()
}

fn digests(descriptors: &[&Value]) -> Vec<String> {
    let mut digests: Vec<_> = descriptors.iter().map(|blob| digest(blob)).collect();
    digests.sort();
    digests
}

fn plan(layout: &TestLayout) -> Prune {
    Prune::plan(layout.path(), CancellationToken::new()).expect("a layout")
}

#[tokio::test]
async fn only_blobs_that_no_image_names_are_removed() {
    let layout = TestLayout::new();
    let (kept, other) = (layout.image(b"kept"), layout.image(b"other"));
    let (gone, stray) = (layout.image(b"gone"), layout.put(b"stray"));
    let index = layout.put_typed(INDEX_TYPE, &json!({ "manifests": [other.manifest] }));
    layout.list(&[("a", &kept.manifest), ("b", &index)]);
    let mut expected = gone.all().to_vec();
    expected.push(&stray);
    assert_eq!(pruned(&layout).await, digests(&expected));
    for blob in kept.all().iter().chain(&other.all()).chain(&[&index]) {
        assert!(layout.has(blob), "{blob}");
    }
    assert_eq!(pruned(&layout).await, [""; 0]);
}

#[tokio::test]
async fn an_empty_index_keeps_nothing() {
    let layout = TestLayout::new();
    let image = layout.image(b"layer");
    assert_eq!(pruned(&layout).await, digests(&image.all()));
}

#[tokio::test]
async fn a_subject_is_kept_with_everything_that_it_names() {
    let layout = TestLayout::new();
    let (subject, signature) = (layout.image(b"subject"), layout.image(b"signature"));
    let referrer = json!({
        "config": signature.config,
        "layers": [signature.layer],
        "subject": subject.manifest,
    });
    let referrer = layout.put_typed(MANIFEST, &referrer);
    layout.list(&[("signature", &referrer)]);
    assert_eq!(pruned(&layout).await, [digest(&signature.manifest)]);
    // The subject may be elsewhere.
    fs::remove_file(layout.path_of(&subject.manifest)).expect("removed");
    let expected = digests(&[&subject.config, &subject.layer]);
    assert_eq!(pruned(&layout).await, expected);
}

#[tokio::test]
async fn blobs_that_a_document_of_another_kind_mentions_are_kept() {
    let layout = TestLayout::new();
    let (mentioned, stray) = (layout.put(b"mentioned"), layout.put(b"stray"));
    let artifact = layout.put_json(&json!({ "blobs": [mentioned], "x": 1 }));
    let letter = layout.put(b"<letter/>");
    layout.list(&[("artifact", &artifact), ("letter", &letter)]);
    assert_eq!(pruned(&layout).await, [digest(&stray)]);
}

#[tokio::test]
async fn an_index_with_a_missing_platform_is_no_damage() {
    let layout = TestLayout::new();
    let (there, left_out) = (layout.image(b"there"), layout.image(b"left out"));
    let both = json!({ "manifests": [there.manifest, left_out.manifest] });
    let index = layout.put_typed(INDEX_TYPE, &both);
    layout.list(&[("a", &index)]);
    fs::remove_file(layout.path_of(&left_out.manifest)).expect("removed");
    assert_eq!(
        pruned(&layout).await,
        digests(&[&left_out.config, &left_out.layer])
    );
}

#[tokio::test]
async fn nothing_is_removed_from_a_damaged_layout() {
    let layout = TestLayout::new();
    let (image, other) = (layout.image(b"layer"), layout.image(b"other"));
    layout.put(b"stray");
    let index = json!({ "manifests": [image.manifest, other.manifest] });
    let index = layout.put_typed(INDEX_TYPE, &index);
    layout.list(&[("a", &index), ("b", &image.manifest)]);
    let file = layout.path().join("index.json");
    let wholes = [
        layout.path_of(&index),
        layout.path_of(&image.manifest),
        layout.path_of(&other.manifest),
        file,
    ];
    for path in wholes {
        let whole = fs::read(&path).expect("it is there");
        let mut damaged = whole.clone();
        *damaged.last_mut().expect("not empty") = b' ';
        for damaged in [&damaged[..], &whole[1..], b""] {
            fs::write(&path, damaged).expect("written");
            let before = snapshot(&layout);
            for dry_run in [true, false] {
                let options = PruneOptions::default().dry_run(dry_run);
                let error = layout.oci().prune(&options).await;
                error.expect_err("damaged");
                assert_eq!(snapshot(&layout), before);
            }
        }
        fs::write(&path, whole).expect("written");
    }
    fs::remove_file(layout.path_of(&image.manifest)).expect("removed");
    let before = snapshot(&layout);
    let error = layout.oci().prune(&PruneOptions::default()).await;
    let Err(Error::Io { source, .. }) = error else {
        panic!("a manifest is missing: {error:?}");
    };
    assert!(source.to_string().contains("is missing"), "{source}");
    assert_eq!(snapshot(&layout), before);
}

#[tokio::test]
async fn entries_that_are_no_blobs_are_kept() {
    let layout = TestLayout::new();
    let blobs = layout.path().join("blobs");
    let link = blobs.join("sha256").join("0".repeat(64));
    symlink("/etc/passwd", &link).expect("a link");
    fs::create_dir(blobs.join("sha256").join("1".repeat(64))).expect("a folder");
    fs::write(blobs.join("sha256/letter"), "dear").expect("a file");
    fs::write(blobs.join("letter"), "dear").expect("a file");
    symlink("sha256", blobs.join("sha512")).expect("a link");
    assert!(plan(&layout).candidates.is_empty());
    let options = PruneOptions::default();
    let pruned = layout.oci().prune(&options).await.expect("a layout");
    assert!(pruned.removed.is_empty(), "{pruned:?}");
    assert!(link.is_symlink());
}

#[test]
fn blobs_of_an_image_that_was_added_since_the_plan_are_kept() {
    let layout = TestLayout::new();
    let (image, stray) = (layout.image(b"layer"), layout.put(b"stray"));
    let mut prune = plan(&layout);
    assert_eq!(prune.candidates.len(), 4);
    // A pull has reused the blobs of the image, and has ended.
    layout.list(&[("a", &image.manifest)]);
    let lock = LayoutLock::take(&layout.root()).expect("a lock");
    assert!(prune.remove(LOCK_HOLD, &lock).expect("removed"));
    let removed: Vec<_> = prune
        .into_result()
        .removed
        .into_iter()
        .map(|blob| blob.digest.to_string())
        .collect();
    assert_eq!(removed, [digest(&stray)]);
    assert!(image.all().iter().all(|blob| layout.has(blob)));
}

#[test]
fn blobs_of_a_manifest_that_was_missing_at_first_are_kept() {
    let layout = TestLayout::new();
    let (image, stray) = (layout.image(b"layer"), layout.put(b"stray"));
    let index = json!({ "manifests": [image.manifest] });
    let index = layout.put_typed(INDEX_TYPE, &index);
    layout.list(&[("a", &index)]);
    let path = layout.path_of(&image.manifest);
    let manifest = fs::read(&path).expect("it is there");
    // The index changes in one of the two cases, because a pull adds another image.
    for names in [&["a"][..], &["a", "b"]] {
        fs::remove_file(&path).expect("removed");
        let mut prune = plan(&layout);
        // A pull has fetched the manifest and has reused the other blobs, and has ended.
        fs::write(&path, &manifest).expect("written");
        let images: Vec<_> = names.iter().map(|name| (*name, &index)).collect();
        layout.list(&images);
        let lock = LayoutLock::take(&layout.root()).expect("a lock");
        assert!(prune.remove(LOCK_HOLD, &lock).expect("removed"));
        assert!(image.all().iter().all(|blob| layout.has(blob)), "{names:?}");
        assert!(!layout.has(&stray));
    }
}

#[test]
fn a_layout_that_was_damaged_since_the_plan_keeps_its_blobs() {
    let layout = TestLayout::new();
    let stray = layout.put(b"stray");
    let mut prune = plan(&layout);
    fs::write(layout.path().join("index.json"), "{").expect("written");
    let lock = LayoutLock::take(&layout.root()).expect("a lock");
    prune.remove(LOCK_HOLD, &lock).expect_err("damaged");
    assert!(layout.has(&stray));
}

#[test]
fn the_lock_is_released_between_removals_that_take_long() {
    let layout = TestLayout::new();
    let strays = ["one", "two", "three"].map(|text| layout.put(text.as_bytes()));
    let mut prune = plan(&layout);
    let mut left = Vec::new();
    let mut is_last = false;
    while !is_last {
        let lock = LayoutLock::take(&layout.root()).expect("a lock");
        is_last = prune.remove(Duration::ZERO, &lock).expect("removed");
        left.push(strays.iter().filter(|blob| layout.has(blob)).count());
    }
    assert_eq!(left, [2, 1, 0]);
    let removed: Vec<_> = prune
        .into_result()
        .removed
        .into_iter()
        .map(|blob| blob.digest.to_string())
        .collect();
    assert_eq!(removed, digests(&strays.iter().collect::<Vec<_>>()));
}

#[tokio::test]
async fn nothing_is_removed_while_a_pull_is_running() {
    let layout = TestLayout::new();
    let stray = layout.put(b"stray");
    let (pulling, oci) = (layout.oci(), layout.oci());
    Sink::prepare(&pulling).await.expect("a pull");
    let options = PruneOptions::default();
    let Err(Error::Io { source, .. }) = oci.prune(&options).await else {
        panic!("a pull is running");
    };
    assert_eq!(source.kind(), io::ErrorKind::ResourceBusy);
    assert!(layout.has(&stray));
    let waiting = options.wait(Duration::MAX);
    let (pruned, ()) = tokio::join!(oci.prune(&waiting), async { drop(pulling) });
    assert_eq!(pruned.expect("pruned").removed.len(), 1);
}

#[tokio::test]
async fn a_prune_that_fails_returns_what_it_has_removed() {
    let layout = TestLayout::new();
    let [one, two] = ["one", "two"].map(|text| layout.put(text.as_bytes()));
    let mut prune = plan(&layout);
    let lock = LayoutLock::take(&layout.root()).expect("a lock");
    assert!(!prune.remove(Duration::ZERO, &lock).expect("removed"));
    let pruned = prune
        .or_partial(Error::Cancelled)
        .expect("something was removed");
    assert_eq!(pruned.removed.len(), 1);
    assert!(matches!(pruned.unfinished, Some(Error::Cancelled)));
    assert!(layout.has(&one) != layout.has(&two));
    plan(&layout)
        .or_partial(Error::Cancelled)
        .expect_err("nothing was removed");
}
