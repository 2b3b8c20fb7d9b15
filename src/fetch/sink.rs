//! Where a pulled image goes.

use std::sync::Arc;

use oci_spec::image::Descriptor;

use super::{ImageContent, IndexContent, Layer, LayerReader};
use crate::error::{Error, Result};

/// A destination of pulls.
///
/// ```
/// use longshore::{Error, ImageContent, Layer, LayerReader, Result, Sink};
/// use tokio::io::{AsyncWriteExt, copy};
///
/// /// Writes each layer into a file of the current folder.
/// struct Files;
///
/// impl Sink for Files {
///     async fn has(&self, _: &Layer) -> Result<bool> {
///         Ok(false)
///     }
///
///     async fn store(&self, layer: &Layer, mut reader: LayerReader) -> Result<()> {
///         let name = layer.descriptor.digest().digest().to_owned();
///         let part = format!("{name}.part");
///         let mut file = tokio::fs::File::create(&part).await.map_err(Error::handler)?;
///         copy(&mut reader, &mut file).await.map_err(Error::handler)?;
///         file.flush().await.map_err(Error::handler)?;
///         reader.finish().await?;
///         tokio::fs::rename(part, name).await.map_err(Error::handler)
///     }
///
///     async fn commit(&self, image: &ImageContent) -> Result<()> {
///         println!("{} is complete", image.reference());
///         Ok(())
///     }
/// }
/// ```
///
/// Several layers are stored at the same time, from several tasks. A pull takes its sink by value; an `Arc` of a sink is a
/// sink, too, for a caller who goes on using it. A sink with errors of its own wraps them by
/// [`Error::handler`](crate::Error::handler). [`LayerReader::from_bytes`] and [`ImageContent::from_bytes`] make what a test
/// of a sink needs, without skopeo.
pub trait Sink: Send + Sync + 'static {
    /// Prepares the sink for a pull. Whatever makes the sink unusable is found here, before anything is fetched. The default
    /// does nothing.
    fn prepare(&self) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }

    /// Whether the sink already has this layer, complete, so that it is not fetched. Of a blob that occurs several times in an
    /// image, the sink is asked for the first one.
    ///
    /// The layer has a `diff_id` if [`Fetcher::content`](crate::Fetcher::content) was called for the image before the pull.
    /// Otherwise the layers do not wait for the config.
    fn has(&self, layer: &Layer) -> impl Future<Output = Result<bool>> + Send;

    /// The bytes of a small blob, if the sink has it: an image config is then not fetched again. The caller checks the bytes.
    /// The default has none.
    fn read(&self, blob: &Descriptor) -> impl Future<Output = Result<Option<Vec<u8>>>> + Send {
        let _ = blob;
        async { Ok(None) }
    }

    /// Stores a layer: reads its blob to the end, calls [`finish`](LayerReader::finish), and only then makes it visible.
    ///
    /// The future may be dropped at any point; nothing of the layer may then be visible.
    fn store(&self, layer: &Layer, reader: LayerReader) -> impl Future<Output = Result<()>> + Send;

    /// Stores the config and the manifest of an image whose layers are all stored, and makes the image visible.
    fn commit(&self, image: &ImageContent) -> impl Future<Output = Result<()>> + Send;

    /// Stores the configs and manifests of several images whose layers are all stored, and makes the images visible. If it
    /// fails, some of them may be visible; [`commit`](Self::commit) may then be called for all of them again. The default
    /// commits one image after another.
    fn commit_all(&self, images: &[Arc<ImageContent>]) -> impl Future<Output = Result<()>> + Send {
        async move {
            for image in images {
                self.commit(image).await?;
            }
            Ok(())
        }
    }

    /// Stores an index, with the configs and manifests of its images, whose layers are all stored, and makes the index
    /// visible. The default refuses: not every sink has a place for an index.
    fn commit_index(
        &self,
        index: &IndexContent,
        images: &[Arc<ImageContent>],
    ) -> impl Future<Output = Result<()>> + Send {
        let _ = (index, images);
        async { Err(Error::image("this sink takes no index")) }
    }

    /// Discards the layers that were stored for a pull and that no committed image names, if the sink does not keep them for
    /// the next pull. Called once, when a pull has failed or was dropped, and after a pull of many images of which one
    /// failed. It must not block. The default keeps all layers.
    fn discard(&self) {}
}

/// Discards a pull, unless it is kept.
pub(super) struct Unfinished<S: Sink>(Option<Arc<S>>);

impl<S: Sink> Unfinished<S> {
    pub(super) fn new(sink: &Arc<S>) -> Self {
        Self(Some(Arc::clone(sink)))
    }

    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl<S: Sink> Drop for Unfinished<S> {
    fn drop(&mut self) {
        if let Some(sink) = &self.0 {
            sink.discard();
        }
    }
}

impl<S: Sink + ?Sized> Sink for Arc<S> {
    fn prepare(&self) -> impl Future<Output = Result<()>> + Send {
        (**self).prepare()
    }

    fn has(&self, layer: &Layer) -> impl Future<Output = Result<bool>> + Send {
        (**self).has(layer)
    }

    fn read(&self, blob: &Descriptor) -> impl Future<Output = Result<Option<Vec<u8>>>> + Send {
        (**self).read(blob)
    }

    fn store(&self, layer: &Layer, reader: LayerReader) -> impl Future<Output = Result<()>> + Send {
        (**self).store(layer, reader)
    }

    fn commit(&self, image: &ImageContent) -> impl Future<Output = Result<()>> + Send {
        (**self).commit(image)
    }

    fn commit_all(&self, images: &[Arc<ImageContent>]) -> impl Future<Output = Result<()>> + Send {
        (**self).commit_all(images)
    }

    fn commit_index(
        &self,
        index: &IndexContent,
        images: &[Arc<ImageContent>],
    ) -> impl Future<Output = Result<()>> + Send {
        (**self).commit_index(index, images)
    }

    fn discard(&self) {
        (**self).discard();
    }
}

/// A sink that reads and verifies every blob, and keeps nothing: for measuring, or for warming a mirror.
#[derive(Debug, Clone, Copy, Default)]
pub struct Discard;

impl Sink for Discard {
    async fn has(&self, _: &Layer) -> Result<bool> {
        Ok(false)
    }

    async fn store(&self, _: &Layer, reader: LayerReader) -> Result<()> {
        reader.finish().await
    }

    async fn commit(&self, _: &ImageContent) -> Result<()> {
        Ok(())
    }

    async fn commit_index(&self, _: &IndexContent, _: &[Arc<ImageContent>]) -> Result<()> {
        Ok(())
    }
}
