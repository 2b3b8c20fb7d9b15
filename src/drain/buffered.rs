//! A read buffer that is there only once somebody wants it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

/// Enough to make a system call worth its while.
const BUFFER_BYTES: usize = 64 * 1024;

/// Like tokio's `BufReader`, but the buffer is allocated at the first
/// `fill_buf`: thousands of blobs can be open before anyone reads, and those
/// who read into large buffers of their own never need it.
#[derive(Debug)]
pub(crate) struct Buffered<R> {
    inner: R,
    buffer: Vec<u8>,
    /// What is not yet consumed of `buffer`: from here ...
    start: usize,
    /// ... to here.
    end: usize,
}

impl<R> Buffered<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            buffer: Vec::new(),
            start: 0,
            end: 0,
        }
    }

    pub(crate) fn get_ref(&self) -> &R {
        &self.inner
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
        if self.start == self.end {
            return Pin::new(&mut self.inner).poll_read(cx, out);
        }
        let unread = &self.buffer[self.start..self.end];
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
        if start == end {
            buffer.resize(BUFFER_BYTES, 0);
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
    async fn reads_and_fills_take_turns() {
        let mut reader = Buffered::new(&b"first line\nand the rest"[..]);
        let mut line = String::new();
        reader.read_line(&mut line).await.expect("a line");
        assert_eq!(line, "first line\n");
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).await.expect("the rest");
        assert_eq!(rest, b"and the rest");
    }
}
