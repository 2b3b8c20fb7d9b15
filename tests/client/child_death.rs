//! A proxy that dies: all pending calls, all later ones and all blobs in flight report the same reason. And a
//! proxy dies with this process.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use longshore::{BlobError, ChildExit, ConnectionOptions, Error, ImageProxy, ImageProxyConfig};
use test_support::fixture::{blob_error, read_all};
use test_support::image::TestImage;
use test_support::leaks::run;
use test_support::process::{
    as_another_test, children, is_alive, kill_now, only_child, silent_registry, wait_until_gone,
};
use test_support::tools::{self, HELLO, SKOPEOS, scripted, wrapped};
use test_support::{eventually, within_bound};
use tokio::io::AsyncReadExt;

/// Starts skopeo as a child, instead of becoming it by `exec`.
const WRAPPER: &str = r#""$skopeo" "$@"; exit $?"#;

#[track_caller]
fn exit(error: Error) -> std::sync::Arc<ChildExit> {
    assert!(error.is_closed() && error.is_retryable(), "{error:?}");
    match error {
        Error::ProxyExited(exit) => exit,
        Error::Blob {
            source: BlobError::Connection(source),
            ..
        } => exit_of(*source),
        other => panic!("not about the process: {other:?}"),
    }
}

#[track_caller]
fn exit_of(error: Error) -> std::sync::Arc<ChildExit> {
    match error {
        Error::ProxyExited(exit) => exit,
        other => panic!("not about the process: {other:?}"),
    }
}

#[track_caller]
fn assert_killed(error: Error) {
    let exit = exit(error);
    assert_eq!(exit.status().unwrap().signal(), Some(9), "{exit}");
    assert!(!exit.success());
}

#[test]
#[ignore = "needs skopeo"]
fn all_calls_report_that_the_proxy_was_killed() {
    run(async {
        for protocol in SKOPEOS {
            let (_silent, reference) = silent_registry();
            let config = tools::config(protocol);
            let proxy = ImageProxy::new_with_config(config).await.unwrap();
            let calls: Vec<_> = (0..3)
                .map(|_| {
                    let (proxy, reference) = (proxy.clone(), reference.clone());
                    tokio::spawn(async move { proxy.open_image(&reference).await.unwrap_err() })
                })
                .collect();
            tokio::task::yield_now().await;
            kill_now(only_child());
            for call in calls {
                assert_killed(within_bound(call).await.unwrap());
            }
            assert_killed(
                within_bound(proxy.open_image(&reference))
                    .await
                    .unwrap_err(),
            );
            assert_killed(within_bound(proxy.finalize()).await.unwrap_err());
        }
    });
}

#[test]
#[ignore = "needs skopeo"]
fn a_running_transfer_reports_that_the_proxy_was_killed() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        // More bytes than a pipe and skopeo's own buffers hold.
        let test = TestImage::with_layers(&[4 << 20]);
        test.write_layout(folder.path(), "it");
        let reference = format!("oci:{}:it", folder.path().display());
        let layer = &test.layers[0];
        for protocol in SKOPEOS {
            for split in [false, true] {
                let config = tools::config(protocol);
                let proxy = ImageProxy::new_with_config(config).await.unwrap();
                let image = within_bound(proxy.open_image(&reference)).await.unwrap();
                let blob = within_bound(proxy.get_blob(&image, &layer.digest, layer.size())).await;
                let mut blob = blob.unwrap();
                blob.read_exact(&mut [0; 1000]).await.unwrap();
                kill_now(only_child());
                if split {
                    let (mut reader, driver) = blob.split();
                    assert_killed(read_all(&mut reader).await.unwrap_err());
                    assert_killed(within_bound(driver).await.unwrap_err());
                } else {
                    assert_killed(read_all(&mut blob).await.unwrap_err());
                    assert_killed(within_bound(blob.finish()).await.unwrap_err());
                }
                assert_killed(
                    within_bound(proxy.fetch_manifest(&image))
                        .await
                        .unwrap_err(),
                );
                assert_killed(within_bound(proxy.close_image(image)).await.unwrap_err());
            }
        }
    });
}

#[test]
#[ignore = "needs skopeo"]
fn a_raw_blob_without_a_size_reports_that_the_proxy_was_killed() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let test = TestImage::with_layers(&[4 << 20]);
        test.write_layout(folder.path(), "it");
        let reference = format!("oci:{}:it", folder.path().display());
        let proxy = ImageProxy::new_with_config(tools::config("0.2.8"))
            .await
            .unwrap();
        let image = within_bound(proxy.open_image(&reference)).await.unwrap();
        let blob = within_bound(proxy.get_raw_blob(&image, &test.layers[0].digest)).await;
        kill_now(only_child());
        assert_killed(wrong_or_closed(
            read_all(&mut blob.unwrap()).await.unwrap_err(),
        ));
    });
}

/// The error inside the error of the blob.
fn wrong_or_closed(error: Error) -> Error {
    match blob_error(error) {
        BlobError::Connection(source) => *source,
        other => panic!("{other:?}"),
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_error_contains_the_end_of_stderr() {
    run(async {
        let config = wrapped(r#"echo first >&2; echo last words >&2; exec "$skopeo" "$@""#);
        let proxy = ImageProxy::new_with_config(config).await.unwrap();
        kill_now(only_child());
        let error = within_bound(proxy.open_image("oci:nowhere"))
            .await
            .unwrap_err();
        let shown = error.to_string();
        let exit = exit(error);
        assert_eq!(exit.stderr(), "first\nlast words\n");
        assert!(
            shown.contains("last words") && !shown.contains("first"),
            "{shown}"
        );
    });
}

/// The exit of a program that is no proxy. Another start would end in the same way.
#[track_caller]
fn early_exit(error: Error) -> std::sync::Arc<ChildExit> {
    assert!(!error.is_retryable() && error.is_closed(), "{error:?}");
    match error {
        Error::ProxyExited(exit) if exit.is_no_proxy() => exit,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_child_that_exits_at_start_is_reported_with_its_stderr() {
    run(async {
        for status in [0, 3] {
            let script = format!("echo no such option >&2; exit {status}");
            let error = ImageProxy::new_with_config(scripted(&script))
                .await
                .unwrap_err();
            let exit = early_exit(error);
            assert_eq!(exit.status().unwrap().code(), Some(status));
            assert_eq!(exit.stderr(), "no such option\n");
        }
    });
}

#[test]
#[ignore = "needs skopeo"]
fn a_skopeo_that_refuses_its_options_is_reported_with_its_stderr() {
    run(async {
        for protocol in SKOPEOS {
            let config = tools::config(protocol).decryption_keys(vec!["key".to_owned()]);
            let exit = early_exit(ImageProxy::new_with_config(config).await.unwrap_err());
            assert!(exit.stderr().contains("decryption-key"), "{exit}");
            assert!(!exit.success());
        }
    });
}

#[test]
fn a_missing_program_is_named() {
    run(async {
        let config = ImageProxyConfig::default().skopeo_path("/nowhere/skopeo");
        let error = ImageProxy::new_with_config(config).await.unwrap_err();
        assert!(
            matches!(&error, Error::Spawn { program, .. } if program == "/nowhere/skopeo"),
            "{error:?}"
        );
    });
}

#[test]
#[ignore = "needs skopeo"]
fn a_child_that_writes_megabytes_to_stderr_is_not_blocked() {
    run(async {
        // The text comes before the first answer, and in one long line.
        let script =
            r#"head -c 4000000 /dev/zero | tr '\0' x >&2; echo end >&2; exec "$skopeo" "$@""#;
        let proxy = within_bound(ImageProxy::new_with_config(wrapped(script)))
            .await
            .unwrap();
        kill_now(only_child());
        let exit = exit(
            within_bound(proxy.open_image("oci:nowhere"))
                .await
                .unwrap_err(),
        );
        assert!(exit.stderr().ends_with("xxxend\n"));
        assert_eq!(exit.stderr().len(), 64 * 1024);
    });
}

#[test]
#[ignore = "needs skopeo"]
fn a_child_that_never_stops_writing_to_stderr_can_be_ended() {
    run(async {
        let options = ConnectionOptions::default().shutdown_timeout(Duration::from_millis(100));
        // There are several, so that there is always something to read.
        let noise = "for i in 1 2 3 4 5 6 7 8; do (trap '' TERM; exec cat /dev/zero >&2) & done;";
        let config = wrapped(&format!(r#"{noise} exec "$skopeo" "$@""#)).connection(options);
        let proxy = within_bound(ImageProxy::new_with_config(config))
            .await
            .unwrap();
        within_bound(proxy.finalize()).await.unwrap();
    });
}

#[test]
#[ignore = "needs skopeo"]
fn the_skopeo_of_a_killed_wrapper_ends() {
    run(async {
        let proxy = ImageProxy::new_with_config(wrapped(WRAPPER)).await.unwrap();
        let wrapper = only_child();
        let skopeo = children(wrapper);
        assert_eq!(skopeo.len(), 1);
        kill_now(wrapper);
        wait_until_gone(skopeo[0]).await;
        assert_killed(
            within_bound(proxy.open_image("oci:nowhere"))
                .await
                .unwrap_err(),
        );
    });
}

#[test]
#[ignore = "needs skopeo"]
fn background_processes_of_a_wrapper_are_killed() {
    run(async {
        for finalize in [false, true] {
            let config = wrapped(r#"sleep 1000 & exec "$skopeo" "$@""#);
            let proxy = ImageProxy::new_with_config(config).await.unwrap();
            let skopeo = only_child();
            let left = children(skopeo);
            assert_eq!(left.len(), 1);
            if finalize {
                within_bound(proxy.finalize()).await.unwrap();
            } else {
                kill_now(skopeo);
            }
            wait_until_gone(left[0]).await;
        }
    });
}

#[test]
#[ignore = "needs skopeo"]
fn a_wrapper_is_finalized_in_order() {
    run(async {
        let proxy = ImageProxy::new_with_config(wrapped(WRAPPER)).await.unwrap();
        let skopeo = children(only_child())[0];
        within_bound(proxy.finalize()).await.unwrap();
        assert!(!is_alive(skopeo));
    });
}

#[test]
fn finalize_reports_a_proxy_that_was_killed() {
    run(async {
        let script = format!("{HELLO} exec sleep 1000");
        let proxy = ImageProxy::new_with_config(scripted(&script))
            .await
            .unwrap();
        let finalizing = tokio::spawn(proxy.clone().finalize());
        // This starts when `finalize` has begun.
        eventually(|| {
            let asked = futures_util::FutureExt::now_or_never(proxy.open_image("x:"));
            matches!(asked, Some(Err(Error::Closed)))
        })
        .await;
        kill_now(only_child());
        assert_killed(within_bound(finalizing).await.unwrap().unwrap_err());
    });
}

#[test]
fn finalize_and_a_pending_call_report_a_proxy_that_was_killed() {
    run(async {
        let script = format!("{HELLO} exec sleep 1000");
        let proxy = ImageProxy::new_with_config(scripted(&script))
            .await
            .unwrap();
        let asking = proxy.clone();
        let mut asking = Box::pin(async move { asking.open_image("x:").await });
        // After one poll, the request is in the inbox, before that of `finalize`.
        assert!(futures_util::FutureExt::now_or_never(asking.as_mut()).is_none());
        let finalizing = tokio::spawn(proxy.clone().finalize());
        eventually(|| {
            let asked = futures_util::FutureExt::now_or_never(proxy.open_image("y:"));
            matches!(asked, Some(Err(Error::Closed)))
        })
        .await;
        kill_now(only_child());
        assert_killed(within_bound(finalizing).await.unwrap().unwrap_err());
        assert_killed(within_bound(asking).await.unwrap_err());
    });
}

/// A process that starts a proxy and is then killed. It is this test binary, which runs
/// [`helper_that_is_killed`] alone.
async fn killed_with_its_starter(wrapped: bool) {
    let mut helper = as_another_test(module_path!(), "helper_that_is_killed")
        .env("LONGSHORE_TEST_WRAPPED", if wrapped { "yes" } else { "no" })
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(helper.stdout.take().unwrap()).lines();
    let ready = lines.find_map(|line| Some(line.ok()?.split_once("READY ")?.1.to_owned()));
    let child: u32 = ready.unwrap().trim().parse().unwrap();
    let mut all = vec![child];
    all.extend(children(child));
    assert_eq!(all.len(), if wrapped { 2 } else { 1 });
    assert!(all.iter().all(|pid| is_alive(*pid)));
    helper.kill().unwrap();
    helper.wait().unwrap();
    eventually(|| all.iter().all(|pid| !is_alive(*pid))).await;
}

#[test]
#[ignore = "needs skopeo"]
fn the_proxy_dies_with_the_process_that_started_it() {
    run(async {
        killed_with_its_starter(false).await;
        killed_with_its_starter(true).await;
    });
}

#[test]
#[ignore = "it is started, and killed, by another test"]
fn helper_that_is_killed() {
    let by_wrapper = std::env::var("LONGSHORE_TEST_WRAPPED").unwrap() == "yes";
    let config = if by_wrapper {
        wrapped(WRAPPER)
    } else {
        // The proxy does not notice that its socket is closed, and does not exit.
        scripted(&format!("{HELLO} trap '' TERM; exec sleep 1000"))
    };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let _proxy = ImageProxy::new_with_config(config).await.unwrap();
        println!("READY {}", only_child());
        std::future::pending::<()>().await;
    });
}

/// Our stderr is a full pipe. What the proxy writes there does not fit, and must not block the thread that
/// reaps the proxy.
#[test]
fn an_unread_stderr_of_this_process_blocks_no_proxy() {
    run(async {
        let mut helper = as_another_test(module_path!(), "helper_whose_stderr_nobody_reads")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = helper.stdout.take().unwrap();
        let reading = tokio::task::spawn_blocking(move || {
            let lines = BufReader::new(stdout).lines();
            lines
                .map_while(Result::ok)
                .any(|line| line.contains("READY"))
        });
        assert!(within_bound(reading).await.unwrap());
        helper.kill().unwrap();
        helper.wait().unwrap();
    });
}

#[test]
#[ignore = "it is started, and killed, by another test"]
fn helper_whose_stderr_nobody_reads() {
    let noise = "head -c 1000000 /dev/zero | tr '\\0' x >&2;";
    let config = scripted(&format!("{noise} {HELLO} exec sleep 1000")).debug(true);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let proxy = within_bound(ImageProxy::new_with_config(config))
            .await
            .unwrap();
        let child = only_child();
        drop(proxy);
        wait_until_gone(child).await;
        println!("READY");
    });
}
