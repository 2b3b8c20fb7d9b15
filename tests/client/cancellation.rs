//! Every future may be dropped at every await. Each method is polled a number of times, with different
//! amounts of time in between, and dropped. Afterwards the connection works, and nothing is left open on
//! either side.

use std::task::{Context, Poll, Waker};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use longshore::{ConnectionOptions, ImageProxy, OpenedImage};
use test_support::image::TestImage;
use test_support::leaks::{run, run_single};
use test_support::memory_proxy::{Leftover, MemoryProxy};
use test_support::{eventually, within_bound};
use tokio::io::AsyncReadExt;

type Method = for<'a> fn(&'a ImageProxy, &'a OpenedImage, &'a TestImage) -> BoxFuture<'a, ()>;

/// The methods that return no blob, and the first protocol version to try each with.
const METHODS: [(&str, Method); 10] = [
    ("open_image", |proxy, _, _| {
        async { drop(proxy.open_image("x:").await.unwrap()) }.boxed()
    }),
    ("open_image_optional", |proxy, _, _| {
        async { drop(proxy.open_image_optional("x:").await) }.boxed()
    }),
    ("open_image refused", |proxy, _, _| {
        async { drop(proxy.open_image("other:").await.unwrap_err()) }.boxed()
    }),
    ("close_image", |proxy, _, _| {
        async {
            let image = proxy.open_image("x:").await.unwrap();
            proxy.close_image(image).await.unwrap();
        }
        .boxed()
    }),
    ("fetch_manifest", |proxy, image, _| {
        async { drop(proxy.fetch_manifest(image).await.unwrap()) }.boxed()
    }),
    ("fetch_config", |proxy, image, _| {
        async { drop(proxy.fetch_config(image).await.unwrap()) }.boxed()
    }),
    ("fetch_config_raw", |proxy, image, _| {
        async { drop(proxy.fetch_config_raw(image).await.unwrap()) }.boxed()
    }),
    ("fetch_runtime_config_raw", |proxy, image, _| {
        async { drop(proxy.fetch_runtime_config_raw(image).await.unwrap()) }.boxed()
    }),
    ("get_layer_info", |proxy, image, _| {
        async { drop(proxy.get_layer_info(image).await.unwrap()) }.boxed()
    }),
    ("open_varlink_socket", |proxy, image, _| {
        async { drop(proxy.open_varlink_socket(image).await) }.boxed()
    }),
];

/// The methods with a blob that is read to the end: its pipe is finished, or the blob is dropped before
/// the end.
const BLOB_METHODS: [(&str, Method); 6] = [
    ("get_blob", |proxy, image, test| {
        async {
            let layer = &test.layers[0];
            let blob = proxy.get_blob(image, &layer.digest, layer.size()).await;
            drop(blob.unwrap());
        }
        .boxed()
    }),
    ("get_descriptor", |proxy, image, test| {
        async {
            let descriptor = serde_json::from_value(test.layers[0].descriptor()).unwrap();
            drop(proxy.get_descriptor(image, &descriptor).await.unwrap());
        }
        .boxed()
    }),
    ("get_raw_blob", |proxy, image, test| {
        async { drop(proxy.get_raw_blob(image, &test.layers[0].digest).await) }.boxed()
    }),
    ("Blob::finish", |proxy, image, test| {
        async {
            let layer = &test.layers[0];
            let blob = proxy.get_blob(image, &layer.digest, layer.size()).await;
            blob.unwrap().finish().await.unwrap();
        }
        .boxed()
    }),
    ("read, then Blob::finish", |proxy, image, test| {
        async {
            let layer = &test.layers[0];
            let blob = proxy.get_blob(image, &layer.digest, layer.size()).await;
            let mut blob = blob.unwrap();
            blob.read_to_end(&mut Vec::new()).await.unwrap();
            blob.finish().await.unwrap();
        }
        .boxed()
    }),
    ("Blob::split, joined", |proxy, image, test| {
        async {
            let layer = &test.layers[0];
            let blob = proxy.get_blob(image, &layer.digest, layer.size()).await;
            let (mut reader, driver) = blob.unwrap().split();
            let mut bytes = Vec::new();
            let (read, verdict) = tokio::join!(reader.read_to_end(&mut bytes), driver);
            read.unwrap();
            verdict.unwrap();
        }
        .boxed()
    }),
];

const VERSIONS: [&str; 4] = ["0.2.3", "0.2.6", "0.2.8", "0.2.9"];

/// How often other tasks run between two polls. The runtime checks its sockets and pipes every 61 times.
const PAUSES: [usize; 5] = [0, 1, 4, 20, 150];

/// Polls `future` this many times, with pauses. Returns whether it has completed.
async fn poll_times(mut future: BoxFuture<'_, ()>, polls: usize, pause: usize) -> bool {
    for _ in 0..polls {
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(()) = future.as_mut().poll(&mut cx) {
            return true;
        }
        for _ in 0..pause {
            tokio::task::yield_now().await;
        }
    }
    false
}

/// Runs a method up to each of its awaits. `judge` checks what is left.
async fn at_each_await(name: &str, method: Method, judge: impl Fn(&str, Leftover)) {
    // More bytes than fit into a pipe.
    let test = TestImage::with_layers(&[300_000]);
    for version in VERSIONS {
        for pause in PAUSES {
            for polls in 0..12 {
                let (proxy, server) = MemoryProxy::connected(version, &[("x:", &test)]).await;
                let image = proxy.open_image("x:").await.unwrap();
                let done = poll_times(method(&proxy, &image, &test), polls, pause).await;
                let label = format!("{name}, protocol {version}, {polls} polls, pause {pause}");
                let other = within_bound(proxy.open_image("other:")).await.unwrap_err();
                assert!(!other.is_closed(), "{label}: {other}");
                // Everything was released before. Without the handle, the proxy is ended at once.
                within_bound(proxy.close_image(image)).await.unwrap();
                drop(proxy);
                judge(&label, server.ended().await);
                if done {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_method_dropped_at_any_await_leaves_nothing_open() {
    run_single(async {
        for (name, method) in METHODS {
            at_each_await(name, method, |label, left| {
                assert_eq!(left, Leftover::NOTHING, "{label}");
            })
            .await;
        }
    });
}

#[test]
fn a_blob_dropped_at_any_await_leaves_at_most_its_own_pipe_unfinished() {
    run_single(async {
        for (name, method) in BLOB_METHODS {
            at_each_await(name, method, |label, left| {
                let Leftover {
                    images,
                    pipes,
                    unknown,
                } = left;
                assert_eq!(images, 0, "{label}");
                assert!(pipes <= 1, "{label}");
                assert!(unknown.is_empty(), "{label}: {unknown:?}");
            })
            .await;
        }
    });
}

#[test]
fn connect_dropped_at_any_await_ends_the_proxy() {
    run_single(async {
        for pause in PAUSES {
            for polls in 0..5 {
                let (socket, server) = MemoryProxy::spawn("0.2.8", &[]);
                let connect = async {
                    let proxy = ImageProxy::connect(socket, ConnectionOptions::default()).await;
                    drop(proxy.unwrap());
                };
                poll_times(connect.boxed(), polls, pause).await;
                assert_eq!(server.ended().await, Leftover::NOTHING);
            }
        }
    });
}

#[test]
fn finalize_dropped_at_any_await_ends_the_proxy() {
    run_single(async {
        for pause in PAUSES {
            for polls in 0..5 {
                let (proxy, server) = MemoryProxy::connected("0.2.8", &[]).await;
                let other = proxy.clone();
                let finalize = async { proxy.finalize().await.unwrap() };
                poll_times(finalize.boxed(), polls, pause).await;
                drop(other);
                assert_eq!(server.ended().await, Leftover::NOTHING);
            }
        }
    });
}

#[test]
fn tasks_aborted_at_random_leave_nothing_open() {
    run(async {
        let test = TestImage::with_layers(&[300_000]);
        for version in VERSIONS {
            let (proxy, server) = MemoryProxy::connected(version, &[("x:", &test)]).await;
            let tasks = (0..400).map(|number: usize| {
                let (proxy, test) = (proxy.clone(), test.clone());
                let task = tokio::spawn(async move {
                    let image = proxy.open_image("x:").await.unwrap();
                    let (_, method) = METHODS[number % METHODS.len()];
                    method(&proxy, &image, &test).await;
                });
                async move {
                    for _ in 0..(number * 7) % 300 {
                        tokio::task::yield_now().await;
                    }
                    task.abort();
                    if let Err(error) = task.await {
                        assert!(error.is_cancelled(), "{error}");
                    }
                }
            });
            within_bound(join_all(tasks)).await;
            within_bound(proxy.open_image("other:")).await.unwrap_err();
            // Tasks of the library itself still drain documents.
            eventually(|| server.unfinished() == 0).await;
            drop(proxy);
            assert_eq!(server.ended().await, Leftover::NOTHING, "{version}");
        }
    });
}
