//! Decides who fetches what, and when. Pure: it has no clock, no tasks and no I/O.
//!
//! The [engine](super::engine) tells it what has happened, with the time, and carries out the [`Action`]s that
//! it decides on. Everything that a registry is asked for is a [`Task`]: to open an image, to fetch its config,
//! to fetch a blob. A **unit** is a proxy with its workers; a **source** is what one open image gives access to
//! (for a registry: the repository); a **host** is whose rules and troubles images share.
//!
//! - [`message`]: what it is told, and what it has done; [`happenings`]: what follows from that.
//! - [`assign`]: which task a unit does next.
//! - [`fleet`]: how many units there are.
//! - [`host`], [`outage`], [`governor`]: what is known of a host.
//! - [`blobs`], [`unit`]: what has become of each blob, and what each unit is at.

mod assign;
mod blobs;
#[cfg(test)]
mod explore;
mod fleet;
mod governor;
mod happenings;
mod host;
mod message;
mod outage;
mod pace;
#[cfg(test)]
mod sharing;
#[cfg(test)]
mod simulate;
mod unit;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use self::blobs::Blobs;
use self::fleet::Starts;
pub(super) use self::fleet::call_time_from;
use self::host::Host;
pub(super) use self::host::{HostRules, Login};
pub(super) use self::message::{Action, Lost, Next, Refused, Setback, Settings, Task, Wanted};
use self::pace::Pace;
pub(super) use self::pace::at_a_time;
use self::unit::{Stage, Unit};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(super) struct $name(pub(super) usize);
    )*};
}

ids!(
    /// An image, in the order in which they came.
    ImageId,
    /// A blob, in the order in which they came.
    BlobId,
    /// A unit, in the order in which they were started.
    UnitId,
    /// A host.
    HostId,
    /// A source.
    SourceId,
    /// What proxies are started as: one kind can't open the images of another.
    KindId
);

/// How often what is late is looked for. Everything else has its own moment.
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, Clone)]
struct Source {
    host: HostId,
    /// Those that are not forgotten.
    images: BTreeSet<ImageId>,
    key: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    Waits,
    By(UnitId),
    /// Somebody has opened it.
    Known,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Config {
    Unwanted,
    Waits,
    Asked,
    Done,
}

#[derive(Debug, Clone)]
struct Image {
    host: HostId,
    kind: KindId,
    source: SourceId,
    opening: Opening,
    config: Config,
    /// Whether its blobs are wanted: before, nothing of it is complete.
    is_wanted: bool,
    blobs: Vec<BlobId>,
    /// Blobs that are not done.
    left: usize,
    /// Tries of its opening or its config that have failed.
    failed: u32,
    is_fetched: bool,
}

/// See the [module](self).
#[derive(Debug, Clone)]
pub(super) struct Scheduler<E> {
    settings: Settings,
    hosts: Vec<Host<E>>,
    /// Those that have images: each archive of thousands is a host for a while.
    live: BTreeSet<HostId>,
    sources: BTreeMap<SourceId, Source>,
    known_sources: BTreeMap<String, SourceId>,
    images: BTreeMap<ImageId, Image>,
    /// Images whose configs are to be asked for.
    configs: BTreeSet<ImageId>,
    blobs: Blobs,
    units: BTreeMap<UnitId, Unit>,
    in_flight: usize,
    next_image: usize,
    next_unit: usize,
    next_source: usize,
    pace: Pace,
    starts: Starts,
    /// When idle units found last that nobody needs help.
    unneeded: Option<Instant>,
    /// When a unit was last started, or given something.
    active: Instant,
    actions: VecDeque<Action<E>>,
}

impl<E: Clone> Scheduler<E> {
    pub(super) fn new(settings: Settings, now: Instant) -> Self {
        Self {
            pace: Pace::from(now, settings.processors),
            settings,
            hosts: Vec::new(),
            live: BTreeSet::new(),
            sources: BTreeMap::new(),
            known_sources: BTreeMap::new(),
            images: BTreeMap::new(),
            configs: BTreeSet::new(),
            blobs: Blobs::default(),
            units: BTreeMap::new(),
            in_flight: 0,
            next_image: 0,
            next_unit: 0,
            next_source: 0,
            starts: Starts::default(),
            unneeded: None,
            active: now,
            actions: VecDeque::new(),
        }
    }

    /// Fetch the layers in their order, from now on: of those that are added, none before
    /// [`window`](Self::window) allows it. `ahead` of them are fetched besides the one that is due.
    pub(super) fn in_order(&mut self, ahead: usize) {
        self.blobs.in_order();
        self.settings.in_flight = usize::MAX;
        // More units could not be at work. Each blob of the window can be waiting for its turn, and one more be tried
        // again.
        let (most, per_unit) = (ahead.saturating_add(1), ahead.saturating_add(2));
        for host in &mut self.hosts {
            host.at_most(most, per_unit);
        }
    }

    /// The blobs before this one may be fetched.
    pub(super) fn window(&mut self, end: usize) {
        self.blobs.window(end);
    }

    pub(super) fn add_host(&mut self, rules: HostRules) -> HostId {
        self.hosts.push(Host::new(rules, self.settings.processors));
        HostId(self.hosts.len() - 1)
    }

    /// Whether there may be a login at this host that nobody knows to be right.
    pub(super) fn login(&mut self, host: HostId, login: Login) {
        self.hosts[host.0].login = login;
    }

    /// An image that is to be opened.
    pub(super) fn add_image(
        &mut self,
        host: HostId,
        kind: KindId,
        source: &str,
        now: Instant,
    ) -> ImageId {
        let id = self.insert_image(host, kind, source);
        if let Some(error) = self.hosts[host.0].refusal(now) {
            self.fail(id, &error, 0);
        } else {
            self.hosts[host.0].waiting.insert(id);
        }
        id
    }

    /// An image that is known; a unit has it open.
    pub(super) fn add_open_image(
        &mut self,
        host: HostId,
        kind: KindId,
        source: &str,
        unit: UnitId,
    ) -> ImageId {
        let id = self.insert_image(host, kind, source);
        self.hosts[host.0].proved = true;
        self.has_open(unit, id);
        id
    }

    fn insert_image(&mut self, host: HostId, kind: KindId, source: &str) -> ImageId {
        let id = ImageId(self.next_image);
        self.next_image += 1;
        let source_id = if let Some(known) = self.known_sources.get(source) {
            *known
        } else {
            let new = SourceId(self.next_source);
            self.next_source += 1;
            let key = source.to_owned();
            self.known_sources.insert(key.clone(), new);
            let images = BTreeSet::new();
            self.sources.insert(new, Source { host, images, key });
            new
        };
        if let Some(source) = self.sources.get_mut(&source_id) {
            source.images.insert(id);
        }
        self.hosts[host.0].images += 1;
        self.live.insert(host);
        let image = Image {
            host,
            kind,
            source: source_id,
            opening: Opening::Waits,
            config: Config::Unwanted,
            is_wanted: false,
            blobs: Vec::new(),
            left: 0,
            failed: 0,
            is_fetched: false,
        };
        self.images.insert(id, image);
        id
    }

    /// A proxy that was started elsewhere, and is idle.
    pub(super) fn add_unit(&mut self, host: HostId, kind: KindId, now: Instant) -> UnitId {
        let id = UnitId(self.next_unit);
        self.next_unit += 1;
        let mut unit = Unit::new(host, kind, now);
        unit.stage = Stage::Ready;
        self.units.insert(id, unit);
        id
    }

    /// Fetch these blobs of an image that is open, and its config if `config`. Each is there once. Returns their
    /// numbers, and whether they are new.
    pub(super) fn fetch(
        &mut self,
        image: ImageId,
        wanted: &[Wanted],
        config: bool,
    ) -> Vec<(BlobId, bool)> {
        let Some(of_image) = self.images.get_mut(&image) else {
            return Vec::new();
        };
        of_image.is_wanted = true;
        if config {
            of_image.config = Config::Waits;
            self.configs.insert(image);
        }
        let (host, source) = (of_image.host, of_image.source);
        let mut ids = Vec::with_capacity(wanted.len());
        let mut left = 0;
        for one in wanted {
            let added = self.blobs.add(one, image, source, host);
            if added.is_new || added.left.is_some() {
                self.hosts[host.0].to_ask.add(one.size);
            }
            if let Some(left) = added.left {
                self.hosts[left.0].to_ask.remove(one.size);
            }
            left += usize::from(!added.is_done);
            ids.push((added.blob, added.is_new));
        }
        let Some(of_image) = self.images.get_mut(&image) else {
            return ids;
        };
        of_image.left = left;
        of_image.blobs = ids.iter().map(|(id, _)| *id).collect();
        self.complete(image);
        ids
    }

    /// Nobody wants anything of this image any more.
    pub(super) fn forget(&mut self, image: ImageId) {
        let Some(of_image) = self.images.remove(&image) else {
            return;
        };
        let Image {
            host,
            source,
            blobs,
            ..
        } = of_image;
        self.configs.remove(&image);
        let of_host = &mut self.hosts[host.0];
        of_host.waiting.remove(&image);
        of_host.images -= 1;
        if of_host.images == 0 {
            self.live.remove(&host);
        }
        for blob in blobs {
            let place = |id: &ImageId| self.images.get(id).map(|image| (image.host, image.source));
            if let Some(left) = self.blobs.leave(blob, image, place) {
                self.hosts[left.host.0].to_ask.remove(left.size);
                if let Some(host) = left.now_of {
                    self.hosts[host.0].to_ask.add(left.size);
                }
            }
        }
        self.leave_source(source, image);
    }

    /// What units have open of a source goes with its last image. Before, each unit keeps one image of it open, by which
    /// it fetches what others name.
    fn leave_source(&mut self, id: SourceId, image: ImageId) {
        let Some(source) = self.sources.get_mut(&id) else {
            return;
        };
        source.images.remove(&image);
        if !source.images.is_empty() {
            for unit in self.units.keys().copied().collect::<Vec<_>>() {
                self.close_unneeded(unit, id);
            }
            return;
        }
        if let Some(source) = self.sources.remove(&id) {
            self.known_sources.remove(&source.key);
        }
        for (unit, state) in &mut self.units {
            for image in state.open.remove(&id).unwrap_or_default() {
                let unit = *unit;
                self.actions.push_back(Action::Close { unit, image });
            }
        }
    }

    /// Have a unit close the images of a source that are forgotten, but for one if it has no other.
    fn close_unneeded(&mut self, id: UnitId, source: SourceId) {
        let Some(unit) = self.units.get_mut(&id) else {
            return;
        };
        let Some(open) = unit.open.get_mut(&source) else {
            return;
        };
        let is_needed = |image: &ImageId| self.images.contains_key(image);
        let (needed, forgotten): (BTreeSet<_>, BTreeSet<_>) =
            open.iter().partition(|image| is_needed(image));
        let kept = usize::from(needed.is_empty());
        for image in forgotten.into_iter().skip(kept) {
            open.remove(&image);
            self.actions.push_back(Action::Close { unit: id, image });
        }
    }

    fn fail(&mut self, image: ImageId, error: &E, tries: u32) {
        if self.images.get(&image).is_some_and(|of| !of.is_fetched) {
            self.forget(image);
            let error = error.clone();
            self.actions.push_back(Action::Failed {
                image,
                error,
                tries,
            });
        }
    }

    /// No image is opened at this host any more, or not before `until`; then those that are open fail, too.
    fn lock(&mut self, host: HostId, (error, tries): (&E, u32), until: Option<Instant>) {
        let locked = &mut self.hosts[host.0].locked;
        if !matches!(locked, Some((_, None))) {
            *locked = Some((error.clone(), until));
        }
        let of_host = |(id, image): (&ImageId, &Image)| {
            let fails = until.is_some() || image.opening != Opening::Known;
            (image.host == host && fails).then_some(*id)
        };
        let images: Vec<ImageId> = self.images.iter().filter_map(of_host).collect();
        for image in images {
            self.fail(image, error, tries);
        }
    }

    fn complete(&mut self, id: ImageId) {
        let Some(image) = self.images.get_mut(&id) else {
            return;
        };
        let has_config = matches!(image.config, Config::Unwanted | Config::Done);
        if image.is_wanted && image.left == 0 && has_config && !image.is_fetched {
            image.is_fetched = true;
            self.actions.push_back(Action::Fetched(id));
        }
    }

    /// What is known of a host from before: what the start of a proxy takes, and a guess what a call takes.
    pub(super) fn expect(&mut self, host: HostId, started: Duration, call: Duration) {
        let host = &mut self.hosts[host.0];
        host.governor.started(started);
        if host.rules.is_registry {
            host.governor.expect_call_time(call);
        }
    }

    /// Whether blobs are to be fetched, or are being fetched.
    pub(super) fn is_fetching_blobs(&self) -> bool {
        self.in_flight > 0 || self.live_hosts().any(|host| host.to_ask.blobs > 0)
    }

    /// Whether somebody wants this blob, or has it.
    pub(super) fn has_blob(&self, blob: BlobId) -> bool {
        self.blobs.get(blob).is_some()
    }

    /// Why no image is opened at this host now.
    pub(super) fn refusal(&mut self, host: HostId, now: Instant) -> Option<E> {
        self.hosts[host.0].refusal(now)
    }

    fn live_hosts(&self) -> impl Iterator<Item = &Host<E>> {
        self.live.iter().map(|host| &self.hosts[host.0])
    }

    /// This unit has an image open that was opened elsewhere.
    pub(super) fn has_open(&mut self, unit: UnitId, image: ImageId) {
        let Some(of_image) = self.images.get_mut(&image) else {
            self.actions.push_back(Action::Close { unit, image });
            return;
        };
        of_image.opening = Opening::Known;
        self.hosts[of_image.host.0].waiting.remove(&image);
        let source = of_image.source;
        if let Some(unit) = self.units.get_mut(&unit) {
            unit.open.entry(source).or_default().insert(image);
        }
        self.close_unneeded(unit, source);
    }
}

impl<E: Clone> Scheduler<E> {
    /// What to do now; `None` if nothing, until something happens or [`wake`](Self::wake).
    pub(super) fn next(&mut self, now: Instant) -> Option<Action<E>> {
        if self.actions.is_empty() {
            self.blobs.release(now);
            self.recall_from_late(now);
            self.assign(now);
            self.adjust(now);
        }
        self.actions.pop_front()
    }

    /// When to ask what to do again, if nothing happens before.
    pub(super) fn wake(&self, now: Instant) -> Option<Instant> {
        if self.images.values().all(|image| image.is_fetched) {
            return None;
        }
        let outages = self.live_hosts().filter_map(|host| host.outage.ends());
        let rests = self.units.values().filter_map(|unit| unit.rests_until);
        let starts = [self.starts.again(), self.starts.held_back(&self.pace)];
        let all = outages.chain(rests).chain(starts.into_iter().flatten());
        let all = all.chain(self.blobs.next_release());
        let later = all.filter(|then| *then > now);
        Some(later.fold(now + LOOK_EVERY, Instant::min))
    }
}
