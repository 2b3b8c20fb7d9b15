//! What this crate does where the other one hangs, panics or depends on timing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail this way"
)]

use containers_image_proxy::{Error, GetBlobError, ImageProxy, ImageProxyConfig, OpenedImage};
use serde_json::json;
use test_support::leaks::run;
use test_support::peer::{Flow, Framing, Peer};
use test_support::{noise, sha256, within_bound};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};

/// A proxy that the test plays, with an open image.
struct Fixture {
    proxy: ImageProxy,
    image: OpenedImage,
    peer: Peer,
    framing: Framing,
}

impl Fixture {
    async fn new(framing: Framing) -> Self {
        let (mut peer, proxy) = Peer::connected(framing.version()).await;
        let proxy = ImageProxy::from(proxy);
        let (image, ()) = tokio::join!(proxy.open_image("x:"), peer.opens(1));
        let image = image.unwrap();
        Self {
            proxy,
            image,
            peer,
            framing,
        }
    }

    /// Ends the proxy. No image is closed before.
    async fn end(self) {
        let Self {
            proxy, mut peer, ..
        } = self;
        let (ended, ()) = within_bound(async {
            tokio::join!(proxy.finalize(), async move {
                peer.expect("Shutdown", json!([])).await;
            })
        })
        .await;
        ended.unwrap();
    }
}

/// How a program reads before it awaits the driver.
#[derive(Debug, Clone, Copy)]
enum Reading {
    ToTheEnd,
    /// Reads through the reader's buffer, as decompressors do.
    Buffers,
    /// Reads until this number of bytes is left, and then drops the reader.
    AllBut(usize),
}

impl Reading {
    async fn read(self, mut reader: impl AsyncBufRead + Unpin, size: usize) {
        match self {
            Self::ToTheEnd => {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).await.unwrap();
                assert_eq!(bytes.len(), size);
            }
            Self::Buffers => loop {
                let found = reader.fill_buf().await.unwrap().len();
                if found == 0 {
                    break;
                }
                reader.consume(found.div_ceil(2));
            },
            Self::AllBut(left) => {
                let mut bytes = vec![0; size - left];
                reader.read_exact(&mut bytes).await.unwrap();
            }
        }
    }
}

/// Asks for a blob with the digest of `wanted`, and gets `sent` instead. Reads it, and returns what the driver says.
async fn fetch(
    framing: Framing,
    wanted: &[u8],
    sent: &[u8],
    reading: Reading,
) -> Result<(), Error> {
    let mut fixture = Fixture::new(framing).await;
    let (digest, size) = (sha256(wanted), wanted.len() as u64);
    let (blob, mut flow) = tokio::join!(
        fixture.proxy.get_blob(&fixture.image, &digest, size),
        Flow::grant(
            &mut fixture.peer,
            framing,
            &digest,
            size,
            size.cast_signed()
        )
    );
    let (reader, driver) = blob.unwrap();
    let read = async {
        reading.read(reader, wanted.len()).await;
        driver.await
    };
    let is_abandoned = matches!(reading, Reading::AllBut(left) if left > TAIL);
    let write = async {
        // The reader may be gone.
        let _ = flow.data.write_all(sent).await;
        if !is_abandoned {
            flow.end(&mut fixture.peer, None).await;
        }
    };
    let (verdict, ()) = within_bound(async { tokio::join!(read, write) }).await;
    fixture.end().await;
    verdict
}

/// The capacity of a pipe, in bytes.
const TAIL: usize = 64 * 1024;

#[test]
fn the_driver_can_be_awaited_after_the_readers_end() {
    run(async {
        for framing in Framing::BOTH {
            for size in [0, 1000, 1 << 20] {
                let bytes = noise(size, 1);
                for reading in [Reading::ToTheEnd, Reading::Buffers] {
                    fetch(framing, &bytes, &bytes, reading).await.unwrap();
                }
            }
        }
    });
}

#[test]
fn the_rest_of_a_dropped_reader_is_verified_if_it_fits_into_a_pipe() {
    run(async {
        for framing in Framing::BOTH {
            for (size, left) in [(0, 0), (1000, 1000), (1 << 20, 1), (1 << 20, TAIL)] {
                let bytes = noise(size, 1);
                let reading = Reading::AllBut(left);
                fetch(framing, &bytes, &bytes, reading).await.unwrap();
            }
            let mut corrupt = noise(1 << 20, 1);
            *corrupt.last_mut().unwrap() ^= 1;
            let wanted = noise(1 << 20, 1);
            for reading in [Reading::ToTheEnd, Reading::Buffers, Reading::AllBut(1)] {
                let error = fetch(framing, &wanted, &corrupt, reading).await;
                let error = error.unwrap_err();
                assert!(is_refused(&error, "FinishPipe"), "{reading:?}: {error}");
                assert!(error.to_string().contains("corrupt"), "{error}");
            }
        }
    });
}

#[test]
fn a_driver_reports_a_broken_pipe_if_its_reader_is_dropped_early() {
    run(async {
        for framing in Framing::BOTH {
            let bytes = noise(1 << 20, 1);
            let reading = Reading::AllBut(TAIL + 1);
            let error = fetch(framing, &bytes, &bytes, reading).await.unwrap_err();
            assert!(is_refused(&error, "FinishPipe"), "{error}");
            assert!(error.to_string().ends_with("broken pipe"), "{error}");
        }
    });
}

fn is_refused(error: &Error, wanted: &str) -> bool {
    matches!(error, Error::RequestInitiationFailure { method, .. } if &**method == wanted)
}

#[test]
fn a_dropped_image_stays_open_and_a_closed_one_does_not() {
    run(async {
        let Fixture {
            proxy,
            image,
            mut peer,
            framing,
        } = Fixture::new(Framing::Raw).await;
        drop(image);
        let (image, ()) = tokio::join!(proxy.open_image("y:"), async {
            // The first thing that comes is no CloseImage.
            peer.expect("OpenImage", json!(["y:"])).await;
            peer.reply(json!(2)).await;
        });
        let image = image.unwrap();
        let (closed, ()) = tokio::join!(proxy.close_image(&image), async {
            peer.expect("CloseImage", json!([2])).await;
            peer.reply(json!(null)).await;
        });
        closed.unwrap();
        let error = proxy.close_image(&image).await.unwrap_err();
        assert!(is_refused(&error, "CloseImage"), "{error}");
        let error = proxy.fetch_manifest(&image).await.unwrap_err();
        assert!(is_refused(&error, "GetManifest"), "{error}");
        let fixture = Fixture {
            proxy,
            image,
            peer,
            framing,
        };
        fixture.end().await;
    });
}

#[test]
fn an_image_of_another_proxy_is_an_error() {
    run(async {
        let one = Fixture::new(Framing::Raw).await;
        let other = Fixture::new(Framing::Raw).await;
        let error = one.proxy.fetch_config(&other.image).await.unwrap_err();
        assert!(error.to_string().contains("another proxy"), "{error}");
        one.end().await;
        other.end().await;
    });
}

#[test]
fn the_driver_reports_a_proxy_that_ends_during_a_blob() {
    run(async {
        let Fixture {
            proxy,
            image,
            mut peer,
            framing,
        } = Fixture::new(Framing::Raw).await;
        let digest = sha256(b"content");
        let (blob, flow) = tokio::join!(
            proxy.get_blob(&image, &digest, 7),
            Flow::grant(&mut peer, framing, &digest, 7, 7)
        );
        let (mut reader, driver) = blob.unwrap();
        drop((peer, flow));
        let mut bytes = Vec::new();
        let (read, verdict) =
            within_bound(async { tokio::join!(reader.read_to_end(&mut bytes), driver) }).await;
        assert_eq!(read.unwrap(), 0);
        let error = verdict.unwrap_err();
        assert!(matches!(error, Error::Other(_)), "{error}");
        let error = proxy.finalize().await.unwrap_err();
        assert!(matches!(error, Error::Other(_)), "{error}");
    });
}

#[test]
fn a_layer_of_unknown_size_is_a_parse_error() {
    run(async {
        let mut fixture = Fixture::new(Framing::Piped).await;
        let layers = json!([{
            "digest": sha256(b"content").to_string(),
            "size": -1,
            "media_type": "application/vnd.oci.image.layer.v1.tar",
        }]);
        let (found, ()) = tokio::join!(fixture.proxy.get_layer_info(&fixture.image), async {
            fixture.peer.call("GetLayerInfo").await;
            fixture.peer.reply(layers).await;
        });
        let error = found.unwrap_err();
        assert!(matches!(error, Error::SerDe(_)), "{error}");
        fixture.end().await;
    });
}

#[test]
fn a_raw_blob_comes_with_its_size_and_the_error_of_the_proxy() {
    run(async {
        for (said, expected) in [
            ("", "Ok(())"),
            (r#"{"code":"EPIPE","message":"m"}"#, "Ok(())"),
            (
                r#"{"code":"retryable","message":"m"}"#,
                "Err(Retryable(\"m\"))",
            ),
            (r#"{"code":"other","message":"m"}"#, "Err(Other(\"m\"))"),
        ] {
            let mut fixture = Fixture::new(Framing::Raw).await;
            let digest = sha256(b"anything");
            let (blob, mut ends) =
                tokio::join!(fixture.proxy.get_raw_blob(&fixture.image, &digest), async {
                    fixture.peer.call("GetRawBlob").await;
                    fixture.peer.grant_raw(7).await
                });
            let (size, mut file, error) = blob.unwrap();
            ends.data.write_all(b"content").await.unwrap();
            ends.error.write_all(said.as_bytes()).await.unwrap();
            drop(ends);
            let mut bytes = Vec::new();
            let (read, error) =
                within_bound(async { tokio::join!(file.read_to_end(&mut bytes), error) }).await;
            assert_eq!((size, read.unwrap()), (Some(7), 7));
            let error: Result<(), GetBlobError> = error;
            assert_eq!(format!("{error:?}"), expected);
            drop(file);
            fixture.end().await;
        }
    });
}

#[test]
fn debug_text_of_a_configuration_contains_no_secret() {
    let mut config = ImageProxyConfig::default();
    config.decryption_keys = Some(vec!["s3cret-key".to_owned()]);
    let mut command = std::process::Command::new("wrapper");
    command.arg("s3cret-argument").env("TOKEN", "s3cret-value");
    config.skopeo_cmd = Some(command);
    let shown = format!("{config:?}");
    assert!(
        !shown.contains("s3cret") && shown.contains("wrapper"),
        "{shown}"
    );
}
