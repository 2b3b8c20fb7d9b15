//! The methods of [`Fetcher`] that fetch one blob by its digest.

use std::io;
use std::slice;

use oci_spec::image::{Descriptor, Digest, MediaType};
use tokio::io::AsyncReadExt;

use super::super::attempts::with_retries;
use super::super::each::{HandlerError, on_blocking_thread};
use super::super::{BlockingReader, Image, Layer, LayerReader, document, retry};
use super::Fetcher;
use crate::error::{BlobError, Error, Result};
use crate::proxy::{ImageProxy, OpenedImage};

impl Fetcher {
    /// Runs `handler` for one blob: a layer of the image, its config, or another blob of its source. If the source is a
    /// registry, the blob can be any blob of the image's repository. If the manifest does not name the blob, a first
    /// request to the source finds out its size.
    ///
    /// If skopeo [converted](Image::is_converted) the image, its source does not have the config that the manifest
    /// names: use [`content`](Self::content) or [`source_config`](Self::source_config).
    ///
    /// The handler gets a reader that verifies the blob. If the transfer fails or the blob is wrong, the handler is run
    /// again with a new reader, as in [`for_each_layer`](Self::for_each_layer).
    ///
    /// ```no_run
    /// # async fn example(fetcher: longshore::Fetcher) -> longshore::Result<()> {
    /// use tokio::io::AsyncReadExt;
    ///
    /// let image = fetcher.open("docker://quay.io/fedora/fedora:latest").await?;
    /// let digest = image.manifest().layers()[0].digest().clone();
    /// let read = |mut reader: longshore::LayerReader| async move {
    ///     let mut bytes = Vec::new();
    ///     reader.read_to_end(&mut bytes).await?;
    ///     Ok::<_, std::io::Error>(bytes)
    /// };
    /// let layer = fetcher.for_blob(&image, &digest, read).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`for_each_layer`](Self::for_each_layer); [`Error::Image`] if the manifest does not name the blob
    /// and its source does not announce a size.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, the handler is stopped.
    pub async fn for_blob<T, E, Fut>(
        &self,
        image: &Image,
        digest: &Digest,
        handler: impl Fn(LayerReader) -> Fut + Send + Sync + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        E: Into<HandlerError>,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let _end_guard = self.events.end_guard();
        let size = self.size_of(image, digest).await?;
        let handler = move |_, reader| handler(reader);
        self.for_one(image, digest, size, handler).await
    }

    /// Runs `handler` for one blob, on a thread that may block, with a reader that blocks. Everything else is as
    /// with [`for_blob`](Self::for_blob).
    ///
    /// # Errors
    ///
    /// The errors of [`for_blob`](Self::for_blob).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, the reads of the handler fail. A handler that does not read goes on until
    /// it returns.
    pub async fn for_blob_blocking<T, E>(
        &self,
        image: &Image,
        digest: &Digest,
        handler: impl Fn(BlockingReader) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        E: Into<HandlerError> + 'static,
    {
        let _end_guard = self.events.end_guard();
        let size = self.size_of(image, digest).await?;
        let handler = on_blocking_thread(move |_, reader| handler(reader));
        self.for_one(image, digest, size, handler).await
    }

    async fn for_one<T, E, Fut>(
        &self,
        image: &Image,
        digest: &Digest,
        size: u64,
        handler: impl Fn(Layer, LayerReader) -> Fut + Send + Sync + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        E: Into<HandlerError>,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let kind = MediaType::Other("application/octet-stream".to_owned());
        let blob = Layer::new(0, Descriptor::new(kind, size, digest.clone()));
        let blob = slice::from_ref(&blob);
        let results = self.handle_each(image, blob, handler).await?;
        let result = results.with_layers(blob).pop();
        // The handler was run for the blob, so there is a result.
        result.map(|(_, result)| result).ok_or(Error::Closed)
    }

    /// Fetches the config of an image in the form that it has at its source, before any
    /// [conversion](Image::is_converted): the bytes whose digest the [source's manifest](Self::source_manifest) names.
    /// For an image that was not converted, these are the bytes of the config in [`content`](Self::content).
    ///
    /// # Errors
    ///
    /// The errors of [`content`](Self::content), [`for_blob`](Self::for_blob) and
    /// [`source_manifest`](Self::source_manifest).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, the processes that it started are ended.
    pub async fn source_config(&self, image: &Image) -> Result<Vec<u8>> {
        if !image.is_converted() {
            return Ok(self.content(image).await?.config().to_vec());
        }
        let end_guard = self.events.end_guard();
        let manifest = document::manifest(&self.source_manifest(image).await?)?;
        let (digest, size) = (manifest.config().digest(), manifest.config().size());
        let limit = self.starter.max_document_bytes();
        if size > limit {
            let what = "image config";
            return Err(Error::DocumentTooLarge { what, limit });
        }
        let read = |_, mut reader: LayerReader| async move {
            let mut config = Vec::new();
            reader.read_to_end(&mut config).await?;
            Ok::<_, io::Error>(config)
        };
        let config = self.for_one(image, digest, size, read).await?;
        end_guard.keep();
        Ok(config)
    }

    /// Returns the size of a blob in bytes: the size that the manifest states, or else the size that the
    /// source announces.
    async fn size_of(&self, image: &Image, digest: &Digest) -> Result<u64> {
        match size_in_manifest(image, digest) {
            Some(size) => Ok(size),
            None => Box::pin(self.size_at_source(image, digest)).await,
        }
    }

    async fn size_at_source(&self, image: &Image, digest: &Digest) -> Result<u64> {
        let reference = image.reference();
        let announced = with_retries(&self.options.retry, reference, || async move {
            match announced(image.proxy(), image.opened(), digest).await {
                Err(error) if retry::is_proxy_failure(&error) => {
                    // The proxy has died or hangs, so another one is started.
                    let proxy = self.starter.start(None, image.data.place(), None).await?;
                    let opened = proxy.open_image(reference).await?;
                    image.data.compare(&proxy, &opened).await?;
                    announced(&proxy, &opened, digest).await
                }
                other => other,
            }
        });
        announced.await?.ok_or_else(|| {
            Error::image(format!(
                "its manifest does not name {digest}, and its source does not announce the size of this blob"
            ))
        })
    }
}

/// Returns the size of a layer or of the config, in bytes, that the manifest states.
fn size_in_manifest(image: &Image, digest: &Digest) -> Option<u64> {
    let manifest = image.manifest();
    let mut named = manifest.layers().iter().chain([manifest.config()]);
    let named = named.find(|blob| blob.digest() == digest)?;
    Some(named.size())
}

/// Returns the size that the source announces for a blob, in bytes. `None` if it announces none. The transfer of the
/// blob is cancelled.
async fn announced(
    proxy: &ImageProxy,
    opened: &OpenedImage,
    digest: &Digest,
) -> Result<Option<u64>> {
    if proxy.supports_get_raw_blob() {
        let blob = proxy.get_raw_blob(opened, digest).await?;
        return Ok(blob.announced());
    }
    // For an older proxy, this library compares the announced size with the size in the call. Any size will do, because
    // the error contains the announced one.
    match proxy.get_blob(opened, digest, 1).await {
        Ok(blob) => Ok(blob.announced()),
        Err(Error::Blob {
            source: BlobError::WrongSize { announced, .. },
            ..
        }) => Ok(Some(announced)),
        Err(error) => Err(error),
    }
}
