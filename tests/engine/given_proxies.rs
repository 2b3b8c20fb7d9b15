//! A fetcher over proxies that somebody else has started.

use longshore::{Error, Fetcher, ImageProxy, ImageRequest, OciLayout, Platforms};
use test_support::leaks::run;
use test_support::tools::SKOPEOS;
use test_support::within_bound;

use crate::harness::{Served, assert_image_stored, config, options};

async fn proxies(protocol: &str, number: usize) -> Vec<ImageProxy> {
    let mut proxies = Vec::new();
    for _ in 0..number {
        let proxy = ImageProxy::new_with_config(config(protocol));
        proxies.push(within_bound(proxy).await.unwrap());
    }
    proxies
}

#[test]
#[ignore = "needs skopeo"]
fn given_proxies_are_the_only_ones_and_outlive_the_fetcher() {
    for protocol in SKOPEOS {
        for number in [1, 2] {
            run(async {
                let served = Served::new(8, 20_000);
                let proxies = proxies(protocol, number).await;
                let fetcher = Fetcher::over(proxies.clone(), options());
                let image = within_bound(fetcher.open(&served.reference()))
                    .await
                    .unwrap();
                let target = tempfile::tempdir().unwrap();
                let sink = OciLayout::new(target.path(), Some("latest".into()));
                let pulled = within_bound(fetcher.pull(&image, sink)).await.unwrap();
                assert!(pulled.proxies <= number, "{}", pulled.proxies);
                assert_image_stored(target.path(), &served.image);
                drop((image, fetcher));
                for proxy in proxies {
                    let opened = within_bound(proxy.open_image(&served.reference()))
                        .await
                        .unwrap();
                    within_bound(proxy.close_image(opened)).await.unwrap();
                    within_bound(proxy.finalize()).await.unwrap();
                }
            });
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn ended_proxies_are_skipped_and_without_proxies_a_pull_fails() {
    run(async {
        let served = Served::new(3, 20_000);
        let proxies = proxies("0.2.8", 2).await;
        let fetcher = Fetcher::over(proxies.clone(), options());
        let mut proxies = proxies.into_iter();
        within_bound(proxies.next().unwrap().finalize())
            .await
            .unwrap();
        for _ in 0..2 {
            let image = within_bound(fetcher.open(&served.reference()))
                .await
                .unwrap();
            within_bound(fetcher.pull(&image, longshore::Discard))
                .await
                .unwrap();
        }
        within_bound(proxies.next().unwrap().finalize())
            .await
            .unwrap();
        let error = within_bound(fetcher.open(&served.reference()))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Closed), "{error:?}");
        let fetcher = Fetcher::over([], options());
        let error = within_bound(fetcher.open(&served.reference()))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Closed), "{error:?}");
    });
}

#[test]
#[ignore = "needs skopeo"]
fn requests_that_need_another_skopeo_are_refused() {
    run(async {
        let served = Served::new(3, 20_000);
        let fetcher = Fetcher::over(proxies("0.2.8", 1).await, options());
        let error = within_bound(fetcher.open_index(&served.reference())).await;
        let error = error.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("start the skopeo that this call needs"),
            "{error}"
        );
        let platform = Platforms::One("linux/arm64".parse().unwrap());
        let request = ImageRequest::new(served.reference()).platforms(platform);
        let mut pulling = fetcher.pull_many([request], longshore::Discard);
        let pulled = within_bound(pulling.next()).await.unwrap();
        let error = pulled.images.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("choose the platform of an image"),
            "{error}"
        );
    });
}
