//! How many units there are, and when another one is started.

use std::time::{Duration, Instant};

use super::governor::{Backlog, OPENING_WORK};
use super::host::{Host, SLOW_AFTER};
use super::start_interval::StartInterval;
use super::unit::{Stage, Unit, Use};
use super::{
    Action, HostId, Image, ImageId, KindId, Opening, Scheduler, SourceId, Task, UnitError, UnitId,
};
use crate::fetch::retry::RetryPolicy;
use crate::time::deadline_after;

/// If more than one in this many units waits for a late answer, the registry is taken to be slow, not
/// the proxies.
const MANY_LATE: usize = 4;

/// The state of the starts of proxies.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Starts {
    /// How many starts have failed since the last success. Starts that were under way together count once.
    failed: u32,
    /// Units with this number or a higher one were started after the last failure.
    since: usize,
    /// No start is made before this time.
    not_before: Option<Instant>,
    /// Whether a start failed for a reason that a retry can't change, so that no further start would succeed.
    failed_for_good: bool,
    /// Whether more units are wanted than the start interval allows yet.
    is_delayed: bool,
}

impl Starts {
    pub(super) fn succeeded(&mut self) {
        self.failed = 0;
    }

    /// Records a failed start. Returns whether another start may be made.
    fn failed(
        &mut self,
        unit: UnitId,
        next: usize,
        retry: &RetryPolicy,
        is_transient: bool,
        now: Instant,
    ) -> bool {
        if unit.0 >= self.since {
            self.failed += 1;
            self.since = next;
            self.not_before = Some(deadline_after(now, retry.backoff(self.failed)));
        }
        self.failed_for_good |= !is_transient;
        is_transient && self.failed <= retry.retries
    }

    /// When the next start may be made, if not at once.
    pub(super) fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    pub(super) fn delayed_until(&self, start_interval: &StartInterval) -> Option<Instant> {
        self.is_delayed.then(|| start_interval.due())
    }
}

impl<E: Clone> Scheduler<E> {
    pub(super) fn units_at(&self, host: HostId) -> impl Iterator<Item = &Unit> {
        let of_host = move |unit: &&Unit| unit.host == host && !unit.retired;
        self.units.values().filter(of_host)
    }

    pub(super) fn at_work(&self, host: HostId) -> usize {
        self.units_at(host).count()
    }

    /// The number of units that are not retired.
    pub(in crate::fetch) fn all_at_work(&self) -> usize {
        self.units.values().filter(|unit| !unit.retired).count()
    }

    /// The maximum number of units for a host: what its rules allow, but not more than its share of the
    /// overall maximum.
    pub(super) fn most_at(&self, host: HostId) -> usize {
        self.share(host, self.hosts_with_work())
    }

    fn hosts_with_work(&self) -> usize {
        let has_work = |host: &&Host<E>| host.has_work();
        self.iter_hosts_with_images()
            .filter(has_work)
            .count()
            .max(1)
    }

    fn share(&self, host: HostId, hosts: usize) -> usize {
        let rules = self.hosts[host.0].rules;
        rules.most.min((self.settings.units / hosts).max(1))
    }

    /// How many units make the fetch from this host as fast as possible.
    pub(super) fn wanted(&self, id: HostId) -> usize {
        let host = &self.hosts[id.0];
        let most = self.most_at(id);
        let to_open = self.to_open(id);
        let wanted = if to_open > 0 && !host.governor.has_estimate() {
            // The latency of a call is not known yet. The processors are idle until the first answer comes, so proxies
            // are started in this time.
            let ahead = self.settings.start_ahead && host.rules.is_registry;
            if ahead { most } else { to_open }
        } else {
            host.governor.wanted(Backlog {
                images: to_open,
                ..host.backlog
            })
        };
        let wanted = if host.rules.counts_openings {
            wanted.min(host.images)
        } else {
            wanted
        };
        wanted.clamp(1, most)
    }

    /// How many images of this host no unit has opened.
    pub(super) fn to_open(&self, id: HostId) -> usize {
        let is_opening = |unit: &&Unit| match unit.asking() {
            Some(Task::Open(image)) => self
                .images
                .get(&image)
                .is_some_and(|image| image.opening != Opening::Opened),
            _ => false,
        };
        self.hosts[id.0].waiting.len() + self.units_at(id).filter(is_opening).count()
    }

    /// Starts as many units as make the fetch faster, and ends those that are too many. A few units that wait
    /// for late answers are not counted, so others are started for them. If many units wait, or the registry
    /// throttles, no units are started for them, because more units would make the fetch slower.
    pub(super) fn adjust(&mut self, now: Instant) {
        self.starts.is_delayed = false;
        let hosts: Vec<HostId> = self.hosts_with_images.iter().copied().collect();
        for host in hosts {
            self.adjust_host(host, now);
        }
    }

    fn adjust_host(&mut self, id: HostId, now: Instant) {
        let host = &self.hosts[id.0];
        let has_trouble = host.has_trouble(now);
        if has_trouble {
            self.abandon_all_but_one(id);
        }
        let host = &self.hosts[id.0];
        let to_open = self.to_open(id);
        if host.backlog.blobs == 0 && to_open == 0 && !self.has_configs(id) {
            self.retire_quiet(id);
            return;
        }
        let is_starting = |unit: &Unit| unit.stage == Stage::Starting && !unit.retired;
        let any_starting = self.units.values().any(is_starting);
        let is_paused = self.starts.not_before.is_some_and(|then| now < then);
        // After a failed start, only one proxy is started at a time.
        if is_paused || self.starts.failed > 0 && any_starting {
            return;
        }
        let (at_work, is_out) = (self.at_work(id), host.outage.is_active());
        if at_work > 0 && !has_trouble && self.serve_all_kinds(id, now) {
            return;
        }
        if at_work > 0 && (is_out || self.starts.failed_for_good) {
            return;
        }
        let late = self.late_units(id, now);
        let many = late > (at_work / MANY_LATE).max(1);
        if many {
            let governor = &mut self.hosts[id.0].governor;
            let before = governor.limit();
            governor.record_late_answers(at_work, now);
            self.report_limit(id, before);
        }
        let is_throttled = self.hosts[id.0].governor.is_throttled();
        let working = if many || is_throttled {
            at_work
        } else {
            at_work - late
        };
        let (most, wanted) = if has_trouble {
            (1, 1)
        } else {
            (self.most_with_late(id), self.wanted(id))
        };
        let is_full = self.all_at_work() >= self.most_of_all();
        if self.at_work(id) == 0 && wanted > 0 && is_full && self.start_interval.is_due(now) {
            self.end_idle_unit_of_other_host(id);
        }
        for _ in working..wanted {
            if self.at_work(id) >= most || self.all_at_work() >= self.most_of_all() {
                break;
            }
            if !self.start_interval.is_due(now) {
                self.starts.is_delayed = true;
                break;
            }
            self.start(id, now);
            if self.starts.failed > 0 {
                break;
            }
        }
        if is_throttled {
            self.retire_newest(id, working.saturating_sub(wanted), now);
        }
        self.retire_started_ahead(id, now);
        self.retire_unneeded(id);
        if self.is_starved(id, now) || self.is_stuck(id, now) {
            self.start(id, now);
        }
    }

    /// Whether there is work, but all units wait for late answers. Their proxies may hang although the
    /// registry does not.
    fn is_stuck(&self, id: HostId, now: Instant) -> bool {
        let waits = self.blobs.ready_count() > 0 && self.hosts[id.0].backlog.blobs > 0
            || self.has_configs(id);
        let (at_work, late) = (self.at_work(id), self.late_units(id, now));
        waits
            && late > 0
            && self.in_flight < self.settings.in_flight
            && now.saturating_duration_since(self.active) >= SLOW_AFTER
            && at_work < self.most_with_late(id)
            && at_work - late < self.most_at(id)
    }

    /// Whether there are configs to ask for at this host.
    pub(super) fn has_configs(&self, host: HostId) -> bool {
        self.configs.iter().any(|image| {
            let image = self.images.get(image);
            image.is_some_and(|image| image.host == host)
        })
    }

    /// The maximum number of units of a host while some calls are late. A fixed number of proxies
    /// stays fixed.
    fn most_with_late(&self, id: HostId) -> usize {
        self.share_with_late(id, self.hosts_with_work())
    }

    fn share_with_late(&self, id: HostId, hosts: usize) -> usize {
        let rules = self.hosts[id.0].rules;
        let most = self.share(id, hosts);
        if rules.least == rules.most {
            most
        } else {
            most.saturating_mul(2)
        }
    }

    fn most_of_all(&self) -> usize {
        let hosts = self.hosts_with_work();
        let shares = (self.hosts_with_images.iter()).map(|host| self.share_with_late(*host, hosts));
        self.settings.units.max(shares.max().unwrap_or(0))
    }

    /// How many units wait too long for an answer, or for the start of their proxy.
    pub(super) fn late_units(&self, id: HostId, now: Instant) -> usize {
        let after = self.hosts[id.0].governor.late_after();
        self.units_at(id)
            .filter(|unit| unit.is_late(after, now))
            .count()
    }

    fn start(&mut self, host: HostId, now: Instant) {
        if let Some(kind) = self.kind_for(host) {
            self.start_one(host, kind, now);
        }
    }

    fn start_one(&mut self, host: HostId, kind: KindId, now: Instant) {
        let unit = UnitId(self.next_unit);
        self.next_unit += 1;
        self.start_interval.started(now);
        self.active = now;
        let mut new = Unit::new(host, kind, now);
        if !self.hosts[host.0].governor.has_estimate() {
            new.used = Use::Ahead;
        }
        self.units.insert(unit, new);
        self.actions.push_back(Action::Start { unit, kind });
    }

    /// The kind of the next unit of a host: one that has images but no unit, or else each kind in turn.
    fn kind_for(&self, host: HostId) -> Option<KindId> {
        self.kind_without_units(host).or_else(|| {
            let of_host = self.images.values().filter(|image| image.host == host);
            let kinds: Vec<KindId> = of_host.map(|image| image.kind).collect();
            (!kinds.is_empty()).then(|| kinds[self.next_unit % kinds.len()])
        })
    }

    /// A kind without a unit, whose images are to be opened, or whose configs or blobs are to be asked for.
    fn kind_without_units(&self, host: HostId) -> Option<KindId> {
        let mut images = self.images.values();
        let first = images.next()?.kind;
        let is_first = |unit: &Unit| unit.kind == first;
        if images.all(|image| image.kind == first) && self.units_at(host).any(is_first) {
            return None;
        }
        let waiting = self.hosts[host.0].waiting.iter();
        let is_open = |id: &ImageId, of: &Image| {
            let mut units = self.units.values().filter(|unit| !unit.retired);
            units.any(|unit| unit.has(of.source, *id))
        };
        let unopened = self.configs.iter().filter(|id| {
            let image = self.images.get(id);
            image.is_some_and(|image| image.host == host && !is_open(id, image))
        });
        let nobody_has = |source: &SourceId| {
            let mut units = self.units.values().filter(|unit| !unit.retired);
            !units.any(|unit| unit.open.contains_key(source))
        };
        let sources = self.blobs.waiting().filter(nobody_has);
        let of_blobs = sources.filter_map(|source| self.sources.get(&source));
        let of_blobs = of_blobs.filter(|source| source.host == host);
        let of_blobs = of_blobs.filter_map(|source| source.images.first());
        let kinds = waiting.chain(unopened).chain(of_blobs);
        let kinds = kinds.filter_map(|id| self.images.get(id));
        let mut kinds = kinds.map(|image| image.kind);
        kinds.find(|kind| !self.units_at(host).any(|unit| unit.kind == *kind))
    }

    /// Serves a kind that has images and no unit: starts a unit for it, or ends an idle unit of another kind to
    /// make room. Returns whether there is such a kind.
    fn serve_all_kinds(&mut self, id: HostId, now: Instant) -> bool {
        let Some(kind) = self.kind_without_units(id) else {
            return false;
        };
        let is_full = self.at_work(id) >= self.most_at(id);
        if is_full || self.all_at_work() >= self.most_of_all() {
            // A unit whose own images wait is idle only because the registry must not be asked now.
            let waits = |kind: KindId| {
                let waiting = self.hosts[id.0].waiting.iter();
                let mut waiting = waiting.filter_map(|image| self.images.get(image));
                waiting.any(|image| image.kind == kind)
            };
            let is_idle = |(_, unit): &(&UnitId, &Unit)| {
                let is_ready = unit.stage == Stage::Ready && unit.load() == 0;
                !unit.retired && is_ready && unit.host == id && !waits(unit.kind)
            };
            let idle = self.units.iter().find(is_idle).map(|(unit, _)| *unit);
            if let Some(idle) = idle {
                self.abandon(idle);
            }
        } else if self.start_interval.is_due(now) {
            self.start_one(id, kind, now);
        } else {
            self.starts.is_delayed = true;
        }
        true
    }

    /// Ends an idle unit of another host, because this host has none and the overall maximum is reached.
    fn end_idle_unit_of_other_host(&mut self, host: HostId) {
        let is_idle = |(_, unit): &(&UnitId, &Unit)| {
            let has_work = || self.hosts[unit.host.0].has_work() || self.has_configs(unit.host);
            let is_dispensable = || self.at_work(unit.host) > 1 || !has_work();
            let is_ready = unit.stage == Stage::Ready && unit.load() == 0 && !unit.retired;
            is_ready && unit.host != host && is_dispensable()
        };
        let idle = self.units.iter().find(is_idle).map(|(id, _)| *id);
        if let Some(idle) = idle {
            self.abandon(idle);
        }
    }

    /// Whether blobs wait because all units have been at their maximum number of tasks for long, while more
    /// blobs may be in flight. Transfers or handlers are slow then, and another unit helps. Another unit does
    /// not help if there is a rate limit, or if the registry throttles.
    fn is_starved(&self, id: HostId, now: Instant) -> bool {
        let host = &self.hosts[id.0];
        let is_asking = |unit: &Unit| unit.asking().is_some() || unit.stage == Stage::Starting;
        self.blobs.ready_count() > 0
            && host.backlog.blobs > 0
            && self.in_flight < self.settings.in_flight
            && !self.settings.is_limited
            && !host.governor.is_throttled()
            && self.at_work(id) < self.most_at(id)
            && self.is_inactive(host, now)
            && !self.units_at(id).any(is_asking)
    }

    /// Whether no unit has been given a task for long.
    pub(super) fn is_inactive(&self, host: &Host<E>, now: Instant) -> bool {
        now.saturating_duration_since(self.active) >= host.governor.late_after()
    }

    /// Takes back the tasks that wait behind a late call, so that any unit can do them.
    pub(super) fn recall_from_late_units(&mut self, now: Instant) {
        let mut late = Vec::new();
        for (id, unit) in &mut self.units {
            let host = &self.hosts[unit.host.0];
            let is_late = unit.is_late(host.governor.late_after(), now);
            if unit.queued().is_some() && !unit.recalled && (is_late || host.outage.is_active()) {
                unit.recalled = true;
                late.push(*id);
            }
        }
        for unit in late {
            self.actions.push_back(Action::Recall { unit });
        }
    }

    /// Handles a failed start. The failure does no harm as long as other units work. The next start waits, so
    /// that starts that always fail are not repeated without end.
    pub(super) fn start_failed(
        &mut self,
        id: UnitId,
        kind: KindId,
        lost: &UnitError<E>,
        now: Instant,
    ) {
        let retry = &self.settings.retry;
        let may = self
            .starts
            .failed(id, self.next_unit, retry, lost.is_transient, now);
        let working = self.all_at_work();
        let is_of_kind = |unit: &Unit| unit.kind == kind && !unit.retired;
        if self.units.values().any(is_of_kind) {
            for host in &mut self.hosts {
                host.governor.limit_to_working(working);
            }
            return;
        }
        if may {
            return;
        }
        let of_kind = |(id, image): (&ImageId, &Image)| (image.kind == kind).then_some(*id);
        let images: Vec<ImageId> = self.images.iter().filter_map(of_kind).collect();
        for image in images {
            self.fail(image, &lost.error, 0);
        }
    }

    /// Handles a unit that could not open an image which another unit has opened.
    pub(super) fn could_not_open(&mut self, id: UnitId, source: SourceId, error: &E, now: Instant) {
        let Some(unit) = self.units.get_mut(&id) else {
            return;
        };
        unit.cannot_open.insert(source);
        if !unit.open.is_empty() || unit.retired {
            return;
        }
        let kind = unit.kind;
        self.abandon(id);
        let lost = UnitError {
            error: error.clone(),
            is_transient: true,
        };
        self.start_failed(id, kind, &lost, now);
    }
}

/// The latency of a call, estimated from the duration of an opening. `OpenImage` waits for two answers, one
/// after the other, and the proxy does some work itself.
pub(in crate::fetch) fn call_time_from(opening: Duration) -> Duration {
    opening.saturating_sub(OPENING_WORK) / 2
}
