//! From a reader into a file.

use std::io::{self, Write};
use std::mem;

use tokio::io::AsyncReadExt;
use tokio::task::{self, JoinHandle};

use super::staging::Staged;
use crate::drain::aligned::AlignedBuffer;
use crate::fetch::LayerReader;

/// As much as the pipe holds: one write for one pipe full.
const CHUNK_BYTES: usize = 256 * 1024;

/// Which side failed.
#[derive(Debug)]
pub(super) enum Failed {
    Read(io::Error),
    Write(io::Error),
}

/// Write the whole of `reader` to the file. A disk can make a write wait, so
/// each one goes to a thread for such things, and the next bytes are read and
/// hashed meanwhile: two buffers take turns.
pub(super) async fn drain(reader: &mut LayerReader, staged: Staged) -> Result<Staged, Failed> {
    let mut buffer = AlignedBuffer::new(CHUNK_BYTES);
    let mut pending = Pending::Idle(staged, AlignedBuffer::new(CHUNK_BYTES));
    loop {
        let filled = fill(reader, &mut buffer).await.map_err(Failed::Read)?;
        let (staged, written) = pending.done().await.map_err(Failed::Write)?;
        if filled == 0 {
            return Ok(staged);
        }
        pending = Pending::write(staged, mem::replace(&mut buffer, written), filled);
    }
}

/// As many bytes as there is room for, or as there are.
async fn fill(reader: &mut LayerReader, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]).await? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

/// The file and the other buffer: here, or away being written.
enum Pending {
    Idle(Staged, AlignedBuffer),
    Writing(JoinHandle<io::Result<(Staged, AlignedBuffer)>>),
}

impl Pending {
    fn write(mut staged: Staged, buffer: AlignedBuffer, filled: usize) -> Self {
        Self::Writing(task::spawn_blocking(move || {
            staged.file.write_all(&buffer[..filled])?;
            Ok((staged, buffer))
        }))
    }

    async fn done(self) -> io::Result<(Staged, AlignedBuffer)> {
        match self {
            Self::Idle(staged, buffer) => Ok((staged, buffer)),
            Self::Writing(task) => task.await.map_err(io::Error::other)?,
        }
    }
}
