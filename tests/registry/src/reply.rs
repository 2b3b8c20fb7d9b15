//! A reply as it is sent, including faults: what its headers say, which bytes really follow, how fast, and
//! how the connection ends.

use std::io::{self, Cursor};
use std::time::Duration;

use nix::sys::sendfile::sendfile64;
use serde_json::json;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until};

use super::http::format_head;

/// A client's connection.
pub type Connection = BufReader<TcpStream>;

/// How many bytes of a body are read and sent at a time.
const CHUNK: usize = 512 * 1024;

/// In how many chunks per second a body with limited bandwidth is sent.
const CHUNKS_PER_SECOND: u64 = 20;

/// How long a reset waits until the earlier bytes have reached the client. A reset discards what the kernel
/// has not sent yet.
const BEFORE_RESET: Duration = Duration::from_millis(100);

/// The answer of the registry to one request.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The headers, without those that [`Delivery`] determines.
    pub headers: Vec<(&'static str, String)>,
    /// The source of the bytes of the body.
    pub body: Body,
    /// The way in which the bytes are delivered.
    pub delivery: Delivery,
}

/// The source of the bytes of a body.
#[derive(Debug)]
pub enum Body {
    /// From memory.
    Memory(Cursor<Vec<u8>>),
    /// From a file, positioned at the first byte to send.
    File(File, u64),
}

/// How a reply is delivered. This is `Delivery::undisturbed`, unless a fault changed it.
#[derive(Debug)]
pub struct Delivery {
    /// The delay of the headers. `None` means for ever.
    pub headers_after: Option<Duration>,
    /// What the headers say about the length of the body.
    pub framing: Framing,
    /// The number of bytes that are sent, which may be fewer or more than the body has.
    pub length: u64,
    /// The byte that fills up a body that is sent with more bytes than it has.
    pub filler: u8,
    /// The offset of the byte to flip.
    pub flipped: Option<u64>,
    /// How long to wait after each byte.
    pub pause: Option<Duration>,
    /// Where nothing is sent for a while, and for how long.
    pub gap: Option<(u64, Duration)>,
    /// Where the body stops before its end, and how the connection goes on from there.
    pub stop: Option<(u64, Ending)>,
}

/// What the headers say about the length of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// `Content-Length` with this value.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// How the connection goes on when a body stops early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The connection stays open, and nothing more is sent.
    Stall,
    /// The connection is closed in good order, as by a server that exits.
    Close,
    /// The connection is reset.
    Reset,
}

impl Body {
    /// The number of bytes.
    pub fn len(&self) -> u64 {
        match self {
            Body::Memory(bytes) => bytes.get_ref().len() as u64,
            Body::File(_, len) => *len,
        }
    }

    /// Takes the next bytes, until the buffer is full.
    async fn take(&mut self, room: &mut [u8]) -> io::Result<()> {
        match self {
            Body::Memory(bytes) => bytes.read_exact(room).await?,
            Body::File(file, _) => file.read_exact(room).await?,
        };
        Ok(())
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Memory(Cursor::new(bytes))
    }
}

impl Delivery {
    /// Sends all bytes at once, with correct headers.
    fn undisturbed(length: u64) -> Self {
        Self {
            headers_after: Some(Duration::ZERO),
            framing: Framing::Length(length),
            length,
            filler: 0,
            flipped: None,
            pause: None,
            gap: None,
            stop: None,
        }
    }

    /// Whether the client can find the end of the body, so that another request may follow.
    fn is_well_framed(&self) -> bool {
        self.stop.is_none()
            && (self.framing == Framing::Chunked || self.framing == Framing::Length(self.length))
    }
}

impl Reply {
    /// A reply that is delivered correctly.
    pub fn new(status: u16, headers: Vec<(&'static str, String)>, body: Body) -> Self {
        let delivery = Delivery::undisturbed(body.len());
        Self {
            status,
            headers,
            body,
            delivery,
        }
    }

    /// A reply whose body is a JSON document.
    pub fn json(status: u16, document: &serde_json::Value) -> Self {
        let headers = vec![("Content-Type", "application/json".to_owned())];
        Self::new(status, headers, document.to_string().into_bytes().into())
    }

    /// An error in the format of the distribution specification.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        let document = json!({"errors": [{"code": code, "message": message}]});
        Self::json(status, &document)
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Sends the head and, unless only the head was requested, the body, with at most `bandwidth` bytes per
    /// second. Returns whether the connection may serve another request.
    ///
    /// # Errors
    ///
    /// If the client leaves, or the body cannot be read.
    pub async fn send(
        mut self,
        connection: &mut Connection,
        head_only: bool,
        bandwidth: Option<u64>,
    ) -> io::Result<bool> {
        let Some(delay) = self.delivery.headers_after else {
            wait_for_hangup(connection).await?;
            return Ok(false);
        };
        sleep(delay).await;
        connection.write_all(self.head().as_bytes()).await?;
        if head_only {
            return Ok(true);
        }
        self.send_body(connection, bandwidth).await?;
        self.end(connection).await?;
        Ok(self.delivery.is_well_framed())
    }

    fn head(&mut self) -> String {
        self.headers.push(match self.delivery.framing {
            Framing::Length(length) => ("Content-Length", length.to_string()),
            Framing::Chunked => ("Transfer-Encoding", "chunked".to_owned()),
        });
        format_head(self.status, &self.headers)
    }

    async fn send_body(
        &mut self,
        connection: &mut Connection,
        bandwidth: Option<u64>,
    ) -> io::Result<()> {
        let length = self.delivery.length;
        let end = self.delivery.stop.map_or(length, |(at, _)| at.min(length));
        if let Some(file) = self.plain_file(end)
            && bandwidth.is_none()
        {
            return send_file(connection.get_ref(), file, end).await;
        }
        let chunk = match self.delivery.pause {
            Some(_) => 1,
            None => chunk_len(end, bandwidth),
        };
        let mut buffer = vec![0; chunk];
        let mut sent = 0;
        let started = Instant::now();
        while sent < end {
            let next = match self.delivery.gap {
                Some((at, gap)) if at == sent => {
                    sleep(gap).await;
                    end
                }
                Some((at, _)) if at > sent => at,
                _ => end,
            };
            let count = clip(next - sent, buffer.len());
            let chunk = &mut buffer[..count];
            self.fill(sent, chunk).await?;
            self.send_chunk(connection, chunk).await?;
            sent += count as u64;
            if let Some(pause) = self.delivery.pause {
                sleep(pause).await;
            }
            if let Some(bandwidth) = bandwidth {
                sleep_until(started + time_for(sent, bandwidth)).await;
            }
        }
        Ok(())
    }

    /// The file, if its first `end` bytes are to be sent unchanged.
    fn plain_file(&self, end: u64) -> Option<&File> {
        match &self.body {
            Body::File(file, length)
                if end <= *length
                    && self.delivery.flipped.is_none()
                    && self.delivery.pause.is_none()
                    && self.delivery.gap.is_none()
                    && self.delivery.framing != Framing::Chunked =>
            {
                Some(file)
            }
            _ => None,
        }
    }

    /// Fills a chunk with the next bytes to send, from `offset` on.
    async fn fill(&mut self, offset: u64, chunk: &mut [u8]) -> io::Result<()> {
        let genuine = clip(self.body.len().saturating_sub(offset), chunk.len());
        let (body, filling) = chunk.split_at_mut(genuine);
        self.body.take(body).await?;
        filling.fill(self.delivery.filler);
        let flipped = self
            .delivery
            .flipped
            .and_then(|at| usize::try_from(at.checked_sub(offset)?).ok());
        if let Some(byte) = flipped.and_then(|at| chunk.get_mut(at)) {
            *byte = !*byte;
        }
        Ok(())
    }

    async fn send_chunk(&self, connection: &mut Connection, chunk: &[u8]) -> io::Result<()> {
        if self.delivery.framing != Framing::Chunked {
            return connection.write_all(chunk).await;
        }
        let size = format!("{:x}\r\n", chunk.len());
        connection.write_all(size.as_bytes()).await?;
        connection.write_all(chunk).await?;
        connection.write_all(b"\r\n").await
    }

    /// Ends the body after the last byte that is sent.
    async fn end(&self, connection: &mut Connection) -> io::Result<()> {
        match self.delivery.stop {
            None if self.delivery.framing == Framing::Chunked => {
                connection.write_all(b"0\r\n\r\n").await
            }
            None | Some((_, Ending::Close)) => Ok(()),
            Some((_, Ending::Stall)) => wait_for_hangup(connection).await,
            Some((_, Ending::Reset)) => {
                sleep(BEFORE_RESET).await;
                connection.get_ref().set_zero_linger()
            }
        }
    }
}

/// Sends the next `length` bytes of a file without reading them. Benchmarks measure the client, whose usual
/// registry does not run on the same processors.
async fn send_file(socket: &TcpStream, file: &File, length: u64) -> io::Result<()> {
    let mut left = length;
    while left > 0 {
        let send = || Ok(sendfile64(socket, file, None, clip(left, CHUNK))?);
        match socket.async_io(Interest::WRITABLE, send).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => left -= count as u64,
        }
    }
    Ok(())
}

/// Sends nothing until the client closes its end.
async fn wait_for_hangup(connection: &mut Connection) -> io::Result<()> {
    tokio::io::copy(connection, &mut tokio::io::sink()).await?;
    Ok(())
}

/// The size of the chunks in which `length` bytes are sent.
fn chunk_len(length: u64, bandwidth: Option<u64>) -> usize {
    let limit = bandwidth.map_or(length, |bytes| (bytes / CHUNKS_PER_SECOND).max(1));
    clip(length.min(limit), CHUNK)
}

/// The smaller of the two.
fn clip(count: u64, limit: usize) -> usize {
    usize::try_from(count).map_or(limit, |count| count.min(limit))
}

/// How long `count` bytes take at `bandwidth` bytes a second.
fn time_for(count: u64, bandwidth: u64) -> Duration {
    let nanos = u128::from(count) * 1_000_000_000 / u128::from(bandwidth.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
