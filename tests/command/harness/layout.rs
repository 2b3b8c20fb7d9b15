//! An image layout as a pull leaves it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use test_support::{sha256, sha512};

/// The files that a pull leaves in a layout: those of the specification, and the file that pulls lock.
const LAYOUT_ENTRIES: [&str; 4] = [".longshore.lock", "blobs", "index.json", "oci-layout"];

/// An OCI image layout, or the folder of one that does not exist yet.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    folder: PathBuf,
}

impl Layout {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The destination `oci:DIR`.
    pub(crate) fn all(&self) -> String {
        format!("oci:{}", self.folder.display())
    }

    /// The destination `oci:DIR:TAG`.
    pub(crate) fn tagged(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.folder.display())
    }

    /// Whether the layout exists.
    pub(crate) fn exists(&self) -> bool {
        self.folder.join("oci-layout").exists()
    }

    pub(crate) fn blob(&self, digest: impl AsRef<str>) -> PathBuf {
        let (algorithm, hex) = digest.as_ref().split_once(':').unwrap();
        self.folder.join("blobs").join(algorithm).join(hex)
    }

    pub(crate) fn has(&self, digest: impl AsRef<str>) -> bool {
        self.blob(digest).exists()
    }

    pub(crate) fn json(&self, digest: &str) -> Value {
        serde_json::from_slice(&fs::read(self.blob(digest)).unwrap()).unwrap()
    }

    /// The tag, if there is one, and the digest of each entry of the index.
    pub(crate) fn entries(&self) -> Vec<(Option<String>, String)> {
        let entry = |entry: &Value| {
            let tag = &entry["annotations"]["org.opencontainers.image.ref.name"];
            (tag.as_str().map(str::to_owned), text(&entry["digest"]))
        };
        list(&self.index()["manifests"]).map(entry).collect()
    }

    /// The digests of the images, by tag.
    pub(crate) fn tags(&self) -> BTreeMap<String, String> {
        let entries = self.entries().into_iter();
        entries
            .filter_map(|(tag, digest)| Some((tag?, digest)))
            .collect()
    }

    /// The manifest of a tag.
    #[track_caller]
    pub(crate) fn manifest(&self, tag: &str) -> Value {
        self.json(&self.tags()[tag])
    }

    fn index(&self) -> Value {
        let index = fs::read(self.folder.join("index.json")).unwrap();
        serde_json::from_slice(&index).unwrap()
    }

    /// The files in the folder that do not belong to a layout.
    pub(crate) fn unexpected_entries(&self) -> Vec<String> {
        names(&self.folder)
            .filter(|name| !LAYOUT_ENTRIES.contains(&name.as_str()))
            .collect()
    }

    /// The staging folders that a pull uses, or has left.
    pub(crate) fn staging(&self) -> Vec<PathBuf> {
        let staging = |name: &String| name.starts_with(".longshore-");
        let found = names(&self.folder).filter(staging);
        found.map(|name| self.folder.join(name)).collect()
    }

    /// Whether a pull is writing a blob: a file of at least this many bytes that does not have its
    /// final name.
    pub(crate) fn is_written_to(&self, bytes: u64) -> bool {
        let files = self.staging().into_iter().flat_map(|staging| {
            let files = fs::read_dir(staging).into_iter().flatten();
            files.filter_map(|file| file.ok()?.metadata().ok())
        });
        files.into_iter().any(|file| file.len() >= bytes)
    }

    /// Checks that everything that the index names is there and complete, and that every blob matches its
    /// name. All blobs are checked, because those of a killed pull have no manifest yet.
    #[track_caller]
    pub(crate) fn assert_valid(&self) {
        let marker = fs::read(self.folder.join("oci-layout")).unwrap();
        let marker: Value = serde_json::from_slice(&marker).unwrap();
        assert_eq!(marker, json!({ "imageLayoutVersion": "1.0.0" }));
        for algorithm in names(&self.folder.join("blobs")) {
            for name in names(&self.folder.join("blobs").join(&algorithm)) {
                let path = self.folder.join("blobs").join(&algorithm).join(&name);
                let hash = hash(&algorithm, &fs::read(path).unwrap());
                assert_eq!(hash, name, "a blob is not what its name says");
            }
        }
        self.assert_index_whole(&self.index());
    }

    #[track_caller]
    fn assert_index_whole(&self, index: &Value) {
        for entry in list(&index["manifests"]) {
            self.assert_whole(entry);
            let manifest = self.json(&text(&entry["digest"]));
            if manifest["manifests"].is_array() {
                self.assert_index_whole(&manifest);
                continue;
            }
            self.assert_whole(&manifest["config"]);
            // Foreign layers are stored elsewhere.
            let layers = list(&manifest["layers"]).filter(|layer| layer["urls"].is_null());
            layers.for_each(|layer| self.assert_whole(layer));
        }
    }

    #[track_caller]
    fn assert_whole(&self, descriptor: &Value) {
        let path = self.blob(text(&descriptor["digest"]));
        let found = fs::metadata(&path).map(|found| found.len()).ok();
        assert_eq!(found, descriptor["size"].as_u64(), "{descriptor}");
    }
}

/// The digest of these bytes, without the name of the algorithm.
pub(crate) fn hash(algorithm: &str, bytes: &[u8]) -> String {
    let digest = match algorithm {
        "sha256" => sha256(bytes),
        "sha512" => sha512(bytes),
        other => panic!("no test uses {other}"),
    };
    digest.digest().to_owned()
}

fn names(folder: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap())
}

/// The elements of a list. `null` is an empty list, as in Go.
fn list(value: &Value) -> impl Iterator<Item = &Value> {
    assert!(value.is_array() || value.is_null(), "{value}");
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
