//! What is known of a host: its rules, and how it answers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::governor::{Governor, ToAsk};
use super::outage::Outage;
use super::{ImageId, UnitId};

/// How many openings are under way at a host at which none has succeeded: if it has trouble, or the image is
/// not there, each of them is in vain.
const MOST_UNPROVED: usize = 8;

/// How long the first opening may take before the others are given up. A registry that answers takes less; one
/// that throttles is asked again by each proxy after some seconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What a host allows, and what its proxies are for.
#[derive(Debug, Clone, Copy)]
pub(in crate::fetch) struct HostRules {
    /// The least units, if there is enough to do.
    pub(in crate::fetch) least: usize,
    /// The most units.
    pub(in crate::fetch) most: usize,
    /// The most tasks that one unit is at.
    pub(in crate::fetch) per_unit: usize,
    /// It has images by name, at a distance.
    pub(in crate::fetch) is_registry: bool,
    /// It counts openings: none is made that is not needed.
    pub(in crate::fetch) counts_openings: bool,
    /// An image could be opened there before.
    pub(in crate::fetch) is_proved: bool,
}

/// Whether those who ask there give a name and a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fetch) enum Login {
    No,
    /// Or it is not known yet.
    Perhaps,
}

#[derive(Debug, Clone)]
pub(super) struct Host<E> {
    pub(super) rules: HostRules,
    pub(super) governor: Governor,
    pub(super) outage: Outage,
    pub(super) proved: bool,
    pub(super) login: Login,
    /// No image is opened there any more, or not before that.
    pub(super) locked: Option<(E, Option<Instant>)>,
    /// Images that are to be opened.
    pub(super) waiting: BTreeSet<ImageId>,
    /// How many images there are that are not forgotten.
    pub(super) images: usize,
    pub(super) to_ask: ToAsk,
    /// When the first opening began.
    pub(super) asked_since: Option<Instant>,
    /// An opening is to be made again.
    pub(super) failed_once: bool,
}

impl<E: Clone> Host<E> {
    pub(super) fn new(rules: HostRules, processors: u32) -> Self {
        Self {
            governor: Governor::new(rules.least, rules.most, processors),
            outage: Outage::none(),
            proved: rules.is_proved,
            login: Login::Perhaps,
            locked: None,
            waiting: BTreeSet::new(),
            images: 0,
            to_ask: ToAsk::default(),
            asked_since: None,
            failed_once: false,
            rules,
        }
    }

    /// No more units, each with so many tasks at most.
    pub(super) fn at_most(&mut self, most: usize, per_unit: usize) {
        self.rules.per_unit = per_unit;
        self.rules.most = self.rules.most.min(most);
        self.rules.least = self.rules.least.min(most);
        self.governor.at_most(most);
    }

    /// Whether something of it is to be opened or asked for.
    pub(super) fn has_work(&self) -> bool {
        !self.waiting.is_empty() || self.to_ask.blobs > 0
    }

    /// Why no image is opened there now. After a while it is asked again as if nothing were known of it.
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

    /// A blob could be had from it.
    pub(super) fn answered(&mut self) {
        self.outage.answered();
        self.proved = true;
    }

    /// An image could be opened there.
    pub(super) fn opened(&mut self) {
        self.outage.opened();
        self.proved = true;
    }

    /// Whether this unit may ask it for something now.
    pub(super) fn lets(&self, unit: UnitId, now: Instant) -> bool {
        self.outage.lets(unit.0, now)
    }

    pub(super) fn is_unproved_login(&self) -> bool {
        self.rules.is_registry && !self.proved && self.login == Login::Perhaps
    }

    /// How many openings may be under way. A registry may lock an account after a few wrong passwords.
    pub(super) fn openings(&self, now: Instant) -> usize {
        if self.proved || !self.rules.is_registry {
            usize::MAX
        } else if self.login == Login::Perhaps || self.has_trouble(now) {
            1
        } else {
            MOST_UNPROVED
        }
    }

    /// Nothing could be had from it yet, and its first answer takes longer than is usual, or was none.
    pub(super) fn has_trouble(&self, now: Instant) -> bool {
        let is_slow = |since| now.saturating_duration_since(since) >= PATIENCE;
        let is_unproved = !self.proved && self.rules.is_registry;
        is_unproved && (self.failed_once || self.asked_since.is_some_and(is_slow))
    }
}
