//! Where a pulled image goes.

use std::sync::Arc;

use oci_spec::image::Descriptor;

use super::{ImageContent, IndexContent, LayerReader};
use crate::error::{Error, Result};

/// A place that an image is pulled into.
///
/// Several blobs are stored at the same time, from several tasks. A sink with
/// errors of its own wraps them by [`Error::handler`](crate::Error::handler).
pub trait Sink: Send + Sync + 'static {
    /// Make ready for a pull: what makes the place unusable is found here, before anything is fetched.
    /// Nothing, unless overridden.
    fn prepare(&self) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }

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

    /// All layers of all these images are there: store their configs and manifests, and let others see
    /// them. If it fails, some of them may be seen. One after the other, unless overridden.
    fn commit_all(&self, images: &[Arc<ImageContent>]) -> impl Future<Output = Result<()>> + Send {
        async move {
            for image in images {
                self.commit(image).await?;
            }
            Ok(())
        }
    }

    /// All layers of all these images are there: store their configs and
    /// manifests, and the index, and let others see it. A sink that has no
    /// place for an index refuses it, which is what it does unless overridden.
    fn commit_index(
        &self,
        index: &IndexContent,
        images: &[Arc<ImageContent>],
    ) -> impl Future<Output = Result<()>> + Send {
        let _ = (index, images);
        async { Err(Error::image("this sink takes no index")) }
    }
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

    async fn commit_index(&self, _: &IndexContent, _: &[Arc<ImageContent>]) -> Result<()> {
        Ok(())
    }
}
