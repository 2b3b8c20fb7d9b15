//! A proxy that breaks the protocol: each kind is reported in its own words,
//! to all who wait and all who come later, and nothing it sent stays open.

use std::os::fd::OwnedFd;

use longshore::{BlobError, Error, ImageProxy, OpenedImage};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use test_support::fixture::OpenImageFixture;
use test_support::leaks::{descriptors, run, run_single};
use test_support::peer::{Framing, Peer, pipe};
use test_support::{sha256, within_bound};

const NOT_A_PIPE: &str = "the proxy handed out a descriptor that is not a readable pipe";
const UNSOLICITED: &str = "a reply that nobody asked for";
const UNFINISHED: &str = "the proxy says that a pipe is finished, and keeps it open";

/// The calls that the tests make: one for each kind of answer.
#[derive(Debug, Clone, Copy)]
enum Ask {
    Open,
    OpenOptional,
    Manifest,
    Config,
    Blob,
    RawBlob,
    Close,
}

impl Ask {
    const ALL: [Self; 7] = [
        Self::Open,
        Self::OpenOptional,
        Self::Manifest,
        Self::Config,
        Self::Blob,
        Self::RawBlob,
        Self::Close,
    ];

    fn framing(self) -> Framing {
        match self {
            Self::Blob => Framing::Piped,
            _ => Framing::Raw,
        }
    }

    fn method(self) -> &'static str {
        match self {
            Self::Open => "OpenImage",
            Self::OpenOptional => "OpenImageOptional",
            Self::Manifest => "GetManifest",
            Self::Config => "GetFullConfig",
            Self::Blob => "GetBlob",
            Self::RawBlob => "GetRawBlob",
            Self::Close => "CloseImage",
        }
    }

    /// The number of descriptors of the answer, and whether it has a pipe id.
    fn shape(self) -> (usize, bool) {
        match self {
            Self::Open | Self::OpenOptional | Self::Close => (0, false),
            Self::Manifest | Self::Config | Self::Blob => (1, true),
            Self::RawBlob => (2, false),
        }
    }

    /// A correct value for this call.
    fn value(self) -> Value {
        match self {
            Self::Manifest => json!("other:x"),
            Self::Config | Self::Close => Value::Null,
            Self::Open | Self::OpenOptional | Self::Blob | Self::RawBlob => json!(7),
        }
    }

    async fn error(self, proxy: &ImageProxy, image: OpenedImage) -> Error {
        let wanted = sha256(b"content");
        match self {
            Self::Open => proxy.open_image("x:").await.unwrap_err(),
            Self::OpenOptional => proxy.open_image_optional("x:").await.unwrap_err(),
            Self::Manifest => proxy.fetch_manifest(&image).await.unwrap_err(),
            Self::Config => proxy.fetch_config(&image).await.unwrap_err(),
            Self::Blob | Self::RawBlob => proxy.get_blob(&image, &wanted, 7).await.unwrap_err(),
            Self::Close => proxy.close_image(image).await.unwrap_err(),
        }
    }
}

/// The violation in this error, even if it is inside the error of a blob.
#[track_caller]
fn violation(error: Error) -> String {
    assert!(error.is_closed() && error.is_retryable(), "{error:?}");
    match error {
        Error::Protocol(violation) => violation.to_string(),
        Error::Blob {
            source: BlobError::Connection(source),
            ..
        } => violation(*source),
        other => panic!("not a violation: {other:?}"),
    }
}

/// Answers `ask` with what `answer` sends, and returns the violation that is reported. Callers that wait behind this
/// call, and later callers, must get the same violation.
async fn broken_by(ask: Ask, answer: impl AsyncFnOnce(&mut Peer)) -> String {
    let OpenImageFixture {
        image,
        proxy,
        mut peer,
        ..
    } = OpenImageFixture::new(ask.framing()).await;
    let serve = async {
        assert_eq!(peer.next().await.unwrap().method, ask.method());
        let waiting = {
            let proxy = proxy.clone();
            tokio::spawn(async move { proxy.open_image("behind:").await.unwrap_err() })
        };
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        answer(&mut peer).await;
        within_bound(waiting).await.unwrap()
    };
    let (error, waiting) = tokio::join!(within_bound(ask.error(&proxy, image)), serve);
    let reported = violation(error);
    assert_eq!(violation(waiting), reported);
    let later = within_bound(proxy.open_image("later:")).await.unwrap_err();
    assert_eq!(violation(later), reported);
    let finalized = within_bound(proxy.finalize()).await.unwrap_err();
    assert_eq!(violation(finalized), reported);
    peer.expect_close().await;
    reported
}

fn pipes(count: usize) -> Vec<OwnedFd> {
    (0..count).map(|_| pipe().0).collect()
}

#[test]
fn a_wrong_number_of_descriptors_ends_the_connection() {
    run(async {
        for ask in Ask::ALL {
            let (expected, piped) = ask.shape();
            for found in (0..4).filter(|found| *found != expected) {
                let reported = broken_by(ask, async |peer| {
                    let id = if piped { 5 } else { 0 };
                    peer.reply_with(ask.value(), id, &pipes(found)).await;
                })
                .await;
                let method = ask.method();
                let expected = format!(
                    "the reply to {method} came with {found} file descriptors instead of {expected}"
                );
                assert_eq!(reported, expected);
            }
        }
    });
}

#[test]
fn a_superfluous_or_missing_pipe_id_ends_the_connection() {
    run(async {
        for ask in Ask::ALL {
            let (count, piped) = ask.shape();
            let (id, wrong) = if piped {
                (0, "without a pipe id")
            } else {
                (5, "with pipe id 5, which does not belong there")
            };
            let reported = broken_by(ask, async |peer| {
                peer.reply_with(ask.value(), id, &pipes(count)).await;
            })
            .await;
            let method = ask.method();
            assert_eq!(reported, format!("the reply to {method} came {wrong}"));
        }
    });
}

#[test]
fn descriptors_with_a_refusal_end_the_connection() {
    run(async {
        let reported = broken_by(Ask::Manifest, async |peer| {
            let no = json!({ "success": false, "error": "no" });
            peer.send(no.to_string().as_bytes(), &pipes(1)).await;
        })
        .await;
        let expected = "the reply to GetManifest came with 1 file descriptors instead of 0";
        assert_eq!(reported, expected);
    });
}

#[test]
fn a_value_of_the_wrong_type_ends_the_connection() {
    run(async {
        let table = [
            (Ask::Open, json!(0)),
            (Ask::Open, json!(-1)),
            (Ask::Open, json!("one")),
            (Ask::OpenOptional, Value::Null),
            (Ask::Manifest, json!(3)),
            (Ask::Blob, json!(-2)),
            (Ask::RawBlob, json!("7")),
        ];
        for (ask, value) in table {
            let (count, piped) = ask.shape();
            let reported = broken_by(ask, async |peer| {
                let id = if piped { 5 } else { 0 };
                peer.reply_with(value, id, &pipes(count)).await;
            })
            .await;
            let expected = format!("the reply to {} has an unusable value: ", ask.method());
            assert!(reported.starts_with(&expected), "{reported:?}");
        }
    });
}

#[test]
fn a_packet_that_is_no_reply_ends_the_connection() {
    run(async {
        let table: [&[u8]; 5] = [b"nonsense", b"{", b"[]", b"{}", b"\xff\xfe\0"];
        for bytes in table {
            for fds in [0, 2] {
                let reported = broken_by(Ask::RawBlob, async |peer| {
                    peer.send(bytes, &pipes(fds)).await;
                })
                .await;
                let expected = "the reply to GetRawBlob is not a reply: ";
                assert!(reported.starts_with(expected), "{reported:?}");
            }
        }
    });
}

#[test]
fn a_truncated_reply_ends_the_connection() {
    run(async {
        let reported = broken_by(Ask::RawBlob, async |peer| {
            let mut reply = json!({ "success": true, "value": 7 }).to_string();
            reply.push_str(&" ".repeat(32 * 1024));
            peer.send(reply.as_bytes(), &pipes(2)).await;
        })
        .await;
        let expected = "the reply to GetRawBlob was cut: it is longer than a packet may be";
        assert_eq!(reported, expected);
    });
}

#[test]
fn descriptors_that_are_lost_end_the_connection() {
    // The limit applies to the whole process. `run` runs no other test of this binary meanwhile.
    run_single(async {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let reported = broken_by(Ask::RawBlob, async |peer| {
            let fds = pipes(2);
            let highest = descriptors()
                .iter()
                .filter_map(|fd| fd.split(' ').next()?.parse::<u64>().ok())
                .max()
                .unwrap();
            // From here on, this process has no free descriptor.
            setrlimit(Resource::RLIMIT_NOFILE, 1.min(highest), hard).unwrap();
            peer.reply_with(json!(7), 0, &fds).await;
        })
        .await;
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        let expected = "file descriptors in the reply to GetRawBlob were lost";
        assert!(reported.starts_with(expected), "{reported:?}");
    });
}

#[test]
fn a_descriptor_that_is_no_pipe_ends_the_connection() {
    run(async {
        for ask in [Ask::Manifest, Ask::Config, Ask::Blob, Ask::RawBlob] {
            let (count, piped) = ask.shape();
            for wrong in 0..count {
                let reported = broken_by(ask, async |peer| {
                    let mut fds = pipes(count);
                    fds[wrong] = std::fs::File::open("/dev/null").unwrap().into();
                    let id = if piped { 5 } else { 0 };
                    peer.reply_with(ask.value(), id, &fds).await;
                })
                .await;
                assert_eq!(reported, NOT_A_PIPE, "{ask:?}");
            }
        }
    });
}

#[test]
fn the_writing_end_of_a_pipe_ends_the_connection() {
    run(async {
        let reported = broken_by(Ask::Manifest, async |peer| {
            let (_read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
            peer.reply_with(json!("other:x"), 5, &[write]).await;
        })
        .await;
        assert_eq!(reported, NOT_A_PIPE);
    });
}

#[test]
fn an_unsolicited_reply_ends_the_connection() {
    run(async {
        let (mut peer, proxy) = Peer::connected("0.2.8").await;
        peer.reply(Value::Null).await;
        // After the proxy has seen the close, no call is sent that could be mistaken for this one.
        peer.expect_close().await;
        let error = within_bound(proxy.open_image("x:")).await.unwrap_err();
        assert_eq!(violation(error), UNSOLICITED);
    });
}

#[test]
fn a_second_reply_does_not_answer_an_unsent_call() {
    run_single(async {
        let (mut peer, proxy) = Peer::connected("0.2.8").await;
        let tasks: Vec<_> = ["a:", "b:"]
            .map(|reference| {
                let proxy = proxy.clone();
                tokio::spawn(async move { proxy.open_image(reference).await })
            })
            .into();
        peer.expect("OpenImage", json!(["a:"])).await;
        // "b:" is queued by now. Both replies are there before the actor runs.
        let yes = json!({ "success": true, "value": 3 }).to_string();
        peer.send(yes.as_bytes(), &[]).await;
        peer.send(yes.as_bytes(), &[]).await;
        let mut results = Vec::new();
        for task in tasks {
            results.push(within_bound(task).await.unwrap());
        }
        let second = results
            .pop()
            .unwrap()
            .expect_err("answered without being sent");
        assert_eq!(violation(second), UNSOLICITED);
        results.pop().unwrap().unwrap();
        peer.expect_close().await;
    });
}

#[test]
fn a_finished_document_pipe_that_stays_open_ends_the_connection() {
    run_single(async {
        let OpenImageFixture {
            proxy,
            image,
            mut peer,
            ..
        } = OpenImageFixture::new(Framing::Raw).await;
        let keeps_it_open = async {
            peer.expect("GetFullConfig", json!([1])).await;
            let kept = peer.grant_pipe(Value::Null).await;
            peer.expect("FinishPipe", json!([kept.id])).await;
            peer.reply(Value::Null).await;
            // From here on, this task and the library only wait, so the clock can be paused.
            tokio::time::pause();
            std::future::pending::<()>().await;
        };
        let error = tokio::select! {
            config = proxy.fetch_config_raw(&image) => config.unwrap_err(),
            () = keeps_it_open => unreachable!(),
        };
        tokio::time::resume();
        assert_eq!(violation(error), UNFINISHED);
        let later = within_bound(proxy.open_image("x:")).await.unwrap_err();
        assert_eq!(violation(later), UNFINISHED);
        peer.lenient();
    });
}

#[test]
fn a_finished_blob_pipe_that_stays_open_ends_the_connection() {
    run_single(async {
        let mut fixture = OpenImageFixture::new(Framing::Piped).await;
        let wanted = sha256(b"content");
        let (blob, mut flow) = fixture.get(&wanted, 7, 7).await;
        flow.write(b"content").await;
        let OpenImageFixture {
            proxy, mut peer, ..
        } = fixture;
        let keeps_it_open = async {
            peer.call("FinishPipe").await;
            peer.reply(Value::Null).await;
            // From here on, this task and the library only wait, so the clock can be paused.
            tokio::time::pause();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            // All bytes are here and right, whatever the proxy does afterwards.
            finished = blob.unwrap().finish() => finished.unwrap(),
            () = keeps_it_open => unreachable!(),
        }
        tokio::time::resume();
        let later = within_bound(proxy.open_image("x:")).await.unwrap_err();
        assert_eq!(violation(later), UNFINISHED);
        drop(flow);
        peer.lenient();
    });
}
