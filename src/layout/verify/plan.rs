//! Lists the blobs that are to be read. The documents that name them are read and checked on the way.

use std::collections::{HashMap, HashSet};
use std::io;

#[cfg(feature = "decompress")]
use oci_spec::image::ImageManifest;
use oci_spec::image::{Descriptor, Digest};
use tokio_util::sync::CancellationToken;

use super::super::blobs;
use super::super::folder::Folder;
use super::super::index::IndexEntry;
use super::super::reach::{self, MAX_DOCUMENT_BYTES, NamedBy, Visitor, reason};
use super::check::{self, DamageFound};
use super::{Damage, DamagedBlob, Verified, VerifyOptions};
use crate::drain::verify::Verifier;
use crate::error::Error;
use crate::fetch::is_foreign;

/// A blob that is to be read.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) digest: Digest,
    /// The size by which the blob is named. `None` if no image names it.
    pub(super) size: Option<u64>,
    /// Whether every image that names the blob says that the blob is stored elsewhere.
    pub(super) is_foreign: bool,
    /// The digests of the decompressed layer, if they are to be compared.
    #[cfg(feature = "decompress")]
    pub(super) diff_ids: Vec<Digest>,
}

impl Job {
    /// Whether it is no damage if the blob is missing. A blob that no image names may be removed at any time.
    pub(super) fn may_be_missing(&self) -> bool {
        self.is_foreign || self.size.is_none()
    }
}

/// The blobs that are to be read, and what was found out about the documents that name them.
#[derive(Debug)]
pub(super) struct Plan {
    /// The blobs, the largest ones first, so that all threads end at about the same time.
    pub(super) jobs: Vec<Job>,
    pub(super) verified: Verified,
    pub(super) damaged: Vec<DamagedBlob>,
}

impl Plan {
    pub(super) fn of(
        root: &Folder,
        images: &[IndexEntry],
        options: &VerifyOptions,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let mut planner = Planner {
            root,
            options,
            stop,
            visited: HashSet::new(),
            jobs: HashMap::new(),
            #[cfg(feature = "decompress")]
            diff_ids: HashMap::new(),
            verified: Verified::default(),
            damaged: Vec::new(),
        };
        for image in images {
            reach::follow(&mut planner, &image.descriptor)?;
        }
        planner.verified.images = images.len();
        if planner.options.unnamed {
            planner.add_unnamed()?;
        }
        Ok(planner.finish())
    }
}

struct Planner<'a> {
    root: &'a Folder,
    options: &'a VerifyOptions,
    stop: CancellationToken,
    /// The documents that were read, by digest and size.
    visited: HashSet<(Digest, u64)>,
    /// Whether each blob is foreign, by digest and size.
    jobs: HashMap<(Digest, Option<u64>), bool>,
    /// The digests of decompressed layers, by the digests of their blobs.
    #[cfg(feature = "decompress")]
    diff_ids: HashMap<Digest, Vec<Digest>>,
    verified: Verified,
    damaged: Vec<DamagedBlob>,
}

impl Planner<'_> {
    fn record_damage(&mut self, named: &Descriptor, bad: DamageFound) {
        if !matches!(bad.damage, Damage::Missing) {
            self.verified.blobs += 1;
            self.verified.bytes += bad.bytes;
        }
        self.record_uncounted(named, bad);
    }

    fn record_uncounted(&mut self, named: &Descriptor, bad: DamageFound) {
        let found = bad.into_damaged_blob(named.digest().clone(), Some(named.size()));
        self.damaged.push(found);
    }

    /// Adds the blobs that no image names. Blobs whose digest can't be checked are left out.
    fn add_unnamed(&mut self) -> io::Result<()> {
        let documents = self.visited.iter().map(|(digest, _)| digest);
        let blobs = self.jobs.keys().map(|(digest, _)| digest);
        let named: HashSet<Digest> = documents.chain(blobs).cloned().collect();
        for digest in blobs::all(self.root)? {
            if !named.contains(&digest) && Verifier::new(&digest).is_some() {
                self.jobs.insert((digest, None), false);
            }
        }
        Ok(())
    }

    fn finish(self) -> Plan {
        let job = |((digest, size), is_foreign): ((Digest, Option<u64>), bool)| Job {
            #[cfg(feature = "decompress")]
            diff_ids: self.diff_ids.get(&digest).cloned().unwrap_or_default(),
            digest,
            size,
            is_foreign,
        };
        let mut jobs: Vec<Job> = self.jobs.into_iter().map(job).collect();
        jobs.sort_by_key(|job| std::cmp::Reverse(job.size));
        Plan {
            jobs,
            verified: self.verified,
            damaged: self.damaged,
        }
    }

    /// Notes the `diff_id`s of an image. A config that is missing or damaged is found when it is read as a blob.
    #[cfg(feature = "decompress")]
    fn record_diff_ids(&mut self, manifest: &ImageManifest, raw: &[u8]) {
        use crate::fetch::ImageContent;

        let named = manifest.config();
        let Ok(config) = check::document(self.root, named) else {
            return;
        };
        let content = ImageContent::from_bytes("", raw, config);
        let content = content.and_then(|content| content.check_diff_ids().map(|()| content));
        match content {
            Ok(content) => {
                for layer in content.layers() {
                    let digest = layer.descriptor.digest().clone();
                    let known = self.diff_ids.entry(digest).or_default();
                    known.extend(layer.diff_id.clone().filter(|id| !known.contains(id)));
                }
            }
            // The config is counted when it is verified.
            Err(error) => {
                self.record_uncounted(named, Damage::NotUnderstood(reason(&error)).into());
            }
        }
    }
}

impl Visitor for Planner<'_> {
    fn document(&mut self, named: &Descriptor, by: NamedBy) -> io::Result<Option<Vec<u8>>> {
        if self.stop.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if named.size() > MAX_DOCUMENT_BYTES && !reach::is_image_or_index(named.media_type()) {
            // So large a document of an unknown type is read as a blob.
            return self.blob(named).map(|()| None);
        }
        let key = (named.digest().clone(), named.size());
        if self.visited.contains(&key) {
            return Ok(None);
        }
        match check::document(self.root, named) {
            Ok(raw) => {
                self.visited.insert(key);
                self.verified.blobs += 1;
                self.verified.bytes += raw.len() as u64;
                Ok(Some(raw))
            }
            // A missing subject is no damage. It is not marked as visited, because an index may name it, too.
            Err(bad) if by == NamedBy::Referrer && matches!(bad.damage, Damage::Missing) => {
                Ok(None)
            }
            Err(bad) => {
                self.visited.insert(key);
                self.record_damage(named, bad);
                Ok(None)
            }
        }
    }

    #[cfg(feature = "decompress")]
    fn image(&mut self, manifest: &ImageManifest, raw: &[u8]) -> io::Result<()> {
        if self.options.diff_ids {
            self.record_diff_ids(manifest, raw);
        }
        Ok(())
    }

    fn blob(&mut self, named: &Descriptor) -> io::Result<()> {
        let key = (named.digest().clone(), Some(named.size()));
        let foreign = is_foreign(named);
        let known = self.jobs.entry(key).or_insert(foreign);
        *known &= foreign;
        Ok(())
    }

    fn other(&mut self, _: &Descriptor, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn not_understood(&mut self, named: &Descriptor, error: Error) -> io::Result<()> {
        // The document was counted when it was read.
        self.record_uncounted(named, Damage::NotUnderstood(reason(&error)).into());
        Ok(())
    }
}
