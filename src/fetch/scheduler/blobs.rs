//! What has become of each blob.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{BlobId, HostId, ImageId, SourceId, UnitId, Wanted};

/// How many small blobs follow a large one: while the bytes of large ones keep the processors busy, answers for
/// small ones are waited for, and the largest do not begin when all others are done. (The largest first, then
/// the next, did the one after the other: 400 layers at 50 ms took 8 % longer, 85 real ones 3 %.)
const SMALL_PER_LARGE: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Beyond the window.
    Held,
    Waits,
    /// Not before.
    WaitsUntil(Instant),
    Given,
    Done,
}

/// Digest, size and copy: one image that names a blob with a wrong size spoils it for no other.
type Key = (String, u64, usize);

#[derive(Debug, Clone)]
pub(super) struct Blob {
    key: Key,
    pub(super) size: u64,
    /// The host for which it counts: that of an image that names it.
    pub(super) host: HostId,
    /// The images that name it.
    pub(super) images: Vec<ImageId>,
    /// Their sources, each once.
    pub(super) sources: Vec<SourceId>,
    pub(super) failed: u32,
    /// It is asked for only by an image that names it.
    pub(super) only_named: bool,
    /// The unit that has just failed to bring it.
    pub(super) failed_at: Option<UnitId>,
    pub(super) unasked: bool,
    state: State,
}

impl Blob {
    #[cfg(test)]
    pub(super) fn digest(&self) -> &str {
        &self.key.0
    }
}

/// What became of a blob that was added.
#[derive(Debug, Clone, Copy)]
pub(super) struct Added {
    pub(super) blob: BlobId,
    pub(super) is_new: bool,
    pub(super) is_done: bool,
    /// The host for which it was to be asked until now, and no more.
    pub(super) left: Option<HostId>,
}

/// A blob that was to be asked for, and no longer counts for a host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    pub(super) host: HostId,
    /// The host for which it counts instead.
    pub(super) now_of: Option<HostId>,
    pub(super) size: u64,
}

/// What has changed of how much is to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    Same,
    More(HostId, u64),
    Less(HostId, u64),
}

/// The blobs of a source that can be asked for now: by size, and those first that have the fewest sources, for others
/// can be asked for elsewhere.
type Ready = BTreeSet<(u64, usize, BlobId)>;

#[derive(Debug, Clone, Default)]
pub(super) struct Blobs {
    all: BTreeMap<BlobId, Blob>,
    known: BTreeMap<Key, BlobId>,
    next: usize,
    /// Sources of which there is none are left out.
    ready: BTreeMap<SourceId, Ready>,
    ready_count: usize,
    /// Those that are ready and only named images may be asked for.
    pub(super) named: BTreeSet<BlobId>,
    delayed: BTreeSet<(Instant, BlobId)>,
    /// Where they are given out in their order: only those before this one.
    end: Option<usize>,
    /// How many were given out.
    turn: usize,
}

impl Blobs {
    pub(super) fn in_order(&mut self) {
        self.end = Some(0);
    }

    pub(super) fn window(&mut self, end: usize) {
        let Some(before) = self.end.filter(|before| *before < end) else {
            return;
        };
        self.end = Some(end);
        let range = BlobId(before)..BlobId(end);
        let held: Vec<BlobId> = self.all.range(range).map(|(id, _)| *id).collect();
        for id in held {
            if self.get(id).is_some_and(|blob| blob.state == State::Held) {
                self.wait(id);
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
                only_named: false,
                failed_at: None,
                unasked: true,
                state: State::Held,
            };
            self.all.insert(id, blob);
        }
        let is_ready = self.is_ready(id);
        if is_ready {
            self.take(id);
        }
        let mut added = Added {
            blob: id,
            is_new,
            is_done: false,
            left: None,
        };
        if let Some(blob) = self.all.get_mut(&id) {
            added.is_done = blob.state == State::Done;
            // Those who wanted it have left while it was asked for.
            if blob.images.is_empty() && blob.host != host {
                added.left = blob.unasked.then_some(blob.host);
                blob.host = host;
            }
            if !blob.images.contains(&image) {
                blob.images.push(image);
            }
            if !blob.sources.contains(&source) {
                blob.sources.push(source);
            }
        }
        if is_ready || is_new && self.end.is_none_or(|end| id.0 < end) {
            self.wait(id);
        }
        added
    }

    /// This image does not want it any more. `place` tells the hosts and sources of the others: it counts for one of
    /// their hosts from now on.
    pub(super) fn leave(
        &mut self,
        id: BlobId,
        image: ImageId,
        place: impl Fn(&ImageId) -> Option<(HostId, SourceId)>,
    ) -> Option<Left> {
        let is_ready = self.is_ready(id);
        if is_ready {
            self.take(id);
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
        let left = Left {
            host: was,
            now_of: Some(blob.host),
            size: blob.size,
        };
        let left = (blob.unasked && blob.host != was).then_some(left);
        blob.sources = places.into_iter().map(|(_, source)| source).collect();
        blob.sources.sort_unstable();
        blob.sources.dedup();
        if !blob.images.is_empty() {
            if is_ready {
                self.wait(id);
            }
            return left;
        }
        if blob.state == State::Given {
            return None;
        }
        self.remove(id)
    }

    fn remove(&mut self, id: BlobId) -> Option<Left> {
        self.take(id);
        let blob = self.all.remove(&id)?;
        self.known.remove(&blob.key);
        blob.unasked.then_some(Left {
            host: blob.host,
            now_of: None,
            size: blob.size,
        })
    }

    /// It was given up: if nobody wants it, it is gone.
    pub(super) fn drop_orphan(&mut self, id: BlobId) {
        if self.get(id).is_some_and(|blob| blob.images.is_empty()) {
            self.remove(id);
        }
    }

    fn is_ready(&self, id: BlobId) -> bool {
        self.get(id).is_some_and(|blob| blob.state == State::Waits)
    }

    /// It can be asked for.
    fn wait(&mut self, id: BlobId) {
        let Some(blob) = self.all.get_mut(&id) else {
            return;
        };
        blob.state = State::Waits;
        self.ready_count += 1;
        if blob.only_named {
            self.named.insert(id);
            return;
        }
        for source in &blob.sources {
            let ready = self.ready.entry(*source).or_default();
            ready.insert((blob.size, blob.sources.len(), id));
        }
    }

    /// It can't, if it could.
    fn take(&mut self, id: BlobId) {
        let Some(blob) = self.all.get_mut(&id) else {
            return;
        };
        match blob.state {
            State::Waits => self.ready_count -= 1,
            State::WaitsUntil(until) => {
                self.delayed.remove(&(until, id));
                return;
            }
            _ => return,
        }
        blob.state = State::Held;
        self.named.remove(&id);
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
        self.take(id);
        self.turn += 1;
        if let Some(blob) = self.all.get_mut(&id) {
            blob.state = State::Given;
        }
    }

    /// It need not be asked for any more. Returns its host and size if it had to be.
    pub(super) fn asked(&mut self, id: BlobId) -> Option<(HostId, u64)> {
        let blob = self.all.get_mut(&id)?;
        let was = std::mem::replace(&mut blob.unasked, false);
        was.then_some((blob.host, blob.size))
    }

    /// It failed at this unit, and is asked for again from then on.
    pub(super) fn again(
        &mut self,
        id: BlobId,
        unit: UnitId,
        then: Instant,
        now: Instant,
    ) -> Counted {
        if let Some(blob) = self.all.get_mut(&id) {
            blob.failed += 1;
            blob.failed_at = Some(unit);
        }
        self.put_back_at(id, then, now)
    }

    /// It was given out, and is not fetched after all.
    pub(super) fn put_back(&mut self, id: BlobId, now: Instant) -> Counted {
        self.put_back_at(id, now, now)
    }

    fn put_back_at(&mut self, id: BlobId, then: Instant, now: Instant) -> Counted {
        let Some(blob) = self.all.get_mut(&id) else {
            return Counted::Same;
        };
        if blob.state != State::Given {
            return Counted::Same;
        }
        if blob.images.is_empty() {
            let left = self.remove(id);
            return left.map_or(Counted::Same, |left| Counted::Less(left.host, left.size));
        }
        let was = std::mem::replace(&mut blob.unasked, true);
        let counted = if was {
            Counted::Same
        } else {
            Counted::More(blob.host, blob.size)
        };
        if then > now {
            blob.state = State::WaitsUntil(then);
            self.delayed.insert((then, id));
        } else {
            self.wait(id);
        }
        counted
    }

    /// Those whose waits are over can be asked for.
    pub(super) fn release(&mut self, now: Instant) {
        while let Some((then, id)) = self
            .delayed
            .first()
            .copied()
            .filter(|(then, _)| *then <= now)
        {
            self.delayed.remove(&(then, id));
            self.wait(id);
        }
    }

    pub(super) fn next_release(&self) -> Option<Instant> {
        self.delayed.first().map(|(then, _)| *then)
    }

    /// It was given up for some of its images: the others begin anew, if there are any.
    pub(super) fn begin_anew(&mut self, id: BlobId, now: Instant) -> Counted {
        if let Some(blob) = self.all.get_mut(&id) {
            blob.failed = 0;
            blob.failed_at = None;
        }
        self.put_back(id, now)
    }

    /// The registry lacks it where another image of its source was asked.
    pub(super) fn must_be_named(&mut self, id: BlobId, now: Instant) -> Counted {
        if let Some(blob) = self.all.get_mut(&id) {
            blob.only_named = true;
        }
        self.put_back(id, now)
    }

    /// It is done. Returns the images that name it.
    pub(super) fn done(&mut self, id: BlobId) -> Vec<ImageId> {
        let Some(blob) = self.all.get_mut(&id) else {
            return Vec::new();
        };
        if blob.state == State::Done {
            return Vec::new();
        }
        let images = blob.images.clone();
        self.take(id);
        if let Some(blob) = self.all.get_mut(&id) {
            blob.state = State::Done;
        }
        self.drop_orphan(id);
        images
    }

    /// How many could be asked for now.
    pub(super) fn ready_count(&self) -> usize {
        self.ready_count
    }

    /// The sources that have blobs to ask for.
    pub(super) fn waiting(&self) -> impl Iterator<Item = SourceId> {
        self.ready.keys().copied()
    }

    /// The blobs that can be asked for now.
    pub(super) fn ready(&self) -> impl Iterator<Item = &Blob> {
        let ids: BTreeSet<BlobId> = self.ready.values().flatten().map(|(.., id)| *id).collect();
        ids.into_iter().filter_map(|id| self.get(id))
    }

    /// The next blob for somebody who can ask these sources, and for whom it is `fit`: in the order of the
    /// blobs, if there is one; otherwise large ones and small ones in turn.
    pub(super) fn pick<'s>(
        &self,
        sources: impl Iterator<Item = &'s SourceId>,
        fit: impl Fn(BlobId, &Blob) -> bool,
    ) -> Option<BlobId> {
        let ready = sources.filter_map(|source| self.ready.get(source));
        let is_fit = |id: BlobId| self.get(id).is_some_and(|blob| fit(id, blob));
        if self.end.is_some() {
            let ids = ready.flatten().map(|(.., id)| *id);
            return ids.filter(|id| is_fit(*id)).min();
        }
        let is_large = self.turn.is_multiple_of(SMALL_PER_LARGE + 1);
        let of_each = |ready: &Ready| {
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
