//! Callers may use numbers as small or as large as their types allow. Nothing overflows, panics or hangs.

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use longshore::{
    ConnectionOptions, Discard, FetchOptions, Fetcher, ImageProxyConfig, Proxies, RetryPolicy,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use test_support::leaks::run;
use test_support::within_bound;

use crate::harness::{Served, config};

/// The durations for timeouts: zero, which means no timeout, and longer and longer ones. None is so short that a pull
/// could exceed it.
fn duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        Just(Duration::ZERO),
        Just(Duration::from_secs(30)),
        Just(Duration::from_secs(u64::from(u32::MAX))),
        Just(Duration::from_secs(u64::MAX)),
        Just(Duration::MAX),
    ]
}

fn number() -> impl Strategy<Value = NonZeroUsize> {
    let number = |n| Just(NonZeroUsize::new(n).unwrap());
    prop_oneof![
        number(1),
        number(2),
        number(1 << 32),
        number(usize::MAX - 1),
        number(usize::MAX),
    ]
}

fn amount() -> impl Strategy<Value = NonZeroU64> {
    let number = |n| Just(NonZeroU64::new(n).unwrap());
    // Less would not be enough for the image.
    prop_oneof![number(1 << 20), number(1 << 32), number(u64::MAX)]
}

fn fetch_options() -> impl Strategy<Value = FetchOptions> {
    let proxies = prop_oneof![
        Just(Proxies::Auto),
        number().prop_map(Proxies::Fixed),
        (number(), number()).prop_map(|(min, max)| Proxies::Range { min, max }),
    ];
    let retries = prop_oneof![Just(0), Just(u32::MAX)];
    (
        proxies,
        [number(), number()],
        retries,
        [duration(), duration()],
        proptest::option::of(duration().prop_filter("none at all", |wait| !wait.is_zero())),
        [amount(), amount()],
    )
        .prop_map(
            |(proxies, [workers, per_host], retries, [initial, most], deadline, [rate, times])| {
                let mut retry = RetryPolicy::default()
                    .retries(retries)
                    .initial_backoff(initial)
                    .max_backoff(most);
                retry.deadline = deadline;
                FetchOptions::default()
                    .proxies(proxies)
                    .proxies_per_host(per_host)
                    .workers(workers)
                    .limit_rate(rate)
                    .max_expansion(times)
                    .max_zstd_window(times)
                    .max_documents_bytes(rate.get())
                    .retry(retry)
            },
        )
}

fn connection() -> impl Strategy<Value = ConnectionOptions> {
    let least = prop_oneof![Just(0), Just(1), Just(u64::MAX)];
    let limit = || duration().prop_map(|limit| (!limit.is_zero()).then_some(limit));
    let times = (limit(), limit(), duration());
    (times, amount(), least).prop_map(|((stall, call, end), bytes, least)| {
        ConnectionOptions::default()
            .stall_timeout(stall)
            .least_rate(least)
            .call_timeout(call)
            // Zero really means no time for this option.
            .shutdown_timeout(end.max(Duration::from_secs(30)))
            .max_document_bytes(bytes.get())
    })
}

async fn pull(config: ImageProxyConfig, options: FetchOptions, reference: &str, ahead: usize) {
    let fetcher = Fetcher::new(config, options).await.unwrap();
    let image = fetcher.open(reference).await.unwrap();
    let pulled = fetcher.pull(&image, Discard).await.unwrap();
    assert_eq!(pulled.fetched_blobs, 4);
    let mut layers = fetcher.layers(&image, ahead).await.unwrap();
    for _ in 0..3 {
        layers.next().await.unwrap().unwrap();
    }
    assert!(layers.next().await.is_none());
}

#[test]
#[ignore = "needs skopeo"]
fn extreme_numbers_cause_no_panic_or_hang() {
    let ahead = prop_oneof![Just(0), Just(usize::MAX - 1), Just(usize::MAX)];
    let mut runner = TestRunner::new(ProptestConfig::with_cases(40));
    let all = (fetch_options(), connection(), ahead);
    let result = runner.run(&all, |(options, connection, ahead)| {
        run(async {
            let served = Served::new(3, 1000);
            let mut config = config("0.2.8");
            config.connection = connection;
            within_bound(Box::pin(pull(config, options, &served.reference(), ahead))).await;
        });
        Ok(())
    });
    result.unwrap();
}
