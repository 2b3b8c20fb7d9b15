//! An OCI image layout as a sink.
//!
//! Whatever happens, the layout stays valid: a blob gets its name only when it
//! is complete, verified and on disk; the index is replaced, in one step, when
//! all that it names is there. Pulls into the same layout, also by other
//! processes, do not disturb each other: each has a staging folder of its own,
//! and a lock on the layout itself is held for the moments in which the index
//! changes.

mod index;
mod staging;
mod write;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::{Descriptor, Digest};
use tokio::sync::OnceCell;

use self::staging::{LayoutLock, Staging};
use crate::error::{Error, Result};
use crate::fetch::{ImageContent, IndexContent, LayerReader, Sink};

/// What images are called in the index.
#[derive(Debug)]
enum Names {
    Given(Option<String>),
    References,
}

impl Names {
    fn name_of(&self, reference: &str) -> Option<String> {
        match self {
            Self::Given(tag) => tag.clone(),
            Self::References => {
                let name = reference
                    .split_once(':')
                    .map_or(reference, |(_, name)| name);
                let name = name.trim_start_matches('/');
                OciLayout::can_name(name).then(|| name.to_owned())
            }
        }
    }
}

/// The only layout version there is (image-spec, `image-layout.md`).
const LAYOUT_VERSION: &str = "1.0.0";

/// An OCI image layout to pull into, created or added to.
///
/// Blobs that are there are not fetched again. Killed at any moment, the layout
/// stays valid and keeps what was complete; the next pull goes on from there,
/// and sweeps what was not.
#[derive(Debug)]
pub struct OciLayout {
    root: PathBuf,
    names: Names,
    /// Made when the first thing is to be stored.
    staging: OnceCell<Arc<Staging>>,
}

impl OciLayout {
    /// The layout in the folder `root`. `tag` names the pulled image in the
    /// index (`org.opencontainers.image.ref.name`); another image of that name
    /// loses it.
    ///
    /// Nothing is touched before the first blob is stored. Then a layout is
    /// made there if the folder is empty or missing; if it holds something else
    /// than a layout, it is left as it is, and the pull fails.
    pub fn new(root: impl Into<PathBuf>, tag: Option<String>) -> Self {
        Self {
            root: root.into(),
            names: Names::Given(tag),
            staging: OnceCell::new(),
        }
    }

    /// The same for several images, each of which is named by its reference:
    /// `docker://quay.io/a/b:c` by `quay.io/a/b:c`.
    pub fn named_by_reference(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            names: Names::References,
            staging: OnceCell::new(),
        }
    }

    /// Whether this can name an image in a layout: the image specification
    /// (annotations.md, `org.opencontainers.image.ref.name`) allows letters and
    /// digits, with `-._:@/+` between them.
    #[must_use]
    pub fn can_name(tag: &str) -> bool {
        let separator = |c: char| "-._:@/+".contains(c);
        !tag.is_empty()
            && tag
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || separator(c))
            && !tag.starts_with(separator)
            && !tag.ends_with(separator)
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    async fn staging(&self) -> Result<Arc<Staging>> {
        let prepare = || {
            let root = self.root.clone();
            blocking(move || {
                let what = format!("can't use {} as an image layout", root.display());
                prepare(&root).map(Arc::new).map_err(Error::io(what))
            })
        };
        self.staging.get_or_try_init(prepare).await.cloned()
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join(blob_name(digest))
    }

    /// Store a document that is in memory, under its digest.
    async fn put(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
        let path = self.blob_path(descriptor.digest());
        let what = format!("can't write {}", path.display());
        let staging = self.staging().await?;
        let bytes = bytes.to_vec();
        blocking(move || {
            staging
                .publish_bytes(&bytes, &path)
                .map_err(Error::io(what))
        })
        .await
    }
}

/// A blob's place within a layout. A digest's text can't lead elsewhere: it
/// has no slash, and one colon.
fn blob_name(digest: &Digest) -> PathBuf {
    ["blobs", digest.algorithm().as_ref(), digest.digest()]
        .iter()
        .collect()
}

impl Sink for OciLayout {
    async fn has(&self, blob: &Descriptor) -> Result<bool> {
        let path = self.blob_path(blob.digest());
        let size = blob.size();
        blocking(move || match fs::symlink_metadata(&path) {
            Ok(found) => Ok(found.is_file() && found.len() == size),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::io(format!("can't look at {}", path.display()))(e)),
        })
        .await
    }

    async fn read(&self, blob: &Descriptor) -> Result<Option<Vec<u8>>> {
        if !self.has(blob).await? {
            return Ok(None);
        }
        let path = self.blob_path(blob.digest());
        let what = format!("can't read {}", path.display());
        blocking(move || fs::read(path).map(Some).map_err(Error::io(what))).await
    }

    async fn store(&self, blob: &Descriptor, mut reader: LayerReader) -> Result<()> {
        let path = self.blob_path(blob.digest());
        let what = move || format!("can't write blob {}", path.display());
        let staging = self.staging().await?;
        let create = blocking(move || Ok(staging.create()));
        let staged = create.await?.map_err(Error::io(what()))?;
        let staged = write::drain(&mut reader, staged)
            .await
            .map_err(|failed| match failed {
                write::Failed::Read(error) => error
                    .downcast()
                    .unwrap_or_else(Error::io("can't read a blob")),
                write::Failed::Write(error) => Error::io(what())(error),
            })?;
        reader.finish().await?;
        let path = self.blob_path(blob.digest());
        blocking(move || staged.publish(&path).map_err(Error::io(what()))).await
    }

    async fn commit(&self, image: &ImageContent) -> Result<()> {
        self.put_documents(image).await?;
        self.name(image.manifest_descriptor().clone(), image.reference())
            .await
    }

    async fn commit_index(&self, index: &IndexContent, images: &[Arc<ImageContent>]) -> Result<()> {
        for image in images {
            self.put_documents(image).await?;
        }
        self.put(index.descriptor(), index.raw()).await?;
        self.name(index.descriptor().clone(), index.reference())
            .await
    }
}

impl OciLayout {
    async fn put_documents(&self, image: &ImageContent) -> Result<()> {
        self.put(image.config_descriptor(), image.config()).await?;
        self.put(image.manifest_descriptor(), image.manifest())
            .await
    }

    /// Let others see this manifest or index, all of which is there.
    async fn name(&self, descriptor: Descriptor, reference: &str) -> Result<()> {
        let root = self.root.clone();
        let staging = self.staging().await?;
        let tag = self.names.name_of(reference);
        blocking(move || {
            let path = root.join("index.json");
            let what = format!("can't update {}", path.display());
            let update = || {
                staging.sync_blobs()?;
                let _lock = LayoutLock::take(&root)?;
                let old = fs::read(&path)?;
                let new = index::with_image(&old, &descriptor, tag.as_deref())?;
                staging.publish_bytes(&new, &path)?;
                staging::sync_folder(&root)
            };
            update().map_err(Error::io(what))
        })
        .await
    }
}

/// Make sure that there is a layout, sweep what dead pulls left in it, and make
/// room for ours.
fn prepare(root: &Path) -> io::Result<Staging> {
    fs::create_dir_all(root)?;
    let lock = LayoutLock::take(root)?;
    let marker = root.join("oci-layout");
    let fresh = match fs::read(&marker) {
        Ok(found) => {
            check_version(&found)?;
            false
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => true,
        Err(e) => return Err(e),
    };
    staging::sweep(root)?;
    if fresh && !holds_at_most(root, &["blobs", "index.json"])? {
        let reason = "the folder is neither empty nor an OCI image layout";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason));
    }
    let staging = Staging::new(root)?;
    for algorithm in ["sha256", "sha384", "sha512"] {
        let folder = root.join("blobs").join(algorithm);
        if algorithm == "sha256" || folder.is_dir() {
            fs::create_dir_all(folder)?;
        }
    }
    let index = root.join("index.json");
    if !index.exists() {
        staging.publish_bytes(&index::empty(), &index)?;
    }
    if fresh {
        let content = serde_json::json!({ "imageLayoutVersion": LAYOUT_VERSION }).to_string();
        staging.publish_bytes(content.as_bytes(), &marker)?;
        staging::sync_folder(root)?;
    }
    drop(lock);
    Ok(staging)
}

fn check_version(marker: &[u8]) -> io::Result<()> {
    let marker: serde_json::Value = serde_json::from_slice(marker)?;
    match marker["imageLayoutVersion"].as_str() {
        Some(LAYOUT_VERSION) => Ok(()),
        found => {
            let found = found.unwrap_or("none");
            let reason = format!("its layout version is {found}, known is {LAYOUT_VERSION}");
            Err(io::Error::new(io::ErrorKind::Unsupported, reason))
        }
    }
}

fn holds_at_most(folder: &Path, names: &[&str]) -> io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if !names.iter().any(|known| name == *known) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Run something that may wait for a disk where that does no harm.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::Closed),
    }
}
