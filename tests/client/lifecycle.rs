//! The life of a proxy: how it starts, how it ends, and that nothing of it stays. Each test of this crate
//! must leave no process and no thread (`test_support::leaks`).

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use longshore::{ConnectionOptions, Error, ImageProxy, ImageProxyConfig};
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde_json::json;
use test_support::fixture::{OpenImageFixture, read_all};
use test_support::leaks::{run, run_without};
use test_support::peer::{Flow, Framing, Peer};
use test_support::process::{only_child, silent_registry, wait_until_gone};
use test_support::tools::{self, HELLO, SKOPEOS, scripted};
use test_support::{sha256, within_bound};

fn short_shutdown_timeout() -> ConnectionOptions {
    ConnectionOptions::default().shutdown_timeout(Duration::from_millis(100))
}

#[test]
#[ignore = "needs skopeo"]
fn finalize_ends_a_real_proxy_in_order() {
    run(async {
        for protocol in SKOPEOS {
            let proxy = ImageProxy::new_with_config(tools::config(protocol))
                .await
                .unwrap();
            assert_eq!(proxy.protocol_version().to_string(), protocol);
            let pid = only_child();
            let other = proxy.clone();
            within_bound(proxy.finalize()).await.unwrap();
            assert!(!test_support::process::is_alive(pid));
            let closed = other.open_image("oci:nowhere").await.unwrap_err();
            assert!(matches!(closed, Error::Closed), "{closed:?}");
            let closed = within_bound(other.finalize()).await.unwrap_err();
            assert!(matches!(closed, Error::Closed), "{closed:?}");
        }
    });
}

#[test]
fn calls_before_finalize_are_answered() {
    run(async {
        let (mut peer, proxy) = Peer::connected("0.2.8").await;
        let other = proxy.clone();
        let asking = tokio::spawn(async move { other.open_image("x:").await });
        peer.expect("OpenImage", json!(["x:"])).await;
        let finalizing = tokio::spawn(proxy.finalize());
        peer.reply(json!(1)).await;
        let image = within_bound(asking).await.unwrap().unwrap();
        peer.expect("Shutdown", json!([])).await;
        drop(peer);
        within_bound(finalizing).await.unwrap().unwrap();
        drop(image);
    });
}

#[test]
fn blobs_open_at_finalize_may_be_read_to_their_end() {
    run(async {
        for framing in Framing::BOTH {
            let mut fixture = OpenImageFixture::new(framing).await;
            let (blob, mut flow) = fixture.get(&sha256(b"content"), 7, 7).await;
            let mut blob = blob.unwrap();
            let OpenImageFixture {
                image,
                proxy,
                mut peer,
                ..
            } = fixture;
            let other = proxy.clone();
            let finalizing = tokio::spawn(proxy.finalize());
            // A request with this reference does not fit into a packet. So it is never sent, even if it comes before
            // `finalize`.
            let too_long = "x".repeat(40_000);
            test_support::eventually(|| {
                // This becomes true when `finalize` has reached the actor.
                let asked = futures_util::FutureExt::now_or_never(other.open_image(&too_long));
                matches!(asked, Some(Err(Error::Closed)))
            })
            .await;
            flow.write(b"content").await;
            let (read, ()) = tokio::join!(
                async {
                    let read = read_all(&mut blob).await.unwrap();
                    within_bound(blob.finish()).await.unwrap();
                    read
                },
                flow.end(&mut peer, None)
            );
            assert_eq!(read, b"content");
            peer.expect("Shutdown", json!([])).await;
            peer.lenient();
            drop(peer);
            within_bound(finalizing).await.unwrap().unwrap();
            drop(image);
        }
    });
}

#[test]
fn finalize_waits_for_open_blobs_for_at_most_the_shutdown_timeout() {
    run(async {
        let mut fixture = OpenImageFixture::with(Framing::Piped, short_shutdown_timeout()).await;
        let (blob, flow): (_, Flow) = fixture.get(&sha256(b"content"), 7, 7).await;
        let OpenImageFixture {
            image,
            proxy,
            mut peer,
            ..
        } = fixture;
        let finalizing = tokio::spawn(proxy.finalize());
        peer.expect("Shutdown", json!([])).await;
        drop((peer, flow));
        within_bound(finalizing).await.unwrap().unwrap();
        drop((image, blob));
    });
}

#[test]
fn finalize_reports_a_proxy_that_has_ended() {
    run(async {
        let (peer, proxy) = Peer::connected("0.2.8").await;
        drop(peer);
        let error = within_bound(proxy.finalize()).await.unwrap_err();
        assert!(matches!(error, Error::Disconnected), "{error:?}");
    });
}

#[test]
fn a_child_that_ignores_shutdown_is_terminated_and_then_killed() {
    let table = [("", Signal::SIGTERM), ("trap '' TERM;", Signal::SIGKILL)];
    for (trap, signal) in table {
        run(async move {
            let config = scripted(&format!("{HELLO} {trap} exec sleep 1000"))
                .connection(short_shutdown_timeout());
            let proxy = ImageProxy::new_with_config(config).await.unwrap();
            let error = within_bound(proxy.finalize()).await.unwrap_err();
            let Error::ProxyExited(exit) = error else {
                panic!("{error:?}");
            };
            assert_eq!(exit.status().unwrap().signal(), Some(signal as i32));
        });
    }
}

#[test]
fn a_child_that_hangs_is_ended_when_its_last_handle_is_dropped() {
    run(async {
        let config =
            scripted(&format!("{HELLO} exec sleep 1000")).connection(short_shutdown_timeout());
        drop(ImageProxy::new_with_config(config).await.unwrap());
    });
}

#[test]
fn a_dropped_stalled_call_keeps_no_proxy_alive() {
    run(async {
        let config =
            scripted(&format!("{HELLO} exec sleep 1000")).connection(short_shutdown_timeout());
        let proxy = ImageProxy::new_with_config(config).await.unwrap();
        let pid = only_child();
        let waited = Duration::from_millis(50);
        let open = tokio::time::timeout(waited, proxy.open_image("x:"));
        assert!(open.await.is_err(), "answered");
        drop(proxy);
        wait_until_gone(pid).await;
    });
}

#[test]
fn a_dropped_stalled_call_does_not_delay_finalize() {
    run(async {
        let config =
            scripted(&format!("{HELLO} exec sleep 1000")).connection(short_shutdown_timeout());
        let proxy = ImageProxy::new_with_config(config).await.unwrap();
        let waited = Duration::from_millis(50);
        let open = tokio::time::timeout(waited, proxy.open_image("x:"));
        assert!(open.await.is_err(), "answered");
        let error = within_bound(proxy.finalize()).await.unwrap_err();
        assert!(matches!(error, Error::ProxyExited(_)), "{error:?}");
    });
}

#[test]
#[ignore = "needs skopeo"]
fn a_call_timeout_ends_the_connection() {
    run(async {
        let (_silent, reference) = silent_registry();
        let timeout = Duration::from_secs(3);
        let config =
            tools::config("0.2.8").connection(short_shutdown_timeout().call_timeout(timeout));
        let proxy = ImageProxy::new_with_config(config).await.unwrap();
        let pid = only_child();
        let behind = {
            let proxy = proxy.clone();
            let reference = reference.clone();
            tokio::spawn(async move { proxy.open_image(&reference).await.unwrap_err() })
        };
        let error = within_bound(proxy.open_image(&reference))
            .await
            .unwrap_err();
        for error in [error, within_bound(behind).await.unwrap()] {
            assert!(
                matches!(error, Error::CallTimeout { method: "OpenImage", after, .. } if after == timeout),
                "{error:?}"
            );
        }
        wait_until_gone(pid).await;
    });
}

#[test]
#[ignore = "needs skopeo"]
fn dropping_the_runtime_during_a_stalled_call_ends_the_proxy() {
    run_without(|| {
        let (_silent, reference) = silent_registry();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let proxy = runtime.block_on(async {
            let config = tools::config("0.2.8").connection(short_shutdown_timeout());
            let proxy = ImageProxy::new_with_config(config).await.unwrap();
            let asking = proxy.clone();
            tokio::spawn(async move { asking.open_image(&reference).await });
            tokio::task::yield_now().await;
            proxy
        });
        drop(runtime);
        let later = tokio::runtime::Runtime::new().unwrap();
        let error = later
            .block_on(within_bound(proxy.open_image("x:")))
            .unwrap_err();
        assert!(matches!(error, Error::Closed), "{error:?}");
    });
}

#[test]
#[ignore = "needs skopeo"]
fn the_proxy_outlives_the_thread_that_started_it() {
    run(async {
        let runtime = tokio::runtime::Handle::current();
        let start = move || {
            let start = ImageProxy::new_with_config(tools::config("0.2.8"));
            runtime.block_on(start).unwrap()
        };
        let proxy = tokio::task::spawn_blocking(|| std::thread::spawn(start).join().unwrap())
            .await
            .unwrap();
        let refused = within_bound(proxy.open_image("oci:nowhere"))
            .await
            .unwrap_err();
        assert!(matches!(refused, Error::Refused { .. }), "{refused:?}");
        within_bound(proxy.finalize()).await.unwrap();
    });
}

#[test]
#[ignore = "needs skopeo"]
fn a_start_dropped_at_any_await_leaves_nothing() {
    run(async {
        for polls in 0..30 {
            let config = tools::config("0.2.8").connection(short_shutdown_timeout());
            let mut start = Box::pin(ImageProxy::new_with_config(config));
            for _ in 0..polls {
                let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
                if start.as_mut().poll(&mut cx).is_ready() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    });
}

#[test]
fn incompatible_versions_are_refused_and_shut_down() {
    run(async {
        for version in ["0.2.2", "0.3.0", "1.0.0"] {
            let (mut peer, socket) = Peer::pair();
            let (proxy, ()) = tokio::join!(
                within_bound(ImageProxy::connect(socket, ConnectionOptions::default())),
                async {
                    peer.expect("Initialize", json!([])).await;
                    peer.reply(json!(version)).await;
                    peer.expect("Shutdown", json!([])).await;
                }
            );
            let error = proxy.unwrap_err();
            assert!(
                matches!(&error, Error::Incompatible { found, .. } if found.to_string() == version),
                "{error:?}"
            );
        }
    });
}

#[test]
fn calls_that_the_version_lacks_are_not_sent() {
    run(async {
        let (mut peer, proxy) = Peer::connected("0.2.3").await;
        let (image, ()) = tokio::join!(proxy.open_image("x:"), peer.opens(1));
        let image = image.unwrap();
        let unsupported = [
            proxy.open_image_optional("x:").await.unwrap_err(),
            proxy.get_raw_blob(&image, &sha256(b"")).await.unwrap_err(),
            proxy.open_varlink_socket(&image).await.unwrap_err(),
        ];
        let methods = ["OpenImageOptional", "GetRawBlob", "OpenVarlinkSocket"];
        let required = ["0.2.4", "0.2.8", "0.2.9"];
        for (index, error) in unsupported.into_iter().enumerate() {
            let Error::Unsupported {
                method,
                required: since,
                found,
                ..
            } = error
            else {
                panic!("{error:?}");
            };
            assert_eq!(
                (method, &*since.to_string()),
                (methods[index], required[index])
            );
            assert_eq!(found.to_string(), "0.2.3");
        }
        assert_eq!(proxy.get_layer_info(&image).await.unwrap(), None);
        peer.check_idle(&proxy).await;
        peer.end_with(proxy, vec![image]).await;
    });
}

#[test]
fn a_socket_of_the_wrong_type_is_refused() {
    run(async {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let error = ImageProxy::connect(ours.into(), ConnectionOptions::default()).await;
        assert!(matches!(error, Err(Error::Io { .. })), "{error:?}");
        let null = std::fs::File::open("/dev/null").unwrap();
        let error = ImageProxy::connect(null.into(), ConnectionOptions::default()).await;
        assert!(matches!(error, Err(Error::Io { .. })), "{error:?}");
    });
}

#[test]
fn close_image_returns_the_error_of_the_proxy() {
    run(async {
        let OpenImageFixture {
            image,
            proxy,
            mut peer,
            ..
        } = OpenImageFixture::new(Framing::Raw).await;
        let (closed, ()) = tokio::join!(within_bound(proxy.close_image(image)), async {
            peer.expect("CloseImage", json!([1])).await;
            peer.refuse("it sticks").await;
        });
        assert!(
            matches!(
                closed,
                Err(Error::Refused {
                    method: "CloseImage",
                    ..
                })
            ),
            "{closed:?}"
        );
        peer.end(proxy).await;
    });
}

/// A second write end of each pipe of this process. A forked process that does not `exec` has such copies.
fn copies_of_all_pipes() -> Vec<File> {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let pipes = paths.filter(|path| {
        let target = std::fs::read_link(path).unwrap_or_default();
        target.to_string_lossy().starts_with("pipe:")
    });
    let copies = pipes.map(|path| File::options().write(true).open(path));
    copies.map(Result::unwrap).collect()
}

#[test]
fn a_hung_child_ends_although_a_fork_of_us_has_copies_of_our_pipes() {
    run(async {
        let config =
            scripted(&format!("{HELLO} exec sleep 1000")).connection(short_shutdown_timeout());
        let proxy = ImageProxy::new_with_config(config).await.unwrap();
        let child = only_child();
        let copies = copies_of_all_pipes();
        assert!(!copies.is_empty());
        drop(proxy);
        wait_until_gone(child).await;
        drop(copies);
    });
}

/// skopeo supports `user_agent_prefix` from 1.21 on. bootc sets it with every skopeo.
#[test]
#[ignore = "needs skopeo"]
fn an_old_skopeo_is_started_without_the_user_agent_prefix() {
    for protocol in SKOPEOS {
        run(async {
            let config = tools::config(protocol).user_agent_prefix("bootc/1.0");
            let proxy = within_bound(ImageProxy::new_with_config(config))
                .await
                .unwrap();
            within_bound(proxy.finalize()).await.unwrap();
        });
    }
}

/// Another thread waits for all children of this process, so it gets the status of the proxy, and the library
/// does not.
#[test]
#[ignore = "needs skopeo"]
fn a_proxy_that_somebody_else_reaps_has_not_failed() {
    for protocol in SKOPEOS {
        run(async {
            let config = tools::config(protocol);
            let proxy = within_bound(ImageProxy::new_with_config(config))
                .await
                .unwrap();
            let child = Pid::from_raw(only_child().cast_signed());
            let other = std::thread::spawn(move || waitpid(child, None));
            within_bound(proxy.finalize()).await.unwrap();
            // Either of the two may have been first.
            let _ = other.join().unwrap();
        });
    }
}

/// A `skopeo` that neither prints its version nor exits, and has started another program.
#[test]
fn the_version_query_has_a_time_limit() {
    run(async {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & sleep 1000", "sh"]);
        let config = ImageProxyConfig::default().skopeo_cmd(command);
        let error = within_bound(config.skopeo_version()).await.unwrap_err();
        assert!(matches!(error, Error::CallTimeout { .. }), "{error:?}");
    });
}
