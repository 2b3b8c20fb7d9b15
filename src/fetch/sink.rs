//! Where a pulled image goes.

use oci_spec::image::Descriptor;

use super::{ImageContent, LayerReader};
use crate::error::Result;

/// A place that an image is pulled into.
///
/// Several blobs are stored at the same time, from several tasks. A sink with
/// errors of its own wraps them by [`Error::handler`](crate::Error::handler).
pub trait Sink: Send + Sync + 'static {
    /// Whether this blob is there already, whole, so that it need not be
    /// fetched.
    fn has(&self, blob: &Descriptor) -> impl Future<Output = Result<bool>> + Send;

    /// The bytes of a small blob, if it is there: an image config is then not
    /// fetched again. Whatever comes is checked. None, unless overridden.
    fn read(&self, blob: &Descriptor) -> impl Future<Output = Result<Option<Vec<u8>>>> + Send {
        let _ = blob;
        async { Ok(None) }
    }

    /// Take a blob: read it to its end, call
    /// [`finish`](LayerReader::finish), and only then let others see it.
    ///
    /// The future may be dropped at any point; nothing of the blob may then
    /// be visible.
    fn store(
        &self,
        blob: &Descriptor,
        reader: LayerReader,
    ) -> impl Future<Output = Result<()>> + Send;

    /// All layers of the image are there: store its config and its manifest,
    /// and let others see the image.
    fn commit(&self, image: &ImageContent) -> impl Future<Output = Result<()>> + Send;
}

/// Reads and verifies all, and keeps nothing: to measure, or to warm a mirror.
#[derive(Debug, Clone, Copy, Default)]
pub struct Discard;

impl Sink for Discard {
    async fn has(&self, _: &Descriptor) -> Result<bool> {
        Ok(false)
    }

    async fn store(&self, _: &Descriptor, reader: LayerReader) -> Result<()> {
        reader.finish().await
    }

    async fn commit(&self, _: &ImageContent) -> Result<()> {
        Ok(())
    }
}
