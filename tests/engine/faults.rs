//! Registries that stall, cut, refuse, or answer late. The pull succeeds, or fails after as many tries as the
//! policy allows, and names the blob.

use crate::harness::{
    Outcome, STALL, Served, blob_error, config, options, pull, retries, short_stall_config,
};
use futures_util::{StreamExt, stream};
use longshore::{BlobError, ConnectionOptions, EventKind, FetchOptions, ImageProxyConfig};
use test_support::chain;
use test_support::leaks::run;
use test_support::tools::SKOPEOS;

const LAYERS: u64 = 6;
const SIZE: u64 = 100_000;

/// The number of pulls at the same time. With more of them, each takes so long on a small machine that short
/// timeouts expire without reason.
const AT_ONCE: usize = 6;

/// A pull from a registry of its own.
struct Case {
    /// The protocol version of the skopeo.
    protocol: &'static str,
    fault: &'static str,
    served: Served,
    outcome: Outcome,
}

/// Pulls with each skopeo for each of these faults, all at the same time.
///
/// A skopeo before protocol 0.2.8 does not report that a transfer was cut. The bytes just stop, so
/// [`short_stall_config`] is needed to notice it in time.
async fn pull_with_each(
    config: fn(&str) -> ImageProxyConfig,
    options: FetchOptions,
    faults: &[&'static str],
) -> Vec<Case> {
    let cases = faults.iter().flat_map(|fault| {
        SKOPEOS.map(|protocol| {
            let (config, options) = (config(protocol), options.clone());
            // Boxed, because there are many futures and they are large.
            Box::pin(async move {
                let faults: Vec<&str> = fault.split_whitespace().collect();
                let served = Served::new(LAYERS, SIZE).faults(&faults);
                let outcome = pull(config, options, &served.reference()).await;
                Case {
                    protocol,
                    fault,
                    served,
                    outcome,
                }
            })
        })
    });
    stream::iter(cases).buffered(AT_ONCE).collect().await
}

/// Whether this skopeo itself asks for the rest of a blob whose transfer breaks off. It does so once, for
/// blobs of this size.
fn resumes(protocol: &str) -> bool {
    protocol != "0.2.3"
}

#[test]
#[ignore = "needs skopeo"]
fn a_stalled_blob_is_fetched_again() {
    run(async {
        let fault = "blob#2:stall=half*1";
        for case in pull_with_each(short_stall_config, options(), &[fault]).await {
            let Case {
                protocol,
                served,
                outcome,
                ..
            } = case;
            outcome.assert_succeeded(&served);
            // On a busy machine, other transfers may stall, too.
            let retries = outcome.retries_of(2);
            assert!(retries >= 1, "{protocol}");
            assert_eq!(served.gets(2), retries + 1, "{protocol}");
            // A skopeo that can't be told to give up a blob is replaced.
            let losses = outcome.lost_proxies();
            let replaced = losses.iter().any(|why| why.contains("stalled"));
            assert_eq!(replaced, protocol != "0.2.8", "{protocol}: {losses:?}");
        }
    });
}

#[test]
#[ignore = "needs skopeo"]
fn blobs_whose_first_transfers_are_cut_are_fetched_again() {
    run(async {
        let faults = "blob#0:cut=half*1 blob#1:cut=half*1 blob#2:cut=half*1 \
                      blob#3:cut=half*1 blob#4:cut=half*1 blob#5:cut=half*1";
        for case in pull_with_each(short_stall_config, options(), &[faults]).await {
            let Case {
                protocol,
                served,
                outcome,
                ..
            } = case;
            let pulled = outcome.assert_succeeded(&served);
            let expected = if resumes(protocol) { 0 } else { 6 };
            assert_eq!(pulled.retries, expected, "{protocol}");
            assert_eq!(pulled.fetched_blobs, 7, "{protocol}");
            for layer in 0..6 {
                assert_eq!(served.gets(layer), 2, "{protocol}");
            }
        }
    });
}

#[test]
#[ignore = "needs skopeo"]
fn broken_transfers_are_retried() {
    run(async {
        let faults = [
            "blob#1:reset=half*3",
            "blob#1:reset=0*2",
            "blob#1:cut=half*3",
            "config:cut=half*2",
        ];
        for case in pull_with_each(short_stall_config, options(), &faults).await {
            let pulled = case.outcome.assert_succeeded(&case.served);
            let Case {
                protocol, fault, ..
            } = case;
            assert_eq!(pulled.fetched_blobs, 7, "{protocol} {fault}");
        }
    });
}

#[test]
#[ignore = "needs skopeo"]
fn transient_faults_are_retried_and_disturb_no_other_blob() {
    run(async {
        let faults = [
            "blob#1:status=500*2",
            "blob#1:status=503*2",
            "blob#1:corrupt*1",
            "blob#1:content-length=7*1",
            "blob#1:longer=1*1",
            "blob#1:chunked-longer=1*1",
            "config:content-length=7*1",
            "config:status=500*2",
            "config:corrupt*1",
            "manifest:status=500*1",
        ];
        for case in pull_with_each(config, options(), &faults).await {
            let Case {
                protocol,
                fault,
                served,
                outcome,
            } = case;
            let pulled = outcome.assert_succeeded(&served);
            assert_eq!(pulled.fetched_blobs, 7, "{protocol} {fault}");
            for other in [0, 2, 3, 4, 5] {
                assert_eq!(outcome.retries_of(other), 0, "{protocol} {fault}");
                assert_eq!(served.gets(other), 1, "{protocol} {fault}");
            }
        }
    });
}

#[test]
#[ignore = "needs skopeo"]
fn a_permanently_broken_blob_is_named_after_all_retries() {
    run(async {
        let faults = ["blob#3:cut=half", "blob#3:corrupt", "blob#3:status=500"];
        let options = options().retry(retries(2));
        for case in pull_with_each(short_stall_config, options, &faults).await {
            let Case {
                protocol,
                fault,
                served,
                outcome,
            } = case;
            let (digest, source) = blob_error(outcome.error());
            assert_eq!(digest, served.digest(3), "{protocol} {fault}");
            assert!(
                !matches!(source, BlobError::Connection(_)),
                "{protocol} {fault}: {source:?}"
            );
            let twice = fault.ends_with("=half") && resumes(protocol);
            let gets = if twice { 6 } else { 3 };
            assert_eq!(served.gets(3), gets, "{protocol} {fault}");
            assert_eq!(outcome.retries_of(3), 2, "{protocol} {fault}");
            let failed = |kind: &EventKind| matches!(kind, EventKind::BlobFailed { blob, .. } if blob.layer == 3);
            assert_eq!(outcome.count(failed), 1, "{protocol} {fault}");
        }
    });
}

#[test]
#[ignore = "needs skopeo"]
fn a_permanently_stalled_blob_is_named_after_all_retries() {
    run(async {
        let faults = ["blob#3:stall=half", "blob#3:headers-never"];
        let options = options().retry(retries(1));
        for case in pull_with_each(short_stall_config, options, &faults).await {
            let Case {
                protocol,
                fault,
                served,
                outcome,
            } = case;
            let (digest, source) = blob_error(outcome.error());
            assert_eq!(digest, served.digest(3), "{protocol} {fault}");
            assert!(
                matches!(source, BlobError::Stalled { .. }),
                "{protocol} {fault}: {source:?}"
            );
            assert_eq!(served.gets(3), 2, "{protocol} {fault}");
        }
    });
}

#[test]
#[ignore = "needs skopeo"]
fn without_retries_the_first_failure_ends_the_pull() {
    run(async {
        let faults = [
            "blob#3:cut=half*2",
            "blob#3:corrupt*1",
            "blob#3:status=500*1",
            "blob#3:stall=half*1",
        ];
        let options = options().retry(retries(0));
        // Without retries, no other blob may stall on a busy machine, so the stall timeout is longer than elsewhere.
        let patient = |protocol: &str| {
            let mut config = config(protocol);
            config.connection = ConnectionOptions::default().stall_timeout(4 * STALL);
            config
        };
        for case in pull_with_each(patient, options, &faults).await {
            let Case {
                protocol,
                fault,
                served,
                outcome,
            } = case;
            let (digest, source) = blob_error(outcome.error());
            assert_eq!(digest, served.digest(3), "{protocol} {fault}: {source:?}");
            let resumed = fault.contains("cut") && resumes(protocol);
            let gets = 1 + usize::from(resumed);
            assert_eq!(served.gets(3), gets, "{protocol} {fault}");
            assert_eq!(outcome.retries_of(3), 0, "{protocol} {fault}");
        }
    });
}

#[test]
#[ignore = "needs skopeo"]
fn permanent_refusals_are_not_retried() {
    run(async {
        let faults = [
            "blob#3:status=404",
            "blob#3:status=401",
            "blob#3:status=403",
        ];
        for case in pull_with_each(config, options(), &faults).await {
            let Case {
                protocol,
                fault,
                served,
                outcome,
            } = case;
            let (digest, source) = blob_error(outcome.error());
            assert_eq!(digest, served.digest(3), "{protocol} {fault}");
            assert!(
                matches!(source, BlobError::Refused(_)),
                "{protocol} {fault}: {source:?}"
            );
            assert_eq!(served.gets(3), 1, "{protocol} {fault}");
        }
    });
}

#[test]
#[ignore = "needs skopeo"]
fn a_missing_image_is_requested_once() {
    run(async {
        for protocol in SKOPEOS {
            let served = Served::new(1, 10);
            let missing = served.registry.reference("not");
            // A warm proxy opens the image before the first one has its answer.
            let options = options().start_ahead(false);
            let outcome = pull(config(protocol), options, &missing).await;
            let error = chain(outcome.error());
            assert!(
                error.contains("opening the image failed"),
                "{protocol}: {error}"
            );
            assert_eq!(served.registry.manifest_gets(), 1, "{protocol}");
        }
    });
}

#[test]
#[ignore = "needs skopeo"]
fn a_registry_that_throttles_is_no_failure() {
    run(async {
        let pulls = SKOPEOS.map(|protocol| {
            Box::pin(async move {
                let served = Served::new(20, 1000).faults(&["any:rate=10"]);
                let outcome = pull(config(protocol), options(), &served.reference()).await;
                (protocol, served, outcome)
            })
        });
        for (protocol, served, outcome) in stream::iter(pulls)
            .buffered(AT_ONCE)
            .collect::<Vec<_>>()
            .await
        {
            outcome.assert_succeeded(&served);
            // A refusal causes a wait, and no further proxies.
            let requests = served.registry.requests().len();
            assert!(requests < 200, "{protocol}: {requests}");
        }
    });
}
