//! The durations in a pull, from its events.

use std::collections::HashMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use longshore::{Event, EventKind};

/// A histogram of durations in microseconds, with three digits of precision.
#[derive(Clone, Debug)]
pub(crate) struct Durations(pub(crate) Histogram<u64>);

/// One hour.
const LONGEST_MICROS: u64 = 3_600_000_000;

impl Default for Durations {
    fn default() -> Self {
        #[expect(clippy::expect_used, reason = "these are allowed")]
        Self(Histogram::new_with_bounds(1, LONGEST_MICROS, 3).expect("a histogram"))
    }
}

impl Durations {
    pub(crate) fn add(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros);
    }
}

/// The durations of all blobs. A failed try is discarded when the next one begins.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// From the call for a blob to its answer.
    pub(crate) open: Durations,
    /// From the call to the first byte.
    pub(crate) first_byte: Durations,
    /// From the answer to the verdict.
    pub(crate) drain: Durations,
    running: HashMap<usize, RunningBlob>,
}

#[derive(Debug)]
struct RunningBlob {
    asked: Duration,
    opened: Duration,
    has_bytes: bool,
}

impl Times {
    pub(crate) fn record(&mut self, event: &Event) {
        match &event.kind {
            EventKind::BlobOpened { blob, took, .. } => {
                self.open.add(*took);
                let running = RunningBlob {
                    asked: event.at.saturating_sub(*took),
                    opened: event.at,
                    has_bytes: false,
                };
                self.running.insert(blob.layer, running);
            }
            EventKind::BlobBytes { blob, .. } => {
                if let Some(blob) = self.running.get_mut(&blob.layer)
                    && !blob.has_bytes
                {
                    blob.has_bytes = true;
                    self.first_byte.add(event.at.saturating_sub(blob.asked));
                }
            }
            EventKind::BlobVerified { blob, .. } => {
                if let Some(blob) = self.running.remove(&blob.layer) {
                    self.drain.add(event.at.saturating_sub(blob.opened));
                }
            }
            _ => {}
        }
    }
}
