//! The engine in an async server: every public future can be spawned, boxed and joined.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;

use longshore::oci_spec::image::{Descriptor, Digest};
use longshore::{
    Blob, BlockingReader, ConnectionOptions, Discard, FetchOptions, Fetcher, Image, ImageContent,
    ImageProxy, ImageProxyConfig, Index, IndexContent, Layer, LayerReader, LayerStream, OciLayout,
    OpenedImage, Pulled, Sink,
};
use test_support::leaks::run;
use test_support::tools::SKOPEOS;
use test_support::within_bound;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

use crate::harness::{Served, config, options};

fn send<T: Send>(_: T) {}

fn owned<T: Send + 'static>(_: T) {}

async fn read_all(_: Layer, mut reader: LayerReader) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await.map(|_| bytes)
}

fn read_blocking(_: Layer, mut reader: BlockingReader) -> std::io::Result<u64> {
    std::io::copy(&mut reader, &mut std::io::sink())
}

fn a_layer() -> Layer {
    unreachable!("it is compiled, not run")
}

/// All public futures of the engine. This function is never run; it only has to compile.
#[expect(dead_code, reason = "it is compiled, not run")]
fn futures_of_the_engine(
    fetcher: Fetcher,
    image: &Image,
    index: &Index,
    mut stream: LayerStream,
    reader: LayerReader,
) {
    let sink = Arc::new(Discard);
    let layout = Arc::new(OciLayout::new("there", None));
    owned(Fetcher::new(
        ImageProxyConfig::default(),
        FetchOptions::default(),
    ));
    send(fetcher.open("docker://a/b"));
    send(fetcher.open_all(&["docker://a/b"]));
    send(fetcher.open_all(&["docker://a/b".to_owned()]));
    send(fetcher.open_index("docker://a/b"));
    send(fetcher.content(image));
    send(fetcher.fetch_source("docker://a/b"));
    send(fetcher.list_tags("docker://a/b"));
    send(fetcher.source_manifest(image));
    send(fetcher.source_config(image));
    send(fetcher.for_blob(image, image.digest(), |reader| read_all(a_layer(), reader)));
    send(fetcher.for_blob_blocking(image, image.digest(), |reader| {
        read_blocking(a_layer(), reader)
    }));
    send(fetcher.layers(image, 2));
    send(fetcher.pull(image, layout.clone()));
    send(fetcher.pull_all(std::slice::from_ref(image), sink.clone()));
    send(fetcher.pull_index(index, layout.clone()));
    send(fetcher.for_each_layer(image, read_all));
    send(fetcher.for_each_of(image, &[], read_all));
    send(fetcher.for_each_layer_blocking(image, read_blocking));
    send(fetcher.for_each_of_blocking(image, &[], read_blocking));
    #[cfg(feature = "decompress")]
    send(
        fetcher.for_each_layer_uncompressed(image, |_, mut reader| async move {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).await.map(|_| bytes)
        }),
    );
    send(stream.next());
    owned(reader.finish());
    // All futures run in one task, which owns what they borrow.
    owned(async move {
        let image = fetcher.open("docker://a/b").await?;
        let images = fetcher.open_all(&["docker://a/b".to_owned()]).await?;
        let index = fetcher.open_index("docker://a/b").await?;
        let content = fetcher.content(&image).await?;
        let layers = fetcher.layers(&image, 2).await?;
        fetcher.pull(&image, layout.clone()).await?;
        fetcher.pull_all(&images, layout.clone()).await?;
        fetcher.pull_index(&index, layout.clone()).await?;
        fetcher.for_each_layer(&image, read_all).await?;
        Ok::<_, longshore::Error>((content, layers))
    });
}

/// All futures of a sink. This function is never run, either.
#[expect(dead_code, reason = "it is compiled, not run")]
fn futures_of_a_sink<S: Sink>(
    sink: &S,
    layer: &Layer,
    reader: LayerReader,
    image: &Arc<ImageContent>,
    index: &IndexContent,
) {
    send(sink.has(layer));
    send(sink.read(&layer.descriptor));
    send(sink.store(layer, reader));
    send(sink.commit(image));
    send(sink.commit_index(index, std::slice::from_ref(image)));
}

/// All public futures of a proxy, and of its blobs.
#[expect(dead_code, reason = "it is compiled, not run")]
fn futures_of_a_proxy(
    proxy: &ImageProxy,
    image: &OpenedImage,
    digest: &Digest,
    descriptor: &Descriptor,
    socket: OwnedFd,
    [blob, another]: [Blob; 2],
) {
    owned(ImageProxy::new());
    owned(ImageProxy::new_with_config(ImageProxyConfig::default()));
    owned(ImageProxy::connect(socket, ConnectionOptions::default()));
    send(proxy.open_image("docker://a/b"));
    send(proxy.open_image_optional("docker://a/b"));
    send(proxy.fetch_manifest(image));
    send(proxy.fetch_manifest_raw_oci(image));
    send(proxy.fetch_config(image));
    send(proxy.fetch_config_raw(image));
    send(proxy.fetch_runtime_config_raw(image));
    send(proxy.get_layer_info(image));
    send(proxy.get_blob(image, digest, 1));
    send(proxy.get_descriptor(image, descriptor));
    send(proxy.get_raw_blob(image, digest));
    send(proxy.open_varlink_socket(image));
    send(proxy.failed());
    owned(proxy.clone().finalize());
    owned(blob.finish());
    let (mut reader, driver) = another.split();
    owned(driver);
    owned(async move { reader.read_u8().await });
}

#[test]
#[ignore = "needs skopeo"]
fn many_pulls_run_in_tasks_of_a_server() {
    for protocol in SKOPEOS {
        run(async {
            let served = Served::new(6, 20_000);
            let fetcher = Fetcher::new(config(protocol), options()).await.unwrap();
            let mut pulls = JoinSet::new();
            for _ in 0..4 {
                let (fetcher, reference) = (fetcher.clone(), served.reference());
                pulls.spawn(async move {
                    let image = fetcher.open(&reference).await?;
                    fetcher.pull(&image, Discard).await
                });
            }
            for pulled in within_bound(pulls.join_all()).await {
                assert_eq!(pulled.unwrap().images.len(), 1, "{protocol}");
            }
        });
    }
}

type Pull = Pin<Box<dyn Future<Output = longshore::Result<Pulled>> + Send>>;

/// `tower` and `async_trait` use such futures.
#[test]
#[ignore = "needs skopeo"]
fn a_pull_is_a_boxed_future() {
    run(async {
        let served = Served::new(3, 20_000);
        let fetcher = Fetcher::new(config("0.2.8"), options()).await.unwrap();
        let reference = served.reference();
        let pull: Pull = Box::pin(async move {
            let image = fetcher.open(&reference).await?;
            fetcher.pull(&image, Discard).await
        });
        let pulled = within_bound(tokio::spawn(pull)).await.unwrap().unwrap();
        assert_eq!(pulled.images.len(), 1);
    });
}
