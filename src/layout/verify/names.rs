//! Finds the images that name damaged blobs.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;

use oci_spec::image::{Descriptor, Digest};
use tokio_util::sync::CancellationToken;

use super::super::folder::Folder;
use super::super::reach::{self, MAX_DOCUMENT_BYTES, NamedBy, Visitor};
use super::super::{blobs, index, read_index};
use super::DamagedBlob;
use crate::error::Error;

/// A digest and a size, by which a blob is named.
type Key = (Digest, u64);

/// Adds the images that name each of these blobs. The index is read again. A blob that the index does not reach any
/// more is left out: its image was removed from the index during the verification, so the blob may be missing.
///
/// Returns an error soon after `stop` is cancelled.
pub(super) fn add_images(
    root: &Folder,
    found: Vec<DamagedBlob>,
    stop: &CancellationToken,
) -> io::Result<Vec<DamagedBlob>> {
    let images = index::entries(&read_index(root)?)?;
    let mut search = NameSearch::new(root, found.iter().filter_map(key_of), stop);
    for image in &images {
        reach::follow(&mut search, &image.descriptor)?;
    }
    let mut names: Vec<Vec<String>> = vec![Vec::new(); search.wanted.len()];
    for image in &images {
        for blob in search.wanted_of(&image.descriptor)? {
            names[blob].push(image.name_or_digest().to_owned());
        }
    }
    let with_images = |mut blob: DamagedBlob| {
        if let Some(key) = key_of(&blob) {
            blob.images.clone_from(&names[*search.wanted.get(&key)?]);
            if blob.images.is_empty() {
                return None;
            }
        }
        Some(blob)
    };
    Ok(found.into_iter().filter_map(with_images).collect())
}

/// The name of a blob. `None` if no image names the blob.
fn key_of(blob: &DamagedBlob) -> Option<Key> {
    Some((blob.digest.clone(), blob.size?))
}

/// The names in all documents of a layout, as far as they lead to the wanted blobs. Each document is read once, however
/// many images need it.
struct NameSearch<'a> {
    root: &'a Folder,
    stop: &'a CancellationToken,
    /// The wanted blobs, each with its number.
    wanted: HashMap<Key, usize>,
    /// The documents, each with its number.
    numbers: HashMap<Key, usize>,
    /// The documents, by their numbers.
    documents: Vec<References>,
    /// The numbers of the documents that are being followed. Each of them names the next one.
    open: Vec<usize>,
}

/// The names in a document.
#[derive(Debug, Default)]
struct References {
    /// The numbers of the documents that it names.
    documents: Vec<usize>,
    /// The numbers of the wanted blobs that it names. The document itself can be one of them.
    wanted: Vec<usize>,
}

impl<'a> NameSearch<'a> {
    fn new(
        root: &'a Folder,
        wanted: impl Iterator<Item = Key>,
        stop: &'a CancellationToken,
    ) -> Self {
        let mut numbers = HashMap::new();
        for key in wanted {
            let next = numbers.len();
            numbers.entry(key).or_insert(next);
        }
        Self {
            root,
            stop,
            wanted: numbers,
            numbers: HashMap::new(),
            documents: Vec::new(),
            open: Vec::new(),
        }
    }

    fn check_stopped(&self) -> io::Result<()> {
        if self.stop.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(())
    }

    /// The names in the document that is being followed.
    fn current(&mut self) -> Option<&mut References> {
        self.documents.get_mut(*self.open.last()?)
    }

    /// The numbers of the wanted blobs that an image names, directly or through documents.
    fn wanted_of(&self, image: &Descriptor) -> io::Result<BTreeSet<usize>> {
        let mut wanted = BTreeSet::new();
        let mut seen = HashSet::new();
        let mut pending: Vec<usize> = self.numbers.get(&key(image)).copied().into_iter().collect();
        while let Some(number) = pending.pop() {
            self.check_stopped()?;
            if seen.insert(number)
                && let Some(names) = self.documents.get(number)
            {
                wanted.extend(&names.wanted);
                pending.extend(&names.documents);
            }
        }
        Ok(wanted)
    }
}

fn key(named: &Descriptor) -> Key {
    (named.digest().clone(), named.size())
}

impl Visitor for NameSearch<'_> {
    fn document(&mut self, named: &Descriptor, _: NamedBy) -> io::Result<Option<Vec<u8>>> {
        self.check_stopped()?;
        let wanted = self.wanted.get(&key(named)).copied();
        let next = self.documents.len();
        let (number, is_new) = match self.numbers.entry(key(named)) {
            Entry::Occupied(known) => (*known.get(), false),
            Entry::Vacant(new) => (*new.insert(next), true),
        };
        if let Some(names) = self.current() {
            names.documents.push(number);
        }
        if !is_new {
            return Ok(None);
        }
        self.documents.push(References {
            documents: Vec::new(),
            wanted: wanted.into_iter().collect(),
        });
        // Damage of the document itself is known already.
        let raw = blobs::read(self.root, named.digest(), MAX_DOCUMENT_BYTES);
        let raw = raw.ok().flatten();
        if raw.is_some() {
            self.open.push(number);
        }
        Ok(raw)
    }

    fn followed(&mut self) {
        self.open.pop();
    }

    fn blob(&mut self, named: &Descriptor) -> io::Result<()> {
        if let Some(number) = self.wanted.get(&key(named)).copied()
            && let Some(names) = self.current()
        {
            names.wanted.push(number);
        }
        Ok(())
    }

    fn other(&mut self, _: &Descriptor, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn not_understood(&mut self, _: &Descriptor, _: Error) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::super::testing::{INDEX, TestLayout};
    use super::*;

    fn descriptor(value: &Value) -> Descriptor {
        serde_json::from_value(value.clone()).expect("a descriptor")
    }

    #[test]
    fn each_document_is_read_once_however_many_images_need_it() {
        let layout = TestLayout::new();
        let (one, other) = (layout.image(b"one"), layout.image(b"other"));
        let inner = json!({ "manifests": [one.manifest, other.manifest, one.manifest] });
        let inner = layout.put_typed(INDEX, &inner);
        let outer = json!({ "manifests": [inner, other.manifest, inner] });
        let outer = layout.put_typed(INDEX, &outer);
        let (root, stop) = (layout.root(), CancellationToken::new());
        let layers = [&one.layer, &other.layer].map(|layer| key(&descriptor(layer)));
        let mut search = NameSearch::new(&root, layers.into_iter(), &stop);
        for image in [&one.manifest, &outer, &inner, &one.manifest, &outer] {
            reach::follow(&mut search, &descriptor(image)).expect("followed");
            assert_eq!(search.open, [0; 0]);
        }
        // A document gets its number when it is read.
        assert_eq!(search.documents.len(), 4);
        for (image, expected) in [
            (&one.manifest, &[0][..]),
            (&other.manifest, &[1]),
            (&inner, &[0, 1]),
            (&outer, &[0, 1]),
        ] {
            let wanted = search.wanted_of(&descriptor(image)).expect("not stopped");
            assert_eq!(wanted.into_iter().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn the_search_for_names_can_be_stopped() {
        let layout = TestLayout::new();
        let image = layout.image(b"layer");
        layout.list(&[("a", &image.manifest)]);
        let (root, stop) = (layout.root(), CancellationToken::new());
        add_images(&root, Vec::new(), &stop).expect("not stopped");
        stop.cancel();
        let error = add_images(&root, Vec::new(), &stop).expect_err("stopped");
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }
}
