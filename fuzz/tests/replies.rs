//! A proxy that answers any call with anything, and any descriptors.
//!
//! Nothing panics or hangs, and a wrong answer is an error. After the connection has failed, every call
//! fails. A blob reaches its end only with the right bytes. No descriptor stays open.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

use std::fs::File;
use std::future::Future;
use std::os::fd::OwnedFd;

use bolero::{TypeGenerator, check};
use longshore::{ConnectionOptions, ImageProxy, OpenedImage};
use longshore_fuzz::{BOUND, TARGET_DURATION, digest};
use serde_json::{Value, json};
use test_support::peer::{Peer, pipe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::Sender;
use tokio::runtime::Builder;

const CONTENT: &[u8] = b"the content";

#[derive(Debug, TypeGenerator)]
struct Case {
    new: bool,
    calls: Vec<Call>,
    replies: Vec<ReplyKind>,
}

#[derive(Debug, TypeGenerator)]
enum Call {
    Open,
    OpenOptional,
    Manifest,
    Config,
    RuntimeConfig,
    Layers,
    Blob {
        size: Option<u64>,
        leave: Option<u8>,
    },
    RawBlob,
    Socket,
    Close,
}

/// The answer of the proxy to a call.
#[derive(Debug, TypeGenerator)]
enum ReplyKind {
    /// The right answer, with this in the pipe.
    Right {
        right_bytes: bool,
        bytes: Vec<u8>,
        announced: Option<i64>,
        error: Vec<u8>,
    },
    No {
        error: String,
    },
    Json {
        success: bool,
        value: JsonValue,
        pipe: u32,
        fds: Vec<Descriptor>,
    },
    Bytes {
        bytes: Vec<u8>,
        fds: Vec<Descriptor>,
    },
    Twice,
    Nothing,
}

#[derive(Debug, TypeGenerator)]
enum JsonValue {
    Null,
    Number(i64),
    Text(String),
    List(Vec<i64>),
}

#[derive(Debug, TypeGenerator)]
enum Descriptor {
    Pipe,
    WrongEnd,
    File,
}

impl Descriptor {
    fn make(&self) -> OwnedFd {
        match self {
            Self::Pipe => pipe().0,
            Self::WrongEnd => nix::unistd::pipe().unwrap().1,
            Self::File => File::open("/dev/null").unwrap().into(),
        }
    }
}

impl JsonValue {
    fn json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Number(number) => json!(number),
            Self::Text(text) => json!(text),
            Self::List(numbers) => json!(numbers),
        }
    }
}

/// The output of the future, within a time that passes only if nothing else happens.
async fn within_bound<F: Future>(future: F) -> F::Output {
    let ended = tokio::time::timeout(1000 * BOUND, future).await;
    ended.expect("it hangs")
}

#[test]
fn replies() {
    // tokio makes some descriptors once for the whole process.
    drop(Builder::new_current_thread().enable_all().build().unwrap());
    check!()
        .with_type::<Case>()
        .with_test_time(TARGET_DURATION)
        .for_each(|case| {
            let before = descriptors();
            // On this runtime, waits that nothing else ends take no time.
            let runtime = Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build();
            runtime.unwrap().block_on(play(case));
            assert_eq!(descriptors(), before, "descriptors stay open");
        });
}

async fn play(case: &Case) {
    let (mut peer, socket) = Peer::pair();
    peer.lenient();
    let version = if case.new { "0.2.8" } else { "0.2.6" };
    let (connected, ()) = tokio::join!(
        ImageProxy::connect(socket, ConnectionOptions::default()),
        async {
            peer.next().await;
            peer.reply(json!(version)).await;
        }
    );
    let proxy = connected.unwrap();
    let (image, ()) = tokio::join!(proxy.open_image("x:"), peer.opens(1));
    let image = image.unwrap();
    let sending = tokio::spawn(send_replies(peer, &case.replies));
    let mut failed = false;
    for call in &case.calls {
        let outcome = within_bound(ask(call, &proxy, &image)).await;
        assert!(outcome.is_err() || !failed, "{call:?} after the end");
        failed |= outcome.is_err_and(|e| e.is_closed());
    }
    drop(image);
    let _ = within_bound(proxy.finalize()).await;
    sending.abort();
    let _ = sending.await;
}

async fn ask(call: &Call, proxy: &ImageProxy, image: &OpenedImage) -> longshore::Result<()> {
    let wanted = digest(CONTENT).parse().unwrap();
    match call {
        Call::Open => proxy.open_image("y:").await.map(drop),
        Call::OpenOptional => proxy.open_image_optional("y:").await.map(drop),
        Call::Manifest => proxy.fetch_manifest(image).await.map(drop),
        Call::Config => proxy.fetch_config(image).await.map(drop),
        Call::RuntimeConfig => proxy.fetch_runtime_config_raw(image).await.map(drop),
        Call::Layers => proxy.get_layer_info(image).await.map(drop),
        Call::Blob { size, leave } => {
            let size = size.unwrap_or(CONTENT.len() as u64);
            let mut blob = proxy.get_blob(image, &wanted, size).await?;
            if let Some(leave) = leave {
                let mut some = vec![0; usize::from(*leave)];
                let read = blob.read(&mut some).await;
                return read.map(drop).map_err(|error| error.downcast().unwrap());
            }
            let mut bytes = Vec::new();
            match blob.read_to_end(&mut bytes).await {
                Ok(_) => assert_eq!(bytes, CONTENT, "wrong bytes came to their end"),
                Err(error) => return Err(error.downcast().unwrap()),
            }
            blob.finish().await
        }
        Call::RawBlob => {
            let mut blob = proxy.get_raw_blob(image, &wanted).await?;
            let read = blob.read_to_end(&mut Vec::new()).await;
            read.map(drop).map_err(|error| error.downcast().unwrap())
        }
        Call::Socket => proxy.open_varlink_socket(image).await.map(drop),
        Call::Close => {
            let opened = proxy.open_image("z:").await?;
            proxy.close_image(opened).await
        }
    }
}

/// Answers one call after another, and then hangs up.
fn send_replies(mut peer: Peer, replies: &[ReplyKind]) -> impl Future<Output = ()> + use<> {
    let mut packets = Vec::new();
    for reply in replies {
        packets.push(match reply {
            ReplyKind::Right {
                right_bytes,
                bytes,
                announced,
                error,
            } => {
                let bytes = if *right_bytes {
                    CONTENT.to_vec()
                } else {
                    bytes.clone()
                };
                Answer::Right {
                    announced: announced.unwrap_or_else(|| bytes.len().try_into().unwrap()),
                    bytes,
                    error: error.clone(),
                }
            }
            ReplyKind::No { error } => Answer::Packet(
                json!({ "success": false, "error": error })
                    .to_string()
                    .into_bytes(),
                Vec::new(),
            ),
            ReplyKind::Json {
                success,
                value,
                pipe,
                fds,
            } => Answer::Packet(
                json!({ "success": success, "value": value.json(), "pipeid": pipe })
                    .to_string()
                    .into_bytes(),
                fds.iter().map(Descriptor::make).collect(),
            ),
            ReplyKind::Bytes { bytes, fds } => {
                Answer::Packet(bytes.clone(), fds.iter().map(Descriptor::make).collect())
            }
            ReplyKind::Twice => Answer::Packet(br#"{"success":true}"#.to_vec(), Vec::new()),
            ReplyKind::Nothing => Answer::Nothing,
        });
    }
    async move {
        let mut open: Option<Sender> = None;
        for answer in packets {
            let Some(call) = peer.next().await else {
                return;
            };
            match answer {
                Answer::Packet(bytes, fds) => {
                    // The kernel refuses more descriptors, and an empty packet.
                    let fds = &fds[..fds.len().min(200)];
                    peer.send(&bytes, fds).await;
                }
                Answer::Nothing => return std::future::pending().await,
                Answer::Right {
                    bytes,
                    announced,
                    error,
                } => match &*call.method {
                    "OpenImage" | "OpenImageOptional" => peer.reply(json!(2)).await,
                    "GetRawBlob" => {
                        let mut ends = peer.grant_raw(announced).await;
                        let _ = ends.data.write_all(&bytes).await;
                        let _ = ends.error.write_all(&error).await;
                    }
                    "GetManifest" | "GetConfig" | "GetFullConfig" | "GetLayerInfoPiped"
                    | "GetBlob" => {
                        let value = match &*call.method {
                            "GetManifest" => json!("other:x"),
                            "GetBlob" => json!(announced),
                            _ => Value::Null,
                        };
                        let mut end = peer.grant_pipe(value).await;
                        let _ = end.data.write_all(&bytes).await;
                        open = Some(end.data);
                    }
                    "GetLayerInfo" => peer.reply(json!([])).await,
                    "FinishPipe" => {
                        open = None;
                        peer.reply(Value::Null).await;
                    }
                    _ => peer.reply(Value::Null).await,
                },
            }
        }
        drop(open);
    }
}

enum Answer {
    Right {
        bytes: Vec<u8>,
        announced: i64,
        error: Vec<u8>,
    },
    Packet(Vec<u8>, Vec<OwnedFd>),
    Nothing,
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
