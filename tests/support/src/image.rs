//! Small images that are made here: in memory, and as an OCI layout on disk.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use longshore::oci_spec::image::Digest;
use serde_json::{Value, json};

use super::{noise, sha256};

/// A blob, with what its descriptor contains.
#[derive(Debug, Clone)]
pub struct TestBlob {
    pub media_type: &'static str,
    pub digest: Digest,
    pub bytes: Vec<u8>,
}

impl TestBlob {
    fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self {
            media_type,
            digest: sha256(&bytes),
            bytes,
        }
    }

    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub fn descriptor(&self) -> Value {
        json!({
            "mediaType": self.media_type,
            "digest": self.digest.to_string(),
            "size": self.bytes.len(),
        })
    }
}

/// An image of a few layers.
#[derive(Debug, Clone)]
pub struct TestImage {
    pub manifest: TestBlob,
    pub config: TestBlob,
    pub layers: Vec<TestBlob>,
}

impl TestImage {
    /// Makes an image with layers of about these sizes. They are compressed, so the sizes are not exact.
    pub fn with_layers(sizes: &[usize]) -> Self {
        let mut diff_ids = Vec::new();
        let mut layers = Vec::new();
        for (seed, size) in (1..).zip(sizes) {
            let archive = archive(&noise(*size, seed));
            diff_ids.push(sha256(&archive).to_string());
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&archive).unwrap();
            layers.push(TestBlob::new(
                "application/vnd.oci.image.layer.v1.tar+gzip",
                encoder.finish().unwrap(),
            ));
        }
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Cmd": ["/data"], "Labels": { "test": "longshore" } },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": diff_ids.iter().map(|_| json!({ "created_by": "test" })).collect::<Vec<_>>(),
        });
        let config = TestBlob::new(
            "application/vnd.oci.image.config.v1+json",
            config.to_string().into_bytes(),
        );
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor(),
            "layers": layers.iter().map(TestBlob::descriptor).collect::<Vec<_>>(),
        });
        let manifest = TestBlob::new(
            "application/vnd.oci.image.manifest.v1+json",
            manifest.to_string().into_bytes(),
        );
        Self {
            manifest,
            config,
            layers,
        }
    }

    pub fn blobs(&self) -> impl Iterator<Item = &TestBlob> {
        self.layers.iter().chain([&self.config, &self.manifest])
    }

    /// Writes an OCI image layout that contains this image under `tag`.
    pub fn write_layout(&self, folder: &Path, tag: &str) {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        for blob in self.blobs() {
            fs::write(blobs.join(blob.digest.digest()), &blob.bytes).unwrap();
        }
        fs::write(
            folder.join("oci-layout"),
            json!({ "imageLayoutVersion": "1.0.0" }).to_string(),
        )
        .unwrap();
        let mut entry = self.manifest.descriptor();
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        fs::write(folder.join("index.json"), index.to_string()).unwrap();
    }
}

/// A tar archive with one file.
fn archive(content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, "data", content).unwrap();
    archive.into_inner().unwrap()
}

/// The architecture of this machine, by Go's name.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
