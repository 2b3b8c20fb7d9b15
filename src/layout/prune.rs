//! Removes the blobs of a layout that no image names.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oci_spec::image::{Descriptor, Digest};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::folder::Folder;
use super::reach::{self, MAX_DOCUMENT_BYTES, NamedBy, Visitor, invalid, reason};
use super::staging::LayoutLock;
use super::verify::{Damage, check};
use super::{INDEX, OciLayout, blobs, blocking, exclusive, index, open_layout, read_index};
use crate::error::{Error, Result};
use crate::fetch::document;

/// How long the lock of the layout is held while blobs are removed. Other processes wait for the lock for 30 s at most.
const LOCK_HOLD: Duration = Duration::from_secs(5);

/// How long the lock is free after each [`LOCK_HOLD`], for other processes, which try to take it every 5 ms.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The options of [`OciLayout::prune`].
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PruneOptions {
    /// If true, nothing is removed, and the result lists the blobs that would be removed. The dry run does not wait for
    /// a running pull. It also lists the blobs that such a pull has stored, because no image names them yet. The
    /// default is false.
    pub dry_run: bool,
    /// How long to wait for the end of pulls into the layout that are running. The default is not to wait.
    pub wait: Duration,
}

impl PruneOptions {
    /// Sets [`dry_run`](Self#structfield.dry_run).
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Sets [`wait`](Self#structfield.wait).
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }
}

/// The result of [`OciLayout::prune`].
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Pruned {
    /// The blobs that were removed, or that would be removed in a [dry run](PruneOptions#structfield.dry_run), sorted
    /// by digest.
    pub removed: Vec<PrunedBlob>,
    /// The size of all [`removed`](Self::removed) blobs together, in bytes.
    pub removed_bytes: u64,
    /// The number of blobs that stay because an image needs them.
    pub kept_blobs: usize,
    /// The number of staging folders that were removed. Pulls that were killed have left them. None are
    /// counted in a dry run.
    pub abandoned_pulls: usize,
    /// The size of the files in the staging folders that were removed, in bytes.
    pub abandoned_bytes: u64,
    /// The reason why some blobs that belong to no image are left, although others were removed: a file could not be
    /// removed, or a pull that began in between did not end within
    /// [`PruneOptions::wait`](PruneOptions#structfield.wait).
    pub unfinished: Option<Error>,
}

/// A blob that no image named.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrunedBlob {
    /// The digest of the blob.
    pub digest: Digest,
    /// The size of the file, in bytes.
    pub size: u64,
}

impl OciLayout {
    /// Removes each blob that can't be reached from the index of the layout, and the incomplete files that killed pulls
    /// have left. An index reaches its entries. A manifest reaches its config and its layers. Both reach the manifest
    /// in their `subject` field. If a document is neither a manifest nor an index, it reaches each blob whose digest
    /// occurs in it. Such a document of more than 64 MiB reaches no other blob.
    ///
    /// If the index, or a manifest or index that is named, is damaged, nothing is removed. A manifest may be missing if
    /// an index of platforms or a `subject` field names it: tools can leave platforms and subjects out.
    ///
    /// No pull may run at the same time, because it has stored blobs, or relies on blobs, that the index does not name
    /// yet. If a pull is running, this method waits for its end, but not longer than
    /// [`PruneOptions::wait`](PruneOptions#structfield.wait). A pull counts as running until its `OciLayout` is
    /// dropped, so do not call this method on an `OciLayout` that was pulled into. A pull that begins while blobs are
    /// being removed waits. Other tools that write into a layout do not wait: do not prune while they run.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if there is no layout, if it is damaged, or if an error comes before the first removal. The kind
    /// of its source is [`ResourceBusy`](io::ErrorKind::ResourceBusy) if a pull is running. If this method returns an
    /// error, it has removed no blob. An error after the first removal is in [`Pruned::unfinished`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, some of the blobs may have been removed, and the layout is valid.
    pub async fn prune(&self, options: &PruneOptions) -> Result<Pruned> {
        let what = format!("can't prune {}", self.root().display());
        let stop = CancellationToken::new();
        let _stopping = stop.clone().drop_guard();
        let (path, failed) = (self.root().to_owned(), Error::io(what.clone()));
        let planning = {
            let stop = stop.clone();
            blocking(move || Prune::plan(&path, stop).map_err(failed))
        };
        let mut prune = planning.await?;
        if options.dry_run {
            return Ok(prune.into_plan());
        }
        loop {
            let exclusive = match exclusive::lock(&prune.root, options.wait, &what).await {
                Ok(exclusive) => exclusive,
                Err(error) => return prune.or_partial(error),
            };
            prune.pruned.abandoned_pulls += exclusive.swept.folders;
            prune.pruned.abandoned_bytes += exclusive.swept.bytes;
            let removing = move || {
                let removed = prune.remove(LOCK_HOLD, &exclusive.lock);
                Ok((prune, removed))
            };
            let removed;
            (prune, removed) = blocking(removing).await?;
            match removed {
                Ok(true) => return Ok(prune.into_result()),
                Ok(false) => sleep(LOCK_PAUSE).await,
                Err(error) => return prune.or_partial(Error::io(what)(error)),
            }
        }
    }
}

/// The removal of blobs, which may need the lock of the layout several times.
struct Prune {
    root: Arc<Folder>,
    reachable: Reachable,
    /// The index by which `reachable` was found.
    index: Vec<u8>,
    /// The blobs that are still to be removed, in reverse order.
    candidates: Vec<PrunedBlob>,
    pruned: Pruned,
    stop: CancellationToken,
}

impl Prune {
    /// Finds the blobs that no image names. Nothing is locked, because this may take long.
    fn plan(path: &Path, stop: CancellationToken) -> io::Result<Self> {
        let root = Arc::new(open_layout(path)?);
        let mut prune = Self {
            reachable: Reachable {
                root: Arc::clone(&root),
                digests: HashSet::new(),
                documents: HashSet::new(),
                missing: Vec::new(),
                stop: stop.clone(),
            },
            index: Vec::new(),
            candidates: Vec::new(),
            pruned: Pruned::default(),
            stop,
            root,
        };
        prune.follow_index()?;
        for digest in blobs::all(&prune.root)? {
            // Whatever is no plain file was not stored by a pull.
            match blobs::size_of(&prune.root, &digest)? {
                Some(size) if !prune.reachable.digests.contains(&digest) => {
                    prune.candidates.push(PrunedBlob { digest, size });
                }
                Some(_) => prune.pruned.kept_blobs += 1,
                None => {}
            }
        }
        prune.candidates.reverse();
        Ok(prune)
    }

    /// Adds what the index names now to what is kept. What an earlier index named is kept, too.
    fn follow_index(&mut self) -> io::Result<()> {
        let index = read_index(&self.root)?;
        if index != self.index {
            for image in index::entries(&index)? {
                reach::follow(&mut self.reachable, &image.descriptor)?;
            }
            self.index = index;
        }
        Ok(())
    }

    /// Removes at least one blob, and more for about as long as `hold`. Returns whether all candidates are done.
    fn remove(&mut self, hold: Duration, _: &LayoutLock) -> io::Result<bool> {
        let began = Instant::now();
        // Pulls that have ended since the index was last read may have added images that reuse candidates, or
        // manifests that were missing.
        self.reachable.follow_missing()?;
        self.follow_index()?;
        // The index is made durable first. After a loss of power, an older index could otherwise come back, and name
        // blobs that are removed now.
        if let Some(index) = self.root.open_file(INDEX)? {
            index.sync_all()?;
        }
        self.root.sync()?;
        while let Some(blob) = self.candidates.last() {
            if self.stop.is_cancelled() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if self.reachable.digests.contains(&blob.digest) {
                self.pruned.kept_blobs += 1;
                self.candidates.pop();
                continue;
            }
            let is_removed = match blobs::folder_of(&self.root, &blob.digest)? {
                Some(folder) => folder.remove_if_exists(blob.digest.digest())?,
                None => false,
            };
            if let Some(blob) = self.candidates.pop().filter(|_| is_removed) {
                self.pruned.removed_bytes += blob.size;
                self.pruned.removed.push(blob);
            }
            if began.elapsed() >= hold {
                break;
            }
        }
        Ok(self.candidates.is_empty())
    }

    fn into_result(self) -> Pruned {
        self.pruned
    }

    /// The result of a dry run.
    fn into_plan(self) -> Pruned {
        let mut removed = self.candidates;
        removed.reverse();
        Pruned {
            removed_bytes: removed.iter().map(|blob| blob.size).sum(),
            removed,
            ..self.pruned
        }
    }

    /// Returns the error if nothing was removed, and otherwise the result with the error in it.
    fn or_partial(mut self, error: Error) -> Result<Pruned> {
        if self.pruned.removed.is_empty() {
            return Err(error);
        }
        self.pruned.unfinished = Some(error);
        Ok(self.pruned)
    }
}

/// The blobs that the index names, directly or through documents.
struct Reachable {
    root: Arc<Folder>,
    digests: HashSet<Digest>,
    /// The documents that were followed.
    documents: HashSet<Digest>,
    /// The documents that were missing, which is allowed. A pull may add them later without a change of the index.
    missing: Vec<(Descriptor, NamedBy)>,
    stop: CancellationToken,
}

impl Reachable {
    /// Follows the documents that were missing when they were last looked for.
    fn follow_missing(&mut self) -> io::Result<()> {
        for (named, by) in std::mem::take(&mut self.missing) {
            reach::follow_from(self, &named, by)?;
        }
        Ok(())
    }
}

impl Visitor for Reachable {
    fn document(&mut self, named: &Descriptor, by: NamedBy) -> io::Result<Option<Vec<u8>>> {
        if self.stop.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let digest = named.digest();
        self.digests.insert(digest.clone());
        let is_large =
            named.size() > MAX_DOCUMENT_BYTES && !reach::is_image_or_index(named.media_type());
        if is_large || self.documents.contains(digest) {
            return Ok(None);
        }
        match check::document(&self.root, named) {
            Ok(raw) => {
                self.documents.insert(digest.clone());
                Ok(Some(raw))
            }
            Err(bad) if by != NamedBy::Layout && matches!(bad.damage, Damage::Missing) => {
                self.missing.push((named.clone(), by));
                Ok(None)
            }
            Err(bad) => Err(unusable_document(digest, &bad.damage)),
        }
    }

    fn blob(&mut self, named: &Descriptor) -> io::Result<()> {
        self.digests.insert(named.digest().clone());
        Ok(())
    }

    fn other(&mut self, _: &Descriptor, raw: &[u8]) -> io::Result<()> {
        self.digests.extend(document::digests_in(raw));
        Ok(())
    }

    fn not_understood(&mut self, named: &Descriptor, error: Error) -> io::Result<()> {
        let damage = Damage::NotUnderstood(reason(&error));
        Err(unusable_document(named.digest(), &damage))
    }
}

/// Returns the error for a document that is missing or damaged, so that the blobs that it names are not known.
fn unusable_document(digest: &Digest, damage: &Damage) -> io::Error {
    let advice = match damage {
        Damage::NotUnderstood(_) | Damage::UnknownAlgorithm => "Remove the image from the index",
        _ => {
            "Repair the layout first (longshore verify --repair, then pull), or remove the image from the index"
        }
    };
    invalid(format!(
        "{digest}, which the layout names, {damage}. {advice}"
    ))
}

#[cfg(test)]
mod tests;
