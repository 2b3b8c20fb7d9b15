//! A typical program that embeds the crate containers-image-proxy to pull an image: one proxy, several layers
//! at once, into an OCI layout.
//!
//! Where the crate leaves a choice, this program makes the faster one. It reads 64 KiB at a time, the size of
//! a pipe, where `tokio::io::copy` reads 8 KiB. Every layer is a task of its own on a runtime of many
//! threads. It hashes only what the proxy has not verified already.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Parser;
use containers_image_proxy::oci_spec::image::{Descriptor, ImageManifest};
use containers_image_proxy::{ImageProxy, ImageProxyConfig, OpenedImage};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The capacity of a pipe.
const BUFFER: usize = 64 << 10;

/// Pulls an image with the crate containers-image-proxy.
#[derive(Debug, Parser)]
#[command(name = "cip")]
struct Arguments {
    /// The skopeo to run
    #[arg(long, value_name = "PATH", default_value = "skopeo")]
    skopeo: PathBuf,
    /// How many layers to fetch at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    layers: usize,
    /// Fetch with `GetRawBlob`, and verify here; by default with `GetBlob`, which skopeo verifies
    #[arg(long)]
    raw: bool,
    /// The image, with its transport
    image: String,
    /// The OCI layout to write, which must not exist
    layout: PathBuf,
}

/// The data that every task needs.
struct Source {
    proxy: ImageProxy,
    image: OpenedImage,
    raw: bool,
    /// The folder for the blobs.
    blobs: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    match pull(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cip: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn pull(arguments: Arguments) -> anyhow::Result<()> {
    let blobs = arguments.layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).context("can't make the layout")?;

    let mut config = ImageProxyConfig::default();
    config.insecure_policy = Some(true);
    config.insecure_skip_tls_verification = Some(true);
    config.skopeo_cmd = Some(Command::new(&arguments.skopeo));
    let proxy = ImageProxy::new_with_config(config).await?;
    let image = proxy.open_image(&arguments.image).await?;
    let (digest, manifest) = proxy.fetch_manifest_raw_oci(&image).await?;
    let source = Arc::new(Source {
        proxy,
        image,
        raw: arguments.raw,
        blobs,
    });

    let parsed: ImageManifest = serde_json::from_slice(&manifest)?;
    let mut descriptors = vec![parsed.config().clone()];
    descriptors.extend_from_slice(parsed.layers());
    fetch_all(&source, descriptors, arguments.layers).await?;

    let source = Arc::into_inner(source).context("a task is left")?;
    source.proxy.close_image(&source.image).await?;
    source.proxy.finalize().await?;
    write_documents(&arguments.layout, &digest, &manifest)
}

/// Fetches all layers, up to `at_once` at the same time. The first error ends the pull.
async fn fetch_all(
    source: &Arc<Source>,
    descriptors: Vec<Descriptor>,
    at_once: usize,
) -> anyhow::Result<()> {
    let slots = Arc::new(Semaphore::new(at_once));
    let mut tasks = JoinSet::new();
    for descriptor in descriptors {
        let slot = Arc::clone(&slots).acquire_owned().await?;
        let source = Arc::clone(source);
        tasks.spawn(async move {
            let result = source.fetch(&descriptor).await;
            drop(slot);
            drop(source);
            result.with_context(|| format!("can't fetch {}", descriptor.digest()))
        });
        while let Some(done) = tasks.try_join_next() {
            done??;
        }
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

impl Source {
    async fn fetch(&self, descriptor: &Descriptor) -> anyhow::Result<()> {
        let digest = descriptor.digest();
        let file = File::create_new(self.blobs.join(digest.digest()))?;
        if !self.raw {
            let (reader, driver) = self
                .proxy
                .get_blob(&self.image, digest, descriptor.size())
                .await?;
            let (written, served) = tokio::join!(drain(reader, file, None), driver);
            served?;
            return written;
        }
        let mut hasher = Sha256::new();
        let (_, reader, driver) = self.proxy.get_raw_blob(&self.image, digest).await?;
        let (written, served) = tokio::join!(drain(reader, file, Some(&mut hasher)), driver);
        served?;
        written?;
        let mut found = String::new();
        for byte in hasher.finalize() {
            write!(found, "{byte:02x}")?;
        }
        if found != digest.digest() {
            bail!("its digest is sha256:{found}");
        }
        Ok(())
    }
}

/// Writes a blob into a file, and hashes it. Writing to a file in memory takes less time than a hand-over to
/// another thread, so it is done here.
async fn drain(
    mut reader: impl AsyncRead + Unpin,
    mut file: File,
    mut hasher: Option<&mut Sha256>,
) -> anyhow::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = reader.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let piece = &buffer[..length];
        if let Some(hasher) = &mut hasher {
            hasher.update(piece);
        }
        file.write_all(piece)?;
    }
}

fn write_documents(layout: &Path, digest: &str, manifest: &[u8]) -> anyhow::Result<()> {
    let hex = digest
        .strip_prefix("sha256:")
        .context("not a SHA-256 digest")?;
    std::fs::write(layout.join("blobs/sha256").join(hex), manifest)?;
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest,
            "size": manifest.len(),
        }],
    });
    std::fs::write(layout.join("index.json"), index.to_string())?;
    let version = json!({"imageLayoutVersion": "1.0.0"});
    std::fs::write(layout.join("oci-layout"), version.to_string())?;
    Ok(())
}
