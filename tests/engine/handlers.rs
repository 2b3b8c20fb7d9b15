//! `for_each_layer`: what a handler gets, what it may do, and whose error is reported.

use std::future::pending;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Served, blob_error, config, options, random, retries, short_stall_config};
use futures_util::FutureExt;
use longshore::{
    BlobError, Error, EventKind, Events, FetchOptions, Fetcher, Layer, LayerReader, Result,
};
use test_registry::format::Compression;
use test_registry::server::Options;
use test_support::leaks::run;
use test_support::tools::SKOPEOS;
use test_support::{sha256, within_bound};
use tokio::io::{AsyncBufReadExt, AsyncReadExt};
use tokio::sync::{Barrier, Notify, mpsc};
use tokio_util::io::SyncIoBridge;

/// Passes each layer of an image to this handler.
async fn for_each<T, F, Fut>(
    protocol: &str,
    options: FetchOptions,
    served: &Served,
    handler: F,
) -> Result<Vec<T>>
where
    T: Clone + Send + 'static,
    F: Fn(Layer, LayerReader) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<T>> + Send,
{
    within_bound(async {
        let fetcher = Fetcher::new(short_stall_config(protocol), options).await?;
        let image = fetcher.open(&served.reference()).await?;
        fetcher.for_each_layer(&image, handler).await
    })
    .await
}

async fn read_all(_: Layer, mut reader: LayerReader) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await?;
    Ok(bytes)
}

#[test]
#[ignore = "needs skopeo"]
fn results_come_in_the_order_of_the_layers() {
    for protocol in SKOPEOS {
        run(async {
            // The largest layer is fetched first, and is not the first one.
            let image = [10, 100_000, 5000, 0, 70_000]
                .into_iter()
                .zip(0..)
                .fold(random(0, 0, 0), |image, (size, seed)| {
                    image.layer_random(size, seed)
                });
            let served = Served::with(Options::default(), &image);
            let handler = |layer: Layer, reader| async move {
                let bytes = read_all(layer.clone(), reader).await?;
                Ok((layer.index, layer.diff_id, sha256(&bytes)))
            };
            let results = for_each(protocol, options(), &served, handler).await;
            for (index, (outcome, diff_id, digest)) in results.unwrap().into_iter().enumerate() {
                assert_eq!(outcome, index, "{protocol}");
                assert_eq!(&digest, served.digest(index), "{protocol}");
                assert!(diff_id.is_some(), "{protocol}");
            }
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn many_handlers_run_at_once() {
    run(async {
        // There are more handlers than one proxy has workers, on any machine. Answers are fast, so that one
        // proxy is enough to ask.
        let processors = std::thread::available_parallelism().unwrap().get();
        let many = 2 * processors + 6;
        let served = Served::new(many as u64, 50_000);
        let all = Arc::new(Barrier::new(many));
        let handler = move |layer, reader| {
            let all = Arc::clone(&all);
            async move {
                // No handler goes on before all of them are here.
                all.wait().await;
                read_all(layer, reader).await
            }
        };
        let mut options = options();
        options.start_ahead = false;
        options.workers = NonZeroUsize::new(many).unwrap();
        let results = for_each("0.2.8", options, &served, handler).await;
        assert_eq!(results.unwrap().len(), many);
    });
}

#[test]
#[ignore = "needs skopeo"]
fn slow_handlers_cause_no_superfluous_proxies() {
    run(async {
        let served = Served::new(10, 50_000);
        let (events, mut stream) = Events::channel();
        let mut options = options();
        options.start_ahead = false;
        options.workers = NonZeroUsize::new(2).unwrap();
        let fetcher = Fetcher::new(short_stall_config("0.2.8"), options)
            .await
            .unwrap();
        let fetcher = fetcher.with_events(events);
        let image = fetcher.open(&served.reference()).await.unwrap();
        // This is longer than all workers may be busy before another proxy is started.
        let slow = |layer, reader| async move {
            tokio::time::sleep(Duration::from_millis(700)).await;
            read_all(layer, reader).await
        };
        let results = within_bound(fetcher.for_each_layer(&image, slow)).await;
        assert_eq!(results.unwrap().len(), 10);
        let mut proxies = 0;
        while let Some(event) = stream.try_recv() {
            proxies += usize::from(matches!(event.kind, EventKind::ProxyStarted { .. }));
        }
        // There is one proxy, except on a machine so busy that answers are slow.
        assert!(proxies <= 3, "{proxies}");
    });
}

#[test]
#[ignore = "needs skopeo"]
fn an_error_of_a_handler_stops_the_others_and_is_reported() {
    for protocol in SKOPEOS {
        run(async {
            let served = Served::new(4, 100_000);
            let handler = |layer: Layer, mut reader: LayerReader| async move {
                if layer.index != 2 {
                    return pending().await;
                }
                reader.read_exact(&mut [0; 100]).await?;
                drop(reader);
                Err(io::Error::other("the disk is full"))
            };
            let error = for_each::<(), _, _>(protocol, options(), &served, handler).await;
            match error.unwrap_err() {
                Error::Handler(source) => assert_eq!(source.to_string(), "the disk is full"),
                other => panic!("{protocol}: {other:?}"),
            }
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_error_of_the_registry_takes_precedence_over_the_handlers() {
    for protocol in SKOPEOS {
        run(async {
            let served = Served::new(4, 100_000).faults(&["blob#1:corrupt"]);
            let handler = |layer, reader| async move {
                let read = read_all(layer, reader).await;
                read.map_err(|_| io::Error::other("the archive ends early"))
            };
            let options = options().retry(retries(1));
            let error = for_each(protocol, options, &served, handler).await;
            let error = error.unwrap_err();
            let (digest, source) = blob_error(&error);
            assert_eq!(digest, served.digest(1), "{protocol}");
            assert!(
                matches!(source, BlobError::Corrupt { .. } | BlobError::Refused(_)),
                "{protocol}: {source:?}"
            );
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_handler_can_not_hide_the_error_of_its_blob() {
    run(async {
        let served = Served::new(4, 100_000).faults(&["blob#1:corrupt"]);
        let handler = |layer, reader| async move {
            let _ = read_all(layer, reader).await;
            Ok(())
        };
        let options = options().retry(retries(0));
        let error = for_each("0.2.8", options, &served, handler).await;
        assert_eq!(blob_error(&error.unwrap_err()).0, served.digest(1));
    });
}

#[test]
#[ignore = "needs skopeo"]
fn bytes_that_a_handler_leaves_unread_are_verified() {
    for protocol in SKOPEOS {
        for left in [0_u64, 1000] {
            run(async {
                let handler = move |_: Layer, reader: LayerReader| async move {
                    let mut bytes = Vec::new();
                    reader.take(left).read_to_end(&mut bytes).await?;
                    Ok(bytes.len() as u64)
                };
                let served = Served::new(3, 100_000);
                let results = for_each(protocol, options(), &served, handler).await;
                assert_eq!(results.unwrap(), [left; 3], "{protocol}");

                let served = Served::new(3, 100_000).faults(&["blob#1:corrupt"]);
                let options = options().retry(retries(0));
                let error = for_each(protocol, options, &served, handler).await;
                let error = error.unwrap_err();
                assert_eq!(blob_error(&error).0, served.digest(1), "{protocol}");
            });
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_handler_may_read_with_a_buffer_and_finish_itself() {
    run(async {
        let image = random(0, 0, 0).compression(Compression::None);
        let served = Served::with(Options::default(), &image.layer_random(100_000, 1));
        let handler = |_: Layer, mut reader: LayerReader| async move {
            let first = reader.fill_buf().await?.len().min(10);
            reader.consume(first);
            reader.finish().await?;
            Ok(first)
        };
        let results = for_each("0.2.8", options(), &served, handler).await;
        assert_eq!(results.unwrap(), [10]);
    });
}

#[test]
#[ignore = "needs skopeo"]
fn a_reader_that_outlives_its_handler_is_an_error() {
    run(async {
        let served = Served::new(3, 1000);
        let (keep, mut kept) = tokio::sync::mpsc::unbounded_channel();
        let handler = move |_: Layer, reader: LayerReader| {
            let keep = keep.clone();
            async move {
                keep.send(reader).unwrap();
                Ok(())
            }
        };
        let error = for_each("0.2.8", options(), &served, handler).await;
        let error = error.unwrap_err();
        assert!(matches!(error, Error::ReaderKept), "{error:?}");
        assert!(kept.recv().await.is_some());
    });
}

#[test]
#[ignore = "needs skopeo"]
fn a_handler_that_is_run_again_reads_from_the_start() {
    for protocol in SKOPEOS {
        run(async {
            let served = Served::new(3, 100_000).faults(&["blob#1:chunked-shorter=50000*1"]);
            let runs = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&runs);
            let handler = move |layer: Layer, reader| {
                if layer.index == 1 {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                read_all(layer, reader)
            };
            let results = for_each(protocol, options(), &served, handler).await;
            let results = results.unwrap();
            for (index, bytes) in results.iter().enumerate() {
                assert_eq!(&sha256(bytes), served.digest(index), "{protocol}");
            }
            assert_eq!(runs.load(Ordering::Relaxed), 2, "{protocol}");
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_layer_that_occurs_twice_is_fetched_once() {
    for protocol in SKOPEOS {
        run(async {
            let image = random(2, 10_000, 0).layer_random(10_000, 0);
            let served = Served::with(Options::default(), &image);
            let runs = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&runs);
            let handler = move |layer, reader| {
                counted.fetch_add(1, Ordering::Relaxed);
                read_all(layer, reader)
            };
            let results = for_each(protocol, options(), &served, handler).await;
            let results = results.unwrap();
            assert_eq!(results.len(), 3, "{protocol}");
            assert_eq!(results[0], results[2], "{protocol}");
            assert_eq!((served.gets(0), served.gets(1)), (1, 1), "{protocol}");
            assert_eq!(runs.load(Ordering::Relaxed), 2, "{protocol}");
        });
    }
}

/// A handler that reports when it has begun, and never ends.
fn endless(
    begun: &Arc<Notify>,
) -> impl Fn(Layer, LayerReader) -> futures_util::future::BoxFuture<'static, io::Result<()>> + use<>
{
    let begun = Arc::clone(begun);
    move |_, _reader| {
        begun.notify_one();
        pending().boxed()
    }
}

#[test]
#[ignore = "needs skopeo"]
fn dropping_the_future_stops_all() {
    for protocol in SKOPEOS {
        run(async {
            let served = Served::new(6, 100_000);
            let begun = Arc::new(Notify::new());
            let endless = endless(&begun);
            let fetching = Box::pin(for_each(protocol, options(), &served, endless));
            within_bound(async {
                tokio::select! {
                    result = fetching => panic!("{result:?}"),
                    () = begun.notified() => {}
                }
            })
            .await;
            // The check for what is left behind comes after this.
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn the_deadline_stops_all() {
    for protocol in SKOPEOS {
        run(async {
            let served = Served::new(3, 100_000).faults(&["blob#1:stall=half"]);
            let policy = retries(1000).deadline(Duration::from_secs(1));
            let begun = Instant::now();
            let options = options().retry(policy);
            let error = for_each(protocol, options, &served, read_all).await;
            assert!(matches!(error, Err(Error::DeadlineExceeded)), "{error:?}");
            assert!(begun.elapsed() >= Duration::from_secs(1));
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn the_deadline_ends_an_opening_too() {
    for protocol in SKOPEOS {
        run(async {
            let served = Served::new(3, 1000).faults(&["manifest:headers-never"]);
            let policy = retries(1000).deadline(Duration::from_secs(1));
            let fetcher = Fetcher::new(config(protocol), options().retry(policy));
            let fetcher = fetcher.await.unwrap();
            let error = within_bound(fetcher.open(&served.reference())).await;
            assert!(matches!(error, Err(Error::DeadlineExceeded)), "{error:?}");
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn the_panic_of_a_handler_reaches_its_caller() {
    run(async {
        let served = Served::new(4, 1000);
        let handler = |layer: Layer, reader| async move {
            assert_ne!(layer.index, 2, "the handler's own words");
            read_all(layer, reader).await
        };
        let fetching = for_each("0.2.8", options(), &served, handler);
        let panic = std::panic::AssertUnwindSafe(fetching).catch_unwind().await;
        let panic = panic.expect_err("it did not panic");
        let words = panic.downcast_ref::<String>().unwrap();
        assert!(words.contains("the handler's own words"), "{words}");
    });
}

/// The handler parses what it reads, and stops when that makes no sense.
#[test]
#[ignore = "needs skopeo"]
fn a_handler_that_fails_because_its_blob_is_corrupt_is_run_again() {
    for protocol in SKOPEOS {
        run(async {
            let served = Served::new(3, 300_000).faults(&["blob#1:corrupt*1"]);
            let runs = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&runs);
            let handler = move |layer: Layer, mut reader: LayerReader| {
                let failed = counted.clone();
                async move {
                    reader.read_u8().await?;
                    if layer.index == 1 && failed.fetch_add(1, Ordering::Relaxed) == 0 {
                        return Err(io::Error::other("numeric field was not a number"));
                    }
                    Ok(layer.index)
                }
            };
            let results = for_each(protocol, options(), &served, handler).await;
            assert_eq!(results.unwrap(), [0, 1, 2], "{protocol}");
            assert_eq!(runs.load(Ordering::Relaxed), 2, "{protocol}");
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_handler_that_fails_although_its_blob_is_right_is_not_run_again() {
    run(async {
        let served = Served::new(1, 300_000);
        let handler = |_: Layer, mut reader: LayerReader| async move {
            reader.read_u8().await?;
            Err::<(), _>(io::Error::other("the disk is full"))
        };
        let error = for_each("0.2.8", options(), &served, handler).await;
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Handler(_)), "{error:?}");
        assert_eq!(error.to_string(), "the disk is full");
        assert_eq!(served.gets(0), 1);
    });
}

/// Dropping the fetch ends the tasks of its handlers. A thread can't be ended from outside.
#[test]
#[ignore = "needs skopeo"]
fn a_reader_on_a_blocking_thread_ends_with_its_fetch() {
    run(async {
        let slow = Options {
            bandwidth: Some(100_000),
            ..Options::default()
        };
        let served = Served::slow(2, 1_000_000, slow);
        let fetcher = Fetcher::new(config("0.2.8"), options()).await.unwrap();
        let image = fetcher.open(&served.reference()).await.unwrap();
        let (send, mut ended) = mpsc::unbounded_channel();
        let begun = Arc::new(Notify::new());
        let (outcome, tell) = (send, Arc::clone(&begun));
        let handler = move |_: Layer, reader: LayerReader| {
            let (outcome, tell) = (outcome.clone(), Arc::clone(&tell));
            async move {
                let reading = tokio::task::spawn_blocking(move || {
                    let mut reader = SyncIoBridge::new(reader);
                    io::Read::read_exact(&mut reader, &mut [0]).unwrap();
                    tell.notify_one();
                    outcome
                        .send(io::copy(&mut reader, &mut io::sink()))
                        .unwrap();
                });
                reading.await.map_err(io::Error::from)
            }
        };
        tokio::select! {
            done = fetcher.for_each_layer(&image, handler) => panic!("{done:?}"),
            () = within_bound(begun.notified()) => {}
        }
        // Each handler that had begun is counted. The channel ends when all handlers are gone.
        while let Some(read) = within_bound(ended.recv()).await {
            let error = read.expect_err("it read to the end");
            let error: Error = error.downcast().unwrap();
            assert!(matches!(error, Error::Cancelled), "{error:?}");
        }
    });
}
