//! Scripted tests: a failure of one image does not affect other images that share its host, source or blobs.

use std::time::{Duration, Instant};

use super::host::{HostRules, Login};
use super::*;
use crate::fetch::retry::RetryPolicy;

const MS: fn(u64) -> Duration = Duration::from_millis;

struct Script {
    scheduler: Scheduler<&'static str>,
    now: Instant,
    /// The tasks that units were given and have not ended.
    given: Vec<(UnitId, Task)>,
    closed: Vec<(UnitId, ImageId)>,
    failed: Vec<ImageId>,
    fetched: Vec<ImageId>,
    started: Vec<UnitId>,
    /// The limits that were reported because a registry throttles.
    limits: Vec<usize>,
}

impl Script {
    fn new() -> Self {
        let now = Instant::now();
        let settings = Settings {
            retry: RetryPolicy::default(),
            starts_at_a_time: 2,
            units: 16,
            in_flight: 32,
            start_ahead: false,
            is_limited: false,
        };
        Self {
            scheduler: Scheduler::new(settings, now),
            now,
            given: Vec::new(),
            closed: Vec::new(),
            failed: Vec::new(),
            fetched: Vec::new(),
            started: Vec::new(),
            limits: Vec::new(),
        }
    }

    fn host(&mut self) -> HostId {
        self.host_of(4)
    }

    /// Adds a host with this maximum number of units.
    fn host_of(&mut self, most: usize) -> HostId {
        let host = self.scheduler.add_host(HostRules {
            least: 1,
            most,
            per_unit: 4,
            is_registry: true,
            counts_openings: false,
            has_answered: false,
        });
        self.scheduler.set_login(host, Login::No);
        host
    }

    /// Opens an image in a unit of its own.
    fn open(&mut self, host: HostId, source: &str, blobs: &[u8]) -> (UnitId, ImageId) {
        let unit = self.scheduler.add_unit(host, KindId(0), self.now);
        let image = self.scheduler.add_open_image(host, KindId(0), source, unit);
        self.fetch(image, blobs);
        (unit, image)
    }

    fn fetch(&mut self, image: ImageId, blobs: &[u8]) {
        let wanted = |number: &u8| Wanted {
            digest: format!("sha256:{number:064x}").parse().expect("a digest"),
            copy: 0,
            size: 10,
        };
        let wanted: Vec<Wanted> = blobs.iter().map(wanted).collect();
        self.scheduler.fetch(image, &wanted, false);
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.scheduler.next(self.now) {
            match action {
                Action::Start { unit, .. } => {
                    self.started.push(unit);
                    self.scheduler.ready(unit, MS(10), self.now);
                }
                Action::Give { unit, task } => self.given.push((unit, task)),
                Action::Close { unit, image } => self.closed.push((unit, image)),
                Action::Failed { image, .. } => self.failed.push(image),
                Action::Fetched(image) => self.fetched.push(image),
                Action::Paused { .. } => {}
                Action::Throttled { units, .. } => self.limits.push(units),
                Action::Recall { unit } | Action::Retire { unit } | Action::Abandon { unit } => {
                    self.given.retain(|(other, _)| *other != unit);
                    self.scheduler.ended(unit, None, self.now);
                }
            }
        }
    }

    /// Lets everything succeed at once, except the tasks for which `refused` returns a reason. Ends after `time`.
    fn run_for(&mut self, time: Duration, refused: impl Fn(&Self, Task) -> Option<RefusalReason>) {
        let until = self.now + time;
        while self.now < until {
            self.carry_out();
            for (unit, task) in std::mem::take(&mut self.given) {
                if let Some(why) = refused(self, task) {
                    let failure_kind = FailureKind::Refused {
                        error: "refused",
                        began: self.now,
                        why,
                    };
                    let moment = (self.now + MS(1), 1.0);
                    self.scheduler.failed(unit, task, failure_kind, moment);
                    continue;
                }
                match task {
                    Task::Open(image) => self.scheduler.opened(unit, image, MS(1), self.now),
                    Task::Config(image) => self.scheduler.configured(unit, image, self.now),
                    Task::Blob { .. } => {
                        self.scheduler.answered(unit, task, MS(1), self.now);
                        self.scheduler.done(unit, task, self.now);
                    }
                }
            }
            self.now += MS(50);
        }
        self.carry_out();
    }

    fn is_at_host(&self, task: Task, host: HostId) -> bool {
        let (Task::Open(image) | Task::Config(image) | Task::Blob { by: image, .. }) = task;
        let image = self.scheduler.images.get(&image);
        image.is_some_and(|image| image.host == host)
    }
}

#[test]
fn a_blob_that_one_repository_lacks_is_asked_for_at_another() {
    for same_host in [true, false] {
        let mut script = Script::new();
        let one = script.host();
        let other = if same_host { one } else { script.host() };
        let (_, lacks) = script.open(one, "lacks", &[1]);
        let (_, has) = script.open(other, "has", &[1, 2]);
        script.run_for(Duration::from_secs(2), |script, task| {
            let by = match task {
                Task::Blob { by, .. } => script.scheduler.images.get(&by),
                Task::Open(_) | Task::Config(_) => None,
            };
            let source = by.and_then(|image| script.scheduler.sources.get(&image.source));
            (source?.key == "lacks").then_some(RefusalReason::Missing)
        });
        let ended = (script.fetched, script.failed);
        // The image whose repository lacks the blob is fetched only if the other repository is asked first.
        assert!(ended.0.contains(&has), "{same_host}: {ended:?}");
        assert!(
            !ended.1.contains(&has) && ended.0.len() + ended.1.len() == 2,
            "{ended:?}"
        );
        let _ = lacks;
    }
}

#[test]
fn a_host_that_refuses_everything_fails_its_own_images_only() {
    let mut script = Script::new();
    let (down, up) = (script.host(), script.host());
    let (_, of_down) = script.open(down, "down", &[1, 2, 9]);
    let (_, of_up) = script.open(up, "up", &[9, 8]);
    script.run_for(Duration::from_secs(120), |script, task| {
        script
            .is_at_host(task, down)
            .then_some(RefusalReason::Transient)
    });
    assert_eq!(script.fetched, [of_up]);
    assert_eq!(script.failed, [of_down]);
}

#[test]
fn a_blob_of_a_host_without_images_is_fetched_from_another_host() {
    let mut script = Script::new();
    let (gone, stays) = (script.host(), script.host());
    let (one, forgotten) = script.open(gone, "gone", &[1, 9]);
    let (other, image) = script.open(stays, "stays", &[9]);
    script.scheduler.forget(forgotten);
    for unit in [one, other] {
        script.scheduler.ended(unit, None, script.now);
    }
    script.run_for(Duration::from_secs(2), |_, _| None);
    assert_eq!(script.fetched, [image]);
    assert!(!script.started.is_empty());
}

#[test]
fn a_unit_keeps_no_more_images_of_a_repository_open_than_are_needed() {
    let mut script = Script::new();
    let host = script.host();
    let (unit, first) = script.open(host, "one", &[0]);
    let mut open = vec![first];
    for number in 1..100 {
        let image = script
            .scheduler
            .add_image(host, KindId(0), "one", script.now);
        script.scheduler.record_open(unit, image);
        script.fetch(image, &[number]);
        open.push(image);
        script.run_for(MS(50), |_, _| None);
        for image in std::mem::take(&mut script.fetched) {
            script.scheduler.forget(image);
            open.retain(|open| *open != image);
        }
    }
    script.carry_out();
    let kept: usize = script
        .scheduler
        .units
        .values()
        .flat_map(|unit| unit.open.values())
        .map(BTreeSet::len)
        .sum();
    assert!(kept <= 4, "{kept} are open");
    assert!(
        script.closed.len() >= 95,
        "{} were closed",
        script.closed.len()
    );
}

/// A unit fetches blobs of other images through the last image of the repository that it had open.
#[test]
fn a_blob_asked_for_by_an_image_that_is_forgotten_fails_no_other_repository() {
    let mut script = Script::new();
    let host = script.host();
    let (unit, first) = script.open(host, "one", &[0]);
    let second = script
        .scheduler
        .add_image(host, KindId(0), "one", script.now);
    script.scheduler.record_open(unit, second);
    script.run_for(MS(50), |_, _| None);
    script.scheduler.forget(first);
    // The second image and another repository name the blob. The proxy of the other repository is gone, and
    // the first unit has only its first image open.
    let other = script.scheduler.add_unit(host, KindId(0), script.now);
    let other_image = script
        .scheduler
        .add_open_image(host, KindId(0), "two", other);
    script
        .scheduler
        .units
        .get_mut(&unit)
        .expect("a unit")
        .open
        .values_mut()
        .for_each(|open| {
            *open = [first].into();
        });
    script.fetch(second, &[7]);
    script.fetch(other_image, &[7]);
    script.scheduler.ended(other, None, script.now);
    script.run_for(Duration::from_secs(60), |_, task| {
        let is_first = matches!(task, Task::Blob { by, .. } if by == first || by == second);
        is_first.then_some(RefusalReason::Transient)
    });
    assert!(script.fetched.contains(&other_image), "{:?}", script.failed);
    assert!(!script.failed.contains(&other_image));
}

/// The newest units are retired first when a registry throttles. If the newest one is the only unit of its kind,
/// another one would be started in its place and retired as well, without end, and no unit would ever open the image.
#[test]
fn the_last_unit_of_a_kind_with_images_is_not_retired() {
    let mut script = Script::new();
    let host = script.host();
    script.open(host, "a", &[1]);
    script.open(host, "a", &[2]);
    let (scheduler, now) = (&mut script.scheduler, script.now);
    let other = scheduler.add_unit(host, KindId(1), now);
    let image = scheduler.add_image(host, KindId(1), "a", now);
    scheduler.retire_newest(host, 2, now);
    let is_at_work = |scheduler: &Scheduler<&str>, unit| {
        let unit: Option<&Unit> = scheduler.units.get(&unit);
        unit.is_some_and(|unit| !unit.retired)
    };
    assert!(is_at_work(scheduler, other));
    assert_eq!(scheduler.at_work(host), 2, "one unit of each kind is left");
    script.carry_out();
    assert!(script.given.contains(&(other, Task::Open(image))));
    // Without images of its kind, the unit is retired like all others.
    script.scheduler.forget(image);
    script.scheduler.retire_newest(host, 1, script.now);
    assert!(!is_at_work(&script.scheduler, other));
}

#[test]
fn a_registry_that_throttles_is_reported_if_fewer_units_ask_it_from_then_on() {
    for (units, expected) in [(10, vec![5]), (3, vec![])] {
        let mut script = Script::new();
        let host = script.host_of(16);
        let opened: Vec<_> = (0..units)
            .map(|blob| script.open(host, "a", &[blob]))
            .collect();
        for (number, took) in [MS(1), MS(4_000)].into_iter().enumerate() {
            let (unit, by) = opened[number];
            let blob = BlobId(number);
            let now = script.now;
            script
                .scheduler
                .answered(unit, Task::Blob { blob, by }, took, now);
        }
        script.carry_out();
        assert_eq!(script.limits, expected, "{units} units");
    }
}

/// The only image of a repository fails while one of its blobs is fetched. The blob is wrong, but the other repository
/// was not asked for it.
#[test]
fn a_blob_of_a_forgotten_repository_fails_no_image_of_another_one() {
    let mut script = Script::new();
    script.scheduler.settings.retry = RetryPolicy::default().retries(0);
    let host = script.host();
    let (unit, first) = script.open(host, "one", &[1]);
    script.carry_out();
    let (_, task) = script.given[0];
    let (_, second) = script.open(host, "two", &[1]);
    script.carry_out();
    script.scheduler.answered(unit, task, MS(1), script.now);
    script.scheduler.forget(first);
    let moment = (script.now, 1.0);
    let broken = FailureKind::Broken("wrong");
    script.scheduler.failed(unit, task, broken, moment);
    script.given.clear();
    script.carry_out();
    assert!(script.failed.is_empty(), "{:?}", script.failed);
    script.run_for(Duration::from_secs(2), |_, _| None);
    assert_eq!(script.fetched, [second]);
}

/// A program opens an image, and fetches it later. The answers of that time have waited.
#[test]
fn an_image_that_was_open_for_long_is_fetched_without_a_lower_limit() {
    let mut script = Script::new();
    let host = script.host_of(16);
    for blob in 0..8 {
        script.open(host, "a", &[blob]);
    }
    script.carry_out();
    assert!(script.given.len() >= 8);
    let pause = Duration::from_secs(10);
    script.now += pause;
    script.scheduler.skip_time(pause);
    script.carry_out();
    assert!(script.limits.is_empty(), "{:?}", script.limits);
    // The same time in which the units are asked, and do not answer, lowers the limit.
    script.now += pause;
    script.carry_out();
    assert_eq!(script.limits.len(), 1);
}
