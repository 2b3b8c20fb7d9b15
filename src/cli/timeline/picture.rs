//! The content of a picture of a pull: the result of the model, which the renderers only read.

use std::sync::Arc;
use std::time::Duration;

use super::throughput::Throughput;

/// Everything that is drawn.
#[derive(Debug)]
pub(super) struct Picture {
    /// The images that were asked for, in the order in which they were first mentioned: at most
    /// [`MAX_NAMES`](super::model::MAX_NAMES) of them.
    pub(super) images: Vec<Image>,
    pub(super) proxies: Vec<Proxy>,
    /// The spans, by proxy, lane and time.
    pub(super) spans: Vec<Span>,
    pub(super) throughput: Throughput,
    pub(super) totals: Totals,
    /// The slowest blobs, slowest first.
    pub(super) slowest: Vec<Span>,
    /// The first failed tries, in the order in which they failed.
    pub(super) failures: Vec<Span>,
    pub(super) left_out: LeftOut,
}

/// An image, and the times of its events.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) name: Arc<str>,
    /// When a proxy was first asked to open the image.
    pub(super) asked: Option<Duration>,
    /// The time at which the first proxy had opened the image.
    pub(super) opened: Option<Duration>,
    /// When the image was complete. `None` if it never was, or if it was pulled as a part of an index.
    pub(super) complete: Option<Duration>,
    /// The time at which the image failed, and the reason.
    pub(super) failed: Option<(Duration, String)>,
}

/// The parts of a pull that the picture does not show one by one, because the pull was too large.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    /// The number of proxies that have no lanes.
    pub(super) proxies: usize,
    /// The number of blobs and documents that are on no lane.
    pub(super) spans: usize,
    /// Neighbours on a lane that were together shorter than this were joined. Zero if none were.
    pub(super) joined_below: Duration,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) duration: Duration,
    /// The number of images that were asked for.
    pub(super) images: usize,
    pub(super) images_opened: usize,
    pub(super) images_pulled: usize,
    pub(super) images_failed: usize,
    /// The reason of the first image that failed for good, or of the first blob.
    pub(super) failure: Option<String>,
    /// The number of layers that were to be fetched, or found.
    pub(super) queued: usize,
    /// The number of layers that were fetched and verified, and their size in bytes.
    pub(super) fetched: usize,
    pub(super) fetched_bytes: u64,
    /// The number of layers that were there already.
    pub(super) reused: usize,
    /// The number of tries that failed.
    pub(super) failed_tries: usize,
    /// The number of proxies that were started, or took part.
    pub(super) proxies: usize,
    /// The highest number of blobs and documents in flight at the same time.
    pub(super) most_at_once: usize,
    /// The time of all blobs together that was spent in these phases.
    pub(super) wait: Duration,
    pub(super) receive: Duration,
    pub(super) stall: Duration,
    pub(super) store: Duration,
}

impl Totals {
    /// Whether everything that was asked for has come. An index is one pull of many images, so the numbers of
    /// images that were opened and pulled can differ.
    pub(super) fn is_complete(&self) -> bool {
        self.images_pulled > 0
            && self.images_opened == self.images
            && self.images_failed == 0
            && self.failure.is_none()
            && self.fetched + self.reused == self.queued
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) number: usize,
    pub(super) begin: Duration,
    /// The time of the first request to the proxy.
    pub(super) asked: Option<Duration>,
    /// When the proxy ended. `None` if it was there until the end.
    pub(super) end: Option<Duration>,
    /// Why the proxy ended, if something was wrong.
    pub(super) reason: Option<String>,
    /// The number of lanes: the highest number of spans at the same time.
    pub(super) lanes: usize,
}

/// One try to fetch a blob or a document, or several that were joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) proxy: usize,
    /// The lane within the proxy, zero-based. `None` if there was no space for it.
    pub(super) lane: Option<usize>,
    pub(super) image: Arc<str>,
    pub(super) what: What,
    pub(super) begin: Duration,
    /// The time at which the proxy answered the request for the blob, shortly after the registry's first byte.
    pub(super) answered: Option<Duration>,
    /// The time of the last byte so far.
    pub(super) last_byte: Option<Duration>,
    pub(super) end: Duration,
    /// The times in which bytes were expected and none came.
    pub(super) stalls: Vec<(Duration, Duration)>,
    /// The number of bytes that have come.
    pub(super) read: u64,
    /// The number of tries of this blob that had failed before.
    pub(super) failed_before: u32,
    pub(super) outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// The opening of an image, with its manifest.
    Manifest,
    Config,
    Layer {
        layer: usize,
        digest: Arc<str>,
        size: u64,
    },
    /// Spans that were joined, of which some may have failed.
    Several {
        count: usize,
        failed: usize,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Failed {
        reason: String,
        /// The wait before the next try. `None` if there is no next try, or if another proxy makes it.
        retry_after: Option<Duration>,
    },
    /// The pull, or a proxy that was no longer needed, ended first.
    Unfinished,
}

/// The activity of a worker during a part of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The image is opened, or its config fetched.
    Document,
    /// The blob was asked for, and no byte has come.
    Wait,
    Receive,
    Stall,
    /// All bytes have come. They are checked, and the sink stores them.
    Store,
    /// Spans that were joined.
    Several,
}

impl Span {
    pub(super) fn length(&self) -> Duration {
        self.end.saturating_sub(self.begin)
    }

    pub(super) fn has_failed(&self) -> bool {
        match (&self.what, &self.outcome) {
            (What::Several { failed, .. }, _) => *failed > 0,
            (_, outcome) => matches!(outcome, Outcome::Failed { .. }),
        }
    }

    /// The phases of the span, without empty ones. Each begins where the one before ends; the first begins
    /// with the span, and the last ends with it.
    pub(super) fn phases(&self) -> Vec<(Phase, Duration, Duration)> {
        let whole = match self.what {
            What::Several { .. } => Some(Phase::Several),
            What::Manifest | What::Config => Some(Phase::Document),
            What::Layer { .. } => None,
        };
        if let Some(phase) = whole {
            return vec![(phase, self.begin, self.end)];
        }
        let Some(answered) = self.answered else {
            return vec![(Phase::Wait, self.begin, self.end)];
        };
        let mut phases = vec![(Phase::Wait, self.begin, answered)];
        let received = if self.outcome == Outcome::Done {
            self.last_byte.unwrap_or(answered)
        } else {
            // Whether all bytes had come is not known.
            self.end
        };
        let mut at = answered;
        for (begin, end) in &self.stalls {
            phases.push((Phase::Receive, at, *begin));
            phases.push((Phase::Stall, *begin, *end));
            at = *end;
        }
        phases.push((Phase::Receive, at, received));
        phases.push((Phase::Store, received, self.end));
        phases.retain(|(_, begin, end)| begin < end);
        phases
    }
}
