//! Where an image can be pulled to, and what is left unchanged.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::harness::{
    Layout, Scratch, Served, assert_skopeo_accepts, newest_skopeo, skopeo_copy, small_image,
};

/// The error of a pull that fails.
#[track_caller]
fn refused(served: &Served, scratch: &Scratch, layout: &Layout) -> String {
    refused_with(1, served, scratch, layout)
}

#[track_caller]
fn refused_with(code: i32, served: &Served, scratch: &Scratch, layout: &Layout) -> String {
    let skopeo = newest_skopeo();
    let message = scratch
        .pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"))
        .arg("--quiet")
        .run()
        .failed(code);
    let folder = layout.folder().display().to_string();
    assert!(message.contains(&folder), "{message}");
    assert!(message.lines().count() <= 2, "{message}");
    message
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
    assert_eq!(layout.unexpected_entries(), [""; 0]);
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
    let message = refused(&served, &scratch, &layout);
    assert!(message.contains("neither empty nor"), "{message}");
    assert_eq!(layout.unexpected_entries(), ["letter"]);
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
    for damaged in ["", "{", "[]"] {
        fs::write(&index, damaged).unwrap();
        let message = refused(&served, &scratch, &layout);
        assert!(message.contains("index.json"), "{message}");
        assert_eq!(fs::read_to_string(&index).unwrap(), damaged);
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_destination_that_cant_be_written_is_named() {
    let (served, _) = Served::image("v1", &small_image(8));
    let scratch = Scratch::new();
    fs::write(scratch.path("file"), "").unwrap();
    refused_with(2, &served, &scratch, &scratch.layout("file"));
    refused_with(2, &served, &scratch, &scratch.layout("file/below"));
    // Nobody can create a folder there, not even root.
    refused(&served, &scratch, &Layout::new("/sys/image".into()));
}

#[test]
#[ignore = "needs skopeo"]
fn an_unusable_destination_is_found_before_any_request() {
    type Prepare = fn(&Path);
    let cases: [(&str, Prepare); 7] = [
        ("Not a directory", |path| fs::write(path, "").unwrap()),
        ("neither empty nor", |path| {
            fs::create_dir(path).unwrap();
            fs::write(path.join("letter.txt"), "dear").unwrap();
        }),
        ("layout version is 9", |path| {
            fs::create_dir(path).unwrap();
            let marker = r#"{"imageLayoutVersion":"9"}"#;
            fs::write(path.join("oci-layout"), marker).unwrap();
        }),
        ("index.json is no JSON", |path| {
            fs::create_dir(path).unwrap();
            fs::write(path.join("index.json"), "{").unwrap();
        }),
        ("index.json has more than", |path| {
            fs::create_dir(path).unwrap();
            let index = fs::File::create(path.join("index.json")).unwrap();
            index.set_len(65 << 20).unwrap();
        }),
        ("index.json is a symbolic link", |path| {
            fs::create_dir(path).unwrap();
            std::os::unix::fs::symlink("elsewhere", path.join("index.json")).unwrap();
        }),
        ("Too many levels of symbolic links", |path| {
            std::os::unix::fs::symlink(path, path).unwrap();
        }),
    ];
    for (expected, prepare) in cases {
        let (served, _) = Served::image("v1", &small_image(1));
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        prepare(layout.folder());
        for all in [false, true] {
            let pull = scratch.pull(
                &newest_skopeo(),
                &served.reference("v1"),
                &layout.tagged("v1"),
            );
            let pull = if all {
                pull.args(["--platform", "all"])
            } else {
                pull
            };
            // A file in the place of the folder is wrong usage, as it is for `dir:`.
            let code = if expected == "Not a directory" { 2 } else { 1 };
            let message = pull.run().failed(code);
            assert!(message.contains(expected), "{expected}: {message}");
        }
        assert_eq!(served.registry.requests().len(), 0, "{expected}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn folders_and_layouts_of_other_tools_are_used() {
    type Prepare = fn(&Path);
    let cases: [Prepare; 3] = [
        |path| {
            fs::create_dir_all(path.join("lost+found")).unwrap();
            fs::write(path.join(".gitkeep"), "").unwrap();
        },
        // `umoci init` writes such an index.
        |path| {
            fs::create_dir_all(path.join("blobs/sha256")).unwrap();
            let marker = r#"{"imageLayoutVersion":"1.0.0"}"#;
            fs::write(path.join("oci-layout"), marker).unwrap();
            let index = r#"{"schemaVersion":2,"manifests":null}"#;
            fs::write(path.join("index.json"), index).unwrap();
            let private = fs::Permissions::from_mode(0o640);
            fs::set_permissions(path.join("index.json"), private).unwrap();
        },
        |path| {
            fs::create_dir(path).unwrap();
            let marker = "{ \"x\": 1,\n \"imageLayoutVersion\": \"1.0.0\" }\n\n";
            fs::write(path.join("oci-layout"), marker).unwrap();
        },
    ];
    for (number, prepare) in cases.into_iter().enumerate() {
        let (served, image) = Served::image("v1", &small_image(1));
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        prepare(layout.folder());
        scratch
            .pull(
                &newest_skopeo(),
                &served.reference("v1"),
                &layout.tagged("v1"),
            )
            .run()
            .succeeded();
        assert_eq!(layout.tags()["v1"], image.manifest_digest.to_string());
        let index = fs::metadata(layout.folder().join("index.json")).unwrap();
        let expected = if number == 1 { 0o640 } else { 0o644 };
        assert_eq!(index.permissions().mode() & 0o777, expected, "{number}");
        if number == 0 {
            assert!(layout.folder().join("lost+found").exists());
            assert!(layout.folder().join(".gitkeep").exists());
        }
        assert_skopeo_accepts(&newest_skopeo(), &layout.tagged("v1"));
    }
}

/// skopeo can open every name that `can_name` accepts.
#[test]
#[ignore = "needs skopeo"]
fn an_image_has_a_name_that_skopeo_can_open_or_none() {
    let (served, _) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    for (number, tag) in ["a", "a--b", "quay.io/a/b:c", "a_b", "A@B+c:d-e"]
        .iter()
        .enumerate()
    {
        let layout = scratch.layout(&format!("image-{number}"));
        let reference = served.reference("v1");
        scratch
            .pull(&newest_skopeo(), &reference, &layout.tagged(tag))
            .run()
            .succeeded();
        assert_skopeo_accepts(&newest_skopeo(), &layout.tagged(tag));
    }
    for tag in ["a..b", "a__b", "a---b", "-a"] {
        let layout = scratch.layout("refused");
        let reference = served.reference("v1");
        scratch
            .pull(&newest_skopeo(), &reference, &layout.tagged(tag))
            .run()
            .failed(2);
        assert!(!layout.folder().exists(), "{tag}");
    }
}
