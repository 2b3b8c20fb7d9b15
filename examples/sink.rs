//! Pulls an image through a custom `Sink`, into one file for each layer.
//!
//! `cargo run --example sink -- docker://quay.io/fedora/fedora:latest FOLDER`

use std::path::PathBuf;

use anyhow::Context;
use longshore::{
    Error, FetchOptions, Fetcher, ImageContent, ImageProxyConfig, Layer, LayerReader, Sink,
};
use tokio::fs::{self, File};

const USAGE: &str = "usage: sink IMAGE FOLDER [insecure]";

/// A sink that writes `FOLDER/DIGEST` for each layer, and `FOLDER/manifest.json` at the end.
struct FileSink(PathBuf);

impl FileSink {
    fn path(&self, layer: &Layer) -> PathBuf {
        self.0.join(layer.descriptor.digest().digest())
    }
}

impl Sink for FileSink {
    async fn has(&self, layer: &Layer) -> longshore::Result<bool> {
        let found = fs::metadata(self.path(layer)).await;
        Ok(found.is_ok_and(|found| found.len() == layer.descriptor.size()))
    }

    async fn store(&self, layer: &Layer, mut reader: LayerReader) -> longshore::Result<()> {
        let partial = self.path(layer).with_extension("partial");
        let mut file = File::create(&partial).await.map_err(Error::handler)?;
        tokio::io::copy(&mut reader, &mut file)
            .await
            .map_err(Error::handler)?;
        file.sync_all().await.map_err(Error::handler)?;
        // The blob must be verified before it gets the name under which others find it.
        reader.finish().await?;
        fs::rename(&partial, self.path(layer))
            .await
            .map_err(Error::handler)
    }

    async fn commit(&self, image: &ImageContent) -> longshore::Result<()> {
        let path = self.0.join("manifest.json");
        fs::write(path, image.manifest())
            .await
            .map_err(Error::handler)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let reference = arguments.next().context(USAGE)?;
    let folder = PathBuf::from(arguments.next().context(USAGE)?);
    // A third argument "insecure" allows plain HTTP, for example for a registry on this machine.
    let insecure = arguments.next().is_some_and(|word| word == "insecure");
    fs::create_dir_all(&folder).await?;

    let config = ImageProxyConfig::default().insecure_skip_tls_verification(insecure);
    let fetcher = Fetcher::new(config, FetchOptions::default()).await?;
    let image = fetcher.open(&reference).await?;
    let pulled = fetcher.pull(&image, FileSink(folder)).await?;
    println!(
        "{} blobs, {} bytes",
        pulled.fetched_blobs, pulled.fetched_bytes
    );
    Ok(())
}
