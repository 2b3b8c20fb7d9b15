//! Tar archives for layers that are always the same, byte for byte.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header, HeaderMode};

/// Writes an archive with one file of `size` bytes that do not compress.
///
/// # Errors
///
/// If `out` cannot be written to.
pub fn write_random(out: impl Write, size: u64, seed: u64) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(size);
    let name = format!("random-{seed}");
    let mut archive = Builder::new(out);
    archive.append_data(&mut header, name, RandomBytes::new(seed).take(size))?;
    archive.finish()
}

/// Writes an archive of what a directory contains, in the order of the names, without the times and the
/// owners of the files.
///
/// # Errors
///
/// If the directory cannot be read, or `out` cannot be written to.
pub fn write_directory(out: impl Write, directory: &Path) -> io::Result<()> {
    let mut archive = Builder::new(out);
    archive.mode(HeaderMode::Deterministic);
    archive.follow_symlinks(false);
    append_children(&mut archive, directory, Path::new(""))?;
    archive.finish()
}

/// Appends the contents of `root`'s subdirectory `inside`, recursively.
fn append_children(
    archive: &mut Builder<impl Write>,
    root: &Path,
    inside: &Path,
) -> io::Result<()> {
    for name in sorted_children(&root.join(inside))? {
        let name = inside.join(name);
        let path = root.join(&name);
        archive.append_path_with_name(&path, &name)?;
        if fs::symlink_metadata(&path)?.is_dir() {
            append_children(archive, root, &name)?;
        }
    }
    Ok(())
}

fn sorted_children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let names = fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.file_name().into()));
    let mut names = names.collect::<io::Result<Vec<PathBuf>>>()?;
    names.sort();
    Ok(names)
}

/// Endless bytes that look random and are always the same for the same seed (`SplitMix64`).
struct RandomBytes {
    state: u64,
}

impl RandomBytes {
    fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

impl Read for RandomBytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for piece in buffer.chunks_mut(8) {
            piece.copy_from_slice(&self.next().to_le_bytes()[..piece.len()]);
        }
        Ok(buffer.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_archive_depends_on_its_seed_alone() -> io::Result<()> {
        let archive = |seed| -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            write_random(&mut bytes, 1000, seed)?;
            Ok(bytes)
        };
        assert_eq!(archive(1)?, archive(1)?);
        assert_ne!(archive(1)?, archive(2)?);
        Ok(())
    }

    #[test]
    fn an_archive_of_a_directory_has_its_entries_sorted() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        fs::create_dir(directory.path().join("b"))?;
        for name in ["b/2", "b/1", "c", "a"] {
            fs::write(directory.path().join(name), name)?;
        }
        let mut bytes = Vec::new();
        write_directory(&mut bytes, directory.path())?;
        let mut names = Vec::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries()? {
            names.push(entry?.path()?.display().to_string());
        }
        assert_eq!(names, ["a", "b", "b/1", "b/2", "c"]);
        Ok(())
    }
}
