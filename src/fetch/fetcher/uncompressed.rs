//! Layers without their compression.

use std::sync::Arc;

use super::super::decompress::{Bounds, Decompressed};
use super::super::each::{Results, on_a_thread};
use super::super::{BlockingReader, Image, Layer, LayerStream, UncompressedReader};
use super::Fetcher;
use crate::error::{Error, Result};

impl Fetcher {
    /// Runs `handler` for each layer, like [`for_each_layer`](Self::for_each_layer), with readers that decompress: gzip of
    /// any number of members, zstd of any number of frames, or nothing, as the layer's first bytes say.
    ///
    /// ```no_run
    /// # async fn example(fetcher: longshore::Fetcher) -> longshore::Result<()> {
    /// use tokio::io::{copy, sink};
    ///
    /// let image = fetcher.open("docker://quay.io/fedora/fedora:latest").await?;
    /// let handler = |_layer, mut reader| async move { copy(&mut reader, &mut sink()).await };
    /// let sizes = fetcher.for_each_layer_uncompressed(&image, handler).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// The end of such a reader comes only if the compressed bytes have the
    /// manifest's digest *and* the decompressed ones the config's `diff_id`
    /// (of an artifact that is no image there is none). A layer that expands beyond
    /// [`max_expansion`](crate::FetchOptions::max_expansion), or needs a larger window than
    /// [`max_zstd_window`](crate::FetchOptions::max_zstd_window), is given up.
    ///
    /// # Errors
    ///
    /// As there; [`Error::Image`] before anything is fetched, if the config has no `diff_id` that can
    /// be checked for each layer, or two for the same blob; [`BlobError::Decompress`](crate::BlobError::Decompress),
    /// [`BlobError::Expands`](crate::BlobError::Expands), [`BlobError::ZstdWindow`](crate::BlobError::ZstdWindow),
    /// [`BlobError::WrongDiffId`](crate::BlobError::WrongDiffId).
    ///
    /// # Cancel safety
    ///
    /// As there.
    pub async fn for_each_layer_uncompressed<T, E, Fut>(
        &self,
        image: &Image,
        handler: impl Fn(Layer, UncompressedReader) -> Fut + Send + Sync + 'static,
    ) -> Result<Vec<T>>
    where
        T: Clone + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let _ending = self.events.ending();
        let content = self.content(image).await?;
        content.check_diff_ids()?;
        let results = self
            .uncompress_each(image, content.layers(), handler)
            .await?;
        Ok(results.in_order(content.layers()))
    }

    /// Runs `handler` for these layers, decompressed, as [`for_each_of`](Self::for_each_of) does with their blobs. A layer
    /// without a `diff_id` is checked by the digest of its blob only; call [`content`](Self::content) before to have them.
    ///
    /// # Errors
    ///
    /// As [`for_each_layer_uncompressed`](Self::for_each_layer_uncompressed); [`Error::Image`] for a layer that the image
    /// does not have.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, all handlers are stopped.
    pub async fn for_each_of_uncompressed<T, E, Fut>(
        &self,
        image: &Image,
        layers: &[Layer],
        handler: impl Fn(Layer, UncompressedReader) -> Fut + Send + Sync + 'static,
    ) -> Result<Vec<(Layer, T)>>
    where
        T: Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let _ending = self.events.ending();
        image.check_layers(layers)?;
        let results = self.uncompress_each(image, layers, handler).await?;
        Ok(results.with_layers(layers))
    }

    /// Runs `handler` for each layer, decompressed, on threads that may block:
    /// [`for_each_layer_uncompressed`](Self::for_each_layer_uncompressed) with the reader of
    /// [`for_each_layer_blocking`](Self::for_each_layer_blocking).
    ///
    /// # Errors
    ///
    /// As [`for_each_layer_uncompressed`](Self::for_each_layer_uncompressed).
    ///
    /// # Cancel safety
    ///
    /// Dropped early, the reads of all handlers fail. A handler that does not read goes on until it returns.
    pub async fn for_each_layer_uncompressed_blocking<T, E>(
        &self,
        image: &Image,
        handler: impl Fn(Layer, BlockingReader) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Vec<T>>
    where
        T: Clone + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let handler = on_a_thread(handler);
        self.for_each_layer_uncompressed(image, handler).await
    }

    /// Returns the layers of an image as a stream, decompressed, from the base layer up:
    /// [`layers`](Self::layers) with the readers of
    /// [`for_each_layer_uncompressed`](Self::for_each_layer_uncompressed).
    ///
    /// ```no_run
    /// # async fn example(fetcher: longshore::Fetcher) -> Result<(), Box<dyn std::error::Error>> {
    /// use tokio::io::{copy, sink};
    ///
    /// let image = fetcher.open("docker://quay.io/fedora/fedora:latest").await?;
    /// let mut layers = fetcher.layers_uncompressed(&image, 4).await?;
    /// while let Some(next) = layers.next().await {
    ///     let (layer, mut reader) = next?;
    ///     println!("{:?}: {} bytes", layer.diff_id, copy(&mut reader, &mut sink()).await?);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`for_each_layer_uncompressed`](Self::for_each_layer_uncompressed) before anything is fetched. The
    /// errors of layers come from the stream.
    ///
    /// # Cancel safety
    ///
    /// Dropping the stream ends the fetch.
    pub async fn layers_uncompressed(
        &self,
        image: &Image,
        ahead: usize,
    ) -> Result<LayerStream<UncompressedReader>> {
        let ending = self.events.ending();
        let content = self.content(image).await?;
        content.check_diff_ids()?;
        let view = Decompressed(Bounds::of(&self.options));
        self.in_order(image, content.layers(), ahead, view, ending)
    }

    /// Returns these layers of an image as a stream, decompressed, in the order in which they are given:
    /// [`layers_of`](Self::layers_of) with the readers of
    /// [`for_each_of_uncompressed`](Self::for_each_of_uncompressed).
    ///
    /// # Errors
    ///
    /// [`Error::Image`] for a layer that the image does not have. The errors of layers come from the stream.
    ///
    /// # Panics
    ///
    /// Outside of a runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropping the stream ends the fetch.
    pub fn layers_of_uncompressed(
        &self,
        image: &Image,
        layers: &[Layer],
        ahead: usize,
    ) -> Result<LayerStream<UncompressedReader>> {
        image.check_layers(layers)?;
        let view = Decompressed(Bounds::of(&self.options));
        self.in_order(image, layers, ahead, view, self.events.ending())
    }

    async fn uncompress_each<T, E, Fut>(
        &self,
        image: &Image,
        layers: &[Layer],
        handler: impl Fn(Layer, UncompressedReader) -> Fut + Send + Sync + 'static,
    ) -> Result<Results<T>>
    where
        T: Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let bounds = Bounds::of(&self.options);
        let handler = Arc::new(handler);
        self.handle_each(image, layers, move |layer, reader| {
            let handler = Arc::clone(&handler);
            async move {
                let (reader, mut left) = UncompressedReader::new(reader, &layer, bounds).await?;
                let output = handler(layer, reader).await.map_err(Error::handler);
                let left = left.try_recv().ok();
                // A layer that failed makes its handler fail, or should.
                if let Some(Err(error)) = left.as_ref().and_then(|left| left.ended.clone()) {
                    return Err(error);
                }
                let output = output?;
                left.ok_or(Error::ReaderKept)?.read_to_end().await?;
                Ok(output)
            }
        })
        .await
    }
}
