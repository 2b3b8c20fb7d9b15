//! Chooses the next task of each unit.
//!
//! A unit opens images first, because only an open image shows which blobs it has. Then come configs, then
//! blobs of the sources that the unit has open. A unit without such work opens an image that other units have
//! open, too, and helps with its blobs if enough of them wait.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::blobs::Blob;
use super::unit::{Stage, Unit, Use};
use super::{Action, Config, Image, ImageId, KindId, Opening, Scheduler, SourceId, Task, UnitId};

/// The backlog from which another unit helps: the number of waiting blobs for each unit that can ask for
/// them. To help, a unit opens the image, which takes about as long as three calls. The first value is for a
/// unit that has opened nothing yet. The second value is for a unit that has: its opening costs the registry
/// one more read of the manifest, so more blobs must be left for it.
const BACKLOG_FOR_HELP: [f64; 2] = [4.0, 9.0];

/// How long the result "no unit needs help" is reused.
const NO_HELP_REUSED_FOR: Duration = Duration::from_millis(5);

impl<E: Clone> Scheduler<E> {
    /// Gives tasks to all units that can do one.
    pub(super) fn assign(&mut self, now: Instant) {
        loop {
            let mut units: Vec<(usize, UnitId)> = self
                .units
                .iter()
                .filter(|(_, unit)| self.can_take_task(unit, now))
                .map(|(id, unit)| (unit.load(), *id))
                .collect();
            units.sort_unstable();
            let mut gave = false;
            for (_, id) in units {
                if let Some(task) = self.task_for(id, now) {
                    self.give(id, task, now);
                    gave = true;
                }
            }
            if !gave {
                return;
            }
        }
    }

    fn can_take_task(&self, unit: &Unit, now: Instant) -> bool {
        unit.stage == Stage::Ready
            && !unit.retired
            && unit.paused_until.is_none_or(|until| until <= now)
            && unit.load() < self.hosts[unit.host.0].rules.per_unit
    }

    fn give(&mut self, id: UnitId, task: Task, now: Instant) {
        let Some(unit) = self.units.get_mut(&id) else {
            return;
        };
        unit.give(task, now);
        self.active = now;
        if let Some(host) = self.host_of(id, task) {
            self.hosts[host.0].outage.record_asking(id.0);
        }
        match task {
            Task::Open(image) => {
                if let Some(of_image) = self.images.get_mut(&image) {
                    let host = &mut self.hosts[of_image.host.0];
                    host.waiting.remove(&image);
                    host.asked_since.get_or_insert(now);
                    if of_image.opening == Opening::Waiting {
                        of_image.opening = Opening::By(id);
                    }
                }
            }
            Task::Config(image) => {
                self.configs.remove(&image);
                if let Some(of_image) = self.images.get_mut(&image) {
                    of_image.config = Config::Asked;
                }
            }
            Task::Blob { blob, .. } => {
                self.blobs.give(blob);
                self.in_flight += 1;
            }
        }
        self.actions.push_back(Action::Give { unit: id, task });
    }

    fn task_for(&mut self, id: UnitId, now: Instant) -> Option<Task> {
        let unit = self.units.get(&id)?;
        let host = &self.hosts[unit.host.0];
        if !host.may_ask(id, now) {
            return None;
        }
        if unit.asking().is_some() {
            // A second task may wait at the unit, so that the proxy has the next call at once, as long as
            // there are enough tasks for all.
            let late = host.governor.late_after();
            let answers_on_time = !host.outage.is_active() && !unit.is_late(late, now);
            let has_enough_blobs = self.blobs.ready_count() > 2 * self.units.len();
            let may = answers_on_time && has_enough_blobs && unit.queued().is_none();
            return may.then(|| self.blob_for(id, unit, now)).flatten();
        }
        let task = self.own_task_for(id, unit, now);
        if task.is_some() || unit.load() > 0 {
            return task;
        }
        if let Some(image) = self.image_to_help_with(id, now) {
            return Some(Task::Open(image));
        }
        if !self.move_to_other_host(id) {
            return None;
        }
        let unit = self.units.get(&id)?;
        self.own_task_for(id, unit, now)
    }

    fn own_task_for(&self, id: UnitId, unit: &Unit, now: Instant) -> Option<Task> {
        let opening = || self.image_to_open(unit, now).map(Task::Open);
        let config = || self.config_for(id, unit, now).map(Task::Config);
        opening()
            .or_else(config)
            .or_else(|| self.blob_for(id, unit, now))
    }

    /// Moves an idle unit to another host that needs one. Returns whether it was moved.
    fn move_to_other_host(&mut self, id: UnitId) -> bool {
        if self.hosts.len() == 1 {
            return false;
        }
        let Some(kind) = self.units.get(&id).map(|unit| unit.kind) else {
            return false;
        };
        let needs_unit = |host: &super::HostId| {
            let of_host = &self.hosts[host.0];
            let is_idle = of_host.waiting.is_empty() && of_host.backlog.blobs == 0;
            !is_idle && self.at_work(*host) < self.most_at(*host)
        };
        let of_kind = |image: &&Image| image.kind == kind;
        let mut hosts = self.images.values().filter(of_kind).map(|image| image.host);
        let here = self.units.get(&id).map(|unit| unit.host);
        let next = hosts.find(|host| Some(*host) != here && needs_unit(host));
        let (Some(host), Some(unit)) = (next, self.units.get_mut(&id)) else {
            return false;
        };
        unit.host = host;
        true
    }

    /// How many openings are under way at the unit's host.
    fn openings_under_way(&self, unit: &Unit) -> usize {
        let of_host = |other: &&Unit| other.host == unit.host;
        let others = self.units.values().filter(of_host);
        others
            .filter(|other| matches!(other.asking(), Some(Task::Open(_))))
            .count()
    }

    fn may_open(&self, unit: &Unit, now: Instant) -> bool {
        let host = &self.hosts[unit.host.0];
        self.openings_under_way(unit) < host.max_openings(now)
    }

    fn image_to_open(&self, unit: &Unit, now: Instant) -> Option<ImageId> {
        let host = &self.hosts[unit.host.0];
        let mut waiting = host
            .waiting
            .iter()
            .filter(|id| self.is_of_kind(**id, unit.kind));
        let image = *waiting.next()?;
        self.may_open(unit, now).then_some(image)
    }

    fn is_of_kind(&self, image: ImageId, kind: KindId) -> bool {
        self.images
            .get(&image)
            .is_some_and(|image| image.kind == kind)
    }

    /// A config that this unit can ask for. If another unit is about to open the same image and has nothing else to do,
    /// the config is left to that unit, and this unit fetches layers, the largest first.
    fn config_for(&self, id: UnitId, unit: &Unit, now: Instant) -> Option<ImageId> {
        let can = |image: &&ImageId| {
            let of_image = self.images.get(image);
            of_image.is_some_and(|of_image| {
                let may_ask = self.hosts[of_image.host.0].may_ask(id, now);
                unit.has(of_image.source, **image) && may_ask
            })
        };
        let image = *self.configs.iter().find(can)?;
        let late = self.hosts[unit.host.0].governor.late_after();
        let source = self.images.get(&image)?.source;
        let is_starting = |unit: &Unit| unit.stage == Stage::Starting && self.is_only_image(image);
        let is_idle = |unit: &Unit| unit.load() == 0 && unit.has(source, image);
        let will_be_free = |(other, state): (&UnitId, &Unit)| {
            *other != id
                && !state.retired
                && state.used != Use::Served
                && state.paused_until.is_none()
                && !state.is_late(late, now)
                && (is_starting(state) || state.is_opening(image) || is_idle(state))
        };
        let leave_to_other =
            self.units.iter().any(will_be_free) && self.blob_for(id, unit, now).is_some();
        (!leave_to_other).then_some(image)
    }

    /// Whether this is the only image, and warm proxies are started for it.
    fn is_only_image(&self, image: ImageId) -> bool {
        self.images.len() == 1 && self.images.contains_key(&image) && self.settings.start_ahead
    }

    /// A blob of the sources that this unit has open.
    fn blob_for(&self, id: UnitId, unit: &Unit, now: Instant) -> Option<Task> {
        if self.in_flight >= self.settings.in_flight {
            return None;
        }
        // The unit may have been moved here from a host that has an outage.
        let may_ask = |source: &&SourceId| {
            let source = self.sources.get(source);
            source.is_some_and(|source| self.hosts[source.host.0].may_ask(id, now))
        };
        let can_ask_through = |image: &&ImageId| {
            let of_image = self.images.get(image);
            let has = |of: &Image| unit.has(of.source, **image) && may_ask(&&of.source);
            of_image.is_some_and(has)
        };
        let restricted = self.blobs.restricted.iter().find_map(|blob| {
            let images = &self.blobs.get(*blob)?.images;
            let by = *images.iter().find(can_ask_through)?;
            Some(Task::Blob { blob: *blob, by })
        });
        if restricted.is_some() {
            return restricted;
        }
        let blob = self
            .blobs
            .pick(unit.open.keys().filter(may_ask), |_, blob| {
                blob.failed_at != Some(id) || !self.other_unit_can_ask(id, &blob.sources, now)
            })?;
        let of_blob = self.blobs.get(blob)?;
        let any = || {
            let mut open = of_blob
                .sources
                .iter()
                .filter(may_ask)
                .filter_map(|source| unit.open.get(source));
            open.find_map(|images| images.first().copied())
        };
        let by = of_blob
            .images
            .iter()
            .find(can_ask_through)
            .copied()
            .or_else(any)?;
        Some(Task::Blob { blob, by })
    }

    /// Whether another unit can ask for blobs of these sources now or soon.
    fn other_unit_can_ask(&self, id: UnitId, sources: &[SourceId], now: Instant) -> bool {
        self.units.iter().any(|(other, unit)| {
            let can_ask_soon = |source: &SourceId| {
                unit.open.contains_key(source) && self.can_ask_soon(unit, *source, now)
            };
            *other != id && sources.iter().any(can_ask_soon)
        })
    }

    /// Whether a unit can ask for blobs of this source now or soon. A unit does not count if it has been at
    /// its maximum number of tasks for long, or if it waits for a late answer.
    fn can_ask_soon(&self, unit: &Unit, source: SourceId, now: Instant) -> bool {
        let opens = |of: &super::Source| of.images.iter().any(|image| unit.is_opening(*image));
        let is_opening = || self.sources.get(&source).is_some_and(opens);
        let host = &self.hosts[unit.host.0];
        let is_full = unit.load() >= host.rules.per_unit && self.is_inactive(host, now);
        let is_late = unit.is_late(host.governor.late_after(), now);
        !unit.retired && !is_full && !is_late && (unit.open.contains_key(&source) || is_opening())
    }

    /// The sources whose units have a backlog of at least `least_backlog` blobs each, the largest backlog
    /// first. A blob that several units can ask for counts in part for each of them. Sources without any unit
    /// come first.
    #[expect(clippy::cast_precision_loss, reason = "there are few units")]
    fn sources_with_backlog(&self, least_backlog: f64, now: Instant) -> Vec<SourceId> {
        let mut backlogs: BTreeMap<UnitId, f64> = BTreeMap::new();
        let mut with_backlog: Vec<(f64, SourceId)> = Vec::new();
        let units_of = |source: SourceId| -> Vec<UnitId> {
            let units = self.units.iter();
            let units = units.filter(|(_, unit)| self.can_ask_soon(unit, source, now));
            units.map(|(id, _)| *id).collect()
        };
        let sources = self.blobs.waiting();
        let units: BTreeMap<SourceId, Vec<UnitId>> =
            sources.map(|source| (source, units_of(source))).collect();
        for blob in self.blobs.ready() {
            let all = blob.sources.iter().filter_map(|source| units.get(source));
            let all: BTreeSet<UnitId> = all.flatten().copied().collect();
            for unit in &all {
                *backlogs.entry(*unit).or_default() += 1.0 / all.len() as f64;
            }
        }
        for (source, units) in &units {
            let backlog = |unit: &UnitId| backlogs.get(unit).copied().unwrap_or_default();
            let least = units.iter().map(backlog).fold(f64::INFINITY, f64::min);
            if least >= least_backlog {
                with_backlog.push((least, *source));
            }
        }
        with_backlog.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        with_backlog.into_iter().map(|(_, source)| source).collect()
    }

    /// An image for an idle unit to open: one that only units with late calls have open, one of a source with a
    /// backlog, or one that another unit is opening.
    fn image_to_help_with(&mut self, id: UnitId, now: Instant) -> Option<ImageId> {
        let unit = self.units.get(&id)?;
        if !self.may_open(unit, now) {
            return None;
        }
        let lost = self.image_held_by_late_units(unit, now);
        let new = self.image_being_opened(id, unit);
        lost.or_else(|| self.image_with_backlog(id, now)).or(new)
    }

    /// Queues the [lost images](Self::lost_images) to be opened again. Such an opening is like the first one of the
    /// image: if it fails too often, the image fails.
    pub(super) fn reopen_lost_images(&mut self) {
        if !std::mem::take(&mut self.may_have_lost) {
            return;
        }
        for image in self.lost_images() {
            if let Some(of_image) = self.images.get_mut(&image) {
                of_image.opening = Opening::Waiting;
                self.hosts[of_image.host.0].waiting.insert(image);
            }
        }
    }

    /// The images that were open, are open in no unit any more, and are needed to ask for a config or a blob: each
    /// image with a config to ask for, one image for each blob that only some images give access to, and one image for
    /// each source of other blobs.
    fn lost_images(&self) -> BTreeSet<ImageId> {
        let units = || self.units.values().filter(|unit| !unit.retired);
        let is_lost = |id: &ImageId| {
            let has = |unit: &Unit, of: &Image| unit.has(of.source, *id) || unit.is_opening(*id);
            let of_image = self.images.get(id);
            of_image.is_some_and(|of| {
                of.opening == Opening::Opened && !units().any(|unit| has(unit, of))
            })
        };
        let configs = self.configs.iter().copied();
        let mut lost: BTreeSet<ImageId> = configs.filter(is_lost).collect();
        for blob in &self.blobs.restricted {
            let images = self.blobs.get(*blob).map_or(&[][..], |blob| &blob.images);
            if images.iter().all(is_lost) {
                lost.extend(images.first());
            }
        }
        let mut served: BTreeSet<SourceId> =
            units().flat_map(|unit| unit.open.keys().copied()).collect();
        let to_be_opened = (self.images.iter()).filter(|(id, _)| lost.contains(id) || !is_lost(id));
        served.extend(to_be_opened.map(|(_, image)| image.source));
        for source in self.blobs.waiting() {
            let is_needed = |blob: &Blob| blob.sources.iter().all(|one| !served.contains(one));
            let of_source = self.sources.get(&source);
            if self.blobs.ready_of(source).any(is_needed)
                && let Some(of_source) = of_source
            {
                lost.extend(of_source.images.first());
                served.insert(source);
            }
        }
        lost
    }

    /// An image that only units with late calls have open, and without which a config or a blob can't be asked for.
    fn image_held_by_late_units(&self, unit: &Unit, now: Instant) -> Option<ImageId> {
        let late = self.hosts[unit.host.0].governor.late_after();
        let is_open = |image: ImageId, source: SourceId| {
            let has = |unit: &Unit| unit.has(source, image) || unit.is_opening(image);
            let can = |unit: &&Unit| !unit.retired && !unit.is_late(late, now);
            self.units.values().filter(can).any(has)
        };
        let can = |image: &ImageId| {
            let of_image = self.images.get(image);
            of_image.filter(|of| {
                of.host == unit.host
                    && of.kind == unit.kind
                    && !unit.cannot_open.contains(&of.source)
            })
        };
        let config = self
            .configs
            .iter()
            .find(|image| can(image).is_some_and(|of_image| !is_open(**image, of_image.source)));
        let restricted = || {
            self.blobs.restricted.iter().find_map(|blob| {
                let images = &self.blobs.get(*blob)?.images;
                let is_open = |image: &ImageId| {
                    let of_image = self.images.get(image);
                    of_image.is_some_and(|of_image| is_open(*image, of_image.source))
                };
                if images.iter().any(is_open) {
                    return None;
                }
                images.iter().find(|image| can(image).is_some())
            })
        };
        config.or_else(restricted).copied()
    }

    /// An image of a source whose backlog is large enough for another unit to help.
    fn image_with_backlog(&mut self, id: UnitId, now: Instant) -> Option<ImageId> {
        let is_known = |then| now.saturating_duration_since(then) < NO_HELP_REUSED_FOR;
        let unit = self.units.get(&id)?;
        if self.in_flight >= self.settings.in_flight
            || unit.no_help_needed_since.is_some_and(is_known)
        {
            return None;
        }
        let rules = self.hosts[unit.host.0].rules;
        let least_backlog = match (rules.counts_openings, rules.least == rules.most) {
            // A unit helps only with blobs that no other unit can ask for.
            (true, _) => f64::INFINITY,
            // A fixed number of proxies was requested, so all of them help early.
            (false, true) => 1.0,
            (false, false) => BACKLOG_FOR_HELP[usize::from(!unit.open.is_empty())],
        };
        let with_backlog = self.sources_with_backlog(least_backlog, now);
        let found = with_backlog.into_iter().find_map(|source| {
            let of_source = self.sources.get(&source)?;
            let can = of_source.host == unit.host
                && !unit.cannot_open.contains(&source)
                && !unit.open.contains_key(&source);
            let mut images = of_source.images.iter().filter(|_| can);
            images
                .find(|image| self.is_of_kind(**image, unit.kind))
                .copied()
        });
        if found.is_none()
            && let Some(unit) = self.units.get_mut(&id)
        {
            unit.no_help_needed_since = Some(now);
        }
        found
    }

    /// An image that another unit is opening for the first time: most images have enough blobs for more than
    /// one unit. `None` if there are enough images for all units.
    fn image_being_opened(&self, id: UnitId, unit: &Unit) -> Option<ImageId> {
        let host = &self.hosts[unit.host.0];
        let is_useful = self.settings.start_ahead
            && host.rules.is_registry
            && !host.rules.counts_openings
            && host.waiting.is_empty()
            && host.images < self.most_at(unit.host)
            && unit.open.is_empty();
        if !is_useful {
            return None;
        }
        let being_opened = |(image, of_image): (&ImageId, &Image)| {
            let is_by_another = matches!(of_image.opening, Opening::By(other) if other != id);
            let fits = of_image.host == unit.host
                && of_image.kind == unit.kind
                && !unit.cannot_open.contains(&of_image.source);
            (is_by_another && fits).then_some(*image)
        };
        let images = self.images.iter().filter_map(being_opened);
        let opened_by = |image: &ImageId| {
            self.units
                .values()
                .filter(|unit| unit.is_opening(*image))
                .count()
        };
        images.min_by_key(opened_by)
    }
}
