//! The state of a host: its rules, and how it answers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::governor::{Backlog, Governor};
use super::outage::Outage;
use super::{ImageId, UnitId};

/// How many openings may be under way at a host where none has succeeded. If the host has trouble, or the
/// image does not exist, each of them is wasted.
const MAX_OPENINGS_BEFORE_SUCCESS: usize = 8;

/// How long the first opening may take before the other openings are given up. A healthy registry answers
/// sooner. If the registry throttles, each proxy retries after some seconds, and more proxies send more requests.
pub(super) const SLOW_AFTER: Duration = Duration::from_secs(5);

/// The limits and properties of a host.
#[derive(Debug, Clone, Copy, Hash)]
pub(in crate::fetch) struct HostRules {
    /// The minimum number of units, if there is enough to do.
    pub(in crate::fetch) least: usize,
    /// The maximum number of units.
    pub(in crate::fetch) most: usize,
    /// The maximum number of tasks of one unit at a time.
    pub(in crate::fetch) per_unit: usize,
    /// Whether the host is a registry.
    pub(in crate::fetch) is_registry: bool,
    /// Whether the host limits the number of openings, so that an image is not opened more often
    /// than necessary.
    pub(in crate::fetch) counts_openings: bool,
    /// Whether something was fetched from this host before. Always true if the host is no registry.
    pub(in crate::fetch) has_answered: bool,
}

/// Whether calls to a host send credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::fetch) enum Login {
    No,
    /// The calls may send credentials, or this is not known yet.
    Unconfirmed,
}

#[derive(Debug, Clone, Hash)]
pub(super) struct Host<E> {
    pub(super) rules: HostRules,
    pub(super) governor: Governor,
    pub(super) outage: Outage,
    pub(super) has_answered: bool,
    pub(super) login: Login,
    /// The error because of which no image is opened at this host, and until when. `None` as the time means for ever.
    pub(super) locked: Option<(E, Option<Instant>)>,
    /// The images that are to be opened.
    pub(super) waiting: BTreeSet<ImageId>,
    /// The number of images that are not forgotten.
    pub(super) images: usize,
    pub(super) backlog: Backlog,
    /// The start of the first opening.
    pub(super) asked_since: Option<Instant>,
    /// Whether an opening has failed and is to be retried.
    pub(super) failed_once: bool,
}

impl<E: Clone> Host<E> {
    pub(super) fn new(rules: HostRules, processors: u32) -> Self {
        Self {
            governor: Governor::new(rules.least, rules.most, processors),
            outage: Outage::none(),
            has_answered: rules.has_answered,
            login: Login::Unconfirmed,
            locked: None,
            waiting: BTreeSet::new(),
            images: 0,
            backlog: Backlog::default(),
            asked_since: None,
            failed_once: false,
            rules,
        }
    }

    /// Lowers the maximum number of units, and sets the maximum number of tasks of each.
    pub(super) fn at_most(&mut self, most: usize, per_unit: usize) {
        self.rules.per_unit = per_unit;
        self.rules.most = self.rules.most.min(most);
        self.rules.least = self.rules.least.min(most);
        self.governor.at_most(most);
    }

    /// Whether an image is to be opened, or a blob is to be asked for.
    pub(super) fn has_work(&self) -> bool {
        !self.waiting.is_empty() || self.backlog.blobs > 0
    }

    /// The error because of which no image is opened now. When the lock ends, the host is treated as if it
    /// had never failed.
    pub(super) fn refusal(&mut self, now: Instant) -> Option<E> {
        let (error, until) = self.locked.as_ref()?;
        if until.is_none_or(|until| now < until) {
            return Some(error.clone());
        }
        self.locked = None;
        self.outage = Outage::none();
        self.failed_once = false;
        self.asked_since = None;
        None
    }

    /// Records that a call for a blob was answered.
    pub(super) fn answered(&mut self) {
        self.outage.answered();
        self.has_answered = true;
    }

    /// Records that an image was opened.
    pub(super) fn opened(&mut self) {
        self.outage.opened();
        self.has_answered = true;
    }

    /// Whether this unit may ask the host for something now.
    pub(super) fn may_ask(&self, unit: UnitId, now: Instant) -> bool {
        self.outage.may_ask(unit.0, now)
    }

    pub(super) fn has_unconfirmed_login(&self) -> bool {
        self.rules.is_registry && !self.has_answered && self.login == Login::Unconfirmed
    }

    /// How many openings may be under way at the same time. Only one is allowed with unconfirmed credentials,
    /// because a registry may lock an account after a few wrong passwords.
    pub(super) fn max_openings(&self, now: Instant) -> usize {
        if self.has_answered || !self.rules.is_registry {
            usize::MAX
        } else if self.login == Login::Unconfirmed || self.has_trouble(now) {
            1
        } else {
            MAX_OPENINGS_BEFORE_SUCCESS
        }
    }

    /// Whether nothing could be opened yet, and the first answer is late or was a refusal.
    pub(super) fn has_trouble(&self, now: Instant) -> bool {
        let is_slow = |since| now.saturating_duration_since(since) >= SLOW_AFTER;
        let nothing_succeeded = !self.has_answered && self.rules.is_registry;
        nothing_succeeded && (self.failed_once || self.asked_since.is_some_and(is_slow))
    }
}
