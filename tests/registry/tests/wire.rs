//! Checks what the registry really sends, with a client that reads bytes and trusts no header.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail this way"
)]

use std::io;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use test_registry::auth::Auth;
use test_registry::format::Compression;
use test_registry::image::{ImageBuilder, Written};
use test_registry::server::{Options, Registry};

/// The size of the layer. It exceeds what the registry sends at a time, so that a body has several pieces.
const LAYER_SIZE: u64 = 1_500_000;

/// How long a connection must be silent to count as stalled. A busy machine never causes a pause this long.
const SILENCE: Duration = Duration::from_secs(4);

/// A registry with one image of one layer.
struct Fixture {
    registry: Registry,
    image: Written,
    layer: Vec<u8>,
    _layout: TempDir,
}

/// The bytes that a connection sent, and how it ended.
struct Answer {
    head: String,
    body: Vec<u8>,
    end: End,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Closed,
    Reset,
    Silent,
}

impl Fixture {
    fn start() -> io::Result<Self> {
        Self::start_with(Options::default())
    }

    fn start_with(options: Options) -> io::Result<Self> {
        let layout = tempfile::tempdir()?;
        let image = ImageBuilder::new()
            .compression(Compression::None)
            .layer_random(LAYER_SIZE, 1)
            .write(layout.path(), "latest")?;
        let digest = image.layers[0].digest().digest();
        Ok(Self {
            layer: std::fs::read(layout.path().join("blobs/sha256").join(digest))?,
            registry: Registry::start(layout.path(), options)?,
            image,
            _layout: layout,
        })
    }

    /// Asks for the layer, with a fault in force.
    async fn layer_with(&self, fault: &str) -> io::Result<Answer> {
        self.get_with(fault, &self.layer_path()).await
    }

    async fn get_with(&self, fault: &str, path: &str) -> io::Result<Answer> {
        let fault = fault.parse().map_err(io::Error::other)?;
        self.registry.set_faults(vec![fault]);
        self.send(&format!("GET {path} HTTP/1.1\r\n\r\n")).await
    }

    async fn send(&self, request: &str) -> io::Result<Answer> {
        let mut stream = TcpStream::connect(self.registry.addr()).await?;
        stream.write_all(request.as_bytes()).await?;
        read_to_end(stream).await
    }

    fn layer_path(&self) -> String {
        format!("/v2/image/blobs/{}", self.image.layers[0].digest())
    }
}

async fn read_to_end(mut stream: TcpStream) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    let end = loop {
        match timeout(SILENCE, stream.read_buf(&mut bytes)).await {
            Ok(Ok(0)) => break End::Closed,
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => break End::Reset,
            Ok(Err(error)) => return Err(error),
            Err(_) => break End::Silent,
        }
    };
    let head_len = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map_or(0, |at| at + 4);
    let body = bytes.split_off(head_len);
    let head = String::from_utf8_lossy(&bytes).into_owned();
    Ok(Answer { head, body, end })
}

impl Answer {
    fn content_length(&self) -> Option<usize> {
        let (_, rest) = self.head.split_once("Content-Length: ")?;
        rest.lines().next()?.parse().ok()
    }
}

#[tokio::test]
async fn a_correct_reply_leaves_the_connection_open() -> io::Result<()> {
    let fixture = Fixture::start()?;
    let answer = fixture.layer_with("ping:status=500").await?;
    assert!(answer.head.starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(answer.content_length(), Some(fixture.layer.len()));
    assert!(answer.body == fixture.layer);
    assert_eq!(answer.end, End::Silent);
    Ok(())
}

#[tokio::test]
async fn bodies_stop_at_the_given_point() -> io::Result<()> {
    let fixture = Fixture::start()?;
    let len = fixture.layer.len();
    for (fault, expected, end) in [
        ("any:stall=0", 0, End::Silent),
        ("any:stall=half", len / 2, End::Silent),
        ("any:cut=100", 100, End::Closed),
        ("any:cut=last", len - 1, End::Closed),
        ("any:reset=0", 0, End::Reset),
        ("any:reset=last", len - 1, End::Reset),
    ] {
        let answer = fixture.layer_with(fault).await?;
        assert_eq!(answer.content_length(), Some(len), "{fault}");
        assert_eq!(answer.body.len(), expected, "{fault}");
        assert_eq!(answer.end, end, "{fault}");
        assert!(answer.body == fixture.layer[..expected], "{fault}");
    }
    Ok(())
}

#[tokio::test]
async fn bodies_of_the_wrong_length_have_headers_that_agree() -> io::Result<()> {
    let fixture = Fixture::start()?;
    let len = fixture.layer.len();
    for (fault, expected) in [
        ("blob:longer=1000000", len + 1_000_000),
        ("blob:shorter=7", len - 7),
        ("manifest:big-manifest=2M", 2 << 20),
    ] {
        let path = if fault.starts_with("blob") {
            fixture.layer_path()
        } else {
            "/v2/image/manifests/latest".to_owned()
        };
        let answer = fixture.get_with(fault, &path).await?;
        assert_eq!(answer.content_length(), Some(expected), "{fault}");
        assert_eq!(answer.body.len(), expected, "{fault}");
        assert_eq!(answer.end, End::Silent, "{fault}");
    }
    Ok(())
}

#[tokio::test]
async fn a_chunked_body_has_no_length() -> io::Result<()> {
    let fixture = Fixture::start()?;
    let answer = fixture.layer_with("blob:chunked-longer=1").await?;
    assert_eq!(answer.content_length(), None);
    assert!(answer.head.contains("Transfer-Encoding: chunked\r\n"));
    assert!(answer.body.starts_with(b"80000\r\n"));
    assert!(answer.body.ends_with(b"\0\r\n0\r\n\r\n"));
    Ok(())
}

#[tokio::test]
async fn a_wrong_content_length_comes_with_the_whole_body() -> io::Result<()> {
    let fixture = Fixture::start()?;
    let answer = fixture.layer_with("blob:content-length=10").await?;
    assert_eq!(answer.content_length(), Some(10));
    assert!(answer.body == fixture.layer);
    assert_eq!(answer.end, End::Closed);
    Ok(())
}

#[tokio::test]
async fn a_corrupt_body_differs_in_one_byte() -> io::Result<()> {
    let fixture = Fixture::start()?;
    let answer = fixture.layer_with("blob:corrupt=1000000").await?;
    let pairs = answer.body.iter().zip(&fixture.layer);
    let differences: Vec<usize> = pairs
        .enumerate()
        .filter_map(|(at, (sent, stored))| (sent != stored).then_some(at))
        .collect();
    assert_eq!(answer.body.len(), fixture.layer.len());
    assert_eq!(differences, [1_000_000]);
    Ok(())
}

#[tokio::test]
async fn headers_can_be_withheld() -> io::Result<()> {
    let fixture = Fixture::start()?;
    let answer = fixture.layer_with("blob:headers-never").await?;
    assert_eq!(answer.head, "");
    assert_eq!(answer.body, b"");
    assert_eq!(answer.end, End::Silent);
    assert_eq!(fixture.registry.requests()[0].status, None);
    Ok(())
}

#[tokio::test]
async fn a_range_is_a_part_of_the_body() -> io::Result<()> {
    let fixture = Fixture::start()?;
    let path = fixture.layer_path();
    let request = format!("GET {path} HTTP/1.1\r\nRange: bytes=10-19\r\n\r\n");
    let answer = fixture.send(&request).await?;
    assert!(answer.head.starts_with("HTTP/1.1 206 "));
    assert_eq!(answer.body, fixture.layer[10..20]);
    Ok(())
}

#[tokio::test]
async fn the_log_has_every_request() -> io::Result<()> {
    let fixture = Fixture::start()?;
    fixture.layer_with("blob:status=404*1").await?;
    fixture
        .send("HEAD /v2/image/manifests/latest HTTP/1.1\r\n\r\n")
        .await?;
    let log = fixture.registry.requests();
    let seen: Vec<_> = log
        .iter()
        .map(|entry| (entry.method.as_str(), entry.status))
        .collect();
    assert_eq!(seen, [("GET", Some(404)), ("HEAD", Some(200))]);
    assert_eq!(
        fixture.registry.blob_gets(fixture.image.layers[0].digest()),
        1
    );
    assert_eq!(fixture.registry.manifest_gets(), 0);
    Ok(())
}

/// Most clients try TLS first, and must see at once that there is none. If a connection is closed without an
/// answer, crane treats that as a transient failure, and retries later.
#[tokio::test]
async fn nonsense_is_answered() -> io::Result<()> {
    let fixture = Fixture::start()?;
    for nonsense in [
        "\u{16}\u{3}\u{1}\n",
        "GET /v2/\r\n",
        "GET / HTTP/1.1\r\nx\r\n",
    ] {
        let answer = fixture.send(nonsense).await?;
        assert!(answer.head.starts_with("HTTP/1.1 400 "), "{nonsense:?}");
        assert_eq!(answer.end, End::Closed, "{nonsense:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_bearer_token_takes_a_password() -> io::Result<()> {
    let fixture = Fixture::start_with(Options {
        auth: Auth {
            basic: Some(("user".to_owned(), "password".to_owned())),
            bearer: Some("secret".to_owned()),
            refresh_token: None,
        },
        ..Options::default()
    })?;
    for (request, status) in [
        ("GET /v2/ HTTP/1.1\r\n\r\n", "401"),
        ("GET /token HTTP/1.1\r\n\r\n", "401"),
        (
            "GET /token HTTP/1.1\r\nAuthorization: Basic dXNlcjpwYXNzd29yZA==\r\n\r\n",
            "200",
        ),
        (
            "GET /v2/ HTTP/1.1\r\nAuthorization: Bearer secret\r\n\r\n",
            "200",
        ),
    ] {
        let answer = fixture.send(request).await?;
        assert_eq!(answer.head.split(' ').nth(1), Some(status), "{request}");
    }
    Ok(())
}

#[tokio::test]
async fn late_headers_do_not_delay_other_connections() -> io::Result<()> {
    let ttfb = SILENCE / 2;
    let fixture = Fixture::start_with(Options {
        ttfb,
        ..Options::default()
    })?;
    let started = Instant::now();
    let ping = || fixture.send("GET /v2/ HTTP/1.1\r\nConnection: close\r\n\r\n");
    let answers = tokio::try_join!(ping(), ping(), ping(), ping());
    assert!(answers.is_ok());
    assert!(started.elapsed() >= ttfb);
    assert!(started.elapsed() < 4 * ttfb, "one after the other");
    Ok(())
}

#[tokio::test]
async fn dropping_the_registry_ends_its_connections() -> io::Result<()> {
    let fixture = Fixture::start()?;
    let address = fixture.registry.addr();
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"HEAD /v2/ HTTP/1.1\r\n\r\n").await?;
    stream.read_u8().await?;
    drop(fixture);
    assert_eq!(read_to_end(stream).await?.end, End::Closed);
    assert!(TcpStream::connect(address).await.is_err());
    Ok(())
}
