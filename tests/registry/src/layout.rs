//! Reads an OCI image layout: the manifest of a tag, and the blobs.

use std::io;
use std::path::PathBuf;

use oci_spec::image::MediaType;
use serde_json::Value;
use tokio::fs;

/// The annotation of `index.json` that contains a tag.
pub const TAG: &str = "org.opencontainers.image.ref.name";

/// The maximum size of a manifest, in bytes.
const MANIFEST_LIMIT: u64 = 32 * 1024 * 1024;

/// An OCI image layout on disk. Nothing is kept in memory, because its tags may move at any time.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

/// A manifest or an index of manifests.
#[derive(Debug)]
pub struct Manifest {
    /// The digest of the manifest.
    pub digest: String,
    /// The media type that the manifest states.
    pub media_type: String,
    /// The bytes of the manifest.
    pub bytes: Vec<u8>,
}

/// The role of a blob in a manifest of the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The image's configuration.
    Config,
    /// The layer with this number. Numbers are zero-based, and each digest is counted once.
    Layer(usize),
}

impl Layout {
    /// Opens the layout in a directory.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Finds a manifest by its tag or digest.
    ///
    /// # Errors
    ///
    /// If the layout can't be read. `None` if there is no such manifest.
    pub async fn manifest(&self, reference: &str) -> io::Result<Option<Manifest>> {
        let digest = if is_digest(reference) {
            Some(reference.to_owned())
        } else {
            self.tagged(reference).await?
        };
        let Some(digest) = digest else {
            return Ok(None);
        };
        let Some(bytes) = self.small_blob(&digest).await? else {
            return Ok(None);
        };
        let manifest = media_type(&bytes).map(|media_type| Manifest {
            digest,
            media_type,
            bytes,
        });
        Ok(manifest)
    }

    /// Returns all tags.
    ///
    /// # Errors
    ///
    /// If the layout cannot be read.
    pub async fn tags(&self) -> io::Result<Vec<String>> {
        let index = self.index().await?;
        let tags = entries(&index["manifests"])
            .filter_map(|entry| entry["annotations"][TAG].as_str())
            .map(str::to_owned);
        Ok(tags.collect())
    }

    /// Opens a blob: the file and its length. `None` if there is no such blob.
    ///
    /// # Errors
    ///
    /// If the layout cannot be read.
    pub async fn open_blob(&self, digest: &str) -> io::Result<Option<(fs::File, u64)>> {
        let Some(path) = self.blob_path(digest) else {
            return Ok(None);
        };
        let Some(file) = found(fs::File::open(path).await)? else {
            return Ok(None);
        };
        let len = file.metadata().await?.len();
        Ok(Some((file, len)))
    }

    /// Returns the role of a blob in each of the manifests that contain it.
    ///
    /// # Errors
    ///
    /// If the layout cannot be read.
    pub async fn roles(&self, digest: &str) -> io::Result<Vec<Role>> {
        let mut roles = Vec::new();
        let mut documents = vec![self.index().await?];
        while let Some(document) = documents.pop() {
            for manifest in digests(&document["manifests"]) {
                if let Some(bytes) = self.small_blob(manifest).await? {
                    documents.push(serde_json::from_slice(&bytes)?);
                }
            }
            roles.extend(role_in(&document, digest));
        }
        Ok(roles)
    }

    async fn index(&self) -> io::Result<Value> {
        let bytes = fs::read(self.root.join("index.json")).await?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    async fn tagged(&self, tag: &str) -> io::Result<Option<String>> {
        let index = self.index().await?;
        let tagged = entries(&index["manifests"])
            .find(|entry| entry["annotations"][TAG] == tag)
            .and_then(|entry| entry["digest"].as_str());
        Ok(tagged.map(str::to_owned))
    }

    /// Returns the bytes of a blob that is small enough to be a manifest.
    async fn small_blob(&self, digest: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(path) = self.blob_path(digest) else {
            return Ok(None);
        };
        match found(fs::metadata(&path).await)? {
            Some(metadata) if metadata.len() <= MANIFEST_LIMIT => fs::read(path).await.map(Some),
            _ => Ok(None),
        }
    }

    fn blob_path(&self, digest: &str) -> Option<PathBuf> {
        let (algorithm, hex) = digest.split_once(':').filter(|_| is_digest(digest))?;
        Some(self.root.join("blobs").join(algorithm).join(hex))
    }
}

/// Whether a text is a digest, and so neither a tag nor a path.
pub fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        !algorithm.is_empty()
            && algorithm.bytes().all(|byte| byte.is_ascii_alphanumeric())
            && hex.len() >= 32
            && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// The media type that a manifest states, or else the one that its contents suggest.
fn media_type(manifest: &[u8]) -> Option<String> {
    let document: Value = serde_json::from_slice(manifest).ok()?;
    if let Some(media_type) = document["mediaType"].as_str() {
        return Some(media_type.to_owned());
    }
    if document["manifests"].is_array() {
        return Some(MediaType::ImageIndex.to_string());
    }
    let is_manifest = document["layers"].is_array();
    is_manifest.then(|| MediaType::ImageManifest.to_string())
}

/// The role of a blob in one manifest.
fn role_in(manifest: &Value, digest: &str) -> Option<Role> {
    if manifest["config"]["digest"] == digest {
        return Some(Role::Config);
    }
    let mut distinct: Vec<&str> = Vec::new();
    for layer in digests(&manifest["layers"]) {
        if !distinct.contains(&layer) {
            distinct.push(layer);
        }
    }
    let position = distinct.iter().position(|layer| *layer == digest);
    position.map(Role::Layer)
}

fn digests(descriptors: &Value) -> impl Iterator<Item = &str> {
    entries(descriptors).filter_map(|descriptor| descriptor["digest"].as_str())
}

fn entries(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// Turns "no such file" into `None`.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_digest_is_no_tag_and_no_path() {
        let hex = "a".repeat(64);
        assert!(is_digest(&format!("sha256:{hex}")));
        for text in ["latest", "v1", "sha256:", "sha256:../../etc/passwd"] {
            assert!(!is_digest(text), "{text:?}");
        }
        assert!(!is_digest(&format!("../x:{hex}")));
    }

    #[test]
    fn equal_layers_count_once() {
        let layers = json!([{"digest": "a"}, {"digest": "a"}, {"digest": "b"}]);
        let manifest = json!({"config": {"digest": "c"}, "layers": layers});
        assert_eq!(role_in(&manifest, "a"), Some(Role::Layer(0)));
        assert_eq!(role_in(&manifest, "b"), Some(Role::Layer(1)));
        assert_eq!(role_in(&manifest, "c"), Some(Role::Config));
        assert_eq!(role_in(&manifest, "d"), None);
    }
}
