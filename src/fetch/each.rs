//! A handler for each layer of an image, or for some of them.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use oci_spec::image::Digest;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio_util::io::SyncIoBridge;

use super::handler::{Doing, Handler};
use super::{Fetcher, Image, Job, Layer, LayerReader, panicked};
use crate::error::{Error, Result};

/// An error of a handler, of any type.
type Failed = Box<dyn StdError + Send + Sync>;

impl Fetcher {
    /// Runs `handler` for each layer, many at once, each in its own task. Returns the results in the order of the layers. A
    /// blob that occurs in several layers is handled once, and its result is cloned.
    ///
    /// The handler gets a reader of the layer's blob as it is stored: verified to the end, compressed or not. If the blob
    /// breaks, the handler is run again from the start with a fresh reader, as often as the
    /// [`RetryPolicy`](crate::RetryPolicy) allows. What it did before must not matter, or be undone when its future ends.
    /// What it leaves unread is read and checked after it: to skip layers, use [`for_each_of`](Self::for_each_of).
    ///
    /// # Errors
    ///
    /// The first fatal error, which stops all other handlers at once: a blob's or a proxy's beyond its retries, or
    /// [`Error::Handler`] with the handler's own, which [`Error::handler_ref`] gives back. A blob's error is reported rather
    /// than the one that it causes in the handler.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, all handlers are stopped.
    pub async fn for_each_layer<T, E, Fut>(
        &self,
        image: &Image,
        handler: impl Fn(Layer, LayerReader) -> Fut + Send + Sync + 'static,
    ) -> Result<Vec<T>>
    where
        T: Clone + Send + 'static,
        E: Into<Failed>,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let _ending = self.events.ending();
        let content = self.content(image).await?;
        let results = self.handle_each(image, content.layers(), handler).await?;
        Ok(results.in_order(content.layers()))
    }

    /// Runs `handler` for these layers of an image, such as those that the caller does not have yet, as
    /// [`for_each_layer`](Self::for_each_layer) does for all. Nothing else is fetched, not even the config. The layers are
    /// some of [`Image::layers`].
    ///
    /// Returns each layer with its result, in the given order. A blob that occurs in several of them is handled once, for the
    /// first of them, which alone is returned; so results need not be `Clone`.
    ///
    /// ```no_run
    /// # async fn example(fetcher: longshore::Fetcher) -> longshore::Result<()> {
    /// use longshore::Layer;
    /// use tokio::io::{copy, sink};
    ///
    /// # let is_there = |_: &Layer| false;
    /// let image = fetcher.open("docker://quay.io/fedora/fedora:latest").await?;
    /// let missing: Vec<Layer> = image.layers().into_iter().filter(|layer| !is_there(layer)).collect();
    /// let handler = |_layer, mut reader| async move { copy(&mut reader, &mut sink()).await };
    /// for (layer, bytes) in fetcher.for_each_of(&image, &missing, handler).await? {
    ///     println!("{}: {bytes} bytes", layer.descriptor.digest());
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`for_each_layer`](Self::for_each_layer); [`Error::Image`] for a layer that the image does not have.
    ///
    /// # Cancel safety
    ///
    /// As [`for_each_layer`](Self::for_each_layer).
    pub async fn for_each_of<T, E, Fut>(
        &self,
        image: &Image,
        layers: &[Layer],
        handler: impl Fn(Layer, LayerReader) -> Fut + Send + Sync + 'static,
    ) -> Result<Vec<(Layer, T)>>
    where
        T: Send + 'static,
        E: Into<Failed>,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let _ending = self.events.ending();
        image.check_layers(layers)?;
        let results = self.handle_each(image, layers, handler).await?;
        Ok(results.with_layers(layers))
    }

    /// Runs `handler` for each layer, on threads that may block, with a reader that blocks: for `tar`, and whatever else
    /// reads from [`std::io::Read`]. Otherwise as [`for_each_layer`](Self::for_each_layer).
    ///
    /// ```no_run
    /// # async fn example(fetcher: longshore::Fetcher) -> longshore::Result<()> {
    /// use std::io;
    /// use longshore::BlockingReader;
    ///
    /// let image = fetcher.open("docker://quay.io/fedora/fedora:latest").await?;
    /// let handler = |_layer, mut reader: BlockingReader| io::copy(&mut reader, &mut io::sink());
    /// let sizes = fetcher.for_each_layer_blocking(&image, handler).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`for_each_layer`](Self::for_each_layer).
    ///
    /// # Cancel safety
    ///
    /// Dropped early, the reads of all handlers fail. A handler that does not read goes on until it returns.
    pub async fn for_each_layer_blocking<T, E>(
        &self,
        image: &Image,
        handler: impl Fn(Layer, BlockingReader) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Vec<T>>
    where
        T: Clone + Send + 'static,
        E: Into<Failed> + 'static,
    {
        self.for_each_layer(image, on_a_thread(handler)).await
    }

    /// Runs `handler` for these layers, on threads that may block: [`for_each_of`](Self::for_each_of) as
    /// [`for_each_layer_blocking`](Self::for_each_layer_blocking) is to [`for_each_layer`](Self::for_each_layer).
    ///
    /// # Errors
    ///
    /// As [`for_each_of`](Self::for_each_of).
    ///
    /// # Cancel safety
    ///
    /// As [`for_each_layer_blocking`](Self::for_each_layer_blocking).
    pub async fn for_each_of_blocking<T, E>(
        &self,
        image: &Image,
        layers: &[Layer],
        handler: impl Fn(Layer, BlockingReader) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Vec<(Layer, T)>>
    where
        T: Send + 'static,
        E: Into<Failed> + 'static,
    {
        let handler = on_a_thread(handler);
        self.for_each_of(image, layers, handler).await
    }

    /// Runs `handler` for these layers, which the image has.
    pub(super) async fn handle_each<T, E, Fut>(
        &self,
        image: &Image,
        layers: &[Layer],
        handler: impl Fn(Layer, LayerReader) -> Fut + Send + Sync + 'static,
    ) -> Result<Results<T>>
    where
        T: Send + 'static,
        E: Into<Failed>,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let (done, mut outputs) = mpsc::unbounded_channel();
        let handler = EachLayer {
            work: move |layer, reader| {
                let work = handler(layer, reader);
                async move { work.await.map_err(Error::handler) }
            },
            done,
        };
        let mut engine = self.engine_for(&[image]);
        let ids = engine.begin(&[image], self.events.clone(), handler);
        for id in &ids {
            engine.fetch(*id, layers, false)?;
        }
        self.fetch_all(&mut engine, ids.len()).await?;
        let mut results = HashMap::new();
        while let Ok((digest, output)) = outputs.try_recv() {
            results.insert(digest, output);
        }
        Ok(Results(results))
    }
}

/// The results of a handler, by the digests of the blobs.
pub(super) struct Results<T>(HashMap<Digest, T>);

impl<T> Results<T> {
    /// One result for each layer, in their order.
    pub(super) fn in_order(self, layers: &[Layer]) -> Vec<T>
    where
        T: Clone,
    {
        let result = |layer: &Layer| self.0.get(layer.descriptor.digest()).cloned();
        // Each blob was handled.
        layers.iter().filter_map(result).collect()
    }

    /// Each blob's first layer with its result, in the order of the layers.
    pub(super) fn with_layers(mut self, layers: &[Layer]) -> Vec<(Layer, T)> {
        let result = |layer: &Layer| {
            let result = self.0.remove(layer.descriptor.digest())?;
            Some((layer.clone(), result))
        };
        layers.iter().filter_map(result).collect()
    }
}

/// A closure as a handler.
struct EachLayer<F, T> {
    work: F,
    done: mpsc::UnboundedSender<(Digest, T)>,
}

impl<F, T, Fut> Handler for EachLayer<F, T>
where
    F: Fn(Layer, LayerReader) -> Fut + Send + Sync,
    T: Send,
    Fut: Future<Output = Result<T>> + Send,
{
    fn skip<'a>(&'a self, _: &'a Job) -> Doing<'a, bool> {
        Box::pin(async { Ok(false) })
    }

    fn handle<'a>(&'a self, job: &'a Job, reader: LayerReader) -> Doing<'a, ()> {
        Box::pin(async move {
            let output = (self.work)(job.layer.clone(), reader).await?;
            let digest = job.layer.descriptor.digest().clone();
            // If nobody collects it any more, nobody wants it.
            let _ = self.done.send((digest, output));
            Ok(())
        })
    }
}

/// A layer on its way into a handler that blocks. Its end comes only if the blob is right, as with the reader in it.
pub struct BlockingReader(SyncIoBridge<Box<dyn AsyncRead + Send + Unpin>>);

impl fmt::Debug for BlockingReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingReader").finish_non_exhaustive()
    }
}

impl io::Read for BlockingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

/// A handler that runs another one on a thread that may block.
pub(super) fn on_a_thread<T, E, R>(
    handler: impl Fn(Layer, BlockingReader) -> Result<T, E> + Send + Sync + 'static,
) -> impl Fn(Layer, R) -> Pin<Box<dyn Future<Output = Result<T, Failed>> + Send>> + Send + Sync
where
    T: Send + 'static,
    E: Into<Failed> + 'static,
    R: AsyncRead + Send + Unpin + 'static,
{
    let handler = Arc::new(handler);
    move |layer, reader| {
        let handler = Arc::clone(&handler);
        Box::pin(async move {
            let reader: Box<dyn AsyncRead + Send + Unpin> = Box::new(reader);
            let reader = BlockingReader(SyncIoBridge::new(reader));
            let run = move || handler(layer, reader).map_err(Into::into);
            let done = tokio::task::spawn_blocking(run).await;
            done.unwrap_or_else(|error| Err(panicked(error).into()))
        })
    }
}
