//! A good image is pulled into a layout that was damaged in any way.
//!
//! Nothing panics or hangs. If the pull succeeds, its image is there. If it fails, the index is unchanged. In
//! either case, nothing outside of the layout changes, and nothing in it that the pull does not own. The same
//! holds when the layout is then verified, repaired and pruned.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use bolero::{TypeGenerator, check};
use longshore_fuzz::{TARGET_DURATION, TreeEntry, Workspace, digest, maintain, tree};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

#[derive(Debug, TypeGenerator)]
struct Case {
    /// Whether there is a layout at all.
    there: bool,
    /// Whether the layout has the image already.
    pulled: bool,
    damages: Vec<(Where, Damage)>,
}

#[derive(Debug, Clone, Copy, TypeGenerator)]
enum Where {
    Root,
    Marker,
    Index,
    Blobs,
    Sha256,
    Manifest,
    Config,
    Layer,
    OtherBlob,
    Stranger,
    /// A folder that looks like what a dead pull has left.
    Staging,
}

#[derive(Debug, TypeGenerator)]
enum Damage {
    Remove,
    Write(Vec<u8>),
    Index(Vec<Option<String>>),
    Cut(u8),
    Pipe,
    Folder,
    LinkToOutside,
    LinkToNothing,
    LinkToItself,
}

const LAYER: &[u8] = b"a layer";

/// The image that is pulled: its blobs, the manifest first.
fn image() -> [Vec<u8>; 3] {
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [digest(LAYER)] },
    });
    let config = config.to_string().into_bytes();
    let describe = |kind: &str, blob: &[u8]| {
        let media_type = format!("application/vnd.oci.image.{kind}");
        json!({ "mediaType": media_type, "digest": digest(blob), "size": blob.len() })
    };
    let manifest = json!({
        "schemaVersion": 2,
        "config": describe("config.v1+json", &config),
        "layers": [describe("layer.v1.tar", LAYER)],
    });
    [manifest.to_string().into_bytes(), config, LAYER.to_vec()]
}

fn blob(bytes: &[u8]) -> String {
    format!("blobs/{}", digest(bytes).replace(':', "/"))
}

impl Where {
    fn name(self) -> String {
        let [manifest, config, layer] = image();
        match self {
            Self::Root => String::new(),
            Self::Marker => "oci-layout".into(),
            Self::Index => "index.json".into(),
            Self::Blobs => "blobs".into(),
            Self::Sha256 => "blobs/sha256".into(),
            Self::Manifest => blob(&manifest),
            Self::Config => blob(&config),
            Self::Layer => blob(&layer),
            Self::OtherBlob => blob(b"other"),
            Self::Stranger => "letter".into(),
            Self::Staging => ".longshore-1-0".into(),
        }
    }
}

impl Damage {
    /// Damages what is at `path`. `outside` is the target of a link that leads out of the layout.
    fn apply(&self, path: &Path, outside: &Path) -> std::io::Result<()> {
        if let Self::Cut(length) = self {
            if !fs::symlink_metadata(path)?.is_file() {
                return Ok(());
            }
            let content = fs::read(path)?;
            let length = usize::from(*length).min(content.len());
            return fs::write(path, &content[..length]);
        }
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(path)?,
            Ok(_) => fs::remove_file(path)?,
            Err(_) => {}
        }
        match self {
            Self::Remove | Self::Cut(_) => Ok(()),
            Self::Write(bytes) => fs::write(path, bytes),
            Self::Index(names) => {
                let entry = |name: &Option<String>| {
                    let name = name.as_deref().unwrap_or("new");
                    let name = json!({ "org.opencontainers.image.ref.name": name });
                    json!({ "digest": digest(b"other"), "size": 5, "annotations": name })
                };
                let entries: Vec<_> = names.iter().map(entry).collect();
                let index = json!({ "schemaVersion": 2, "manifests": entries, "kept": 1 });
                fs::write(path, index.to_string())
            }
            Self::Pipe => Ok(mkfifo(path, Mode::S_IRWXU)?),
            Self::Folder => fs::create_dir(path),
            Self::LinkToOutside => symlink(outside, path),
            Self::LinkToNothing => symlink("nowhere", path),
            Self::LinkToItself => symlink(path.file_name().unwrap_or_default(), path),
        }
    }
}

/// Makes the layout, if the case has one, and the same files outside, as targets of links. Then damages the layout. A
/// damage that can't be done is left out.
fn prepare(workspace: &Workspace, case: &Case) {
    let [manifest, config, layer] = image();
    let marker = json!({ "imageLayoutVersion": "1.0.0" }).to_string();
    let index = json!({ "schemaVersion": 2, "manifests": [] }).to_string();
    let roots = [
        Some(workspace.outside()),
        case.there.then(|| workspace.layout()),
    ];
    for root in roots.into_iter().flatten() {
        fs::create_dir_all(root.join("blobs/sha256")).unwrap();
        fs::write(root.join("oci-layout"), &marker).unwrap();
        fs::write(root.join("index.json"), &index).unwrap();
        fs::write(root.join(blob(b"other")), "other").unwrap();
        fs::write(root.join("letter"), "dear").unwrap();
        if case.pulled {
            for bytes in [&manifest, &config, &layer] {
                fs::write(root.join(blob(bytes)), bytes).unwrap();
            }
        }
    }
    for (target, damage) in &case.damages {
        let name = target.name();
        let path = |root: PathBuf| {
            if name.is_empty() {
                root
            } else {
                root.join(&name)
            }
        };
        let _ = damage.apply(&path(workspace.layout()), &path(workspace.outside()));
    }
}

#[test]
fn layouts() {
    let [manifest, config, layer] = image();
    check!()
        .with_type::<Case>()
        .with_test_time(TARGET_DURATION)
        .for_each(|case| {
            let workspace = Workspace::new(env!("CARGO_BIN_EXE_files-as-skopeo"));
            workspace.serve("manifest", &manifest);
            workspace.serve("digest", digest(&manifest).as_bytes());
            for bytes in [&manifest, &config, &layer] {
                workspace.serve(&digest(bytes), bytes);
            }
            prepare(&workspace, case);
            // The path of the layout may be a symbolic link.
            let root = fs::canonicalize(workspace.layout()).unwrap_or_else(|_| workspace.layout());
            let led_outside = root == fs::canonicalize(workspace.outside()).unwrap();
            let (before, outside) = (tree(&root), tree(&workspace.outside()));

            let pulled = workspace.pull("oci:a:b", false);

            let after = tree(&root);
            if !led_outside {
                assert_eq!(tree(&workspace.outside()), outside, "{pulled:?}");
            }
            let ours = [&manifest, &config, &layer].map(|bytes| blob(bytes));
            for (path, entry) in &before {
                let ours = ours.contains(path) || path.starts_with(".longshore-");
                if !ours && path != "index.json" {
                    assert_eq!(after.get(path), Some(entry), "{path}: {pulled:?}");
                }
            }
            for path in after.keys().filter(|path| !before.contains_key(*path)) {
                let known = [
                    ".longshore.lock",
                    "blobs",
                    "blobs/sha256",
                    "index.json",
                    "oci-layout",
                ];
                let ours = ours.contains(path) || known.contains(&&**path);
                assert!(ours, "{path} is new: {pulled:?}");
            }
            let [old, new] = [&before, &after].map(entries);
            if pulled.is_ok() {
                assert_eq!(new.last().unwrap()["digest"], digest(&manifest));
                for (path, bytes) in ours.iter().zip([&manifest, &config, &layer]) {
                    let Some(TreeEntry::File(found)) = after.get(path) else {
                        panic!("{path} is missing");
                    };
                    // A blob that was there with the right size is not read again.
                    let was_there = before.get(path) == after.get(path);
                    assert!(found == bytes || (was_there && found.len() == bytes.len()));
                }
            } else {
                assert_eq!(new, old, "{pulled:?}");
            }
            let maintained = maintain(&root);
            assert_maintained(&after, &tree(&root), maintained.is_ok());
            if !led_outside {
                assert_eq!(tree(&workspace.outside()), outside, "{maintained:?}");
            }
        });
}

/// Checks that verifying, repairing and pruning have changed only what they may: blobs, and what dead pulls have left,
/// can disappear. With `assert_complete`, only blobs that the index names, directly or not, may be left.
fn assert_maintained(
    before: &BTreeMap<String, TreeEntry>,
    after: &BTreeMap<String, TreeEntry>,
    assert_complete: bool,
) {
    let is_blob = |path: &str| path.starts_with("blobs/sha256/");
    let ours = |path: &str| is_blob(path) || path.starts_with(".longshore");
    let others = |tree: &BTreeMap<String, TreeEntry>| {
        let others = tree.iter().filter(|(path, _)| !ours(path));
        others
            .map(|(path, entry)| (path.clone(), entry.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(others(after), others(before));
    for (path, entry) in after.iter().filter(|(path, _)| is_blob(path)) {
        assert_eq!(before.get(path), Some(entry), "{path}");
    }
    if assert_complete {
        let [manifest, config, layer] = image().map(|bytes| blob(&bytes));
        let entries = entries(after);
        let names = |name: &str| {
            let digest = name.replace("blobs/sha256/", "sha256:");
            entries
                .iter()
                .any(|entry| entry["digest"] == digest.as_str())
        };
        for (path, entry) in after.iter().filter(|(path, _)| is_blob(path)) {
            let of_the_image = [&config, &layer].contains(&path) && names(&manifest);
            let is_file = matches!(entry, TreeEntry::File(_));
            assert!(!is_file || names(path) || of_the_image, "{path} is left");
        }
    }
}

fn entries(layout: &BTreeMap<String, TreeEntry>) -> Vec<Value> {
    let Some(TreeEntry::File(index)) = layout.get("index.json") else {
        return Vec::new();
    };
    let index: Value = serde_json::from_slice(index).unwrap_or_default();
    index["manifests"].as_array().cloned().unwrap_or_default()
}
