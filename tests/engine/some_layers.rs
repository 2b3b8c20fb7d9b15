//! Fetches only some layers of an image, for callers that have the others.

use std::io::{self, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use longshore::oci_spec::image::Digest;
use longshore::{BlockingReader, Error, Fetcher, Layer, LayerReader, Result};
use test_registry::image::Written;
use test_support::leaks::run;
use test_support::tools::SKOPEOS;
use test_support::{sha256, within_bound};
use tokio::io::AsyncReadExt as _;

use crate::harness::{Served, config, options};

const LAYERS: usize = 6;

fn served() -> Served {
    Served::new(LAYERS as u64, 5000)
}

fn digest_of(image: &Written, layer: usize) -> Digest {
    image.layers[layer].digest().clone()
}

async fn digest(_: Layer, mut reader: LayerReader) -> io::Result<Digest> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await?;
    Ok(sha256(&bytes))
}

fn digest_blocking(_: Layer, mut reader: BlockingReader) -> io::Result<Digest> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    Ok(sha256(&bytes))
}

#[test]
#[ignore = "needs skopeo"]
fn only_these_layers_are_fetched_and_not_the_config() {
    for protocol in SKOPEOS {
        run(async {
            let served = served();
            let fetcher = Fetcher::new(config(protocol), options()).await.unwrap();
            let image = within_bound(fetcher.open(&served.reference()))
                .await
                .unwrap();
            let all = image.layers();
            let wanted = [all[4].clone(), all[1].clone()];
            let expected = [4, 1].map(|layer| digest_of(&served.image, layer));
            let pairs: Vec<_> = wanted.iter().cloned().zip(expected.clone()).collect();
            let found = within_bound(fetcher.for_each_of(&image, &wanted, digest)).await;
            assert_eq!(found.unwrap(), pairs, "{protocol}");
            let found = fetcher.for_each_of_blocking(&image, &wanted, digest_blocking);
            assert_eq!(within_bound(found).await.unwrap(), pairs, "{protocol}");
            let mut stream = fetcher.layers_of(&image, &wanted, 1).unwrap();
            let mut found = Vec::new();
            // The result is a `Stream`.
            while let Some(next) = within_bound(futures_util::StreamExt::next(&mut stream)).await {
                let (_, mut reader) = next.unwrap();
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).await.unwrap();
                found.push(sha256(&bytes));
            }
            assert_eq!(found, expected, "{protocol}");
            for layer in [0, 2, 3, 5] {
                assert_eq!(served.gets(layer), 0, "{protocol}");
            }
            let config = served.image.config_digest.clone();
            assert_eq!(served.registry.blob_gets(&config), 0, "{protocol}");
            let none = within_bound(fetcher.for_each_of(&image, &[], digest))
                .await
                .unwrap();
            assert!(none.is_empty());
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_layer_of_another_image_is_an_error() {
    run(async {
        let (served, other) = (served(), Served::new(1, 7000));
        let fetcher = Fetcher::new(config("0.2.8"), options()).await.unwrap();
        let image = within_bound(fetcher.open(&served.reference()))
            .await
            .unwrap();
        let theirs = within_bound(fetcher.open(&other.reference()))
            .await
            .unwrap()
            .layers();
        let refused = within_bound(fetcher.for_each_of(&image, &theirs, digest)).await;
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::Image(_)), "{error:?}");
        assert!(
            error
                .to_string()
                .contains(theirs[0].descriptor.digest().as_ref())
        );
        fetcher.layers_of(&image, &theirs, 1).unwrap_err();
    });
}

#[test]
#[ignore = "needs skopeo"]
fn the_config_is_fetched_once() {
    run(async {
        let served = served();
        let fetcher = Fetcher::new(config("0.2.8"), options()).await.unwrap();
        let image = within_bound(fetcher.open(&served.reference()))
            .await
            .unwrap();
        let content = within_bound(fetcher.content(&image)).await.unwrap();
        assert_eq!(content.layers().len(), LAYERS);
        within_bound(fetcher.for_each_layer(&image, digest))
            .await
            .unwrap();
        within_bound(fetcher.content(&image.clone())).await.unwrap();
        let config = served.image.config_digest.clone();
        assert_eq!(served.registry.blob_gets(&config), 1);
    });
}

#[test]
#[ignore = "needs skopeo"]
fn handlers_that_block_are_run_again_and_their_errors_come_back() {
    #[derive(Debug, thiserror::Error)]
    #[error("disk full")]
    struct Full;

    for protocol in SKOPEOS {
        run(async {
            let served = served().faults(&["blob#2:corrupt*1"]);
            let fetcher = Fetcher::new(crate::harness::short_stall_config(protocol), options());
            let fetcher = fetcher.await.unwrap();
            let image = within_bound(fetcher.open(&served.reference()))
                .await
                .unwrap();
            let runs = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&runs);
            let handler = move |layer, reader| {
                counted.fetch_add(1, Ordering::Relaxed);
                digest_blocking(layer, reader)
            };
            let found = within_bound(fetcher.for_each_layer_blocking(&image, handler)).await;
            let expected: Vec<Digest> = (0..LAYERS)
                .map(|layer| digest_of(&served.image, layer))
                .collect();
            assert_eq!(found.unwrap(), expected, "{protocol}");
            assert!(runs.load(Ordering::Relaxed) > LAYERS, "{protocol}");
            let fails = |_: Layer, _: BlockingReader| Err::<(), _>(Full);
            let failed = within_bound(fetcher.for_each_layer_blocking(&image, fails)).await;
            let error = failed.unwrap_err();
            assert!(error.handler_ref::<Full>().is_some(), "{error:?}");
            assert!(error.handler_ref::<io::Error>().is_none());
        });
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_handler_that_blocks_ends_with_its_fetch() {
    run(async {
        let served = served().faults(&["blob#0:stall=half"]);
        let fetcher = Fetcher::new(config("0.2.8"), options()).await.unwrap();
        let image = within_bound(fetcher.open(&served.reference()))
            .await
            .unwrap();
        let (ended, mut wait) = tokio::sync::mpsc::unbounded_channel();
        let handler = move |layer: Layer, reader| -> Result<(), io::Error> {
            let read = digest_blocking(layer.clone(), reader);
            if layer.index == 0 {
                ended.send(read.is_err()).unwrap();
            }
            Ok(())
        };
        let mut fetching = Box::pin(fetcher.for_each_layer_blocking(&image, handler));
        let early = tokio::time::timeout(std::time::Duration::from_millis(500), &mut fetching);
        assert!(early.await.is_err());
        drop(fetching);
        assert_eq!(within_bound(wait.recv()).await, Some(true));
    });
}

#[cfg(feature = "decompress")]
#[test]
#[ignore = "needs skopeo"]
fn chosen_layers_can_be_read_decompressed() {
    use crate::harness::blob_error;
    use longshore::{BlobError, UncompressedReader};

    run(async {
        let served = served();
        let fetcher = Fetcher::new(config("0.2.8"), options()).await.unwrap();
        let image = within_bound(fetcher.open(&served.reference()))
            .await
            .unwrap();
        let content = within_bound(fetcher.content(&image)).await.unwrap();
        let wanted = [content.layers()[3].clone()];
        let handler = |_: Layer, mut reader: UncompressedReader| async move {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).await?;
            Ok::<_, io::Error>(sha256(&bytes))
        };
        let found = within_bound(fetcher.for_each_of_uncompressed(&image, &wanted, handler))
            .await
            .unwrap();
        let expected = wanted[0].diff_id.clone().unwrap();
        assert_eq!(found, [(wanted[0].clone(), expected)]);
        assert_eq!(served.gets(2), 0);
        // A wrong layer is noticed.
        let mut wrong = wanted[0].clone();
        wrong.diff_id = Some(served.image.config_digest.clone());
        let wrong = [wrong];
        let failed = within_bound(fetcher.for_each_of_uncompressed(&image, &wrong, handler)).await;
        let is_noticed = |error: longshore::Error| {
            let (_, why) = blob_error(&error);
            assert!(matches!(why, BlobError::WrongDiffId { .. }), "{error:?}");
        };
        is_noticed(failed.unwrap_err());
        // `finish` reads the rest, and returns the same error.
        let finishes = |_: Layer, reader: UncompressedReader| reader.finish();
        let failed = within_bound(fetcher.for_each_of_uncompressed(&image, &wrong, finishes)).await;
        is_noticed(failed.unwrap_err());
        let finishes = |_: Layer, reader: BlockingReader| reader.finish();
        let failed = fetcher.for_each_of_uncompressed_blocking(&image, &wrong, finishes);
        is_noticed(within_bound(failed).await.unwrap_err());
        within_bound(fetcher.for_each_of_uncompressed_blocking(&image, &wanted, finishes))
            .await
            .unwrap();
        let all =
            within_bound(fetcher.for_each_layer_uncompressed_blocking(&image, digest_blocking));
        let all = all.await.unwrap();
        let diff_ids = content
            .layers()
            .iter()
            .map(|layer| layer.diff_id.clone().unwrap());
        assert_eq!(all, diff_ids.collect::<Vec<_>>());
    });
}

/// A result that can't be cloned.
#[derive(Debug, PartialEq)]
struct Once(Digest);

#[test]
#[ignore = "needs skopeo"]
fn a_blob_that_occurs_twice_is_handled_once_without_cloning_its_result() {
    run(async {
        let served = served();
        let fetcher = Fetcher::new(config("0.2.8"), options()).await.unwrap();
        let image = within_bound(fetcher.open(&served.reference()))
            .await
            .unwrap();
        let all = image.layers();
        let wanted = [all[3].clone(), all[0].clone(), all[3].clone()];
        let handler = |layer, reader| async move { digest(layer, reader).await.map(Once) };
        let found = within_bound(fetcher.for_each_of(&image, &wanted, handler)).await;
        let expected = [3, 0].map(|layer| {
            let digest = digest_of(&served.image, layer);
            (all[layer].clone(), Once(digest))
        });
        assert_eq!(found.unwrap(), expected);
        assert_eq!(served.gets(3), 1);
    });
}
