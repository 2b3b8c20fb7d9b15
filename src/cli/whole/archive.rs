//! Writes a layout as a tar archive, which skopeo reads as `oci-archive:FILE`.
//!
//! The same images make the same bytes. The entries are sorted as skopeo sorts them, and have neither time nor
//! owner. The entries of the index are sorted, too, because a pull of several images adds them in the order in which
//! they are complete.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tar::{Builder, EntryType, Header};
use tokio_util::sync::CancellationToken;

/// The size of the buffers for reading and writing, in bytes.
const BUFFER_BYTES: usize = 1 << 20;

/// The annotation that contains the name of an image (image-spec, `annotations.md`).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An entry of the archive.
enum Entry {
    Folder,
    /// A blob, which is a file of the layout.
    Blob,
    /// A file with these bytes.
    Document(Vec<u8>),
}

/// Writes the archive. Removes each blob from the layout when it is in the archive, so that not all are on the disk
/// twice. Fails soon after `stop` is cancelled.
pub(super) fn write(layout: &Path, file: &File, stop: &CancellationToken) -> io::Result<()> {
    let mut archive = Builder::new(BufWriter::with_capacity(BUFFER_BYTES, file));
    for (name, entry) in entries(layout)? {
        match entry {
            Entry::Folder => {
                let name = format!("{}/", name.display());
                archive.append_data(&mut header(EntryType::Directory, 0), name, io::empty())?;
            }
            Entry::Blob => {
                let path = layout.join(&name);
                let blob = File::open(&path)?;
                let mut header = header(EntryType::Regular, blob.metadata()?.len());
                let blob = BufReader::with_capacity(BUFFER_BYTES, Stoppable { blob, stop });
                archive.append_data(&mut header, &name, blob)?;
                fs::remove_file(path)?;
            }
            Entry::Document(bytes) => {
                let mut header = header(EntryType::Regular, bytes.len() as u64);
                archive.append_data(&mut header, &name, &*bytes)?;
            }
        }
    }
    archive.into_inner()?.flush()
}

/// The entries by their names in the archive, sorted.
fn entries(layout: &Path) -> io::Result<BTreeMap<PathBuf, Entry>> {
    let blobs = Path::new("blobs");
    let mut entries = BTreeMap::from([(blobs.to_owned(), Entry::Folder)]);
    for algorithm in fs::read_dir(layout.join(blobs))? {
        let algorithm = algorithm?;
        let name = blobs.join(algorithm.file_name());
        for blob in fs::read_dir(algorithm.path())? {
            entries.insert(name.join(blob?.file_name()), Entry::Blob);
        }
        entries.insert(name, Entry::Folder);
    }
    let marker = fs::read(layout.join("oci-layout"))?;
    let index = sorted(&fs::read(layout.join("index.json"))?)?;
    entries.insert("oci-layout".into(), Entry::Document(marker));
    entries.insert("index.json".into(), Entry::Document(index));
    Ok(entries)
}

/// The index with its entries sorted by name and digest.
fn sorted(index: &[u8]) -> io::Result<Vec<u8>> {
    let mut index: Value = serde_json::from_slice(index)?;
    if let Some(Value::Array(entries)) = index.get_mut("manifests") {
        entries.sort_by_cached_key(|entry| {
            let text = |value: &Value| value.as_str().map(str::to_owned);
            (
                text(&entry["annotations"][REF_NAME]),
                text(&entry["digest"]),
            )
        });
    }
    Ok(serde_json::to_vec(&index)?)
}

/// The header of an entry, without time and owner.
fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory {
        0o755
    } else {
        0o644
    });
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// A blob whose reads fail when it is no longer needed.
struct Stoppable<'a> {
    blob: File,
    stop: &'a CancellationToken,
}

impl Read for Stoppable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("the command is ending"));
        }
        self.blob.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layout with two blobs, and with this index.
    fn layout(index: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for algorithm in ["sha256", "sha512"] {
            fs::create_dir_all(at("blobs").join(algorithm)).expect("a folder");
        }
        let long = format!("blobs/sha512/{}", "b".repeat(128));
        for (name, text) in [
            ("blobs/sha256/aa", "one"),
            (&long, "two"),
            ("oci-layout", "{}"),
            ("index.json", index),
            (".longshore.lock", ""),
        ] {
            fs::write(at(name), text).expect("a file");
        }
        folder
    }

    fn archive_of(layout: &Path) -> Vec<u8> {
        let path = layout.with_extension("tar");
        let file = File::create(&path).expect("a file");
        write(layout, &file, &CancellationToken::new()).expect("an archive");
        let bytes = fs::read(&path).expect("it is there");
        fs::remove_file(path).expect("it is there");
        bytes
    }

    #[test]
    fn an_archive_is_sorted_and_has_neither_times_nor_owners() {
        let one = layout(r#"{"manifests":[{"digest":"b"},{"digest":"a"}]}"#);
        let bytes = archive_of(one.path());
        let mut names = Vec::new();
        let mut archive = tar::Archive::new(&*bytes);
        for entry in archive.entries().expect("an archive") {
            let entry = entry.expect("an entry");
            let header = entry.header();
            assert_eq!(header.mtime().expect("a time"), 0);
            assert_eq!(header.uid().expect("a number"), 0);
            let name = String::from_utf8(entry.path_bytes().into_owned()).expect("UTF-8");
            names.push((name, header.mode().expect("a mode"), entry.size()));
        }
        let long = format!("blobs/sha512/{}", "b".repeat(128));
        let expected = [
            ("blobs/", 0o755, 0),
            ("blobs/sha256/", 0o755, 0),
            ("blobs/sha256/aa", 0o644, 3),
            ("blobs/sha512/", 0o755, 0),
            (&*long, 0o644, 3),
            ("index.json", 0o644, 45),
            ("oci-layout", 0o644, 2),
        ];
        let expected = expected.map(|(name, mode, size)| (name.to_owned(), mode, size));
        assert_eq!(names, expected);
        let left = fs::read_dir(one.path().join("blobs/sha256")).expect("a folder");
        assert_eq!(left.count(), 0, "blobs are moved");

        let other = layout(r#"{"manifests":[{"digest":"a"},{"digest":"b"}]}"#);
        assert_eq!(archive_of(other.path()), bytes, "the order of the index");
    }

    #[test]
    fn an_archive_that_is_no_longer_needed_fails() {
        let layout = layout("{}");
        let stop = CancellationToken::new();
        stop.cancel();
        let file = tempfile::tempfile().expect("a file");
        write(layout.path(), &file, &stop).expect_err("stopped");
    }
}
