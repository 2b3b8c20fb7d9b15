//! Reads whole documents and files, up to a maximum size.

use std::io::{self, Read};

use tokio::io::{AsyncRead, AsyncReadExt as _};
use zeroize::Zeroizing;

/// Reads to the end. `None` if there are more than `limit` bytes. At most one byte more than the limit is read.
pub(crate) async fn read(
    reader: impl AsyncRead + Unpin,
    limit: u64,
) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let mut reader = reader.take(limit.saturating_add(1));
    reader.read_to_end(&mut bytes).await?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

/// Reads to the end like [`read`], and blocks.
pub(crate) fn read_blocking(reader: impl Read, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    reader
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

/// Reads a secret to the end, like [`read_blocking`]. No copy of the secret stays in freed memory.
pub(crate) fn read_secret(
    reader: impl Read,
    limit: usize,
) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    // The buffer has its whole capacity from the start, because a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit + 1));
    reader.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= limit).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn documents_up_to_the_limit_are_read() {
        let text = b"four";
        for (limit, fits) in [(3, false), (4, true), (u64::MAX, true)] {
            let read = read(&text[..], limit).await.expect("bytes");
            assert_eq!(read.is_some(), fits);
            assert_eq!(read_blocking(&text[..], limit).expect("bytes"), read);
        }
        for (limit, fits) in [(3, false), (4, true)] {
            let read = read_secret(&text[..], limit).expect("bytes");
            assert_eq!(read.is_some(), fits);
        }
    }
}
