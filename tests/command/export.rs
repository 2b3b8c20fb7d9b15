//! `longshore export`: the files of an image as one archive, as other tools see them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use nix::sys::signal::Signal;
use tar::{Archive, Builder, EntryType, Header};
use test_support::sha256;

use crate::harness::programs::{crane, umoci};
use crate::harness::{
    ImageBuilder, Layout, Longshore, Scratch, Served, Skopeo, newest_skopeo, output_of, skopeos,
    small_image,
};
use crate::real_image::real_image;

/// An archive for a layer, which is made entry by entry.
struct LayerBuilder(Builder<GzEncoder<Vec<u8>>>);

impl LayerBuilder {
    fn new() -> Self {
        Self(Builder::new(GzEncoder::new(
            Vec::new(),
            Compression::fast(),
        )))
    }

    fn header(kind: EntryType, mode: u32) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_600_000_000);
        header.set_uid(7);
        header.set_gid(8);
        header.set_size(0);
        header
    }

    fn file(mut self, path: &str, text: &str) -> Self {
        let mut header = Self::header(EntryType::Regular, 0o640);
        header.set_size(text.len() as u64);
        self.0
            .append_data(&mut header, path, text.as_bytes())
            .unwrap();
        self
    }

    fn folder(mut self, path: &str, mode: u32) -> Self {
        let mut header = Self::header(EntryType::Directory, mode);
        self.0.append_data(&mut header, path, io::empty()).unwrap();
        self
    }

    fn link(mut self, kind: EntryType, path: &str, target: &str) -> Self {
        let mut header = Self::header(kind, 0o777);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }

    /// Adds a file with attributes in an extended header.
    fn attributed(mut self, path: &str) -> Self {
        let records = [
            ("SCHILY.xattr.user.lines", &b"one\ntwo\n"[..]),
            ("mtime", b"1600000000.5"),
        ];
        self.0.append_pax_extensions(records).unwrap();
        self.file(path, "attributes")
    }

    fn pipe(mut self, path: &str) -> Self {
        let mut header = Self::header(EntryType::Fifo, 0o600);
        self.0.append_data(&mut header, path, io::empty()).unwrap();
        self
    }

    fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap().finish().unwrap()
    }
}

/// An image whose upper layers replace, hide and link what lower ones have. If it is not `whole`, it has only what crane
/// exports as it should: no opaque folder, no folder that comes back, and no hard link to a file of a lower layer.
fn layered_image(whole: bool) -> ImageBuilder {
    let long = format!("{}/{}", "d".repeat(90), "n".repeat(90));
    let base = LayerBuilder::new()
        .folder("./", 0o755)
        .folder("etc/", 0o755)
        .file("etc/kept", "kept")
        .file("etc/replaced", "old")
        .file("etc/hidden", "hidden")
        .folder("opaque/", 0o711)
        .file("opaque/below", "below")
        .folder("gone/", 0o755)
        .file("gone/below", "below")
        .folder("usr/", 0o755)
        .folder("usr/lib/", 0o755)
        .link(EntryType::Symlink, "lib", "usr/lib")
        .file("file-to-folder", "file")
        .folder("folder-to-file/", 0o755)
        .file("folder-to-file/below", "below")
        .file("linked", "linked")
        .file("renamed", "renamed")
        .folder(&"d".repeat(90), 0o755)
        .file(&long, "a long name")
        .link(EntryType::Symlink, "to-long", &long)
        .link(EntryType::Link, "second-name", "linked")
        .attributed("attributes")
        .pipe("pipe");
    let middle = LayerBuilder::new()
        .file("etc/replaced", "new")
        .file("etc/.wh.hidden", "")
        .file(".wh.gone", "")
        .folder("opaque/", 0o700)
        .file("opaque/above", "above")
        .folder("file-to-folder/", 0o755)
        .file("file-to-folder/inside", "inside")
        .file("folder-to-file", "file");
    let top = LayerBuilder::new().folder("etc/", 0o750);
    let (middle, top) = if whole {
        let middle = middle.file("opaque/.wh..wh..opq", "");
        let top = top
            .folder("gone/", 0o700)
            .file("gone/again", "again")
            .link(EntryType::Link, "linked-again", "linked")
            .file(".wh.linked", "")
            .link(EntryType::Link, "etc/renamed", "renamed")
            .file("renamed", "another file");
        (middle, top)
    } else {
        (middle, top)
    };
    ImageBuilder::new()
        .layer_tar_gz(base.finish())
        .layer_tar_gz(middle.finish())
        .layer_tar_gz(top.finish())
}

fn export(scratch: &Scratch, skopeo: &Skopeo, image: &str) -> Longshore {
    scratch
        .longshore()
        .args(["export", "--tls-verify=false", "--skopeo"])
        .args([skopeo.path.to_str().unwrap(), image])
}

/// What is known of a file. Only files have contents, and only links a target.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileFacts {
    kind: u32,
    mode: u32,
    owner: (u32, u32),
    modified: Option<i64>,
    target: Option<Vec<u8>>,
    contents: Option<String>,
    /// The first path of the same file.
    same_as: PathBuf,
}

/// All files below a folder, without following links.
fn files(root: &Path) -> BTreeMap<PathBuf, FileFacts> {
    let mut found = BTreeMap::new();
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    let mut paths = Vec::new();
    while let Some(path) = left.pop() {
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            left.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        paths.push(path);
    }
    paths.sort();
    for path in paths {
        let meta = fs::symlink_metadata(&path).unwrap();
        let inside = path.strip_prefix(root).unwrap().to_owned();
        let same_as = first
            .entry(meta.ino())
            .or_insert_with(|| inside.clone())
            .clone();
        let target = meta.is_symlink().then(|| fs::read_link(&path).unwrap());
        let known = FileFacts {
            kind: meta.mode() & 0o170_000,
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            modified: (!meta.is_dir()).then(|| meta.mtime()),
            target: target.map(|target| target.as_os_str().as_bytes().to_vec()),
            contents: meta
                .is_file()
                .then(|| sha256(&fs::read(&path).unwrap()).to_string()),
            same_as,
        };
        found.insert(inside, known);
    }
    found
}

/// The files of an archive, as GNU tar extracts them.
fn extracted(scratch: &Scratch, name: &str, archive: &Path) -> BTreeMap<PathBuf, FileFacts> {
    let folder = scratch.path(name);
    fs::create_dir(&folder).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["--numeric-owner", "--same-owner", "-xpf"])
        .arg(archive);
    output_of(tar.arg("-C").arg(&folder));
    files(&folder)
}

/// The files of an image in a layout, as umoci unpacks them.
fn unpacked(scratch: &Scratch, layout: &Layout, tag: &str) -> BTreeMap<PathBuf, FileFacts> {
    let bundle = scratch.path("bundle");
    let local = format!("{}:{tag}", layout.folder().display());
    output_of(umoci().args(["unpack", "--image", &local]).arg(&bundle));
    files(&bundle.join("rootfs"))
}

#[track_caller]
fn assert_same(ours: &BTreeMap<PathBuf, FileFacts>, theirs: &BTreeMap<PathBuf, FileFacts>) {
    for (path, known) in ours {
        assert_eq!(Some(known), theirs.get(path), "{}", path.display());
    }
    let missing = theirs.keys().filter(|path| !ours.contains_key(*path));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&PathBuf>::new());
}

#[test]
#[ignore = "needs skopeo, umoci, root"]
fn an_archive_equals_what_umoci_unpacks() {
    let scratch = Scratch::new();
    let layout = scratch.layout("layout");
    layered_image(true).write(layout.folder(), "v1").unwrap();
    let file = scratch.path("image.tar");
    export(&scratch, &newest_skopeo(), &layout.tagged("v1"))
        .arg(file.to_str().unwrap())
        .run()
        .succeeded();
    let ours = extracted(&scratch, "extracted", &file);
    assert_eq!(
        ours[Path::new("linked-again")].same_as,
        Path::new("linked-again")
    );
    assert_eq!(
        ours[Path::new("second-name")].same_as,
        Path::new("linked-again")
    );
    assert_ne!(ours[Path::new("renamed")], ours[Path::new("etc/renamed")]);
    assert_same(&ours, &unpacked(&scratch, &layout, "v1"));
}

#[test]
#[ignore = "needs skopeo, umoci, Debian packages, root"]
fn an_archive_of_a_real_image_equals_what_umoci_unpacks() {
    let scratch = Scratch::new();
    let layout = scratch.layout("layout");
    real_image(&layout);
    let file = scratch.path("image.tar");
    export(&scratch, &newest_skopeo(), &layout.tagged("v1"))
        .arg(file.to_str().unwrap())
        .run()
        .succeeded();
    let ours = extracted(&scratch, "extracted", &file);
    assert!(ours.len() > 1_000, "{}", ours.len());
    assert_same(&ours, &unpacked(&scratch, &layout, "v1"));
}

/// The type, the mode, the link and the contents of an entry.
type EntryParts = (EntryType, Option<u32>, Option<String>, Vec<u8>);

/// The entries of an archive, by path.
fn entries(archive: impl Read) -> BTreeMap<String, EntryParts> {
    let mut archive = Archive::new(archive);
    let mut entries = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let path = text(&entry.path_bytes());
        let path = path.trim_end_matches('/').to_owned();
        let link = entry.link_name_bytes().map(|link| text(&link));
        let kind = entry.header().entry_type();
        // The mode of a hard link is that of its file.
        let mode = entry.header().mode().unwrap() & 0o7777;
        let mode = (kind != EntryType::Link).then_some(mode);
        let mut contents = Vec::new();
        entry.read_to_end(&mut contents).unwrap();
        entries.insert(path, (kind, mode, link, contents));
    }
    entries
}

#[test]
#[ignore = "needs skopeo, crane"]
fn every_skopeo_exports_what_crane_exports() {
    let (served, _) = Served::image("v1", &layered_image(false));
    let reference = served.reference("v1");
    let name = reference.strip_prefix("docker://").unwrap();
    let theirs = output_of(crane().args(["export", "--insecure", name, "-"]));
    let mut theirs = entries(&*theirs);
    let (first, second) = (theirs["linked"].clone(), theirs["second-name"].clone());
    let scratch = Scratch::new();
    let mut before: Option<Vec<u8>> = None;
    for skopeo in skopeos() {
        let file = scratch.path("stdout.tar");
        let stdout = File::create(&file).unwrap();
        export(&scratch, &skopeo, &reference)
            .stdout_to(stdout)
            .run()
            .succeeded();
        let bytes = fs::read(&file).unwrap();
        let ours = entries(&*bytes);
        assert_eq!(ours, theirs);
        assert_eq!((&ours["linked"], &ours["second-name"]), (&first, &second));
        assert!(
            before.is_none_or(|before| before == bytes),
            "the same bytes"
        );
        before = Some(bytes);
    }
    theirs.retain(|path, _| path.contains(".wh."));
    assert!(theirs.is_empty(), "{theirs:?}");
    let lines = before.unwrap();
    let lines = lines
        .windows(33)
        .any(|part| part == b"SCHILY.xattr.user.lines=one\ntwo\n\n");
    assert!(lines, "attributes are kept");
}

#[test]
#[ignore = "needs skopeo"]
fn nothing_is_written_of_a_wrong_image() {
    let (served, image) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let place = scratch.path("place");
    fs::create_dir(&place).unwrap();
    fs::write(place.join("old.tar"), "old").unwrap();
    served.faults(&[&format!("blob@{}:corrupt", image.layers[2].digest())]);
    for file in ["place/new.tar", "place/old.tar", "-"] {
        let run = export(&scratch, &newest_skopeo(), &served.reference("v1"));
        let message = run.args([file, "--retries", "0"]).run().failed(1);
        assert!(message.contains("can't export"), "{message}");
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
        assert_eq!(fs::read(place.join("old.tar")).unwrap(), b"old");
    }
    served.faults(&[]);
    let run = export(&scratch, &newest_skopeo(), &served.reference("v1"));
    run.arg("place/old.tar").run().succeeded();
    assert_eq!(entries(File::open(place.join("old.tar")).unwrap()).len(), 3);
}

#[test]
#[ignore = "needs skopeo"]
fn layers_that_can_not_be_exported_are_named() {
    let scratch = Scratch::new();
    let no_archive =
        ImageBuilder::new().layer_blob("application/vnd.oci.image.layer.v1.tar", [7; 1024]);
    let file = LayerBuilder::new().file("a", "a").finish();
    let below = LayerBuilder::new().file("a/b", "b").finish();
    let no_folder = ImageBuilder::new().layer_tar_gz(file).layer_tar_gz(below);
    for (number, (image, words)) in [
        (no_archive, "it is no tar archive"),
        (no_folder, "a/b: a in its path is no folder"),
    ]
    .into_iter()
    .enumerate()
    {
        let layout = scratch.layout(&format!("layout-{number}"));
        let written = image.write(layout.folder(), "v1").unwrap();
        let run = export(&scratch, &newest_skopeo(), &layout.tagged("v1")).arg("-");
        let message = run.run().failed(1);
        let layer = written.layers.last().unwrap().digest();
        assert!(
            message.contains(&format!("can't export {}", layout.tagged("v1"))),
            "{message}"
        );
        assert!(
            message.contains(&format!("layer {layer}: {words}")),
            "{message}"
        );
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_signal_leaves_nothing() {
    let (served, image) = Served::image("v1", &small_image(1));
    served.faults(&[&format!("blob@{}:stall=half", image.layers[2].digest())]);
    let scratch = Scratch::new();
    let place = scratch.path("place");
    fs::create_dir(&place).unwrap();
    let run = export(&scratch, &newest_skopeo(), &served.reference("v1"));
    let mut run = run.arg("place/image.tar").start();
    run.wait_until("it has begun", |_| {
        fs::read_dir(&place).unwrap().count() == 1
    });
    run.wait_until("layers are fetched", |_| {
        !served.take_blob_gets().is_empty()
    });
    run.signal(Signal::SIGINT);
    assert_eq!(run.end().status.code(), Some(130));
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
}

#[test]
#[ignore = "needs skopeo"]
fn a_reader_that_closes_stdout_early_is_no_failure() {
    let (served, _) = Served::image("v1", &ImageBuilder::new().layer_random(3_000_000, 1));
    let scratch = Scratch::new();
    let (mut reader, writer) = io::pipe().unwrap();
    let run = export(&scratch, &newest_skopeo(), &served.reference("v1"));
    let run = run.stdout_to(writer).start();
    let mut start = [0; 512];
    reader.read_exact(&mut start).unwrap();
    drop(reader);
    let run = run.end().succeeded();
    assert_eq!(run.stderr, "");
}

#[test]
#[ignore = "needs skopeo"]
fn a_terminal_gets_no_archive() {
    let scratch = Scratch::new();
    let terminal = File::options()
        .read(true)
        .write(true)
        .open("/dev/ptmx")
        .unwrap();
    let run = export(&scratch, &newest_skopeo(), "oci:missing:v1").stdout_to(terminal);
    let message = run.run().failed(2);
    assert!(message.contains("not for a terminal"), "{message}");
}
