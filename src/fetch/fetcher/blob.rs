//! One blob, by its digest.

use std::slice;

use oci_spec::image::{Descriptor, Digest, MediaType};

use super::super::attempts::retrying;
use super::super::each::{Failed, on_a_thread};
use super::super::{BlockingReader, Image, Layer, LayerReader, retry};
use super::Fetcher;
use crate::error::{BlobError, Error, Result};
use crate::proxy::{ImageProxy, OpenedImage};

impl Fetcher {
    /// Runs `handler` for one blob: a layer or the config of the image, or another blob of its source. At a registry, that is
    /// any blob of the image's repository. The manifest gives the size of a blob that it names. For another one, the source is
    /// asked for the blob once more, to learn the size.
    ///
    /// The handler gets a verified reader. If the blob breaks, the handler is run again from the start with a fresh reader, as
    /// in [`for_each_layer`](Self::for_each_layer).
    ///
    /// ```no_run
    /// # async fn example(fetcher: longshore::Fetcher) -> longshore::Result<()> {
    /// use tokio::io::AsyncReadExt;
    ///
    /// let image = fetcher.open("docker://quay.io/fedora/fedora:latest").await?;
    /// let digest = image.manifest().config().digest().clone();
    /// let read = |mut reader: longshore::LayerReader| async move {
    ///     let mut bytes = Vec::new();
    ///     reader.read_to_end(&mut bytes).await?;
    ///     Ok::<_, std::io::Error>(bytes)
    /// };
    /// let config = fetcher.for_blob(&image, &digest, read).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`for_each_layer`](Self::for_each_layer); [`Error::Image`] if the manifest does not name the blob and its source does
    /// not announce a size.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, the handler is stopped.
    pub async fn for_blob<T, E, Fut>(
        &self,
        image: &Image,
        digest: &Digest,
        handler: impl Fn(LayerReader) -> Fut + Send + Sync + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        E: Into<Failed>,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        self.for_one(image, digest, move |_, reader| handler(reader))
            .await
    }

    /// Runs `handler` for one blob, on a thread that may block, with a reader that blocks. Otherwise it is like
    /// [`for_blob`](Self::for_blob).
    ///
    /// # Errors
    ///
    /// As [`for_blob`](Self::for_blob).
    ///
    /// # Cancel safety
    ///
    /// Dropped early, the reads of the handler fail. A handler that does not read goes on until it returns.
    pub async fn for_blob_blocking<T, E>(
        &self,
        image: &Image,
        digest: &Digest,
        handler: impl Fn(BlockingReader) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        E: Into<Failed> + 'static,
    {
        let handler = on_a_thread(move |_, reader| handler(reader));
        self.for_one(image, digest, handler).await
    }

    async fn for_one<T, E, Fut>(
        &self,
        image: &Image,
        digest: &Digest,
        handler: impl Fn(Layer, LayerReader) -> Fut + Send + Sync + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        E: Into<Failed>,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let _ending = self.events.ending();
        let size = match size_in_manifest(image, digest) {
            Some(size) => size,
            None => Box::pin(self.size_at_source(image, digest)).await?,
        };
        let kind = MediaType::Other("application/octet-stream".to_owned());
        let blob = Layer::new(0, Descriptor::new(kind, size, digest.clone()));
        let blob = slice::from_ref(&blob);
        let results = self.handle_each(image, blob, handler).await?;
        let result = results.with_layers(blob).pop();
        // The handler was run for it.
        result.map(|(_, result)| result).ok_or(Error::Closed)
    }

    /// The size of a blob as its source announces it, in bytes.
    async fn size_at_source(&self, image: &Image, digest: &Digest) -> Result<u64> {
        let reference = image.reference();
        let announced = retrying(&self.options.retry, reference, || async move {
            match announced(image.proxy(), image.opened(), digest).await {
                Err(error) if retry::is_proxy_failure(&error) => {
                    // The proxy is gone or hangs, so another one is started.
                    let proxy = self.starter.start(image.same.place(), None).await?;
                    let opened = proxy.open_image(reference).await?;
                    image.same.compare(&proxy, &opened).await?;
                    announced(&proxy, &opened, digest).await
                }
                other => other,
            }
        });
        announced.await?.ok_or_else(|| {
            Error::image(format!(
                "its manifest does not name {digest}, and its source does not say how many bytes that has"
            ))
        })
    }
}

/// The size of a layer, or of the config, as the manifest has it.
fn size_in_manifest(image: &Image, digest: &Digest) -> Option<u64> {
    let manifest = image.manifest();
    let mut named = manifest.layers().iter().chain([manifest.config()]);
    let named = named.find(|blob| blob.digest() == digest)?;
    Some(named.size())
}

/// The size that the source announces for a blob, if it does. The blob itself is given up.
async fn announced(
    proxy: &ImageProxy,
    opened: &OpenedImage,
    digest: &Digest,
) -> Result<Option<u64>> {
    if proxy.supports_get_raw_blob() {
        let blob = proxy.get_raw_blob(opened, digest).await?;
        return Ok(blob.announced());
    }
    // An older proxy compares its answer with a size that it is given. Any will do.
    match proxy.get_blob(opened, digest, 1).await {
        Ok(blob) => Ok(blob.announced()),
        Err(Error::Blob {
            source: BlobError::WrongSize { announced, .. },
            ..
        }) => Ok(Some(announced)),
        Err(error) => Err(error),
    }
}
