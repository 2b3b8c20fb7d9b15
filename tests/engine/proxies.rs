//! The number of proxies, and that it does not matter which of them dies, hangs, or finds the image changed.

use std::future::pending;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::{
    Outcome, Served, assert_image_stored, config, options, proxies, pull, pull_watched, random,
    short_stall_config,
};
use futures_util::future::join_all;
use longshore::oci_spec::image::{Descriptor, Digest, MediaType};
use longshore::{
    ConnectionOptions, Discard, Error, EventKind, Fetcher, Layer, LayerReader, Proxies,
};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_registry::server::Options;
use test_registry::store::Store;
use test_support::leaks::{prepare, run};
use test_support::process::children;
use test_support::tools::{self, SKOPEOS};
use test_support::{sha256, within_bound};

/// Options of a registry that is slow enough for something to happen meanwhile.
fn slow_options() -> Options {
    Options {
        ttfb: Duration::from_millis(20),
        bandwidth: Some(200_000),
        ..Options::default()
    }
}

fn send(signal: Signal, pid: u32) {
    // A proxy that is not needed may have ended meanwhile.
    let sent = kill(Pid::from_raw(pid.try_into().unwrap()), signal);
    assert!(matches!(sent, Ok(()) | Err(Errno::ESRCH)), "{sent:?}");
}

#[test]
#[ignore = "needs skopeo"]
fn each_proxy_may_be_killed_during_a_pull() {
    for protocol in SKOPEOS {
        run(async {
            let served = Served::slow(15, 100_000, slow_options());
            let mut killed: Vec<u32> = Vec::new();
            let mut opened = 0;
            let kill_in_turn = |event: &EventKind| {
                opened += u32::from(matches!(event, EventKind::BlobOpened { .. }));
                if matches!(event, EventKind::BlobOpened { .. })
                    && opened % 3 == 0
                    && killed.len() < 4
                {
                    let mut alive = children(std::process::id());
                    alive.retain(|pid| !killed.contains(pid));
                    // The oldest proxy is killed each time, so in the end each of the first three is.
                    if let Some(pid) = alive.into_iter().min() {
                        send(Signal::SIGKILL, pid);
                        killed.push(pid);
                    }
                }
            };
            let reference = served.reference();
            let outcome =
                pull_watched(config(protocol), proxies(3), &reference, kill_in_turn).await;
            outcome.assert_succeeded(&served);
            // Each of the first three was killed, and perhaps one more.
            assert!(killed.len() >= 3, "{protocol}: {killed:?}");
            assert!(outcome.started_proxies() > 3, "{protocol}");
            let losses = outcome.lost_proxies();
            assert!(!losses.is_empty(), "{protocol}");
            for why in losses {
                assert!(
                    why.contains("SIGKILL") || why.contains("signal: 9"),
                    "{why}"
                );
            }
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn the_blobs_of_a_hung_proxy_are_fetched_by_others() {
    const SHORT: Duration = Duration::from_secs(1);
    let by_stall = ConnectionOptions::default().stall_timeout(SHORT);
    let by_call = ConnectionOptions::default()
        .stall_timeout(SHORT * 3)
        .call_timeout(SHORT);
    for (timeouts, protocols) in [(by_stall, &SKOPEOS[..]), (by_call, &SKOPEOS[1..])] {
        for protocol in protocols {
            run(async {
                // The registry is so slow that no blob is complete when the event is seen.
                let options = Options {
                    bandwidth: Some(50_000),
                    ..slow_options()
                };
                let served = Served::slow(24, 50_000, options);
                let mut config = config(protocol);
                // The pull does not wait for the end of the proxy, either.
                let short = Duration::from_millis(500);
                config.connection = timeouts.clone().shutdown_timeout(short);
                let mut stopped = None;
                let stop_one = |event: &EventKind| {
                    if matches!(event, EventKind::BlobOpened { .. }) && stopped.is_none() {
                        // The oldest proxy sends that blob.
                        stopped = children(std::process::id()).into_iter().min();
                        send(Signal::SIGSTOP, stopped.unwrap());
                    }
                };
                let outcome = pull_watched(config, proxies(2), &served.reference(), stop_one).await;
                outcome.assert_succeeded(&served);
                let events = outcome.without_bytes();
                assert!(
                    !outcome.lost_proxies().is_empty(),
                    "{protocol}: {events:#?}"
                );
            });
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_fixed_number_of_proxies_is_exact() {
    for protocol in SKOPEOS {
        for number in [1, 2, 4] {
            run(async {
                let served = Served::slow(16, 20_000, slow_options());
                let mut most = 0;
                let count = |_: &EventKind| most = most.max(children(std::process::id()).len());
                let reference = served.reference();
                let outcome =
                    pull_watched(config(protocol), proxies(number), &reference, count).await;
                assert_eq!(
                    outcome.assert_succeeded(&served).proxies,
                    number,
                    "{protocol}"
                );
                assert_eq!(outcome.started_proxies(), number, "{protocol}");
                assert_eq!(most, number, "{protocol}");
                // Each proxy reads the manifest once, and the manifest is resolved only once.
                assert_eq!(served.registry.manifest_gets(), number, "{protocol}");
            });
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_range_limits_the_number_of_proxies() {
    run(async {
        let served = Served::slow(16, 20_000, slow_options());
        let number = |n| NonZeroUsize::new(n).unwrap();
        let range = Proxies::Range {
            min: number(2),
            max: number(3),
        };
        let outcome = pull(
            config("0.2.8"),
            options().proxies(range),
            &served.reference(),
        )
        .await;
        let proxies = outcome.assert_succeeded(&served).proxies;
        assert!((2..=3).contains(&proxies), "{proxies}");
    });
}

#[test]
#[ignore = "needs skopeo"]
fn no_more_proxies_than_blobs() {
    run(async {
        let served = Served::slow(2, 1000, slow_options());
        let outcome = pull(config("0.2.8"), proxies(8), &served.reference()).await;
        assert!(outcome.assert_succeeded(&served).proxies <= 2);
    });
}

#[test]
#[ignore = "needs skopeo"]
fn an_image_without_layers_needs_no_further_proxy() {
    run(async {
        let served = Served::new(0, 0);
        let outcome = pull(config("0.2.8"), proxies(8), &served.reference()).await;
        let pulled = outcome.assert_succeeded(&served);
        assert_eq!((pulled.proxies, pulled.fetched_blobs), (0, 1));
    });
}

/// Checks that each blob in the layout matches its name. Returns their number.
fn intact(outcome: &Outcome) -> usize {
    let blobs = outcome.target.path().join("blobs/sha256");
    let files = std::fs::read_dir(blobs).unwrap().map(|file| {
        let file = file.unwrap();
        let digest = sha256(&std::fs::read(file.path()).unwrap());
        assert_eq!(digest.digest(), file.file_name());
    });
    files.count()
}

#[test]
#[ignore = "needs skopeo"]
fn an_archive_stays_on_one_proxy() {
    let folder = tempfile::tempdir().unwrap();
    random(5, 50_000, 0).write(folder.path(), "latest").unwrap();
    for transport in ["oci-archive", "docker-archive"] {
        let archive = format!(
            "{transport}:{}.tar:name:latest",
            folder.path().join(transport).display()
        );
        let mut copy = Command::new(tools::skopeo("0.2.8"));
        copy.args(["--insecure-policy", "copy", "--quiet"]);
        copy.arg(format!("oci:{}:latest", folder.path().display()));
        prepare(|| tools::succeed(copy.arg(&archive)));
        for protocol in SKOPEOS {
            run(async {
                let outcome = pull(config(protocol), proxies(4), &archive).await;
                let pulled = outcome.result.as_ref().unwrap();
                assert_eq!(
                    (pulled.proxies, outcome.started_proxies()),
                    (1, 1),
                    "{archive} {protocol}"
                );
                assert_eq!(pulled.images[0].layers().len(), 5, "{archive} {protocol}");
                assert_eq!(intact(&outcome), 7, "{archive} {protocol}");
            });
        }
    }
}

/// Moves the tag to another image.
fn move_tag(layout: &Path) {
    random(5, 1000, 1000).write(layout, "latest").unwrap();
}

#[test]
#[ignore = "needs skopeo"]
fn a_folder_that_changes_between_two_openings_is_an_error() {
    for protocol in SKOPEOS {
        run(async {
            let folder = tempfile::tempdir().unwrap();
            let first = random(5, 1000, 0).write(folder.path(), "latest").unwrap();
            let reference = format!("oci:{}:latest", folder.path().display());
            // There are more layers than the first proxy fetches at once.
            let options = proxies(3).workers(NonZeroUsize::new(3).unwrap());
            let fetcher = Fetcher::new(config(protocol), options).await.unwrap();
            let image = fetcher.open(&reference).await.unwrap();
            move_tag(folder.path());
            // No layer is ever done.
            let handler = |_: Layer, _reader: LayerReader| pending::<Result<(), Error>>();
            let error = within_bound(Box::pin(fetcher.for_each_layer(&image, handler))).await;
            match error.unwrap_err() {
                Error::ImageChanged { was, now, .. } => {
                    assert_eq!(was, first.manifest_digest);
                    assert_ne!(was, now);
                }
                other => panic!("{protocol}: {other:?}"),
            }
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_tag_that_moves_at_a_registry_changes_nothing() {
    for protocol in SKOPEOS {
        run(async {
            let served = Served::slow(12, 20_000, slow_options());
            let mut moved = false;
            let move_once = |event: &EventKind| {
                if matches!(event, EventKind::ImageOpened { .. }) && !moved {
                    moved = true;
                    move_tag(served.layout.path());
                }
            };
            let reference = served.reference();
            let options = proxies(3).start_ahead(false);
            let outcome = pull_watched(config(protocol), options, &reference, move_once).await;
            // Each proxy opens the image by the given name. What it finds there does not matter.
            outcome.assert_succeeded(&served);
            assert_eq!(opened_as(&served), ["latest"; 3], "{protocol}");
        });
    }
}

/// The names by which manifests were read.
fn opened_as(served: &Served) -> Vec<String> {
    let requests = served.registry.requests();
    let manifests = requests.iter().filter_map(|request| {
        let get = request.method == "GET";
        request.path.split_once("/manifests/").filter(|_| get)
    });
    manifests.map(|(_, name)| name.to_owned()).collect()
}

#[test]
#[ignore = "needs skopeo"]
fn warm_proxies_open_the_image_while_the_first_one_waits() {
    for protocol in SKOPEOS {
        run(async {
            let served = Served::slow(12, 20_000, slow_options());
            let outcome = pull(config(protocol), proxies(3), &served.reference()).await;
            assert_eq!(outcome.assert_succeeded(&served).proxies, 3, "{protocol}");
            assert_eq!(opened_as(&served), ["latest"; 3], "{protocol}");
        });
    }
}

/// A warm proxy is asked for the config, and for no layer before it has answered.
#[test]
#[ignore = "needs skopeo"]
fn an_unanswered_config_delays_no_layer() {
    for protocol in SKOPEOS {
        run(async {
            let served =
                Served::slow(6, 20_000, slow_options()).faults(&["config:headers-never*1"]);
            let outcome = pull(
                short_stall_config(protocol),
                proxies(2),
                &served.reference(),
            )
            .await;
            assert_eq!(outcome.assert_succeeded(&served).retries, 0, "{protocol}");
            let asked_the_warm_proxy = outcome
                .events
                .iter()
                .any(|event| matches!(event.kind, EventKind::BlobOpened { proxy: 1, .. }));
            assert!(!asked_the_warm_proxy, "{protocol}: {:#?}", outcome.events);
        });
    }
}

fn set_tag(layout: &Path, manifest: &Digest) {
    let blob = layout.join("blobs/sha256").join(manifest.digest());
    let size = std::fs::metadata(blob).unwrap().len();
    let manifest = Descriptor::new(MediaType::ImageManifest, size, manifest.clone());
    let store = Store::open(layout).unwrap();
    store.tag(&manifest, "latest").unwrap();
}

#[test]
#[ignore = "needs skopeo"]
fn a_tag_that_moves_while_warm_proxies_start_changes_nothing() {
    for protocol in SKOPEOS {
        run(async {
            let served = Served::slow(12, 20_000, slow_options());
            let other = random(5, 1000, 1000).write(served.layout.path(), "other");
            let others = other.unwrap();
            // All proxies use what the first one found, whatever the others find.
            let moving = async {
                let mut flips = [served.image.clone(), others.clone()].into_iter().cycle();
                loop {
                    let image = flips.next().unwrap();
                    set_tag(served.layout.path(), &image.manifest_digest);
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            };
            let reference = served.reference();
            let pulling = Box::pin(pull(config(protocol), proxies(6), &reference));
            let outcome = tokio::select! {
                outcome = pulling => outcome,
                never = moving => never,
            };
            let pulled = outcome.result.as_ref().unwrap();
            let digest = pulled.images[0].source_digest();
            let image = [&served.image, &others]
                .into_iter()
                .find(|image| image.manifest_digest == *digest);
            assert_image_stored(outcome.target.path(), image.unwrap());
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn dropping_an_opened_image_ends_its_warm_proxies() {
    for protocol in SKOPEOS {
        run(async {
            // All proxies can start while the image is being opened.
            let options = Options {
                ttfb: Duration::from_secs(1),
                ..slow_options()
            };
            let served = Served::slow(12, 20_000, options);
            let fetcher = Fetcher::new(config(protocol), proxies(6)).await.unwrap();
            let image = fetcher.open(&served.reference()).await.unwrap();
            assert_eq!(children(std::process::id()).len(), 6, "{protocol}");
            drop(image);
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn concurrent_pulls_of_one_fetcher_share_the_proxies() {
    const PULLS: usize = 6;
    const WORKERS: usize = 8;
    run(async {
        let slow = Options {
            ttfb: Duration::from_millis(100),
            ..Options::default()
        };
        let served = Served::slow(40, 1_000, slow);
        let options = options().workers(NonZeroUsize::new(WORKERS).unwrap());
        let fetcher = Fetcher::new(config(SKOPEOS[0]), options).await.unwrap();
        let reference = served.reference();
        let pulls = (0..PULLS).map(|_| async {
            let image = fetcher.open(&reference).await.unwrap();
            fetcher.pull(&image, Discard).await.unwrap()
        });
        let pulling = within_bound(join_all(pulls));
        tokio::pin!(pulling);
        let mut most = 0;
        loop {
            tokio::select! {
                _ = &mut pulling => break,
                () = tokio::time::sleep(Duration::from_millis(20)) => {
                    most = most.max(children(std::process::id()).len());
                }
            }
        }
        // One for each pull, and those that one pull may have. On a busy machine, others may help late ones.
        assert!(most <= 2 * (PULLS + WORKERS), "{most} proxies");
    });
}
