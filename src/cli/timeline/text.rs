//! The sentences of the picture: title, totals, and what is known of a span.

use std::time::Duration;

use super::names::{of_span, shorten_middle, with_short_digests, without_transport};
use super::picture::{Outcome, Phase, Picture, Proxy, Span, Totals, What};
use super::scale::{duration, rate};
use crate::cli::format::{bytes, counted, short};

/// Returns the name of the image, or the number of images and the name of the first one.
pub(super) fn title(picture: &Picture) -> String {
    let mut names = picture
        .images
        .iter()
        .map(|image| without_transport(&image.name));
    let count = picture.totals.images;
    match (names.next(), count) {
        (None, _) => "A pull in which no image was opened".into(),
        (Some(name), 0 | 1) => shorten_middle(name, 90),
        (Some(name), count) => {
            let others = counted(count - 1, "other");
            format!("{count} images: {} and {others}", shorten_middle(name, 60))
        }
    }
}

/// Returns the totals of the pull, in one line.
pub(super) fn totals(picture: &Picture) -> String {
    let totals = &picture.totals;
    let mut parts = vec![format!(
        "{}, {} in {}",
        counted(totals.fetched, "layer"),
        bytes(totals.fetched_bytes),
        duration(totals.duration)
    )];
    if let Some(average) = average(totals) {
        parts.push(rate(average));
    }
    let proxies = match totals.proxies {
        1 => "1 proxy".into(),
        proxies => format!("{proxies} proxies"),
    };
    let most = totals.most_at_once;
    parts.push(format!(
        "{proxies}, at most {} at once",
        counted(most, "request")
    ));
    if totals.reused > 0 {
        parts.push(format!("{} already there", counted(totals.reused, "layer")));
    }
    match totals.failed_tries {
        0 => {}
        1 => parts.push("1 failed try".into()),
        tries => parts.push(format!("{tries} failed tries")),
    }
    parts.join(" · ")
}

/// Why the pull is not complete. `None` if it is.
pub(super) fn failure(picture: &Picture) -> Option<String> {
    let totals = &picture.totals;
    if totals.is_complete() {
        return None;
    }
    let last = picture.failures.last().and_then(reason);
    let reason = match (&totals.failure, last) {
        (Some(reason), _) => Some(with_short_digests(reason)),
        // The last failed try was to be retried, so it may not be the reason.
        (None, Some(last)) => Some(format!("the last failure was {}", with_short_digests(last))),
        (None, None) => None,
    };
    let what = match (totals.images, totals.images_failed) {
        (images, failed) if images > 1 && failed > 0 => {
            format!("{failed} of {images} images failed")
        }
        (images, _) if images > 1 => {
            format!("Not complete: {} of {images} images", totals.images_pulled)
        }
        _ => "Not complete".into(),
    };
    Some(match reason {
        Some(reason) => format!("{what}: {reason}"),
        None => what,
    })
}

pub(super) fn average(totals: &Totals) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
    let bytes = totals.fetched_bytes as f64;
    (bytes > 0.0 && !totals.duration.is_zero()).then(|| bytes / totals.duration.as_secs_f64())
}

/// Where the time of the blobs went. `None` if there was none.
pub(super) fn shares(totals: &Totals) -> Option<String> {
    let phases = [
        (totals.wait, "waiting for the first byte"),
        (totals.receive, "receiving"),
        (totals.stall, "stalled"),
        (totals.store, "verifying and storing"),
    ];
    let all: f64 = phases.iter().map(|(time, _)| time.as_secs_f64()).sum();
    let share = |(time, what): &(Duration, &str)| {
        let percent = time.as_secs_f64() / all * 100.0;
        (percent >= 0.5).then(|| format!("{percent:.0} % {what}"))
    };
    let shares: Vec<String> = phases.iter().filter_map(share).collect();
    (all > 0.0).then(|| format!("The time of all layers together: {}.", shares.join(", ")))
}

/// Why a span failed, if it did.
pub(super) fn reason(span: &Span) -> Option<&str> {
    match &span.outcome {
        Outcome::Failed { reason, .. } => Some(reason),
        Outcome::Done | Outcome::Unfinished => None,
    }
}

/// The reason why a layer failed, without the layer's digest.
pub(super) fn short_reason(reason: &str) -> String {
    let reason = with_short_digests(reason);
    let of_blob = reason.strip_prefix("blob ");
    match of_blob.and_then(|of_blob| of_blob.split_once(": ")) {
        Some((_, rest)) => rest.to_owned(),
        None => reason,
    }
}

/// All that is known of a span, one fact a line.
pub(super) fn of_span_in_full(span: &Span, several_images: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let name = of_span(span, false);
    lines.push(match &span.what {
        What::Layer { digest, size, .. } => {
            format!("{name} · {} · {}", bytes(*size), short(digest))
        }
        What::Several { failed: 0, .. } | What::Manifest | What::Config => name,
        What::Several { failed, .. } => format!("{name}, of which {failed} failed"),
    });
    let is_one = !matches!(span.what, What::Several { .. });
    if several_images && is_one {
        lines.push(without_transport(&span.image).to_owned());
    }
    lines.push(format!(
        "{} to {}: {}",
        duration(span.begin),
        duration(span.end),
        duration(span.length())
    ));
    if matches!(span.what, What::Layer { .. }) {
        lines.push(phases(span));
    }
    lines.push(match span.failed_before {
        0 => format!("proxy {}", span.proxy),
        failed => format!("proxy {}, try {}", span.proxy, failed + 1),
    });
    match &span.outcome {
        Outcome::Done => {}
        Outcome::Unfinished => lines.push("unfinished: the pull or the proxy ended first".into()),
        Outcome::Failed {
            reason,
            retry_after,
        } => {
            lines.push(format!("failed: {reason}"));
            if let Some(wait) = retry_after {
                lines.push(format!("retried after {}", duration(*wait)));
            }
        }
    }
    lines
}

/// How long each phase took: `wait 50 ms, receive 1.2 s`.
pub(super) fn phases(span: &Span) -> String {
    let mut sums: Vec<(&str, Duration)> = Vec::new();
    for (phase, begin, end) in span.phases() {
        let name = match phase {
            Phase::Document => "open",
            Phase::Wait => "wait",
            Phase::Receive => "receive",
            Phase::Stall => "stall",
            Phase::Store => "store",
            Phase::Several => "together",
        };
        let length = end.saturating_sub(begin);
        match sums.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += length,
            None => sums.push((name, length)),
        }
    }
    let texts = sums.iter();
    let texts = texts.map(|(name, length)| format!("{name} {}", duration(*length)));
    texts.collect::<Vec<_>>().join(", ")
}

/// The times of a proxy, one fact a line.
pub(super) fn of_proxy(proxy: &Proxy) -> Vec<String> {
    let mut lines = vec![format!("proxy {}", proxy.number)];
    lines.push(format!("started at {}", duration(proxy.begin)));
    lines.push(match proxy.asked {
        Some(asked) => format!("first asked at {}", duration(asked)),
        None => "asked for nothing".into(),
    });
    if let Some(end) = proxy.end {
        lines.push(match &proxy.reason {
            Some(reason) => format!("ended at {}: {reason}", duration(end)),
            None => format!("ended at {}, no longer needed", duration(end)),
        });
    }
    lines
}

/// Returns a line that names the parts that the picture does not show one by one. `None` if it shows all of them.
pub(super) fn left_out(picture: &Picture) -> Option<String> {
    let left_out = &picture.left_out;
    let mut parts = Vec::new();
    if !left_out.joined_below.is_zero() {
        let below = duration(left_out.joined_below);
        parts.push(format!(
            "tries that together took less than {below} are joined"
        ));
    }
    if left_out.proxies > 0 {
        parts.push(format!("proxies that are not shown: {}", left_out.proxies));
    }
    if left_out.spans > 0 {
        parts.push(format!("tries that are not shown: {}", left_out.spans));
    }
    (!parts.is_empty()).then(|| format!("A large pull: {}.", parts.join("; ")))
}
