//! The reader that a sink gets.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::event::{Event, Events};
use crate::error::Result;
use crate::proxy::Blob;

/// A blob on its way into a sink. Its end comes only if all bytes came and
/// are the right ones; see [`Blob`].
#[derive(Debug)]
pub struct LayerReader {
    blob: Blob,
    read: u64,
    events: Events,
}

impl LayerReader {
    pub(super) fn new(blob: Blob, events: Events) -> Self {
        Self {
            blob,
            read: 0,
            events,
        }
    }

    /// Read what is left, and give the verdict: [`Blob::finish`].
    ///
    /// # Errors
    ///
    /// What is wrong with the blob.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, the blob is given up.
    pub async fn finish(self) -> Result<()> {
        self.blob.finish().await
    }
}

impl AsyncRead for LayerReader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        ready!(Pin::new(&mut this.blob).poll_read(cx, out))?;
        this.read += (out.filled().len() - before) as u64;
        let Self { blob, read, events } = this;
        events.try_send(|| Event::BlobBytes {
            digest: blob.digest().clone(),
            read: *read,
        });
        Poll::Ready(Ok(()))
    }
}
