//! Where a pulled image goes.

use oci_spec::image::Descriptor;

use super::{ImageContent, LayerReader};
use crate::error::Result;

/// A place that an image is pulled into.
///
/// Several blobs are stored at the same time, from several tasks. A sink with
/// errors of its own wraps them in [`Error::Sink`](crate::Error::Sink).
pub trait Sink: Send + Sync + 'static {
    /// Whether this blob is there already, whole, so that it need not be
    /// fetched.
    fn has(&self, blob: &Descriptor) -> impl Future<Output = Result<bool>> + Send;

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
