//! Raw blobs, which nobody checks; and blobs whose proxy goes away.

use std::fs::File;
use std::io::Read as _;

use longshore::{BlobError, ConnectionOptions, Error};
use serde_json::json;
use test_support::fixture::{OpenImageFixture, STALL, blob_error, read_all};
use test_support::leaks::run;
use test_support::peer::{Framing, Peer};
use test_support::{noise, sha256, within_bound};
use tokio::io::AsyncWriteExt;

/// A raw blob of this announced size, of which `sent` comes.
async fn raw(announced: i64, sent: &[u8], error: Option<&str>) -> Result<Vec<u8>, BlobError> {
    let options = ConnectionOptions::default().stall_timeout(STALL);
    let OpenImageFixture {
        image,
        proxy,
        mut peer,
        ..
    } = OpenImageFixture::with(Framing::Raw, options).await;
    let wanted = sha256(b"something else");
    let (blob, mut ends) = tokio::join!(proxy.get_raw_blob(&image, &wanted), async {
        peer.expect("GetRawBlob", json!([1, wanted.to_string()]))
            .await;
        peer.grant_raw(announced).await
    });
    let mut blob = blob.unwrap();
    assert_eq!(blob.announced(), u64::try_from(announced).ok());
    ends.data.write_all(sent).await.unwrap();
    if let Some(error) = error {
        ends.error.write_all(error.as_bytes()).await.unwrap();
    }
    drop(ends);
    let verdict = read_all(&mut blob).await;
    drop(blob);
    peer.check_idle(&proxy).await;
    peer.end_with(proxy, vec![image]).await;
    verdict.map_err(blob_error)
}

#[test]
fn a_raw_blob_is_not_verified() {
    run(async {
        for announced in [7, -1] {
            assert_eq!(raw(announced, b"content", None).await.unwrap(), b"content");
        }
        assert_eq!(raw(-1, b"", None).await.unwrap(), b"");
    });
}

#[test]
fn a_raw_blob_must_have_its_announced_size() {
    run(async {
        let error = raw(8, b"content", None).await.unwrap_err();
        assert!(
            matches!(
                error,
                BlobError::Short {
                    read: 7,
                    size: 8,
                    ..
                }
            ),
            "{error:?}"
        );
        let error = raw(6, b"content", None).await.unwrap_err();
        assert!(
            matches!(error, BlobError::TooLong { size: 6, .. }),
            "{error:?}"
        );
    });
}

#[test]
fn the_error_of_a_raw_blob_is_returned_also_if_all_bytes_came() {
    run(async {
        for announced in [7, -1] {
            let report = r#"{"code":"other","message":"boom"}"#;
            let error = raw(announced, b"content", Some(report)).await.unwrap_err();
            assert!(
                matches!(&error, BlobError::Refused(r) if r.message == "boom"),
                "{error:?}"
            );
        }
    });
}

/// A raw blob that is taken apart: its bytes, and how it ended.
async fn split_raw_blob(sent: &[u8], error: Option<&str>) -> (Vec<u8>, longshore::Result<()>) {
    let mut fixture = OpenImageFixture::new(Framing::Raw).await;
    let wanted = sha256(b"something else");
    let (blob, mut ends) =
        tokio::join!(fixture.proxy.get_raw_blob(&fixture.image, &wanted), async {
            fixture.peer.call("GetRawBlob").await;
            fixture.peer.grant_raw(-1).await
        });
    let (pipe, ended) = blob.unwrap().into_pipe().unwrap();
    let reading = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        File::from(pipe).read_to_end(&mut bytes).unwrap();
        bytes
    });
    let sending = async move {
        ends.data.write_all(sent).await.unwrap();
        if let Some(error) = error {
            ends.error.write_all(error.as_bytes()).await.unwrap();
        }
    };
    let (bytes, (), ended) = within_bound(async { tokio::join!(reading, sending, ended) }).await;
    fixture.end().await;
    (bytes.unwrap(), ended)
}

#[test]
fn a_raw_blob_can_be_split_into_its_pipe_and_its_result() {
    run(async {
        let content = noise(1 << 20, 1);
        let (bytes, ended) = split_raw_blob(&content, None).await;
        ended.unwrap();
        assert!(bytes == content);
        let report = r#"{"code":"other","message":"boom"}"#;
        let (bytes, ended) = split_raw_blob(b"content", Some(report)).await;
        assert_eq!(bytes, b"content");
        let error = blob_error(ended.unwrap_err());
        assert!(
            matches!(&error, BlobError::Refused(r) if r.message == "boom"),
            "{error:?}"
        );
    });
}

#[test]
fn a_raw_blob_needs_protocol_0_2_8() {
    run(async {
        let fixture = OpenImageFixture::new(Framing::Piped).await;
        let blob = fixture
            .proxy
            .get_raw_blob(&fixture.image, &sha256(b""))
            .await;
        let error = blob.unwrap_err();
        assert!(
            matches!(
                error,
                Error::Unsupported {
                    method: "GetRawBlob",
                    ..
                }
            ),
            "{error:?}"
        );
        fixture.end().await;
    });
}

#[test]
fn a_proxy_that_ends_during_a_raw_blob_is_reported() {
    run(async {
        for framing in Framing::BOTH {
            for read_some in [false, true] {
                let content = noise(100_000, 1);
                let mut fixture = OpenImageFixture::new(framing).await;
                let (blob, mut flow) = fixture.get(&sha256(&content), 100_000, 100_000).await;
                let mut blob = blob.unwrap();
                if read_some {
                    flow.write(&content[..1000]).await;
                }
                let OpenImageFixture {
                    image,
                    proxy,
                    mut peer,
                    ..
                } = fixture;
                peer.lenient();
                drop((peer, flow));
                let error = read_all(&mut blob).await.unwrap_err();
                assert!(error.is_closed() && error.is_retryable(), "{error:?}");
                let BlobError::Connection(source) = blob_error(error) else {
                    panic!("{framing:?}: not reported as a failure of the proxy");
                };
                assert!(matches!(*source, Error::Disconnected), "{source:?}");
                let again = blob_error(within_bound(blob.finish()).await.unwrap_err());
                assert!(matches!(again, BlobError::Connection(_)), "{again:?}");
                let later = proxy.close_image(image).await.unwrap_err();
                assert!(matches!(later, Error::Disconnected), "{later:?}");
            }
        }
    });
}

#[test]
fn a_raw_blob_of_unknown_size_fails_if_its_proxy_ends() {
    run(async {
        // Whether the pipe or the socket is seen to end first is a race.
        for round in 0..50 {
            let (mut peer, proxy) = Peer::connected("0.2.8").await;
            let (image, ()) = tokio::join!(proxy.open_image("x:"), peer.opens(1));
            let image = image.unwrap();
            let wanted = sha256(b"content");
            let (blob, mut ends) = tokio::join!(proxy.get_raw_blob(&image, &wanted), async {
                peer.call("GetRawBlob").await;
                peer.grant_raw(-1).await
            });
            let mut blob = blob.unwrap();
            ends.data.write_all(b"con").await.unwrap();
            peer.lenient();
            drop(ends);
            if round % 2 == 0 {
                // The end of the connection is noticed a little later than the end of the pipe.
                tokio::task::yield_now().await;
            }
            drop(peer);
            let error = read_all(&mut blob).await.unwrap_err();
            let error = blob_error(error);
            assert!(matches!(error, BlobError::Connection(_)), "{error:?}");
        }
    });
}

#[test]
fn a_complete_blob_is_good_also_if_its_proxy_has_ended() {
    run(async {
        let mut fixture = OpenImageFixture::new(Framing::Raw).await;
        let (blob, mut flow) = fixture.get(&sha256(b"content"), 7, 7).await;
        flow.write(b"content").await;
        let OpenImageFixture {
            image,
            proxy,
            mut peer,
            ..
        } = fixture;
        peer.lenient();
        drop((peer, flow));
        let mut blob = blob.unwrap();
        assert_eq!(read_all(&mut blob).await.unwrap(), b"content");
        within_bound(blob.finish()).await.unwrap();
        drop((image, proxy));
    });
}
