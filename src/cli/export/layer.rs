//! Reads the tar archive of a layer once, and keeps it in a temporary file, with a list of its entries.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use longshore::{Layer, printable};
use tar::Header;

use super::pax;

/// The size of the blocks of a tar archive, in bytes.
pub(super) const BLOCK: usize = 512;

/// The size of the buffers for copying, in bytes.
const BUFFER_BYTES: usize = 256 * 1024;

/// The maximum size of an extended header or a long name, in bytes, as in Go.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// The maximum memory for the entries of all layers, in bytes.
const MAX_HELD_BYTES: usize = 1 << 30;

/// The memory that an entry needs beyond its names, in bytes: in the list, and in the tree.
const ENTRY_BYTES: usize = 200;

/// The memory that is left for the entries of all layers, in bytes.
#[derive(Debug)]
pub(super) struct Budget(AtomicUsize);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicUsize::new(MAX_HELD_BYTES))
    }
}

impl Budget {
    fn take(&self, bytes: usize) -> io::Result<()> {
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            });
        let too_many = |_| invalid("the layers have more entries than this command can hold");
        taken.map(drop).map_err(too_many)
    }
}

/// An entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The path as it is in the layer.
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) at: At,
}

/// The kind of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    File,
    /// A symbolic link to this path.
    Symlink(Vec<u8>),
    /// Another name of the file with this path.
    Link(Vec<u8>),
    /// A device or a named pipe.
    Special,
}

/// Where an entry is in the temporary file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct At {
    /// The position of the header. The bytes of a file follow it.
    pub(super) header: u64,
    /// The position and the size of the records of the extended header, in bytes. The size is 0 if there are none.
    pub(super) pax: u64,
    pub(super) pax_bytes: usize,
    /// The number of bytes of a file.
    pub(super) size: u64,
}

/// The archive of a layer: a temporary file with its bytes, and the entries in their order.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) file: File,
    pub(super) entries: Vec<Entry>,
    /// The digest of the layer, for messages.
    pub(super) digest: String,
}

impl Contents {
    /// Reads the archive of a layer into a temporary file in this folder. Blocks.
    pub(super) fn read(
        layer: &Layer,
        input: impl Read,
        folder: &Path,
        budget: &Budget,
    ) -> io::Result<Self> {
        let digest = layer.descriptor.digest().to_string();
        let file =
            tempfile::tempfile_in(folder).map_err(|error| cant_write_temporary(folder, &error))?;
        let reader = CopyingReader {
            input,
            file: BufWriter::with_capacity(BUFFER_BYTES, &file),
            buffer: vec![0; BUFFER_BYTES],
            folder,
            position: 0,
        };
        let entries = entries(reader, budget).map_err(|error| match error.get_ref() {
            Some(wrong) if wrong.is::<Wrong>() => invalid(format!("layer {digest}: {error}")),
            // The errors of the blob and of the disk say what they are about.
            _ => error,
        })?;
        Ok(Self {
            file,
            entries,
            digest,
        })
    }
}

/// An error in an archive.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Wrong(String);

pub(super) fn invalid(reason: impl Display) -> io::Error {
    let wrong = Wrong(printable(&reason.to_string()));
    io::Error::new(io::ErrorKind::InvalidData, wrong)
}

fn cant_write_temporary(folder: &Path, error: &io::Error) -> io::Error {
    let reason = format!(
        "can't write a temporary file in {}: {error}",
        folder.display()
    );
    io::Error::new(error.kind(), reason)
}

/// An archive that is read, and written into a file at the same time.
struct CopyingReader<'a, R> {
    input: R,
    file: BufWriter<&'a File>,
    buffer: Vec<u8>,
    folder: &'a Path,
    /// The number of bytes that were read, and written.
    position: u64,
}

impl<R: Read> CopyingReader<'_, R> {
    /// Reads the next block. `None` at the end of the input.
    fn block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(invalid("the archive ends within a block")),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.write(&block)?;
        Ok(Some(block))
    }

    /// Reads this many bytes, up to the end of their last block.
    fn copy_blocks(&mut self, bytes: u64) -> io::Result<()> {
        let end = bytes.checked_next_multiple_of(BLOCK as u64);
        let mut left = end.ok_or_else(|| invalid("an entry has an impossible size"))?;
        let mut buffer = std::mem::take(&mut self.buffer);
        while left > 0 {
            let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            let count = match self.input.read(&mut buffer[..most]) {
                Ok(0) => return Err(invalid("the archive ends within a file")),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.write(&buffer[..count])?;
            left -= count as u64;
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Reads the bytes of an extension.
    fn extension(&mut self, bytes: u64) -> io::Result<Vec<u8>> {
        if bytes > MAX_EXTENSION_BYTES {
            return Err(invalid("an extended header has more than 1 MiB"));
        }
        let mut extension = Vec::new();
        while (extension.len() as u64) < bytes {
            let block = self.block()?;
            extension.extend(block.ok_or_else(|| invalid("the archive ends within a header"))?);
        }
        extension.truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
        Ok(extension)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let kept = self.file.write_all(bytes);
        kept.map_err(|error| cant_write_temporary(self.folder, &error))?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}

/// What the headers before an entry say about it.
#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Vec<u8>,
    pax_at: u64,
}

/// Reads all entries, up to the end of the archive.
fn entries(mut archive: CopyingReader<'_, impl Read>, budget: &Budget) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut extended = Extended::default();
    loop {
        let at = archive.position;
        let Some(block) = archive.block()? else {
            break;
        };
        if block.iter().all(|byte| *byte == 0) {
            break;
        }
        let header = checked(&block)?;
        let size = header
            .entry_size()
            .map_err(|_| invalid("a header has no size"))?;
        match block[156] {
            b'L' => extended.name = Some(text(archive.extension(size)?)),
            b'K' => extended.link = Some(text(archive.extension(size)?)),
            b'x' => {
                extended.pax_at = archive.position;
                extended.pax = archive.extension(size)?;
            }
            // A global header is skipped. Its records would apply to all later entries.
            b'g' => archive.copy_blocks(size)?,
            _ => {
                let entry = entry(header, at, size, std::mem::take(&mut extended))?;
                let link = match &entry.kind {
                    Kind::Symlink(target) | Kind::Link(target) => target.len(),
                    Kind::Folder | Kind::File | Kind::Special => 0,
                };
                budget.take(ENTRY_BYTES + 2 * entry.path.len() + 2 * link)?;
                archive.copy_blocks(entry.at.size)?;
                entries.push(entry);
            }
        }
    }
    let flushed = archive.file.flush();
    flushed.map_err(|error| cant_write_temporary(archive.folder, &error))?;
    Ok(entries)
}

/// Returns the header in a block, or an error if its checksum is wrong.
fn checked(block: &[u8; BLOCK]) -> io::Result<&Header> {
    let header = Header::from_byte_slice(block);
    let counted = |byte: fn(u8) -> i64| -> i64 {
        let field = 148..156;
        let bytes = block.iter().enumerate();
        bytes
            .map(|(at, value)| byte(if field.contains(&at) { b' ' } else { *value }))
            .sum()
    };
    // Old programs add up signed bytes.
    let sums = [
        counted(i64::from),
        counted(|value| i64::from(value.cast_signed())),
    ];
    match header.cksum() {
        Ok(stated) if sums.contains(&i64::from(stated)) => Ok(header),
        _ => Err(invalid("it is no tar archive, or damaged")),
    }
}

/// The bytes up to the first zero.
fn text(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0);
    bytes.truncate(end.unwrap_or(bytes.len()));
    bytes
}

/// Makes an entry of its header at this position, and of the headers before it.
fn entry(header: &Header, at: u64, mut size: u64, extended: Extended) -> io::Result<Entry> {
    let (mut path, mut link) = (None, None);
    for (key, value) in pax::records(&extended.pax)? {
        match key {
            "path" => path = Some(value.to_vec()),
            "linkpath" => link = Some(value.to_vec()),
            "size" => {
                let stated = std::str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.parse().ok());
                size = stated.ok_or_else(|| invalid("an extended header has a wrong size"))?;
            }
            key if key.starts_with("GNU.sparse.") => return Err(sparse()),
            _ => {}
        }
    }
    // As in Go, a long name of GNU takes precedence over a record of pax.
    let path = extended.name.or(path);
    let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
    let link = || {
        let link = extended.link.or(link);
        link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned())
    };
    let kind = match header.as_bytes()[156] {
        // Before POSIX, a folder was a file with a slash at the end.
        0 if path.ends_with(b"/") => Kind::Folder,
        0 | b'0' | b'7' => Kind::File,
        b'1' => Kind::Link(link()),
        b'2' => Kind::Symlink(link()),
        b'3' | b'4' | b'6' => Kind::Special,
        b'5' => Kind::Folder,
        b'S' => return Err(sparse()),
        other => {
            let shown = char::from(other).escape_default();
            return Err(invalid(format!("an entry has the unknown type {shown}")));
        }
    };
    let at = At {
        header: at,
        pax: extended.pax_at,
        pax_bytes: extended.pax.len(),
        // Only a file has bytes after its header, whatever size another header states.
        size: if kind == Kind::File { size } else { 0 },
    };
    Ok(Entry { path, kind, at })
}

fn sparse() -> io::Error {
    invalid("it has a file with holes (sparse), which this command can't read")
}

#[cfg(test)]
mod tests {
    use longshore::oci_spec::image::{Descriptor, Digest, MediaType};
    use proptest::prelude::*;
    use tar::{Builder, EntryType};

    use super::*;

    fn read(archive: &[u8]) -> io::Result<Contents> {
        read_within(archive, &Budget::default())
    }

    fn read_within(archive: &[u8], budget: &Budget) -> io::Result<Contents> {
        let digest: Digest = format!("sha256:{}", "a".repeat(64))
            .parse()
            .expect("a digest");
        let layer = Layer::new(0, Descriptor::new(MediaType::ImageLayer, 1, digest));
        let folder = std::env::temp_dir();
        Contents::read(&layer, archive, &folder, budget)
    }

    fn header(kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header
    }

    /// An archive with a file, a folder, links, and long names in both ways.
    fn archive() -> Vec<u8> {
        let mut archive = Builder::new(Vec::new());
        let long = "n".repeat(150);
        archive
            .append_data(&mut header(EntryType::Regular, 3), "file", &b"abc"[..])
            .expect("fine");
        archive
            .append_data(&mut header(EntryType::Directory, 0), "dir/", io::empty())
            .expect("fine");
        let mut link = Header::new_gnu();
        link.set_entry_type(EntryType::Symlink);
        link.set_size(0);
        archive.append_link(&mut link, "link", &long).expect("fine");
        let records = [("path", long.as_bytes()), ("SCHILY.xattr.x", b"\n\n")];
        archive.append_pax_extensions(records).expect("fine");
        archive
            .append_data(&mut header(EntryType::Regular, 1), "short", &b"x"[..])
            .expect("fine");
        let mut hard = header(EntryType::Link, 7);
        archive
            .append_link(&mut hard, "hard", "file")
            .expect("fine");
        archive
            .append_data(&mut header(EntryType::Fifo, 0), "pipe", io::empty())
            .expect("fine");
        archive.into_inner().expect("fine")
    }

    #[test]
    fn entries_have_their_names_and_kinds() {
        let contents = read(&archive()).expect("an archive");
        let long = vec![b'n'; 150];
        let found = contents.entries.iter();
        let found: Vec<_> = found
            .map(|entry| (&*entry.path, &entry.kind, entry.at.size))
            .collect();
        let expected = [
            (&b"file"[..], &Kind::File, 3),
            (b"dir/", &Kind::Folder, 0),
            (b"link", &Kind::Symlink(long.clone()), 0),
            (&long, &Kind::File, 1),
            (b"hard", &Kind::Link(b"file".to_vec()), 0),
            (b"pipe", &Kind::Special, 0),
        ];
        assert_eq!(found, expected);
        let size = contents.file.metadata().expect("looked").len();
        assert!(size >= contents.entries[5].at.header + 512, "{size}");
    }

    #[test]
    fn errors_in_an_archive_name_the_layer() {
        let whole = archive();
        let mut damaged = whole.clone();
        damaged[0] ^= 1;
        let mut sparse = Builder::new(Vec::new());
        sparse
            .append_data(&mut header(EntryType::GNUSparse, 0), "holes", io::empty())
            .expect("fine");
        let sparse = sparse.into_inner().expect("fine");
        let table = [
            (&b"no archive at all"[..], "ends within a block"),
            (&[7; 1024], "no tar archive"),
            (&damaged, "no tar archive"),
            (&whole[..600], "ends within a file"),
            (&sparse, "holes"),
        ];
        for (bytes, words) in table {
            let error = read(bytes).expect_err(words).to_string();
            assert!(error.contains(words), "{error}");
            assert!(error.starts_with("layer sha256:"), "{error}");
        }
        // An archive may end without empty blocks.
        let end = whole.len() - 1024;
        assert_eq!(read(&whole[..end]).expect("an archive").entries.len(), 6);
        assert_eq!(read(b"").expect("an empty one").entries.len(), 0);
    }

    #[test]
    fn held_memory_is_limited() {
        let budget = Budget(AtomicUsize::new(3 * ENTRY_BYTES));
        let error = read_within(&archive(), &budget).expect_err("too many");
        assert!(error.to_string().contains("more entries"), "{error}");
        let mut large = header(EntryType::XHeader, 2 << 20);
        large.set_cksum();
        let error = read(large.as_bytes()).expect_err("too large");
        assert!(error.to_string().contains("more than 1 MiB"), "{error}");
    }

    proptest! {
        /// An archive with some bytes changed is read, or is an error.
        #[test]
        fn a_damaged_archive_causes_no_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
            let mut bytes = archive();
            for (at, byte) in changes {
                let length = bytes.len();
                bytes[at.index(length)] = byte;
            }
            if let Ok(contents) = read(&bytes) {
                let size = contents.file.metadata().expect("looked").len();
                for Entry { at, .. } in contents.entries {
                    prop_assert!(at.header + 512 + at.size <= size);
                    prop_assert!(at.pax + at.pax_bytes as u64 <= size);
                }
            }
        }
    }
}
