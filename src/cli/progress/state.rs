//! The state of a running pull, made of its events only. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use longshore::oci_spec::image::Digest;
use longshore::{BlobRef, DocumentKind, EventKind};

use crate::cli::format::per_second;

/// The time over which the rate is measured.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// The time over which the rate is measured before it tells how long the rest takes. At first, few transfers have begun.
const LEAST_TIME_FOR_ESTIMATE: Duration = Duration::from_secs(3);

/// The least time between two samples of the rate.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

/// A shorter pause of a registry is not reported. The blobs that were refused have their own lines.
pub(super) const LONG_PAUSE: Duration = Duration::from_secs(1);

/// A blob of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blob {
    /// The number of the image.
    pub(super) image: usize,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

impl From<&BlobRef> for Blob {
    fn from(blob: &BlobRef) -> Self {
        Self {
            image: blob.image,
            digest: blob.digest.clone(),
            size: blob.size,
        }
    }
}

/// A blob that is being fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) blob: Blob,
    /// The bytes that have come in this try.
    pub(super) read: u64,
    /// The time of the last byte, or of the start.
    pub(super) last_byte: Duration,
}

/// The size of the layers that a pull has not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::cli) struct Unwritten {
    pub(in crate::cli) bytes: u64,
    /// Whether `bytes` includes all images. It does not if images were still to be opened.
    pub(in crate::cli) is_all: bool,
}

/// Something that a proxy was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Request {
    Document(usize, DocumentKind),
    Blob(Digest),
}

/// A request that is not answered yet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unanswered {
    request: Request,
    proxy: usize,
    since: Duration,
}

/// A registry that nobody asks until this time, because it has refused a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pause {
    pub(super) registry: String,
    pub(super) until: Duration,
}

/// The state of a pull. Times are counted from its start.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The number of images that were asked for.
    pub(super) requested: usize,
    pub(super) opened: usize,
    pub(super) pulled: usize,
    pub(super) failed: usize,
    /// Whether a blob was to be fetched at any time.
    has_blobs: bool,
    /// The number of blobs of the pull, and of those that are complete. Both include blobs that the
    /// destination had already.
    pub(super) blobs: usize,
    pub(super) done: usize,
    /// The size of all blobs, and of those that are complete.
    pub(super) total_bytes: u64,
    done_bytes: u64,
    /// The size of the blobs that the destination had already.
    reused_bytes: u64,
    /// The size of the blobs that failed for good.
    failed_bytes: u64,
    /// The blobs that are being fetched, oldest first.
    pub(super) running: Vec<Running>,
    pub(super) retries: usize,
    unanswered: Vec<Unanswered>,
    pauses: Vec<Pause>,
    samples: VecDeque<(Duration, u64)>,
}

impl Progress {
    pub(super) fn of(requested: usize) -> Self {
        Self {
            requested,
            ..Self::default()
        }
    }

    /// Takes an event that came at this time.
    pub(super) fn take(&mut self, now: Duration, event: &EventKind) {
        match event {
            EventKind::ImageOpened { .. } => self.opened += 1,
            EventKind::ImagePulled { .. } => self.pulled += 1,
            EventKind::ImageFailed { .. } => self.failed += 1,
            EventKind::DocumentRequested {
                image,
                document,
                proxy,
                ..
            } => self.ask(now, Request::Document(*image, *document), *proxy),
            EventKind::DocumentAnswered {
                image,
                document,
                proxy,
                ..
            } => {
                let request = Request::Document(*image, *document);
                self.unanswered
                    .retain(|of| of.request != request || of.proxy != *proxy);
            }
            EventKind::ProxyEnded { proxy, .. } => {
                self.unanswered.retain(|of| of.proxy != *proxy);
            }
            EventKind::RegistryPaused { registry, wait, .. } if *wait >= LONG_PAUSE => {
                self.pause(registry, now.saturating_add(*wait));
            }
            EventKind::BlobQueued { blob, .. } => self.queue(blob.size),
            EventKind::BlobRequested { blob, proxy, .. } => {
                self.ask(now, Request::Blob(blob.digest.clone()), *proxy);
            }
            EventKind::BlobOpened { blob, .. } => self.start(now, blob.into()),
            EventKind::BlobBytes { blob, read, .. } => self.read(now, &blob.digest, *read),
            EventKind::BlobReused { blob, .. } => {
                self.reused_bytes = self.reused_bytes.saturating_add(blob.size);
                self.complete(&blob.into());
            }
            EventKind::BlobVerified { blob, .. } => self.complete(&blob.into()),
            EventKind::BlobRetried { blob, .. } => {
                self.retries += 1;
                self.stop(&blob.digest);
            }
            EventKind::BlobFailed { blob, .. } => {
                self.stop(&blob.digest);
                self.blobs = self.blobs.saturating_sub(1);
                self.total_bytes = self.total_bytes.saturating_sub(blob.size);
                self.failed_bytes = self.failed_bytes.saturating_add(blob.size);
            }
            _ => {}
        }
    }

    pub(super) fn queue(&mut self, size: u64) {
        self.has_blobs = true;
        self.blobs += 1;
        self.total_bytes = self.total_bytes.saturating_add(size);
    }

    pub(super) fn start(&mut self, now: Duration, blob: Blob) {
        // A blob that could not be fetched from one image is fetched from another one.
        self.stop(&blob.digest);
        self.running.push(Running {
            blob,
            read: 0,
            last_byte: now,
        });
    }

    pub(super) fn read(&mut self, now: Duration, digest: &Digest, read: u64) {
        let mut running = self.running.iter_mut();
        if let Some(running) = running.find(|of| of.blob.digest == *digest) {
            running.read = read;
            running.last_byte = now;
        }
    }

    pub(super) fn complete(&mut self, blob: &Blob) {
        self.stop(&blob.digest);
        self.done += 1;
        self.done_bytes = self.done_bytes.saturating_add(blob.size);
    }

    fn stop(&mut self, digest: &Digest) {
        self.running
            .retain(|running| running.blob.digest != *digest);
        let is_other = |of: &Unanswered| !matches!(&of.request, Request::Blob(of) if of == digest);
        self.unanswered.retain(is_other);
    }

    /// Records that a proxy is asked for something.
    fn ask(&mut self, now: Duration, request: Request, proxy: usize) {
        if let Request::Blob(digest) = &request {
            // A blob that could not be fetched from one image is requested from another one.
            self.stop(digest);
        }
        self.unanswered.push(Unanswered {
            request,
            proxy,
            since: now,
        });
    }

    /// The number of requests without an answer, and for how long the oldest of them waits. `None` if there are none.
    pub(super) fn unanswered(&self, now: Duration) -> Option<(usize, Duration)> {
        let since = self.unanswered.iter().map(|of| of.since).min()?;
        Some((self.unanswered.len(), now.saturating_sub(since)))
    }

    pub(super) fn pause(&mut self, registry: &str, until: Duration) {
        self.pauses.retain(|pause| pause.registry != registry);
        let registry = registry.to_owned();
        self.pauses.push(Pause { registry, until });
    }

    /// The registries that nobody asks now.
    pub(super) fn pauses(&self, now: Duration) -> impl Iterator<Item = &Pause> {
        self.pauses.iter().filter(move |pause| pause.until > now)
    }

    /// Whether no image is open yet, or the blobs of the open images are not known yet.
    pub(super) fn is_opening(&self) -> bool {
        self.opened == 0 || !self.has_blobs && self.pulled == 0
    }

    /// The bytes that are there: those of complete blobs, and of the blobs that are being fetched.
    pub(super) fn bytes(&self) -> u64 {
        let running = self.running.iter().map(|running| running.read);
        running.fold(self.done_bytes, u64::saturating_add)
    }

    /// The size of the blobs that are not complete in the destination. A blob that is being fetched counts as a whole,
    /// because the next pull fetches it from its start.
    pub(super) fn unwritten(&self) -> Unwritten {
        let wanted = self.total_bytes.saturating_add(self.failed_bytes);
        Unwritten {
            bytes: wanted.saturating_sub(self.done_bytes),
            is_all: self.opened + self.failed >= self.requested,
        }
    }

    /// How much of the bytes is there, from 0 to 100.
    pub(super) fn percent(&self) -> u64 {
        percent(self.bytes(), self.total_bytes)
    }

    /// Records how many bytes have come so far, for [`rate`](Self::rate).
    pub(super) fn sample(&mut self, now: Duration) {
        let is_due = |(last, _): &(Duration, u64)| now.saturating_sub(*last) >= SAMPLE_INTERVAL;
        if self.samples.back().is_none_or(is_due) {
            let fetched = self.bytes().saturating_sub(self.reused_bytes);
            self.samples.push_back((now, fetched));
        }
        // One sample that is older than the window stays, so that the window is always full.
        while let Some((next, _)) = self.samples.get(1)
            && now.saturating_sub(*next) >= RATE_WINDOW
        {
            self.samples.pop_front();
        }
    }

    /// The bytes per second over the last seconds. `None` if too little time has passed.
    pub(super) fn rate(&self) -> Option<u64> {
        let ((first, from), (last, to)) = (self.samples.front()?, self.samples.back()?);
        per_second(to.saturating_sub(*from), last.saturating_sub(*first))
    }

    /// The time until all is there, at the present rate. `None` while images are still to be opened, while the rate is
    /// new, unknown or 0, and if nothing is missing.
    pub(super) fn remaining(&self) -> Option<Duration> {
        let ((first, _), (last, _)) = (self.samples.front()?, self.samples.back()?);
        if last.saturating_sub(*first) < LEAST_TIME_FOR_ESTIMATE {
            return None;
        }
        let rate = self.rate().filter(|rate| *rate > 0)?;
        let missing = self.total_bytes.saturating_sub(self.bytes());
        let is_known = self.opened + self.failed >= self.requested && missing > 0;
        is_known.then(|| Duration::from_secs(missing.div_ceil(rate)))
    }
}

/// How much of the whole a part is, from 0 to 100. Only the whole is 100.
pub(super) fn percent(part: u64, whole: u64) -> u64 {
    if part >= whole {
        return 100;
    }
    let percent = u128::from(part) * 100 / u128::from(whole);
    u64::try_from(percent).unwrap_or(100)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A blob whose digest begins with this number.
    pub(in super::super) fn blob(number: u8, size: u64) -> Blob {
        let digest = format!("sha256:{}", format!("{number:02x}").repeat(32));
        Blob {
            image: 0,
            digest: digest.parse().expect("a digest"),
            size,
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    impl Progress {
        /// Records that a proxy is asked for this blob.
        pub(in super::super) fn ask_for(&mut self, blob: Blob, now: Duration) {
            self.ask(now, Request::Blob(blob.digest), 0);
        }
    }

    #[test]
    fn bytes_of_running_and_complete_blobs_are_counted() {
        let mut progress = Progress::of(1);
        progress.opened = 1;
        let (a, b) = (blob(1, 100), blob(2, 300));
        progress.queue(a.size);
        progress.queue(b.size);
        assert_eq!(progress.percent(), 0);
        progress.start(SECOND, a.clone());
        progress.start(SECOND, b.clone());
        progress.read(SECOND, &a.digest, 50);
        progress.read(SECOND, &b.digest, 149);
        assert_eq!((progress.bytes(), progress.percent()), (199, 49));
        progress.complete(&a);
        assert_eq!((progress.bytes(), progress.done), (249, 1));
        // A try that failed starts at zero.
        progress.stop(&b.digest);
        assert_eq!(progress.bytes(), 100);
        progress.start(SECOND, b.clone());
        progress.complete(&b);
        assert_eq!((progress.percent(), progress.running.len()), (100, 0));
    }

    #[test]
    fn images_are_being_opened_until_blobs_are_known() {
        let mut progress = Progress::of(1);
        assert!(progress.is_opening());
        progress.opened = 1;
        assert!(progress.is_opening(), "its config is asked for");
        progress.queue(0);
        assert!(!progress.is_opening());
        let mut empty = Progress::of(1);
        (empty.opened, empty.pulled) = (1, 1);
        assert!(!empty.is_opening(), "it has no layers");
    }

    #[test]
    fn requests_wait_until_they_are_answered_or_their_proxy_ends() {
        let mut progress = Progress::of(1);
        let at = Duration::from_secs;
        assert_eq!(progress.unanswered(at(9)), None);
        let manifest = Request::Document(0, DocumentKind::Manifest);
        progress.ask(at(1), manifest, 0);
        let (a, b) = (blob(1, 100), blob(2, 100));
        progress.ask(at(2), Request::Blob(a.digest.clone()), 1);
        progress.ask(at(3), Request::Blob(b.digest.clone()), 1);
        assert_eq!(progress.unanswered(at(9)), Some((3, at(8))));
        // The same blob again is no other request.
        progress.ask(at(4), Request::Blob(a.digest.clone()), 2);
        assert_eq!(progress.unanswered(at(9)), Some((3, at(8))));
        progress.unanswered.retain(|of| of.proxy != 0);
        assert_eq!(progress.unanswered(at(9)), Some((2, at(6))));
        progress.start(at(5), b);
        progress.complete(&a);
        assert_eq!(progress.unanswered(at(9)), None);
    }

    #[test]
    fn a_pause_ends_at_its_time() {
        let mut progress = Progress::of(1);
        let at = Duration::from_secs;
        progress.pause("a", at(3));
        progress.pause("b", at(4));
        progress.pause("a", at(5));
        let registries = |now| {
            let pauses = progress.pauses(at(now));
            pauses.map(|pause| &*pause.registry).collect::<String>()
        };
        assert_eq!(registries(3), "ba");
        assert_eq!(registries(4), "a");
        assert_eq!(registries(5), "");
    }

    #[test]
    fn incomplete_blobs_count_as_unwritten() {
        let mut progress = Progress::of(2);
        progress.opened = 1;
        let (a, b) = (blob(1, 100), blob(2, 300));
        progress.queue(a.size);
        progress.queue(b.size);
        progress.start(SECOND, b.clone());
        progress.read(SECOND, &b.digest, 200);
        progress.complete(&a);
        let unwritten = |bytes, is_all| Unwritten { bytes, is_all };
        assert_eq!(progress.unwritten(), unwritten(300, false));
        progress.opened = 2;
        assert_eq!(progress.unwritten(), unwritten(300, true));
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut progress = Progress::of(1);
        progress.opened = 1;
        let large = blob(1, 1_000_000);
        progress.queue(large.size);
        progress.start(Duration::ZERO, large.clone());
        progress.sample(Duration::ZERO);
        assert_eq!(progress.rate(), None);
        for second in 1..=20 {
            // 1,000 bytes a second, and then 10,000.
            let read = if second <= 10 {
                second * 1_000
            } else {
                second * 10_000 - 90_000
            };
            let now = Duration::from_secs(second);
            progress.read(now, &large.digest, read);
            progress.sample(now);
            let expected = match second {
                ..=10 => 1_000,
                11..=14 => continue,
                _ => 10_000,
            };
            assert_eq!(progress.rate(), Some(expected), "{second}");
        }
        assert_eq!(progress.remaining(), Some(Duration::from_secs(89)));
        progress.requested = 2;
        assert_eq!(progress.remaining(), None, "another image is to be opened");
    }

    #[test]
    fn only_the_whole_is_100_percent() {
        let table = [
            (0, 0, 100),
            (0, 1, 0),
            (999, 1_000, 99),
            (5, 5, 100),
            (6, 5, 100),
        ];
        for (part, whole, expected) in table {
            assert_eq!(percent(part, whole), expected, "{part}/{whole}");
        }
        assert_eq!(percent(u64::MAX - 1, u64::MAX), 99);
    }
}
