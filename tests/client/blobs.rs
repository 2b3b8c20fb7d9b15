//! Reads blobs with both framings: right ones are read whole, and each kind of wrong one is an error of its
//! own. None succeeds or hangs.

use longshore::oci_spec::image::Digest;
use longshore::{Blob, BlobError, Error, RefusalCode};
use test_support::fixture::{OpenImageFixture, blob_error, read_all};
use test_support::leaks::run;
use test_support::peer::Framing;
use test_support::{digest, noise, sha256, sha384, sha512, within_bound};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};

/// How a consumer gets the verdict.
#[derive(Debug, Clone, Copy)]
enum Reading {
    ToTheEnd,
    Unread,
    /// Reads exactly this many bytes, and never sees the end.
    JustItsBytes(u64),
}

impl Reading {
    fn all(size: usize) -> [Self; 3] {
        [
            Self::ToTheEnd,
            Self::Unread,
            Self::JustItsBytes(size as u64),
        ]
    }

    /// Returns the bytes that were read, or the error.
    async fn verdict(self, mut blob: Blob) -> Result<Vec<u8>, Error> {
        let bytes = match self {
            Self::ToTheEnd => read_all(&mut blob).await?,
            Self::Unread => Vec::new(),
            Self::JustItsBytes(size) => read_all(&mut (&mut blob).take(size)).await?,
        };
        within_bound(blob.finish()).await?;
        Ok(bytes)
    }
}

/// Asks for a blob with the digest of `wanted`, sends `sent` instead, and ends it with `error`. Expects this
/// verdict with each way of reading.
async fn check_verdict(
    framing: Framing,
    wanted: &[u8],
    sent: &[u8],
    error: Option<&str>,
    expect: impl Fn(Result<Vec<u8>, Error>, Reading),
) {
    for reading in Reading::all(wanted.len()) {
        let mut fixture = OpenImageFixture::with_short_stall_timeout(framing).await;
        let digest = sha256(wanted);
        let size = wanted.len() as u64;
        let (blob, mut flow) = fixture.get(&digest, size, size.cast_signed()).await;
        let write = async {
            // The reader may close its end before everything is written.
            let _ = flow.data.write_all(sent).await;
            flow.end(&mut fixture.peer, error).await;
        };
        let (verdict, ()) = tokio::join!(reading.verdict(blob.unwrap()), write);
        expect(verdict, reading);
        fixture.end().await;
    }
}

#[test]
fn a_good_blob_is_read_whole() {
    run(async {
        for framing in Framing::BOTH {
            for size in [1, 1000, 3 << 20] {
                let content = noise(size, 1);
                check_verdict(framing, &content, &content, None, |verdict, reading| {
                    let bytes = verdict.unwrap();
                    match reading {
                        Reading::Unread => assert!(bytes.is_empty()),
                        _ => assert!(bytes == content, "{framing:?} {size}"),
                    }
                })
                .await;
            }
        }
    });
}

#[test]
fn an_empty_blob_is_good() {
    run(async {
        for framing in Framing::BOTH {
            check_verdict(framing, b"", b"", None, |verdict, _| {
                assert_eq!(verdict.unwrap(), b"");
            })
            .await;
        }
    });
}

#[test]
fn corrupt_bytes_are_reported_with_their_digest() {
    run(async {
        let wanted = noise(1000, 1);
        let mut sent = wanted.clone();
        sent[999] ^= 1;
        for framing in Framing::BOTH {
            check_verdict(framing, &wanted, &sent, None, |verdict, _| {
                let BlobError::Corrupt { computed, .. } = blob_error(verdict.unwrap_err()) else {
                    panic!("not corrupt");
                };
                assert_eq!(computed, sha256(&sent));
            })
            .await;
        }
    });
}

#[test]
fn a_byte_too_many_and_a_mebibyte_too_many_are_too_long() {
    run(async {
        for excess in [1, 1 << 20] {
            let sent = noise(1000 + excess, 1);
            for framing in Framing::BOTH {
                check_verdict(framing, &sent[..1000], &sent, None, |verdict, _| {
                    let error = blob_error(verdict.unwrap_err());
                    assert!(
                        matches!(error, BlobError::TooLong { size: 1000, .. }),
                        "{error:?}"
                    );
                })
                .await;
            }
        }
    });
}

#[test]
fn a_too_long_blob_is_reported_also_if_the_proxy_reports_an_error() {
    run(async {
        let sent = noise(2 << 20, 1);
        let error = Some("write |1: broken pipe");
        check_verdict(Framing::Piped, &sent[..1000], &sent, error, |verdict, _| {
            let error = blob_error(verdict.unwrap_err());
            assert!(
                matches!(error, BlobError::TooLong { size: 1000, .. }),
                "{error:?}"
            );
        })
        .await;
    });
}

#[test]
fn a_blob_with_missing_bytes_is_short() {
    run(async {
        let wanted = noise(1000, 1);
        for length in [0, 999] {
            check_verdict(
                Framing::Raw,
                &wanted,
                &wanted[..length],
                None,
                |verdict, _| {
                    let error = blob_error(verdict.unwrap_err());
                    let BlobError::Short {
                        read, size: 1000, ..
                    } = error
                    else {
                        panic!("{error:?}");
                    };
                    assert_eq!(read, length as u64);
                },
            )
            .await;
        }
    });
}

#[test]
fn a_blob_that_stops_without_an_end_is_stalled() {
    run(async {
        let wanted = noise(1000, 1);
        for framing in Framing::BOTH {
            for length in [0, 999] {
                for reading in Reading::all(1000) {
                    let mut fixture = OpenImageFixture::with_short_stall_timeout(framing).await;
                    let (blob, mut flow) = fixture.get(&sha256(&wanted), 1000, 1000).await;
                    flow.write(&wanted[..length]).await;
                    let error = blob_error(reading.verdict(blob.unwrap()).await.unwrap_err());
                    let BlobError::Stalled { read, .. } = error else {
                        panic!("{error:?}");
                    };
                    assert_eq!(read, length as u64);
                    // The pipe is not finished, because that would block the connection.
                    fixture.end().await;
                    drop(flow);
                }
            }
        }
    });
}

#[test]
fn a_raw_blob_whose_pipe_stays_open_is_stalled() {
    run(async {
        let mut fixture = OpenImageFixture::with_short_stall_timeout(Framing::Raw).await;
        let (blob, mut flow) = fixture.get(&sha256(b"content"), 7, 7).await;
        flow.write(b"content").await;
        let error = blob_error(within_bound(blob.unwrap().finish()).await.unwrap_err());
        assert!(
            matches!(error, BlobError::Stalled { read: 7, .. }),
            "{error:?}"
        );
        fixture.end().await;
    });
}

#[test]
fn a_slow_blob_that_makes_progress_is_not_stalled() {
    run(async {
        for framing in Framing::BOTH {
            let mut fixture = OpenImageFixture::with_short_stall_timeout(framing).await;
            let content = noise(64, 1);
            let (blob, mut flow) = fixture.get(&sha256(&content), 64, 64).await;
            let mut blob = blob.unwrap();
            let mut read = Vec::new();
            for byte in &content {
                flow.write(&[*byte]).await;
                read.push(within_bound(blob.read_u8()).await.unwrap());
            }
            let (verdict, ()) = tokio::join!(
                within_bound(blob.finish()),
                flow.end(&mut fixture.peer, None)
            );
            verdict.unwrap();
            assert_eq!(read, content);
            fixture.end().await;
        }
    });
}

#[test]
fn a_wrong_announced_size_is_refused_before_reading() {
    run(async {
        for framing in Framing::BOTH {
            let mut fixture = OpenImageFixture::new(framing).await;
            let (blob, flow) = fixture.get(&sha256(b"content"), 7, 8).await;
            let error = blob_error(blob.unwrap_err());
            let BlobError::WrongSize {
                announced, size, ..
            } = error
            else {
                panic!("{error:?}");
            };
            assert_eq!((announced, size), (8, 7));
            fixture.end().await;
            drop(flow);
        }
    });
}

#[test]
fn without_an_announced_size_the_size_in_the_descriptor_is_used() {
    run(async {
        for framing in Framing::BOTH {
            let mut fixture = OpenImageFixture::new(framing).await;
            let (blob, mut flow) = fixture.get(&sha256(b"content"), 7, -1).await;
            let blob = blob.unwrap();
            assert_eq!(blob.announced(), None);
            flow.write(b"content").await;
            let reading = Reading::ToTheEnd.verdict(blob);
            let (verdict, ()) = tokio::join!(reading, flow.end(&mut fixture.peer, None));
            assert_eq!(verdict.unwrap(), b"content");
            fixture.end().await;
        }
    });
}

#[test]
fn an_immediate_refusal_names_the_blob_and_keeps_the_connection() {
    run(async {
        for framing in Framing::BOTH {
            let mut fixture = OpenImageFixture::new(framing).await;
            let wanted = sha256(b"content");
            let (blob, ()) =
                tokio::join!(fixture.proxy.get_blob(&fixture.image, &wanted, 7), async {
                    fixture.peer.next().await.unwrap();
                    fixture.peer.refuse_as("retryable", "no such blob").await;
                });
            let error = blob.unwrap_err();
            assert!(error.is_retryable() && !error.is_closed(), "{error:?}");
            assert!(error.to_string().contains(wanted.digest()), "{error}");
            let BlobError::Refused(refusal) = blob_error(error) else {
                panic!("not refused");
            };
            assert_eq!(refusal.message, "no such blob");
            assert_eq!(refusal.code, Some(RefusalCode::Retryable));
            fixture.end().await;
        }
    });
}

#[test]
fn a_refusal_during_a_transfer_comes_through_the_error_pipe() {
    run(async {
        let table = [
            (
                r#"{"code":"retryable","message":"cut"}"#,
                Some(RefusalCode::Retryable),
                "cut",
            ),
            ("not JSON", None, "not JSON"),
            (r#"{"code":7}"#, None, r#"{"code":7}"#),
        ];
        for (report, code, message) in table {
            for written in [0, 3] {
                for reading in Reading::all(7) {
                    let mut fixture = OpenImageFixture::new(Framing::Raw).await;
                    let (blob, mut flow) = fixture.get(&sha256(b"content"), 7, 7).await;
                    flow.write(&b"content"[..written]).await;
                    flow.error_pipe()
                        .write_all(report.as_bytes())
                        .await
                        .unwrap();
                    drop(flow);
                    let error = blob_error(reading.verdict(blob.unwrap()).await.unwrap_err());
                    let BlobError::Refused(refusal) = error else {
                        panic!("{error:?}");
                    };
                    assert_eq!(refusal.code, code);
                    assert_eq!(refusal.message, message);
                    fixture.end().await;
                }
            }
        }
    });
}

#[test]
fn finish_returns_the_error_that_the_proxy_found_at_the_end() {
    run(async {
        let content = noise(1000, 1);
        let error = Some("it was wrong, says the proxy");
        check_verdict(Framing::Piped, &content, &content, error, |verdict, _| {
            let BlobError::Refused(refusal) = blob_error(verdict.unwrap_err()) else {
                panic!("not refused");
            };
            assert_eq!(refusal.message, "it was wrong, says the proxy");
        })
        .await;
    });
}

#[test]
fn each_known_digest_algorithm_is_checked() {
    run(async {
        let hash: [fn(&[u8]) -> Digest; 3] = [sha256, sha384, sha512];
        for framing in Framing::BOTH {
            for hash in hash {
                for (sent, good) in [(b"content", true), (b"c0ntent", false)] {
                    let mut fixture = OpenImageFixture::new(framing).await;
                    let (blob, mut flow) = fixture.get(&hash(b"content"), 7, 7).await;
                    flow.write(sent).await;
                    let (verdict, ()) = tokio::join!(
                        within_bound(blob.unwrap().finish()),
                        flow.end(&mut fixture.peer, None)
                    );
                    match verdict {
                        Ok(()) => assert!(good),
                        Err(error) => {
                            assert!(!good);
                            let error = blob_error(error);
                            assert!(
                                matches!(&error, BlobError::Corrupt { computed, .. }
                                if *computed == hash(sent)),
                                "{error:?}"
                            );
                        }
                    }
                    fixture.end().await;
                }
            }
        }
    });
}

#[test]
fn unknown_algorithms_and_impossible_sizes_are_refused_without_a_request() {
    run(async {
        for framing in Framing::BOTH {
            let fixture = OpenImageFixture::new(framing).await;
            let blake = digest(&format!("blake3:{}", "a".repeat(64)));
            let blob = fixture.proxy.get_blob(&fixture.image, &blake, 1).await;
            let error = blob_error(blob.unwrap_err());
            assert!(matches!(error, BlobError::UnknownAlgorithm), "{error:?}");
            let blob = fixture
                .proxy
                .get_blob(&fixture.image, &sha256(b""), 1 << 53)
                .await;
            let error = blob_error(blob.unwrap_err());
            assert!(matches!(error, BlobError::ImpossibleSize(_)), "{error:?}");
            fixture.end().await;
        }
    });
}

#[test]
fn a_blob_can_be_read_by_lines() {
    run(async {
        for framing in Framing::BOTH {
            let mut fixture = OpenImageFixture::new(framing).await;
            let (blob, mut flow) = fixture.get(&sha256(b"one\ntwo\nthree"), 13, 13).await;
            flow.write(b"one\ntwo\nthree").await;
            let read = async {
                let mut blob = blob.unwrap();
                let mut lines = Vec::new();
                let mut line = String::new();
                while within_bound(blob.read_line(&mut line)).await.unwrap() > 0 {
                    lines.push(std::mem::take(&mut line));
                }
                within_bound(blob.finish()).await.unwrap();
                lines
            };
            let (lines, ()) = tokio::join!(read, flow.end(&mut fixture.peer, None));
            assert_eq!(lines, ["one\n", "two\n", "three"]);
            fixture.end().await;
        }
    });
}
