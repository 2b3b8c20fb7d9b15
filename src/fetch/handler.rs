//! What is done with what is fetched.

use std::pin::Pin;
use std::sync::Arc;

use super::event::BlobRef;
use super::image::SameImage;
use super::{ImageContent, Layer, LayerReader};
use crate::error::{Error, Result};
use crate::proxy::{ImageProxy, OpenedImage};

/// One blob to fetch.
#[derive(Debug, Clone)]
pub(super) struct Job {
    /// Its place among the blobs of its fetch.
    pub(super) number: usize,
    /// The first image that names it, as callers and events count it.
    pub(super) image: usize,
    /// What that was asked for by.
    pub(super) reference: Arc<str>,
    pub(super) layer: Layer,
}

impl Job {
    pub(super) fn name(&self) -> BlobRef {
        BlobRef::of(self.image, &self.layer)
    }
}

/// A future that lives as long as what it borrows.
pub(super) type Doing<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// What a fetch is for. All units share it, whatever it is.
pub(super) trait Handler: Send + Sync {
    /// Whether the blob need not be fetched.
    fn skip<'a>(&'a self, job: &'a Job) -> Doing<'a, bool>;

    /// Take the blob.
    fn handle<'a>(&'a self, job: &'a Job, reader: LayerReader) -> Doing<'a, ()>;

    /// The content of an image, by a proxy that has it open. Only where configs are fetched.
    fn content<'a>(
        &'a self,
        proxy: &'a ImageProxy,
        opened: &'a OpenedImage,
        image: &'a SameImage,
    ) -> Doing<'a, ImageContent> {
        let _ = (proxy, opened, image);
        Box::pin(async { Err(Error::Closed) })
    }
}
