//! Decompressed layers, verified against the image config.

#![cfg(feature = "decompress")]
use std::io::Write as _;
use std::num::NonZeroU64;
use std::path::Path;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use longshore::{
    BlobError, Error, FetchOptions, Fetcher, ImageProxyConfig, Layer, LayerReader, Result,
};
use test_registry::image::ImageBuilder;
use test_registry::server::Options;
use test_support::leaks::run;
use test_support::{sha256, tools, within_bound};
use tokio::io::AsyncReadExt;

use crate::harness::{Served, config, options};

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn tar(content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", content).unwrap();
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// All layers of `oci:FOLDER:v1`, decompressed, or only the first bytes of each.
async fn layers(folder: &Path, options: FetchOptions, most: u64) -> Result<Vec<Vec<u8>>> {
    let config = ImageProxyConfig::default().skopeo_path(tools::skopeo("0.2.8"));
    let fetcher = Fetcher::new(config, options).await?;
    let image = fetcher
        .open(&format!("oci:{}:v1", folder.display()))
        .await?;
    fetcher
        .for_each_layer_uncompressed(&image, move |_, reader| async move {
            let mut bytes = Vec::new();
            reader.take(most).read_to_end(&mut bytes).await?;
            Ok::<_, std::io::Error>(bytes)
        })
        .await
}

fn blob_error(error: Error) -> BlobError {
    match error {
        Error::Blob { source, .. } => source,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
#[ignore = "needs skopeo"]
async fn gzip_of_one_member_and_of_several_and_plain_tar() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (tar(&vec![1; 100_000]), tar(b"two"));
    let (left, right) = two.split_at(700);
    let image = ImageBuilder::new()
        .layer_tar_gz(gzip(&one))
        .layer_tar_gz([gzip(left), gzip(right)].concat())
        .layer_blob("application/vnd.oci.image.layer.v1.tar", two.clone())
        .layer_blob("application/vnd.oci.image.layer.v1.tar", b"x".to_vec())
        .layer_blob("application/vnd.oci.image.layer.v1.tar", b"".to_vec());
    image.write(folder.path(), "v1").unwrap();
    let came = layers(folder.path(), FetchOptions::default(), u64::MAX)
        .await
        .unwrap();
    assert_eq!(came, [one, two.clone(), two, b"x".to_vec(), b"".to_vec()]);
}

#[tokio::test]
#[ignore = "needs skopeo"]
async fn zstd_and_chunked_zstd_of_skopeo() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, one) = (folder.path().join("plain"), tar(&vec![7; 300_000]));
    ImageBuilder::new()
        .layer_tar_gz(gzip(&one))
        .write(&plain, "v1")
        .unwrap();
    for format in ["zstd", "zstd:chunked"] {
        let zstd = folder.path().join(format.replace(':', "-"));
        let copied = Command::new(tools::skopeo("0.2.8"))
            .args([
                "copy",
                "-q",
                "--dest-compress",
                "--dest-compress-format",
                format,
            ])
            .args(["--dest-force-compress-format"])
            .arg(format!("oci:{}:v1", plain.display()))
            .arg(format!("oci:{}:v1", zstd.display()))
            .status()
            .unwrap();
        assert!(copied.success());
        let came = layers(&zstd, FetchOptions::default(), u64::MAX)
            .await
            .unwrap();
        assert_eq!(came, [&one[..]], "{format}");
    }
}

#[tokio::test]
#[ignore = "needs skopeo"]
async fn unread_bytes_are_decompressed_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    // The diff_id of such a layer is the digest of its compressed bytes.
    let image = ImageBuilder::new().layer_blob(GZIP, gzip(&tar(&vec![1; 500_000])));
    image.write(folder.path(), "v1").unwrap();
    for most in [0, 1000, u64::MAX] {
        let error = layers(folder.path(), FetchOptions::default(), most)
            .await
            .unwrap_err();
        assert!(
            matches!(blob_error(error), BlobError::WrongDiffId { .. }),
            "{most}"
        );
    }
}

#[tokio::test]
#[ignore = "needs skopeo"]
async fn a_layer_that_expands_too_much_fails() {
    let folder = tempfile::tempdir().unwrap();
    let image = ImageBuilder::new().layer_tar_gz(gzip(&tar(&vec![0; 20_000_000])));
    image.write(folder.path(), "v1").unwrap();
    let ten = FetchOptions::default().max_expansion(NonZeroU64::new(10).unwrap());
    let error = layers(folder.path(), ten, u64::MAX).await.unwrap_err();
    assert!(matches!(blob_error(error), BlobError::Expands { .. }));
    layers(folder.path(), FetchOptions::default(), u64::MAX)
        .await
        .unwrap();
}

#[tokio::test]
#[ignore = "needs skopeo"]
async fn verified_bytes_that_are_no_gzip_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut broken = gzip(&tar(&vec![3; 100_000]));
    broken.truncate(broken.len() - 20);
    ImageBuilder::new()
        .layer_blob(GZIP, broken)
        .write(folder.path(), "v1")
        .unwrap();
    let error = layers(folder.path(), FetchOptions::default(), u64::MAX)
        .await
        .unwrap_err();
    assert!(matches!(blob_error(error), BlobError::Decompress(_)));
}

/// The decoder notices the error before the digest does.
#[test]
#[ignore = "needs skopeo"]
fn a_corrupt_layer_that_can_not_be_decompressed_is_fetched_again() {
    run(async {
        let image = (0..3).fold(ImageBuilder::new(), |image, layer| {
            image.layer_random(300_000, layer)
        });
        let served = Served::with(Options::default(), &image).faults(&["blob#1:corrupt*1"]);
        let fetcher = Fetcher::new(config("0.2.8"), options()).await.unwrap();
        let image = fetcher.open(&served.reference()).await.unwrap();
        let handler = |layer: longshore::Layer, mut reader: longshore::UncompressedReader| async move {
            tokio::io::copy(&mut reader, &mut tokio::io::sink()).await?;
            Ok::<_, std::io::Error>(layer.index)
        };
        let layers = within_bound(Box::pin(
            fetcher.for_each_layer_uncompressed(&image, handler),
        ))
        .await;
        assert_eq!(layers.unwrap(), [0, 1, 2]);
        assert_eq!(served.gets(1), 2);
    });
}

fn zstd(bytes: &[u8], window_log: u32) -> Vec<u8> {
    use async_compression::Level;
    use async_compression::tokio::bufread::ZstdEncoder;
    use async_compression::zstd::CParameter;
    let window = [CParameter::window_log(window_log)];
    let mut encoder = ZstdEncoder::with_quality_and_params(bytes, Level::Fastest, &window);
    let mut compressed = Vec::new();
    futures_util::FutureExt::now_or_never(encoder.read_to_end(&mut compressed))
        .expect("nothing to wait for")
        .unwrap();
    compressed
}

#[tokio::test]
#[ignore = "needs skopeo"]
async fn a_too_large_zstd_window_is_refused() {
    const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    let folder = tempfile::tempdir().unwrap();
    // The content is irregular enough not to expand too much.
    let plain: Vec<u8> = (0..3_000_000_u32)
        .map(|n| n.wrapping_mul(n).to_be_bytes()[1])
        .collect();
    let plain = tar(&plain);
    for (window_log, allowed) in [(25, true), (26, false), (27, false)] {
        let image = ImageBuilder::new().layer_blob(ZSTD, zstd(&plain, window_log));
        image.write(folder.path(), "v1").unwrap();
        // The diff_id of the layer is wrong, but only decompressing it can show that.
        let usual = layers(folder.path(), FetchOptions::default(), u64::MAX).await;
        let usual = blob_error(usual.unwrap_err());
        let refused = matches!(usual, BlobError::ZstdWindow { limit, .. } if limit == 32 << 20);
        let read = matches!(usual, BlobError::WrongDiffId { .. });
        assert!(
            if allowed { read } else { refused },
            "{window_log}: {usual:?}"
        );
        let large = FetchOptions::default().max_zstd_window(NonZeroU64::new(1 << 27).unwrap());
        let error = layers(folder.path(), large, u64::MAX).await.unwrap_err();
        let error = blob_error(error);
        assert!(matches!(error, BlobError::WrongDiffId { .. }), "{error:?}");
    }
}

/// The descriptor may state any size. The bytes that have arrived are what counts.
#[test]
#[ignore = "needs skopeo"]
fn the_size_in_a_descriptor_does_not_raise_the_expansion_limit() {
    run(async {
        let image = ImageBuilder::new().layer_tar_gz(gzip(&tar(&vec![0; 64_000_000])));
        // The length is not in the headers, so nobody knows how much will follow.
        let served = Served::with(Options::default(), &image).faults(&["blob#0:chunked-shorter=1"]);
        served.edit_manifest(|manifest| manifest["layers"][0]["size"] = 4_000_000_000_u64.into());
        for protocol in tools::SKOPEOS {
            let options = options().max_expansion(NonZeroU64::new(100).unwrap());
            let fetcher = Fetcher::new(config(protocol), options).await.unwrap();
            let image = fetcher.open(&served.reference()).await.unwrap();
            let handler = |_, mut reader: longshore::UncompressedReader| async move {
                tokio::io::copy(&mut reader, &mut tokio::io::sink()).await
            };
            let fetching = fetcher.for_each_layer_uncompressed(&image, handler);
            let error = within_bound(Box::pin(fetching)).await.unwrap_err();
            let error = blob_error(error);
            assert!(
                matches!(error, BlobError::Expands { .. }),
                "{protocol}: {error:?}"
            );
        }
    });
}

#[test]
#[ignore = "needs skopeo"]
fn layers_come_in_order_and_decompressed_as_a_stream() {
    run(async {
        let served = Served::new(6, 50_000);
        let fetcher = Fetcher::new(config("0.2.8"), options()).await.unwrap();
        let image = within_bound(fetcher.open(&served.reference()))
            .await
            .unwrap();
        let content = within_bound(fetcher.content(&image)).await.unwrap();
        let some = [content.layers()[4].clone(), content.layers()[2].clone()];
        let streams = [
            within_bound(fetcher.layers_uncompressed(&image, 2))
                .await
                .unwrap(),
            fetcher.layers_of_uncompressed(&image, &some, 1).unwrap(),
        ];
        for (mut stream, wanted) in streams.into_iter().zip([content.layers(), &some]) {
            for wanted in wanted {
                let (layer, mut reader) = within_bound(stream.next()).await.unwrap().unwrap();
                assert_eq!(layer, *wanted);
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).await.unwrap();
                assert_eq!(Some(sha256(&bytes)), layer.diff_id);
            }
            assert!(within_bound(stream.next()).await.is_none());
        }
        // What is left unread is checked all the same, and ends the stream.
        let mut wrong = some.clone();
        wrong[0].diff_id = Some(served.image.config_digest.clone());
        let mut stream = fetcher.layers_of_uncompressed(&image, &wrong, 1).unwrap();
        let error = loop {
            match within_bound(stream.next()).await.expect("an error comes") {
                Ok((_, reader)) => drop(reader),
                Err(error) => break blob_error(error),
            }
        };
        assert!(matches!(error, BlobError::WrongDiffId { .. }), "{error:?}");
        assert!(within_bound(stream.next()).await.is_none());
    });
}

#[test]
#[ignore = "needs skopeo"]
fn a_layer_that_fails_before_it_is_returned_decompressed_is_retried() {
    run(async {
        // Two bytes are too few to tell how the layer is compressed.
        let served = Served::new(3, 50_000).faults(&["blob#1:cut=2*1"]);
        let fetcher = Fetcher::new(config("0.2.8"), options()).await.unwrap();
        let image = within_bound(fetcher.open(&served.reference()))
            .await
            .unwrap();
        let mut stream = within_bound(fetcher.layers_uncompressed(&image, 2))
            .await
            .unwrap();
        let mut count = 0;
        while let Some(next) = within_bound(stream.next()).await {
            let (layer, mut reader) = next.unwrap();
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).await.unwrap();
            assert_eq!(Some(sha256(&bytes)), layer.diff_id);
            count += 1;
        }
        assert_eq!((count, served.gets(1)), (3, 2));
    });
}

#[test]
#[ignore = "needs skopeo"]
fn a_handler_can_read_some_layers_decompressed() {
    run(async {
        let served = Served::new(4, 50_000);
        let fetcher = Fetcher::new(config("0.2.8"), options()).await.unwrap();
        let image = within_bound(fetcher.open(&served.reference()))
            .await
            .unwrap();
        let handler = |layer: Layer, mut reader: LayerReader| async move {
            let mut bytes = Vec::new();
            if layer.index.is_multiple_of(2) {
                reader.read_to_end(&mut bytes).await?;
                assert_eq!(sha256(&bytes), *layer.descriptor.digest());
            } else {
                let options = FetchOptions::default();
                let mut tar = reader.uncompressed(&layer, &options).await?;
                tar.read_to_end(&mut bytes).await?;
                assert_eq!(Some(sha256(&bytes)), layer.diff_id);
            }
            Ok::<_, std::io::Error>(layer.index)
        };
        let found = within_bound(fetcher.for_each_layer(&image, handler))
            .await
            .unwrap();
        assert_eq!(found, [0, 1, 2, 3]);
    });
}
