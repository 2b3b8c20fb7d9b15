//! Imports the layers of an image one after another, from the base layer up, decompressed: as bootc does, which writes
//! each layer into an ostree repository.
//!
//! `cargo run --example ordered_import -- docker://quay.io/fedora/fedora:latest FOLDER`
//!
//! Use it where a layer can be imported only after the layers below it, or where only one writer is possible. The next
//! layers are opened while one is imported. `parallel_import.rs` imports many at once.
//!
//! Here the store is a folder with a file `DIFF_ID.tar` for each layer. A layer that is already in the folder is not
//! fetched, so a run after an interrupted one fetches only the layers that are missing.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use longshore::{FetchOptions, Fetcher, ImageProxyConfig, Layer, UncompressedReader};
use tempfile::NamedTempFile;
use tokio::fs::{self, File};

const USAGE: &str = "usage: ordered_import IMAGE FOLDER [insecure]
IMAGE is for example docker://quay.io/fedora/fedora:latest or oci:FOLDER:TAG.
`insecure` allows plain HTTP, for example for a registry on this machine.";

/// The number of layers that are opened while another one is imported.
const AHEAD: usize = 4;

/// The file of a layer. Its name is the digest of what is in it.
fn path_of(folder: &Path, layer: &Layer) -> anyhow::Result<PathBuf> {
    let diff_id = layer.diff_id.as_ref().with_context(|| {
        let digest = layer.descriptor.digest();
        format!("the config has no diff_id for layer {digest}: is this a container image?")
    })?;
    Ok(folder.join(format!("{}.tar", diff_id.digest())))
}

/// Imports a layer. Returns the number of bytes. Your program has its own import here.
async fn import(folder: &Path, path: &Path, mut reader: UncompressedReader) -> anyhow::Result<u64> {
    // The file is removed if this fails or is dropped.
    let partial = NamedTempFile::new_in(folder)?;
    let mut file = File::from_std(partial.reopen()?);
    // `copy` succeeds only if the layer has the digest of the manifest and the diff_id of the config.
    let bytes = tokio::io::copy(&mut reader, &mut file).await?;
    file.sync_all().await?;
    // After that, the layer gets the name by which others find it.
    partial.persist(path)?;
    Ok(bytes)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (reference, folder, insecure) = match arguments.as_slice() {
        [reference, folder] => (reference, Path::new(folder), false),
        [reference, folder, word] if word == "insecure" => (reference, Path::new(folder), true),
        _ => bail!(USAGE),
    };
    let unusable = || format!("can't use the folder {}", folder.display());
    fs::create_dir_all(folder).await.with_context(unusable)?;

    let config = ImageProxyConfig::default().insecure_skip_tls_verification(insecure);
    let fetcher = Fetcher::new(config, FetchOptions::default()).await?;
    let image = fetcher.open(reference).await?;
    // Fetches the config, which lists the diff_ids.
    let content = fetcher.content(&image).await?;

    // An image can have the same layer twice.
    let mut names = HashSet::new();
    let mut missing = Vec::new();
    for layer in content.layers() {
        let path = path_of(folder, layer)?;
        if fs::try_exists(&path).await.with_context(unusable)? {
            println!("{} is there", path.display());
        } else if names.insert(path) {
            missing.push(layer.clone());
        }
    }

    let mut layers = fetcher.layers_of_uncompressed(&image, &missing, AHEAD)?;
    while let Some(next) = layers.next().await {
        let (layer, reader) = next?;
        let path = path_of(folder, &layer)?;
        let imported = import(folder, &path, reader).await;
        let bytes = imported.with_context(|| format!("can't import layer {}", layer.index))?;
        println!("{} has {bytes} bytes", path.display());
    }
    Ok(())
}
