//! The model: makes a [`Picture`] of what happens during a pull. Pure: the caller passes the time.
//!
//! The memory is bounded, however large the pull is. Not more than [`MAX_SPANS`] spans are kept: when there
//! are more, short neighbours on a lane are joined, and what is joined is counted. Proxies from the 257th on
//! and spans on a lane above the 64th of their proxy are only counted. The totals, the throughput and the
//! slowest blobs cover everything. For each complete image, the model keeps the number. For the first
//! [`MAX_NAMES`] images, it also keeps the name.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::join::join;
use super::picture::{Image, LeftOut, Outcome, Phase, Picture, Proxy, Span, Totals, What};
use super::throughput::Throughput;

/// The highest number of spans that are kept.
pub(super) const MAX_SPANS: usize = 16_384;

/// The highest number of proxies that have lanes.
pub(super) const MAX_PROXIES: usize = 256;

/// The highest number of lanes of a proxy.
pub(super) const MAX_LANES: usize = 64;

/// The highest number of images that are named.
pub(super) const MAX_NAMES: usize = 100;

/// The number of blobs that are kept as the slowest.
const SLOWEST: usize = 10;

/// The highest number of failed tries that are kept with their reasons.
const MAX_FAILURES: usize = 50;

/// The longest text of a reason, in characters.
const MAX_REASON_CHARS: usize = 400;

/// A time without bytes, while some are expected, that counts as a stall.
const STALL: Duration = Duration::from_secs(1);

/// The highest number of stalls of a span. Further ones are joined with the last.
const MAX_STALLS: usize = 8;

/// A layer of an image.
#[derive(Debug, Clone)]
pub(super) struct Layer<'a> {
    pub(super) image: usize,
    /// Zero-based; 0 is the base layer.
    pub(super) number: usize,
    pub(super) digest: &'a str,
    pub(super) size: u64,
}

/// A document of an image that a proxy is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Document {
    Manifest,
    Config,
}

/// The key of a running span. A blob is fetched by one proxy at a time.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    Blob(Arc<str>),
    Document(usize, usize, Document),
}

#[derive(Debug)]
pub(super) struct Model {
    /// The time since the beginning of the pull.
    now: Duration,
    /// The images that are neither complete nor failed, by their numbers.
    images: HashMap<usize, ImageEntry>,
    /// The numbers of all other images. A proxy may still be asked for their documents.
    ended_images: HashSet<usize>,
    rows: Vec<Image>,
    proxies: BTreeMap<usize, Track>,
    running: HashMap<Key, Span>,
    spans: Vec<Span>,
    /// The number of failed tries of blobs that have not come yet.
    failed: HashMap<Arc<str>, u32>,
    throughput: Throughput,
    totals: Totals,
    slowest: Vec<Span>,
    failures: Vec<Span>,
    left_out: LeftOut,
}

/// An image, and where it is among those that are named.
#[derive(Debug, Clone)]
struct ImageEntry {
    name: Arc<str>,
    row: Option<usize>,
    is_open: bool,
}

/// A proxy that is shown, and which of its lanes are in use.
#[derive(Debug)]
struct Track {
    proxy: Proxy,
    in_use: Vec<bool>,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            now: Duration::ZERO,
            images: HashMap::new(),
            ended_images: HashSet::new(),
            rows: Vec::new(),
            proxies: BTreeMap::new(),
            running: HashMap::new(),
            spans: Vec::new(),
            failed: HashMap::new(),
            throughput: Throughput::new(),
            totals: Totals::default(),
            slowest: Vec::new(),
            failures: Vec::new(),
            left_out: LeftOut::default(),
        }
    }

    pub(super) fn proxy_started(&mut self, at: Duration, proxy: usize) {
        self.advance_clock(at);
        self.track(proxy);
    }

    /// Records that a proxy has ended, and its running spans with it. Without a reason, the proxy was no longer needed.
    pub(super) fn proxy_ended(&mut self, at: Duration, proxy: usize, reason: Option<&str>) {
        self.advance_clock(at);
        let ended = self.running.extract_if(|_, span| span.proxy == proxy);
        let ended: Vec<(Key, Span)> = ended.collect();
        for (key, span) in ended {
            let outcome = reason.map_or(Outcome::Unfinished, |reason| failed(reason, None));
            self.end(&key, span, outcome);
        }
        if let Some(track) = self.proxies.get_mut(&proxy) {
            track.proxy.end = Some(at);
            track.proxy.reason = reason.map(shortened);
        }
    }

    pub(super) fn image_opened(&mut self, at: Duration, image: usize, reference: &str) {
        self.advance_clock(at);
        let entry = self.image_entry(image, reference);
        let row = entry.row;
        if !std::mem::replace(&mut entry.is_open, true) {
            self.totals.images_opened += 1;
        }
        if let Some(row) = row.and_then(|row| self.rows.get_mut(row)) {
            row.opened.get_or_insert(at);
        }
    }

    /// Records that an image is complete, or all images that were opened for this reference.
    pub(super) fn image_pulled(&mut self, at: Duration, image: usize, reference: &str) {
        self.advance_clock(at);
        self.totals.images_pulled += 1;
        let entry = self.images.get(&image).cloned();
        if let Some(ImageEntry { row, .. }) = entry.filter(|entry| &*entry.name == reference) {
            self.images.remove(&image);
            self.ended_images.insert(image);
            if let Some(row) = row.and_then(|row| self.rows.get_mut(row)) {
                row.complete = Some(at);
            }
        }
    }

    pub(super) fn image_failed(&mut self, at: Duration, image: usize, reference: &str, why: &str) {
        self.advance_clock(at);
        let row = self.image_entry(image, reference).row;
        self.images.remove(&image);
        self.ended_images.insert(image);
        self.totals.images_failed += 1;
        self.totals.failure.get_or_insert_with(|| shortened(why));
        if let Some(row) = row.and_then(|row| self.rows.get_mut(row)) {
            row.failed = Some((at, shortened(why)));
        }
    }

    pub(super) fn blob_queued(&mut self, at: Duration) {
        self.advance_clock(at);
        self.totals.queued += 1;
    }

    pub(super) fn document_requested(
        &mut self,
        at: Duration,
        proxy: usize,
        (image, reference): (usize, &str),
        document: Document,
    ) {
        self.advance_clock(at);
        let what = match document {
            Document::Manifest => What::Manifest,
            Document::Config => What::Config,
        };
        let (name, row) = if self.ended_images.contains(&image) {
            (reference.into(), None)
        } else {
            let entry = self.image_entry(image, reference);
            (Arc::clone(&entry.name), entry.row)
        };
        if let Some(row) = row.and_then(|row| self.rows.get_mut(row)) {
            row.asked.get_or_insert(at);
        }
        let key = Key::Document(proxy, image, document);
        self.begin(at, key, proxy, name, what);
    }

    pub(super) fn document_answered(
        &mut self,
        at: Duration,
        proxy: usize,
        image: usize,
        document: Document,
        error: Option<&str>,
    ) {
        self.advance_clock(at);
        let key = Key::Document(proxy, image, document);
        if let Some(span) = self.running.remove(&key) {
            let outcome = error.map_or(Outcome::Done, |error| failed(error, None));
            self.end(&key, span, outcome);
        }
    }

    pub(super) fn blob_requested(&mut self, at: Duration, proxy: usize, layer: &Layer) {
        self.advance_clock(at);
        let digest: Arc<str> = layer.digest.into();
        let what = What::Layer {
            layer: layer.number,
            digest: Arc::clone(&digest),
            size: layer.size,
        };
        let image = self.images.get(&layer.image);
        let name = image.map(|entry| Arc::clone(&entry.name));
        let key = Key::Blob(digest);
        self.begin(at, key, proxy, name.unwrap_or_default(), what);
    }

    pub(super) fn blob_answered(&mut self, at: Duration, digest: &str) {
        self.advance_clock(at);
        if let Some(span) = self.running.get_mut(&Key::Blob(digest.into())) {
            span.answered = Some(at);
            span.last_byte = Some(at);
        }
    }

    /// Records that this number of bytes of the blob has come in this try.
    pub(super) fn blob_bytes(&mut self, at: Duration, digest: &str, read: u64) {
        self.advance_clock(at);
        if let Some(span) = self.running.get_mut(&Key::Blob(digest.into())) {
            let bytes = read.saturating_sub(span.read);
            if bytes > 0 {
                record_stall(span, at);
                span.last_byte = Some(at);
                span.read = read;
                self.throughput.add(at, bytes);
            }
        }
    }

    pub(super) fn blob_verified(&mut self, at: Duration, digest: &str, size: u64) {
        // Byte counts may have been left out.
        self.blob_bytes(at, digest, size);
        self.totals.fetched += 1;
        self.totals.fetched_bytes = self.totals.fetched_bytes.saturating_add(size);
        self.failed.remove(digest);
        let key = Key::Blob(digest.into());
        if let Some(span) = self.running.remove(&key) {
            self.end(&key, span, Outcome::Done);
        }
    }

    pub(super) fn blob_reused(&mut self, at: Duration) {
        self.advance_clock(at);
        self.totals.reused += 1;
    }

    /// Records that a try failed. `retry_after` is `None` if that was the last try.
    pub(super) fn blob_failed(
        &mut self,
        at: Duration,
        digest: &str,
        reason: &str,
        retry_after: Option<Duration>,
    ) {
        self.advance_clock(at);
        let key = Key::Blob(digest.into());
        if let Some(span) = self.running.remove(&key) {
            self.end(&key, span, failed(reason, retry_after));
        }
        if retry_after.is_none() {
            self.failed.remove(digest);
            self.totals.failure.get_or_insert_with(|| shortened(reason));
        }
    }

    /// Ends the model at the end of the pull, with or without success, and returns the picture.
    pub(super) fn finish(mut self, at: Duration) -> Picture {
        self.advance_clock(at);
        let running: Vec<(Key, Span)> = self.running.drain().collect();
        for (key, span) in running {
            self.end(&key, span, Outcome::Unfinished);
        }
        self.totals.duration = self.now;
        self.spans
            .sort_by_key(|span| (span.proxy, span.lane, span.begin));
        Picture {
            images: self.rows,
            proxies: self
                .proxies
                .into_values()
                .map(|track| track.proxy)
                .collect(),
            spans: self.spans,
            throughput: self.throughput,
            totals: self.totals,
            slowest: self.slowest,
            failures: self.failures,
            left_out: self.left_out,
        }
    }

    fn advance_clock(&mut self, at: Duration) {
        // Events of several tasks may come a little out of order.
        self.now = self.now.max(at);
    }

    /// Returns the data of an image. A new image gets a name in the picture, if there are not too many names.
    fn image_entry(&mut self, image: usize, reference: &str) -> &mut ImageEntry {
        let Self {
            images,
            rows,
            totals,
            ..
        } = self;
        images.entry(image).or_insert_with(|| {
            totals.images += 1;
            let name: Arc<str> = reference.into();
            let row = (rows.len() < MAX_NAMES).then_some(rows.len());
            if row.is_some() {
                rows.push(Image {
                    name: Arc::clone(&name),
                    asked: None,
                    opened: None,
                    complete: None,
                    failed: None,
                });
            }
            ImageEntry {
                name,
                row,
                is_open: false,
            }
        })
    }

    /// The track of a proxy, which is made if there is none. `None` if there are too many proxies.
    fn track(&mut self, proxy: usize) -> Option<&mut Track> {
        if !self.proxies.contains_key(&proxy) {
            if self.proxies.len() >= MAX_PROXIES {
                // Proxies are numbered in the order of their start, so the highest number says how many are left out.
                self.left_out.proxies = self.left_out.proxies.max(proxy + 1 - MAX_PROXIES);
                self.totals.proxies = self.totals.proxies.max(proxy + 1);
                return None;
            }
            self.totals.proxies += 1;
            let track = Track {
                proxy: Proxy {
                    number: proxy,
                    begin: self.now,
                    asked: None,
                    end: None,
                    reason: None,
                    lanes: 0,
                },
                in_use: Vec::new(),
            };
            self.proxies.insert(proxy, track);
        }
        self.proxies.get_mut(&proxy)
    }

    fn begin(&mut self, at: Duration, key: Key, proxy: usize, image: Arc<str>, what: What) {
        // The blob failed at another proxy, and no event said so.
        if let Some(span) = self.running.remove(&key) {
            self.end(&key, span, failed("it was asked for again", None));
        }
        let lane = self.track(proxy).and_then(|track| {
            track.proxy.asked.get_or_insert(at);
            track.take_lane()
        });
        let failed_before = match &key {
            Key::Blob(digest) => self.failed.get(digest).copied().unwrap_or(0),
            Key::Document(..) => 0,
        };
        let span = Span {
            proxy,
            lane,
            image,
            what,
            begin: at,
            answered: None,
            last_byte: None,
            end: at,
            stalls: Vec::new(),
            read: 0,
            failed_before,
            outcome: Outcome::Unfinished,
        };
        self.running.insert(key, span);
        self.totals.most_at_once = self.totals.most_at_once.max(self.running.len());
    }

    fn end(&mut self, key: &Key, mut span: Span, outcome: Outcome) {
        span.end = self.now.max(span.begin);
        if outcome != Outcome::Done && span.answered.is_some() {
            let end = span.end;
            record_stall(&mut span, end);
        }
        span.outcome = outcome;
        if let Some(track) = self.proxies.get_mut(&span.proxy)
            && let Some(in_use) = span.lane.and_then(|lane| track.in_use.get_mut(lane))
        {
            *in_use = false;
        }
        self.count_phases(&span);
        if span.has_failed() {
            self.totals.failed_tries += 1;
            if let Key::Blob(digest) = key {
                *self.failed.entry(Arc::clone(digest)).or_default() += 1;
            }
            if self.failures.len() < MAX_FAILURES {
                self.failures.push(span.clone());
            }
        }
        if matches!(span.what, What::Layer { .. }) {
            self.compare_with_slowest(&span);
        }
        if span.lane.is_none() {
            self.left_out.spans += 1;
            return;
        }
        self.spans.push(span);
        if self.spans.len() > MAX_SPANS {
            self.left_out.joined_below =
                join(&mut self.spans, MAX_SPANS / 2, self.left_out.joined_below);
        }
    }

    fn count_phases(&mut self, span: &Span) {
        for (phase, begin, end) in span.phases() {
            let sum = match phase {
                Phase::Wait => &mut self.totals.wait,
                Phase::Receive => &mut self.totals.receive,
                Phase::Stall => &mut self.totals.stall,
                Phase::Store => &mut self.totals.store,
                Phase::Document | Phase::Several => continue,
            };
            *sum = sum.saturating_add(end.saturating_sub(begin));
        }
    }

    fn compare_with_slowest(&mut self, span: &Span) {
        let place = self
            .slowest
            .partition_point(|slower| slower.length() >= span.length());
        if place < SLOWEST {
            self.slowest.insert(place, span.clone());
            self.slowest.truncate(SLOWEST);
        }
    }
}

impl Track {
    /// Takes the lowest lane that is free. `None` if too many are in use.
    fn take_lane(&mut self) -> Option<usize> {
        let free = self.in_use.iter().position(|in_use| !in_use);
        let lane = match free {
            Some(lane) => lane,
            None if self.in_use.len() < MAX_LANES => {
                self.in_use.push(false);
                self.in_use.len() - 1
            }
            None => return None,
        };
        self.in_use[lane] = true;
        self.proxy.lanes = self.in_use.len();
        Some(lane)
    }
}

/// Records a stall if bytes were expected and none came until this time, for [`STALL`] or longer.
fn record_stall(span: &mut Span, until: Duration) {
    let Some(since) = span.last_byte else {
        return;
    };
    if until.saturating_sub(since) < STALL {
        return;
    }
    let is_full = span.stalls.len() >= MAX_STALLS;
    match span.stalls.last_mut() {
        Some(last) if is_full => last.1 = until,
        _ => span.stalls.push((since, until)),
    }
}

fn failed(reason: &str, retry_after: Option<Duration>) -> Outcome {
    Outcome::Failed {
        reason: shortened(reason),
        retry_after,
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_REASON_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
