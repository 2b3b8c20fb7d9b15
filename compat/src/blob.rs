//! A blob in two halves: the reader of its bytes, and the driver, a future that returns the verdict.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::future::BoxFuture;
use oci_spec::image::Digest;
use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::error::{Error, GetBlobError, Result, chain};
use longshore::{Blob, BlobError};

/// How many bytes a dropped reader may leave unread without an error of the driver. These bytes are read and verified
/// in the background. With the other crate, the driver does not fail either if the rest fits into the pipe, which has
/// 64 KiB.
const TAIL_BYTES: u64 = 64 * 1024;

/// The outcome of reading a blob.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The result of the verification, after all bytes were read or the transfer failed.
    Complete(longshore::Result<()>),
    /// The reader was dropped after `read` bytes, with more than [`TAIL_BYTES`] to come.
    Abandoned { read: u64 },
}

/// The reader of a blob.
///
/// Its end says nothing about the bytes. The verdict comes through the channel, also if the reader never asks
/// for the end.
pub(crate) struct Reader {
    /// `None` once there is a verdict, or while a task waits for it. A `Blob` is large, so it is boxed to
    /// keep futures small.
    blob: Option<Box<Blob>>,
    /// How many bytes are still to be read.
    left: u64,
    size: u64,
    verdict_tx: Option<oneshot::Sender<Verdict>>,
    runtime: Handle,
}

/// Splits a blob of this size. Must be called within a tokio runtime.
pub(crate) fn split(blob: Blob, size: u64) -> (Reader, oneshot::Receiver<Verdict>) {
    let (verdict_tx, verdict) = oneshot::channel();
    let mut reader = Reader {
        blob: Some(Box::new(blob)),
        left: size,
        size,
        verdict_tx: Some(verdict_tx),
        runtime: Handle::current(),
    };
    // A blob of 0 bytes has been read already.
    reader.count_read(0);
    (reader, verdict)
}

impl Reader {
    /// Counts bytes that the caller has received.
    fn count_read(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
        if self.left == 0 {
            self.finish();
        }
    }

    /// Reads and verifies what is left, in a task of its own, so that neither half has to be polled for the
    /// other to end.
    fn finish(&mut self) {
        if let (Some(blob), Some(verdict_tx)) = (self.blob.take(), self.verdict_tx.take()) {
            self.runtime.spawn(async move {
                // The driver may have been dropped.
                let _ = verdict_tx.send(Verdict::Complete(blob.finish().await));
            });
        }
    }

    /// Records that the blob failed: the driver returns the error, and the reader ends.
    fn fail(&mut self, error: io::Error) {
        self.blob = None;
        let error = error.downcast().unwrap_or_else(longshore::Error::handler);
        if let Some(verdict_tx) = self.verdict_tx.take() {
            let _ = verdict_tx.send(Verdict::Complete(Err(error)));
        }
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(blob) = &mut this.blob else {
            return Poll::Ready(Ok(()));
        };
        let before = out.filled().len();
        match ready!(Pin::new(blob).poll_read(cx, out)) {
            Ok(()) => this.count_read((out.filled().len() - before) as u64),
            Err(error) => this.fail(error),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncBufRead for Reader {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if let Some(blob) = &mut this.blob
            && let Err(error) = ready!(Pin::new(blob).poll_fill_buf(cx)).map(<[u8]>::len)
        {
            this.fail(error);
        }
        match &mut this.blob {
            Some(blob) => Pin::new(blob).poll_fill_buf(cx),
            None => Poll::Ready(Ok(&[])),
        }
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        if let Some(blob) = &mut self.blob {
            Pin::new(blob).consume(amount);
            self.count_read(amount as u64);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.left <= TAIL_BYTES {
            self.finish();
        } else if let Some(verdict_tx) = self.verdict_tx.take() {
            let read = self.size - self.left;
            let _ = verdict_tx.send(Verdict::Abandoned { read });
        }
    }
}

/// Waits for the verdict, and converts it to the result of the other crate's `get_blob`, whose driver calls
/// `FinishPipe`.
pub(crate) async fn driver_of_get_blob(verdict: oneshot::Receiver<Verdict>) -> Result<()> {
    const METHOD: &str = "FinishPipe";
    match verdict.await {
        Ok(Verdict::Complete(result)) => result.map_err(|error| Error::of_call(METHOD, &error)),
        // Programs look for the words `broken pipe` at the end, to tell their own failure from the proxy's.
        Ok(Verdict::Abandoned { read }) => {
            let text = format!("the reader was dropped after {read} bytes: broken pipe");
            Err(Error::failed(METHOD, text, false))
        }
        Err(_) => Err(runtime_ended()),
    }
}

/// Waits for the verdict, and converts it to the result of the other crate's `get_blob_stream` over `GetRawBlob`. A
/// reader that was dropped early is no error there.
pub(crate) async fn driver_of_stream(
    verdict: oneshot::Receiver<Verdict>,
    digest: Digest,
) -> Result<()> {
    let error = match verdict.await {
        Ok(Verdict::Complete(Ok(())) | Verdict::Abandoned { .. }) => return Ok(()),
        Ok(Verdict::Complete(Err(error))) => error,
        Err(_) => return Err(runtime_ended()),
    };
    match of_stream(&digest, &error) {
        Some(error) => Err(error),
        None => Ok(GetBlobError::of(&error)?),
    }
}

/// The error of a blob that has the wrong size or digest, or of a failed connection. `None` for every other error of a
/// blob, such as a refusal or a stall.
pub(crate) fn of_stream(digest: &Digest, error: &longshore::Error) -> Option<Error> {
    let longshore::Error::Blob { source, .. } = error else {
        return Some(Error::of_call("GetRawBlob", error));
    };
    Some(match source {
        BlobError::Corrupt { computed, .. } => {
            let text = format!("Blob digest mismatch for {digest}: its bytes have {computed}");
            Error::Other(text.into())
        }
        BlobError::Short { .. } | BlobError::TooLong { .. } | BlobError::WrongSize { .. } => {
            let text = format!("Blob size mismatch for {digest}: {}", chain(source));
            Error::Other(text.into())
        }
        BlobError::Connection(error) => Error::of_call("GetRawBlob", error),
        _ => return None,
    })
}

fn runtime_ended() -> Error {
    Error::Other("the tokio runtime ended before the blob was verified".into())
}

/// The call by which the proxy sends the blob of a [`BlobStream`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobStreamSource {
    /// `GetRawBlob`, which proxies have since protocol 0.2.8 (skopeo 1.19). This crate verifies the bytes.
    GetRawBlob,
    /// `GetBlob`, of an older proxy. The proxy verifies the bytes, and so does this crate.
    GetBlob,
}

/// A blob that the proxy is sending: [`ImageProxy::get_blob_stream`](crate::ImageProxy::get_blob_stream).
pub struct BlobStream<'a> {
    source: BlobStreamSource,
    expected_size: u64,
    reader: Box<dyn AsyncRead + Send + Unpin>,
    driver: BoxFuture<'a, Result<()>>,
}

impl<'a> BlobStream<'a> {
    pub(crate) fn new(
        source: BlobStreamSource,
        expected_size: u64,
        reader: Reader,
        driver: BoxFuture<'a, Result<()>>,
    ) -> Self {
        Self {
            source,
            expected_size,
            reader: Box::new(reader),
            driver,
        }
    }

    /// The call by which the proxy sends the blob.
    #[must_use]
    pub fn source(&self) -> BlobStreamSource {
        self.source
    }

    /// The size in bytes that the caller asked for, and that the blob must have.
    #[must_use]
    pub fn expected_size(&self) -> u64 {
        self.expected_size
    }

    /// Takes the stream apart into the reader of the bytes and the driver, a future that returns the verdict. They can
    /// be awaited together, or the driver after the reader. Only the driver says whether the bytes are the right ones.
    #[must_use]
    pub fn into_parts(self) -> (Box<dyn AsyncRead + Send + Unpin>, BoxFuture<'a, Result<()>>) {
        (self.reader, self.driver)
    }
}

impl fmt::Debug for BlobStream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobStream")
            .field("source", &self.source)
            .field("expected_size", &self.expected_size)
            .finish_non_exhaustive()
    }
}
