//! The limits of a packet: what just fits, what does not, and the empty one.

use longshore::Error;
use serde_json::json;
use test_support::fixture::OpenImageFixture;
use test_support::leaks::run;
use test_support::peer::{Framing, Peer, pipe};
use test_support::within_bound;

#[test]
fn a_reply_of_exactly_a_packet_is_read() {
    run(async {
        let (mut peer, proxy) = Peer::connected("0.2.8").await;
        let (image, ()) = tokio::join!(within_bound(proxy.open_image("x:")), async {
            peer.call("OpenImage").await;
            let mut reply = json!({ "success": true, "value": 7 }).to_string();
            reply.push_str(&" ".repeat(32 * 1024 - reply.len()));
            peer.send(reply.as_bytes(), &[]).await;
        });
        peer.end_with(proxy, vec![image.unwrap()]).await;
    });
}

#[test]
fn an_empty_packet_ends_the_connection() {
    run(async {
        let OpenImageFixture {
            image,
            proxy,
            mut peer,
            ..
        } = OpenImageFixture::new(Framing::Raw).await;
        let (error, ()) = tokio::join!(within_bound(proxy.open_image("x:")), async {
            peer.call("OpenImage").await;
            // The packet is empty even though it carries descriptors.
            peer.send(b"", &[pipe().0, pipe().0]).await;
        });
        assert!(matches!(error, Err(Error::Disconnected)), "{error:?}");
        let later = within_bound(proxy.fetch_config(&image)).await;
        assert!(matches!(later, Err(Error::Disconnected)), "{later:?}");
        peer.expect_close().await;
    });
}

#[test]
fn a_request_too_large_for_a_packet_is_not_sent() {
    run(async {
        let (mut peer, proxy) = Peer::connected("0.2.8").await;
        for length in [32 * 1024, 1 << 20] {
            let error = within_bound(proxy.open_image(&"x".repeat(length)))
                .await
                .unwrap_err();
            let Error::TooLarge { method, bytes, .. } = error else {
                panic!("{error:?}");
            };
            assert_eq!(method, "OpenImage");
            assert!(bytes > length);
        }
        peer.check_idle(&proxy).await;
        peer.end(proxy).await;
    });
}

#[test]
fn a_request_of_exactly_a_packet_is_sent() {
    run(async {
        let (mut peer, proxy) = Peer::connected("0.2.8").await;
        let frame = json!({ "method": "OpenImage", "args": [""] })
            .to_string()
            .len();
        let reference = "x".repeat(32 * 1024 - frame);
        let (refused, ()) = tokio::join!(within_bound(proxy.open_image(&reference)), async {
            peer.expect("OpenImage", json!([reference])).await;
            peer.refuse("no").await;
        });
        assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
        peer.end(proxy).await;
    });
}
