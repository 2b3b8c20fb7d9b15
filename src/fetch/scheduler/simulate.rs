//! Drives the real scheduler against models of machines, networks and registries, in virtual time.
//!
//! The model: the start of a proxy and the bytes of blobs share the processors evenly. The blobs in flight
//! share the network evenly. An answer takes a fixed time, unless the registry answers only so many requests
//! per second.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::host::{HostRules, Login};
use super::*;
use crate::fetch::retry::RetryPolicy;

/// A machine, its network, and a registry.
#[derive(Debug, Clone, Copy)]
struct Model {
    processors: u32,
    /// The processor time of a start.
    start: Duration,
    /// The latency of an answer.
    answer: Duration,
    /// The bandwidth of all blobs together, in bytes per second.
    bandwidth: f64,
    /// Requests per second, if the registry throttles.
    requests: Option<f64>,
}

/// A machine with two processors, and a registry that answers after 50 ms.
const FAR: Model = Model {
    processors: 2,
    start: Duration::from_millis(15),
    answer: Duration::from_millis(50),
    bandwidth: 125e6,
    requests: None,
};

/// The processor seconds for each blob, and for each byte (measured with skopeo 1.22 on an AMD EPYC,
/// including the registry on the same machine).
const CPU_PER_BLOB: f64 = 0.001_5;
const CPU_PER_BYTE: f64 = 1.8e-9;
/// The processor seconds that a proxy needs to open an image.
const CPU_OF_OPENING: f64 = 0.005;

/// Images, as lists of blobs: the number of the blob and its size. Equal numbers mean the same blob.
type Images = Vec<Vec<(usize, u64)>>;

#[derive(Debug, Clone, Copy, PartialEq)]
enum ActivityStep {
    /// Waits for the registry until this time, in seconds.
    Waits(f64),
    /// Needs this many seconds of a processor.
    Works(f64),
    /// Transfers this many bytes.
    Drains(f64),
}

#[derive(Debug)]
struct Activity {
    unit: UnitId,
    task: Option<Task>,
    /// The steps of this activity after the current one.
    then: VecDeque<ActivityStep>,
    current: ActivityStep,
    began: f64,
}

struct World {
    model: Model,
    scheduler: Scheduler<()>,
    begun: Instant,
    now: f64,
    activities: Vec<Activity>,
    queues: BTreeMap<UnitId, VecDeque<Task>>,
    images: Images,
    sizes: Vec<u64>,
    /// When the registry has answered all requests so far.
    free: f64,
    fetched: usize,
    openings: usize,
    most_units: usize,
}

impl World {
    fn new(model: Model, images: Images, (least, most): (usize, usize)) -> Self {
        let begun = Instant::now();
        let settings = Settings {
            retry: RetryPolicy::default(),
            starts_at_a_time: model.processors.min(4),
            units: 32,
            in_flight: 32,
            start_ahead: true,
            is_limited: false,
        };
        let mut scheduler = Scheduler::new(settings, begun);
        let processors = usize::try_from(model.processors).expect("few");
        let host = scheduler.add_host(HostRules {
            least,
            most,
            per_unit: if least == most {
                32_usize.div_ceil(least).max(2)
            } else {
                (2 * processors.max(2)).max(32_usize.div_ceil(most))
            },
            is_registry: true,
            counts_openings: false,
            has_answered: false,
        });
        scheduler.set_login(host, Login::No);
        for number in 0..images.len() {
            scheduler.add_image(host, KindId(0), &format!("repository-{number}"), begun);
        }
        let count = images.iter().flatten().map(|(number, _)| *number).max();
        let mut sizes = vec![0; count.map_or(0, |most| most + 1)];
        for (number, size) in images.iter().flatten() {
            sizes[*number] = *size;
        }
        Self {
            model,
            scheduler,
            begun,
            now: 0.0,
            activities: Vec::new(),
            queues: BTreeMap::new(),
            images,
            sizes,
            free: 0.0,
            fetched: 0,
            openings: 0,
            most_units: 0,
        }
    }

    fn instant(&self) -> Instant {
        self.begun + Duration::from_secs_f64(self.now)
    }

    /// The time, in seconds, at which a request that is made now is answered.
    fn answered_at(&mut self, answers: f64) -> f64 {
        let answer = self.model.answer.as_secs_f64() * answers;
        match self.model.requests {
            None => self.now + answer,
            Some(rate) => {
                self.free = self.free.max(self.now) + answers / rate;
                self.free + answer
            }
        }
    }

    /// Runs until all images are fetched.
    fn run(mut self) -> Run {
        loop {
            let mut wants_more = true;
            while wants_more {
                wants_more = false;
                while let Some(action) = self.scheduler.next(self.instant()) {
                    self.carry_out(&action);
                    wants_more = true;
                }
                wants_more |= self.begin_queued();
            }
            self.most_units = self.most_units.max(self.scheduler.all_at_work());
            if self.fetched == self.images.len() {
                return Run {
                    took: self.now,
                    openings: self.openings,
                    units: self.most_units,
                };
            }
            self.step();
        }
    }

    fn carry_out(&mut self, action: &Action<()>) {
        match *action {
            Action::Start { unit, .. } => {
                self.queues.insert(unit, VecDeque::new());
                let start = self.model.start.as_secs_f64();
                self.activity(unit, None, [ActivityStep::Works(start)]);
            }
            Action::Give { unit, task } => {
                let queue = self.queues.get_mut(&unit).expect("a unit");
                queue.push_back(task);
            }
            Action::Recall { unit } => {
                let queue = self.queues.get_mut(&unit).map(std::mem::take);
                for task in queue.unwrap_or_default() {
                    self.scheduler.recalled(unit, task, self.instant());
                }
            }
            Action::Retire { unit } | Action::Abandon { unit } => {
                let is_idle = !self.activities.iter().any(|activity| activity.unit == unit);
                if is_idle || matches!(action, Action::Abandon { .. }) {
                    self.activities.retain(|activity| activity.unit != unit);
                    self.queues.remove(&unit);
                    self.scheduler.ended(unit, None, self.instant());
                }
            }
            Action::Close { .. } | Action::Paused { .. } | Action::Throttled { .. } => {}
            Action::Fetched(_) => self.fetched += 1,
            Action::Failed { .. } => panic!("nothing fails here"),
        }
    }

    fn activity<const N: usize>(
        &mut self,
        unit: UnitId,
        task: Option<Task>,
        all: [ActivityStep; N],
    ) {
        let mut then: VecDeque<ActivityStep> = all.into();
        let current = then.pop_front().expect("something to do");
        self.activities.push(Activity {
            unit,
            task,
            then,
            current,
            began: self.now,
        });
    }

    /// Lets each unit begin its next task if its proxy is not asked for anything.
    fn begin_queued(&mut self) -> bool {
        let units: Vec<UnitId> = self.queues.keys().copied().collect();
        let mut began = false;
        for unit in units {
            let is_asking = |activity: &Activity| {
                let drains =
                    activity.then.is_empty() && !matches!(activity.current, ActivityStep::Waits(_));
                let is_blob = matches!(activity.task, Some(Task::Blob { .. }));
                activity.unit == unit && !(is_blob && drains)
            };
            if self.activities.iter().any(is_asking) {
                continue;
            }
            let queue = self.queues.get_mut(&unit).expect("a unit");
            let Some(task) = queue.pop_front() else {
                continue;
            };
            began = true;
            match task {
                Task::Open(_) => {
                    self.openings += 1;
                    let until = self.answered_at(2.0);
                    let work = ActivityStep::Works(CPU_OF_OPENING);
                    self.activity(unit, Some(task), [ActivityStep::Waits(until), work]);
                }
                Task::Config(_) => {
                    let until = self.answered_at(1.0);
                    self.activity(unit, Some(task), [ActivityStep::Waits(until)]);
                }
                Task::Blob { blob, .. } => {
                    let until = self.answered_at(1.0);
                    #[expect(clippy::cast_precision_loss, reason = "it is a model")]
                    let bytes = self.sizes[self.number_of(blob)] as f64;
                    self.activity(
                        unit,
                        Some(task),
                        [ActivityStep::Waits(until), ActivityStep::Drains(bytes)],
                    );
                }
            }
        }
        began
    }

    /// The number that the model gave to this blob, which is its digest.
    fn number_of(&self, blob: BlobId) -> usize {
        let digest = self.scheduler.blobs.get(blob).expect("a blob").digest();
        let number = digest.strip_prefix("sha256:").expect("a digest");
        usize::from_str_radix(number, 16).expect("a number")
    }

    /// Advances the time to the next event.
    fn step(&mut self) {
        let works = |activity: &&Activity| !matches!(activity.current, ActivityStep::Waits(_));
        #[expect(clippy::cast_precision_loss, reason = "it is a model")]
        let (working, draining) = (
            self.activities.iter().filter(works).count() as f64,
            self.activities
                .iter()
                .filter(|activity| matches!(activity.current, ActivityStep::Drains(_)))
                .count() as f64,
        );
        let share = (f64::from(self.model.processors) / working).min(1.0);
        let rate = (self.model.bandwidth / draining).min(share / CPU_PER_BYTE);
        let left = |activity: &Activity| match activity.current {
            ActivityStep::Waits(until) => until - self.now,
            ActivityStep::Works(left) => left / share,
            ActivityStep::Drains(left) => left / rate,
        };
        let next = self
            .activities
            .iter()
            .map(left)
            .fold(f64::INFINITY, f64::min);
        let wake = self.scheduler.wake(self.instant());
        let wake = wake.map_or(f64::INFINITY, |wake| {
            wake.saturating_duration_since(self.begun).as_secs_f64() - self.now
        });
        let step = next.min(wake).max(1e-9);
        assert!(step.is_finite(), "nothing goes on: {:?}", self.scheduler);
        self.now += step;
        let mut done = Vec::new();
        let now = self.now;
        for (place, activity) in self.activities.iter_mut().enumerate() {
            let is_done = match &mut activity.current {
                ActivityStep::Waits(until) => *until <= now + 1e-12,
                ActivityStep::Works(left) => {
                    *left -= step * share;
                    *left <= 1e-12
                }
                ActivityStep::Drains(left) => {
                    *left -= step * rate;
                    *left <= 1e-6
                }
            };
            if is_done {
                done.push(place);
            }
        }
        for place in done.into_iter().rev() {
            self.finish_step(place);
        }
    }

    fn finish_step(&mut self, place: usize) {
        let now = self.instant();
        let activity = &mut self.activities[place];
        let (unit, task) = (activity.unit, activity.task);
        let took = Duration::from_secs_f64(self.now - activity.began);
        if let Some(next) = activity.then.pop_front() {
            activity.current = match next {
                // The model expresses the fixed work of a blob in bytes.
                ActivityStep::Drains(bytes) => {
                    ActivityStep::Drains(bytes + CPU_PER_BLOB / CPU_PER_BYTE)
                }
                next => next,
            };
            if let Some(task @ Task::Blob { .. }) = task {
                self.scheduler.answered(unit, task, took, now);
            }
            return;
        }
        self.activities.swap_remove(place);
        match task {
            None => self.scheduler.ready(unit, took, now),
            Some(Task::Open(image)) => {
                self.scheduler
                    .opened(unit, image, call_time_from(took), now);
                let is_new = self
                    .scheduler
                    .images
                    .get(&image)
                    .is_some_and(|of| !of.is_wanted);
                if is_new {
                    let wanted = |(number, size): &(usize, u64)| Wanted {
                        digest: format!("sha256:{number:064x}").parse().expect("a digest"),
                        copy: 0,
                        size: *size,
                    };
                    let wanted: Vec<Wanted> = self.images[image.0].iter().map(wanted).collect();
                    self.scheduler.fetch(image, &wanted, true);
                }
            }
            Some(Task::Config(image)) => self.scheduler.configured(unit, image, now),
            Some(task) => self.scheduler.done(unit, task, now),
        }
    }
}

/// The result of a run.
#[derive(Debug, Clone, Copy)]
struct Run {
    took: f64,
    openings: usize,
    units: usize,
}

fn one(sizes: &[u64]) -> Images {
    vec![sizes.iter().copied().enumerate().collect()]
}

/// A number of images that have the first `shared` blobs in common, and `own` blobs each.
fn sharing(images: usize, shared: usize, own: usize, size: u64) -> Images {
    let image = |number: usize| {
        let first = shared + number * own;
        (0..shared)
            .chain(first..first + own)
            .map(|blob| (blob, size))
            .collect()
    };
    (0..images).map(image).collect()
}

const MB: u64 = 1_000_000;
const MS: fn(u64) -> Duration = Duration::from_millis;

fn a_to_d() -> Vec<(&'static str, Images)> {
    vec![
        (
            "A",
            one(&[52, 36, 24, 16, 10, 6, 4, 2].map(|size| size * MB)),
        ),
        ("B", one(&[65_536; 128])),
        (
            "D",
            one(&(0..400).map(|n| 20_000 + n * n * 16).collect::<Vec<u64>>()),
        ),
        ("F", one(&[1 << 30])),
    ]
}

/// Machines with 1 to 64 processors, and networks from a local one to one with 300 ms of latency.
fn models() -> Vec<Model> {
    const NETWORKS: [(u64, u32); 7] = [
        (0, 25_000),
        (1, 10_000),
        (10, 1000),
        (50, 1000),
        (50, 10),
        (200, 500),
        (300, 25_000),
    ];
    let mut models = Vec::new();
    for processors in [1, 2, 4, 16, 64] {
        for start in [5, 15, 40] {
            for (answer, megabits) in NETWORKS {
                models.push(Model {
                    processors,
                    start: MS(start),
                    answer: MS(answer) + Duration::from_micros(300),
                    bandwidth: f64::from(megabits) * 125_000.0,
                    requests: None,
                });
            }
        }
    }
    models
}

/// Compares the automatic number of proxies with the best of some fixed numbers, which nobody
/// knows beforehand.
///
/// By default, the test takes some of the models. With `LONGSHORE_SURVEY=1`, it takes all of them: 630 pairs
/// of a model and a workload, in a minute and a half without optimisation. It then also prints the worst
/// pairs. Of all pairs, 621 are within 5 % of the best fixed number.
#[test]
fn the_number_of_proxies_is_near_the_best_fixed_one() {
    let all = std::env::var_os("LONGSHORE_SURVEY").is_some();
    let mut workloads = a_to_d();
    workloads.push(("H1", sharing(24, 10, 3, 6 * MB)));
    workloads.push(("H4", sharing(60, 6, 6, 51_200)));
    let mut ratios = Vec::new();
    let models = models().into_iter().step_by(if all { 1 } else { 11 });
    for model in models {
        for (name, images) in &workloads {
            let auto = World::new(model, images.clone(), (1, 16)).run();
            let numbers: &[usize] = if all {
                &[1, 2, 3, 4, 6, 8, 12, 16]
            } else {
                &[1, 4, 16]
            };
            let fixed = numbers.iter().map(|number| {
                let fixed = World::new(model, images.clone(), (*number, *number)).run();
                (fixed.took, *number)
            });
            let best = fixed.min_by(|a, b| a.0.total_cmp(&b.0)).expect("some");
            let description = format!("{name} on {model:?}: {auto:?}, best {best:?}");
            assert!(auto.took <= best.0 * 1.15, "{description}");
            ratios.push((auto.took / best.0, description));
        }
    }
    if all {
        ratios.sort_by(|a, b| b.0.total_cmp(&a.0));
        let within = ratios.iter().filter(|(ratio, _)| *ratio <= 1.05).count();
        println!("{within} of {} within 5 %", ratios.len());
        for (ratio, description) in ratios.iter().take(20) {
            println!("{ratio:.2} {description}");
        }
    }
}

/// Checks what the model predicts for a machine with two processors and a registry on loopback: more
/// processors are never slower, and longer answers never faster.
///
/// `LONGSHORE_PREDICT=1 cargo test --lib predictions -- --nocapture` prints the predictions.
/// benches/RESULTS.md compares them with measured pulls.
#[test]
fn predictions_follow_the_machine() {
    let prints = std::env::var_os("LONGSHORE_PREDICT").is_some();
    let mut workloads = a_to_d();
    workloads.push(("H1", sharing(24, 10, 3, 6_300_000)));
    workloads.push(("H4", sharing(100, 6, 6, 51_200)));
    for (name, images) in &workloads {
        let took = |processors: u32, answer: u64| {
            let model = Model {
                processors,
                start: MS(15),
                answer: MS(answer) + Duration::from_micros(300),
                bandwidth: 25_000.0 * 125_000.0,
                requests: None,
            };
            World::new(model, images.clone(), (1, 16)).run().took
        };
        let mut before = 0.0;
        for answer in [0, 10, 20, 50, 200] {
            let two = took(2, answer);
            assert!(
                two >= before * 0.95,
                "{name} at {answer} ms: {two} after {before}"
            );
            assert!(took(8, answer) <= two * 1.05, "{name} at {answer} ms");
            before = two;
            if prints {
                println!("{name} {answer} ms {two:.3}");
            }
        }
    }
}

#[test]
fn a_registry_that_throttles_gets_fewer_proxies() {
    let far = Model {
        processors: 4,
        requests: Some(10.0),
        ..FAR
    };
    let images = one(&[20_000; 400]);
    let auto = World::new(far, images.clone(), (1, 16)).run();
    let four = World::new(far, images, (4, 4)).run();
    assert!(auto.took <= four.took * 1.15, "{auto:?} {four:?}");
}

#[test]
fn many_images_are_opened_about_once_each() {
    let run = World::new(FAR, sharing(24, 10, 3, 6 * MB), (1, 16)).run();
    assert!((24..=26).contains(&run.openings), "{run:?}");
}

#[test]
fn proxies_that_were_started_ahead_are_ended_if_fewer_are_enough() {
    let run = World::new(FAR, one(&[6_800_000; 85]), (1, 16)).run();
    assert!(run.units > 14, "{run:?}");
    assert!(run.openings <= 13, "{run:?}");
}
