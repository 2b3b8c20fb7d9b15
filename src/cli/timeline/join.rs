//! Joins short neighbours on a lane, so that fewer spans are kept.

use std::time::Duration;

use super::picture::{Outcome, Span, What};

/// The first threshold: neighbours that together are shorter than this are joined.
const FIRST_THRESHOLD: Duration = Duration::from_millis(1);

/// Joins neighbours on a lane that together are shorter than a limit. The limit is doubled until at most `most` spans
/// are left, or one on each lane. Returns the limit, with which the next call begins.
pub(super) fn join(spans: &mut Vec<Span>, most: usize, joined_below: Duration) -> Duration {
    spans.sort_by_key(|span| (span.proxy, span.lane, span.begin));
    let lanes = spans.chunk_by(on_same_lane).count();
    let mut threshold = joined_below;
    while spans.len() > most.max(lanes) {
        threshold = threshold.saturating_mul(2).max(FIRST_THRESHOLD);
        *spans = join_below(spans.drain(..), threshold);
    }
    threshold
}

/// Joins neighbours on a lane that are together shorter than this. The spans must be in order of their lanes
/// and of time.
pub(super) fn join_below(spans: impl IntoIterator<Item = Span>, threshold: Duration) -> Vec<Span> {
    let mut joined: Vec<Span> = Vec::new();
    for span in spans {
        match joined.last_mut() {
            Some(last)
                if on_same_lane(last, &span) && span.end.saturating_sub(last.begin) < threshold =>
            {
                add(last, &span);
            }
            _ => joined.push(span),
        }
    }
    joined
}

fn on_same_lane(one: &Span, other: &Span) -> bool {
    (one.proxy, one.lane) == (other.proxy, other.lane)
}

fn add(span: &mut Span, next: &Span) {
    let [(count, failed), (more, more_failed)] = [&*span, next].map(counts);
    span.what = What::Several {
        count: count + more,
        failed: failed + more_failed,
    };
    span.end = next.end.max(span.end);
    span.read = span.read.saturating_add(next.read);
    span.stalls = Vec::new();
    span.outcome = Outcome::Done;
}

/// How many spans this one stands for, and how many of them failed.
fn counts(span: &Span) -> (usize, usize) {
    match span.what {
        What::Several { count, failed } => (count, failed),
        _ => (1, usize::from(span.has_failed())),
    }
}
