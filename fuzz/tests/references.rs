//! References and names that users and registries make up.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

use bolero::check;
use longshore::{Error, OciLayout, Proxies};
use longshore_fuzz::TARGET_DURATION;
use serde_json::json;
use test_support::peer::Peer;
use tokio::runtime::Builder;

/// A reference reaches the proxy unchanged, or is too long. It can't change the packet that contains it. A
/// name that a layout accepts is harmless.
#[test]
fn references() {
    check!()
        .with_type::<String>()
        .with_test_time(TARGET_DURATION)
        .for_each(|text| {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build();
            runtime.unwrap().block_on(open(text));
            if OciLayout::can_name(text) {
                assert!(text.is_ascii() && !text.starts_with('/'));
                assert!(!text.contains(|c: char| c.is_control() || c == ' '));
            }
            let _ = text.parse::<Proxies>();
        });
}

async fn open(reference: &str) {
    let (mut peer, proxy) = Peer::connected("0.2.8").await;
    let opened = proxy.open_image(reference);
    let serve = async {
        let call = peer.next().await.expect("a call");
        assert_eq!(call.method, "OpenImage");
        assert_eq!(call.args, json!([reference]));
        peer.refuse("no").await;
    };
    tokio::select! {
        biased;
        error = opened => {
            // The error came before anything was sent.
            let error = error.unwrap_err();
            assert!(matches!(error, Error::TooLarge { .. } | Error::Refused { .. }), "{error:?}");
        }
        () = async { serve.await; std::future::pending().await } => {}
    }
    drop(proxy);
}
