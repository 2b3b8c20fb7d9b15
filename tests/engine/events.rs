//! The events of a pull contain everything that happened, for users of the library and in the file of
//! the command.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::harness::{
    Outcome, Served, assert_image_stored, config, discard, faults, options, proxies, pull, random,
    short_stall_config,
};
use longshore::oci_spec::image::{Descriptor, Digest};
use longshore::{
    Discard, DocumentKind, Error, EventKind, Events, Fetcher, Layer, LayerReader, OciLayout,
};
use serde_json::Value;
use test_registry::server::{Options, Registry};
use test_support::leaks::run;
use test_support::tools::{self, SKOPEOS};
use test_support::within_bound;
use tokio::process::Command;

/// The events about one blob.
#[derive(Debug, Default)]
struct Blob {
    queued: usize,
    requested: usize,
    opened: usize,
    verified: usize,
    reused: usize,
    retried: usize,
    bytes: u64,
}

/// The events about all blobs, by layer.
fn blobs(outcome: &Outcome) -> BTreeMap<usize, Blob> {
    let mut blobs: BTreeMap<usize, Blob> = BTreeMap::new();
    for event in &outcome.events {
        match &event.kind {
            EventKind::BlobQueued { blob, .. } => blobs.entry(blob.layer).or_default().queued += 1,
            EventKind::BlobRequested { blob, .. } => {
                blobs.get_mut(&blob.layer).unwrap().requested += 1;
            }
            EventKind::BlobOpened { blob, .. } => blobs.get_mut(&blob.layer).unwrap().opened += 1,
            EventKind::BlobVerified { blob, .. } => {
                blobs.get_mut(&blob.layer).unwrap().verified += 1;
            }
            EventKind::BlobReused { blob, .. } => blobs.get_mut(&blob.layer).unwrap().reused += 1,
            EventKind::BlobRetried { blob, .. } => blobs.get_mut(&blob.layer).unwrap().retried += 1,
            EventKind::BlobBytes { blob, read, .. } => {
                assert!(*read <= blob.size);
                let bytes = &mut blobs.get_mut(&blob.layer).unwrap().bytes;
                *bytes = (*bytes).max(*read);
            }
            _ => {}
        }
    }
    blobs
}

#[test]
#[ignore = "needs skopeo"]
fn events_describe_a_pull_from_beginning_to_end() {
    for protocol in SKOPEOS {
        run(async {
            let served = Served::new(5, 50_000);
            let outcome = pull(config(protocol), proxies(2), &served.reference()).await;
            let pulled = outcome.assert_succeeded(&served);
            let is_of_proxies = |kind: &EventKind| {
                matches!(
                    kind,
                    EventKind::ProxyStarted { .. }
                        | EventKind::ProxyReady { .. }
                        | EventKind::DocumentRequested { .. }
                        | EventKind::DocumentAnswered { .. }
                )
            };
            let mut kinds = outcome.events.iter().map(|event| &event.kind);
            assert!(matches!(
                kinds.find(|kind| !is_of_proxies(kind)).unwrap(),
                EventKind::ImageOpened { image: 0, layers: 5, digest, .. }
                    if *digest == served.image.manifest_digest
            ));
            let blobs = blobs(&outcome);
            assert_eq!(blobs.len(), 5);
            for (layer, blob) in &blobs {
                let size = served.image.layers[*layer].size();
                assert_eq!(
                    (blob.queued, blob.requested, blob.opened, blob.verified),
                    (1, 1, 1, 1),
                    "{blob:?}"
                );
                assert_eq!(
                    (blob.reused, blob.retried, blob.bytes),
                    (0, 0, size),
                    "{blob:?}"
                );
            }
            // The config is a blob, too, but has no events.
            assert_eq!(pulled.fetched_blobs, blobs.len() + 1);
            assert_eq!((pulled.reused_blobs, pulled.retries), (0, 0));
            let layers: u64 = served.image.layers.iter().map(Descriptor::size).sum();
            assert_eq!(pulled.bytes, layers);
            let config = pulled.images[0].config().len() as u64;
            assert_eq!(pulled.fetched_bytes, layers + config);

            // A proxy is started before it is ready, and ready before it sends anything.
            let (mut started, mut ready) = (BTreeSet::new(), BTreeSet::new());
            for event in &outcome.events {
                match &event.kind {
                    EventKind::ProxyStarted { proxy, .. } => assert!(started.insert(*proxy)),
                    EventKind::ProxyReady { proxy, .. } => {
                        assert!(started.contains(proxy));
                        assert!(ready.insert(*proxy));
                    }
                    EventKind::BlobOpened { proxy, .. } | EventKind::BlobVerified { proxy, .. } => {
                        assert!(ready.contains(proxy));
                    }
                    _ => {}
                }
            }
            assert_eq!(started.len(), pulled.proxies);
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn blobs_that_are_present_have_a_reused_event() {
    run(async {
        let served = Served::new(5, 10_000);
        let target = tempfile::tempdir().unwrap();
        let fetcher = Fetcher::new(config("0.2.8"), options()).await.unwrap();
        let image = fetcher.open(&served.reference()).await.unwrap();
        let sink = || Arc::new(OciLayout::new(target.path(), Some("x".into())));
        within_bound(Box::pin(fetcher.pull(&image, sink().clone())))
            .await
            .unwrap();
        let gone = target
            .path()
            .join("blobs/sha256")
            .join(served.digest(3).digest());
        std::fs::remove_file(gone).unwrap();
        let again = within_bound(Box::pin(fetcher.pull(&image, sink().clone())))
            .await
            .unwrap();
        assert_eq!((again.fetched_blobs, again.reused_blobs), (1, 4));
        assert_eq!(again.fetched_bytes, served.image.layers[3].size());
        assert_image_stored(target.path(), &served.image);
    });
}

#[test]
#[ignore = "needs skopeo"]
fn a_cut_blob_has_a_retried_event() {
    for protocol in SKOPEOS {
        run(async {
            let served = Served::new(3, 50_000).faults(&["blob#1:chunked-shorter=5*2"]);
            let outcome = pull(short_stall_config(protocol), options(), &served.reference()).await;
            assert_eq!(outcome.assert_succeeded(&served).retries, 2, "{protocol}");
            let blob = &blobs(&outcome)[&1];
            assert_eq!(
                (blob.requested, blob.opened, blob.verified, blob.retried),
                (3, 3, 1, 2),
                "{protocol}"
            );
            let tries = outcome.events.iter().filter_map(|event| match &event.kind {
                EventKind::BlobRetried { failed, reason, .. } => {
                    Some((*failed, !reason.is_empty()))
                }
                _ => None,
            });
            assert_eq!(
                tries.collect::<Vec<_>>(),
                [(1, true), (2, true)],
                "{protocol}"
            );
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_refusing_registry_has_a_paused_event_with_the_wait() {
    for protocol in SKOPEOS {
        run(async {
            let served = Served::new(3, 10_000).faults(&["blob#1:status=503*2"]);
            let outcome = pull(config(protocol), options(), &served.reference()).await;
            outcome.assert_succeeded(&served);
            let reference = served.reference();
            let pauses = outcome.events.iter().filter_map(|event| match &event.kind {
                EventKind::RegistryPaused {
                    registry,
                    wait,
                    reason,
                    ..
                } => {
                    assert!(reference.starts_with(&format!("docker://{registry}/")));
                    assert!(*wait > Duration::ZERO);
                    assert!(reason.contains("503"), "{reason}");
                    Some(())
                }
                _ => None,
            });
            assert_eq!(pauses.count(), 2, "{protocol}");
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn the_rate_limit_holds_for_every_reader() {
    run(async {
        let served = Served::new(4, 250_000);
        let limited = options().limit_rate(NonZeroU64::new(1_000_000).unwrap());
        // A bit more than a million bytes take at least 0.8 s, with a margin for rounding.
        let begun = Instant::now();
        let outcome = pull(config("0.2.8"), limited.clone(), &served.reference()).await;
        outcome.assert_succeeded(&served);
        assert!(begun.elapsed() >= Duration::from_millis(800));
        // A sink that discards the blobs is limited, too.
        let begun = Instant::now();
        discard(config("0.2.8"), limited, &served.reference())
            .await
            .unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(800));
    });
}

#[test]
#[ignore = "needs skopeo"]
fn images_pulled_together_share_their_blobs_and_a_layout() {
    for protocol in SKOPEOS {
        run(async {
            let layout = tempfile::tempdir().unwrap();
            // The images have layers 2 and 3 in common.
            let one = random(4, 10_000, 0).write(layout.path(), "one").unwrap();
            let two = random(4, 10_000, 2).write(layout.path(), "two").unwrap();
            let registry = Registry::start(layout.path(), Options::default()).unwrap();
            let target = tempfile::tempdir().unwrap();
            let fetcher = Fetcher::new(config(protocol), proxies(2)).await.unwrap();
            let names = [registry.reference("one"), registry.reference("two")];
            let images = within_bound(fetcher.open_all(&names)).await.unwrap();
            let sink = Arc::new(OciLayout::new(target.path(), None));
            let pulled = within_bound(Box::pin(fetcher.pull_all(&images, sink.clone())))
                .await
                .unwrap();
            assert_eq!(pulled.fetched_blobs, 6 + 2, "{protocol}");
            assert_eq!(pulled.images.len(), 2, "{protocol}");
            for image in [&one, &two] {
                assert_image_stored(target.path(), image);
                for layer in &image.layers {
                    assert_eq!(registry.blob_gets(layer.digest()), 1, "{protocol}");
                }
            }
        });
    }
}

/// How many documents were asked for, and how often the answer was an error: manifests, then configs.
fn documents(outcome: &Outcome) -> [(usize, usize, usize); 2] {
    let of = |wanted: DocumentKind| {
        let requested = |kind: &EventKind| matches!(kind, EventKind::DocumentRequested { document, .. } if *document == wanted);
        let answered = |kind: &EventKind, is_error: bool| matches!(kind, EventKind::DocumentAnswered { document, error, .. } if *document == wanted && error.is_some() == is_error);
        (
            outcome.count(requested),
            outcome.count(|kind| answered(kind, false)),
            outcome.count(|kind| answered(kind, true)),
        )
    };
    [of(DocumentKind::Manifest), of(DocumentKind::Config)]
}

#[test]
#[ignore = "needs skopeo"]
fn requests_for_documents_have_events_with_their_failures() {
    for protocol in SKOPEOS {
        run(async {
            let served = Served::new(3, 10_000).faults(&["config:status=500*1"]);
            let outcome = pull(config(protocol), proxies(1), &served.reference()).await;
            outcome.assert_succeeded(&served);
            assert_eq!(documents(&outcome), [(1, 1, 0), (2, 1, 1)], "{protocol}");
        });
    }
}

/// Runs the command on an image. Returns the object that it prints, and the lines of its events.
async fn command(protocol: &str, reference: &str, target: &Path) -> (Value, Vec<Value>) {
    let file = target.join("events");
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    command
        .args(["pull", "--json", "--tls-verify=false", "--insecure-policy"])
        .args(["--stall-timeout=2s", "--proxies=2", "--skopeo"])
        .arg(tools::skopeo(protocol))
        .arg("--events")
        .arg(&file)
        .arg(reference)
        .arg(format!("oci:{}:latest", target.join("layout").display()))
        .kill_on_drop(true);
    let output = within_bound(command.output()).await.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let lines = std::fs::read_to_string(file).unwrap();
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    (
        serde_json::from_slice(&output.stdout).unwrap(),
        lines.collect(),
    )
}

#[test]
#[ignore = "needs skopeo"]
fn the_events_file_of_the_command_agrees_with_its_report() {
    for protocol in SKOPEOS {
        run(async {
            let served = Served::new(4, 50_000);
            served.registry.set_faults(faults(&["blob#2:status=500*1"]));
            let target = tempfile::tempdir().unwrap();
            let (report, events) = command(protocol, &served.reference(), target.path()).await;
            assert_image_stored(&target.path().join("layout"), &served.image);
            let of = |kind: &str| {
                let kind = Value::from(kind);
                events.iter().filter(move |event| event["event"] == kind)
            };
            assert_eq!(events[0]["event"], "started");
            assert!(events[0]["unix_ms"].as_u64() > Some(1_700_000_000_000));
            assert_eq!(events[events.len() - 1]["event"], "finished");
            assert!(events.iter().all(|event| event["at_ms"].is_u64()));
            assert_eq!(of("image_opened").count(), 1);
            assert_eq!(of("blob_queued").count(), 4);
            assert_eq!(of("blob_verified").count() + 1, report["fetched_blobs"]);
            assert_eq!(of("blob_reused").count(), report["reused_blobs"]);
            assert_eq!(of("blob_retried").count(), report["retries"]);
            assert_eq!(of("proxy_started").count(), report["proxies"]);
            assert_eq!(
                of("image_opened").next().unwrap()["digest"],
                report["images"][0]["digest"]
            );
            assert_eq!(report["retries"], 1);
            let retried = of("blob_retried").next().unwrap();
            assert_eq!(retried["digest"], served.digest(2).as_ref());
            assert!(events.iter().all(|event| event["at_ms"].is_number()));
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn unread_events_delay_no_pull() {
    run(async {
        let served = Served::new(40, 20_000);
        let (events, mut stream) = Events::channel();
        let fetcher = Fetcher::new(config("0.2.8"), options()).await.unwrap();
        let fetcher = fetcher.with_events(events);
        let image = within_bound(fetcher.open(&served.reference()))
            .await
            .unwrap();
        within_bound(Box::pin(fetcher.pull(&image, Discard)))
            .await
            .unwrap();
        let mut verified = 0;
        while let Some(event) = within_bound(stream.recv()).await {
            verified += usize::from(matches!(event.kind, EventKind::BlobVerified { .. }));
        }
        assert_eq!(verified, 40);
    });
}

/// The fetcher still exists, and could send more.
#[test]
#[ignore = "needs skopeo"]
fn events_end_with_the_pull() {
    run(async {
        let served = Served::new(4, 20_000).faults(&["blob#2:status=404"]);
        let fetcher = Fetcher::new(config("0.2.8"), options()).await.unwrap();
        let missing = served.registry.reference("missing");
        for reference in [&missing, &served.reference()] {
            let (events, mut stream) = Events::channel();
            let fetcher = fetcher.clone().with_events(events);
            let pulling = async {
                let image = fetcher.open(reference).await?;
                fetcher.pull(&image, Discard).await
            };
            let reading = async { while stream.recv().await.is_some() {} };
            let (pulled, ()) =
                within_bound(Box::pin(async { tokio::join!(pulling, reading) })).await;
            pulled.unwrap_err();
        }
        // A pull that is dropped early.
        served.registry.set_faults(faults(&["blob:stall=half"]));
        let (events, mut stream) = Events::channel();
        let fetcher = fetcher.clone().with_events(events);
        let image = fetcher.open(&served.reference()).await.unwrap();
        let sink = Arc::new(Discard);
        let mut pulling = Box::pin(fetcher.pull(&image, sink.clone()));
        let opened = async {
            while let Some(event) = stream.recv().await {
                if let EventKind::BlobOpened { .. } = event.kind {
                    return;
                }
            }
        };
        tokio::select! {
            pulled = &mut pulling => panic!("{pulled:?}"),
            () = within_bound(opened) => drop(pulling),
        }
        within_bound(async { while stream.recv().await.is_some() {} }).await;
    });
}

#[test]
#[ignore = "needs skopeo"]
fn events_end_with_a_call_that_fails_before_it_fetches() {
    run(async {
        let served = Served::new(1, 1000);
        let fetcher = Fetcher::new(config("0.2.8"), options()).await.unwrap();
        let image = fetcher.open(&served.reference()).await.unwrap();
        let missing: Digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        let layer = image.layers().remove(0);
        let other = Descriptor::new(layer.descriptor.media_type().clone(), 1, missing.clone());
        let others = [Layer::new(0, other)];
        let (events, mut stream) = Events::channel();
        let listening = fetcher.clone().with_events(events);
        let read = |_: LayerReader| async { Ok::<_, Error>(()) };
        within_bound(listening.for_blob(&image, &missing, read))
            .await
            .unwrap_err();
        while within_bound(stream.recv()).await.is_some() {}
        let (events, mut stream) = Events::channel();
        let listening = fetcher.with_events(events);
        listening.layers_of(&image, &others, 1).unwrap_err();
        while within_bound(stream.recv()).await.is_some() {}
    });
}

#[test]
#[ignore = "needs skopeo"]
fn a_missing_image_does_not_end_the_events() {
    run(async {
        let served = Served::new(1, 1000);
        let (events, mut stream) = Events::channel();
        let fetcher = Fetcher::new(config("0.2.8"), options()).await.unwrap();
        let fetcher = fetcher.with_events(events);
        let missing = served.registry.reference("missing");
        assert!(
            within_bound(fetcher.open_optional(&missing))
                .await
                .unwrap()
                .is_none()
        );
        let there = within_bound(fetcher.open_optional(&served.reference())).await;
        let image = there.unwrap().unwrap();
        within_bound(fetcher.pull(&image, Discard)).await.unwrap();
        let mut verified = 0;
        while let Some(event) = within_bound(stream.recv()).await {
            verified += usize::from(matches!(event.kind, EventKind::BlobVerified { .. }));
        }
        assert_eq!(verified, 1);
        // A call that fails still ends them.
        let (events, mut stream) = Events::channel();
        let fetcher = fetcher.with_events(events);
        served.registry.set_faults(faults(&["manifest:status=403"]));
        within_bound(fetcher.open_optional(&served.reference()))
            .await
            .unwrap_err();
        while within_bound(stream.recv()).await.is_some() {}
    });
}

/// The proxies that were started while the image was opened have answered, but nobody has asked the engine for it. So at
/// its begin, the pull must not take these answers to be late. Later, the answers of a busy machine may be.
#[test]
#[ignore = "needs skopeo"]
fn an_image_that_was_open_for_long_is_pulled_without_a_lower_limit() {
    /// Less than the time after which any answer is late.
    const AT_ONCE: Duration = Duration::from_millis(400);
    run(async {
        let far = Options {
            ttfb: Duration::from_millis(100),
            ..Options::default()
        };
        let served = Served::slow(30, 1000, far);
        let (events, mut stream) = Events::channel();
        let fetcher = Fetcher::new(config("0.2.8"), options()).await.unwrap();
        let fetcher = fetcher.with_events(events);
        let image = fetcher.open(&served.reference()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        within_bound(Box::pin(fetcher.pull(&image, Discard)))
            .await
            .unwrap();
        drop((image, fetcher));
        let mut began = None;
        while let Some(event) = stream.recv().await {
            if matches!(event.kind, EventKind::BlobQueued { .. }) {
                began.get_or_insert(event.at);
            }
            let is_limit = matches!(event.kind, EventKind::RegistryThrottled { .. });
            let is_late = began.is_some_and(|began| event.at > began + AT_ONCE);
            assert!(!is_limit || is_late, "{event:?} after {began:?}");
        }
    });
}
