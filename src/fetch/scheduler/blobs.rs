//! The state of each blob.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{BlobId, HostId, ImageId, SourceId, UnitId, Wanted};

/// How many small blobs follow a large one. The transfer of a large blob keeps the processors busy while the
/// calls for small blobs wait for the registry. The largest blobs still start early, so that none of them
/// ends last. docs/decisions.md compares this with strict size order.
const SMALL_PER_LARGE: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    /// Outside the window, or not ready to be asked for.
    NotReady,
    Ready,
    /// Not to be asked for before this time.
    Delayed(Instant),
    Given,
    Done,
}

/// Digest, size and copy of a blob. The size is included so that an image which names a wrong size does no
/// harm to others.
type Key = (String, u64, usize);

#[derive(Debug, Clone, Hash)]
pub(super) struct Blob {
    key: Key,
    pub(super) size: u64,
    /// The host whose backlog counts this blob. An image of this host names it.
    pub(super) host: HostId,
    /// The images that name this blob.
    pub(super) images: Vec<ImageId>,
    /// The sources of these images, each once.
    pub(super) sources: Vec<SourceId>,
    pub(super) failed: u32,
    /// Whether the blob is asked for only through an image that names it.
    pub(super) is_restricted: bool,
    /// The unit at which the last try failed.
    pub(super) failed_at: Option<UnitId>,
    pub(super) is_to_ask: bool,
    state: State,
}

impl Blob {
    #[cfg(test)]
    pub(super) fn digest(&self) -> &str {
        &self.key.0
    }
}

/// The result of [`Blobs::add`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Added {
    pub(super) blob: BlobId,
    pub(super) is_new: bool,
    pub(super) is_done: bool,
    /// The host whose backlog counted the blob before, if it is another one now.
    pub(super) moved_from: Option<HostId>,
}

/// A blob that was still to be asked for, and has moved from the backlog of the host `from`.
#[derive(Debug, Clone, Copy)]
pub(super) struct BacklogMove {
    pub(super) from: HostId,
    /// The host whose backlog counts the blob now.
    pub(super) to: Option<HostId>,
    pub(super) size: u64,
}

/// How the amount that is still to be asked for has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BacklogChange {
    Same,
    More(HostId, u64),
    Less(HostId, u64),
}

/// The blobs of one source that can be asked for now, ordered by size. Among equal sizes, those with the
/// fewest sources come first, because a blob with several sources can also be asked for elsewhere.
type ReadyBlobs = BTreeSet<(u64, usize, BlobId)>;

#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Blobs {
    all: BTreeMap<BlobId, Blob>,
    known: BTreeMap<Key, BlobId>,
    next: usize,
    /// The ready blobs of each source, without the restricted ones. A source without any has no entry.
    ready: BTreeMap<SourceId, ReadyBlobs>,
    ready_count: usize,
    /// The ready blobs that may be asked for only through an image that names them.
    pub(super) restricted: BTreeSet<BlobId>,
    delayed: BTreeSet<(Instant, BlobId)>,
    /// The end of the window, if blobs are fetched in order. Only blobs with a lower number are given out.
    window_end: Option<usize>,
    /// How many blobs have been given out.
    given_count: usize,
}

impl Blobs {
    pub(super) fn fetch_in_order(&mut self) {
        self.window_end = Some(0);
    }

    pub(super) fn are_in_order(&self) -> bool {
        self.window_end.is_some()
    }

    pub(super) fn set_window_end(&mut self, end: usize) {
        let Some(before) = self.window_end.filter(|before| *before < end) else {
            return;
        };
        self.window_end = Some(end);
        let range = BlobId(before)..BlobId(end);
        let not_ready: Vec<BlobId> = self.all.range(range).map(|(id, _)| *id).collect();
        for id in not_ready {
            if self
                .get(id)
                .is_some_and(|blob| blob.state == State::NotReady)
            {
                self.make_ready(id);
            }
        }
    }

    pub(super) fn get(&self, id: BlobId) -> Option<&Blob> {
        self.all.get(&id)
    }

    pub(super) fn add(
        &mut self,
        wanted: &Wanted,
        image: ImageId,
        source: SourceId,
        host: HostId,
    ) -> Added {
        let key = (wanted.digest.to_string(), wanted.size, wanted.copy);
        let known = self.known.get(&key).copied();
        let id = known.unwrap_or(BlobId(self.next));
        let is_new = known.is_none();
        if is_new {
            self.next += 1;
            self.known.insert(key.clone(), id);
            let blob = Blob {
                key,
                size: wanted.size,
                host,
                images: Vec::new(),
                sources: Vec::new(),
                failed: 0,
                is_restricted: false,
                failed_at: None,
                is_to_ask: true,
                state: State::NotReady,
            };
            self.all.insert(id, blob);
        }
        let is_ready = self.is_ready(id);
        if is_ready {
            self.make_unready(id);
        }
        let mut added = Added {
            blob: id,
            is_new,
            is_done: false,
            moved_from: None,
        };
        if let Some(blob) = self.all.get_mut(&id) {
            added.is_done = blob.state == State::Done;
            // All images that wanted the blob were forgotten while it was being asked for.
            if blob.images.is_empty() && blob.host != host {
                added.moved_from = blob.is_to_ask.then_some(blob.host);
                blob.host = host;
            }
            if !blob.images.contains(&image) {
                blob.images.push(image);
            }
            if !blob.sources.contains(&source) {
                blob.sources.push(source);
            }
        }
        if is_ready || is_new && self.window_end.is_none_or(|end| id.0 < end) {
            self.make_ready(id);
        }
        added
    }

    /// Records that this image no longer wants the blob. `place` returns host and source of each remaining
    /// image, and the blob counts for one of these hosts from now on.
    pub(super) fn remove_image(
        &mut self,
        id: BlobId,
        image: ImageId,
        place: impl Fn(&ImageId) -> Option<(HostId, SourceId)>,
    ) -> Option<BacklogMove> {
        let is_ready = self.is_ready(id);
        if is_ready {
            self.make_unready(id);
        }
        let blob = self.all.get_mut(&id)?;
        blob.images.retain(|one| *one != image);
        let places: Vec<(HostId, SourceId)> = blob.images.iter().filter_map(place).collect();
        let was = blob.host;
        if let Some((first, _)) = places.first()
            && !places.iter().any(|(host, _)| *host == was)
        {
            blob.host = *first;
        }
        let moved = BacklogMove {
            from: was,
            to: Some(blob.host),
            size: blob.size,
        };
        let moved = (blob.is_to_ask && blob.host != was).then_some(moved);
        blob.sources = places.into_iter().map(|(_, source)| source).collect();
        blob.sources.sort_unstable();
        blob.sources.dedup();
        if !blob.images.is_empty() {
            if is_ready {
                self.make_ready(id);
            }
            return moved;
        }
        if blob.state == State::Given {
            return None;
        }
        self.remove(id)
    }

    fn remove(&mut self, id: BlobId) -> Option<BacklogMove> {
        self.make_unready(id);
        let blob = self.all.remove(&id)?;
        self.known.remove(&blob.key);
        blob.is_to_ask.then_some(BacklogMove {
            from: blob.host,
            to: None,
            size: blob.size,
        })
    }

    /// Removes the blob if no image wants it.
    pub(super) fn remove_if_unwanted(&mut self, id: BlobId) {
        if self.get(id).is_some_and(|blob| blob.images.is_empty()) {
            self.remove(id);
        }
    }

    fn is_ready(&self, id: BlobId) -> bool {
        self.get(id).is_some_and(|blob| blob.state == State::Ready)
    }

    /// Makes the blob ready to be asked for.
    fn make_ready(&mut self, id: BlobId) {
        let Some(blob) = self.all.get_mut(&id) else {
            return;
        };
        blob.state = State::Ready;
        self.ready_count += 1;
        if blob.is_restricted {
            self.restricted.insert(id);
            return;
        }
        for source in &blob.sources {
            let ready = self.ready.entry(*source).or_default();
            ready.insert((blob.size, blob.sources.len(), id));
        }
    }

    /// Makes the blob not ready, if it was ready or delayed.
    fn make_unready(&mut self, id: BlobId) {
        let Some(blob) = self.all.get_mut(&id) else {
            return;
        };
        match blob.state {
            State::Ready => self.ready_count -= 1,
            State::Delayed(until) => {
                self.delayed.remove(&(until, id));
                return;
            }
            _ => return,
        }
        blob.state = State::NotReady;
        self.restricted.remove(&id);
        for source in &blob.sources {
            if let Some(ready) = self.ready.get_mut(source) {
                ready.remove(&(blob.size, blob.sources.len(), id));
                if ready.is_empty() {
                    self.ready.remove(source);
                }
            }
        }
    }

    pub(super) fn give(&mut self, id: BlobId) {
        self.make_unready(id);
        self.given_count += 1;
        if let Some(blob) = self.all.get_mut(&id) {
            blob.state = State::Given;
        }
    }

    /// Records that the blob need not be asked for any more. Returns its host and size if it still had to be
    /// asked for.
    pub(super) fn mark_asked(&mut self, id: BlobId) -> Option<(HostId, u64)> {
        let blob = self.all.get_mut(&id)?;
        let was = std::mem::replace(&mut blob.is_to_ask, false);
        was.then_some((blob.host, blob.size))
    }

    /// Records a failure of the blob at this unit. The blob is ready again at `then`.
    pub(super) fn retry_at(
        &mut self,
        id: BlobId,
        unit: UnitId,
        then: Instant,
        now: Instant,
    ) -> BacklogChange {
        if let Some(blob) = self.all.get_mut(&id) {
            blob.failed += 1;
            blob.failed_at = Some(unit);
        }
        self.put_back_at(id, then, now)
    }

    /// Makes a blob ready again that was given to a unit and was not fetched.
    pub(super) fn put_back(&mut self, id: BlobId, now: Instant) -> BacklogChange {
        self.put_back_at(id, now, now)
    }

    fn put_back_at(&mut self, id: BlobId, then: Instant, now: Instant) -> BacklogChange {
        let Some(blob) = self.all.get_mut(&id) else {
            return BacklogChange::Same;
        };
        if blob.state != State::Given {
            return BacklogChange::Same;
        }
        if blob.images.is_empty() {
            let moved = self.remove(id);
            return moved.map_or(BacklogChange::Same, |moved| {
                BacklogChange::Less(moved.from, moved.size)
            });
        }
        let was = std::mem::replace(&mut blob.is_to_ask, true);
        let change = if was {
            BacklogChange::Same
        } else {
            BacklogChange::More(blob.host, blob.size)
        };
        if then > now {
            blob.state = State::Delayed(then);
            self.delayed.insert((then, id));
        } else {
            self.make_ready(id);
        }
        change
    }

    /// Makes the delayed blobs ready whose time has come. Returns whether there were any.
    pub(super) fn make_delayed_ready(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some((then, id)) = self
            .delayed
            .first()
            .copied()
            .filter(|(then, _)| *then <= now)
        {
            self.delayed.remove(&(then, id));
            self.make_ready(id);
            any = true;
        }
        any
    }

    pub(super) fn next_delayed(&self) -> Option<Instant> {
        self.delayed.first().map(|(then, _)| *then)
    }

    /// Resets the tries of a blob that was given up for some of its images. The remaining images start
    /// from zero.
    pub(super) fn reset_tries(&mut self, id: BlobId, now: Instant) -> BacklogChange {
        if let Some(blob) = self.all.get_mut(&id) {
            blob.failed = 0;
            blob.failed_at = None;
        }
        self.put_back(id, now)
    }

    /// Restricts the blob to images that name it, because the registry refused it through another image of
    /// the same source.
    pub(super) fn restrict_to_its_images(&mut self, id: BlobId, now: Instant) -> BacklogChange {
        if let Some(blob) = self.all.get_mut(&id) {
            blob.is_restricted = true;
        }
        self.put_back(id, now)
    }

    /// Marks the blob as done. Returns the images that name it.
    pub(super) fn done(&mut self, id: BlobId) -> Vec<ImageId> {
        let Some(blob) = self.all.get_mut(&id) else {
            return Vec::new();
        };
        if blob.state == State::Done {
            return Vec::new();
        }
        let images = blob.images.clone();
        self.make_unready(id);
        if let Some(blob) = self.all.get_mut(&id) {
            blob.state = State::Done;
        }
        self.remove_if_unwanted(id);
        images
    }

    /// How many blobs can be asked for now, with the restricted ones.
    pub(super) fn ready_count(&self) -> usize {
        self.ready_count
    }

    /// The sources that have ready blobs, restricted blobs not counted.
    pub(super) fn waiting(&self) -> impl Iterator<Item = SourceId> {
        self.ready.keys().copied()
    }

    /// The blobs of one source that can be asked for now, without the restricted ones.
    pub(super) fn ready_of(&self, source: SourceId) -> impl Iterator<Item = &Blob> {
        let ids = self.ready.get(&source).into_iter().flatten();
        ids.filter_map(|(.., id)| self.get(*id))
    }

    /// The blobs that can be asked for now, without the restricted ones.
    pub(super) fn ready(&self) -> impl Iterator<Item = &Blob> {
        let ids: BTreeSet<BlobId> = self.ready.values().flatten().map(|(.., id)| *id).collect();
        ids.into_iter().filter_map(|id| self.get(id))
    }

    /// The next blob for a unit that can ask these sources, among the blobs for which `fit` returns true.
    /// If blobs are fetched in order, that is the one with the lowest number. Otherwise, two small blobs
    /// follow each large one.
    pub(super) fn pick<'s>(
        &self,
        sources: impl Iterator<Item = &'s SourceId>,
        fit: impl Fn(BlobId, &Blob) -> bool,
    ) -> Option<BlobId> {
        let ready = sources.filter_map(|source| self.ready.get(source));
        let is_fit = |id: BlobId| self.get(id).is_some_and(|blob| fit(id, blob));
        if self.window_end.is_some() {
            let ids = ready.flatten().map(|(.., id)| *id);
            return ids.filter(|id| is_fit(*id)).min();
        }
        let is_large = self.given_count.is_multiple_of(SMALL_PER_LARGE + 1);
        let of_each = |ready: &ReadyBlobs| {
            if !is_large {
                return ready.iter().find(|(.., id)| is_fit(*id)).copied();
            }
            let largest = ready.iter().rev().find(|(.., id)| is_fit(*id))?;
            let mut as_large = ready.range((largest.0, 0, BlobId(0))..);
            as_large.find(|(.., id)| is_fit(*id)).copied()
        };
        let best = ready.filter_map(of_each);
        let best = if is_large {
            best.min_by_key(|(size, sources, id)| (Reverse(*size), *sources, *id))
        } else {
            best.min()
        };
        best.map(|(.., id)| id)
    }
}
