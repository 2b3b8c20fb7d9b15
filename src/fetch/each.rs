//! The handler of a fetch that runs a closure for each layer.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::io::{self, BufRead, BufReader};
use std::pin::Pin;
use std::sync::Arc;

use oci_spec::image::Digest;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio_util::io::SyncIoBridge;
use tokio_util::task::AbortOnDropHandle;

use super::handler::{Handler, HandlerFuture, Job};
use super::{Layer, LayerReader};
use crate::error::{Error, Result, join_error};

/// The error of a handler, of any type.
pub(super) type HandlerError = Box<dyn StdError + Send + Sync>;

/// The results of a handler, by the digests of the blobs.
pub(super) struct Results<T>(HashMap<Digest, T>);

impl<T> Results<T> {
    /// The results that [`EachLayer`] has sent.
    pub(super) fn of(mut outputs: mpsc::UnboundedReceiver<(Digest, T)>) -> Self {
        let mut results = HashMap::new();
        while let Ok((digest, output)) = outputs.try_recv() {
            results.insert(digest, output);
        }
        Self(results)
    }

    /// One result for each layer, in the order of the layers.
    pub(super) fn in_order(self, layers: &[Layer]) -> Vec<T>
    where
        T: Clone,
    {
        let result = |layer: &Layer| self.0.get(layer.descriptor.digest()).cloned();
        // Every blob was handled, so each layer has a result.
        layers.iter().filter_map(result).collect()
    }

    /// The first layer of each blob with its result, in the order of the layers.
    pub(super) fn with_layers(mut self, layers: &[Layer]) -> Vec<(Layer, T)> {
        let result = |layer: &Layer| {
            let result = self.0.remove(layer.descriptor.digest())?;
            Some((layer.clone(), result))
        };
        layers.iter().filter_map(result).collect()
    }
}

/// A handler that runs the closure `work` for each layer, and sends its results to `done`.
pub(super) struct EachLayer<F, T> {
    pub(super) work: F,
    pub(super) done: mpsc::UnboundedSender<(Digest, T)>,
}

impl<F, T, Fut> Handler for EachLayer<F, T>
where
    F: Fn(Layer, LayerReader) -> Fut + Send + Sync,
    T: Send,
    Fut: Future<Output = Result<T>> + Send,
{
    fn skip<'a>(&'a self, _: &'a Job) -> HandlerFuture<'a, bool> {
        Box::pin(async { Ok(false) })
    }

    fn handle<'a>(&'a self, job: &'a Job, reader: LayerReader) -> HandlerFuture<'a, ()> {
        Box::pin(async move {
            let output = (self.work)(job.layer.clone(), reader).await?;
            let digest = job.layer.descriptor.digest().clone();
            // The receiver is gone if the fetch was dropped. The result is not needed then.
            let _ = self.done.send((digest, output));
            Ok(())
        })
    }
}

/// The size of the buffer of a [`BlockingReader`], in bytes. Programs read archives in small pieces, and a decoder is
/// slow if it gets small buffers.
const BUFFER_BYTES: usize = 64 * 1024;

/// A buffered reader of a layer, for a handler that runs on a blocking thread.
///
/// The reader reaches its end only if the layer is verified, like a [`LayerReader`]. A reader that decompresses also
/// checks the `diff_id`, like `UncompressedReader`.
pub struct BlockingReader(BufReader<SyncIoBridge<Box<dyn AsyncRead + Send + Unpin>>>);

impl BlockingReader {
    /// Reads and checks the rest of the layer. A handler calls this before it makes visible what it has read.
    ///
    /// # Errors
    ///
    /// The errors of the reader that this one reads from: [`LayerReader::finish`], or `UncompressedReader::finish`.
    pub fn finish(mut self) -> Result<()> {
        let rest = io::copy(&mut self.0, &mut io::sink());
        rest.map(drop).map_err(Error::handler)
    }
}

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

impl BufRead for BlockingReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.0.consume(amount);
    }
}

/// Returns an async handler that runs `handler` on a thread that may block.
pub(super) fn on_blocking_thread<T, E, R>(
    handler: impl Fn(Layer, BlockingReader) -> Result<T, E> + Send + Sync + 'static,
) -> impl Fn(Layer, R) -> Pin<Box<dyn Future<Output = Result<T, HandlerError>> + Send>> + Send + Sync
where
    T: Send + 'static,
    E: Into<HandlerError> + 'static,
    R: AsyncRead + Send + Unpin + 'static,
{
    let handler = Arc::new(handler);
    move |layer, reader| {
        let handler = Arc::clone(&handler);
        Box::pin(async move {
            let reader: Box<dyn AsyncRead + Send + Unpin> = Box::new(reader);
            let reader = BufReader::with_capacity(BUFFER_BYTES, SyncIoBridge::new(reader));
            let reader = BlockingReader(reader);
            let run = move || handler(layer, reader).map_err(Into::into);
            // A handler that has not begun when the fetch ends never begins.
            let task = AbortOnDropHandle::new(tokio::task::spawn_blocking(run));
            task.await
                .unwrap_or_else(|error| Err(join_error(error).into()))
        })
    }
}
