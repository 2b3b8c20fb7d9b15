//! The limits on what a registry can demand of this machine and of its user's time.

use std::num::NonZeroUsize;
use std::time::Duration;

use longshore::{
    BlobError, ConnectionOptions, Error, EventKind, FetchOptions, Fetcher, Layer, LayerReader,
    Proxies, Result,
};
use test_registry::image::write_index;
use test_registry::server::{Options, Registry};
use test_support::leaks::run;
use test_support::{tools, within_bound};

use crate::harness::{Served, config, pull, random, retries};

#[test]
#[ignore = "needs skopeo"]
fn a_blob_below_the_least_rate_is_fetched_again() {
    run(async {
        for protocol in tools::SKOPEOS {
            let served = Served::new(3, 5_000).faults(&["blob#1:trickle=100ms*1"]);
            let mut config = config(protocol);
            config.connection = ConnectionOptions::default()
                .stall_timeout(Duration::from_secs(2))
                .least_rate(1000);
            let options = FetchOptions::default().retry(retries(1));
            let outcome = pull(config, options, &served.reference()).await;
            assert_eq!(outcome.result.unwrap().retries, 1);
            let slow = |kind: &EventKind| matches!(kind, EventKind::BlobRetried { reason, .. } if reason.contains("too slow"));
            assert!(
                outcome.events.iter().any(|event| slow(&event.kind)),
                "{protocol}"
            );
        }
    });
}

#[test]
#[ignore = "needs skopeo"]
fn a_slow_blob_above_the_least_rate_or_without_one_is_stored() {
    run(async {
        for least_rate in [0, 50] {
            let served = Served::new(1, 20).faults(&["blob#0:trickle=1ms"]);
            let mut config = config("0.2.8");
            config.connection = ConnectionOptions::default()
                .stall_timeout(Duration::from_secs(1))
                .least_rate(least_rate);
            let options = FetchOptions::default().retry(retries(0));
            let outcome = pull(config, options, &served.reference()).await;
            outcome.result.unwrap();
        }
    });
}

/// Before protocol 0.2.8, `FinishPipe` is sent early for a quiet blob, and is answered only at its end.
#[test]
#[ignore = "needs skopeo"]
fn a_blob_that_pauses_may_take_longer_than_the_call_timeout() {
    run(async {
        for protocol in tools::SKOPEOS {
            let served = Served::new(1, 50_000).faults(&["blob#0:gap=10s"]);
            let mut config = config(protocol);
            config.connection = ConnectionOptions::default().call_timeout(Duration::from_secs(5));
            let options = FetchOptions::default().retry(retries(0));
            let outcome = pull(config, options, &served.reference()).await;
            outcome.result.expect(protocol);
        }
    });
}

/// Two fetches from one image share its proxy. Before protocol 0.2.8, the quiet blob of the one must not block the other.
#[test]
#[ignore = "needs skopeo"]
fn a_quiet_blob_does_not_block_another_fetch_from_its_image() {
    run(async {
        for protocol in tools::SKOPEOS {
            let served = Served::new(2, 50_000).faults(&["blob#0:gap=4s", "blob#1:ttfb=3s"]);
            let one = Proxies::Fixed(NonZeroUsize::MIN);
            let options = FetchOptions::default().proxies(one).retry(retries(0));
            let mut config = config(protocol);
            config.connection =
                ConnectionOptions::default().shutdown_timeout(Duration::from_millis(500));
            let fetcher = Fetcher::new(config, options).await.unwrap();
            let image = fetcher.open(&served.reference()).await.unwrap();
            let fetch = |layer: usize| {
                let (fetcher, image) = (fetcher.clone(), image.clone());
                async move {
                    let layers = &image.layers()[layer..=layer];
                    fetcher.for_each_of(&image, layers, size_of).await
                }
            };
            let both = async { tokio::join!(fetch(0), fetch(1)) };
            let (quiet, late) = within_bound(Box::pin(both)).await;
            assert!(
                quiet.is_ok() && late.is_ok(),
                "{protocol}: {quiet:?} {late:?}"
            );
        }
    });
}

async fn size_of(_: Layer, mut reader: LayerReader) -> Result<u64> {
    tokio::io::copy(&mut reader, &mut tokio::io::sink())
        .await
        .map_err(Error::handler)
}

/// Before protocol 0.2.8, only the answer to `FinishPipe` tells that a transfer broke off. This call blocks a proxy, so
/// the other layers come first.
#[test]
#[ignore = "needs skopeo"]
fn a_transfer_that_breaks_off_is_noticed_without_a_stall() {
    run(async {
        for protocol in tools::SKOPEOS {
            let served = Served::new(20, 50_000).faults(&["blob#1:cut=half"]);
            let options = FetchOptions::default().retry(retries(1));
            let outcome = pull(config(protocol), options, &served.reference()).await;
            let error = outcome.result.expect_err(protocol);
            assert!(
                matches!(
                    error,
                    Error::Blob {
                        source: BlobError::Refused(_),
                        ..
                    }
                ),
                "{protocol}: {error:?}"
            );
        }
    });
}

/// The proxy whose early `FinishPipe` is never answered is given up.
#[test]
#[ignore = "needs skopeo"]
fn after_a_stall_an_image_is_fetched_again_through_other_proxies() {
    run(async {
        for protocol in tools::SKOPEOS {
            let served = Served::new(3, 50_000).faults(&["blob#1:stall=half*1"]);
            let mut config = config(protocol);
            config.connection = ConnectionOptions::default().stall_timeout(Duration::from_secs(3));
            let options = FetchOptions::default().retry(retries(1));
            let fetcher = Fetcher::new(config, options).await.unwrap();
            let image = fetcher.open(&served.reference()).await.unwrap();
            for retries in [1, 0] {
                let pulled = within_bound(Box::pin(fetcher.pull(&image, longshore::Discard))).await;
                assert_eq!(pulled.expect(protocol).retries, retries, "{protocol}");
            }
            let config = image.manifest().config().digest().clone();
            let read = |reader: longshore::LayerReader| async move { reader.finish().await };
            within_bound(fetcher.for_blob(&image, &config, read))
                .await
                .expect(protocol);
        }
    });
}

/// The reader is slow, not the registry.
#[test]
#[ignore = "needs skopeo"]
fn a_slow_reader_does_not_make_a_blob_too_slow() {
    run(async {
        let served = Served::new(1, 200_000);
        let mut config = config("0.2.8");
        config.connection = ConnectionOptions::default()
            .stall_timeout(Duration::from_millis(500))
            .least_rate(1_000_000);
        let options = FetchOptions::default().retry(retries(0));
        let fetcher = Fetcher::new(config, options).await.unwrap();
        let image = fetcher.open(&served.reference()).await.unwrap();
        let handler = |_, mut reader: longshore::LayerReader| async move {
            let mut buffer = vec![0; 10_000];
            while tokio::io::AsyncReadExt::read(&mut reader, &mut buffer).await? > 0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok::<_, std::io::Error>(())
        };
        let fetching = fetcher.for_each_layer(&image, handler);
        within_bound(Box::pin(fetching)).await.unwrap();
    });
}

/// The sum is limited, whether the documents are those of one index or of several images.
#[test]
#[ignore = "needs skopeo"]
fn the_documents_of_one_pull_are_bounded_together() {
    run(async {
        let layout = tempfile::tempdir().unwrap();
        let images: Vec<_> = (0..10)
            .map(|number| random(1, 10, number).platform("linux", &format!("arch{number}")))
            .collect();
        write_index(layout.path(), "all", &images).unwrap();
        for (number, image) in images.iter().enumerate() {
            image.write(layout.path(), &number.to_string()).unwrap();
        }
        let registry = Registry::start(layout.path(), Options::default()).unwrap();
        let too_large =
            |error: &Error| matches!(error, Error::DocumentsTooLarge { limit: 3000, .. });
        let options = |bytes| FetchOptions::default().max_documents_bytes(bytes);

        let fetcher = Fetcher::new(config("0.2.8"), options(3000)).await.unwrap();
        let error = fetcher.open_index(&registry.reference("all")).await;
        assert!(too_large(&error.unwrap_err()));
        let references: Vec<_> = (0..10)
            .map(|n| registry.reference(&n.to_string()))
            .collect();
        let error = fetcher.open_all(&references).await;
        assert!(too_large(&error.unwrap_err()));
        // If they are opened one by one, they are too large only together.
        let mut opened = Vec::new();
        for reference in &references {
            opened.push(fetcher.open(reference).await.unwrap());
        }
        let sink = std::sync::Arc::new(longshore::Discard);
        fetcher.pull(&opened[0], sink.clone()).await.unwrap();
        let error = within_bound(Box::pin(fetcher.pull_all(&opened, sink.clone()))).await;
        assert!(too_large(&error.unwrap_err()));

        let fetcher = Fetcher::new(config("0.2.8"), options(100_000))
            .await
            .unwrap();
        let opened = fetcher.open_all(&references).await.unwrap();
        within_bound(Box::pin(fetcher.pull_all(&opened, sink.clone())))
            .await
            .unwrap();
    });
}

#[test]
#[ignore = "needs skopeo"]
fn the_error_of_a_slow_blob_contains_the_least_rate() {
    run(async {
        let served = Served::new(1, 5_000).faults(&["blob#0:trickle=100ms"]);
        let mut config = config("0.2.8");
        config.connection = ConnectionOptions::default()
            .stall_timeout(Duration::from_secs(1))
            .least_rate(1000);
        let options = FetchOptions::default().retry(retries(0));
        let error = pull(config, options, &served.reference()).await.result;
        let Err(Error::Blob { source, .. }) = error else {
            panic!("{error:?}");
        };
        assert!(
            matches!(source, BlobError::TooSlow { least: 1000, .. }),
            "{source:?}"
        );
    });
}
