//! The [`Handler`] of a fetch, which takes each blob that is fetched.

use std::pin::Pin;
use std::sync::Arc;

use super::event::BlobRef;
use super::image::ImageData;
use super::{ImageContent, Layer, LayerReader};
use crate::error::{Error, Result};
use crate::proxy::{ImageProxy, OpenedImage};

/// One blob to fetch.
#[derive(Debug, Clone)]
pub(super) struct Job {
    /// The number of the blob among the blobs of its fetch.
    pub(super) number: usize,
    /// The number of the first image that names the blob, as callers and events count images.
    pub(super) image: usize,
    /// The reference of that image.
    pub(super) reference: Arc<str>,
    pub(super) layer: Layer,
}

impl Job {
    pub(super) fn name(&self) -> BlobRef {
        BlobRef::of(self.image, &self.layer)
    }
}

/// A boxed future that may borrow from its handler.
pub(super) type HandlerFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Takes the blobs of a fetch. All units share one handler.
pub(super) trait Handler: Send + Sync {
    /// Whether the blob is there already, so that it is not fetched.
    fn skip<'a>(&'a self, job: &'a Job) -> HandlerFuture<'a, bool>;

    /// Reads the blob, and does with it what the fetch is for.
    fn handle<'a>(&'a self, job: &'a Job, reader: LayerReader) -> HandlerFuture<'a, ()>;

    /// Fetches the content of an image, with a proxy that has the image open. Only handlers whose fetch asks for
    /// configs need this method.
    fn content<'a>(
        &'a self,
        proxy: &'a ImageProxy,
        opened: &'a OpenedImage,
        image: &'a ImageData,
    ) -> HandlerFuture<'a, ImageContent> {
        let _ = (proxy, opened, image);
        Box::pin(async { Err(Error::Closed) })
    }
}
