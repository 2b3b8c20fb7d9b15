//! What a program must find when it walks the layers of an image.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::BufReader;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail};
use bench_walk::{Totals, walk_each};
use flate2::bufread::MultiGzDecoder;

use crate::workload::Image;

/// The layers of an image, walked by this program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walked {
    /// All entries of all layers.
    layered: Totals,
    /// The files of the image: for each path, that of the highest layer.
    flat: Flat,
}

/// The result that a contestant has.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// It has walked each layer, and has printed the totals.
    Layers(&'a str),
    /// It has walked an archive of all files, and has printed the totals.
    Archive(&'a str),
    /// It has unpacked all files into this folder.
    Folder(PathBuf),
}

/// The number of files, and the bytes in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Flat {
    entries: u64,
    content: u64,
}

impl Walked {
    /// Walks the layers of an image in this layout.
    pub(crate) fn of(layout: &Path, image: &Image) -> anyhow::Result<Self> {
        let mut layered = Totals::default();
        let mut flattening = Flattening::default();
        // The highest layer is first.
        for layer in image.blobs[1..].iter().rev() {
            let digits = layer.digest.trim_start_matches("sha256:");
            let file = File::open(layout.join("blobs/sha256").join(digits))?;
            let inflated = MultiGzDecoder::new(BufReader::new(file));
            let walked = walk_each(inflated, |entry| {
                let is_folder = entry.header().entry_type().is_dir();
                flattening.add(&entry.path()?, is_folder, entry.size());
                Ok(())
            });
            layered += walked.with_context(|| format!("can't walk layer {}", layer.digest))?;
        }
        let flat = flattening.sum;
        Ok(Self { layered, flat })
    }

    /// The size of all layers, not compressed.
    pub(crate) fn bytes(&self) -> u64 {
        self.layered.bytes
    }

    /// Compares the result of a contestant with what is in the image.
    pub(crate) fn check(&self, found: &Found<'_>) -> anyhow::Result<()> {
        let printed = |text: &str| Totals::from_output(text).context("it has printed no totals");
        match found {
            Found::Layers(output) => {
                let totals = printed(output)?;
                if totals != self.layered {
                    bail!("found {totals:?} instead of {:?}", self.layered);
                }
            }
            Found::Archive(output) => {
                let Totals {
                    entries, content, ..
                } = printed(output)?;
                self.check_flat(Flat { entries, content })?;
            }
            Found::Folder(folder) => {
                let mut found = Flat::default();
                let mut inodes = HashMap::new();
                count_folder(folder, &mut inodes, &mut found)?;
                found.content = inodes.values().sum();
                self.check_flat(found)?;
            }
        }
        Ok(())
    }

    fn check_flat(&self, found: Flat) -> anyhow::Result<()> {
        if found != self.flat {
            bail!("found {found:?} instead of {:?}", self.flat);
        }
        Ok(())
    }
}

/// Finds the files of an image as `crane export` does, from the highest layer down.
#[derive(Debug, Default)]
struct Flattening {
    /// The paths that are decided, and whether they hide what is below them in lower layers.
    decided: HashMap<PathBuf, bool>,
    sum: Flat,
}

impl Flattening {
    fn add(&mut self, path: &Path, is_folder: bool, size: u64) {
        const WHITEOUT: &[u8] = b".wh.";
        let mut path = clean(path);
        let name = path.file_name().unwrap_or_default().as_bytes();
        let hides = name.strip_prefix(WHITEOUT).map(OsStr::from_bytes);
        let is_whiteout = hides.is_some();
        if let Some(hidden) = hides {
            path = path.with_file_name(hidden);
        }
        let hidden = |folder: &Path| self.decided.get(folder) == Some(&true);
        if self.decided.contains_key(&path) || path.ancestors().skip(1).any(hidden) {
            return;
        }
        self.decided.insert(path, is_whiteout || !is_folder);
        if !is_whiteout {
            self.sum.entries += 1;
            self.sum.content += size;
        }
    }
}

/// The path without `.` in it; the root is an empty path.
fn clean(path: &Path) -> PathBuf {
    let parts = path.components();
    parts
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect()
}

/// Counts the folder and all that is in it. A file with several names has one inode.
fn count_folder(
    folder: &Path,
    inodes: &mut HashMap<u64, u64>,
    found: &mut Flat,
) -> anyhow::Result<()> {
    found.entries += 1;
    for entry in fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            count_folder(&entry.path(), inodes, found)?;
            continue;
        }
        found.entries += 1;
        if metadata.is_file() {
            inodes.insert(metadata.ino(), metadata.len());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(layers: &[&[(&str, u64)]]) -> Flat {
        let mut flattening = Flattening::default();
        for layer in layers.iter().rev() {
            for (path, size) in *layer {
                flattening.add(Path::new(path), path.ends_with('/'), *size);
            }
        }
        flattening.sum
    }

    #[test]
    fn the_highest_layer_has_the_file() {
        let low: &[(&str, u64)] = &[("./", 0), ("./a/", 0), ("./a/b", 5), ("./c", 1)];
        let high: &[(&str, u64)] = &[("./", 0), ("./a/", 0), ("./a/b", 7)];
        let (entries, content) = (4, 8);
        assert_eq!(flat(&[low, high]), Flat { entries, content });
    }

    #[test]
    fn a_whiteout_and_a_file_hide_what_is_below() {
        let low: &[(&str, u64)] = &[("a/", 0), ("a/b", 5), ("c/", 0), ("c/d", 6), ("e", 1)];
        let (entries, content) = (1, 1);
        assert_eq!(
            flat(&[low, &[(".wh.a", 0), (".wh.c", 0)]]),
            Flat { entries, content }
        );
        let (entries, content) = (4, 9);
        assert_eq!(flat(&[low, &[("a", 2)]]), Flat { entries, content });
    }

    #[test]
    fn a_result_must_be_right() {
        let layered = Totals {
            entries: 3,
            ..Totals::default()
        };
        let flat = Flat {
            entries: 2,
            content: 0,
        };
        let walked = Walked { layered, flat };
        let right = r#"{"layers":0,"entries":3,"content":0,"bytes":0}"#;
        walked.check(&Found::Layers(right)).unwrap();
        walked.check(&Found::Archive(right)).unwrap_err();
        walked.check(&Found::Layers("")).unwrap_err();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "").unwrap();
        walked.check(&Found::Folder(folder.path().into())).unwrap();
    }
}
