//! Writes an OCI image layout: blobs under their digests, and tags in `index.json`.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, Digest};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::layout::TAG;

/// An OCI image layout that can be written to.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
}

/// A blob that has been stored.
#[derive(Clone, Debug)]
pub struct Blob {
    /// The digest of the blob.
    pub digest: Digest,
    /// The size of the blob in bytes.
    pub size: u64,
}

impl Store {
    /// Opens the layout in a directory, and creates both if they do not exist.
    ///
    /// # Errors
    ///
    /// If the directory cannot be written to.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let store = Self { root: root.into() };
        fs::create_dir_all(store.blobs())?;
        let version = json!({"imageLayoutVersion": "1.0.0"});
        fs::write(store.root.join("oci-layout"), version.to_string())?;
        if !store.index_path().exists() {
            store.write_index(&json!({"schemaVersion": 2, "manifests": []}))?;
        }
        Ok(store)
    }

    /// Stores a blob that is in memory.
    ///
    /// # Errors
    ///
    /// If the layout cannot be written to.
    pub fn put(&self, bytes: &[u8]) -> io::Result<Blob> {
        let (blob, ()) = self.put_with(|file| file.write_all(bytes))?;
        Ok(blob)
    }

    /// Stores the blob that `write` writes, and returns the result of `write`.
    ///
    /// # Errors
    ///
    /// If `write` fails, or the layout cannot be written to.
    pub fn put_with<T>(
        &self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<T>,
    ) -> io::Result<(Blob, T)> {
        let file = BufWriter::new(NamedTempFile::new_in(self.blobs())?);
        let mut hashing = Hashing::new(file);
        let result = write(&mut hashing)?;
        let (file, blob) = hashing.finish()?;
        let file = file.into_inner()?;
        share(file.path())?;
        file.persist(self.blobs().join(blob.digest.digest()))?;
        Ok((blob, result))
    }

    /// Tags a manifest. The tag no longer names any earlier manifest.
    ///
    /// # Errors
    ///
    /// If the layout cannot be written to.
    pub fn tag(&self, manifest: &Descriptor, tag: &str) -> io::Result<()> {
        let mut index: Value = serde_json::from_slice(&fs::read(self.index_path())?)?;
        let manifests = index["manifests"]
            .as_array_mut()
            .ok_or_else(|| io::Error::other("index.json has no list of manifests"))?;
        let mut entry = serde_json::to_value(manifest)?;
        entry["annotations"][TAG] = tag.into();
        manifests.retain(|known| known["annotations"][TAG] != tag);
        manifests.push(entry);
        self.write_index(&index)
    }

    /// Replaces `index.json` in one step, because another process may be reading it.
    fn write_index(&self, index: &Value) -> io::Result<()> {
        let mut file = NamedTempFile::new_in(&self.root)?;
        file.write_all(index.to_string().as_bytes())?;
        share(file.path())?;
        file.persist(self.index_path())?;
        Ok(())
    }

    fn index_path(&self) -> PathBuf {
        self.root.join("index.json")
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }
}

/// Makes a former temporary file readable for others.
fn share(file: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o644))
}

/// A writer that computes the digest of its bytes.
#[derive(Debug)]
pub struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    size: u64,
}

impl<W: Write> Hashing<W> {
    /// Wraps a writer.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            size: 0,
        }
    }

    /// Returns the writer, and the digest and size of its bytes.
    ///
    /// # Errors
    ///
    /// In practice never: only the text of the digest could be rejected.
    pub fn finish(self) -> io::Result<(W, Blob)> {
        let mut digest = "sha256:".to_owned();
        for byte in self.hasher.finalize() {
            // Writing to a string cannot fail.
            let _ = write!(digest, "{byte:02x}");
        }
        let blob = Blob {
            digest: digest.parse().map_err(io::Error::other)?,
            size: self.size,
        };
        Ok((self.inner, blob))
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::image::MediaType;

    #[test]
    fn a_tag_names_one_manifest() -> io::Result<()> {
        let layout = tempfile::tempdir()?;
        let store = Store::open(layout.path())?;
        for (bytes, tag) in [(b"a", "x"), (b"b", "y"), (b"c", "x")] {
            let blob = store.put(bytes)?;
            let manifest = Descriptor::new(MediaType::ImageManifest, blob.size, blob.digest);
            Store::open(layout.path())?.tag(&manifest, tag)?;
        }
        let index: Value = serde_json::from_slice(&fs::read(store.index_path())?)?;
        let manifests = index["manifests"].as_array().into_iter().flatten();
        let tags: Vec<&Value> = manifests.map(|entry| &entry["annotations"][TAG]).collect();
        assert_eq!(tags, ["y", "x"]);
        Ok(())
    }

    #[test]
    fn a_blob_is_stored_under_its_digest() -> io::Result<()> {
        let layout = tempfile::tempdir()?;
        let blob = Store::open(layout.path())?.put(b"abc")?;
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(blob.digest.digest(), hex);
        assert_eq!(blob.size, 3);
        let path = layout.path().join("blobs/sha256").join(hex);
        assert_eq!(fs::read(path)?, b"abc");
        Ok(())
    }
}
