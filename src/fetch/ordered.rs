//! The layers of an image as a stream, in order. The next layers are opened while one is read.

use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::handler::{Handler, HandlerFuture, Job};
use super::{Layer, LayerReader};
use crate::error::{Error, Result, join_error};

/// A stream of the layers of an image, one after another, from [`Fetcher::layers`](crate::Fetcher::layers). `R` is the
/// type of the readers. The stream also implements [`Stream`].
///
/// Read and drop the reader of one layer before you ask for the next, or read it in another task. A reader that is only
/// held keeps its layer unfinished. Besides the layers that [`next`](Self::next) has returned, at most `ahead` + 1
/// layers are fetched at the same time (`ahead` is the argument of [`Fetcher::layers`](crate::Fetcher::layers)). If you
/// hold more than `ahead` readers and ask for the next layer, [`next`](Self::next) may wait until you drop one of them.
/// After the last layer, [`next`](Self::next) waits until you have dropped all of them. Combinators that collect the
/// items, such as `try_collect`, wait for ever for this reason.
///
/// If a layer fails, the readers of all others fail with the same error. A
/// [deadline](crate::RetryPolicy#structfield.deadline) also counts the time in which you do not read.
///
/// ```no_run
/// # async fn example(fetcher: longshore::Fetcher) -> longshore::Result<()> {
/// use tokio::io::{copy, sink};
///
/// let image = fetcher.open("docker://quay.io/fedora/fedora:latest").await?;
/// let mut layers = fetcher.layers(&image, 4).await?;
/// while let Some(next) = layers.next().await {
///     let (layer, mut reader) = next?;
///     let bytes = copy(&mut reader, &mut sink()).await;
///     println!("{}: {bytes:?} bytes", layer.descriptor.digest());
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct LayerStream<R = LayerReader> {
    next: usize,
    count: usize,
    ahead: usize,
    window: watch::Sender<usize>,
    ready_layers: mpsc::Receiver<ReadyLayer<R>>,
    /// The layers that were ready before their turn, by number.
    early: HashMap<usize, ReadyLayer<R>>,
    run: Option<JoinHandle<Result<()>>>,
}

/// A layer that is ready to be read.
#[derive(Debug)]
pub(super) struct ReadyLayer<R> {
    number: usize,
    layer: Layer,
    reader: R,
}

impl<R> LayerStream<R> {
    /// Makes a stream of the layers that the task `run` sends to `ready_layers`. The task fetches layers with a number
    /// below the value of `window`.
    pub(super) fn new(
        count: usize,
        ahead: usize,
        window: watch::Sender<usize>,
        ready_layers: mpsc::Receiver<ReadyLayer<R>>,
        run: JoinHandle<Result<()>>,
    ) -> Self {
        Self {
            next: 0,
            count,
            ahead,
            window,
            ready_layers,
            early: HashMap::new(),
            run: Some(run),
        }
    }

    /// Waits for the next layer, and returns it with its reader. Returns `None` after the last layer.
    ///
    /// Drop the reader of one layer before you ask for the next. Bytes that it left unread are then read and checked.
    ///
    /// # Errors
    ///
    /// The first fatal error of any layer. The stream ends after it.
    ///
    /// # Cancel safety
    ///
    /// No layer is lost if the future is dropped early.
    pub async fn next(&mut self) -> Option<Result<(Layer, R)>> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<(Layer, R)>>> {
        if self.next == self.count {
            // The rest of the last layers is still checked.
            let ended = ready!(self.poll_end(cx));
            return Poll::Ready(ended.and_then(Result::err).map(Err));
        }
        let end = self.next.saturating_add(self.ahead).saturating_add(1);
        self.window.send_replace(end);
        loop {
            if let Some(due) = self.early.remove(&self.next) {
                self.next += 1;
                return Poll::Ready(Some(Ok((due.layer, due.reader))));
            }
            if let Some(out) = ready!(self.ready_layers.poll_recv(cx)) {
                self.early.insert(out.number, out);
            } else {
                let ended = ready!(self.poll_end(cx));
                self.next = self.count;
                let error = |ended: Result<()>| Err(ended.err().unwrap_or(Error::Closed));
                return Poll::Ready(ended.map(error));
            }
        }
    }

    /// Waits for the end of the run, and returns its result. Returns `None` if the result was returned before.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<()>>> {
        let Some(run) = &mut self.run else {
            return Poll::Ready(None);
        };
        let ended = ready!(Pin::new(run).poll(cx));
        self.run = None;
        Poll::Ready(Some(ended.map_err(join_error).and_then(|ended| ended)))
    }
}

impl<R: Unpin> Stream for LayerStream<R> {
    type Item = Result<(Layer, R)>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(cx)
    }
}

impl<R> Drop for LayerStream<R> {
    fn drop(&mut self) {
        if let Some(run) = &self.run {
            run.abort();
        }
    }
}

/// The form in which layers are read: as they are stored, or decompressed.
pub(super) trait View: Send + Sync + 'static {
    type Reader: Send + 'static;
    /// The channel, if any, through which the reader's state comes back when the reader is dropped.
    type Returned: Send;

    /// Makes a reader of this form from the reader of a layer's blob.
    fn open(
        &self,
        layer: &Layer,
        reader: LayerReader,
    ) -> impl Future<Output = Result<(Self::Reader, Self::Returned)>> + Send;

    /// Waits until the reader is dropped, and checks what it left unread, except the layer's blob.
    fn close(returned: Self::Returned) -> impl Future<Output = Result<()>> + Send;
}

/// The [`View`] of layers as they are stored.
pub(super) struct AsStored;

impl View for AsStored {
    type Reader = LayerReader;
    type Returned = ();

    async fn open(&self, _: &Layer, reader: LayerReader) -> Result<(LayerReader, ())> {
        Ok((reader, ()))
    }

    async fn close((): ()) -> Result<()> {
        Ok(())
    }
}

/// A handler that sends each reader to a [`LayerStream`], and waits until the reader is dropped.
pub(super) struct SendToStream<V: View> {
    view: V,
    to: mpsc::Sender<ReadyLayer<V::Reader>>,
}

impl<V: View> Handler for SendToStream<V> {
    fn skip<'a>(&'a self, _: &'a Job) -> HandlerFuture<'a, bool> {
        Box::pin(async { Ok(false) })
    }

    fn handle<'a>(&'a self, job: &'a Job, reader: LayerReader) -> HandlerFuture<'a, ()> {
        Box::pin(self.send_to_stream(job, reader))
    }
}

impl<V: View> SendToStream<V> {
    /// Makes a handler for `count` layers, and the channel to which it sends them.
    pub(super) fn new(view: V, count: usize) -> (Self, mpsc::Receiver<ReadyLayer<V::Reader>>) {
        let (to, ready_layers) = mpsc::channel(count.max(1));
        (Self { view, to }, ready_layers)
    }

    async fn send_to_stream(&self, job: &Job, reader: LayerReader) -> Result<()> {
        let (reading, owner) = reader.into_parts().ok_or(Error::Closed)?;
        let (reader, mut dropped) = LayerReader::from_reading(reading);
        let (reader, returned) = match self.view.open(&job.layer, reader).await {
            Ok(opened) => opened,
            Err(error) => {
                // Nobody has read a part of the layer, so its worker may retry it.
                if let Ok(reading) = dropped.try_recv() {
                    let _ = owner.send(reading);
                }
                return Err(error);
            }
        };
        let out = ReadyLayer {
            number: job.number,
            layer: job.layer.clone(),
            reader,
        };
        self.to.send(out).await.map_err(|_| Error::Cancelled)?;
        // From here on, the caller may have read a part of the layer. So if the layer fails, its worker does not get
        // the blob back, and does not retry it.
        V::close(returned).await?;
        let mut reading = dropped.await.map_err(|_| Error::Cancelled)?;
        reading.verdict().await?;
        // This can't fail, because the worker that waits for the blob runs this handler.
        let _ = owner.send(reading);
        Ok(())
    }
}
