//! The part of HTTP/1.1 that a registry's client needs: reading a request, and writing the head of a reply.

use std::fmt::Write as _;
use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// The maximum size of a request's head, and of its body, in bytes.
const LIMIT: u64 = 64 * 1024;

/// A complete request.
#[derive(Debug)]
pub struct Request {
    /// `GET`, `HEAD`, `POST`...
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The body, empty for most requests.
    pub body: Vec<u8>,
    /// Whether the connection may serve another request after this one.
    pub keep_alive: bool,
    headers: Vec<(String, String)>,
}

impl Request {
    /// Returns the value of a header. The case of its name does not matter.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// Whether the reply must consist of its head alone.
    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// A request without headers and body.
    #[cfg(test)]
    pub fn for_test(method: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            body: Vec::new(),
            keep_alive: true,
            headers: Vec::new(),
        }
    }
}

/// Reads the next request of a connection. `None` if the client has closed it.
///
/// # Errors
///
/// If the connection fails, or if the request is not HTTP/1 or too large.
pub async fn read_request(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Request>> {
    let mut head = (&mut *stream).take(LIMIT);
    let mut line = String::new();
    if head.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let (method, target, version) = split_request_line(&line)?;
    let headers = read_headers(&mut head).await?;
    let body = read_body(stream, &headers).await?;
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    let asked_to_close = header(&headers, "connection").is_some_and(|value| value == "close");
    Ok(Some(Request {
        method: method.to_owned(),
        path: path.to_owned(),
        body,
        keep_alive: version == "HTTP/1.1" && !asked_to_close,
        headers,
    }))
}

/// `GET /path HTTP/1.1` in its three parts.
fn split_request_line(line: &str) -> io::Result<(&str, &str, &str)> {
    let mut parts = line.split_whitespace();
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(method), Some(target), Some(version), None) => Ok((method, target, version)),
        _ => Err(malformed("request line")),
    }
}

async fn read_headers(head: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if head.read_line(&mut line).await? == 0 {
            return Err(malformed("head, cut short or too long"));
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(headers);
        }
        let (name, value) = line.split_once(':').ok_or_else(|| malformed("header"))?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// Reads the body of a request. Some clients send even short bodies in chunks.
async fn read_body(
    stream: &mut (impl AsyncBufRead + Unpin),
    headers: &[(String, String)],
) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if header(headers, "transfer-encoding") == Some("chunked") {
        while read_chunk(stream, &mut body).await? {}
        return Ok(body);
    }
    let length = header(headers, "content-length").unwrap_or("0");
    let length = length.parse().map_err(|_| malformed("Content-Length"))?;
    append(stream, length, &mut body).await?;
    Ok(body)
}

/// Reads a chunk with the line before it and the one after. Returns `false` after the last chunk.
async fn read_chunk(
    stream: &mut (impl AsyncBufRead + Unpin),
    body: &mut Vec<u8>,
) -> io::Result<bool> {
    let mut line = String::new();
    (&mut *stream).take(LIMIT).read_line(&mut line).await?;
    let length = u64::from_str_radix(line.trim_end(), 16).map_err(|_| malformed("chunk"))?;
    append(stream, length, body).await?;
    (&mut *stream).take(2).read_line(&mut line).await?;
    Ok(length > 0)
}

async fn append(
    stream: &mut (impl AsyncBufRead + Unpin),
    length: u64,
    body: &mut Vec<u8>,
) -> io::Result<()> {
    if length > LIMIT.saturating_sub(body.len() as u64) {
        return Err(malformed("body, too long"));
    }
    stream.take(length).read_to_end(body).await?;
    Ok(())
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("malformed request: {what}"),
    )
}

/// The head of a reply, including the empty line at its end.
pub fn format_head(status: u16, headers: &[(&str, String)]) -> String {
    let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    for (name, value) in headers {
        // Writing to a string cannot fail.
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head.push_str("\r\n");
    head
}

/// The usual text for a status. Clients ignore it.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

/// Parses a `Range` header with one range of a body of `len` bytes. Returns the first byte and the length.
///
/// `Ok(None)` means that the header must be ignored, as the standard requires for headers that are
/// not understood.
///
/// # Errors
///
/// If the range lies outside of the body. The answer is 416 then.
pub fn parse_range(text: &str, len: u64) -> Result<Option<(u64, u64)>, RangeOutside> {
    let Some((first, last)) = text
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
    else {
        return Ok(None);
    };
    let (start, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(start), Ok(last)) if start <= last => (start, last.saturating_add(1).min(len)),
        (Ok(start), Err(_)) if last.is_empty() => (start, len),
        (Err(_), Ok(0)) if first.is_empty() => return Err(RangeOutside),
        (Err(_), Ok(count)) if first.is_empty() => (len.saturating_sub(count), len),
        _ => return Ok(None),
    };
    if start >= end {
        return Err(RangeOutside);
    }
    Ok(Some((start, end - start)))
}

/// The error for a range outside of the body.
#[derive(Debug, PartialEq, Eq)]
pub struct RangeOutside;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_follow_one_another() -> io::Result<()> {
        let mut stream: &[u8] = b"POST /token?a=b HTTP/1.1\r\ncontent-LENGTH: 3\r\n\r\nabc\
            POST /token HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n1\r\nf\r\n0\r\n\r\n\
            GET / HTTP/1.1\r\nConnection: close\r\n\r\n";
        let mut requests = Vec::new();
        while let Some(request) = read_request(&mut stream).await? {
            requests.push((request.path, request.body, request.keep_alive));
        }
        let expected = [
            ("/token".to_owned(), b"abc".to_vec(), true),
            ("/token".to_owned(), b"def".to_vec(), true),
            ("/".to_owned(), Vec::new(), false),
        ];
        assert_eq!(requests, expected);
        Ok(())
    }

    #[tokio::test]
    async fn nonsense_is_refused() {
        for text in [
            "\r\n\r\n",
            "GET /\r\n\r\n",
            "GET / HTTP/1.1\r\nname\r\n\r\n",
            "GET / HTTP/1.1\r\n",
        ] {
            let request = read_request(&mut text.as_bytes()).await;
            assert!(request.is_err(), "{text:?}");
        }
    }

    #[test]
    fn ranges_are_clipped_to_the_body() {
        assert_eq!(parse_range("bytes=0-9", 100), Ok(Some((0, 10))));
        assert_eq!(parse_range("bytes=90-", 100), Ok(Some((90, 10))));
        assert_eq!(parse_range("bytes=90-500", 100), Ok(Some((90, 10))));
        assert_eq!(parse_range("bytes=-5", 100), Ok(Some((95, 5))));
        assert_eq!(parse_range("bytes=-500", 100), Ok(Some((0, 100))));
    }

    #[test]
    fn ranges_outside_of_the_body_are_refused() {
        for text in ["bytes=100-", "bytes=100-200", "bytes=-0"] {
            assert_eq!(parse_range(text, 100), Err(RangeOutside), "{text}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Err(RangeOutside));
    }

    #[test]
    fn ranges_that_are_not_understood_are_ignored() {
        for text in [
            "lines=1-2",
            "bytes=9-1",
            "bytes=0-1,5-6",
            "bytes=-",
            "bytes",
        ] {
            assert_eq!(parse_range(text, 100), Ok(None), "{text}");
        }
    }
}
