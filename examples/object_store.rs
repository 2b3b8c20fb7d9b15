//! Pulls an image into an object store, such as S3, through the crate `object_store`: a `Sink` with uploads in parts.
//!
//! `cargo run --example object_store -- docker://quay.io/fedora/fedora:latest file:///srv/fedora`
//!
//! Use it to fill a bucket without a disk in between. With its feature `aws`, `object_store` also knows
//! `s3://BUCKET/PREFIX` and reads `AWS_ACCESS_KEY_ID` and the like from the environment; `gcp` and `azure`
//! are further features.
//!
//! The result is an OCI image layout. If you copy it into a folder, skopeo can open it as `oci:FOLDER`.
//!
//! A blob becomes visible when it is complete and verified. `index.json` is written last, when everything that it names
//! is stored. At most about `WORKERS` x 2 x `PART` bytes (128 MiB) are held in memory.
//!
//! S3 keeps the parts of an upload whose program was killed: let a lifecycle rule of the bucket abort such uploads.

use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::{Context, bail};
use longshore::oci_spec::image::Descriptor;
use longshore::{
    Error, FetchOptions, Fetcher, ImageContent, ImageProxyConfig, IndexContent, Layer, LayerReader,
    Sink,
};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart, parse_url_opts};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

const USAGE: &str = "usage: object_store IMAGE URL [insecure]
IMAGE is for example docker://quay.io/fedora/fedora:latest or oci:FOLDER:TAG.
URL is for example file:///srv/fedora.
`insecure` allows plain HTTP, for example for a registry on this machine.";

/// The size of a part in bytes. S3 wants at least 5 MiB, and no more than 10,000 parts.
const PART: usize = 8 << 20;

/// The number of blobs that are uploaded at the same time.
const WORKERS: NonZeroUsize = NonZeroUsize::new(8).expect("not zero");

/// An image layout in an object store. It is the layout of one pull. The next pull replaces its `index.json`,
/// and reuses its blobs.
struct Layout {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    uploads: mpsc::Sender<Infallible>,
}

impl Layout {
    /// Makes a layout. Also returns a channel without messages, which ends when the layout and all its
    /// uploads are dropped.
    fn new(store: Arc<dyn ObjectStore>, prefix: Path) -> (Self, mpsc::Receiver<Infallible>) {
        let (uploads, ended) = mpsc::channel(1);
        let layout = Self {
            store,
            prefix,
            uploads,
        };
        (layout, ended)
    }

    fn blob(&self, blob: &Descriptor) -> Path {
        let digest = blob.digest();
        let folder = self.prefix.clone().join("blobs");
        folder
            .join(digest.algorithm().as_ref())
            .join(digest.digest())
    }

    async fn put(&self, path: &Path, bytes: impl Into<Vec<u8>>) -> longshore::Result<()> {
        let put = self.store.put(path, bytes.into().into()).await;
        put.map(drop).map_err(Error::handler)
    }

    async fn put_documents(&self, image: &ImageContent) -> longshore::Result<()> {
        let config = self.blob(image.config_descriptor());
        self.put(&config, image.config()).await?;
        let manifest = self.blob(image.manifest_descriptor());
        self.put(&manifest, image.manifest()).await
    }

    /// Makes these manifests or indexes visible. To keep the images of other pulls, read `index.json` here, write it
    /// with `PutMode::Update`, and retry if another program has changed it meanwhile.
    async fn put_index(&self, manifests: &[&Descriptor]) -> longshore::Result<()> {
        let marker = self.prefix.clone().join("oci-layout");
        let version = json!({ "imageLayoutVersion": "1.0.0" });
        self.put(&marker, version.to_string()).await?;
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        let path = self.prefix.clone().join("index.json");
        self.put(&path, index.to_string()).await
    }
}

impl Sink for Layout {
    async fn has(&self, layer: &Layer) -> longshore::Result<bool> {
        match self.store.head(&self.blob(&layer.descriptor)).await {
            Ok(found) => Ok(found.size == layer.descriptor.size()),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(Error::handler(error)),
        }
    }

    async fn store(&self, layer: &Layer, mut reader: LayerReader) -> longshore::Result<()> {
        let path = self.blob(&layer.descriptor);
        if layer.descriptor.size() <= PART as u64 {
            let mut bytes = Vec::new();
            let read = reader.read_to_end(&mut bytes).await;
            read.map_err(Error::handler)?;
            reader.finish().await?;
            return self.put(&path, bytes).await;
        }
        let upload = self.store.put_multipart(&path).await;
        let writer = WriteMultipart::new_with_chunk_size(upload.map_err(Error::handler)?, PART);
        let lease = self.uploads.clone();
        // The upload runs in a task of its own, because this future may be dropped, and an upload must then be aborted.
        // When the pull has ended, reads fail, so the task ends soon after.
        let uploading = tokio::spawn(async move {
            let uploaded = upload_parts(writer, reader).await;
            drop(lease);
            uploaded
        });
        uploading.await.map_err(Error::handler)?
    }

    async fn commit(&self, image: &ImageContent) -> longshore::Result<()> {
        self.put_documents(image).await?;
        self.put_index(&[image.manifest_descriptor()]).await
    }

    async fn commit_all(&self, images: &[Arc<ImageContent>]) -> longshore::Result<()> {
        for image in images {
            self.put_documents(image).await?;
        }
        let manifests = images.iter().map(|image| image.manifest_descriptor());
        self.put_index(&manifests.collect::<Vec<_>>()).await
    }

    async fn commit_index(
        &self,
        index: &IndexContent,
        images: &[Arc<ImageContent>],
    ) -> longshore::Result<()> {
        for image in images {
            self.put_documents(image).await?;
        }
        self.put(&self.blob(index.descriptor()), index.raw())
            .await?;
        self.put_index(&[index.descriptor()]).await
    }
}

/// Uploads a layer, which becomes visible only if its size and digest are right. Otherwise the upload is aborted.
async fn upload_parts(mut writer: WriteMultipart, reader: LayerReader) -> longshore::Result<()> {
    match send_parts(&mut writer, reader).await {
        Ok(()) => writer.finish().await.map(drop).map_err(Error::handler),
        Err(error) => {
            if let Err(error) = writer.abort().await {
                eprintln!("an upload could not be aborted: {error}");
            }
            Err(error)
        }
    }
}

async fn send_parts(writer: &mut WriteMultipart, mut reader: LayerReader) -> longshore::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    while let n @ 1.. = reader.read(&mut buffer).await.map_err(Error::handler)? {
        // One part may be on its way while the next one is filled.
        let capacity = writer.wait_for_capacity(2).await;
        capacity.map_err(Error::handler)?;
        writer.write(&buffer[..n]);
    }
    reader.finish().await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (reference, url, insecure) = match arguments.as_slice() {
        [reference, url] => (reference, url, false),
        [reference, url, word] if word == "insecure" => (reference, url, true),
        _ => bail!(USAGE),
    };
    let parsed = url.parse().with_context(|| format!("{url} is no URL"))?;
    let opened = parse_url_opts(&parsed, std::env::vars());
    let (store, prefix) = opened.with_context(|| format!("can't use {url}"))?;
    let (layout, mut uploads) = Layout::new(store.into(), prefix);

    let config = ImageProxyConfig::default().insecure_skip_tls_verification(insecure);
    let fetcher = Fetcher::new(config, FetchOptions::default().workers(WORKERS)).await?;
    let image = fetcher.open(reference).await?;
    let pulled = fetcher.pull(&image, layout).await;
    // After a failure, other uploads are being aborted. The channel ends when all of them are aborted.
    uploads.recv().await;
    let pulled = pulled.with_context(|| format!("can't pull {reference} into {url}"))?;
    println!(
        "{} blobs were fetched, {} bytes; {} were there",
        pulled.fetched_blobs, pulled.fetched_bytes, pulled.reused_blobs
    );
    Ok(())
}

/// Tests of the sink, without skopeo and without a network.
#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;
    use longshore::oci_spec::image::{Digest, MediaType};
    use object_store::memory::InMemory;
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn sha256(bytes: &[u8]) -> Digest {
        let hash = Sha256::digest(bytes);
        let hex = (hash.iter()).fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        format!("sha256:{hex}").parse().unwrap()
    }

    /// The paths in a store.
    async fn paths(store: &InMemory) -> Vec<String> {
        let found = store.list(None).map_ok(|found| found.location.to_string());
        found.try_collect().await.unwrap()
    }

    /// Stores a layer whose descriptor is that of `bytes`, from a reader that sends `sent`.
    async fn store(store: &Arc<InMemory>, bytes: &[u8], sent: &[u8]) -> longshore::Result<Layer> {
        let (layout, mut uploads) = Layout::new(Arc::<InMemory>::clone(store), "a/b".into());
        let size = bytes.len() as u64;
        let layer = Layer::new(
            0,
            Descriptor::new(MediaType::ImageLayer, size, sha256(bytes)),
        );
        let stored = layout
            .store(&layer, LayerReader::from_bytes(&layer, sent)?)
            .await;
        assert_eq!(layout.has(&layer).await.unwrap(), stored.is_ok());
        drop(layout);
        uploads.recv().await;
        stored.map(|()| layer)
    }

    #[tokio::test]
    async fn layers_of_one_or_several_parts_are_stored_byte_for_byte() {
        for size in [0, 1, PART, PART + 1, 3 * PART - 1] {
            let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
            let memory = Arc::new(InMemory::new());
            let layer = store(&memory, &bytes, &bytes).await.unwrap();
            let hex = layer.descriptor.digest().digest();
            let path = format!("a/b/blobs/sha256/{hex}");
            let found = memory.get(&path.into()).await.unwrap().bytes().await;
            assert!(found.unwrap() == bytes, "{size}");
        }
    }

    #[tokio::test]
    async fn a_wrong_or_incomplete_layer_is_never_visible() {
        for size in [1, PART + 1] {
            let bytes = vec![1; size];
            let mut wrong = bytes.clone();
            wrong[size - 1] = 2;
            for sent in [&wrong, &bytes[..size - 1]] {
                let memory = Arc::new(InMemory::new());
                let stored = store(&memory, &bytes, sent).await;
                assert!(
                    matches!(stored, Err(Error::Blob { .. })),
                    "{size}: {stored:?}"
                );
                assert!(paths(&memory).await.is_empty(), "{size}");
            }
        }
    }

    #[tokio::test]
    async fn index_json_names_the_committed_images() {
        let config = b"{}";
        let manifest = json!({
            "schemaVersion": 2,
            "config": Descriptor::new(MediaType::ImageConfig, 2, sha256(config)),
            "layers": [],
        });
        let image = ImageContent::from_bytes("x", manifest.to_string(), config).unwrap();
        let memory = Arc::new(InMemory::new());
        let (layout, _uploads) = Layout::new(Arc::<InMemory>::clone(&memory), "".into());
        layout.commit(&image).await.unwrap();
        assert_eq!(
            paths(&memory).await.len(),
            4,
            "config, manifest, index.json, oci-layout"
        );
        let index = memory
            .get(&"index.json".into())
            .await
            .unwrap()
            .bytes()
            .await;
        let index: serde_json::Value = serde_json::from_slice(&index.unwrap()).unwrap();
        let listed = &index["manifests"][0]["digest"];
        assert_eq!(*listed, image.manifest_descriptor().digest().to_string());
    }
}
