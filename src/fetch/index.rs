//! All images of an index, for every platform.
//!
//! The proxy resolves an index to one of its images and never shows it. So
//! `skopeo inspect --raw` is asked for it, and its images are opened by digest.

use oci_spec::image::{Descriptor, Digest, MediaType};
use serde_json::{Value, json};

use super::image::by_digest;
use super::{Fetcher, Image, ImageContent};
use crate::drain::verify::sha256;
use crate::error::{Error, Result};

/// An index whose images are all open.
#[derive(Debug)]
pub struct Index {
    reference: String,
    raw: Vec<u8>,
    images: Vec<Image>,
}

impl Index {
    /// Its images, in its order.
    #[must_use]
    pub fn images(&self) -> &[Image] {
        &self.images
    }
}

/// An index as it is to be stored, with its images.
#[derive(Debug, Clone)]
pub struct IndexContent {
    reference: String,
    raw: Vec<u8>,
    descriptor: Descriptor,
}

impl IndexContent {
    /// The index as it was asked for.
    #[must_use]
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// The index in the bytes in which it is to be stored: those of its source
    /// or, if an image had to be converted, the same with that image's new
    /// digest.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Its digest, size and media type.
    #[must_use]
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    pub(super) fn new(index: &Index, contents: &[impl AsRef<ImageContent>]) -> Result<Self> {
        let converted = contents.iter().any(|content| {
            let content = content.as_ref();
            content.manifest_descriptor().digest().as_ref() != content.source_digest()
        });
        let raw = if converted {
            rewritten(&index.raw, contents)?
        } else {
            index.raw.clone()
        };
        let digest: Digest = sha256(&raw)
            .parse()
            .map_err(|e| Error::Image(format!("its digest: {e}")))?;
        let descriptor = Descriptor::new(MediaType::ImageIndex, raw.len() as u64, digest);
        Ok(Self {
            reference: index.reference.clone(),
            raw,
            descriptor,
        })
    }
}

impl Fetcher {
    /// Open all images of the index of this name, which is at a registry.
    ///
    /// # Errors
    ///
    /// [`Error::Image`] if it is no index, or not at a registry; as
    /// [`open_all`](Self::open_all).
    ///
    /// # Cancel safety
    ///
    /// Dropped early, whatever was started is ended.
    pub async fn open_index(&self, reference: &str) -> Result<Index> {
        if !reference.starts_with("docker://") {
            let reason = "only an index at a registry (docker://) can be opened as a whole";
            return Err(Error::Image(reason.into()));
        }
        let ending = self.events.ending();
        let raw = self.retrying(|| self.starter.inspect(reference)).await?;
        let references: Vec<String> = digests(&raw)?
            .iter()
            .map(|digest| by_digest(reference, digest).unwrap_or_default())
            .collect();
        let images = self.open_all(&references).await?;
        ending.keep();
        Ok(Index {
            reference: reference.to_owned(),
            raw,
            images,
        })
    }
}

/// The digests of an index's manifests.
fn digests(raw: &[u8]) -> Result<Vec<String>> {
    let index: Value = serde_json::from_slice(raw).map_err(Error::decode("index"))?;
    let manifests = index["manifests"].as_array().ok_or_else(|| {
        Error::Image("it is not an index of several platforms, but a single image".into())
    })?;
    let digest = |entry: &Value| {
        let digest = entry["digest"]
            .as_str()
            .and_then(|digest| digest.parse::<Digest>().ok());
        digest.map(|digest| digest.to_string())
    };
    manifests
        .iter()
        .map(|entry| {
            digest(entry)
                .ok_or_else(|| Error::Image("its index has an entry without digest".into()))
        })
        .collect()
}

/// As an OCI index, with the manifests as they are stored.
fn rewritten(raw: &[u8], contents: &[impl AsRef<ImageContent>]) -> Result<Vec<u8>> {
    let mut index: Value = serde_json::from_slice(raw).map_err(Error::decode("index"))?;
    index["mediaType"] = json!(MediaType::ImageIndex);
    for (entry, content) in index["manifests"]
        .as_array_mut()
        .into_iter()
        .flatten()
        .zip(contents)
    {
        let stored = content.as_ref().manifest_descriptor();
        entry["mediaType"] = json!(stored.media_type());
        entry["digest"] = json!(stored.digest());
        entry["size"] = json!(stored.size());
    }
    Ok(index.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_told_from_an_image_and_from_nonsense() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let index = json!({ "manifests": [{ "digest": digest }] }).to_string();
        assert_eq!(digests(index.as_bytes()).expect("an index"), [digest]);
        for bad in [
            "",
            "{}",
            r#"{"config":{},"layers":[]}"#,
            r#"{"manifests":[{"digest":"../x"}]}"#,
        ] {
            assert!(digests(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
