//! A blob on stdout.

use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::fd::AsFd;

use longshore::oci_spec::image::Digest;
use longshore::{Fetcher, Image};
use sha2::{Digest as _, Sha256};

use super::{pass_on, unless_write_fails};

/// The bytes that stdout has received so far: their number and their hash. A blob whose transfer fails is fetched again
/// from its start. The bytes that were printed before are then compared, and not printed again.
#[derive(Debug, Default)]
struct Printed {
    bytes: u64,
    hash: Sha256,
}

impl Printed {
    /// Reads as many bytes as were printed, which must be the same ones.
    fn skip(&self, reader: &mut impl BufRead) -> io::Result<()> {
        let mut left = self.bytes;
        let mut hash = Sha256::new();
        while left > 0 {
            let bytes = reader.fill_buf()?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let count = usize::try_from(left).map_or(bytes.len(), |left| bytes.len().min(left));
            hash.update(&bytes[..count]);
            reader.consume(count);
            left -= count as u64;
        }
        if hash.finalize() == self.hash.clone().finalize() {
            return Ok(());
        }
        let reason = "stdout has received bytes that are not those of the blob: they came with an earlier try";
        Err(io::Error::new(io::ErrorKind::InvalidData, reason))
    }
}

/// Prints a blob. Returns the error of stdout, if it has one. A closed stdout is no error.
pub(super) async fn write(
    fetcher: &Fetcher,
    image: &Image,
    digest: &Digest,
) -> longshore::Result<io::Result<()>> {
    // This avoids the buffer of the standard library, which looks for line breaks.
    let stdout = match io::stdout().as_fd().try_clone_to_owned() {
        Ok(stdout) => File::from(stdout),
        Err(error) => return Ok(Err(error)),
    };
    // The tries run one after another. Each takes the record that the previous one put into this channel.
    let (put_back, printed_before) = async_channel::bounded(1);
    // The channel has space for one record.
    let _ = put_back.try_send(Printed::default());
    let (failed, failure) = async_channel::bounded(1);
    let fetching = fetcher.for_blob_blocking(image, digest, move |mut reader| {
        let mut printed = printed_before.try_recv().map_err(io::Error::other)?;
        let passed = printed.skip(&mut reader).and_then(|()| {
            pass_on(&mut reader, &failed, |bytes| {
                (&stdout).write_all(bytes)?;
                printed.hash.update(bytes);
                printed.bytes += bytes.len() as u64;
                Ok(())
            })
        });
        let _ = put_back.try_send(printed);
        passed
    });
    let written = unless_write_fails(&failure, fetching).await?;
    Ok(match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_bytes_are_skipped_if_they_are_the_same() {
        let mut printed = Printed::default();
        printed.hash.update(b"abc");
        printed.bytes = 3;
        let mut again = &b"abcdef"[..];
        printed.skip(&mut again).expect("the same");
        assert_eq!(again, b"def");
        for (other, kind) in [
            (&b"abdef"[..], io::ErrorKind::InvalidData),
            (b"ab", io::ErrorKind::UnexpectedEof),
        ] {
            let error = printed.skip(&mut &other[..]).expect_err("not the same");
            assert_eq!(error.kind(), kind);
        }
    }
}
