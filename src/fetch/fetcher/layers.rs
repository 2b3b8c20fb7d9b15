//! Layers as they are stored: a handler for each, or one after another.

use tokio::sync::{mpsc, watch};

use super::super::each::{EachLayer, Failed, Results, on_a_thread};
use super::super::event::Ending;
use super::super::ordered::{AsStored, HandOut, View};
use super::super::{BlockingReader, Image, Layer, LayerReader, LayerStream};
use super::Fetcher;
use crate::error::{Error, Result};

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
    /// While one layer is read, up to `ahead` of the following ones are opened, over several proxies, and wait in their
    /// pipes, with up to 512 KiB each. A layer that occurs twice is fetched twice.
    ///
    /// A layer that fails before it is handed out is tried again, as the [`RetryPolicy`](crate::RetryPolicy) says. A layer
    /// that breaks while it is read is not, for its reader has had a part of it: the stream ends with its error.
    ///
    /// # Errors
    ///
    /// The errors of [`content`](Self::content). The errors of layers come from the stream.
    ///
    /// # Cancel safety
    ///
    /// Dropping the stream ends the fetch.
    pub async fn layers(&self, image: &Image, ahead: usize) -> Result<LayerStream> {
        let ending = self.events.ending();
        let content = self.content(image).await?;
        self.in_order(image, content.layers(), ahead, AsStored, ending)
    }

    /// Returns these layers of an image as a stream, in the order in which they are given; otherwise it is like
    /// [`layers`](Self::layers). Nothing else is fetched, not even the config.
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
    pub fn layers_of(&self, image: &Image, layers: &[Layer], ahead: usize) -> Result<LayerStream> {
        image.check_layers(layers)?;
        self.in_order(image, layers, ahead, AsStored, self.events.ending())
    }

    pub(super) fn in_order<V: View>(
        &self,
        image: &Image,
        layers: &[Layer],
        ahead: usize,
        view: V,
        ending: Ending,
    ) -> Result<LayerStream<V::Reader>> {
        let (handler, handed_out) = HandOut::new(view, layers.len());
        let (window, end) = watch::channel(0);
        let mut engine = self.engine_for(&[image]);
        let ids = engine.begin(&[image], self.events.clone(), handler);
        for id in &ids {
            engine.fetch_in_order(*id, layers, ahead, end.clone())?;
        }
        let fetcher = self.clone();
        let run = tokio::spawn(async move {
            let _ending = ending;
            fetcher.fetch_all(&mut engine, ids.len()).await
        });
        let count = layers.len();
        Ok(LayerStream::new(count, ahead, window, handed_out, run))
    }
}
