//! A read buffer that is allocated only when it is needed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

use super::aligned::AlignedBuffer;

/// The size of the buffer, in bytes. With this size, the cost of the system calls is small.
const BUFFER_BYTES: usize = 64 * 1024;

/// A buffered reader like tokio's `BufReader`, but the buffer is allocated at the first `fill_buf`. Thousands of blobs
/// can be open before one of them is read, and a caller that reads into its own buffer needs no second one.
#[derive(Debug)]
pub(crate) struct Buffered<R> {
    inner: R,
    buffer: Option<AlignedBuffer>,
    /// The start of the bytes of `buffer` that are not yet consumed.
    start: usize,
    /// The end of these bytes.
    end: usize,
}

impl<R> Buffered<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            buffer: None,
            start: 0,
            end: 0,
        }
    }

    pub(crate) fn get_ref(&self) -> &R {
        &self.inner
    }

    pub(crate) fn get_mut(&mut self) -> &mut R {
        &mut self.inner
    }

    pub(crate) fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Buffered<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let unread = match &self.buffer {
            Some(buffer) if self.start < self.end => &buffer[self.start..self.end],
            _ => return Pin::new(&mut self.inner).poll_read(cx, out),
        };
        let n = unread.len().min(out.remaining());
        out.put_slice(&unread[..n]);
        self.start += n;
        Poll::Ready(Ok(()))
    }
}

impl<R: AsyncRead + Unpin> AsyncBufRead for Buffered<R> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let Self {
            inner,
            buffer,
            start,
            end,
        } = self.get_mut();
        let buffer = buffer.get_or_insert_with(|| AlignedBuffer::new(BUFFER_BYTES));
        if start == end {
            let mut read = ReadBuf::new(buffer);
            ready!(Pin::new(inner).poll_read(cx, &mut read))?;
            (*start, *end) = (0, read.filled().len());
        }
        Poll::Ready(Ok(&buffer[*start..*end]))
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        self.start = (self.start + amount).min(self.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncBufReadExt, AsyncReadExt};

    #[tokio::test]
    async fn reads_use_the_buffered_bytes_first() {
        let mut reader = Buffered::new(&b"first line\nand the rest"[..]);
        let mut line = String::new();
        reader.read_line(&mut line).await.expect("a line");
        assert_eq!(line, "first line\n");
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).await.expect("the rest");
        assert_eq!(rest, b"and the rest");
    }
}
