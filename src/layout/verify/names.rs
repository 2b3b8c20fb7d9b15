//! Finds the images that name damaged blobs.

use std::collections::{HashMap, HashSet};
use std::io;

use oci_spec::image::{Descriptor, Digest};

use super::super::folder::Folder;
use super::super::reach::{self, By, Follower, MAX_DOCUMENT_BYTES};
use super::super::{blobs, index, read_index};
use super::DamagedBlob;
use crate::error::Error;

/// Adds the images that name each of these blobs. The index is read again. A blob that the index does not reach any
/// more is left out: its image was removed from the index during the verification, so the blob may be missing.
pub(super) fn of(root: &Folder, found: Vec<DamagedBlob>) -> io::Result<Vec<DamagedBlob>> {
    let wanted = found.iter().filter_map(|blob| {
        let size = blob.size?;
        Some(((blob.digest.clone(), size), Vec::new()))
    });
    let mut named: HashMap<(Digest, u64), Vec<String>> = wanted.collect();
    for image in index::entries(&read_index(root)?)? {
        let mut naming = Naming {
            root,
            seen: HashSet::new(),
        };
        reach::follow(&mut naming, &image.descriptor)?;
        for key in &naming.seen {
            if let Some(images) = named.get_mut(key) {
                images.push(image.shown().to_owned());
            }
        }
    }
    let with_images = |mut blob: DamagedBlob| {
        if let Some(size) = blob.size {
            let images = named.get(&(blob.digest.clone(), size))?;
            blob.images.clone_from(images);
            if blob.images.is_empty() {
                return None;
            }
        }
        Some(blob)
    };
    Ok(found.into_iter().filter_map(with_images).collect())
}

/// Everything that an image names.
struct Naming<'a> {
    root: &'a Folder,
    seen: HashSet<(Digest, u64)>,
}

impl Naming<'_> {
    fn is_new(&mut self, named: &Descriptor) -> bool {
        self.seen.insert((named.digest().clone(), named.size()))
    }
}

impl Follower for Naming<'_> {
    fn document(&mut self, named: &Descriptor, _: By) -> io::Result<Option<Vec<u8>>> {
        if !self.is_new(named) {
            return Ok(None);
        }
        // Damage of the document itself is known already.
        let raw = blobs::read(self.root, named.digest(), MAX_DOCUMENT_BYTES);
        Ok(raw.ok().flatten())
    }

    fn blob(&mut self, named: &Descriptor) -> io::Result<()> {
        self.is_new(named);
        Ok(())
    }

    fn other(&mut self, _: &Descriptor, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn not_understood(&mut self, _: &Descriptor, _: Error) -> io::Result<()> {
        Ok(())
    }
}
