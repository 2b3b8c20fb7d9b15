//! The methods of [`Fetcher`] that fetch layers as they are stored: with a handler for each, or as a stream.

use tokio::sync::{mpsc, watch};

use super::super::each::{EachLayer, HandlerError, Results, on_blocking_thread};
use super::super::event::EndGuard;
use super::super::ordered::{AsStored, SendToStream, View};
use super::super::{BlockingReader, Image, Layer, LayerReader, LayerStream};
use super::Fetcher;
use crate::error::{Error, Result};

impl Fetcher {
    /// Runs `handler` for each layer of an image, for many layers at once, each in its own task. Returns the
    /// results in the order of the layers. A blob that occurs in several layers is handled once, and its result
    /// is cloned.
    ///
    /// The handler gets a reader of the layer's blob as it is stored, compressed or not. The reader verifies the
    /// blob. If the transfer fails or the blob is wrong, the handler is run again with a new reader, as often as
    /// the [`RetryPolicy`](crate::RetryPolicy) allows. So a run that fails or is dropped must leave nothing that
    /// disturbs the next one. Bytes that the handler does not read are read and verified after it returns. To skip
    /// layers, use [`for_each_of`](Self::for_each_of). Foreign layers, whose descriptors have `urls`, are not left out,
    /// although the registry may not have them.
    ///
    /// # Errors
    ///
    /// The errors of [`content`](Self::content), or the first fatal error of a layer, which stops all other handlers
    /// at once. This is the error of a blob or a proxy after its retries, or [`Error::Handler`] with the handler's own
    /// error, which [`Error::handler_ref`] returns. If a blob is wrong, its error is returned, not the error that it
    /// causes in the handler.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, all handlers are stopped.
    pub async fn for_each_layer<T, E, Fut>(
        &self,
        image: &Image,
        handler: impl Fn(Layer, LayerReader) -> Fut + Send + Sync + 'static,
    ) -> Result<Vec<T>>
    where
        T: Clone + Send + 'static,
        E: Into<HandlerError>,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let _end_guard = self.events.end_guard();
        let content = self.content(image).await?;
        let results = self.handle_each(image, content.layers(), handler).await?;
        Ok(results.in_order(content.layers()))
    }

    /// Runs `handler` for some layers of an image, for example for those that the caller does not have yet. The handler
    /// is run as in [`for_each_layer`](Self::for_each_layer). `layers` are some of [`Image::layers`]. Nothing else is
    /// fetched, not even the config.
    ///
    /// Returns the layers with their results, in the order of `layers`. If a blob occurs in several of them, only
    /// the first of these layers is handled and returned.
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
    /// The errors of [`for_each_layer`](Self::for_each_layer); [`Error::Image`] if the image does not have one of
    /// the layers.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, all handlers are stopped.
    pub async fn for_each_of<T, E, Fut>(
        &self,
        image: &Image,
        layers: &[Layer],
        handler: impl Fn(Layer, LayerReader) -> Fut + Send + Sync + 'static,
    ) -> Result<Vec<(Layer, T)>>
    where
        T: Send + 'static,
        E: Into<HandlerError>,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let _end_guard = self.events.end_guard();
        image.check_layers(layers)?;
        let results = self.handle_each(image, layers, handler).await?;
        Ok(results.with_layers(layers))
    }

    /// Runs `handler` for each layer of an image, on threads that may block, with a reader for libraries that need
    /// [`std::io::Read`], such as `tar`. The threads are those of tokio's `spawn_blocking`. At most
    /// [`workers`](crate::FetchOptions#structfield.workers) of them are in use at once. Everything else is as with
    /// [`for_each_layer`](Self::for_each_layer).
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
    /// The errors of [`for_each_layer`](Self::for_each_layer).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, the reads of all handlers fail. A handler that does not read goes on until
    /// it returns.
    pub async fn for_each_layer_blocking<T, E>(
        &self,
        image: &Image,
        handler: impl Fn(Layer, BlockingReader) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Vec<T>>
    where
        T: Clone + Send + 'static,
        E: Into<HandlerError> + 'static,
    {
        self.for_each_layer(image, on_blocking_thread(handler))
            .await
    }

    /// Runs `handler` for some layers of an image, like [`for_each_of`](Self::for_each_of), on threads that may
    /// block, like [`for_each_layer_blocking`](Self::for_each_layer_blocking).
    ///
    /// # Errors
    ///
    /// The errors of [`for_each_of`](Self::for_each_of).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, the reads of all handlers fail. A handler that does not read goes on until
    /// it returns.
    pub async fn for_each_of_blocking<T, E>(
        &self,
        image: &Image,
        layers: &[Layer],
        handler: impl Fn(Layer, BlockingReader) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Vec<(Layer, T)>>
    where
        T: Send + 'static,
        E: Into<HandlerError> + 'static,
    {
        let handler = on_blocking_thread(handler);
        self.for_each_of(image, layers, handler).await
    }

    /// Runs `handler` for these layers. The caller has checked that the image has them.
    pub(super) async fn handle_each<T, E, Fut>(
        &self,
        image: &Image,
        layers: &[Layer],
        handler: impl Fn(Layer, LayerReader) -> Fut + Send + Sync + 'static,
    ) -> Result<Results<T>>
    where
        T: Send + 'static,
        E: Into<HandlerError>,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let (done, outputs) = mpsc::unbounded_channel();
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
        Ok(Results::of(outputs))
    }

    /// Returns the layers of an image as a stream, from the base layer up.
    ///
    /// While one layer is read, up to `ahead` of the next layers are opened, over several proxies. The pipe of each of
    /// them already contains up to 512 KiB of the layer. A layer that occurs twice is fetched twice.
    ///
    /// A layer that fails before the stream returns it is retried, as the [`RetryPolicy`](crate::RetryPolicy)
    /// allows. A layer that fails while it is read is not retried, because the caller has read a part of it. The
    /// stream then ends with the layer's error.
    ///
    /// # Errors
    ///
    /// The errors of [`content`](Self::content). The stream returns the errors of the layers.
    ///
    /// # Cancel safety
    ///
    /// Dropping the stream ends the fetch.
    pub async fn layers(&self, image: &Image, ahead: usize) -> Result<LayerStream> {
        let end_guard = self.events.end_guard();
        let content = self.content(image).await?;
        self.in_order(image, content.layers(), ahead, AsStored, end_guard)
    }

    /// Returns some layers of an image as a stream, in the order of `layers`, like [`layers`](Self::layers).
    /// Nothing else is fetched, not even the config.
    ///
    /// # Errors
    ///
    /// [`Error::Image`] if the image does not have one of the layers. The stream returns the errors of
    /// the layers.
    ///
    /// # Panics
    ///
    /// Panics if called outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropping the stream ends the fetch.
    pub fn layers_of(&self, image: &Image, layers: &[Layer], ahead: usize) -> Result<LayerStream> {
        let end_guard = self.events.end_guard();
        image.check_layers(layers)?;
        self.in_order(image, layers, ahead, AsStored, end_guard)
    }

    pub(super) fn in_order<V: View>(
        &self,
        image: &Image,
        layers: &[Layer],
        ahead: usize,
        view: V,
        end_guard: EndGuard,
    ) -> Result<LayerStream<V::Reader>> {
        let (handler, ready_layers) = SendToStream::new(view, layers.len());
        let (window, end) = watch::channel(0);
        let mut engine = self.engine_for(&[image]);
        let ids = engine.begin(&[image], self.events.clone(), handler);
        for id in &ids {
            engine.fetch_in_order(*id, layers, ahead, end.clone())?;
        }
        let fetcher = self.clone();
        let run = tokio::spawn(async move {
            let _end_guard = end_guard;
            fetcher.fetch_all(&mut engine, ids.len()).await
        });
        let count = layers.len();
        Ok(LayerStream::new(count, ahead, window, ready_layers, run))
    }
}
