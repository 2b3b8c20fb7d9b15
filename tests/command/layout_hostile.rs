//! A layout that comes from somebody else leads no pull out of it, and what is written into a layout has the
//! usual modes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nix::sys::stat::{Mode, umask};

use crate::harness::{Layout, Scratch, Served, newest_skopeo, small_image};
use test_registry::image::Written;

/// An image, a layout that contains an earlier one, and a folder outside.
struct Fixture {
    served: Served,
    image: Written,
    scratch: Scratch,
    layout: Layout,
}

impl Fixture {
    fn new() -> Self {
        let (served, _) = Served::image("earlier", &small_image(1));
        let image = served.add("v1", &small_image(2));
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        fs::create_dir(scratch.path("outside")).unwrap();
        let fixture = Self {
            served,
            image,
            scratch,
            layout,
        };
        fixture.pull("earlier").run().succeeded();
        fixture
    }

    fn pull(&self, tag: &str) -> crate::harness::Longshore {
        let reference = self.served.reference(tag);
        let dest = self.layout.tagged(tag);
        self.scratch.pull(&newest_skopeo(), &reference, &dest)
    }

    /// Moves a part of the layout outside, and leaves a link to it.
    fn move_outside(&self, part: &str) {
        let inside = self.layout.folder().join(part);
        let outside = self.scratch.path("outside").join("part");
        fs::rename(&inside, &outside).unwrap();
        symlink(&outside, &inside).unwrap();
    }
}

/// Every file below a folder, with its content.
fn snapshot(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(snapshot(&path));
        } else {
            let content = fs::read(&path).unwrap();
            all.push((path.display().to_string(), content));
        }
    }
    all.sort();
    all
}

#[test]
#[ignore = "needs skopeo"]
fn a_link_out_of_the_layout_is_refused() {
    for part in ["blobs", "blobs/sha256", "index.json", "oci-layout"] {
        let fixture = Fixture::new();
        fixture.move_outside(part);
        let before = snapshot(&fixture.scratch.path("outside"));
        let message = fixture.pull("v1").run().failed(1);
        let name = part.rsplit('/').next().unwrap();
        let words = format!("{name} is a symbolic link; links within a layout are not followed");
        assert!(message.contains(&words), "{message}");
        assert_eq!(snapshot(&fixture.scratch.path("outside")), before, "{part}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_dangling_link_creates_nothing_outside() {
    for part in ["blobs", "index.json", "oci-layout"] {
        let fixture = Fixture::new();
        let folder = fixture.layout.folder();
        fs::remove_dir_all(folder).unwrap();
        fs::create_dir(folder).unwrap();
        symlink("../outside/made", folder.join(part)).unwrap();
        let message = fixture.pull("v1").run().failed(1);
        assert!(message.contains("link"), "{message}");
        assert_eq!(snapshot(&fixture.scratch.path("outside")), []);
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_blob_that_is_a_link_is_fetched_and_replaced() {
    let fixture = Fixture::new();
    // The file has the right size, so it would pass for the layer if the link were followed.
    let layer = &fixture.image.layers[1];
    let outside = fixture.scratch.path("outside/file");
    let content = vec![7; usize::try_from(layer.size()).unwrap()];
    fs::write(&outside, &content).unwrap();
    for digest in [layer.digest(), &fixture.image.config_digest] {
        symlink(&outside, fixture.layout.blob(digest)).unwrap();
    }
    fixture.pull("v1").run().succeeded();
    for digest in [layer.digest(), &fixture.image.config_digest] {
        let blob = fs::symlink_metadata(fixture.layout.blob(digest)).unwrap();
        assert!(blob.is_file(), "it is still a link");
    }
    assert_eq!(fs::read(&outside).unwrap(), content);
    fixture.layout.assert_valid();
}

#[test]
#[ignore = "needs skopeo"]
fn a_folder_instead_of_a_file_and_the_reverse_are_reported() {
    let table = [
        ("index.json", "index.json is no plain file"),
        ("oci-layout", "oci-layout is no plain file"),
        ("blobs", "blobs is no folder"),
    ];
    for (part, words) in table {
        let fixture = Fixture::new();
        let path = fixture.layout.folder().join(part);
        if path.is_dir() {
            fs::remove_dir_all(&path).unwrap();
            fs::write(&path, "").unwrap();
        } else {
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
        }
        let message = fixture.pull("v1").run().failed(1);
        assert!(message.contains(words), "{message}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_oversized_index_is_not_read() {
    let fixture = Fixture::new();
    let index = fs::File::create(fixture.layout.folder().join("index.json")).unwrap();
    index.set_len(1 << 40).unwrap();
    let message = fixture.pull("v1").run().failed(1);
    assert!(message.contains("index.json has more than"), "{message}");
}

#[test]
#[ignore = "needs skopeo"]
fn a_folder_that_is_no_layout_keeps_files_with_our_names() {
    let fixture = Fixture::new();
    let folder = fixture.scratch.path("home");
    fs::create_dir_all(folder.join(".longshore-1-0")).unwrap();
    fs::write(folder.join("letter"), "dear").unwrap();
    let reference = fixture.served.reference("v1");
    let dest = format!("oci:{}", folder.display());
    let pull = fixture.scratch.pull(&newest_skopeo(), &reference, &dest);
    let message = pull.run().failed(1);
    assert!(message.contains("neither empty nor an OCI"), "{message}");
    assert!(folder.join(".longshore-1-0").exists());
}

#[test]
#[ignore = "needs skopeo"]
fn files_and_folders_have_the_usual_modes_under_the_users_umask() {
    let served = Served::image("v1", &small_image(3)).0;
    // The modes of the other tests are not checked.
    for mask in [0o022, 0o000, 0o077] {
        let scratch = Scratch::new();
        let layout = scratch.layout("new/image");
        let pull = scratch.pull(
            &newest_skopeo(),
            &served.reference("v1"),
            &layout.tagged("v1"),
        );
        let before = umask(Mode::from_bits_truncate(mask));
        let running = pull.start();
        umask(before);
        running.end().succeeded();
        assert_modes(layout.folder(), mask);
        layout.assert_valid();
    }
}

#[track_caller]
fn assert_modes(path: &Path, mask: u32) {
    let found = fs::symlink_metadata(path).unwrap();
    let expected = match path.file_name() {
        _ if found.is_dir() => 0o755,
        // The lock is only for users who may write into the folder.
        Some(name) if name == ".longshore.lock" => 0o600,
        _ => 0o644,
    };
    let mode = found.permissions().mode() & 0o7777;
    let shown = path.display();
    assert_eq!(mode, expected & !mask, "{shown}: {mode:o} under {mask:o}");
    if found.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            assert_modes(&entry.unwrap().path(), mask);
        }
    }
}
