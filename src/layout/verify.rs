//! Compares the blobs of a layout with their digests and sizes.

pub(super) mod check;
mod names;
mod plan;
mod remove;
#[cfg(test)]
mod tests;

use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

use oci_spec::image::Digest;
use tokio_util::sync::CancellationToken;

use self::check::{Checker, DamageFound};
use self::plan::{Job, Plan};
use super::folder::{Folder, Identity};
use super::{OciLayout, blocking, index, open_layout, read_index};
use crate::error::{BlobError, Error, Result, join_error};
use crate::words::printable;

/// The maximum number of images that an error message lists.
const SHOWN_IMAGES: usize = 10;

/// The options of [`OciLayout::verify`].
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// The name, or the digest, of the only image to verify. `None`, the default, means all images of the index.
    pub image: Option<String>,
    /// Whether blobs that belong to no image are verified, too. A pull that was killed leaves such blobs, and a
    /// later pull reuses them. Their sizes are not compared, because nothing says what they should be. With
    /// [`image`](Self#structfield.image), the blobs that only other images name count as such blobs. The
    /// default is false.
    pub unnamed: bool,
    /// Whether layers are also decompressed, and compared with the `diff_id`s of their image config. The
    /// defaults of [`max_expansion`](crate::FetchOptions#structfield.max_expansion) and
    /// [`max_zstd_window`](crate::FetchOptions#structfield.max_zstd_window) limit the decompression. The
    /// default is false.
    #[cfg(feature = "decompress")]
    pub diff_ids: bool,
    /// The number of threads that read blobs, at most 64. `None`, the default, means the number of processors.
    pub workers: Option<NonZeroUsize>,
}

impl VerifyOptions {
    /// Sets [`image`](Self#structfield.image).
    #[must_use]
    pub fn image(mut self, name: impl Into<String>) -> Self {
        self.image = Some(name.into());
        self
    }

    /// Sets [`unnamed`](Self#structfield.unnamed).
    #[must_use]
    pub fn unnamed(mut self, unnamed: bool) -> Self {
        self.unnamed = unnamed;
        self
    }

    /// Sets [`diff_ids`](Self#structfield.diff_ids).
    #[cfg(feature = "decompress")]
    #[must_use]
    pub fn diff_ids(mut self, diff_ids: bool) -> Self {
        self.diff_ids = diff_ids;
        self
    }

    /// Sets [`workers`](Self#structfield.workers).
    #[must_use]
    pub fn workers(mut self, workers: NonZeroUsize) -> Self {
        self.workers = Some(workers);
        self
    }
}

/// The result of [`OciLayout::verify`].
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Verified {
    /// The number of entries of the index that were verified: images, and indexes of images.
    pub images: usize,
    /// The number of blobs that were read: indexes, manifests, configs and layers. A damaged blob counts, too, even if
    /// it could not be read. A missing one does not count.
    pub blobs: usize,
    /// The number of bytes that were read of these blobs.
    pub bytes: u64,
    /// The number of layers that were decompressed and compared with a `diff_id`.
    pub diff_ids: usize,
    /// The number of foreign layers that are not in the layout. They are stored elsewhere, so this is no damage.
    pub foreign_layers: usize,
    /// The blobs that are missing, damaged or unusable, sorted by digest. Empty if there are none.
    pub damaged: Vec<DamagedBlob>,
}

/// A blob of a layout that is missing, damaged or unusable.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DamagedBlob {
    /// The digest by which the blob is named.
    pub digest: Digest,
    /// The kind of the damage.
    pub damage: Damage,
    /// The images of the layout that name the blob, each by its name or, if it has none, by its digest. With
    /// [`VerifyOptions::image`](VerifyOptions#structfield.image), images that were not verified are listed, too. Empty
    /// for a blob that no verified image names. The names are as they are in the layout;
    /// [`printable`](crate::printable()) makes them safe to show.
    pub images: Vec<String>,
    /// The size that the descriptor of the blob states, in bytes. `None` if no image names the blob.
    size: Option<u64>,
    /// The file as it was read.
    identity: Option<Identity>,
}

/// The kinds of damage of a blob of a layout.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The layout does not contain the blob.
    #[error("is missing")]
    Missing,
    /// The blob has another size than the descriptor that names it.
    #[error("has {found} bytes instead of {expected}")]
    #[non_exhaustive]
    WrongSize {
        /// The size of the file, in bytes.
        found: u64,
        /// The size that the descriptor states, in bytes.
        expected: u64,
    },
    /// The blob has another digest than its name.
    #[error("is damaged: its bytes have the digest {computed}")]
    #[non_exhaustive]
    Corrupt {
        /// The digest of what is stored.
        computed: Digest,
    },
    /// The blob can't be read, or is no plain file.
    #[error("can't be read: {0}")]
    Unreadable(Arc<io::Error>),
    /// The digest's algorithm is not sha256, sha384 or sha512.
    #[error("can't be checked: its digest is none of sha256, sha384 and sha512")]
    UnknownAlgorithm,
    /// The blob is not a usable manifest, index or config. The text says why. Its size is right, and so is its
    /// digest, unless the text says that it has too many bytes. The blobs that such a manifest or index names
    /// were not verified.
    #[error("can't be understood: {0}")]
    NotUnderstood(String),
    /// The layer has the right digest and size, but it can't be decompressed, or the decompressed bytes do not have
    /// the `diff_id`.
    #[error(transparent)]
    Layer(BlobError),
}

impl Damage {
    /// Whether [`OciLayout::remove_damaged`] may remove the file of the blob. It removes the file if its bytes are
    /// wrong, or if the file can be opened but not read to its end. The next pull then fetches a good one.
    #[must_use]
    pub fn is_repairable(&self) -> bool {
        matches!(
            self,
            Self::WrongSize { .. } | Self::Corrupt { .. } | Self::Unreadable(_)
        )
    }
}

impl OciLayout {
    /// Reads every blob that the layout names, and compares it with its digest and its size. Nothing is
    /// changed. Several blobs are read at the same time, on blocking threads.
    ///
    /// A pull into the layout may run at the same time. Blobs that it adds after the verification has listed the blobs
    /// are not verified.
    ///
    /// ```no_run
    /// # async fn example() -> longshore::Result<()> {
    /// use longshore::{OciLayout, VerifyOptions};
    ///
    /// let layout = OciLayout::new("fedora", None);
    /// let verified = layout.verify(&VerifyOptions::default()).await?;
    /// for blob in &verified.damaged {
    ///     println!("{} {}", blob.digest, blob.damage);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if there is no layout, if its index can't be understood, or if it does not contain the
    /// [`image`](VerifyOptions#structfield.image). A blob that is missing or damaged is no error, but a part
    /// of the result.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, reading stops.
    pub async fn verify(&self, options: &VerifyOptions) -> Result<Verified> {
        let what = format!("can't verify {}", self.root().display());
        let stop = CancellationToken::new();
        let _stopping = stop.clone().drop_guard();
        let (root, options) = (self.root().to_owned(), options.clone());
        let workers = options.workers.or_else(|| available_parallelism().ok());
        let planning = {
            let (what, stop) = (what.clone(), stop.clone());
            blocking(move || plan(&root, &options, stop).map_err(Error::io(what)))
        };
        let (root, plan) = planning.await?;
        let Plan {
            jobs,
            mut verified,
            mut damaged,
        } = plan;
        let workers = workers.map_or(1, NonZeroUsize::get);
        for (job, outcome) in read_all(&root, jobs, workers, &stop).await? {
            match outcome {
                Ok(read) => {
                    verified.blobs += 1;
                    verified.bytes += read.bytes;
                    verified.diff_ids += read.diff_ids;
                }
                Err(bad) if matches!(bad.damage, Damage::Missing) && job.may_be_missing() => {
                    verified.foreign_layers += usize::from(job.is_foreign);
                }
                Err(bad) => {
                    verified.blobs += usize::from(!matches!(bad.damage, Damage::Missing));
                    verified.bytes += bad.bytes;
                    damaged.push(bad.into_damaged_blob(job.digest, job.size));
                }
            }
        }
        if !damaged.is_empty() {
            let named =
                blocking(move || names::add_images(&root, damaged, &stop).map_err(Error::io(what)));
            verified.damaged = named.await?;
            let digest = |blob: &DamagedBlob| blob.digest.to_string();
            verified.damaged.sort_by_cached_key(digest);
        }
        Ok(verified)
    }
}

/// Reads the documents of a layout, and lists the blobs that are to be read.
fn plan(
    root: &Path,
    options: &VerifyOptions,
    stop: CancellationToken,
) -> io::Result<(Arc<Folder>, Plan)> {
    let root = Arc::new(open_layout(root)?);
    let mut images = index::entries(&read_index(&root)?)?;
    if let Some(wanted) = &options.image {
        let is_wanted = |image: &index::IndexEntry| {
            image.name_or_digest() == wanted || image.descriptor.digest().as_ref() == wanted
        };
        if !images.iter().any(is_wanted) {
            return Err(no_such_image(wanted, &images));
        }
        images.retain(is_wanted);
    }
    let plan = Plan::of(&root, &images, options, stop)?;
    Ok((root, plan))
}

fn no_such_image(wanted: &str, images: &[index::IndexEntry]) -> io::Error {
    let names = images.iter().map(index::IndexEntry::name_or_digest);
    let names: Vec<String> = names.take(SHOWN_IMAGES).map(printable).collect();
    let more = images.len() - names.len();
    let names = match (names.join(", "), more) {
        (none, _) if none.is_empty() => "no image".to_owned(),
        (all, 0) => all,
        (some, more) => format!("{some} and {more} more"),
    };
    let reason = format!("it has no image of the name {wanted:?}; it has {names}");
    io::Error::new(io::ErrorKind::NotFound, reason)
}

/// The maximum number of blobs that are read at the same time. Each takes a buffer and a few file descriptors.
const MAX_WORKERS: usize = 64;

/// Reads all blobs, several at the same time.
async fn read_all(
    root: &Arc<Folder>,
    jobs: Vec<Job>,
    workers: usize,
    stop: &CancellationToken,
) -> Result<Vec<(Job, check::Outcome)>> {
    let count = jobs.len();
    let jobs: Arc<[Job]> = jobs.into();
    let next = Arc::new(AtomicUsize::new(0));
    let start = |_| {
        let (root, jobs, next) = (Arc::clone(root), Arc::clone(&jobs), Arc::clone(&next));
        let mut checker = Checker::new(root, stop.clone(), tokio::runtime::Handle::current());
        tokio::task::spawn_blocking(move || {
            let mut outcomes = Vec::new();
            while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                if checker.is_stopped() {
                    break;
                }
                outcomes.push((job.clone(), checker.check(job)));
            }
            outcomes
        })
    };
    let workers: Vec<_> = (0..workers.min(count).min(MAX_WORKERS))
        .map(start)
        .collect();
    let mut outcomes = Vec::with_capacity(count);
    for worker in workers {
        outcomes.extend(worker.await.map_err(join_error)?);
    }
    Ok(outcomes)
}

impl DamageFound {
    fn into_damaged_blob(self, digest: Digest, size: Option<u64>) -> DamagedBlob {
        DamagedBlob {
            digest,
            damage: self.damage,
            images: Vec::new(),
            size,
            identity: self.identity,
        }
    }
}
