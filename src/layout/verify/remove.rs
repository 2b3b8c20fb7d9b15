//! Removes damaged blobs, so that the next pull fetches them.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use oci_spec::image::{Digest, DigestAlgorithm};
use tokio_util::sync::CancellationToken;

use super::super::folder::{Folder, Identity};
use super::super::{OciLayout, blobs, blocking, exclusive, open_layout};
use super::check::Checker;
use super::{Damage, Verified};
use crate::error::{Error, Result};

impl OciLayout {
    /// Removes the damaged blobs that [`verify`](Self::verify) has found, so that the next pull of their images
    /// fetches them. Returns their digests. Until that pull, the layout lacks these blobs.
    ///
    /// This method removes files whose bytes do not have the digest of the blob, and files that can be opened
    /// but not read to their end. A file that can't be opened stays. A file that has changed since it was
    /// verified is not removed.
    ///
    /// No pull may run at the same time, because it may have decided to reuse a damaged blob. If a pull is running,
    /// this method waits for its end, but not longer than `wait`. A pull counts as running until its `OciLayout` is
    /// dropped, so do not call this method on an `OciLayout` that was pulled into. A pull that begins while files are
    /// being removed waits.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]. If a pull is running, the kind of its source is [`ResourceBusy`](io::ErrorKind::ResourceBusy),
    /// and no blob was removed. After another error, some blobs may have been removed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, some of the blobs may have been removed.
    pub async fn remove_damaged(&self, verified: &Verified, wait: Duration) -> Result<Vec<Digest>> {
        let what = format!("can't remove blobs from {}", self.root().display());
        let damaged = verified.damaged.iter().filter_map(Candidate::of);
        let candidates: Vec<Candidate> = damaged.collect();
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        let stop = CancellationToken::new();
        let _stopping = stop.clone().drop_guard();
        let (path, failed) = (self.root().to_owned(), Error::io(what.clone()));
        let runtime = tokio::runtime::Handle::current();
        let select = move || {
            let root = Arc::new(open_layout(&path)?);
            let mut checker = Checker::new(Arc::clone(&root), stop, runtime);
            let candidates = candidates.into_iter();
            let candidates = candidates.filter(|candidate| candidate.is_damaged(&mut checker));
            let candidates: Vec<_> = candidates.collect();
            Ok((root, candidates))
        };
        let (root, candidates) = blocking(move || select().map_err(failed)).await?;
        let exclusive = exclusive::lock(&root, wait, &what).await?;
        blocking(move || {
            let removed = remove(&root, &candidates);
            drop(exclusive.lock);
            removed.map_err(Error::io(what))
        })
        .await
    }
}

/// A blob that is removed if its file is still the same.
struct Candidate {
    digest: Digest,
    identity: Identity,
    /// Whether the file has another size than the descriptor that names it.
    has_other_size: bool,
}

impl Candidate {
    fn of(blob: &super::DamagedBlob) -> Option<Self> {
        if !blob.damage.is_repairable() {
            return None;
        }
        Some(Self {
            digest: blob.digest.clone(),
            identity: blob.identity.clone()?,
            has_other_size: matches!(blob.damage, Damage::WrongSize { .. }),
        })
    }

    /// Whether the file is damaged. If a file of another size has the right digest, its descriptor is wrong. A file
    /// that can't be read now may be right.
    fn is_damaged(&self, checker: &mut Checker) -> bool {
        !self.has_other_size || checker.has_digest(&self.digest) == Some(false)
    }
}

fn remove(root: &Folder, candidates: &[Candidate]) -> io::Result<Vec<Digest>> {
    let mut removed = Vec::new();
    let mut changed: HashMap<DigestAlgorithm, Folder> = HashMap::new();
    for Candidate {
        digest, identity, ..
    } in candidates
    {
        let Some(folder) = blobs::folder_of(root, digest)? else {
            continue;
        };
        let name = digest.digest();
        if folder.identity_of(name)?.as_ref() == Some(identity) {
            folder.remove_file(name)?;
            removed.push(digest.clone());
            changed.insert(digest.algorithm().clone(), folder);
        }
    }
    // Each folder is synced only once, because pulls wait for the lock that is held here.
    changed.values().try_for_each(Folder::sync)?;
    Ok(removed)
}
