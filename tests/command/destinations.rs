//! Where an image can be pulled to, and what is left alone.

use std::fs;

use crate::harness::{Layout, Scratch, Served, newest_skopeo, skopeo_copy, small_image};

/// A pull that fails, and what it says.
#[track_caller]
fn refused(served: &Served, scratch: &Scratch, layout: &Layout) -> String {
    let skopeo = newest_skopeo();
    let said = scratch
        .pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"))
        .arg("--quiet")
        .run()
        .failed(1);
    let folder = layout.folder().display().to_string();
    assert!(said.contains(&folder), "{said}");
    assert!(said.lines().count() <= 2, "{said}");
    said
}

#[test]
#[ignore = "needs skopeo"]
fn a_layout_is_made_with_its_parents() {
    let (served, _) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let layout = scratch.layout("a/b/c");
    scratch
        .pull(
            &newest_skopeo(),
            &served.reference("v1"),
            &layout.tagged("v1"),
        )
        .run()
        .succeeded();
    layout.assert_valid();
    assert_eq!(layout.strangers(), [""; 0]);
}

#[test]
#[ignore = "needs skopeo"]
fn an_empty_folder_becomes_a_layout() {
    let (served, _) = Served::image("v1", &small_image(2));
    let scratch = Scratch::new();
    let layout = scratch.layout("empty");
    fs::create_dir(layout.folder()).unwrap();
    scratch
        .pull(&newest_skopeo(), &served.reference("v1"), &layout.all())
        .run()
        .succeeded();
    layout.assert_valid();
}

#[test]
#[ignore = "needs skopeo"]
fn a_layout_of_another_tool_is_added_to() {
    let (served, _) = Served::image("v1", &small_image(3));
    let other = served.add("other", &small_image(4));
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let skopeo = newest_skopeo();
    skopeo_copy(
        &skopeo,
        &served.reference("other"),
        &layout.tagged("theirs"),
    );
    scratch
        .pull(&skopeo, &served.reference("v1"), &layout.tagged("ours"))
        .run()
        .succeeded();
    layout.assert_valid();
    assert_eq!(layout.tags()["theirs"], other.manifest_digest.to_string());
    assert!(layout.tags().contains_key("ours"));
}

#[test]
#[ignore = "needs skopeo"]
fn a_folder_that_is_no_layout_is_left_as_it_is() {
    let (served, _) = Served::image("v1", &small_image(5));
    let scratch = Scratch::new();
    let layout = scratch.layout("documents");
    fs::create_dir(layout.folder()).unwrap();
    fs::write(layout.folder().join("letter"), "dear").unwrap();
    let said = refused(&served, &scratch, &layout);
    assert!(said.contains("neither empty nor"), "{said}");
    assert_eq!(layout.strangers(), ["letter"]);
    assert_eq!(fs::read_dir(layout.folder()).unwrap().count(), 1);
}

#[test]
#[ignore = "needs skopeo"]
fn a_layout_of_an_unknown_version_is_left_as_it_is() {
    let (served, _) = Served::image("v1", &small_image(6));
    for marker in [r#"{"imageLayoutVersion":"2.0.0"}"#, "{}", "no JSON"] {
        let scratch = Scratch::new();
        let layout = scratch.layout("future");
        fs::create_dir(layout.folder()).unwrap();
        let path = layout.folder().join("oci-layout");
        fs::write(&path, marker).unwrap();
        refused(&served, &scratch, &layout);
        assert_eq!(fs::read_to_string(path).unwrap(), marker);
        assert_eq!(fs::read_dir(layout.folder()).unwrap().count(), 1);
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_damaged_index_is_left_as_it_is() {
    let (served, _) = Served::image("v1", &small_image(7));
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    scratch
        .pull(
            &newest_skopeo(),
            &served.reference("v1"),
            &layout.tagged("v1"),
        )
        .run()
        .succeeded();
    let index = layout.folder().join("index.json");
    for damaged in ["", "{", "{}"] {
        fs::write(&index, damaged).unwrap();
        let said = refused(&served, &scratch, &layout);
        assert!(said.contains("index.json"), "{said}");
        assert_eq!(fs::read_to_string(&index).unwrap(), damaged);
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_place_that_cant_be_written_to_is_named() {
    let (served, _) = Served::image("v1", &small_image(8));
    let scratch = Scratch::new();
    fs::write(scratch.path("file"), "").unwrap();
    refused(&served, &scratch, &scratch.layout("file"));
    refused(&served, &scratch, &scratch.layout("file/below"));
    // Nobody can make a folder there, root neither.
    refused(&served, &scratch, &Layout::new("/sys/image".into()));
}
