//! A typical program that embeds the crate containers-image-proxy: one proxy, several layers at once. It pulls an
//! image into an OCI layout, or decompresses each layer and walks it as a tar archive.
//!
//! Where the crate leaves a choice, this program makes the faster one. It reads 64 KiB at a time, the size of
//! a pipe, where `tokio::io::copy` reads 8 KiB. Every layer is a task of its own on a runtime of many
//! threads. It hashes only what the proxy has not verified already. The archives are read as embedders do it, with
//! `SyncIoBridge` and flate2 on a blocking thread. There are large buffers on both sides of the inflater, which not all
//! embedders have.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use anyhow::{Context, bail};
use bench_walk::{BUFFER_BYTES, Hashing, Totals, walk_layer};
use clap::Parser;
use containers_image_proxy::oci_spec::image::{Descriptor, ImageManifest};
use containers_image_proxy::{ImageProxy, ImageProxyConfig, OpenedImage};
use flate2::bufread::MultiGzDecoder;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};
use tokio_util::io::SyncIoBridge;

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
    /// Walk the layers, and print what is in them, instead of writing a layout
    #[arg(long, conflicts_with = "layout")]
    walk: bool,
    /// The image, with its transport
    image: String,
    /// The OCI layout to write, which must not exist
    #[arg(required_unless_present = "walk")]
    layout: Option<PathBuf>,
}

/// The data that every task needs.
struct Source {
    proxy: ImageProxy,
    image: OpenedImage,
    raw: bool,
}

/// A blob, and what is done with it.
#[derive(Debug)]
enum Task {
    /// Store the blob in this folder.
    Store(Descriptor, Arc<Path>),
    /// Walk the layer, which has this `diff_id`.
    Walk(Descriptor, String),
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cip: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut config = ImageProxyConfig::default();
    config.insecure_policy = Some(true);
    config.insecure_skip_tls_verification = Some(true);
    config.skopeo_cmd = Some(Command::new(&arguments.skopeo));
    let proxy = ImageProxy::new_with_config(config).await?;
    let image = proxy.open_image(&arguments.image).await?;
    let (digest, manifest) = proxy.fetch_manifest_raw_oci(&image).await?;
    let parsed: ImageManifest = serde_json::from_slice(&manifest)?;
    let raw = arguments.raw;
    let source = Source { proxy, image, raw };
    match &arguments.layout {
        Some(layout) => {
            pull(source, &parsed, layout, arguments.layers).await?;
            write_documents(layout, &digest, &manifest)
        }
        None => walk(source, &parsed, arguments.layers).await,
    }
}

async fn pull(
    source: Source,
    manifest: &ImageManifest,
    layout: &Path,
    at_once: usize,
) -> anyhow::Result<()> {
    let blobs: Arc<Path> = layout.join("blobs/sha256").into();
    std::fs::create_dir_all(&blobs).context("can't make the layout")?;
    let store = |blob: &Descriptor| Task::Store(blob.clone(), Arc::clone(&blobs));
    let all = std::iter::once(manifest.config()).chain(manifest.layers());
    do_all(source, all.map(store), at_once).await?;
    Ok(())
}

async fn walk(source: Source, manifest: &ImageManifest, at_once: usize) -> anyhow::Result<()> {
    let config = source.proxy.fetch_config(&source.image).await?;
    let diff_ids = config.rootfs().diff_ids();
    let layers = manifest.layers();
    if diff_ids.len() != layers.len() {
        bail!("{} diff_ids for {} layers", diff_ids.len(), layers.len());
    }
    let layers = layers.iter().zip(diff_ids);
    let tasks = layers.map(|(layer, diff_id)| Task::Walk(layer.clone(), diff_id.clone()));
    let totals = do_all(source, tasks, at_once).await?;
    totals.print().context("can't print the totals")
}

/// Does all tasks, up to `at_once` at the same time, and closes the image. The first error ends it all.
async fn do_all(
    source: Source,
    all: impl Iterator<Item = Task>,
    at_once: usize,
) -> anyhow::Result<Totals> {
    let source = Arc::new(source);
    let slots = Arc::new(Semaphore::new(at_once));
    let mut tasks = JoinSet::new();
    let mut totals = Totals::default();
    for task in all {
        let slot = Arc::clone(&slots).acquire_owned().await?;
        let source = Arc::clone(&source);
        tasks.spawn(async move {
            let result = source.carry_out(task).await;
            drop(slot);
            drop(source);
            result
        });
        while let Some(done) = tasks.try_join_next() {
            totals += done??;
        }
    }
    while let Some(done) = tasks.join_next().await {
        totals += done??;
    }
    let source = Arc::into_inner(source).context("a task is left")?;
    source.proxy.close_image(&source.image).await?;
    source.proxy.finalize().await?;
    Ok(totals)
}

impl Source {
    async fn carry_out(&self, task: Task) -> anyhow::Result<Totals> {
        match task {
            Task::Store(blob, folder) => {
                let stored = self.store(&blob, &folder).await;
                stored.with_context(|| format!("can't fetch {}", blob.digest()))?;
                Ok(Totals::default())
            }
            Task::Walk(layer, diff_id) => {
                let walked = self.walk(&layer, diff_id).await;
                walked.with_context(|| format!("can't walk {}", layer.digest()))
            }
        }
    }

    async fn store(&self, blob: &Descriptor, folder: &Path) -> anyhow::Result<()> {
        let digest = blob.digest();
        let file = File::create_new(folder.join(digest.digest()))?;
        if !self.raw {
            let (reader, driver) = self
                .proxy
                .get_blob(&self.image, digest, blob.size())
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

    async fn walk(&self, layer: &Descriptor, diff_id: String) -> anyhow::Result<Totals> {
        let digest = layer.digest();
        if !self.raw {
            let (reader, driver) = self
                .proxy
                .get_blob(&self.image, digest, layer.size())
                .await?;
            let (walked, served) = tokio::join!(walk_on_a_thread(reader, None, diff_id), driver);
            served?;
            return walked;
        }
        let (_, reader, driver) = self.proxy.get_raw_blob(&self.image, digest).await?;
        let expected = Some(digest.to_string());
        let (walked, served) = tokio::join!(walk_on_a_thread(reader, expected, diff_id), driver);
        served?;
        walked
    }
}

/// Decompresses and walks a layer on a blocking thread. Checks the digest of the blob if it is given.
async fn walk_on_a_thread(
    reader: impl AsyncRead + Send + Unpin + 'static,
    digest: Option<String>,
    diff_id: String,
) -> anyhow::Result<Totals> {
    let reader = SyncIoBridge::new(reader);
    let walking = spawn_blocking(move || {
        let Some(digest) = digest else {
            let blob = BufReader::with_capacity(BUFFER_BYTES, reader);
            return walk_layer(MultiGzDecoder::new(blob), &diff_id);
        };
        let mut hashing = Hashing::new(reader);
        let blob = BufReader::with_capacity(BUFFER_BYTES, &mut hashing);
        let totals = walk_layer(MultiGzDecoder::new(blob), &diff_id)?;
        hashing.check(&digest)?;
        Ok(totals)
    });
    Ok(walking.await??)
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
