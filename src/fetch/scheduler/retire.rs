//! Which units are ended, and how.

use std::collections::BTreeSet;
use std::time::Instant;

use super::unit::{Unit, Use};
use super::{Action, HostId, Image, KindId, Scheduler, SourceId, Task, UnitId};

impl<E: Clone> Scheduler<E> {
    /// The units of this host that are not retired and for which `is_wanted` returns true, the oldest first.
    fn ids_at(&self, host: HostId, is_wanted: impl Fn(&Unit) -> bool) -> Vec<UnitId> {
        let units = self.units.iter();
        let units = units.filter(|(_, unit)| unit.host == host && !unit.retired && is_wanted(unit));
        units.map(|(id, _)| *id).collect()
    }

    pub(super) fn retire(&mut self, id: UnitId) {
        if let Some(unit) = self.units.get_mut(&id).filter(|unit| !unit.retired) {
            unit.retired = true;
            self.may_have_lost = true;
            // The unit may not have begun the task that it was given last, so that task is recalled, too.
            if unit.asking().is_some() {
                self.actions.push_back(Action::Recall { unit: id });
            }
            self.actions.push_back(Action::Retire { unit: id });
        }
    }

    pub(super) fn abandon(&mut self, id: UnitId) {
        if let Some(unit) = self.units.get_mut(&id) {
            unit.retired = true;
            self.may_have_lost = true;
            self.actions.push_back(Action::Abandon { unit: id });
        }
    }

    /// Retires `count` units, the newest first. They finish their tasks. The last unit of a kind is kept, and the only
    /// unit that is not late.
    pub(super) fn retire_newest(&mut self, host: HostId, count: usize, now: Instant) {
        let mut left = count;
        for id in self.ids_at(host, |_| true).into_iter().rev() {
            if left == 0 {
                return;
            }
            if !self.is_last_of_its_kind(id) && !self.is_only_one_on_time(id, now) {
                self.retire(id);
                left -= 1;
            }
        }
    }

    /// Whether all other units of the host wait for late answers, perhaps for ever, and this one does not.
    fn is_only_one_on_time(&self, id: UnitId, now: Instant) -> bool {
        let Some(unit) = self.units.get(&id) else {
            return false;
        };
        let after = self.hosts[unit.host.0].governor.late_after();
        let mut others = self.units.iter().filter(|(other, of_other)| {
            **other != id && of_other.host == unit.host && !of_other.retired
        });
        !unit.is_late(after, now) && others.all(|(_, other)| other.is_late(after, now))
    }

    /// Whether this is the only unit of its kind, and images of the kind are still to be fetched. Another unit would be
    /// started in its place at once.
    fn is_last_of_its_kind(&self, id: UnitId) -> bool {
        let Some(Unit { host, kind, .. }) = self.units.get(&id) else {
            return false;
        };
        let is_other = |(other, unit): (&UnitId, &Unit)| {
            *other != id && unit.host == *host && unit.kind == *kind && !unit.retired
        };
        let needs = |image: &Image| image.host == *host && image.kind == *kind && !image.is_fetched;
        !self.units.iter().any(is_other) && self.images.values().any(needs)
    }

    /// Ends units that have not fetched anything yet if there is less to ask for than there are units.
    pub(super) fn retire_unneeded(&mut self, id: HostId) {
        let host = &self.hosts[id.0];
        let to_do = host.backlog.blobs + self.to_open(id);
        let to_do = to_do.max(usize::from(self.has_configs(id)));
        let is_known = self.images.values().all(|image| image.is_wanted);
        // Units at their maximum number of tasks can't help with the rest.
        let per_unit = host.rules.per_unit;
        let mut at_work = self
            .units_at(id)
            .filter(|unit| unit.load() < per_unit)
            .count();
        if !is_known || host.rules.least == host.rules.most && host.backlog.blobs >= at_work {
            return;
        }
        let idle = self.ids_at(id, |unit| unit.used != Use::Served && unit.open.len() <= 1);
        for unit in idle.into_iter().rev() {
            if at_work <= to_do.max(1) {
                return;
            }
            let is_needed = self.units.get(&unit).is_some_and(|of_unit| {
                of_unit
                    .open
                    .iter()
                    .any(|(source, _)| self.units_with_open(*source) == 1)
            });
            if !is_needed && !self.is_last_of_its_kind(unit) {
                self.abandon(unit);
                at_work -= 1;
            }
        }
    }

    /// Ends units that were started before it was known how many are wanted, if there are too many, and they have not
    /// opened an image yet.
    pub(super) fn retire_started_ahead(&mut self, id: HostId, now: Instant) {
        let host = &self.hosts[id.0];
        if !host.governor.has_estimate()
            || self.to_open(id) > 0
            || host.rules.least == host.rules.most
        {
            return;
        }
        // More are kept than are wanted, because the first estimate of a latency is often too low.
        let wanted = self.wanted(id);
        let kept = wanted.saturating_add(wanted.div_ceil(8));
        // Late units do not count, because other units were started for them.
        let on_time = self.at_work(id) - self.late_units(id, now);
        let excess = on_time.saturating_sub(kept);
        let new = self.ids_at(id, |unit| unit.used == Use::Ahead && unit.open.is_empty());
        for unit in new.into_iter().rev().take(excess) {
            if !self.is_last_of_its_kind(unit) {
                self.abandon(unit);
            }
        }
    }

    /// Retires units with quiet blobs. This is called when there is nothing else to ask the host for. A retired unit
    /// may send the call that tells whether a transfer broke off, although that call blocks its proxy. The proxies of
    /// retired units run on, so their number is limited like that of the units at work.
    pub(super) fn retire_quiet(&mut self, id: HostId) {
        let is_retired = |unit: &&Unit| unit.host == id && unit.retired;
        let retired = self.units.values().filter(is_retired).count();
        let room = self.most_at(id).saturating_sub(retired);
        let quiet = self.ids_at(id, |unit| !unit.quiet.is_empty() && unit.asking().is_none());
        for unit in quiet.into_iter().take(room) {
            self.retire(unit);
        }
    }

    fn units_with_open(&self, source: SourceId) -> usize {
        let has = |unit: &&Unit| !unit.retired && unit.open.contains_key(&source);
        self.units.values().filter(has).count()
    }

    /// Ends all units but one, because a registry in trouble is asked by one unit only. A unit that is asking is
    /// kept, or else one whose kind has images to open. If there is neither, all units are ended.
    pub(super) fn abandon_all_but_one(&mut self, host: HostId) {
        let waiting = self.hosts[host.0].waiting.iter();
        let waiting = waiting.filter_map(|id| self.images.get(id));
        let kinds: BTreeSet<KindId> = waiting.map(|image| image.kind).collect();
        let of_host = |(_, unit): &(&UnitId, &Unit)| unit.host == host && !unit.retired;
        let units = self.units.iter().filter(of_host);
        let mut units: Vec<(bool, bool, UnitId)> = units
            .map(|(id, unit)| {
                let is_asking = matches!(unit.asking(), Some(Task::Open(_)));
                let has_images = kinds.is_empty() || kinds.contains(&unit.kind);
                (!is_asking, !has_images, *id)
            })
            .collect();
        units.sort_unstable();
        let is_useful = |unit: &(bool, bool, UnitId)| !unit.0 || !unit.1;
        let kept = usize::from(units.first().is_some_and(is_useful));
        for (_, _, id) in units.into_iter().skip(kept) {
            self.abandon(id);
        }
    }
}
