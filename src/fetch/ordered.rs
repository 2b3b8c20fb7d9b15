//! Layers one after another, in their order, with the next ones already on
//! their way.

use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::handler::{Doing, Handler, Job};
use super::{Layer, LayerReader};
use crate::error::{Error, Result, panicked};

/// The layers of an image, one after another: see [`Fetcher::layers`](crate::Fetcher::layers). The methods of [`Stream`] can
/// be used on it, too. `R` is the type of the layers' readers.
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
    handed_out: mpsc::Receiver<HandedOut<R>>,
    /// Those that were ready before their turn.
    early: HashMap<usize, HandedOut<R>>,
    run: Option<JoinHandle<Result<()>>>,
}

/// A layer that is ready to be read.
#[derive(Debug)]
pub(super) struct HandedOut<R> {
    number: usize,
    layer: Layer,
    reader: R,
}

impl<R> LayerStream<R> {
    /// The layers that `run` fetches and hands out. It fetches those before the end in `window`.
    pub(super) fn new(
        count: usize,
        ahead: usize,
        window: watch::Sender<usize>,
        handed_out: mpsc::Receiver<HandedOut<R>>,
        run: JoinHandle<Result<()>>,
    ) -> Self {
        Self {
            next: 0,
            count,
            ahead,
            window,
            handed_out,
            early: HashMap::new(),
            run: Some(run),
        }
    }

    /// Waits for the next layer. Returns `None` after the last. Drop the reader of the layer before: what it left unread is
    /// read and checked now.
    ///
    /// # Errors
    ///
    /// The first fatal error of any layer. After it the stream ends.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, no layer is lost.
    pub async fn next(&mut self) -> Option<Result<(Layer, R)>> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<(Layer, R)>>> {
        if self.next == self.count {
            // The last ones may still turn out to be wrong.
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
            if let Some(out) = ready!(self.handed_out.poll_recv(cx)) {
                self.early.insert(out.number, out);
            } else {
                let ended = ready!(self.poll_end(cx));
                self.next = self.count;
                let error = |ended: Result<()>| Err(ended.err().unwrap_or(Error::Closed));
                return Poll::Ready(ended.map(error));
            }
        }
    }

    /// How the run ended; told once.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<()>>> {
        let Some(run) = &mut self.run else {
            return Poll::Ready(None);
        };
        let ended = ready!(Pin::new(run).poll(cx));
        self.run = None;
        Poll::Ready(Some(ended.map_err(panicked).and_then(|ended| ended)))
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

/// A way of reading layers, as they are stored or otherwise.
pub(super) trait View: Send + Sync + 'static {
    type Reader: Send + 'static;
    /// The way by which a reader comes back.
    type Back: Send;

    /// Begins to read a layer.
    fn open(
        &self,
        layer: &Layer,
        reader: LayerReader,
    ) -> impl Future<Output = Result<(Self::Reader, Self::Back)>> + Send;

    /// Waits until the reader is dropped, and checks what it left unread, but for the layer's blob.
    fn close(back: Self::Back) -> impl Future<Output = Result<()>> + Send;
}

/// The layers as they are stored.
pub(super) struct AsStored;

impl View for AsStored {
    type Reader = LayerReader;
    type Back = ();

    async fn open(&self, _: &Layer, reader: LayerReader) -> Result<(LayerReader, ())> {
        Ok((reader, ()))
    }

    async fn close((): ()) -> Result<()> {
        Ok(())
    }
}

/// Hands each reader out, and waits until it is dropped.
pub(super) struct HandOut<V: View> {
    view: V,
    to: mpsc::Sender<HandedOut<V::Reader>>,
}

impl<V: View> Handler for HandOut<V> {
    fn skip<'a>(&'a self, _: &'a Job) -> Doing<'a, bool> {
        Box::pin(async { Ok(false) })
    }

    fn handle<'a>(&'a self, job: &'a Job, reader: LayerReader) -> Doing<'a, ()> {
        Box::pin(self.hand_out(job, reader))
    }
}

impl<V: View> HandOut<V> {
    /// For so many layers, with the channel through which they come.
    pub(super) fn new(view: V, count: usize) -> (Self, mpsc::Receiver<HandedOut<V::Reader>>) {
        let (to, handed_out) = mpsc::channel(count.max(1));
        (Self { view, to }, handed_out)
    }

    async fn hand_out(&self, job: &Job, reader: LayerReader) -> Result<()> {
        let (reading, owner) = reader.into_parts().ok_or(Error::Closed)?;
        let (reader, mut dropped) = LayerReader::lend(reading);
        let (reader, back) = match self.view.open(&job.layer, reader).await {
            Ok(opened) => opened,
            Err(error) => {
                // Nobody has had a part of the layer, so its owner may try it again.
                if let Ok(reading) = dropped.try_recv() {
                    let _ = owner.send(reading);
                }
                return Err(error);
            }
        };
        let out = HandedOut {
            number: job.number,
            layer: job.layer.clone(),
            reader,
        };
        self.to.send(out).await.map_err(|_| Error::Cancelled)?;
        // Whatever is wrong with it from here on, its reader may have had a part of it: its owner does not get it back,
        // and does not try it again.
        V::close(back).await?;
        let mut reading = dropped.await.map_err(|_| Error::Cancelled)?;
        reading.verdict().await?;
        // Its owner is there: it runs this.
        let _ = owner.send(reading);
        Ok(())
    }
}
