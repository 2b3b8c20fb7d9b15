//! Imports the layers of an image at the same time, and reads them with a synchronous tar reader on threads that may
//! block: as composefs-rs does. The results come in the order of the layers.
//!
//! `cargo run --example parallel_import -- docker://quay.io/fedora/fedora:latest FOLDER`
//!
//! Use it where layers do not need each other, and where the code that reads them uses `std::io::Read`.
//!
//! Here `FOLDER/files` has each file once, named by its digest, even if several layers contain it. `FOLDER/layers` has
//! a listing for each layer. A layer that already has a listing is not fetched.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use longshore::{BlockingReader, FetchOptions, Fetcher, ImageProxyConfig, Layer};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

const USAGE: &str = "usage: parallel_import IMAGE FOLDER [insecure]
IMAGE is for example docker://quay.io/fedora/fedora:latest or oci:FOLDER:TAG.
`insecure` allows plain HTTP, for example for a registry on this machine.";

struct Store {
    folder: PathBuf,
}

impl Store {
    fn open(folder: &str) -> anyhow::Result<Self> {
        let folder = PathBuf::from(folder);
        for part in ["files", "layers"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("can't use {}", part.display()))?;
        }
        Ok(Self { folder })
    }

    fn listing(&self, layer: &Layer) -> anyhow::Result<PathBuf> {
        let diff_id = layer.diff_id.as_ref().with_context(|| {
            let digest = layer.descriptor.digest();
            format!("the config has no diff_id for layer {digest}: is this a container image?")
        })?;
        Ok(self.folder.join("layers").join(diff_id.digest()))
    }

    /// Imports a layer, on a thread that may block. Returns the number of files.
    fn import(&self, layer: &Layer, reader: BlockingReader) -> anyhow::Result<usize> {
        let mut listing = NamedTempFile::new_in(self.folder.join("layers"))?;
        let mut files = 0;
        let mut archive = tar::Archive::new(reader);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let kind = entry.header().entry_type();
            // The path is escaped, because it can have any bytes, also line breaks.
            let path = entry.path_bytes().escape_ascii().to_string();
            let content = if kind.is_file() {
                files += 1;
                self.put_file(&mut entry)?
            } else {
                "-".to_owned()
            };
            writeln!(listing, "{content} {kind:?} {path}")?;
        }
        // The archive ends before the layer does. The end of the layer comes only if size and digest are right, so the
        // listing gets its name only then. The files can be stored before, because each is named by its own digest.
        archive.into_inner().finish()?;
        listing.as_file().sync_all()?;
        listing.persist(self.listing(layer)?)?;
        Ok(files)
    }

    /// Stores a file, and returns its digest.
    fn put_file(&self, content: &mut impl Read) -> anyhow::Result<String> {
        let folder = self.folder.join("files");
        let mut file = NamedTempFile::new_in(&folder)?;
        let mut hashing = Hashing(file.as_file_mut(), Sha256::new());
        io::copy(content, &mut hashing)?;
        let digest = hashing.1.finalize();
        let digest = (digest.iter()).fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        file.as_file().sync_all()?;
        file.persist(folder.join(&digest))?;
        Ok(digest)
    }
}

/// A writer to a file that hashes what is written.
struct Hashing<'a>(&'a mut File, Sha256);

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes)?;
        self.1.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (reference, folder, insecure) = match arguments.as_slice() {
        [reference, folder] => (reference, folder, false),
        [reference, folder, word] if word == "insecure" => (reference, folder, true),
        _ => bail!(USAGE),
    };
    let store = Arc::new(Store::open(folder)?);

    let config = ImageProxyConfig::default().insecure_skip_tls_verification(insecure);
    let fetcher = Fetcher::new(config, FetchOptions::default()).await?;
    let image = fetcher.open(reference).await?;
    // Fetches the config, which lists the diff_ids.
    let content = fetcher.content(&image).await?;
    let mut missing = Vec::new();
    for layer in content.layers() {
        let listing = store.listing(layer)?;
        if listing.try_exists()? {
            println!("{} is there", listing.display());
        } else {
            missing.push(layer.clone());
        }
    }

    let importing = Arc::clone(&store);
    // A layer that occurs twice is imported once. A layer whose transfer breaks off is imported again, from its start.
    let import = move |layer: Layer, reader| importing.import(&layer, reader);
    let imported = fetcher
        .for_each_of_uncompressed_blocking(&image, &missing, import)
        .await?;
    for (layer, files) in imported {
        println!("{} has {files} files", store.listing(&layer)?.display());
    }
    Ok(())
}
