//! Layers one after another, in their order, with the next ones already on
//! their way.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::event::Ending;
use super::handler::{Doing, Handler};
use super::{Fetcher, Image, Job, Layer, LayerReader, panicked};
use crate::error::{Error, Result};

impl Fetcher {
    /// Returns the layers of an image as a stream, from the base layer up.
    ///
    /// While one layer is read, up to `ahead` of the following ones are opened, over several proxies, and wait in their
    /// pipes, with up to 512 KiB each. A layer that occurs twice is fetched twice.
    ///
    /// A layer that fails before it is handed out is tried again, as the [`RetryPolicy`](super::RetryPolicy) says. A layer
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
        self.in_order(image, content.layers(), ahead, ending)
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
        self.in_order(image, layers, ahead, self.events.ending())
    }

    fn in_order(
        &self,
        image: &Image,
        layers: &[Layer],
        ahead: usize,
        ending: Ending,
    ) -> Result<LayerStream> {
        let (hand_out, handed_out) = mpsc::channel(layers.len().max(1));
        let (window, end) = watch::channel(0);
        let count = layers.len();
        let mut engine = self.engine_for(&[image]);
        let ids = engine.begin(&[image], self.events.clone(), HandOut(hand_out));
        for id in &ids {
            engine.fetch_in_order(*id, layers, ahead, end.clone())?;
        }
        let fetcher = self.clone();
        let run = tokio::spawn(async move {
            let _ending = ending;
            fetcher.fetch_all(&mut engine, ids.len()).await
        });
        Ok(LayerStream {
            next: 0,
            count,
            ahead,
            window,
            handed_out,
            early: HashMap::new(),
            run: Some(run),
        })
    }
}

/// The layers of an image, one after another: see [`Fetcher::layers`]. It is a [`Stream`], too.
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
pub struct LayerStream {
    next: usize,
    count: usize,
    ahead: usize,
    window: watch::Sender<usize>,
    handed_out: mpsc::Receiver<HandedOut>,
    /// Those that were ready before their turn.
    early: HashMap<usize, HandedOut>,
    run: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug)]
struct HandedOut {
    number: usize,
    layer: Layer,
    reader: OrderedReader,
}

impl LayerStream {
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
    pub async fn next(&mut self) -> Option<Result<(Layer, OrderedReader)>> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<(Layer, OrderedReader)>>> {
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

impl Stream for LayerStream {
    type Item = Result<(Layer, OrderedReader)>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(cx)
    }
}

impl Drop for LayerStream {
    fn drop(&mut self) {
        if let Some(run) = &self.run {
            run.abort();
        }
    }
}

/// Hands each reader out, and waits until it is dropped.
struct HandOut(mpsc::Sender<HandedOut>);

impl Handler for HandOut {
    fn skip<'a>(&'a self, _: &'a Job) -> Doing<'a, bool> {
        Box::pin(async { Ok(false) })
    }

    fn handle<'a>(&'a self, job: &'a Job, reader: LayerReader) -> Doing<'a, ()> {
        Box::pin(self.hand_out(job, reader))
    }
}

impl HandOut {
    async fn hand_out(&self, job: &Job, reader: LayerReader) -> Result<()> {
        let (done, dropped) = oneshot::channel();
        let reader = OrderedReader {
            reader: Some(reader),
            done: Some(done),
        };
        let out = HandedOut {
            number: job.number,
            layer: job.layer.clone(),
            reader,
        };
        self.0.send(out).await.map_err(|_| Error::Cancelled)?;
        match dropped.await {
            // Whatever is wrong with it, its reader may have had a part of it.
            Ok(reader) => reader.finish_for_good().await,
            Err(_) => Err(Error::Cancelled),
        }
    }
}

/// A layer's blob, read in its turn. As a [`LayerReader`], its end comes only if
/// all bytes came and are the right ones.
#[derive(Debug)]
pub struct OrderedReader {
    reader: Option<LayerReader>,
    done: Option<oneshot::Sender<LayerReader>>,
}

impl Drop for OrderedReader {
    fn drop(&mut self) {
        if let (Some(reader), Some(done)) = (self.reader.take(), self.done.take()) {
            // Nobody waits if the stream is gone.
            let _ = done.send(reader);
        }
    }
}

impl OrderedReader {
    fn reader(&mut self) -> io::Result<Pin<&mut LayerReader>> {
        self.reader
            .as_mut()
            .map(Pin::new)
            .ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncRead for OrderedReader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().reader()?.poll_read(cx, out)
    }
}

impl AsyncBufRead for OrderedReader {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        self.get_mut().reader()?.poll_fill_buf(cx)
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        if let Ok(reader) = self.get_mut().reader() {
            reader.consume(amount);
        }
    }
}
