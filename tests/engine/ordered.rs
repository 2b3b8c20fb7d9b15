//! Layers one after another, in their order.

use longshore::{BlobError, Error, FetchOptions, Fetcher, ImageProxyConfig};
use test_registry::image::ImageBuilder;
use test_registry::server::{Options, Registry};
use tokio::io::AsyncReadExt;

use test_support::tools;

async fn fetcher() -> Fetcher {
    let config = ImageProxyConfig::default()
        .skopeo_path(tools::skopeo("0.2.8"))
        .insecure_skip_tls_verification(true);
    Fetcher::new(config, FetchOptions::default()).await.unwrap()
}

/// Serves an image with this many layers, one of which occurs twice.
fn serve(folder: &std::path::Path, layers: u64) -> (Registry, Vec<String>) {
    let mut image = ImageBuilder::new();
    for layer in 0..layers {
        image = image.layer_random(1000 + 40_000 * (layer % 5), layer.min(layers - 2));
    }
    let written = image.write(folder, "v1").unwrap();
    let digests = written
        .layers
        .iter()
        .map(|layer| layer.digest().to_string())
        .collect();
    (
        Registry::start(folder, Options::default()).unwrap(),
        digests,
    )
}

#[tokio::test]
#[ignore = "needs skopeo"]
async fn layers_come_in_order_for_any_window() {
    let folder = tempfile::tempdir().unwrap();
    let (registry, digests) = serve(folder.path(), 12);
    let fetcher = fetcher().await;
    let image = fetcher.open(&registry.reference("v1")).await.unwrap();
    for ahead in [0, 1, 3, 20] {
        let mut stream = fetcher.layers(&image, ahead).await.unwrap();
        let mut came = Vec::new();
        while let Some(next) = stream.next().await {
            let (layer, mut reader) = next.unwrap();
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).await.unwrap();
            assert_eq!(bytes.len() as u64, layer.descriptor.size());
            came.push(layer.descriptor.digest().to_string());
        }
        assert_eq!(came, digests, "{ahead} ahead");
        assert!(stream.next().await.is_none());
    }
}

#[tokio::test]
#[ignore = "needs skopeo"]
async fn unread_layers_are_verified() {
    let folder = tempfile::tempdir().unwrap();
    let (registry, digests) = serve(folder.path(), 4);
    registry.set_faults(vec!["blob#2:corrupt".parse().unwrap()]);
    let fetcher = fetcher().await;
    let image = fetcher.open(&registry.reference("v1")).await.unwrap();
    let mut stream = fetcher.layers(&image, 2).await.unwrap();
    let error = loop {
        match stream.next().await.expect("an error comes") {
            Ok((_, reader)) => drop(reader),
            Err(error) => break error,
        }
    };
    let Error::Blob {
        digest,
        source: BlobError::Corrupt { .. },
        ..
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!(digest.to_string(), digests[2]);
    assert!(stream.next().await.is_none());
}

#[tokio::test]
#[ignore = "needs skopeo"]
async fn a_layer_that_breaks_while_it_is_read_ends_the_stream() {
    let folder = tempfile::tempdir().unwrap();
    let (registry, digests) = serve(folder.path(), 6);
    registry.set_faults(vec!["blob#1:corrupt".parse().unwrap()]);
    let fetcher = fetcher().await;
    let image = fetcher.open(&registry.reference("v1")).await.unwrap();
    let mut stream = fetcher.layers(&image, 1).await.unwrap();
    let (_, first) = stream.next().await.unwrap().unwrap();
    drop(first);
    let (_, mut second) = stream.next().await.unwrap().unwrap();
    let error = second.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert!(error.to_string().contains(&digests[1]), "{error}");
    drop(second);
    let error = loop {
        match stream.next().await.expect("an error comes") {
            Ok((_, reader)) => drop(reader),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains(&digests[1]), "{error}");
    assert_eq!(
        registry.blob_gets(&digests[1]),
        1,
        "its reader had a part of it"
    );
}

#[tokio::test]
#[ignore = "needs skopeo"]
async fn a_layer_that_is_refused_before_it_is_returned_is_retried() {
    let folder = tempfile::tempdir().unwrap();
    let (registry, digests) = serve(folder.path(), 5);
    registry.set_faults(vec!["blob#3:status=500*2".parse().unwrap()]);
    let fetcher = fetcher().await;
    let image = fetcher.open(&registry.reference("v1")).await.unwrap();
    let mut stream = fetcher.layers(&image, 4).await.unwrap();
    let mut came = Vec::new();
    while let Some(next) = stream.next().await {
        let (layer, _) = next.unwrap();
        came.push(layer.descriptor.digest().to_string());
    }
    assert_eq!(came, digests);
}

#[tokio::test]
#[ignore = "needs skopeo"]
async fn an_image_without_layers_has_an_empty_stream() {
    let folder = tempfile::tempdir().unwrap();
    ImageBuilder::new().write(folder.path(), "v1").unwrap();
    let registry = Registry::start(folder.path(), Options::default()).unwrap();
    let fetcher = fetcher().await;
    let image = fetcher.open(&registry.reference("v1")).await.unwrap();
    let mut stream = fetcher.layers(&image, 1).await.unwrap();
    assert!(stream.next().await.is_none());
}
