//! A registry that refuses is asked only a few times.

use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use longshore::{Credentials, Error, FetchOptions, Fetcher, Proxies, RefusalKind};
use test_registry::auth::Auth;
use test_registry::server::Options;
use test_support::leaks::run;
use test_support::{tools, within_bound};

use crate::harness::{Served, config, options, pull, random, short_stall_config};

const TTFB: Duration = Duration::from_millis(50);

/// Options of a registry whose answers take so long that many proxies make a pull faster.
fn slow_with(auth: Auth) -> Options {
    Options {
        ttfb: TTFB,
        auth,
        ..Options::default()
    }
}

/// A registry with tokens for users who know the password. Answers are as slow as those of such services.
pub(crate) fn with_password() -> Served {
    let auth = Auth {
        basic: Some(("me".into(), "right".into())),
        bearer: Some("token".into()),
        refresh_token: None,
    };
    Served::with(slow_with(auth), &random(30, 2000, 0))
}

pub(crate) fn requests(served: &Served, path: &str) -> usize {
    let requests = served.registry.requests();
    requests
        .iter()
        .filter(|request| request.path.contains(path))
        .count()
}

pub(crate) fn login(
    served: &Served,
    protocol: &str,
    password: &str,
) -> longshore::ImageProxyConfig {
    let reference = served.reference();
    let host = reference.strip_prefix("docker://").unwrap();
    let (host, _) = host.split_once('/').unwrap();
    config(protocol).credentials(Credentials::password(host, "me", password))
}

#[test]
#[ignore = "needs skopeo"]
fn a_wrong_password_is_tried_once() {
    run(async {
        for protocol in tools::SKOPEOS {
            let served = with_password();
            let outcome = pull(
                login(&served, protocol, "wrong"),
                options(),
                &served.reference(),
            )
            .await;
            outcome.result.unwrap_err();
            assert_eq!(requests(&served, "/token"), 1, "{protocol}");
        }
    });
}

#[test]
#[ignore = "needs skopeo"]
fn a_wrong_password_for_an_index_is_tried_once() {
    run(async {
        for protocol in tools::SKOPEOS {
            let served = with_password();
            let config = login(&served, protocol, "wrong");
            let fetcher = Fetcher::new(config, options()).await.unwrap();
            let error = within_bound(fetcher.open_index(&served.reference()))
                .await
                .unwrap_err();
            assert!(
                matches!(error, Error::Refused { .. }),
                "{protocol}: {error:?}"
            );
            assert_eq!(requests(&served, "/token"), 1, "{protocol}");
        }
    });
}

/// The first opening is made alone, because the password may be wrong. After it has succeeded, other proxies ask, too.
#[test]
#[ignore = "needs skopeo"]
fn a_right_password_is_used_by_many_proxies() {
    run(async {
        for protocol in tools::SKOPEOS {
            let served = with_password();
            let outcome = pull(
                login(&served, protocol, "right"),
                options(),
                &served.reference(),
            )
            .await;
            let pulled = outcome.result.unwrap();
            assert!(pulled.proxies > 2, "{protocol}: {pulled:?}");
        }
    });
}

/// The manifest is requested once for each try, and once more by each proxy whose call was under way at the same time
/// as the first try.
#[test]
#[ignore = "needs skopeo"]
fn a_refused_manifest_is_requested_a_few_times() {
    run(async {
        for (fault, most) in [
            ("manifest:status=503", 13),
            ("manifest:status=500", 13),
            ("manifest:status=404", 8),
        ] {
            for protocol in tools::SKOPEOS {
                let served = Served::slow(30, 2000, slow_with(Auth::default())).faults(&[fault]);
                let outcome = pull(config(protocol), options(), &served.reference()).await;
                outcome.result.unwrap_err();
                let gets = served.registry.manifest_gets();
                assert!(gets <= most, "{fault} with {protocol}: {gets}");
            }
        }
    });
}

/// skopeo itself waits and retries, five times in each process, for half a minute.
#[test]
#[ignore = "needs skopeo"]
fn a_registry_that_throttles_openings_gets_no_further_proxies() {
    run(async {
        let served =
            Served::slow(30, 2000, slow_with(Auth::default())).faults(&["manifest:status=429"]);
        let outcome = pull(config("0.2.8"), options(), &served.reference()).await;
        outcome.result.unwrap_err();
        let gets = served.registry.manifest_gets();
        assert!(gets <= 30, "{gets}");
    });
}

#[test]
#[ignore = "needs skopeo"]
fn a_missing_index_is_requested_once() {
    run(async {
        for protocol in tools::SKOPEOS {
            let served = Served::new(1, 10).faults(&["manifest:status=404"]);
            let fetcher = Fetcher::new(config(protocol), options()).await.unwrap();
            let error = within_bound(fetcher.open_index(&served.reference()))
                .await
                .unwrap_err();
            let message = error.to_string();
            assert!(
                matches!(error, Error::Refused { .. }),
                "{protocol}: {error:?}"
            );
            assert_eq!(message, "skopeo inspect failed");
            assert_eq!(served.registry.manifest_gets(), 1, "{protocol}");
        }
    });
}

/// The only proxy that has the image open gets no answer for a layer and is ended. The image is gone when the next proxy
/// opens it.
#[test]
#[ignore = "needs skopeo"]
fn an_image_that_can_not_be_opened_again_fails() {
    run(async {
        for protocol in tools::SKOPEOS {
            let faults = [
                "blob#0:headers-never",
                "manifest:ttfb=1ms*1",
                "manifest:status=404",
            ];
            let served = Served::new(1, 1000).faults(&faults);
            let options = options().proxies(Proxies::Fixed(NonZeroUsize::MIN));
            let outcome = pull(short_stall_config(protocol), options, &served.reference()).await;
            let error = outcome.result.unwrap_err();
            assert_eq!(
                error.kind(),
                Some(RefusalKind::NotFound),
                "{protocol}: {error:?}"
            );
            let gets = served.registry.manifest_gets();
            assert!(gets <= 3, "{protocol}: {gets}");
        }
    });
}

/// All of 200 layers answer 503. The first refusals come together, and then one proxy asks at a time.
#[test]
#[ignore = "needs skopeo"]
fn a_registry_that_refuses_all_blobs_gets_few_requests() {
    run(async {
        for protocol in tools::SKOPEOS {
            let served = Served::slow(200, 100, slow_with(Auth::default()))
                .faults(&["blob:status=503,retry-after=120"]);
            let outcome = pull(config(protocol), options(), &served.reference()).await;
            outcome.result.unwrap_err();
            let gets = requests(&served, "/blobs/");
            assert!(gets <= 40, "{protocol}: {gets}");
        }
    });
}

/// When the registry answers again, all proxies go on.
#[test]
#[ignore = "needs skopeo"]
fn after_an_outage_all_blobs_are_fetched() {
    run(async {
        for protocol in tools::SKOPEOS {
            let served =
                Served::slow(60, 100, slow_with(Auth::default())).faults(&["blob#5:ttfb=60ms*1"]);
            // As many layers in a row are refused as there are retries. After more refusals without an answer in
            // between, the registry would be given up.
            let refused = (0..4).chain((10..50).step_by(10));
            let faults: Vec<String> = refused
                .map(|layer| format!("blob#{layer}:status=503*1"))
                .collect();
            let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
            let served = served.faults(&faults);
            let outcome = pull(
                config(protocol),
                FetchOptions::default(),
                &served.reference(),
            )
            .await;
            let pulled = outcome.result.unwrap();
            assert_eq!(pulled.fetched_blobs, 61, "{protocol}");
            assert!(pulled.retries >= 8, "{protocol}: {}", pulled.retries);
            assert_eq!(requests(&served, "/blobs/"), 61 + 8, "{protocol}");
        }
    });
}

/// A failure that a retry can't change is not retried.
#[test]
#[ignore = "needs skopeo"]
fn local_failures_are_not_retried() {
    run(async {
        for protocol in tools::SKOPEOS {
            let folder = tempfile::tempdir().unwrap();
            let broken = folder.path().join("broken.json");
            fs::write(&broken, "{").unwrap();
            let served = Served::slow(3, 100, slow_with(Auth::default()));
            let reference = served.reference();
            let malformed = reference.replace("docker://", "docker://UPPER/");
            let layout = format!("oci:{}:none", served.layout.path().display());
            // Each try starts a skopeo.
            let (counted, starts) = (folder.path().join("skopeo"), folder.path().join("starts"));
            let real = tools::skopeo(protocol);
            let script = format!(
                "#!/bin/sh\necho >> {}\nexec {} \"$@\"\n",
                starts.display(),
                real.display()
            );
            fs::write(&counted, script).unwrap();
            fs::set_permissions(&counted, fs::Permissions::from_mode(0o755)).unwrap();
            let config = || config(protocol).skopeo_path(counted.clone());
            let mut cases = vec![
                (config().authfile(broken.clone()), reference.clone()),
                (config(), malformed),
                (config(), layout),
                (config(), "docker://127.0.0.1:99999/a:b".to_owned()),
            ];
            if protocol != "0.2.3" {
                let config = config().insecure_policy(false).policy(broken);
                cases.push((config, reference));
            }
            let options = options().start_ahead(false);
            for (number, (config, reference)) in cases.into_iter().enumerate() {
                let fetcher = Fetcher::new(config, options.clone()).await.unwrap();
                let error = within_bound(fetcher.open(&reference)).await.unwrap_err();
                assert!(matches!(error, Error::Refused { .. }), "{error:?}");
                let starts = fs::read_to_string(&starts).unwrap().lines().count();
                assert_eq!(starts, number + 1, "{protocol}: {reference}");
            }
        }
    });
}
