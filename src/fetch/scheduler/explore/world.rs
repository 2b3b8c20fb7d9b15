//! A small world: the real scheduler, with proxies and a registry that do what a step says.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use super::super::host::{HostRules, Login};
use super::super::*;
use crate::fetch::retry::RetryPolicy;

/// The parameters of a world.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    /// Kind, source and blobs of each image.
    pub(super) images: &'static [(usize, &'static str, &'static [u8])],
    pub(super) login: Login,
    pub(super) units: usize,
    /// The maximum number of failures.
    pub(super) failures: usize,
    /// The maximum number of blobs that fall quiet.
    pub(super) quiets: usize,
}

const TICK: Duration = Duration::from_millis(1);

/// How much time passes in one step. It is longer than the interval between two starts, so that the units of a world
/// work at the same time.
const STEP: Duration = Duration::from_millis(5);

/// The number of processors of a world.
const PROCESSORS: u32 = 4;

/// The maximum number of steps until a world that follows one [`Course`] has ended.
const MAX_STEPS: usize = 3000;

const MAX_OPENINGS: usize = 8;

#[derive(Debug, Clone, Hash)]
pub(super) struct Proxy {
    kind: usize,
    pub(super) is_starting: bool,
    /// The tasks that the proxy was given and has not answered. It is asked for the first one now.
    asked: VecDeque<Task>,
    draining: Vec<Task>,
    open: BTreeSet<ImageId>,
    is_retired: bool,
}

#[derive(Debug, Clone, Hash)]
pub(super) struct World {
    scheduler: Scheduler<u8>,
    pub(super) proxies: BTreeMap<UnitId, Proxy>,
    /// The images that have ended, and whether they were fetched.
    ended: BTreeMap<ImageId, bool>,
    done: BTreeSet<BlobId>,
    failures: usize,
    quiets: usize,
    pub(super) ticks: u32,
    /// Whether the registry refused a call. No unit may ask then before time passes, or before a call that was
    /// under way succeeds.
    is_refused: bool,
    /// Whether the refused call was for a blob, so that an opened image does not end the outage.
    blob_was_refused: bool,
    has_succeeded: bool,
    wrong_logins: usize,
}

/// One thing that can happen in a world.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Ready(UnitId),
    StartFails(UnitId),
    Dies(UnitId),
    Succeeds(UnitId),
    Answered(UnitId),
    Drained(UnitId, usize),
    Fails(UnitId, Failing),
    BreaksOff(UnitId, usize),
    /// No byte of a blob comes for a while.
    FallsQuiet(UnitId, usize),
    TimePasses,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Failing {
    Refused(RefusalReason),
    Final,
    Lost,
    Hangs,
}

/// A rule for everything that happens from a state on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Course {
    AllSucceeds,
    /// Every call of this kind fails in this way. All else succeeds.
    Fails(Kind, Failing),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Open,
    Config,
    Blob,
}

impl Kind {
    fn is_of(self, task: Task) -> bool {
        let kind = match task {
            Task::Open(_) => Self::Open,
            Task::Config(_) => Self::Config,
            Task::Blob { .. } => Self::Blob,
        };
        kind == self
    }
}

pub(super) const FAILINGS: [Failing; 7] = [
    Failing::Refused(RefusalReason::Transient),
    Failing::Refused(RefusalReason::Missing),
    Failing::Refused(RefusalReason::Login),
    Failing::Refused(RefusalReason::Throttled),
    Failing::Final,
    Failing::Lost,
    Failing::Hangs,
];

impl World {
    pub(super) fn new(setting: Setting, begun: Instant) -> Self {
        let settings = Settings {
            retry: RetryPolicy::default().retries(1).initial_backoff(TICK),
            starts_at_a_time: PROCESSORS,
            units: setting.units,
            in_flight: 2,
            start_ahead: true,
            is_limited: false,
        };
        let mut scheduler = Scheduler::new(settings, begun);
        let host = scheduler.add_host(HostRules {
            least: 1,
            most: setting.units,
            per_unit: 2,
            is_registry: true,
            counts_openings: false,
            has_answered: false,
        });
        scheduler.set_login(host, setting.login);
        for (kind, source, _) in setting.images {
            scheduler.add_image(host, KindId(*kind), source, begun);
        }
        Self {
            scheduler,
            proxies: BTreeMap::new(),
            ended: BTreeMap::new(),
            done: BTreeSet::new(),
            failures: setting.failures,
            quiets: setting.quiets,
            ticks: 0,
            is_refused: false,
            blob_was_refused: false,
            has_succeeded: false,
            wrong_logins: 0,
        }
    }

    /// Carries out all actions of the scheduler.
    pub(super) fn settle(&mut self, setting: Setting, now: Instant) {
        while let Some(action) = self.scheduler.next(now) {
            self.carry_out(&action, setting, now);
        }
        self.check(setting);
    }

    fn carry_out(&mut self, action: &Action<u8>, setting: Setting, now: Instant) {
        match *action {
            Action::Start { unit, kind } => {
                let proxy = Proxy {
                    kind: kind.0,
                    is_starting: true,
                    asked: VecDeque::new(),
                    draining: Vec::new(),
                    open: BTreeSet::new(),
                    is_retired: false,
                };
                assert!(self.proxies.insert(unit, proxy).is_none(), "{unit:?} twice");
            }
            Action::Give { unit, task } => {
                let all = self.proxies.values();
                let mut tasks = all.flat_map(|proxy| proxy.asked.iter().chain(&proxy.draining));
                let is_same = |other: &Task| match (task, *other) {
                    (Task::Blob { blob, .. }, Task::Blob { blob: other, .. }) => blob == other,
                    (Task::Config(image), Task::Config(other)) => image == other,
                    _ => false,
                };
                assert!(!tasks.any(is_same), "{task:?} is given twice");
                if let Task::Blob { blob, .. } = task {
                    assert!(!self.done.contains(&blob), "{blob:?} is done");
                }
                let proxy = self.proxies.get_mut(&unit).expect("a unit that is there");
                if let Task::Open(image) = task {
                    let kind = setting.images[image.0].0;
                    assert_eq!(proxy.kind, kind, "{unit:?} can't open {image:?}");
                }
                assert!(
                    !proxy.is_starting && !proxy.is_retired,
                    "{unit:?} takes nothing"
                );
                if let Task::Config(by) | Task::Blob { by, .. } = task {
                    assert!(proxy.open.contains(&by), "{by:?} is not open in {unit:?}");
                }
                assert!(
                    !self.is_refused,
                    "{task:?} is asked for although it was refused just now"
                );
                proxy.asked.push_back(task);
                assert!(proxy.asked.len() <= 2, "{unit:?} has too much to ask for");
            }
            Action::Recall { unit } => {
                let proxy = self.proxies.get_mut(&unit).expect("a unit that is there");
                if proxy.asked.len() > 1 {
                    let task = proxy.asked.pop_back().expect("one");
                    self.scheduler.recalled(unit, task, now);
                }
            }
            Action::Retire { unit } => {
                if let Some(proxy) = self.proxies.get_mut(&unit) {
                    proxy.is_retired = true;
                }
            }
            Action::Abandon { unit } => {
                if self.proxies.remove(&unit).is_some() {
                    self.scheduler.ended(unit, None, now);
                }
            }
            Action::Close { unit, image } => {
                if let Some(proxy) = self.proxies.get_mut(&unit) {
                    proxy.open.remove(&image);
                }
            }
            Action::Fetched(image) => {
                assert!(
                    self.ended.insert(image, true).is_none(),
                    "{image:?} ends twice"
                );
                self.scheduler.forget(image);
            }
            Action::Paused { .. } | Action::Throttled { .. } => {}
            Action::Failed { image, .. } => {
                assert!(
                    self.ended.insert(image, false).is_none(),
                    "{image:?} ends twice"
                );
            }
        }
    }

    fn check(&self, setting: Setting) {
        let working = self.proxies.values().filter(|proxy| !proxy.is_retired);
        assert!(working.count() <= 2 * setting.units, "too many units");
        assert!(self.proxies.len() <= 3 * setting.units, "too many proxies");
        let asked = self.proxies.values().flat_map(|proxy| &proxy.asked);
        let openings = asked.filter(|task| matches!(task, Task::Open(_))).count();
        if !self.has_succeeded {
            let most = match setting.login {
                Login::Unconfirmed => 1,
                Login::No => MAX_OPENINGS,
            };
            assert!(
                openings <= most,
                "{openings} openings before one has succeeded"
            );
        }
        if setting.login == Login::Unconfirmed {
            assert!(self.wrong_logins <= 1, "a wrong password is tried again");
        }
    }

    pub(super) fn has_ended(&self, setting: Setting) -> bool {
        self.ended.len() == setting.images.len()
    }

    /// All steps that can be taken next.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut all = vec![Step::TimePasses];
        for (unit, proxy) in &self.proxies {
            let unit = *unit;
            let may_fail = self.failures > 0;
            if may_fail {
                all.push(Step::Dies(unit));
            }
            if proxy.is_starting {
                all.push(Step::Ready(unit));
                if may_fail {
                    all.push(Step::StartFails(unit));
                }
                continue;
            }
            match proxy.asked.front() {
                Some(Task::Blob { .. }) => all.push(Step::Answered(unit)),
                Some(_) => all.push(Step::Succeeds(unit)),
                None => {}
            }
            if proxy.asked.front().is_some() && may_fail {
                all.extend(FAILINGS.map(|failing| Step::Fails(unit, failing)));
            }
            for place in 0..proxy.draining.len() {
                all.push(Step::Drained(unit, place));
                if self.quiets > 0 {
                    all.push(Step::FallsQuiet(unit, place));
                }
                if may_fail {
                    all.push(Step::BreaksOff(unit, place));
                }
            }
        }
        all
    }

    pub(super) fn take(&mut self, step: Step, setting: Setting, begun: Instant) {
        if let Step::TimePasses = step {
            self.ticks += 1;
            self.is_refused = false;
        }
        let now = begun + STEP * self.ticks;
        match step {
            Step::TimePasses => {}
            Step::FallsQuiet(unit, place) => {
                self.quiets -= 1;
                let task = self.proxy(unit).draining[place];
                self.scheduler.quiet(unit, task);
            }
            Step::Ready(unit) => {
                self.proxy(unit).is_starting = false;
                self.scheduler.ready(unit, TICK, now);
            }
            Step::StartFails(unit) | Step::Dies(unit) => {
                self.failures -= 1;
                self.proxies.remove(&unit);
                let lost = UnitError {
                    error: 0,
                    is_transient: matches!(step, Step::Dies(_)),
                };
                self.scheduler.ended(unit, Some(lost), now);
            }
            Step::Succeeds(unit) => self.succeeds(unit, setting, now),
            Step::Answered(unit) => {
                (self.is_refused, self.blob_was_refused) = (false, false);
                let proxy = self.proxy(unit);
                let task = proxy.asked.pop_front().expect("one");
                proxy.draining.push(task);
                self.scheduler.answered(unit, task, TICK, now);
            }
            Step::Drained(unit, place) => {
                let task = self.proxy(unit).draining.remove(place);
                let Task::Blob { blob, .. } = task else {
                    panic!("{task:?} is drained");
                };
                self.done.insert(blob);
                self.scheduler.done(unit, task, now);
            }
            Step::BreaksOff(unit, place) => {
                self.failures -= 1;
                let task = self.proxy(unit).draining.remove(place);
                let next = self
                    .scheduler
                    .failed(unit, task, FailureKind::Broken(1), (now, 1.0));
                // Another repository may still have the blob.
                let Task::Blob { blob, .. } = task else {
                    panic!("{task:?} breaks off");
                };
                let is_wanted = self.scheduler.blobs.get(blob).is_some();
                assert!(next != Next::Rerouted || is_wanted);
            }
            Step::Fails(unit, failing) => self.fails(unit, failing, now),
        }
        // A retired proxy ends when it has no task left.
        let ends =
            |proxy: &Proxy| proxy.is_retired && proxy.asked.is_empty() && proxy.draining.is_empty();
        let gone: Vec<UnitId> = (self.proxies.iter())
            .filter_map(|(unit, proxy)| ends(proxy).then_some(*unit))
            .collect();
        for unit in gone {
            self.proxies.remove(&unit);
            self.scheduler.ended(unit, None, now);
        }
        self.settle(setting, now);
    }

    fn proxy(&mut self, unit: UnitId) -> &mut Proxy {
        self.proxies.get_mut(&unit).expect("a unit that is there")
    }

    fn succeeds(&mut self, unit: UnitId, setting: Setting, now: Instant) {
        let proxy = self.proxy(unit);
        match proxy.asked.pop_front().expect("one") {
            Task::Open(image) => {
                proxy.open.insert(image);
                self.has_succeeded = true;
                self.is_refused &= self.blob_was_refused;
                self.scheduler.opened(unit, image, TICK, now);
                let is_new = self
                    .scheduler
                    .images
                    .get(&image)
                    .is_some_and(|of| !of.is_wanted);
                if is_new {
                    let wanted = |blob: &u8| Wanted {
                        digest: format!("sha256:{blob:064x}").parse().expect("a digest"),
                        copy: 0,
                        size: u64::from(*blob),
                    };
                    let wanted: Vec<Wanted> =
                        setting.images[image.0].2.iter().map(wanted).collect();
                    self.scheduler.fetch(image, &wanted, true);
                }
            }
            Task::Config(image) => self.scheduler.configured(unit, image, now),
            task @ Task::Blob { .. } => panic!("{task:?} is answered first"),
        }
    }

    fn fails(&mut self, unit: UnitId, failing: Failing, now: Instant) {
        self.failures -= 1;
        let task = self.proxy(unit).asked.pop_front().expect("one");
        let failure_kind = match failing {
            Failing::Refused(why) => {
                // A transient refusal stops all units.
                self.is_refused = why == RefusalReason::Transient;
                self.blob_was_refused |= self.is_refused && matches!(task, Task::Blob { .. });
                self.wrong_logins +=
                    usize::from(why == RefusalReason::Login && !self.has_succeeded);
                FailureKind::Refused {
                    error: 2,
                    began: now,
                    why,
                }
            }
            Failing::Final => FailureKind::Final(3),
            Failing::Lost => FailureKind::Lost {
                error: 4,
                unusable: false,
            },
            Failing::Hangs => FailureKind::Lost {
                error: 5,
                unusable: true,
            },
        };
        self.scheduler.failed(unit, task, failure_kind, (now, 1.0));
    }

    /// The step that is taken from here if all calls succeed, except those that `course` lets fail.
    fn next_of(&self, course: Course) -> Step {
        let mut proxies = self.proxies.iter();
        let next = proxies.find_map(|(unit, proxy)| {
            let unit = *unit;
            if proxy.is_starting {
                return Some(Step::Ready(unit));
            }
            if !proxy.draining.is_empty() {
                return Some(Step::Drained(unit, 0));
            }
            let task = proxy.asked.front()?;
            Some(match (course, task) {
                (Course::Fails(kind, failing), task) if kind.is_of(*task) => {
                    Step::Fails(unit, failing)
                }
                (_, Task::Blob { .. }) => Step::Answered(unit),
                _ => Step::Succeeds(unit),
            })
        });
        next.unwrap_or(Step::TimePasses)
    }

    /// Lets time pass until the scheduler wants to be asked again.
    fn pass_time(&mut self, setting: Setting, begun: Instant) {
        let now = begun + STEP * self.ticks;
        let wake = self.scheduler.wake(now).unwrap_or(now);
        let steps = wake
            .duration_since(now)
            .as_nanos()
            .div_ceil(STEP.as_nanos());
        // One of these steps is taken below.
        self.ticks += u32::try_from(steps).expect("not far").saturating_sub(1);
        self.take(Step::TimePasses, setting, begun);
    }

    /// Follows a course until the world has ended, or comes to a state from which this course is known to end.
    pub(super) fn follow(
        &self,
        course: Course,
        ending: &mut HashSet<(Course, u64)>,
        all: (Setting, Instant),
    ) {
        let (setting, begun) = all;
        let mut world = self.clone();
        let mut seen = Vec::new();
        for _ in 0..MAX_STEPS {
            world.failures = usize::MAX;
            let key = (course, world.key());
            if world.has_ended(setting) || ending.contains(&key) {
                ending.extend(seen);
                return;
            }
            seen.push(key);
            match world.next_of(course) {
                Step::TimePasses => world.pass_time(setting, begun),
                step => world.take(step, setting, begun),
            }
        }
        panic!("{course:?} does not end from {self:?}, but is at {world:?}");
    }

    pub(super) fn key(&self) -> u64 {
        let mut hasher = FoldHasher::default();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// A hasher that is fast without optimisation: one multiplication for each number. Each world is hashed many times.
#[derive(Default)]
struct FoldHasher(u64);

impl FoldHasher {
    #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
    fn fold(&mut self, number: u64) {
        /// The fraction of the golden ratio, as a number with 64 bits.
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        let product = u128::from(self.0 ^ number ^ FACTOR) * u128::from(FACTOR);
        let halves = [product as u64, (product >> 64) as u64];
        self.0 = (halves[0] ^ halves[1]).wrapping_add(FACTOR);
    }
}

impl Hasher for FoldHasher {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut number = [0; 8];
            number[..part.len()].copy_from_slice(part);
            self.fold(u64::from_le_bytes(number));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.fold(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.fold(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.fold(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.fold(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.fold(number.cast_unsigned() as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
