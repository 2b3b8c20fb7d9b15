//! The scheduler decides which task which unit does, and when. This module is pure: no clock, no async tasks,
//! no I/O.
//!
//! The [engine](super::engine) reports what has happened, with the time, and carries out the [`Action`]s that
//! the scheduler decides on. Everything that a registry is asked for is a [`Task`]: to open an image, to
//! fetch its config, to fetch a blob.
//!
//! - A **unit** is a proxy with its workers.
//! - A **source** is a set of blobs to which one open image gives access. At a registry, that is the repository.
//! - A **host** groups the images that share rules and outages. At a registry, that is the registry.
//!
//! The modules:
//!
//! - [`message`]: the types that the engine and the scheduler exchange.
//! - [`reports`]: what the scheduler does with each report of the engine.
//! - [`assign`]: which task a unit does next.
//! - [`pool`]: how many units there are; [`start_interval`]: when the next one is started.
//! - [`host`], [`outage`], [`governor`]: the state of a host.
//! - [`blobs`], [`unit`](mod@unit): the state of each blob, and of each unit.

mod assign;
mod blobs;
#[cfg(test)]
mod explore;
mod governor;
mod host;
mod message;
mod outage;
mod pool;
mod reports;
mod retire;
#[cfg(test)]
mod sharing;
#[cfg(test)]
mod simulate;
mod start_interval;
mod unit;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use self::blobs::Blobs;
use self::host::Host;
pub(super) use self::host::{HostRules, Login};
pub(super) use self::message::{
    Action, FailureKind, Next, RefusalReason, Settings, Task, UnitError, Wanted,
};
use self::pool::Starts;
pub(super) use self::pool::call_time_from;
use self::start_interval::StartInterval;
pub(super) use self::start_interval::max_starts_at_a_time;
use self::unit::{Stage, Unit};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(super) struct $name(pub(super) usize);
    )*};
}

ids!(
    /// The number of an image. Images are numbered in the order in which they were added.
    ImageId,
    /// The number of a blob. Blobs are numbered in the order in which they were added.
    BlobId,
    /// The number of a unit. Units are numbered in the order in which they were started.
    UnitId,
    /// The number of a host.
    HostId,
    /// The number of a source.
    SourceId,
    /// The number of a kind of proxies. A proxy of one kind can't open the images of another kind.
    KindId
);

/// How often the scheduler looks for late calls. Everything else has its own wake-up time.
const LATE_CHECK_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Hash)]
struct Source {
    host: HostId,
    /// The images of this source that are not forgotten.
    images: BTreeSet<ImageId>,
    key: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Opening {
    Waiting,
    By(UnitId),
    /// A unit has opened the image.
    Opened,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Config {
    Unwanted,
    Waiting,
    Asked,
    Done,
}

#[derive(Debug, Clone, Hash)]
struct Image {
    host: HostId,
    kind: KindId,
    source: SourceId,
    opening: Opening,
    config: Config,
    /// Whether [`Scheduler::fetch`] was called for the image. Before that call, the image can't be complete.
    is_wanted: bool,
    blobs: Vec<BlobId>,
    /// The number of blobs of the image that are not done.
    unfinished_blobs: usize,
    /// The number of failed tries to open the image, or to fetch its config.
    failed: u32,
    is_fetched: bool,
}

/// The scheduler. The [module](self) describes it.
#[derive(Debug, Clone, Hash)]
pub(super) struct Scheduler<E> {
    settings: Settings,
    hosts: Vec<Host<E>>,
    /// The hosts that have images. Each archive is a host, so a fetch may have had thousands of hosts that
    /// are empty now.
    hosts_with_images: BTreeSet<HostId>,
    sources: BTreeMap<SourceId, Source>,
    known_sources: BTreeMap<String, SourceId>,
    images: BTreeMap<ImageId, Image>,
    /// The images whose configs are still to be asked for.
    configs: BTreeSet<ImageId>,
    blobs: Blobs,
    units: BTreeMap<UnitId, Unit>,
    in_flight: usize,
    next_image: usize,
    next_unit: usize,
    next_source: usize,
    start_interval: StartInterval,
    starts: Starts,
    /// When a unit was last started, or was last given a task.
    active: Instant,
    /// Whether there may be lost images: images that are needed, but that no unit has open any more. Set by everything
    /// that can make an image lost or needed.
    may_have_lost: bool,
    actions: VecDeque<Action<E>>,
}

impl<E: Clone> Scheduler<E> {
    pub(super) fn new(settings: Settings, now: Instant) -> Self {
        Self {
            start_interval: StartInterval::from(now, settings.starts_at_a_time),
            settings,
            hosts: Vec::new(),
            hosts_with_images: BTreeSet::new(),
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
            active: now,
            may_have_lost: false,
            actions: VecDeque::new(),
        }
    }

    /// Sets the maximum number of units of all hosts together, and of blobs in flight. If blobs are fetched in order, the
    /// window limits their number instead, because the blob that is due must never wait for those after it.
    pub(super) fn set_limits(&mut self, units: usize, in_flight: usize) {
        self.settings.units = units;
        if !self.blobs.are_in_order() {
            self.settings.in_flight = in_flight;
        }
    }

    /// Switches to fetching the layers in their order. Blobs that are added later are not fetched before
    /// [`set_window_end`](Self::set_window_end) allows it. Up to `ahead` blobs are fetched besides the one that is due.
    pub(super) fn switch_to_order(&mut self, ahead: usize) {
        self.blobs.fetch_in_order();
        self.settings.in_flight = usize::MAX;
        // More units would have nothing to do. A unit can hold each blob of the window until its turn comes,
        // and one more that is being retried.
        let (most, per_unit) = (ahead.saturating_add(1), ahead.saturating_add(2));
        for host in &mut self.hosts {
            host.at_most(most, per_unit);
        }
    }

    /// Allows the blobs with a number below `end` to be fetched.
    pub(super) fn set_window_end(&mut self, end: usize) {
        self.blobs.set_window_end(end);
        self.may_have_lost = true;
    }

    pub(super) fn add_host(&mut self, rules: HostRules) -> HostId {
        self.hosts
            .push(Host::new(rules, self.settings.starts_at_a_time));
        HostId(self.hosts.len() - 1)
    }

    /// Sets whether calls to this host may send credentials.
    pub(super) fn set_login(&mut self, host: HostId, login: Login) {
        self.hosts[host.0].login = login;
    }

    /// Adds an image that is to be opened. The image fails at once if the host is locked.
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

    /// Adds an image that this unit has open already.
    pub(super) fn add_open_image(
        &mut self,
        host: HostId,
        kind: KindId,
        source: &str,
        unit: UnitId,
    ) -> ImageId {
        let id = self.insert_image(host, kind, source);
        self.hosts[host.0].has_answered = true;
        self.record_open(unit, id);
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
        self.hosts_with_images.insert(host);
        let image = Image {
            host,
            kind,
            source: source_id,
            opening: Opening::Waiting,
            config: Config::Unwanted,
            is_wanted: false,
            blobs: Vec::new(),
            unfinished_blobs: 0,
            failed: 0,
            is_fetched: false,
        };
        self.images.insert(id, image);
        id
    }

    /// Adds a unit whose proxy is running already, and is idle.
    pub(super) fn add_unit(&mut self, host: HostId, kind: KindId, now: Instant) -> UnitId {
        let id = UnitId(self.next_unit);
        self.next_unit += 1;
        let mut unit = Unit::new(host, kind, now);
        unit.stage = Stage::Ready;
        self.units.insert(id, unit);
        id
    }

    /// Requests these blobs of an open image, and its config if `config` is true. No two of the blobs may be
    /// equal. Returns the number of each blob, and whether the blob is new.
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
        self.may_have_lost = true;
        if config {
            of_image.config = Config::Waiting;
            self.configs.insert(image);
        }
        let (host, source) = (of_image.host, of_image.source);
        let mut ids = Vec::with_capacity(wanted.len());
        let mut unfinished = 0;
        for one in wanted {
            let added = self.blobs.add(one, image, source, host);
            if added.is_new || added.moved_from.is_some() {
                self.hosts[host.0].backlog.add(one.size);
            }
            if let Some(before) = added.moved_from {
                self.hosts[before.0].backlog.remove(one.size);
            }
            unfinished += usize::from(!added.is_done);
            ids.push((added.blob, added.is_new));
        }
        let Some(of_image) = self.images.get_mut(&image) else {
            return ids;
        };
        of_image.unfinished_blobs = unfinished;
        of_image.blobs = ids.iter().map(|(id, _)| *id).collect();
        self.complete(image);
        ids
    }

    /// Removes an image of which nothing is wanted any more.
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
        self.may_have_lost = true;
        let of_host = &mut self.hosts[host.0];
        of_host.waiting.remove(&image);
        of_host.images -= 1;
        if of_host.images == 0 {
            self.hosts_with_images.remove(&host);
        }
        for blob in blobs {
            let place = |id: &ImageId| self.images.get(id).map(|image| (image.host, image.source));
            if let Some(moved) = self.blobs.remove_image(blob, image, place) {
                self.hosts[moved.from.0].backlog.remove(moved.size);
                if let Some(host) = moved.to {
                    self.hosts[host.0].backlog.add(moved.size);
                }
            }
        }
        self.leave_source(source, image);
    }

    /// Removes the image from its source. While the source has other images, each unit keeps one image of it open,
    /// through which the unit fetches blobs of the others. With its last image, the source is removed, and each unit
    /// closes all images of the source that it has open.
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

    /// Tells a unit to close the forgotten images of a source. One of them stays open if the unit has no other
    /// image of the source open.
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

    /// Locks this host: no image is opened there before `until`, or ever again if `until` is `None`. The images that
    /// are to be opened fail. If `with_open`, images that are open fail as well.
    fn lock(
        &mut self,
        host: HostId,
        (error, tries): (&E, u32),
        until: Option<Instant>,
        with_open: bool,
    ) {
        let locked = &mut self.hosts[host.0].locked;
        if !matches!(locked, Some((_, None))) {
            *locked = Some((error.clone(), until));
        }
        let of_host = |(id, image): (&ImageId, &Image)| {
            let fails = with_open || image.opening != Opening::Opened;
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
        if image.is_wanted && image.unfinished_blobs == 0 && has_config && !image.is_fetched {
            image.is_fetched = true;
            self.actions.push_back(Action::Fetched(id));
        }
    }

    /// Sets what earlier calls measured at this host: how long the start of a proxy took, and an estimate of
    /// the latency of a call.
    pub(super) fn set_estimates(&mut self, host: HostId, started: Duration, call: Duration) {
        let host = &mut self.hosts[host.0];
        host.governor.started(started);
        if host.rules.is_registry {
            host.governor.expect_call_time(call);
        }
    }

    /// Whether any blob is still to be fetched, or is being fetched.
    pub(super) fn is_fetching_blobs(&self) -> bool {
        self.in_flight > 0
            || self
                .iter_hosts_with_images()
                .any(|host| host.backlog.blobs > 0)
    }

    /// Whether the blob is still known: an image names it, or a unit fetches it.
    pub(super) fn has_blob(&self, blob: BlobId) -> bool {
        self.blobs.get(blob).is_some()
    }

    /// The error because of which no image is opened at this host now, if there is one.
    pub(super) fn refusal(&mut self, host: HostId, now: Instant) -> Option<E> {
        self.hosts[host.0].refusal(now)
    }

    fn iter_hosts_with_images(&self) -> impl Iterator<Item = &Host<E>> {
        self.hosts_with_images
            .iter()
            .map(|host| &self.hosts[host.0])
    }

    /// Records that this unit has an image open.
    pub(super) fn record_open(&mut self, unit: UnitId, image: ImageId) {
        let Some(of_image) = self.images.get_mut(&image) else {
            self.actions.push_back(Action::Close { unit, image });
            return;
        };
        of_image.opening = Opening::Opened;
        self.hosts[of_image.host.0].waiting.remove(&image);
        let source = of_image.source;
        if let Some(unit) = self.units.get_mut(&unit) {
            unit.open.entry(source).or_default().insert(image);
        }
        self.close_unneeded(unit, source);
    }
}

impl<E: Clone> Scheduler<E> {
    /// The next action, or `None` if there is none until the next report or until [`wake`](Self::wake).
    pub(super) fn next(&mut self, now: Instant) -> Option<Action<E>> {
        if self.actions.is_empty() {
            self.may_have_lost |= self.blobs.make_delayed_ready(now);
            self.reopen_lost_images();
            self.recall_from_late_units(now);
            self.assign(now);
            self.adjust(now);
        }
        self.actions.pop_front()
    }

    /// Takes note that nobody has called [`next`](Self::next) for this time. The calls that were under way are not late
    /// because of it: their answers may have waited.
    pub(super) fn skip_time(&mut self, time: Duration) {
        for unit in self.units.values_mut() {
            unit.skip_time(time);
        }
    }

    /// When to call [`next`](Self::next) again if there is no report before. `None` if no image is left
    /// to fetch.
    pub(super) fn wake(&self, now: Instant) -> Option<Instant> {
        if self.images.values().all(|image| image.is_fetched) {
            return None;
        }
        let outages = self
            .iter_hosts_with_images()
            .filter_map(|host| host.outage.ends_at());
        let pauses = self.units.values().filter_map(|unit| unit.paused_until);
        let starts = [
            self.starts.not_before(),
            self.starts.delayed_until(&self.start_interval),
        ];
        let all = outages.chain(pauses).chain(starts.into_iter().flatten());
        let all = all.chain(self.blobs.next_delayed());
        let later = all.filter(|then| *then > now);
        Some(later.fold(now + LATE_CHECK_INTERVAL, Instant::min))
    }
}
