//! Writes the bytes of a reader into the file of a blob.

use std::io::{self, Write};
use std::mem;
use std::sync::Arc;

use oci_spec::image::Digest;
use tokio::io::AsyncReadExt;
use tokio::task::{self, JoinHandle};

use super::staging::{Staged, Staging};
use crate::drain::aligned::AlignedBuffer;
use crate::drain::verify::Verifier;
use crate::error::{Error, join_error};
use crate::fetch::LayerReader;

/// The minimum and the maximum size of a chunk, in bytes. Each chunk is handed over to another thread and
/// back, so larger chunks need fewer wake-ups. docs/decisions.md has the measurement.
const CHUNK_BYTES: (usize, usize) = (128 * 1024, 512 * 1024);

/// The size that the chunks of all blobs should have together, in bytes. Many chunks of the minimum size exceed it.
const BUFFERED_BYTES: usize = 8 * 1024 * 1024;

/// The reason why a blob could not be stored: reading it failed, or writing it.
#[derive(Debug)]
pub(super) enum StoreError {
    Fetch(Error),
    Write(io::Error),
}

/// The size of the chunks of one more blob of `size` bytes, in bytes. `stored` is the number of blobs that
/// are being stored, including this one. Each blob has two chunks, or a single one that holds all of it and
/// one excess byte.
pub(super) fn chunk_bytes(size: u64, stored: usize) -> usize {
    let (least, most) = CHUNK_BYTES;
    let share = (BUFFERED_BYTES / 2 / stored.max(1)).clamp(least, most);
    usize::try_from(size).map_or(share, |size| share.min(size.saturating_add(1)))
}

/// The state that is passed to the writing thread with each chunk, and comes back.
#[derive(Default)]
struct WriteState {
    /// The file, which is created with the first chunk.
    file: Option<Staged>,
    verifier: Option<Verifier>,
}

/// Writes a blob into a staging file, and gives it its name if the blob is verified.
///
/// A blocking thread writes each chunk and hashes it while it is in the cache. The next bytes are read
/// meanwhile, into the other of two buffers. The file is created with the first write, and gets its name after
/// the last one.
pub(super) async fn store(
    mut reader: LayerReader,
    staging: Arc<Staging>,
    digest: Digest,
    chunk_bytes: usize,
) -> Result<(), StoreError> {
    let mut buffer = AlignedBuffer::new(chunk_bytes);
    let mut writing: Option<JoinHandle<io::Result<(WriteState, AlignedBuffer)>>> = None;
    let mut state = WriteState {
        file: None,
        verifier: reader.take_verifier(),
    };
    loop {
        let filled = fill(&mut reader, &mut buffer).await?;
        let mut free = None;
        if let Some(writing) = writing.take() {
            let (back, written) = join(writing).await?;
            state = back;
            free = Some(written);
        }
        let staging = Arc::clone(&staging);
        if filled < buffer.len() {
            if let Some(verifier) = &mut state.verifier {
                verifier.update(&buffer[..filled]);
            }
            let finished = reader.finish_with(state.verifier).await;
            finished.map_err(StoreError::Fetch)?;
            let last = task::spawn_blocking(move || {
                let mut staged = state.file.map_or_else(|| staging.create(), Ok)?;
                staged.file.write_all(&buffer[..filled])?;
                staging.publish_blob(staged, &digest)
            });
            return join(last).await;
        }
        let free = free.unwrap_or_else(|| AlignedBuffer::new(chunk_bytes));
        let full = mem::replace(&mut buffer, free);
        let WriteState { file, mut verifier } = mem::take(&mut state);
        writing = Some(task::spawn_blocking(move || {
            if let Some(verifier) = &mut verifier {
                verifier.update(&full);
            }
            let mut staged = file.map_or_else(|| staging.create(), Ok)?;
            staged.file.write_all(&full)?;
            let file = Some(staged);
            Ok((WriteState { file, verifier }, full))
        }));
    }
}

/// Fills the buffer, or reads up to the end. Returns the number of bytes.
async fn fill(reader: &mut LayerReader, buffer: &mut [u8]) -> Result<usize, StoreError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]).await {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) => return Err(StoreError::Fetch(read_error(error))),
        }
    }
    Ok(filled)
}

fn read_error(error: io::Error) -> Error {
    error
        .downcast()
        .unwrap_or_else(Error::io("can't read a blob"))
}

async fn join<T>(task: JoinHandle<io::Result<T>>) -> Result<T, StoreError> {
    match task.await {
        Ok(done) => done.map_err(StoreError::Write),
        Err(error) => Err(StoreError::Fetch(join_error(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_smaller_when_many_blobs_are_stored() {
        const KIB: usize = 1024;
        let table = [
            (0, 512),
            (1, 512),
            (8, 512),
            (16, 256),
            (32, 128),
            (512, 128),
        ];
        for (stored, expected) in table {
            assert_eq!(chunk_bytes(u64::MAX, stored), expected * KIB, "{stored}");
        }
        assert_eq!(chunk_bytes(1000, 1), 1001);
        assert_eq!(chunk_bytes(0, 512), 1);
    }
}
