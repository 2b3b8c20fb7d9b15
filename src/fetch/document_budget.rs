//! Limits how many bytes all documents of a pull have together. This module is pure.

use super::Image;
use crate::error::{Error, Result};

/// The sum of the sizes of the documents of a pull, with its limit. Both are in bytes.
#[derive(Debug)]
pub(super) struct DocumentBudget {
    limit: u64,
    bytes: u64,
}

impl DocumentBudget {
    /// A limit of this many bytes, with no documents yet.
    pub(super) fn with_limit(limit: u64) -> Self {
        Self { limit, bytes: 0 }
    }

    pub(super) fn add(&mut self, bytes: u64) -> Result<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.limit {
            let limit = self.limit;
            return Err(Error::DocumentsTooLarge { limit });
        }
        Ok(())
    }

    pub(super) fn add_manifest(&mut self, image: &Image) -> Result<()> {
        self.add(image.data.manifest.raw.len() as u64)
    }

    /// Adds the size that the manifest of this image states for its config. A size above `max_document_bytes`
    /// is an error.
    pub(super) fn add_config(&mut self, image: &Image) -> Result<()> {
        let (size, limit) = (
            image.manifest().config().size(),
            image.proxy().options().max_document_bytes,
        );
        if size > limit {
            let what = "image config";
            return Err(Error::DocumentTooLarge { what, limit });
        }
        self.add(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_may_have_as_many_bytes_as_the_limit() {
        let mut budget = DocumentBudget::with_limit(10);
        budget.add(4).expect("room");
        budget.add(6).expect("room");
        let error = budget.add(1).expect_err("no room");
        assert!(matches!(error, Error::DocumentsTooLarge { limit: 10 }));
        DocumentBudget::with_limit(u64::MAX)
            .add(u64::MAX)
            .expect("room");
        let mut budget = DocumentBudget::with_limit(u64::MAX - 1);
        budget.add(u64::MAX - 1).expect("room");
        budget.add(u64::MAX).expect_err("no room");
    }
}
