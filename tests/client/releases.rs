//! What was granted is released: an image without a handle is closed, a drained pipe is finished exactly
//! once, and a pipe that is not drained is never finished.

use std::task::{Context, Waker};

use serde_json::{Value, json};
use test_support::fixture::{OpenImageFixture, read_all};
use test_support::leaks::{run, run_single};
use test_support::peer::{Flow, Framing, Peer, PipeEnd};
use test_support::{sha256, within_bound};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Waits until a write fails, because the reader of this pipe is closed.
async fn expect_broken(pipe: &mut tokio::net::unix::pipe::Sender) {
    let broken = within_bound(async {
        loop {
            if let Err(error) = pipe.write_all(&[0; 4096]).await {
                break error;
            }
        }
    });
    assert_eq!(broken.await.kind(), std::io::ErrorKind::BrokenPipe);
}

#[test]
fn an_image_opened_for_a_dropped_caller_is_closed() {
    run(async {
        let (mut peer, proxy) = Peer::connected("0.2.8").await;
        let leaver = {
            let proxy = proxy.clone();
            tokio::spawn(async move { proxy.open_image("x:").await })
        };
        peer.expect("OpenImage", json!(["x:"])).await;
        leaver.abort();
        assert!(leaver.await.unwrap_err().is_cancelled());
        peer.reply(json!(17)).await;
        peer.expect("CloseImage", json!([17])).await;
        peer.reply(Value::Null).await;
        peer.check_idle(&proxy).await;
        peer.end(proxy).await;
    });
}

#[test]
fn a_blob_granted_to_a_dropped_caller_is_closed_and_never_finished() {
    run(async {
        for framing in Framing::BOTH {
            let OpenImageFixture {
                image,
                proxy,
                mut peer,
                ..
            } = OpenImageFixture::new(framing).await;
            let wanted = sha256(b"content");
            let mut asking = Box::pin(proxy.get_blob(&image, &wanted, 7));
            tokio::select! {
                biased;
                _ = &mut asking => panic!("not answered yet"),
                call = peer.next() => assert!(call.unwrap().method.starts_with("Get")),
            }
            drop(asking);
            let mut data = match framing {
                Framing::Piped => peer.grant_pipe(json!(7)).await.data,
                Framing::Raw => peer.grant_raw(7).await.data,
            };
            expect_broken(&mut data).await;
            peer.check_idle(&proxy).await;
            peer.end_with(proxy, vec![image]).await;
        }
    });
}

#[test]
fn a_blob_dropped_before_its_end_is_closed_and_never_finished() {
    run(async {
        for framing in Framing::BOTH {
            for read in [0, 1, 6] {
                let mut fixture = OpenImageFixture::new(framing).await;
                let (blob, mut flow) = fixture.get(&sha256(b"content"), 7, 7).await;
                flow.write(b"content").await;
                let mut blob = blob.unwrap();
                blob.read_exact(&mut vec![0; read]).await.unwrap();
                drop(blob);
                expect_broken(&mut flow.data).await;
                fixture.end().await;
            }
        }
    });
}

#[test]
fn a_drained_blob_dropped_without_finish_is_finished_once() {
    run(async {
        for to_the_end in [false, true] {
            let mut fixture = OpenImageFixture::new(Framing::Piped).await;
            let (blob, mut flow) = fixture.get(&sha256(b"content"), 7, 7).await;
            flow.write(b"content").await;
            let mut blob = blob.unwrap();
            if to_the_end {
                read_all(&mut blob).await.unwrap();
            } else {
                blob.read_exact(&mut [0; 7]).await.unwrap();
            }
            drop(blob);
            flow.end(&mut fixture.peer, None).await;
            fixture.end().await;
        }
    });
}

#[test]
fn a_dropped_finish_call_finishes_once() {
    run_single(async {
        for polls in 0..4 {
            let mut fixture = OpenImageFixture::new(Framing::Piped).await;
            let (blob, mut flow) = fixture.get(&sha256(b"content"), 7, 7).await;
            flow.write(b"content").await;
            let mut blob = blob.unwrap();
            read_all(&mut blob).await.unwrap();
            let mut finishing = Box::pin(blob.finish());
            for _ in 0..polls {
                let mut cx = Context::from_waker(Waker::noop());
                assert!(finishing.as_mut().poll(&mut cx).is_pending());
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
            }
            drop(finishing);
            flow.end(&mut fixture.peer, None).await;
            fixture.end().await;
        }
    });
}

#[test]
fn a_corrupt_blob_is_finished_once() {
    run(async {
        let mut fixture = OpenImageFixture::new(Framing::Piped).await;
        let (blob, mut flow) = fixture.get(&sha256(b"content"), 7, 7).await;
        flow.write(b"c0ntent").await;
        let mut blob = blob.unwrap();
        read_all(&mut blob).await.unwrap_err();
        drop(blob);
        flow.end(&mut fixture.peer, None).await;
        fixture.end().await;
    });
}

#[test]
fn a_manifest_for_a_dropped_caller_is_closed_and_then_finished() {
    run(async {
        let OpenImageFixture {
            image,
            proxy,
            mut peer,
            ..
        } = OpenImageFixture::new(Framing::Raw).await;
        let mut asking = Box::pin(proxy.fetch_manifest(&image));
        tokio::select! {
            biased;
            _ = &mut asking => panic!("not answered yet"),
            call = peer.next() => assert_eq!(call.unwrap().method, "GetManifest"),
        }
        drop(asking);
        let PipeEnd { id, mut data } = peer.grant_pipe(json!("other:x")).await;
        peer.expect("FinishPipe", json!([id])).await;
        // So a write of any size can't block the proxy.
        expect_broken(&mut data).await;
        peer.refuse("write |1: broken pipe").await;
        peer.check_idle(&proxy).await;
        peer.end_with(proxy, vec![image]).await;
    });
}

#[test]
fn close_image_that_is_polled_once_closes_the_image() {
    run_single(async {
        let OpenImageFixture {
            image,
            proxy,
            mut peer,
            ..
        } = OpenImageFixture::new(Framing::Raw).await;
        let mut closing = Box::pin(proxy.close_image(image));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(closing.as_mut().poll(&mut cx).is_pending());
        drop(closing);
        peer.expect("CloseImage", json!([1])).await;
        peer.reply(Value::Null).await;
        peer.check_idle(&proxy).await;
        peer.end(proxy).await;
    });
}

#[test]
fn an_image_of_another_proxy_is_refused_and_closed_at_its_own_proxy() {
    run(async {
        let OpenImageFixture {
            image,
            proxy,
            mut peer,
            ..
        } = OpenImageFixture::new(Framing::Raw).await;
        let (other_peer, other) = Peer::connected("0.2.8").await;
        let refused = other.fetch_manifest(&image).await.unwrap_err();
        assert!(
            matches!(refused, longshore::Error::ForeignImage),
            "{refused:?}"
        );
        let refused = other.close_image(image).await.unwrap_err();
        assert!(
            matches!(refused, longshore::Error::ForeignImage),
            "{refused:?}"
        );
        peer.expect("CloseImage", json!([1])).await;
        peer.reply(Value::Null).await;
        peer.end(proxy).await;
        other_peer.end(other).await;
    });
}

/// The blob is an error, but the proxy still has its end of the pipe.
#[test]
fn a_blob_of_the_wrong_size_is_closed_and_never_finished() {
    run(async {
        for framing in Framing::BOTH {
            let mut fixture = OpenImageFixture::new(framing).await;
            let (blob, mut flow): (_, Flow) = fixture.get(&sha256(b"content"), 7, 8).await;
            drop(blob.unwrap_err());
            expect_broken(&mut flow.data).await;
            fixture.end().await;
        }
    });
}
