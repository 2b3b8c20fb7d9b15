//! An OCI image layout as a sink.
//!
//! The layout is valid at every moment. A blob gets its name only when it is complete, verified and on disk.
//! The index is replaced in one step, when everything that it names is there.
//!
//! Pulls into the same layout do not disturb each other, even from different processes. Each pull has a
//! staging folder of its own. The layout is locked only for short changes: see [`LayoutLock`].
//!
//! A layout may come from somebody else, so no symbolic link in it is followed. A folder or a file of the
//! layout that is a symbolic link is an error. A blob that is a symbolic link is fetched again and replaced.

mod blobs;
mod exclusive;
mod folder;
mod index;
mod prune;
mod reach;
mod staging;
#[cfg(test)]
mod testing;
mod verify;
mod write;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::{Descriptor, Digest};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use self::folder::Folder;
pub use self::prune::{PruneOptions, Pruned, PrunedBlob};
use self::staging::{LayoutLock, Staging, is_ours};
pub use self::verify::{Damage, DamagedBlob, Verified, VerifyOptions};
use crate::error::{Error, Result, join_error};
use crate::fetch::{ImageContent, IndexContent, Layer, LayerReader, Sink};
use crate::words::printable;

/// The way in which images are named in the index.
#[derive(Debug)]
enum Names {
    /// Each image has this name, or none.
    Given(Option<String>),
    /// Each image is named by its reference.
    References,
}

impl Names {
    /// The name of an image that was requested by this reference, and optionally by this name.
    fn name_of(&self, reference: &str, name: Option<&str>) -> Result<Option<String>> {
        let name = match (name, self) {
            (Some(name), _) => name,
            (None, Self::Given(None)) => return Ok(None),
            (None, Self::Given(Some(tag))) => tag.as_str(),
            (None, Self::References) => OciLayout::name_of_reference(reference),
        };
        if OciLayout::can_name(name) {
            return Ok(Some(name.to_owned()));
        }
        Err(Error::image(format!(
            "it can't be named {name:?} in an image layout. Pull this image alone, and give a TAG: letters and \
             digits, with single characters of -._:@/+ between them"
        )))
    }
}

/// The only version of the layout format (image-spec, `image-layout.md`).
const LAYOUT_VERSION: &str = "1.0.0";

const MARKER: &str = "oci-layout";
const INDEX: &str = "index.json";
const BLOBS: &str = "blobs";

/// The maximum size of the marker file that is read, in bytes. It usually has 30 bytes.
const MAX_MARKER_BYTES: u64 = 4 * 1024;
/// The maximum size of an index that is read or written, in bytes. This suffices for some 200,000 images.
const MAX_INDEX_BYTES: u64 = 64 * 1024 * 1024;

/// An OCI image layout that images are pulled into. It is created if it does not exist.
///
/// A blob that is already in the layout is reused if its size matches. Its digest is not computed again;
/// [`verify`](Self::verify), or the command `longshore verify`, does that. If the process is killed, the layout
/// stays valid and keeps all complete blobs. The next pull continues from there, and removes
/// incomplete files.
#[derive(Debug)]
pub struct OciLayout {
    root: PathBuf,
    names: Names,
    /// The staging folder, which is created before the first blob is stored.
    staging: OnceCell<Arc<Staging>>,
    /// A counter of the blobs that are being stored: each of them holds a clone.
    stored: Arc<()>,
}

impl OciLayout {
    /// Makes a sink for the layout in the folder `root`. `tag` is the name of the pulled image in the index
    /// (`org.opencontainers.image.ref.name`). `None` means no name. If the index has an entry of another image with
    /// this name, the pull removes this entry; the blobs of that image stay until [`prune`](Self::prune). If `tag`
    /// [can't name](Self::can_name) an image, the pull fails with [`Error::Image`].
    ///
    /// Nothing is changed before a pull begins. The pull creates the layout if the folder does not exist, or
    /// contains nothing but hidden files, `lost+found`, and parts of a layout (`blobs`, `index.json`). If the folder
    /// contains anything else and is no layout, nothing is changed and the pull fails. A file `.longshore.lock`
    /// stays in the layout.
    pub fn new(root: impl Into<PathBuf>, tag: Option<String>) -> Self {
        Self {
            root: root.into(),
            names: Names::Given(tag),
            staging: OnceCell::new(),
            stored: Arc::new(()),
        }
    }

    /// Makes a sink for the layout in the folder `root`, for several images. Each image is named by its reference:
    /// `docker://quay.io/a/b:c` is called `quay.io/a/b:c`. Everything else is as with [`new`](Self::new).
    pub fn named_by_reference(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            names: Names::References,
            staging: OnceCell::new(),
            stored: Arc::new(()),
        }
    }

    /// Returns the name of an image in a layout that is [named by reference](Self::named_by_reference): the
    /// reference without its transport. `docker://quay.io/a/b:c` is called `quay.io/a/b:c`. Two references
    /// can have the same name.
    #[must_use]
    pub fn name_of_reference(reference: &str) -> &str {
        let name = reference.split_once(':');
        let name = name.map_or(reference, |(_, name)| name);
        name.trim_start_matches('/')
    }

    /// Returns whether `tag` can name an image in a layout. The image specification (annotations.md,
    /// `org.opencontainers.image.ref.name`) allows letters and digits, with one of `-._:@/+`, or `--`,
    /// between them. skopeo can't open an image by a name that is not allowed.
    #[must_use]
    pub fn can_name(tag: &str) -> bool {
        let is_component = |component: &str| {
            let component = component.replace("--", "-");
            let mut words = component.split(['-', '.', '_', ':', '@', '+']);
            words.all(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric()))
        };
        // Three dashes in a row are no separator.
        !tag.contains("---") && tag.split('/').all(is_component)
    }

    /// Checks whether the images of these references can be pulled into this layout, without changing anything: whether
    /// the folder is a layout or may become one, and whether each image can have its name. Permissions to write and
    /// free space are not checked. [`Fetcher::pull`](crate::Fetcher::pull) checks the same, but only after the image
    /// was opened.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the folder can't be used; [`Error::Image`] if an image can't have its name.
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed, even if the future is dropped early.
    pub async fn check(&self, references: &[impl AsRef<str>]) -> Result<()> {
        for reference in references {
            self.names.name_of(reference.as_ref(), None)?;
        }
        let what = self.cant_use();
        let root = self.root.clone();
        blocking(move || check(&root).map_err(Error::io(what))).await
    }

    /// Returns the names of the images in this layout, in the order of its index. Images without a name are left out.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if there is no layout, or if its index can't be understood.
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed, even if the future is dropped early.
    pub async fn names(&self) -> Result<Vec<String>> {
        let what = format!("can't read {}", self.root.display());
        let root = self.root.clone();
        blocking(move || {
            let listed = open_layout(&root)
                .and_then(|root| index::entries(&read_index(&root)?))
                .map_err(Error::io(what))?;
            Ok(listed.into_iter().filter_map(|image| image.name).collect())
        })
        .await
    }

    fn cant_use(&self) -> String {
        format!("can't use {} as an image layout", self.root.display())
    }

    /// Returns the folder of the layout.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    async fn staging(&self) -> Result<Arc<Staging>> {
        let prepare = || {
            let (root, what) = (self.root.clone(), self.cant_use());
            blocking(move || prepare(&root).map(Arc::new).map_err(Error::io(what)))
        };
        self.staging.get_or_try_init(prepare).await.cloned()
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        let folder = self.root.join(BLOBS).join(digest.algorithm().as_ref());
        folder.join(digest.digest())
    }

    /// Runs `look` on a blob in its folder, on a blocking thread. `None` if the folder or the layout does not exist.
    async fn in_blob_folder<T: Send + 'static>(
        &self,
        blob: &Descriptor,
        look: impl FnOnce(&Folder, &str) -> io::Result<Option<T>> + Send + 'static,
    ) -> Result<Option<T>> {
        let what = format!("can't read {}", self.blob_path(blob.digest()).display());
        let root = self.root.clone();
        let digest = blob.digest().clone();
        blocking(move || {
            let looked = Folder::at(&root)
                .and_then(|root| root.open(BLOBS)?.open(digest.algorithm().as_ref()))
                .and_then(|folder| look(&folder, digest.digest()));
            match looked {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                other => other.map_err(Error::io(what)),
            }
        })
        .await
    }

    /// Whether there is a blob of this name and size.
    async fn has_blob(&self, blob: &Descriptor) -> Result<bool> {
        let size = self.in_blob_folder(blob, |folder, name| folder.size_of(name));
        Ok(size.await? == Some(blob.size()))
    }

    /// Stores a document from memory under its digest.
    async fn put(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
        let digest = descriptor.digest().clone();
        let what = format!("can't write {}", self.blob_path(&digest).display());
        let staging = self.staging().await?;
        let bytes = bytes.to_vec();
        blocking(move || {
            let put = || {
                let mut staged = staging.create()?;
                staged.file.write_all(&bytes)?;
                staging.publish_blob(staged, &digest)
            };
            put().map_err(Error::io(what))
        })
        .await
    }
}

impl Sink for OciLayout {
    async fn prepare(&self) -> Result<()> {
        if let Names::Given(_) = self.names {
            self.names.name_of("", None)?;
        }
        self.staging().await.map(drop)
    }

    async fn has(&self, layer: &Layer) -> Result<bool> {
        self.has_blob(&layer.descriptor).await
    }

    async fn read(&self, blob: &Descriptor) -> Result<Option<Vec<u8>>> {
        if !self.has_blob(blob).await? {
            return Ok(None);
        }
        let size = blob.size();
        self.in_blob_folder(blob, move |folder, name| folder.read(name, size))
            .await
    }

    async fn store(&self, layer: &Layer, reader: LayerReader) -> Result<()> {
        let blob = &layer.descriptor;
        let digest = blob.digest().clone();
        let staging = self.staging().await?;
        let counted = Arc::clone(&self.stored);
        let chunk_bytes = write::chunk_bytes(blob.size(), Arc::strong_count(&counted) - 1);
        let writing = write::store(reader, staging, digest.clone(), chunk_bytes);
        writing.await.map_err(|failed| match failed {
            write::StoreError::Fetch(error) => error,
            write::StoreError::Write(error) => {
                let path = self.blob_path(&digest);
                Error::io(format!("can't write blob {}", path.display()))(error)
            }
        })
    }

    async fn commit(&self, image: &ImageContent) -> Result<()> {
        self.put_documents(image).await?;
        let name = self.names.name_of(image.reference(), image.name())?;
        self.add_to_index(vec![(image.manifest_descriptor().clone(), name)])
            .await
    }

    /// Commits all of these images in one step.
    async fn commit_all(&self, images: &[Arc<ImageContent>]) -> Result<()> {
        let mut listed = Vec::with_capacity(images.len());
        for image in images {
            let name = self.names.name_of(image.reference(), image.name())?;
            listed.push((image.manifest_descriptor().clone(), name));
        }
        for image in images {
            self.put_documents(image).await?;
        }
        self.add_to_index(listed).await
    }

    async fn commit_index(&self, index: &IndexContent, images: &[Arc<ImageContent>]) -> Result<()> {
        for image in images {
            self.put_documents(image).await?;
        }
        self.put(index.descriptor(), index.raw()).await?;
        let name = self.names.name_of(index.reference(), index.name())?;
        self.add_to_index(vec![(index.descriptor().clone(), name)])
            .await
    }
}

impl OciLayout {
    async fn put_documents(&self, image: &ImageContent) -> Result<()> {
        self.put(image.config_descriptor(), image.config()).await?;
        self.put(image.manifest_descriptor(), image.manifest())
            .await
    }

    /// Adds these manifests or indexes to the index of the layout, by these names. Everything that a manifest or
    /// index names must be there, which is checked first. If the future is dropped early, the check stops.
    async fn add_to_index(&self, images: Vec<(Descriptor, Option<String>)>) -> Result<()> {
        if images.is_empty() {
            return Ok(());
        }
        let what = format!("can't update {}", self.root.join(INDEX).display());
        let staging = self.staging().await?;
        let stop = CancellationToken::new();
        let _stopping = stop.clone().drop_guard();
        blocking(move || {
            let update = || {
                // The bytes are on disk already. The names of the blobs come next, and then the index that
                // names them.
                staging.sync_blobs()?;
                let root = staging.root();
                reach::check(root, images.iter().map(|(named, _)| named), &stop)?;
                let _lock = LayoutLock::take(root)?;
                let old = root.read(INDEX, MAX_INDEX_BYTES)?;
                let old = old.ok_or(io::ErrorKind::NotFound)?;
                let index = index::with_images(&old, &images)?;
                if index.len() as u64 > MAX_INDEX_BYTES {
                    let full =
                        "it names as many images as it can: pull the others into another folder";
                    return Err(io::Error::new(io::ErrorKind::FileTooLarge, full));
                }
                staging.publish_file(&index, INDEX)?;
                root.sync()
            };
            update().map_err(Error::io(what))
        })
        .await
    }
}

/// Creates the layout if it does not exist, removes the staging folders of dead pulls, and creates a
/// staging folder.
fn prepare(root: &Path) -> io::Result<Staging> {
    let root = Folder::make_at(root)?;
    // This check comes first, so that nothing is put into a folder that is no layout.
    is_layout(&root)?;
    let lock = LayoutLock::take(&root)?;
    let fresh = !is_layout(&root)?;
    staging::sweep(&root)?;
    root.open_or_make(BLOBS)?.open_or_make("sha256")?;
    let no_index = root.size_of(INDEX)?.is_none();
    let staging = Staging::new(root)?;
    if no_index {
        staging.publish_file(&index::empty(), INDEX)?;
    }
    if fresh {
        let content = serde_json::json!({ "imageLayoutVersion": LAYOUT_VERSION }).to_string();
        staging.publish_file(content.as_bytes(), MARKER)?;
        staging.root().sync()?;
    }
    drop(lock);
    Ok(staging)
}

/// Opens the folder of a layout that exists.
fn open_layout(root: &Path) -> io::Result<Folder> {
    let folder = Folder::at(root)?;
    if is_layout(&folder)? {
        return Ok(folder);
    }
    let reason = format!("it is no OCI image layout: the file {MARKER} is missing");
    Err(io::Error::new(io::ErrorKind::NotFound, reason))
}

fn read_index(root: &Folder) -> io::Result<Vec<u8>> {
    root.read(INDEX, MAX_INDEX_BYTES)?.ok_or_else(|| {
        let reason = format!("the file {INDEX} is missing");
        io::Error::new(io::ErrorKind::NotFound, reason)
    })
}

/// Returns an error if this folder, or the existing folder in which it would be created, can't be used.
fn check(root: &Path) -> io::Result<()> {
    match Folder::at(root) {
        Ok(root) => is_layout(&root).map(drop),
        // The folder will be created with all missing parents.
        Err(e) if e.kind() == io::ErrorKind::NotFound => match root.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Ok(()),
            Some(parent) => match Folder::at(parent) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => check(parent),
                other => other.map(drop),
            },
            None => Ok(()),
        },
        Err(e) => Err(e),
    }
}

/// Returns whether there is a layout. `false` means that one can be created here. Anything else in the folder
/// is an error.
fn is_layout(root: &Folder) -> io::Result<bool> {
    if let Some(index) = root.read(INDEX, MAX_INDEX_BYTES)? {
        index::check(&index)?;
    }
    if let Some(marker) = root.read(MARKER, MAX_MARKER_BYTES)? {
        return check_version(&marker).map(|()| true);
    }
    let names = root.names()?;
    if names.iter().any(|name| name == MARKER) {
        // Another pull has created the layout in between.
        return is_layout(root);
    }
    check_can_become_layout(&names).map(|()| false)
}

fn check_version(marker: &[u8]) -> io::Result<()> {
    let marker: serde_json::Value = serde_json::from_slice(marker)?;
    match marker["imageLayoutVersion"].as_str() {
        Some(LAYOUT_VERSION) => Ok(()),
        found => {
            let found = printable(found.unwrap_or("none"));
            let reason =
                format!("its layout version is {found}; only {LAYOUT_VERSION} is supported");
            Err(io::Error::new(io::ErrorKind::Unsupported, reason))
        }
    }
}

/// Returns an error unless a folder without the marker contains only hidden files, `lost+found`, and what a killed pull
/// has left.
fn check_can_become_layout(names: &[OsString]) -> io::Result<()> {
    // Hidden files, and what ext4 puts into the root of each file system, are not the user's content.
    let foreign = |name: &OsStr| name == "lost+found" || name.as_bytes().starts_with(b".");
    if names
        .iter()
        .all(|name| name == BLOBS || name == INDEX || is_ours(name) || foreign(name))
    {
        return Ok(());
    }
    let reason = "the folder is neither empty nor an OCI image layout";
    Err(io::Error::new(io::ErrorKind::AlreadyExists, reason))
}

/// Runs `work`, which may wait for a disk, on a blocking thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(join_error(error)))
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_follow_the_grammar_of_the_specification() {
        for name in [
            "a",
            "v1",
            "a.b",
            "a--b",
            "quay.io/a/b:c",
            "a_b",
            "A@B+c:d-e",
            "a/b--c/d",
        ] {
            assert!(OciLayout::can_name(name), "{name}");
        }
        for name in [
            "", ".", "a..b", "a__b", "a---b", "a-", "-a", "a/", "/a", "a//b", "a/-b", "a:-b",
            "a b", "a-_b", "ä", "a----b", "a--.b",
        ] {
            assert!(!OciLayout::can_name(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn the_path_of_a_blob_stays_in_its_folder(text in "[a-z0-9+._/-]{0,12}:[a-zA-Z0-9=._/:-]{0,80}|\\PC*") {
            if let Ok(digest) = text.parse::<Digest>() {
                let layout = OciLayout::new("", None);
                let name = layout.blob_path(&digest);
                let parts: Vec<_> = name.components().collect();
                prop_assert_eq!(parts.len(), 3, "{:?}", name);
                prop_assert!(parts.iter().all(|part| matches!(part, Component::Normal(_))), "{name:?}");
            }
        }

        #[test]
        fn names_by_reference_follow_the_specification(text in "\\PC*") {
            let names = Names::References;
            if let Ok(Some(name)) = names.name_of(&text, None) {
                prop_assert!(OciLayout::can_name(&name));
                prop_assert!(text.ends_with(&name));
            }
        }
    }
}
