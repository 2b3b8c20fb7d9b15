//! Checks the result of a pull.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use crate::workload::Image;

/// Compares the layout that a contestant has written with the image that it should have pulled. Manifest,
/// configuration and every layer must be there, with the right bytes.
pub(crate) fn check(layout: &Path, made: &Image) -> anyhow::Result<()> {
    let index = std::fs::read_to_string(layout.join("index.json")).context("no index.json")?;
    if !index.contains(&made.manifest) {
        bail!("index.json doesn't name the manifest");
    }
    check_blob(layout, &made.manifest, None)?;
    for blob in &made.blobs {
        check_blob(layout, &blob.digest, Some(blob.size))?;
    }
    Ok(())
}

fn check_blob(layout: &Path, digest: &str, size: Option<u64>) -> anyhow::Result<()> {
    let hex = digest
        .strip_prefix("sha256:")
        .with_context(|| format!("{digest} is not a SHA-256"))?;
    let mut file = match File::open(layout.join("blobs/sha256").join(hex)) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => bail!("{digest} is missing"),
        Err(error) => return Err(error).with_context(|| format!("can't open {digest}")),
    };
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut length = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        length += read as u64;
    }
    if size.is_some_and(|size| size != length) {
        bail!("{digest} has {length} bytes");
    }
    let mut found = String::new();
    for byte in hasher.finalize() {
        write!(found, "{byte:02x}")?;
    }
    if found != hex {
        bail!("{digest} has other bytes");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Blob;
    use test_registry::image::ImageBuilder;

    #[test]
    fn a_layout_must_have_every_blob_with_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let layout = folder.path().join("layout");
        let written = ImageBuilder::new()
            .layer_random(1000, 1)
            .write(&layout, "latest")
            .unwrap();
        let layer = &written.layers[0];
        let made = Image {
            name: String::new(),
            manifest: written.manifest_digest.to_string(),
            blobs: vec![Blob {
                digest: layer.digest().to_string(),
                size: layer.size(),
            }],
        };
        check(&layout, &made).unwrap();
        let hex = made.blobs[0].digest.trim_start_matches("sha256:");
        let file = layout.join("blobs/sha256").join(hex);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[7] ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        let error = check(&layout, &made).unwrap_err().to_string();
        assert!(error.ends_with("other bytes"), "{error}");
        std::fs::remove_file(&file).unwrap();
        let error = check(&layout, &made).unwrap_err().to_string();
        assert!(error.ends_with("is missing"), "{error}");
    }
}
