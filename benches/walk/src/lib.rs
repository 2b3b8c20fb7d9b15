//! Walks layers: reads them as tar archives, checks their digests, and counts what is in them. All programs of
//! workload G do this in the same way. Each brings an inflater of its own.

use std::fmt::Write as _;
use std::io::{self, BufReader, Read, Write};
use std::num::NonZeroUsize;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The size of all buffers, in bytes. `tar` reads headers of 512 bytes, which is slow without a buffer.
pub const BUFFER_BYTES: usize = 64 << 10;

/// The sums over some layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// The number of archives.
    pub layers: u64,
    /// The number of entries. Extended headers are not counted as entries.
    pub entries: u64,
    /// The bytes of all files.
    pub content: u64,
    /// The bytes of the archives, which are not compressed.
    pub bytes: u64,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.layers += other.layers;
        self.entries += other.entries;
        self.content += other.content;
        self.bytes += other.bytes;
    }
}

impl Totals {
    /// Prints the totals on a line of stdout, where [`from_output`](Self::from_output) finds them.
    ///
    /// # Errors
    ///
    /// If stdout can't be written to.
    pub fn print(self) -> io::Result<()> {
        writeln!(io::stdout(), "{}", serde_json::to_string(&self)?)
    }

    /// Finds the totals in the output of a program. They are on its last line.
    #[must_use]
    pub fn from_output(output: &str) -> Option<Self> {
        serde_json::from_str(output.lines().last()?).ok()
    }
}

/// Walks an archive that is not compressed, to the end of `reader`. The content of its files is skipped.
///
/// # Errors
///
/// If the archive can't be read, or is damaged.
pub fn walk(reader: impl Read) -> io::Result<Totals> {
    walk_each(reader, |_| Ok(()))
}

/// Walks an archive like [`walk`], and passes each entry to `each`.
///
/// # Errors
///
/// The errors of [`walk`] and of `each`.
pub fn walk_each<R: Read>(
    reader: R,
    mut each: impl FnMut(&tar::Entry<'_, Counting<R>>) -> io::Result<()>,
) -> io::Result<Totals> {
    let reader = Counting { reader, bytes: 0 };
    let mut archive = tar::Archive::new(reader);
    let (mut entries, mut content) = (0, 0);
    for entry in archive.entries()? {
        let entry = entry?;
        each(&entry)?;
        entries += 1;
        content += entry.size();
    }
    // The archive ends before the layer, whose digest is that of all bytes.
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink())?;
    Ok(Totals {
        layers: 1,
        entries,
        content,
        bytes: rest.bytes,
    })
}

/// Walks a layer behind an inflater, and checks its `diff_id`.
///
/// # Errors
///
/// If the layer can't be read, is damaged, or has another `diff_id`.
pub fn walk_layer(inflated: impl Read, diff_id: &str) -> io::Result<Totals> {
    let mut hashing = Hashing::new(inflated);
    let totals = walk(BufReader::with_capacity(BUFFER_BYTES, &mut hashing))?;
    hashing.check(diff_id)?;
    Ok(totals)
}

/// Does `work` with all items, on this many threads, and returns the sum.
///
/// # Errors
///
/// The error of any of the items.
///
/// # Panics
///
/// If `work` panics.
pub fn on_threads<T: Sync>(
    threads: NonZeroUsize,
    items: &[T],
    work: impl Fn(&T) -> io::Result<Totals> + Sync,
) -> io::Result<Totals> {
    let next = AtomicUsize::new(0);
    let take = || -> io::Result<Totals> {
        let mut sum = Totals::default();
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            sum += work(item)?;
        }
        Ok(sum)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.get()).map(|_| scope.spawn(take)).collect();
        let mut sum = Totals::default();
        for thread in threads {
            let ended = thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            sum += ended?;
        }
        Ok(sum)
    })
}

/// A reader that computes the SHA-256 of what was read.
#[derive(Debug)]
pub struct Hashing<R> {
    reader: R,
    hasher: Sha256,
}

impl<R: Read> Hashing<R> {
    /// Hashes all bytes that are read through it.
    pub fn new(reader: R) -> Self {
        let hasher = Sha256::new();
        Self { reader, hasher }
    }

    /// Reads to the end, and compares the digest with `expected`, which is `sha256:` and 64 digits.
    ///
    /// # Errors
    ///
    /// If the rest can't be read, or the digest is another one.
    pub fn check(mut self, expected: &str) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink())?;
        let mut found = "sha256:".to_owned();
        for byte in self.hasher.finalize() {
            // Writing into a string can't fail.
            let _ = write!(found, "{byte:02x}");
        }
        if found == expected {
            return Ok(());
        }
        let message = format!("expected {expected}, found {found}");
        Err(io::Error::new(io::ErrorKind::InvalidData, message))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// A reader that counts the bytes that were read.
#[derive(Debug)]
pub struct Counting<R> {
    reader: R,
    bytes: u64,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in [("a", "12345"), ("b", ""), ("c/d", "123")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            builder
                .append_data(&mut header, path, content.as_bytes())
                .unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn entries_and_bytes_are_counted() {
        let mut bytes = archive();
        bytes.extend([0; 3000]);
        let expected = Totals {
            layers: 1,
            entries: 3,
            content: 8,
            bytes: bytes.len() as u64,
        };
        assert_eq!(walk(&bytes[..]).unwrap(), expected);
    }

    #[test]
    fn a_wrong_diff_id_is_an_error() {
        let bytes = archive();
        let error = walk_layer(&bytes[..], "sha256:0").unwrap_err().to_string();
        let found = error.rsplit(' ').next().unwrap();
        assert_eq!(walk_layer(&bytes[..], found).unwrap().entries, 3);
    }

    #[test]
    fn all_items_are_summed_up() {
        let threads = NonZeroUsize::new(3).unwrap();
        let items: Vec<u64> = (1..=100).collect();
        let one = |bytes: &u64| {
            Ok(Totals {
                bytes: *bytes,
                ..Totals::default()
            })
        };
        assert_eq!(on_threads(threads, &items, one).unwrap().bytes, 5050);
        let failing = |_: &u64| Err(io::Error::other("no"));
        assert!(on_threads(threads, &items, failing).is_err());
    }

    #[test]
    fn totals_are_on_the_last_line() {
        let totals = Totals {
            entries: 7,
            ..Totals::default()
        };
        let output = format!("hello\n{}\n", serde_json::to_string(&totals).unwrap());
        assert_eq!(Totals::from_output(&output), Some(totals));
        assert_eq!(Totals::from_output("hello\n"), None);
        assert_eq!(Totals::from_output(""), None);
    }
}
