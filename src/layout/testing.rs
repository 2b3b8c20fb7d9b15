//! Layouts of a few small blobs, for unit tests.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::image::Digest;
use serde_json::{Value, json};

use super::OciLayout;
use super::folder::Folder;
use crate::drain::verify::sha256;

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A layout in a temporary folder. At first, its index names nothing.
pub(super) struct TestLayout(tempfile::TempDir);

/// The descriptors of an image and of its blobs.
pub(super) struct TestImage {
    pub(super) manifest: Value,
    pub(super) config: Value,
    pub(super) layer: Value,
}

impl TestImage {
    pub(super) fn all(&self) -> [&Value; 3] {
        [&self.manifest, &self.config, &self.layer]
    }
}

impl TestLayout {
    pub(super) fn new() -> Self {
        let layout = Self(tempfile::tempdir().expect("a folder"));
        fs::create_dir_all(layout.path().join("blobs/sha256")).expect("a folder");
        let marker = r#"{"imageLayoutVersion":"1.0.0"}"#;
        fs::write(layout.path().join("oci-layout"), marker).expect("a marker");
        layout.list(&[]);
        layout
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn root(&self) -> Folder {
        Folder::at(self.path()).expect("it is there")
    }

    pub(super) fn oci(&self) -> OciLayout {
        OciLayout::new(self.path(), None)
    }

    /// Stores a blob, and returns its descriptor.
    pub(super) fn put(&self, bytes: &[u8]) -> Value {
        let digest = sha256(bytes);
        let descriptor = json!({ "mediaType": "x", "digest": digest, "size": bytes.len() });
        fs::write(self.path_of(&descriptor), bytes).expect("a blob");
        descriptor
    }

    pub(super) fn put_json(&self, document: &Value) -> Value {
        self.put(document.to_string().as_bytes())
    }

    /// Stores a document of this type.
    pub(super) fn put_typed(&self, media_type: &str, document: &Value) -> Value {
        let mut descriptor = self.put_json(document);
        descriptor["mediaType"] = json!(media_type);
        descriptor
    }

    /// Stores an image whose only layer has these bytes, and whose config says that they are not compressed.
    pub(super) fn image(&self, layer: &[u8]) -> TestImage {
        self.image_with(layer, &[sha256(layer)])
    }

    /// Stores an image whose config has these `diff_id`s.
    pub(super) fn image_with(&self, layer: &[u8], diff_ids: &[Digest]) -> TestImage {
        let config = json!({ "os": "linux", "rootfs": { "diff_ids": diff_ids } });
        let config = self.put_typed(CONFIG, &config);
        let layer = self.put(layer);
        let manifest = json!({ "config": config, "layers": [layer] });
        TestImage {
            manifest: self.put_typed(MANIFEST, &manifest),
            config,
            layer,
        }
    }

    /// Writes an index that names these documents.
    pub(super) fn list(&self, images: &[(&str, &Value)]) {
        let entry = |(name, descriptor): &(&str, &Value)| {
            let mut entry = (*descriptor).clone();
            entry["annotations"]["org.opencontainers.image.ref.name"] = json!(name);
            entry
        };
        let manifests: Vec<_> = images.iter().map(entry).collect();
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        fs::write(self.path().join("index.json"), index.to_string()).expect("an index");
    }

    pub(super) fn path_of(&self, descriptor: &Value) -> PathBuf {
        let name = descriptor["digest"].as_str().expect("text");
        self.path().join("blobs").join(name.replace(':', "/"))
    }

    pub(super) fn has(&self, descriptor: &Value) -> bool {
        self.path_of(descriptor).exists()
    }
}
