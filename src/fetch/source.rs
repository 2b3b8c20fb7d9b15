//! A manifest or an index as it is at its source.

use oci_spec::image::{Descriptor, Digest};

use super::document;
use crate::drain::verify::sha256;
use crate::error::Result;
use crate::reference::digest_of;

/// The manifest or the index that a reference names, byte for byte as its source has it.
/// [`Fetcher::fetch_source`](crate::Fetcher::fetch_source) returns it.
#[derive(Debug, Clone)]
pub struct SourceDocument {
    reference: String,
    raw: Vec<u8>,
    digest: Digest,
}

impl SourceDocument {
    /// The document of a reference. If the reference has a digest, the bytes have it.
    pub(super) fn new(reference: &str, raw: Vec<u8>) -> Self {
        Self {
            reference: reference.to_owned(),
            digest: digest_of(reference).unwrap_or_else(|| sha256(&raw)),
            raw,
        }
    }

    /// The reference by which the document was asked for.
    #[must_use]
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// The bytes of the document.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Returns the bytes of the document.
    #[must_use]
    pub fn into_raw(self) -> Vec<u8> {
        self.raw
    }

    /// The digest of the document: the one in the reference, or else the sha256 of its bytes. A registry and other
    /// tools know the document by this digest. (A *signed* Docker manifest of schema 1 is known by another digest. Such
    /// an image can't be opened.)
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The entries of an index: the digest, size and media type of each manifest, with the platform and the annotations
    /// that the index gives it. `None` if the document is not an index.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`](crate::Error::Decode) if the document is not JSON; [`Error::Image`](crate::Error::Image) if an
    /// entry has no valid digest or an invalid size (a missing size is 0), if one of the keys that are read occurs
    /// twice, or if the document is both an index and a manifest.
    pub fn entries(&self) -> Result<Option<Vec<Descriptor>>> {
        document::descriptors(&self.raw)
    }
}
