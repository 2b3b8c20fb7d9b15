//! The events of a pull as lines of JSON, in a file or on stdout.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use longshore::oci_spec::image::Digest;
use longshore::{Event, EventKind};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::cli::failure::Failure;
use crate::cli::format::{json_line, plain};

/// The version of the format. It changes when a field changes its meaning or is removed.
const VERSION: u32 = 1;

/// The least time between two events about the bytes of one blob.
const BYTES_INTERVAL: Duration = Duration::from_millis(250);

/// The first line.
#[derive(Debug, Serialize)]
struct Started<'a> {
    at_ms: u64,
    event: &'static str,
    version: u32,
    /// The time on the clock of this machine, in milliseconds since 1970-01-01 UTC.
    unix_ms: u64,
    longshore: &'static str,
    images: &'a [String],
}

/// The last line.
#[derive(Debug, Serialize)]
struct Ended {
    at_ms: u64,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The lines of JSON of a pull, which begin with `started` and end with `finished` or `failed`.
pub(super) struct Record {
    /// `None` is stdout.
    path: Option<PathBuf>,
    to: Box<dyn Write + Send>,
    started: Instant,
    filter: ByteEventFilter,
    /// Whether the reader of stdout has gone.
    is_unread: bool,
}

impl Record {
    /// Begins a record. `-` is stdout. Blocks.
    pub(super) fn begin(path: &Path, images: &[String]) -> Result<Self, Failure> {
        let is_stdout = path == Path::new("-");
        let to: Box<dyn Write + Send> = if is_stdout {
            Box::new(io::stdout())
        } else {
            let cant = Failure::of_output(&path.display().to_string());
            Box::new(BufWriter::new(File::create(path).map_err(cant)?))
        };
        let mut record = Self {
            path: (!is_stdout).then(|| path.to_owned()),
            to,
            started: Instant::now(),
            filter: ByteEventFilter::default(),
            is_unread: false,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        record.write(&Started {
            at_ms: 0,
            event: "started",
            version: VERSION,
            unix_ms: now.map_or(0, millis),
            longshore: env!("CARGO_PKG_VERSION"),
            images,
        })?;
        Ok(record)
    }

    pub(super) fn take(&mut self, event: &Event) -> Result<(), Failure> {
        if self.filter.passes(event) {
            self.write(event)?;
        }
        Ok(())
    }

    /// Writes the last line: the error of the pull, if it failed. Blocks.
    fn end(mut self, error: Option<String>) -> Result<(), Failure> {
        let ended = Ended {
            at_ms: millis(self.started.elapsed()),
            event: if error.is_some() {
                "failed"
            } else {
                "finished"
            },
            error,
        };
        self.write(&ended)?;
        self.flush()
    }

    /// Writes what is buffered, so that readers of the file see it.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        let flushed = self.to.flush();
        self.checked(flushed)
    }

    fn write(&mut self, line: &impl Serialize) -> Result<(), Failure> {
        if self.is_unread {
            return Ok(());
        }
        let line = json_line(line).map_err(anyhow::Error::from)?;
        let written = writeln!(self.to, "{line}");
        self.checked(written)
    }

    fn checked(&mut self, written: io::Result<()>) -> Result<(), Failure> {
        match (written, &self.path) {
            (Ok(()), _) => Ok(()),
            (Err(error), None) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_unread = true;
                Ok(())
            }
            (Err(error), path) => {
                let path = path.as_ref().map(|path| path.display().to_string());
                let place = path.unwrap_or_else(|| "stdout".into());
                let what = format!("can't write events into {}", plain(&place));
                Err(anyhow::Error::from(error).context(what).into())
            }
        }
    }
}

/// The last line of a record, which the thread of the record writes. A file that nobody reads holds up only that thread, so
/// a signal can still end the command.
pub(crate) struct LastLine {
    error: oneshot::Sender<Option<String>>,
    written: oneshot::Receiver<Result<(), Failure>>,
}

/// A record that waits for its last line.
pub(super) struct UnfinishedRecord {
    record: Record,
    error: oneshot::Receiver<Option<String>>,
    written: oneshot::Sender<Result<(), Failure>>,
}

impl LastLine {
    pub(super) fn of(record: Record) -> (Self, UnfinishedRecord) {
        let (error, awaited) = oneshot::channel();
        let (done, written) = oneshot::channel();
        let unfinished = UnfinishedRecord {
            record,
            error: awaited,
            written: done,
        };
        (Self { error, written }, unfinished)
    }

    /// Waits until the last line is written: the error of the pull, if it failed.
    pub(crate) async fn write(self, error: Option<String>) -> Result<(), Failure> {
        let ended = || anyhow::anyhow!("the thread that writes the events has ended").into();
        // The thread has ended if there is no receiver.
        let _ = self.error.send(error);
        self.written.await.unwrap_or_else(|_| Err(ended()))
    }
}

impl UnfinishedRecord {
    /// Waits for the end of the pull, and writes the last line. Without a [`LastLine`], the pull was interrupted. Blocks.
    pub(super) fn write(self) {
        let interrupted = |_| Some("interrupted".to_owned());
        let error = self.error.blocking_recv().unwrap_or_else(interrupted);
        // Nobody waits for this if a signal has ended the command.
        let _ = self.written.send(self.record.end(error));
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A filter that leaves out most events about the bytes of blobs.
#[derive(Debug, Default)]
pub(super) struct ByteEventFilter {
    last: HashMap<Digest, Duration>,
}

impl ByteEventFilter {
    /// Whether this event is kept.
    pub(super) fn passes(&mut self, event: &Event) -> bool {
        match &event.kind {
            EventKind::BlobBytes { blob, .. } => self.passes_bytes(&blob.digest, event.at),
            EventKind::BlobVerified { blob, .. }
            | EventKind::BlobRetried { blob, .. }
            | EventKind::BlobFailed { blob, .. } => {
                self.last.remove(&blob.digest);
                true
            }
            _ => true,
        }
    }

    fn passes_bytes(&mut self, digest: &Digest, at: Duration) -> bool {
        match self.last.get_mut(digest) {
            Some(last) if at.saturating_sub(*last) < BYTES_INTERVAL => false,
            Some(last) => {
                *last = at;
                true
            }
            None => {
                self.last.insert(digest.clone(), at);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::tests::blob;
    use super::*;

    #[test]
    fn most_byte_events_of_a_blob_are_left_out() {
        let mut filter = ByteEventFilter::default();
        let (a, b) = (blob(1, 0).digest, blob(2, 0).digest);
        let at = Duration::from_millis;
        assert!(filter.passes_bytes(&a, at(0)));
        assert!(!filter.passes_bytes(&a, at(100)));
        assert!(filter.passes_bytes(&b, at(100)));
        assert!(!filter.passes_bytes(&a, at(249)));
        assert!(filter.passes_bytes(&a, at(250)));
        assert!(!filter.passes_bytes(&a, at(499)));
        assert!(!filter.passes_bytes(&b, at(349)));
    }
}
