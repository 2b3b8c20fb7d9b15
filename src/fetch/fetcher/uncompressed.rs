//! The methods of [`Fetcher`] that fetch layers and decompress them.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::decompress::{Bounds, Decompressed};
use super::super::each::{Results, on_blocking_thread};
use super::super::{BlockingReader, Image, Layer, LayerStream, UncompressedReader};
use super::Fetcher;
use crate::error::{Error, Result};

impl Fetcher {
    /// Runs `handler` for each layer of an image, like [`for_each_layer`](Self::for_each_layer), with a reader
    /// that decompresses the layer. The first bytes of a layer decide whether it is gzip (of any number of
    /// members), zstd (of any number of frames), or not compressed.
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
    /// The reader reaches its end only if the blob has the digest from the manifest, *and* the decompressed bytes
    /// have the `diff_id` from the config. An artifact that is no image has no `diff_id`s.
    ///
    /// # Errors
    ///
    /// The errors of [`for_each_layer`](Self::for_each_layer), and:
    ///
    /// - [`Error::Image`] if the config does not have one `diff_id` for each layer, if the algorithm of a `diff_id` is
    ///   unknown (known: sha256, sha384, sha512), or if two layers with the same blob have different `diff_id`s. No
    ///   layer is fetched then.
    /// - [`BlobError::Decompress`](crate::BlobError::Decompress) if a layer can't be decompressed.
    /// - [`BlobError::Expands`](crate::BlobError::Expands) if a layer expands beyond
    ///   [`max_expansion`](crate::FetchOptions#structfield.max_expansion).
    /// - [`BlobError::ZstdWindow`](crate::BlobError::ZstdWindow) if a layer needs a larger window than
    ///   [`max_zstd_window`](crate::FetchOptions#structfield.max_zstd_window).
    /// - [`BlobError::WrongDiffId`](crate::BlobError::WrongDiffId) if the decompressed bytes do not have the
    ///   `diff_id`.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, all handlers are stopped.
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
        let _end_guard = self.events.end_guard();
        let content = self.content(image).await?;
        content.check_diff_ids()?;
        let results = self
            .uncompress_each(image, content.layers(), handler)
            .await?;
        Ok(results.in_order(content.layers()))
    }

    /// Runs `handler` for some layers of an image, like [`for_each_of`](Self::for_each_of), with a reader that
    /// decompresses the layer.
    ///
    /// A layer without a `diff_id` is checked by the digest of its blob only. [`Image::layers`] have `diff_id`s
    /// once [`content`](Self::content) was called for the image.
    ///
    /// # Errors
    ///
    /// The errors of [`for_each_layer_uncompressed`](Self::for_each_layer_uncompressed), except those of the config;
    /// [`Error::Image`] if the image does not have one of the layers, if the algorithm of a `diff_id` is unknown, or if
    /// two of `layers` have the same blob and different `diff_id`s.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, all handlers are stopped.
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
        let _end_guard = self.events.end_guard();
        image.check_layers(layers)?;
        check_diff_ids(layers)?;
        let results = self.uncompress_each(image, layers, handler).await?;
        Ok(results.with_layers(layers))
    }

    /// Runs `handler` for each layer of an image, on threads that may block, with a reader that decompresses the layer.
    /// [`for_each_layer_blocking`](Self::for_each_layer_blocking) describes the threads, and
    /// [`for_each_layer_uncompressed`](Self::for_each_layer_uncompressed) describes the checks.
    ///
    /// # Errors
    ///
    /// The errors of [`for_each_layer_uncompressed`](Self::for_each_layer_uncompressed).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, the reads of all handlers fail. A handler that does not read goes on until
    /// it returns.
    pub async fn for_each_layer_uncompressed_blocking<T, E>(
        &self,
        image: &Image,
        handler: impl Fn(Layer, BlockingReader) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Vec<T>>
    where
        T: Clone + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let handler = on_blocking_thread(handler);
        self.for_each_layer_uncompressed(image, handler).await
    }

    /// Runs `handler` for some layers of an image, on threads that may block, with a reader that decompresses the
    /// layer. [`for_each_layer_blocking`](Self::for_each_layer_blocking) describes the threads, and
    /// [`for_each_of_uncompressed`](Self::for_each_of_uncompressed) describes the checks.
    ///
    /// ```no_run
    /// # fn has(_: &longshore::Layer) -> bool { false }
    /// # fn import(_: impl std::io::Read) -> std::io::Result<()> { Ok(()) }
    /// # async fn example(fetcher: longshore::Fetcher) -> longshore::Result<()> {
    /// let image = fetcher.open("docker://quay.io/fedora/fedora:latest").await?;
    /// // With the config, the layers have their `diff_id`s.
    /// let content = fetcher.content(&image).await?;
    /// let missing: Vec<_> = content.layers().iter().filter(|layer| !has(layer)).cloned().collect();
    /// let import_one = |_layer, tar| import(tar);
    /// fetcher.for_each_of_uncompressed_blocking(&image, &missing, import_one).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`for_each_of_uncompressed`](Self::for_each_of_uncompressed).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, the reads of all handlers fail. A handler that does not read goes on until
    /// it returns.
    pub async fn for_each_of_uncompressed_blocking<T, E>(
        &self,
        image: &Image,
        layers: &[Layer],
        handler: impl Fn(Layer, BlockingReader) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Vec<(Layer, T)>>
    where
        T: Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let handler = on_blocking_thread(handler);
        self.for_each_of_uncompressed(image, layers, handler).await
    }

    /// Returns the layers of an image as a stream, from the base layer up, with readers that decompress.
    /// [`layers`](Self::layers) describes the stream, and
    /// [`for_each_layer_uncompressed`](Self::for_each_layer_uncompressed) describes the checks.
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
    /// The errors of [`content`](Self::content); [`Error::Image`] if the config does not have one `diff_id` for each
    /// layer, if the algorithm of a `diff_id` is unknown, or if two layers with the same blob have different
    /// `diff_id`s. The stream returns the errors of the layers.
    ///
    /// # Cancel safety
    ///
    /// Dropping the stream ends the fetch.
    pub async fn layers_uncompressed(
        &self,
        image: &Image,
        ahead: usize,
    ) -> Result<LayerStream<UncompressedReader>> {
        let end_guard = self.events.end_guard();
        let content = self.content(image).await?;
        content.check_diff_ids()?;
        let view = Decompressed(Bounds::of(&self.options));
        self.in_order(image, content.layers(), ahead, view, end_guard)
    }

    /// Returns some layers of an image as a stream, in the order of `layers`, with readers that decompress.
    /// [`layers_of`](Self::layers_of) describes the stream, and
    /// [`for_each_of_uncompressed`](Self::for_each_of_uncompressed) describes the checks.
    ///
    /// # Errors
    ///
    /// [`Error::Image`] if the image does not have one of the layers, or if two of `layers` have the same blob and
    /// different `diff_id`s. The stream returns the errors of the layers.
    ///
    /// # Panics
    ///
    /// Panics if called outside of a tokio runtime.
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
        let end_guard = self.events.end_guard();
        image.check_layers(layers)?;
        check_diff_ids(layers)?;
        let view = Decompressed(Bounds::of(&self.options));
        self.in_order(image, layers, ahead, view, end_guard)
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
                let (reader, mut returned) =
                    UncompressedReader::new(reader, &layer, bounds).await?;
                let output = handler(layer, reader).await.map_err(Error::handler);
                let returned = returned.try_recv().ok();
                // If the layer failed, that is the error, whatever the handler returned.
                if let Some(Err(error)) = returned
                    .as_ref()
                    .and_then(|returned| returned.ended.clone())
                {
                    return Err(error);
                }
                let output = output?;
                returned.ok_or(Error::ReaderKept)?.read_to_end().await?;
                Ok(output)
            }
        })
        .await
    }
}

/// Returns an error if the same blob has two `diff_id`s, of which one is wrong.
fn check_diff_ids(layers: &[Layer]) -> Result<()> {
    let mut known = HashMap::new();
    for layer in layers {
        let (blob, Some(diff_id)) = (layer.descriptor.digest(), &layer.diff_id) else {
            continue;
        };
        if *known.entry(blob).or_insert(diff_id) != diff_id {
            let reason = format!("two layers have the blob {blob}, and different diff_ids");
            return Err(Error::image(reason));
        }
    }
    Ok(())
}
