//! A server whose answers are written by hand, for what the test registry can't do.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

/// An answer: its status line, one more header, and its body.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: &'static str,
    pub(crate) header: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn new(status: &'static str, body: impl Into<String>) -> Self {
        Self {
            status,
            header: "Content-Type: application/json".to_owned(),
            body: body.into(),
        }
    }

    pub(crate) fn header(mut self, header: impl Into<String>) -> Self {
        self.header = header.into();
        self
    }
}

/// Answers each `GET` by its path, over plain HTTP. The server runs until the process ends.
pub(crate) fn answering(answer: impl Fn(&str) -> Answer + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let reply = move |mut stream: TcpStream| -> io::Result<()> {
        let mut request = [0; 4096];
        let length = stream.read(&mut request)?;
        let request = String::from_utf8_lossy(&request[..length]);
        let path = request.split(' ').nth(1).unwrap_or_default();
        let Answer {
            status,
            header,
            body,
        } = answer(path);
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status}\r\n{header}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}",
        )
    };
    // A client that hangs up early does no harm.
    thread::spawn(move || listener.incoming().flatten().map(reply).all(|_| true));
    address
}
