//! A pull in lines of text, for a log. Pure.

use std::collections::HashMap;
use std::time::Duration;

use longshore::oci_spec::image::Digest;
use longshore::{BlobRef, EventKind, printable};

use super::state::{LONG_PAUSE, Progress};
use crate::cli::format::{bytes, counted, plain, seconds, short};

/// The least time between two lines with the total, at first. A long pull prints its total less often.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);

/// The number of lines with the total after which the interval is ten times as long.
const FREQUENT_LINES: u32 = 10;

/// A blob that has received no byte for this long is reported. The report is repeated at this interval until
/// a byte comes.
const STALL_INTERVAL: Duration = Duration::from_secs(10);

/// The lines of the log: decides which lines are printed, and when.
#[derive(Debug)]
pub(super) struct Lines {
    /// Whether each layer gets a line.
    pub(super) is_verbose: bool,
    /// How often a blob is retried.
    pub(super) retries: u32,
    last_total: Duration,
    totals: u32,
    /// The number of times that each blob without a byte was reported.
    stall_reports: HashMap<Digest, u32>,
    /// The number of times that requests without an answer were reported.
    unanswered: u32,
    /// The reason in the last warning that had one.
    last_reason: String,
}

impl Lines {
    pub(super) fn new(is_verbose: bool, retries: u32) -> Self {
        Self {
            is_verbose,
            retries,
            last_total: Duration::ZERO,
            totals: 0,
            stall_reports: HashMap::new(),
            unanswered: 0,
            last_reason: String::new(),
        }
    }

    /// Returns a reason for a warning about a blob or a registry. If it is that of the last warning, it is not repeated:
    /// a registry in trouble refuses many blobs.
    fn reason(&mut self, reason: &str) -> String {
        let reason = plain(reason);
        // The line names the blob already, if one is concerned.
        let of_blob = reason
            .strip_prefix("blob ")
            .and_then(|rest| rest.split_once(": "));
        let reason = of_blob.map_or(&*reason, |(_, reason)| reason);
        if self.last_reason == reason {
            return "as before".into();
        }
        self.last_reason = reason.into();
        reason.into()
    }

    /// Returns the line for an event. `None` if the event gets no line. `progress` contains the event already.
    pub(super) fn of_event(&mut self, progress: &Progress, event: &EventKind) -> Option<String> {
        match event {
            EventKind::ImageOpened {
                reference,
                digest,
                layers,
                ..
            } => {
                let reference = printable(reference);
                let layers = counted(*layers, "layer");
                Some(format!("{reference}: {digest}, {layers}"))
            }
            EventKind::BlobReused { blob, .. } if self.is_verbose => {
                Some(line(progress, "reused ", blob))
            }
            EventKind::BlobVerified { blob, .. } if self.is_verbose => {
                Some(line(progress, "fetched", blob))
            }
            _ => self.warning(progress, event),
        }
    }

    /// Returns the line about something that went wrong and does not end the pull.
    pub(super) fn warning(&mut self, progress: &Progress, event: &EventKind) -> Option<String> {
        let retries = self.retries;
        match event {
            EventKind::BlobRetried {
                blob,
                failed,
                reason,
                wait,
                ..
            } => {
                let (digest, reason) = (short(blob.digest.as_ref()), self.reason(reason));
                let when = match wait.as_secs_f64() {
                    0.0 => "now".to_owned(),
                    wait => format!("in {wait:.1} s"),
                };
                Some(format!(
                    "  {digest}: retry {failed} of {retries} {when}: {reason}"
                ))
            }
            EventKind::RegistryPaused {
                registry,
                wait,
                reason,
                ..
            } if *wait >= LONG_PAUSE => {
                let (registry, reason) = (printable(registry), self.reason(reason));
                let wait = wait.as_secs_f64();
                Some(format!(
                    "  a request to {registry} failed; the next one in {wait:.1} s: {reason}"
                ))
            }
            EventKind::RegistryThrottled {
                registry, proxies, ..
            } => {
                let registry = printable(registry);
                let proxies = match proxies {
                    1 => "1 proxy".to_owned(),
                    proxies => format!("{proxies} proxies"),
                };
                Some(format!(
                    "  {registry} answers late, as if it limited requests; {proxies} at most from now on"
                ))
            }
            // If only one image was requested, its failure ends the command, which prints the failure.
            EventKind::ImageFailed {
                reference, reason, ..
            } if progress.requested > 1 => {
                let (reference, reason) = (printable(reference), plain(reason));
                Some(format!("  failed: {reference}: {reason}"))
            }
            _ => None,
        }
    }

    /// Returns the lines that are due at this time: the total, and blobs without a byte.
    pub(super) fn due(&mut self, progress: &Progress, now: Duration) -> Vec<String> {
        let mut lines = Vec::new();
        let (stall_reports, running) = (&mut self.stall_reports, &progress.running);
        stall_reports.retain(|digest, _| running.iter().any(|of| of.blob.digest == *digest));
        for running in running {
            let time = now.saturating_sub(running.last_byte);
            let count = stall_reports
                .entry(running.blob.digest.clone())
                .or_default();
            if time < STALL_INTERVAL {
                *count = 0;
            } else if time >= STALL_INTERVAL * (*count + 1) {
                *count += 1;
                let digest = short(running.blob.digest.as_ref());
                let (time, read) = (seconds(time), bytes(running.read));
                lines.push(format!("  {digest}: no byte for {time}, after {read}"));
            }
        }
        match progress.unanswered(now) {
            Some((count, time)) if time >= STALL_INTERVAL => {
                if time >= STALL_INTERVAL * (self.unanswered + 1) {
                    self.unanswered += 1;
                    let (requests, time) = (counted(count, "request"), seconds(time));
                    lines.push(format!("  no answer for {time} ({requests})"));
                }
            }
            _ => self.unanswered = 0,
        }
        let interval = match self.totals {
            ..FREQUENT_LINES => FIRST_INTERVAL,
            _ => FIRST_INTERVAL * 10,
        };
        if !progress.is_opening() && now.saturating_sub(self.last_total) >= interval {
            self.last_total = now;
            self.totals += 1;
            lines.push(total(progress));
        }
        lines
    }
}

fn line(progress: &Progress, what: &str, blob: &BlobRef) -> String {
    let Progress { done, blobs, .. } = progress;
    let (digest, size) = (short(blob.digest.as_ref()), bytes(blob.size));
    format!("  [{done}/{blobs}] {what} {digest} {size}")
}

fn total(progress: &Progress) -> String {
    let mut parts = vec![format!(
        "{} of {}",
        bytes(progress.bytes()),
        bytes(progress.total_bytes)
    )];
    if progress.requested > 1 {
        let images = counted(progress.requested, "image");
        parts.push(format!("{} of {images}", progress.pulled));
    }
    let layers = counted(progress.blobs, "layer");
    parts.push(format!("{} of {layers}", progress.done));
    parts.extend(progress.rate().map(|rate| format!("{}/s", bytes(rate))));
    parts.extend(
        progress
            .remaining()
            .map(|left| format!("{} left", seconds(left))),
    );
    format!("  {:>3} %  {}", progress.percent(), parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::state::tests::blob;
    use super::*;

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn a_long_pull_reports_its_progress() {
        let mut progress = Progress::of(1);
        let mut lines = Lines::new(false, 4);
        assert_eq!(lines.due(&progress, at(5)), [""; 0], "nothing is known yet");
        progress.opened = 1;
        let large = blob(7, 2_000_000);
        progress.queue(large.size);
        progress.start(at(5), large.clone());
        let mut printed = Vec::new();
        for tenth in 50..=600 {
            let now = Duration::from_millis(tenth * 100);
            progress.read(now, &large.digest, tenth * 1_000);
            progress.sample(now);
            printed.extend(lines.due(&progress, now));
        }
        assert_eq!(printed[0], "    2 %  50.0 kB of 2.0 MB, 0 of 1 layer");
        assert_eq!(
            printed[1],
            "    3 %  60.0 kB of 2.0 MB, 0 of 1 layer, 10.0 kB/s"
        );
        assert_eq!(
            printed[3],
            "    4 %  80.0 kB of 2.0 MB, 0 of 1 layer, 10.0 kB/s, 3 min 12 s left"
        );
        // 10 lines, one a second, and then one each ten seconds.
        assert_eq!(printed.len(), 14, "{printed:#?}");
    }

    #[test]
    fn a_stalled_blob_is_reported_repeatedly() {
        let mut progress = Progress::of(1);
        let mut lines = Lines::new(false, 4);
        let stalled = blob(7, 2_000_000);
        progress.start(at(0), stalled.clone());
        progress.read(at(1), &stalled.digest, 1_000);
        let mut printed = Vec::new();
        for second in 0..=35 {
            printed.extend(lines.due(&progress, at(second)));
        }
        assert_eq!(
            printed,
            [
                "  070707070707: no byte for 10 s, after 1.0 kB",
                "  070707070707: no byte for 20 s, after 1.0 kB",
                "  070707070707: no byte for 30 s, after 1.0 kB",
            ]
        );
        progress.read(at(36), &stalled.digest, 2_000);
        assert_eq!(lines.due(&progress, at(36)), [""; 0]);
        let again = lines.due(&progress, at(46));
        assert_eq!(again, ["  070707070707: no byte for 10 s, after 2.0 kB"]);
    }

    #[test]
    fn the_reason_of_the_last_warning_is_not_repeated() {
        let mut lines = Lines::new(false, 4);
        let printed = [
            "blob sha256:01: fetching blob: status 503",
            "blob sha256:02: fetching blob: status 503",
            "fetching blob: status 503",
            "blob sha256:02: stalled: no byte for 60 s, after 0 bytes",
            "blob sha256:01: fetching blob: status 503",
        ]
        .map(|reason| lines.reason(reason));
        let expected = [
            "fetching blob: status 503",
            "as before",
            "as before",
            "stalled: no byte for 60 s, after 0 bytes",
            "fetching blob: status 503",
        ];
        assert_eq!(printed, expected);
    }

    #[test]
    fn unanswered_requests_are_reported_repeatedly() {
        let mut progress = Progress::of(1);
        let mut lines = Lines::new(false, 4);
        progress.ask_for(blob(7, 1), at(1));
        progress.ask_for(blob(8, 1), at(5));
        let mut printed = Vec::new();
        for second in 0..=25 {
            printed.extend(lines.due(&progress, at(second)));
        }
        let expected = [
            "  no answer for 10 s (2 requests)",
            "  no answer for 20 s (2 requests)",
        ];
        assert_eq!(printed, expected);
        progress.start(at(26), blob(7, 1));
        assert_eq!(lines.due(&progress, at(26)), [""; 0]);
    }
}
