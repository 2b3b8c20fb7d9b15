//! Reads one blob, and compares it with its descriptor.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use oci_spec::image::{Descriptor, Digest};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::super::blobs;
use super::super::folder::{Folder, Identity};
use super::super::reach::MAX_DOCUMENT_BYTES;
use super::Damage;
use super::plan::Job;
use crate::drain::aligned::AlignedBuffer;
use crate::drain::bounded;
use crate::drain::verify::Verifier;

/// How much of a blob is read at once, in bytes.
const CHUNK_BYTES: usize = 256 * 1024;

/// The result for a blob that is not damaged.
#[derive(Debug)]
pub(super) struct Intact {
    pub(super) bytes: u64,
    /// The number of `diff_id`s that were compared.
    pub(super) diff_ids: usize,
}

/// The result for a blob that is missing or damaged.
#[derive(Debug)]
pub(in crate::layout) struct DamageFound {
    pub(in crate::layout) damage: Damage,
    /// The file, if it could be opened.
    pub(super) identity: Option<Identity>,
    /// The number of bytes that were read.
    pub(super) bytes: u64,
}

pub(super) type Outcome = Result<Intact, DamageFound>;

/// An open blob of the right size.
struct Opened {
    file: File,
    identity: Identity,
    size: u64,
    verifier: Verifier,
}

impl Opened {
    fn with_damage(&self, damage: Damage, bytes: u64) -> DamageFound {
        DamageFound {
            damage,
            identity: Some(self.identity.clone()),
            bytes,
        }
    }

    fn unreadable(&self, error: io::Error, bytes: u64) -> DamageFound {
        self.with_damage(Damage::Unreadable(Arc::new(error)), bytes)
    }
}

impl From<Damage> for DamageFound {
    fn from(damage: Damage) -> Self {
        Self {
            damage,
            identity: None,
            bytes: 0,
        }
    }
}

impl From<io::Error> for DamageFound {
    fn from(error: io::Error) -> Self {
        Damage::Unreadable(Arc::new(error)).into()
    }
}

/// Opens a blob. `expected` is its size, if that is known.
fn open(root: &Folder, digest: &Digest, expected: Option<u64>) -> Result<Opened, DamageFound> {
    let verifier = Verifier::new(digest).ok_or(Damage::UnknownAlgorithm)?;
    let file = blobs::open(root, digest)?.ok_or(Damage::Missing)?;
    let opened = Opened {
        identity: Identity::of(&file)?,
        size: file.metadata()?.len(),
        file,
        verifier,
    };
    match expected {
        Some(expected) if expected != opened.size => {
            let found = opened.size;
            Err(opened.with_damage(Damage::WrongSize { found, expected }, 0))
        }
        _ => Ok(opened),
    }
}

/// Reads a document as a whole.
pub(in crate::layout) fn document(
    root: &Folder,
    named: &Descriptor,
) -> Result<Vec<u8>, DamageFound> {
    let mut opened = open(root, named.digest(), Some(named.size()))?;
    if opened.size > MAX_DOCUMENT_BYTES {
        let reason = format!("it has more than {MAX_DOCUMENT_BYTES} bytes");
        return Err(opened.with_damage(Damage::NotUnderstood(reason), 0));
    }
    let read = bounded::read_blocking(&opened.file, opened.size);
    let read = read.map_err(|error| opened.unreadable(error, 0))?;
    let Some(raw) = read.filter(|raw| raw.len() as u64 == opened.size) else {
        let grown = io::Error::other("it changed while it was read");
        return Err(opened.unreadable(grown, 0));
    };
    opened.verifier.update(&raw);
    match opened.verifier.clone().finish() {
        Ok(()) => Ok(raw),
        Err(computed) => Err(opened.with_damage(Damage::Corrupt { computed }, opened.size)),
    }
}

/// A thread that reads blobs.
pub(super) struct Checker {
    root: Arc<Folder>,
    stop: CancellationToken,
    buffer: AlignedBuffer,
    #[cfg(feature = "decompress")]
    runtime: Handle,
}

impl Checker {
    pub(super) fn new(root: Arc<Folder>, stop: CancellationToken, runtime: Handle) -> Self {
        #[cfg(not(feature = "decompress"))]
        drop(runtime);
        Self {
            root,
            stop,
            buffer: AlignedBuffer::new(CHUNK_BYTES),
            #[cfg(feature = "decompress")]
            runtime,
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Reads a blob, and compares it with its digest, its size and its `diff_id`s. This function blocks.
    pub(super) fn check(&mut self, job: &Job) -> Outcome {
        let mut opened = open(&self.root, &job.digest, job.size)?;
        self.hash(&mut opened)?;
        let size = opened.size;
        let diff_ids = self.compare_diff_ids(job, opened)?;
        Ok(Intact {
            bytes: size,
            diff_ids,
        })
    }

    /// Whether a blob has the digest of its name, whatever its size. `None` if it can't be read.
    pub(super) fn has_digest(&mut self, digest: &Digest) -> Option<bool> {
        let mut opened = open(&self.root, digest, None).ok()?;
        match self.hash(&mut opened) {
            Ok(()) => Some(true),
            Err(bad) => matches!(bad.damage, Damage::Corrupt { .. }).then_some(false),
        }
    }

    fn hash(&mut self, opened: &mut Opened) -> Result<(), DamageFound> {
        let mut read = 0;
        loop {
            if self.stop.is_cancelled() {
                let stopped = io::ErrorKind::Interrupted.into();
                return Err(opened.unreadable(stopped, read));
            }
            let chunk = match opened.file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(opened.unreadable(error, read)),
            };
            opened.verifier.update(&self.buffer[..chunk]);
            read += chunk as u64;
            if read > opened.size {
                // Somebody writes into the file, perhaps without end.
                break;
            }
        }
        if read != opened.size {
            let changed = io::Error::other("it changed while it was read");
            return Err(opened.unreadable(changed, read));
        }
        match opened.verifier.clone().finish() {
            Ok(()) => Ok(()),
            Err(computed) => Err(opened.with_damage(Damage::Corrupt { computed }, read)),
        }
    }

    #[cfg(not(feature = "decompress"))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "the same signature as with the feature"
    )]
    fn compare_diff_ids(&self, _: &Job, _: Opened) -> Result<usize, DamageFound> {
        Ok(0)
    }

    /// Decompresses a layer whose blob is right, once for each of its `diff_id`s. There is usually one.
    #[cfg(feature = "decompress")]
    fn compare_diff_ids(&self, job: &Job, mut opened: Opened) -> Result<usize, DamageFound> {
        use std::io::Seek;

        use crate::error::Error;
        use crate::fetch::{FetchOptions, Layer, check_diff_id};

        let options = FetchOptions::default();
        for diff_id in &job.diff_ids {
            let rewound = opened.file.rewind();
            rewound.map_err(|error| opened.unreadable(error, opened.size))?;
            let descriptor = Descriptor::new("".into(), opened.size, job.digest.clone());
            let mut layer = Layer::new(0, descriptor);
            layer.diff_id = Some(diff_id.clone());
            let blob = stored::Blob::new(&opened.file, &self.stop);
            let checking = check_diff_id(blob, &layer, &options);
            self.runtime.block_on(checking).map_err(|error| {
                let damage = match error {
                    Error::Blob { source, .. } => Damage::Layer(source),
                    Error::Io { source, .. } => Damage::Unreadable(source),
                    error => Damage::Unreadable(Arc::new(io::Error::other(error))),
                };
                opened.with_damage(damage, opened.size)
            })?;
        }
        Ok(job.diff_ids.len())
    }
}

#[cfg(feature = "decompress")]
mod stored {
    use std::fs::File;
    use std::io::{self, BufRead, BufReader, Read};
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};
    use tokio_util::sync::CancellationToken;

    use crate::error::Error;
    use crate::fetch::CountingReader;

    /// A stored blob, for a decoder on a thread that may block.
    pub(super) struct Blob<'a> {
        file: BufReader<&'a File>,
        stop: &'a CancellationToken,
        read: u64,
    }

    impl<'a> Blob<'a> {
        pub(super) fn new(file: &'a File, stop: &'a CancellationToken) -> Self {
            Self {
                file: BufReader::with_capacity(super::CHUNK_BYTES, file),
                stop,
                read: 0,
            }
        }

        fn check_stopped(&self) -> io::Result<()> {
            if self.stop.is_cancelled() {
                return Err(Error::Cancelled.into());
            }
            Ok(())
        }
    }

    /// Keeps an error of the file distinct from one of the decoder.
    fn file_error(error: io::Error) -> io::Error {
        Error::io("can't read a blob")(error).into()
    }

    impl CountingReader for Blob<'_> {
        fn bytes_read(&self) -> u64 {
            self.read
        }
    }

    impl AsyncRead for Blob<'_> {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            out: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let blob = self.get_mut();
            blob.check_stopped()?;
            let read = blob.file.read(out.initialize_unfilled());
            let read = read.map_err(file_error)?;
            out.advance(read);
            blob.read += read as u64;
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncBufRead for Blob<'_> {
        fn poll_fill_buf(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
            let blob = self.get_mut();
            blob.check_stopped()?;
            Poll::Ready(blob.file.fill_buf().map_err(file_error))
        }

        fn consume(self: Pin<&mut Self>, amount: usize) {
            let blob = self.get_mut();
            blob.file.consume(amount);
            blob.read += amount as u64;
        }
    }
}
