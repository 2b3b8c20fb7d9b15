//! Writes the files of an image as one tar archive.
//!
//! The headers are copied from the layers, with their times, owners, modes and device numbers. Names, sizes and
//! checksums are written anew, and so is the type of an entry that becomes a hard link. Extended headers are kept, with
//! their attributes, except those of hard links.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tar::{Builder, Header};
use tokio_util::sync::CancellationToken;

use super::layer::{At, BLOCK, Contents, Kind, invalid};
use super::pax;
use super::tree::{Item, Tree};

/// The size of the buffers for copying, in bytes.
const BUFFER_BYTES: usize = 256 * 1024;

/// The size of the fields for names in a header, in bytes.
const NAME_BYTES: usize = 100;

/// The files of an image: its layers, and the tree that they make.
#[derive(Debug)]
pub(super) struct Files {
    layers: Vec<Arc<Contents>>,
    tree: Tree,
}

impl Files {
    /// Applies these layers, the base layer first.
    pub(super) fn new(layers: Vec<Arc<Contents>>) -> io::Result<Self> {
        let mut tree = Tree::new();
        for (number, layer) in layers.iter().enumerate() {
            let added = tree.add(number, &layer.entries);
            added.map_err(|reason| invalid(format!("layer {}: {reason}", layer.digest)))?;
        }
        Ok(Self { layers, tree })
    }

    /// Writes the archive. Fails soon after `stop` is cancelled.
    pub(super) fn write(&self, out: &mut impl Write, stop: &CancellationToken) -> io::Result<()> {
        let mut archive = Builder::new(BufWriter::with_capacity(BUFFER_BYTES, out));
        self.tree.visit(|item| {
            let layer = &self.layers[item.id.layer];
            append(&mut archive, layer, &item, stop)
        })?;
        archive.into_inner()?.flush()
    }
}

fn append(
    archive: &mut Builder<impl Write>,
    layer: &Contents,
    item: &Item<'_>,
    stop: &CancellationToken,
) -> io::Result<()> {
    let entry = &layer.entries[item.id.entry];
    let at = entry.at;
    let mut header = header_at(&layer.file, at)?;
    let mut pax = vec![0; at.pax_bytes];
    layer.file.read_exact_at(&mut pax, at.pax)?;
    let mut path = match item.path {
        b"" => b".".to_vec(),
        path => path.to_vec(),
    };
    if item.is_folder {
        path.push(b'/');
    }
    let link = match (&entry.kind, item.same_as) {
        (_, Some(same)) => {
            header.as_mut_bytes()[156] = b'1';
            Some(same)
        }
        (Kind::Symlink(target), None) => Some(&**target),
        _ => None,
    };
    let size = if item.same_as.is_some() { 0 } else { at.size };
    let kept = pax::records(&pax)?.into_iter();
    // A hard link has the attributes of its file.
    let kept = kept.filter(|(key, _)| item.same_as.is_none() && !is_ours(key));
    let mut records: Vec<pax::Record<'_>> = kept.collect();
    if set_name(&mut header, 0, &path) {
        records.push(("path", &path));
    }
    let link = link.unwrap_or_default();
    if set_name(&mut header, 157, link) {
        records.push(("linkpath", link));
    }
    if header.as_ustar().is_some() {
        // This field has the beginning of a long name. The name has been written anew.
        header.as_mut_bytes()[345..500].fill(0);
    }
    header.set_size(size);
    header.set_cksum();
    archive.append_pax_extensions(records)?;
    let data = Data {
        file: &layer.file,
        position: at.header + BLOCK as u64,
        left: size,
        stop,
    };
    archive.append(&header, BufReader::with_capacity(BUFFER_BYTES, data))
}

/// Whether the record with this key is left out, because names and sizes are written anew.
fn is_ours(key: &str) -> bool {
    matches!(key, "path" | "linkpath" | "size")
}

fn header_at(file: &File, at: At) -> io::Result<Header> {
    let mut header = Header::new_old();
    file.read_exact_at(header.as_mut_bytes(), at.header)?;
    Ok(header)
}

/// Writes a name into the field at this position of a header, as much as there is room for. Returns whether it needs a
/// record of its own.
fn set_name(header: &mut Header, position: usize, name: &[u8]) -> bool {
    let field = &mut header.as_mut_bytes()[position..position + NAME_BYTES];
    field.fill(0);
    let count = name.len().min(NAME_BYTES);
    field[..count].copy_from_slice(&name[..count]);
    count < name.len()
}

/// The bytes of a file in the temporary file of its layer.
struct Data<'a> {
    file: &'a File,
    position: u64,
    left: u64,
    stop: &'a CancellationToken,
}

impl Read for Data<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("the command is ending"));
        }
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if most == 0 {
            return Ok(0);
        }
        let count = self.file.read_at(&mut buffer[..most], self.position)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}
