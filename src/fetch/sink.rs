//! Where a pulled image goes.

use std::sync::Arc;

use oci_spec::image::Descriptor;

use super::{ImageContent, IndexContent, LayerReader};
use crate::error::{Error, Result};

/// A destination of pulls.
///
/// ```
/// use longshore::oci_spec::image::Descriptor;
/// use longshore::{Error, ImageContent, LayerReader, Result, Sink};
/// use tokio::io::{AsyncWriteExt, copy};
///
/// /// Writes each layer into a file of the current folder.
/// struct Files;
///
/// impl Sink for Files {
///     async fn has(&self, _: &Descriptor) -> Result<bool> {
///         Ok(false)
///     }
///
///     async fn store(&self, blob: &Descriptor, mut reader: LayerReader) -> Result<()> {
///         let name = blob.digest().digest().to_owned();
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
/// Several blobs are stored at the same time, from several tasks. A sink with
/// errors of its own wraps them by [`Error::handler`](crate::Error::handler).
pub trait Sink: Send + Sync + 'static {
    /// Prepares the sink for a pull. Whatever makes the sink unusable is found here, before anything is fetched. The default
    /// does nothing.
    fn prepare(&self) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }

    /// Whether the sink already has this blob, complete, so that it is not fetched.
    fn has(&self, blob: &Descriptor) -> impl Future<Output = Result<bool>> + Send;

    /// The bytes of a small blob, if the sink has it: an image config is then not fetched again. The caller checks the bytes.
    /// The default has none.
    fn read(&self, blob: &Descriptor) -> impl Future<Output = Result<Option<Vec<u8>>>> + Send {
        let _ = blob;
        async { Ok(None) }
    }

    /// Stores a blob: reads it to its end, calls [`finish`](LayerReader::finish), and only then makes it visible.
    ///
    /// The future may be dropped at any point; nothing of the blob may then
    /// be visible.
    fn store(
        &self,
        blob: &Descriptor,
        reader: LayerReader,
    ) -> impl Future<Output = Result<()>> + Send;

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
}

/// A sink that reads and verifies every blob, and keeps nothing: for measuring, or for warming a mirror.
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
