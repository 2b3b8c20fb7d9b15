//! The [`Sink`]: the destination of a pull.

use std::sync::Arc;

use oci_spec::image::Descriptor;

use super::{ImageContent, IndexContent, Layer, LayerReader};
use crate::error::{Error, Result};

/// The destination of a pull.
///
/// A pull stores several layers at the same time, from several tasks. It takes its sink by value. To go on using a
/// sink, pass an `Arc` of it, which is a sink, too. A pull that fails or is dropped may drop the futures of these
/// methods at any await. An image must not become visible before it is complete. A sink wraps errors of its own with
/// [`Error::handler`](crate::Error::handler). Tests of a sink need no skopeo: [`LayerReader::from_bytes`] and
/// [`ImageContent::from_bytes`] make its arguments.
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
pub trait Sink: Send + Sync + 'static {
    /// Prepares the sink for a pull. The default does nothing.
    ///
    /// # Errors
    ///
    /// Any error that makes the sink unusable. The pull then fails before a layer is fetched.
    fn prepare(&self) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }

    /// Whether the sink already has this layer, complete, so that it is not fetched. If a blob occurs in several
    /// layers, this method is called for the first of them only. It is called again before each retry of the blob.
    ///
    /// The layer has a `diff_id` only if [`Fetcher::content`](crate::Fetcher::content) was called for the image before
    /// the pull, because a pull does not wait for the config before it fetches layers.
    ///
    /// # Errors
    ///
    /// Any error. The image fails with this error, without a retry.
    fn has(&self, layer: &Layer) -> impl Future<Output = Result<bool>> + Send;

    /// Returns the bytes of an image config, if the sink has it, so that it is not fetched. The caller checks the
    /// digest. The default returns `None`.
    ///
    /// # Errors
    ///
    /// Any error. The image fails with this error, without a retry.
    fn read(&self, blob: &Descriptor) -> impl Future<Output = Result<Option<Vec<u8>>>> + Send {
        let _ = blob;
        async { Ok(None) }
    }

    /// Stores a layer: reads its blob to the end, calls [`finish`](LayerReader::finish), and only then makes the
    /// layer visible.
    ///
    /// # Errors
    ///
    /// An error of the reader means that the blob is retried, if the retry policy allows it: the layer is stored
    /// again with a new reader. An error of the sink itself is final.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any await. Nothing of the layer may be visible then.
    fn store(&self, layer: &Layer, reader: LayerReader) -> impl Future<Output = Result<()>> + Send;

    /// Stores the config and the manifest of an image whose layers are all stored, and makes the image visible.
    ///
    /// # Errors
    ///
    /// Any error. The pull then fails. In [`pull_many`](crate::Fetcher::pull_many), only the request fails.
    fn commit(&self, image: &ImageContent) -> impl Future<Output = Result<()>> + Send;

    /// Stores the configs and manifests of several images whose layers are all stored, and makes the images visible.
    /// The default commits one image after another.
    ///
    /// # Errors
    ///
    /// Any error. Some of the images may be visible then. [`pull_all`](crate::Fetcher::pull_all) fails with this
    /// error. After such an error, [`pull_many`](crate::Fetcher::pull_many) calls [`commit`](Self::commit) for each
    /// of the images.
    fn commit_all(&self, images: &[Arc<ImageContent>]) -> impl Future<Output = Result<()>> + Send {
        async move {
            for image in images {
                self.commit(image).await?;
            }
            Ok(())
        }
    }

    /// Stores an index, with the configs and manifests of its images, whose layers are all stored, and makes the index
    /// visible. The default returns [`Error::Image`], because not every sink can store an index.
    ///
    /// # Errors
    ///
    /// Any error. The pull then fails. In [`pull_many`](crate::Fetcher::pull_many), only the request fails.
    fn commit_index(
        &self,
        index: &IndexContent,
        images: &[Arc<ImageContent>],
    ) -> impl Future<Output = Result<()>> + Send {
        let _ = (index, images);
        async { Err(Error::image("this sink can't store an index")) }
    }

    /// Discards the layers that a pull stored and that no committed image names, if the sink does not keep them for the
    /// next pull. This method is called at most once for each pull, at its end: if the pull failed or was dropped, or
    /// if at least one request of [`pull_many`](crate::Fetcher::pull_many) failed. No [`store`](Self::store) is under
    /// way then, unless the pull was dropped. The method must not block. The default keeps all layers.
    fn discard(&self) {}
}

/// A guard that calls [`Sink::discard`] when it is dropped, unless [`keep`](Self::keep) is called.
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

/// A sink that reads and verifies every blob, and keeps nothing: for measurements, or to fill the cache of a mirror.
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
