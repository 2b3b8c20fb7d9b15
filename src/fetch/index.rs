//! Indexes, whose images of all platforms are pulled together.
//!
//! The proxy resolves an index to one of its images, and does not return the index. So `skopeo inspect --raw`
//! fetches the index, and the images are opened by their digests.

use std::sync::Arc;

use oci_spec::image::{Descriptor, Digest, MediaType};
use serde_json::{Value, json};

use super::attempts::with_retries;
use super::content::FetchedManifest;
use super::document::Entry;
use super::retry::RetryPolicy;
use super::starter::Starter;
use super::{Image, ImageContent, document};
use crate::drain::verify::{has_digest, sha256};
use crate::error::{BlobError, Error, Result};
use crate::reference::{by_digest, digest_of};

/// An index whose images are all open, or the single image of a reference that names no index.
#[derive(Debug)]
pub struct Index {
    reference: String,
    /// `None` for a single image.
    raw: Option<Vec<u8>>,
    images: Vec<Image>,
}

impl Index {
    pub(super) fn new(reference: &str, raw: Option<Vec<u8>>, images: Vec<Image>) -> Self {
        Self {
            reference: reference.to_owned(),
            raw,
            images,
        }
    }

    /// The reference by which the index was asked for.
    #[must_use]
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// The bytes of the index at its source. `None` if the reference names a single image and no index.
    #[must_use]
    pub fn raw(&self) -> Option<&[u8]> {
        self.raw.as_deref()
    }

    /// The images in the order of the index, each once.
    #[must_use]
    pub fn images(&self) -> &[Image] {
        &self.images
    }
}

/// An index as it is to be stored. Its images are not part of it: [`Sink::commit_index`](crate::Sink::commit_index)
/// gets them as another argument.
#[derive(Debug, Clone)]
pub struct IndexContent {
    reference: String,
    name: Option<Arc<str>>,
    source_digest: Digest,
    raw: Vec<u8>,
    descriptor: Descriptor,
}

impl IndexContent {
    /// The reference by which the index was asked for.
    #[must_use]
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// The digest of the index at its source. The index can be pulled by this digest.
    #[must_use]
    pub fn source_digest(&self) -> &Digest {
        &self.source_digest
    }

    /// The bytes of the index, as they are to be stored. They are the bytes at the source, unless the proxy converted
    /// an image. The index then has the new media types, digests and sizes of converted images.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The digest and the size in bytes of [`raw`](Self::raw), with the media type of an OCI index.
    #[must_use]
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The name that the caller chose for the index in the sink
    /// ([`ImageRequest::name`](crate::ImageRequest#structfield.name)), if any.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// This index with another name.
    pub(super) fn with_name(self, name: Option<&str>) -> Self {
        Self {
            name: name.map(Into::into),
            ..self
        }
    }

    pub(super) fn new(
        reference: &str,
        raw: &[u8],
        contents: &[impl AsRef<ImageContent>],
    ) -> Result<Self> {
        let converted = contents.iter().any(|content| {
            let content = content.as_ref();
            content.manifest_descriptor().digest() != content.source_digest()
        });
        let source_digest = digest_of(reference).unwrap_or_else(|| sha256(raw));
        let raw = if converted {
            rewritten(raw, contents)?
        } else {
            raw.to_vec()
        };
        let descriptor = Descriptor::new(MediaType::ImageIndex, raw.len() as u64, sha256(&raw));
        Ok(Self {
            reference: reference.to_owned(),
            name: None,
            source_digest,
            raw,
            descriptor,
        })
    }
}

/// A fetched index, with the images that it lists.
#[derive(Debug)]
pub(super) struct FetchedIndex {
    pub(super) raw: Vec<u8>,
    /// The entries of the index, each image once.
    pub(super) entries: Vec<Entry>,
}

impl FetchedIndex {
    /// Fetches the index that this reference names. `None` if the reference names a single image.
    pub(super) async fn fetch(
        starter: &Starter,
        policy: &RetryPolicy,
        reference: &str,
    ) -> Result<Option<Self>> {
        let raw = with_retries(policy, reference, || inspect(starter, reference)).await?;
        let entries = document::index(&raw)?;
        entries.map(|entries| Self::new(raw, entries)).transpose()
    }

    fn new(raw: Vec<u8>, all: Vec<Entry>) -> Result<Self> {
        let mut entries: Vec<Entry> = Vec::new();
        for entry in all {
            check_kind(&entry)?;
            match entries.iter().find(|known| known.digest == entry.digest) {
                None => entries.push(entry),
                Some(known) if known.size == entry.size => {}
                Some(known) => return Err(two_sizes(&entry, known.size, "another entry")),
            }
        }
        Ok(Self { raw, entries })
    }

    /// The references of the images, by digest. `reference` is that of the index.
    ///
    /// # Errors
    ///
    /// [`Error::Image`] if the index is not at a registry.
    pub(super) fn references(&self, reference: &str) -> Result<Vec<String>> {
        let by_digest = |entry: &Entry| {
            by_digest(reference, &entry.digest).ok_or_else(|| {
                let reason = "only an index at a registry (docker://) can be opened as a whole";
                Error::image(reason)
            })
        };
        self.entries.iter().map(by_digest).collect()
    }
}

/// Fetches the manifest or index that this reference names, unchanged. Checks the digest in the reference, because a
/// skopeo before 1.19 does not.
pub(super) async fn inspect(starter: &Starter, reference: &str) -> Result<Vec<u8>> {
    let raw = starter.inspect(reference).await?;
    if let Some(digest) = digest_of(reference)
        && !has_digest(&raw, &digest)
    {
        let computed = sha256(&raw);
        return Err(Error::blob(&digest)(BlobError::Corrupt { computed }));
    }
    Ok(raw)
}

/// Returns an error unless the opened image has the size and the digest that the index names.
pub(super) fn check_entry(entry: &Entry, manifest: &FetchedManifest) -> Result<()> {
    if let Some(size) = manifest.source_size().filter(|size| *size != entry.size) {
        return Err(two_sizes(entry, size, "the manifest itself"));
    }
    if !manifest.has_source_digest(&entry.digest) {
        let computed = manifest.source_digest.clone();
        return Err(Error::blob(&entry.digest)(BlobError::Corrupt { computed }));
    }
    Ok(())
}

/// The error for an entry whose size differs from that of `other`.
fn two_sizes(entry: &Entry, size: u64, other: &str) -> Error {
    let Entry {
        digest,
        size: named,
        ..
    } = entry;
    Error::image(format!(
        "{digest} has two sizes: {named} bytes in an entry of its index, and {size} bytes in {other}"
    ))
}

/// Returns an error unless the media type of the entry is that of an image, or is missing. The proxy can't return
/// anything else unchanged.
fn check_kind(entry: &Entry) -> Result<()> {
    let digest = &entry.digest;
    let refused = |what: &str| Err(Error::image(format!("its index names {what}: {digest}")));
    match entry.media_type.as_ref() {
        ""
        | "application/vnd.oci.image.manifest.v1+json"
        | "application/vnd.docker.distribution.manifest.v2+json"
        | "application/vnd.docker.distribution.manifest.v1+json"
        | "application/vnd.docker.distribution.manifest.v1+prettyjws" => Ok(()),
        "application/vnd.oci.image.index.v1+json"
        | "application/vnd.docker.distribution.manifest.list.v2+json" => {
            refused("another index, which has to be pulled by its own digest")
        }
        other => refused(&format!("something that is no image ({other})")),
    }
}

/// The index as an OCI index that names the manifests as they are stored.
fn rewritten(raw: &[u8], contents: &[impl AsRef<ImageContent>]) -> Result<Vec<u8>> {
    let stored = |digest: &str| {
        let mut contents = contents.iter().map(AsRef::as_ref);
        let content = contents.find(|content| content.source_digest().as_ref() == digest)?;
        Some(content.manifest_descriptor().clone())
    };
    with_manifests(raw, stored)
}

/// The index as an OCI index. Each entry for whose digest `stored` returns a descriptor gets the media type, digest and
/// size of that descriptor.
fn with_manifests(raw: &[u8], stored: impl Fn(&str) -> Option<Descriptor>) -> Result<Vec<u8>> {
    let mut index = document::members(raw, "index")?;
    document::set(&mut index, "mediaType", json!(MediaType::ImageIndex));
    let mut entries = document::take(&mut index, "manifests").unwrap_or_default();
    for entry in entries.as_array_mut().into_iter().flatten() {
        let Some(entry) = entry.as_object_mut() else {
            continue;
        };
        let digest = document::take(entry, "digest").unwrap_or_default();
        match digest.as_str().and_then(&stored) {
            Some(stored) => {
                document::set(entry, "mediaType", json!(stored.media_type()));
                document::set(entry, "digest", json!(stored.digest()));
                document::set(entry, "size", json!(stored.size()));
            }
            None => document::set(entry, "digest", digest),
        }
    }
    document::set(&mut index, "manifests", entries);
    Ok(Value::Object(index).to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_rewritten_also_if_its_keys_are_in_another_case() {
        let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let raw = json!({
            "MediaType": "docker's",
            "Manifests": [
                { "mediatype": "docker's", "Digest": digest("a"), "SIZE": 7, "platform": { "os": "linux" } },
                { "mediaType": "other", "digest": digest("c"), "size": 9 },
            ],
            "kept": 1,
        });
        let stored = Descriptor::new(
            MediaType::ImageManifest,
            8,
            digest("b")
                .parse::<oci_spec::image::Digest>()
                .expect("a digest"),
        );
        let stored = |asked: &str| (asked == digest("a")).then(|| stored.clone());
        let written = with_manifests(raw.to_string().as_bytes(), stored).expect("fine");
        let written: Value = serde_json::from_slice(&written).expect("JSON");
        let expected = json!({
            "mediaType": MediaType::ImageIndex,
            "manifests": [
                {
                    "mediaType": MediaType::ImageManifest, "digest": digest("b"), "size": 8,
                    "platform": { "os": "linux" },
                },
                { "mediaType": "other", "digest": digest("c"), "size": 9 },
            ],
            "kept": 1,
        });
        assert_eq!(written, expected);
    }
}
