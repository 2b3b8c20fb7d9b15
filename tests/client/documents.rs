//! Manifests, configs and layer info: whole documents from the memory of the proxy, through pipes that end
//! only with `FinishPipe`.

use std::task::{Context, Waker};

use longshore::{ConnectionOptions, Error, ImageProxy};
use serde_json::{Value, json};
use test_support::fixture::OpenImageFixture;
use test_support::image::TestImage;
use test_support::leaks::{run, run_single};
use test_support::memory_proxy::{Leftover, MemoryProxy};
use test_support::peer::{Framing, Peer, PipeEnd};
use test_support::{eventually, noise, within_bound};
use tokio::io::AsyncWriteExt;

/// The size of the manifest in bytes, which is many times what a pipe holds.
const MANIFEST: usize = 4 << 20;

/// An image with a manifest of [`MANIFEST`] bytes. The manifest need not be JSON.
fn with_large_manifest() -> TestImage {
    let mut image = TestImage::with_layers(&[]);
    image.manifest.bytes = noise(MANIFEST, 1);
    image
}

#[test]
fn a_large_manifest_comes_while_other_calls_are_queued() {
    run(async {
        let image = with_large_manifest();
        let (proxy, server) = MemoryProxy::connected("0.2.8", &[("x:", &image)]).await;
        let opened = proxy.open_image("x:").await.unwrap();
        let others: Vec<_> = (0..50)
            .map(|_| {
                let proxy = proxy.clone();
                tokio::spawn(async move { proxy.open_image("other:").await.unwrap_err() })
            })
            .collect();
        let (digest, bytes) = within_bound(proxy.fetch_manifest_raw_oci(&opened))
            .await
            .unwrap();
        assert_eq!(digest, image.manifest.digest);
        assert!(bytes == image.manifest.bytes);
        for other in others {
            within_bound(other).await.unwrap();
        }
        drop((opened, proxy));
        assert_eq!(server.ended().await, Leftover::NOTHING);
    });
}

#[test]
fn a_document_asked_for_before_finalize_is_read_to_its_end() {
    let test = || async {
        let OpenImageFixture {
            image,
            proxy,
            mut peer,
            ..
        } = OpenImageFixture::new(Framing::Raw).await;
        let (finalizer, other) = (proxy.clone(), proxy.clone());
        let asking = tokio::spawn(async move { proxy.fetch_manifest_raw_oci(&image).await });
        peer.expect("GetManifest", json!([1])).await;
        let finalizing = tokio::spawn(finalizer.finalize());
        eventually(|| {
            // Before `finalize` has reached the actor, this call is queued behind the one in flight. It is dropped at
            // once, so it is never sent.
            let asked = futures_util::FutureExt::now_or_never(other.open_image("y:"));
            matches!(asked, Some(Err(Error::Closed)))
        })
        .await;
        peer.document(json!("other:m"), b"{}").await;
        let (digest, bytes) = within_bound(asking).await.unwrap().unwrap();
        assert_eq!((digest.as_ref(), &bytes[..]), ("other:m", &b"{}"[..]));
        // The caller has dropped its image.
        while let Some(call) = peer.next().await
            && call.method == "CloseImage"
        {
            peer.reply(Value::Null).await;
        }
        drop(peer);
        within_bound(finalizing).await.unwrap().unwrap();
    };
    run_single(test());
    run(test());
}

#[test]
fn a_document_over_the_bound_keeps_the_connection() {
    run(async {
        let image = with_large_manifest();
        let options = ConnectionOptions::default().max_document_bytes(MANIFEST as u64 - 1);
        let (socket, server) = MemoryProxy::spawn("0.2.8", &[("x:", &image)]);
        let proxy = ImageProxy::connect(socket, options).await.unwrap();
        let opened = proxy.open_image("x:").await.unwrap();
        let error = within_bound(proxy.fetch_manifest_raw_oci(&opened)).await;
        let error = error.unwrap_err();
        assert!(matches!(error, Error::DocumentTooLarge { .. }), "{error:?}");
        assert!(!error.is_closed() && !error.is_retryable());
        within_bound(proxy.open_image("other:")).await.unwrap_err();
        within_bound(proxy.close_image(opened)).await.unwrap();
        drop(proxy);
        assert_eq!(server.ended().await, Leftover::NOTHING);
    });
}

#[test]
fn a_document_that_is_not_polled_blocks_no_other_call() {
    // On one thread, nothing happens between two polls except what the other call does.
    run_single(async {
        let image = with_large_manifest();
        let (proxy, server) = MemoryProxy::connected("0.2.8", &[("x:", &image)]).await;
        let opened = proxy.open_image("x:").await.unwrap();
        let mut polls = 0;
        let bytes = {
            let mut manifest = Box::pin(proxy.fetch_manifest_raw_oci(&opened));
            loop {
                let mut cx = Context::from_waker(Waker::noop());
                if let std::task::Poll::Ready(manifest) = manifest.as_mut().poll(&mut cx) {
                    break manifest.unwrap().1;
                }
                polls += 1;
                let other = within_bound(proxy.open_image("other:")).await;
                assert!(matches!(other.unwrap_err(), Error::Refused { .. }));
            }
        };
        assert!(polls > 1);
        assert!(bytes == image.manifest.bytes);
        drop((opened, proxy));
        assert_eq!(server.ended().await, Leftover::NOTHING);
    });
}

#[test]
fn a_document_dropped_at_any_await_is_finished_at_the_proxy() {
    run_single(async {
        let image = with_large_manifest();
        for polls in 0..10 {
            let (proxy, server) = MemoryProxy::connected("0.2.8", &[("x:", &image)]).await;
            let opened = proxy.open_image("x:").await.unwrap();
            let mut manifest = Box::pin(proxy.fetch_manifest_raw_oci(&opened));
            for _ in 0..polls {
                let mut cx = Context::from_waker(Waker::noop());
                if manifest.as_mut().poll(&mut cx).is_ready() {
                    break;
                }
                within_bound(proxy.open_image("other:")).await.unwrap_err();
            }
            drop(manifest);
            within_bound(proxy.open_image("other:")).await.unwrap_err();
            within_bound(proxy.close_image(opened)).await.unwrap();
            drop(proxy);
            assert_eq!(server.ended().await, Leftover::NOTHING, "{polls} polls");
        }
    });
}

#[test]
fn a_refused_finish_is_an_error_also_if_all_bytes_came() {
    run(async {
        let mut fixture = OpenImageFixture::new(Framing::Raw).await;
        let (config, ()) = tokio::join!(
            within_bound(fixture.proxy.fetch_config_raw(&fixture.image)),
            async {
                fixture.peer.expect("GetFullConfig", json!([1])).await;
                let PipeEnd { id, mut data } = fixture.peer.grant_pipe(Value::Null).await;
                data.write_all(b"{}").await.unwrap();
                drop(data);
                fixture.peer.expect("FinishPipe", json!([id])).await;
                fixture.peer.refuse("it broke").await;
            }
        );
        let error = config.unwrap_err();
        assert!(
            matches!(&error, Error::Refused { method: "FinishPipe", refusal, .. } if refusal.message == "it broke"),
            "{error:?}"
        );
        fixture.end().await;
    });
}

#[test]
fn a_proxy_that_ends_during_a_document_is_reported() {
    run(async {
        let OpenImageFixture {
            image,
            proxy,
            mut peer,
            ..
        } = OpenImageFixture::new(Framing::Raw).await;
        let (manifest, ()) =
            tokio::join!(within_bound(proxy.fetch_manifest_raw_oci(&image)), async {
                peer.call("GetManifest").await;
                let PipeEnd { id, mut data } = peer.grant_pipe(json!("other:x")).await;
                data.write_all(b"{").await.unwrap();
                peer.expect("FinishPipe", json!([id])).await;
                drop((data, peer));
            });
        let error = manifest.unwrap_err();
        assert!(matches!(error, Error::Disconnected), "{error:?}");
    });
}

#[test]
fn a_document_of_the_wrong_form_is_named() {
    run(async {
        let mut fixture = OpenImageFixture::new(Framing::Raw).await;
        let OpenImageFixture {
            image, proxy, peer, ..
        } = &mut fixture;
        let (manifest, ()) = tokio::join!(within_bound(proxy.fetch_manifest(image)), async {
            peer.call("GetManifest").await;
            peer.document(json!("other:x"), b"[1]").await;
        });
        assert!(matches!(
            manifest,
            Err(Error::Decode {
                what: "manifest",
                ..
            })
        ));
        let (config, ()) = tokio::join!(within_bound(proxy.fetch_config(image)), async {
            peer.call("GetFullConfig").await;
            peer.document(Value::Null, b"[1]").await;
        });
        assert!(matches!(
            config,
            Err(Error::Decode {
                what: "image config",
                ..
            })
        ));
        let (layers, ()) = tokio::join!(within_bound(proxy.get_layer_info(image)), async {
            peer.call("GetLayerInfoPiped").await;
            peer.document(Value::Null, b"{}").await;
        });
        assert!(matches!(
            layers,
            Err(Error::Decode {
                what: "layer info",
                ..
            })
        ));
        fixture.end().await;
    });
}

#[test]
fn layer_info_uses_the_method_of_the_version() {
    run(async {
        let layer = json!([{ "digest": format!("sha256:{}", "a".repeat(64)), "size": -1, "media_type": "x/y" }]);
        for (version, method) in [
            ("0.2.4", None),
            ("0.2.6", Some("GetLayerInfo")),
            ("0.2.7", Some("GetLayerInfoPiped")),
        ] {
            let (mut peer, proxy) = Peer::connected(version).await;
            let (image, ()) = tokio::join!(proxy.open_image("x:"), peer.opens(1));
            let image = image.unwrap();
            let (layers, ()) = tokio::join!(within_bound(proxy.get_layer_info(&image)), async {
                match method {
                    None => {}
                    Some("GetLayerInfo") => {
                        peer.expect("GetLayerInfo", json!([1])).await;
                        peer.reply(layer.clone()).await;
                    }
                    Some(method) => {
                        peer.expect(method, json!([1])).await;
                        peer.document(Value::Null, layer.to_string().as_bytes())
                            .await;
                    }
                }
            });
            let layers = layers.unwrap();
            assert_eq!(layers.is_some(), method.is_some(), "{version}");
            assert!(layers.is_none_or(|layers| layers[0].size.is_none()));
            peer.end_with(proxy, vec![image]).await;
        }
    });
}

#[test]
fn a_document_over_the_bound_fails_and_leaves_nothing_open() {
    const LIMIT: u64 = 1000;
    run(async {
        for (method, what) in [
            ("GetManifest", "manifest"),
            ("GetFullConfig", "image config"),
            ("GetConfig", "image config"),
            ("GetLayerInfoPiped", "layer info"),
        ] {
            // The whole document is in the pipe at once, or is larger than a pipe.
            for (bytes, fits) in [(1000, true), (1001, false), (MANIFEST, false)] {
                let options = ConnectionOptions::default().max_document_bytes(LIMIT);
                let (mut peer, proxy) = Peer::connected_with("0.2.8", options).await;
                let (image, ()) = tokio::join!(proxy.open_image("x:"), peer.opens(1));
                let image = image.unwrap();
                let ask = async {
                    match method {
                        "GetManifest" => proxy.fetch_manifest_raw_oci(&image).await.map(drop),
                        "GetFullConfig" => proxy.fetch_config_raw(&image).await.map(drop),
                        "GetConfig" => proxy.fetch_runtime_config_raw(&image).await.map(drop),
                        _ => proxy.get_layer_info(&image).await.map(drop),
                    }
                };
                let (document, ()) = tokio::join!(within_bound(ask), async {
                    peer.call(method).await;
                    let PipeEnd { id, mut data } = peer.grant_pipe(json!("other:x")).await;
                    // As skopeo does: the writer ends, then the pipe is finished.
                    let written = within_bound(data.write_all(&vec![b' '; bytes])).await;
                    assert!(written.is_ok() || !fits, "{written:?}");
                    drop(data);
                    peer.expect("FinishPipe", json!([id])).await;
                    match written {
                        Ok(()) => peer.reply(Value::Null).await,
                        Err(error) => peer.refuse(&error.to_string()).await,
                    }
                });
                match document {
                    // Spaces are not valid layer info.
                    Ok(()) | Err(Error::Decode { .. }) => assert!(fits, "{method}"),
                    Err(Error::DocumentTooLarge {
                        what: found, limit, ..
                    }) => {
                        assert!(!fits, "{method}");
                        assert_eq!((found, limit), (what, LIMIT), "{method}");
                    }
                    Err(other) => panic!("{method}: {other:?}"),
                }
                peer.check_idle(&proxy).await;
                peer.end_with(proxy, vec![image]).await;
            }
        }
    });
}
