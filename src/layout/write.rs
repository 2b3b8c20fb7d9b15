//! From a reader into a file.

use std::io::{self, Write};
use std::mem;

use tokio::io::AsyncReadExt;
use tokio::task::{self, JoinHandle};

use super::staging::Staged;
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
    let mut filling = Vec::with_capacity(CHUNK_BYTES);
    let mut pending = Pending::Idle(staged, Vec::with_capacity(CHUNK_BYTES));
    loop {
        filling.clear();
        while filling.len() < CHUNK_BYTES {
            let read = reader.read_buf(&mut filling).await.map_err(Failed::Read)?;
            if read == 0 {
                break;
            }
        }
        let (staged, written) = pending.done().await.map_err(Failed::Write)?;
        if filling.is_empty() {
            return Ok(staged);
        }
        pending = Pending::write(staged, mem::replace(&mut filling, written));
    }
}

/// The file and the other buffer: here, or away being written.
enum Pending {
    Idle(Staged, Vec<u8>),
    Writing(JoinHandle<io::Result<(Staged, Vec<u8>)>>),
}

impl Pending {
    fn write(mut staged: Staged, bytes: Vec<u8>) -> Self {
        Self::Writing(task::spawn_blocking(move || {
            staged.file.write_all(&bytes)?;
            Ok((staged, bytes))
        }))
    }

    async fn done(self) -> io::Result<(Staged, Vec<u8>)> {
        match self {
            Self::Idle(staged, buffer) => Ok((staged, buffer)),
            Self::Writing(task) => task.await.map_err(io::Error::other)?,
        }
    }
}
