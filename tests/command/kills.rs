//! Pulls that are killed at random moments damage nothing.
//!
//! `LONGSHORE_KILLS` sets the number of kills (the default is 40). `LONGSHORE_SEED` sets the seed of the
//! moments; each run prints its seed.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use fastrand::Rng;
use nix::sys::signal::Signal;

use crate::harness::{
    ImageBuilder, Layout, Running, Scratch, Served, Skopeo, newest_skopeo, small_image,
};
use test_registry::image::Written;
use test_registry::server::Options;

const KILLS: usize = 40;

/// The number of pulls that are timed before others are killed. A single one may be slow by chance.
const MEASURED_PULLS: usize = 3;

/// The bandwidth of the registry, so that fetching takes a large part of a pull.
const BYTES_PER_SECOND: u64 = 10_000_000;

/// The images that are pulled. Each inner list of `pulls` has a process of its own. All processes run at the same time.
struct Scenario {
    name: &'static str,
    /// Whether the layout contains an image before the pulls begin.
    on_top: bool,
    pulls: &'static [&'static [&'static str]],
}

const SCENARIOS: [Scenario; 4] = [
    Scenario {
        name: "one image into a new layout",
        on_top: false,
        pulls: &[&["a"]],
    },
    Scenario {
        name: "one image beside another",
        on_top: true,
        pulls: &[&["a"]],
    },
    Scenario {
        name: "three images by one pull",
        on_top: true,
        pulls: &[&["a", "b", "c"]],
    },
    Scenario {
        name: "two pulls at once",
        on_top: false,
        pulls: &[&["a"], &["b"]],
    },
];

/// The time at which a pull is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// This long after its start.
    SinceStart(Duration),
    /// This long after the last layer got its name. Manifests, the index and folders are written and
    /// synced then.
    SinceLastLayer(Duration),
}

/// How far a pull had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum PullState {
    NoLayout,
    Fetching,
    LayersStored,
    ImageNamed,
    /// The signal reached only a process that had ended.
    TooLate,
}

/// The images, and the registry that they are pulled from.
struct Source {
    served: Served,
    images: BTreeMap<&'static str, Written>,
    skopeo: Skopeo,
}

impl Source {
    fn new() -> Self {
        let served = Served::with(Options {
            bandwidth: Some(BYTES_PER_SECOND),
            ..Options::default()
        });
        let shared = ImageBuilder::new()
            .layer_random(500_000, 1)
            .layer_random(10_000, 2)
            .layer_random(1_000, 3);
        let images = [("a", 10), ("b", 20), ("c", 30)].map(|(tag, seed)| {
            let image = shared.clone().layer_random(300_000, seed);
            (tag, served.add(tag, &image.layer_random(5_000, seed + 1)))
        });
        let earlier = ("earlier", served.add("earlier", &small_image(4)));
        Self {
            images: images.into_iter().chain([earlier]).collect(),
            served,
            skopeo: newest_skopeo(),
        }
    }

    fn start(&self, scratch: &Scratch, layout: &Layout, tags: &[&str]) -> Running {
        let references: Vec<_> = tags.iter().map(|tag| self.served.reference(tag)).collect();
        let dest = match tags {
            [tag] => layout.tagged(tag),
            _ => layout.all(),
        };
        let skopeo = self.skopeo.path.to_str().unwrap();
        let references = references.iter().map(String::as_str);
        scratch
            .longshore()
            .args(["pull", "--tls-verify=false", "--skopeo", skopeo])
            .args(references.chain([dest.as_str()]))
            .start()
    }

    fn has_layers(&self, layout: &Layout, tags: &[&str]) -> bool {
        let mut layers = tags.iter().flat_map(|tag| &self.images[tag].layers);
        layers.all(|layer| layout.has(layer.digest()))
    }

    fn names(&self, layout: &Layout, tags: &[&str]) -> bool {
        let entries = layout.entries();
        let named = |digest: &str| entries.iter().any(|(_, named)| named == digest);
        tags.iter()
            .all(|tag| named(self.images[tag].manifest_digest.as_ref()))
    }

    fn state(&self, layout: &Layout, tags: &[&str]) -> PullState {
        if !layout.exists() {
            PullState::NoLayout
        } else if self.names(layout, tags) {
            PullState::ImageNamed
        } else if self.has_layers(layout, tags) {
            PullState::LayersStored
        } else {
            PullState::Fetching
        }
    }

    /// A layout as it is before the pulls that will be killed.
    fn layout(&self, scratch: &Scratch, scenario: &Scenario, name: &str) -> Layout {
        let layout = scratch.layout(name);
        if scenario.on_top {
            self.start(scratch, &layout, &["earlier"]).end().succeeded();
        }
        layout
    }

    /// Runs all pulls of the scenario to their ends. Everything must be there then, and nothing else.
    fn complete(&self, scratch: &Scratch, layout: &Layout, scenario: &Scenario) {
        let start = |tags: &&[&str]| self.start(scratch, layout, tags);
        let pulls: Vec<_> = scenario.pulls.iter().map(start).collect();
        for pull in pulls {
            pull.end().succeeded();
        }
        layout.assert_valid();
        assert_eq!(layout.unexpected_entries(), [""; 0]);
        for tags in scenario.pulls {
            assert!(self.names(layout, tags), "{tags:?} is not there");
        }
        if scenario.on_top {
            assert!(
                self.names(layout, &["earlier"]),
                "the earlier image is lost"
            );
        }
    }

    /// Measures the scenario several times. Returns the shortest duration, and the part of it after the last
    /// layer is stored.
    fn shortest_duration(&self, scenario: &Scenario) -> (Duration, Duration) {
        let durations = (0..MEASURED_PULLS).map(|_| self.pull_duration(scenario));
        durations.min().unwrap()
    }

    /// The duration of the scenario without kills, and the part of it after the last layer is stored.
    fn pull_duration(&self, scenario: &Scenario) -> (Duration, Duration) {
        let scratch = Scratch::new();
        let layout = self.layout(&scratch, scenario, "clean");
        let tags = scenario.pulls.concat();
        let started = Instant::now();
        let start = |tags: &&[&str]| self.start(&scratch, &layout, tags);
        let mut pulls: Vec<_> = scenario.pulls.iter().map(start).collect();
        let mut stored = None;
        while !pulls.iter_mut().all(Running::has_ended) {
            if stored.is_none() && self.has_layers(&layout, &tags) {
                stored = Some(Instant::now());
            }
            sleep(Duration::from_micros(200));
        }
        let ended = Instant::now();
        for pull in pulls {
            pull.end().succeeded();
        }
        (
            ended - started,
            stored.map_or(Duration::ZERO, |s| ended - s),
        )
    }
}

#[test]
#[ignore = "needs skopeo"]
fn pulls_killed_at_any_moment_leave_a_valid_layout() {
    let kills = from_env("LONGSHORE_KILLS").unwrap_or(KILLS);
    let seed = from_env("LONGSHORE_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("LONGSHORE_KILLS={kills} LONGSHORE_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let source = Source::new();
    for (number, scenario) in SCENARIOS.iter().enumerate() {
        // The first scenarios get the remainder of the division.
        let share = (kills + SCENARIOS.len() - 1 - number) / SCENARIOS.len();
        kill_often(&source, scenario, share, &mut rng);
    }
}

fn kill_often(source: &Source, scenario: &Scenario, kills: usize, rng: &mut Rng) {
    let (whole, end) = source.shortest_duration(scenario);
    let mut states = BTreeMap::<PullState, usize>::new();
    let (mut killed, mut layouts) = (0, 0);
    while killed < kills {
        let scratch = Scratch::new();
        let layout = source.layout(&scratch, scenario, "layout");
        layouts += 1;
        // Sometimes the next pull is killed as well, and the one after it.
        for _ in 0..rng.usize(1..=3) {
            let moments = scenario.pulls.iter().map(|_| draw(whole, end, rng));
            let moments: Vec<_> = moments.collect();
            for state in kill(source, scenario, &scratch, &layout, &moments) {
                *states.entry(state).or_default() += 1;
                killed += usize::from(state != PullState::TooLate);
            }
        }
        source.complete(&scratch, &layout, scenario);
    }
    println!(
        "{}: {whole:?} in all, the last {end:?} without layers; {killed} kills, {states:?}, {layouts} layouts",
        scenario.name
    );
}

/// A moment that is spread evenly over a pull, or equally often over its end.
fn draw(whole: Duration, end: Duration, rng: &mut Rng) -> Moment {
    if rng.bool() {
        Moment::SinceStart(whole.mul_f64(rng.f64()))
    } else {
        Moment::SinceLastLayer(end.mul_f64(rng.f64()))
    }
}

/// Kills the pulls of the scenario, each at its moment, and checks what is left.
fn kill(
    source: &Source,
    scenario: &Scenario,
    scratch: &Scratch,
    layout: &Layout,
    moments: &[Moment],
) -> Vec<PullState> {
    let started = Instant::now();
    let starts = scenario.pulls.iter().zip(moments);
    let mut running: Vec<_> = starts
        .map(|(tags, moment)| (source.start(scratch, layout, tags), *tags, *moment, None))
        .collect();
    let pids: Vec<_> = running.iter().map(|(pull, ..)| pull.pid()).collect();
    let mut ended = Vec::new();
    while !running.is_empty() {
        for (pull, tags, moment, due) in &mut running {
            if due.is_none() {
                *due = match *moment {
                    Moment::SinceStart(wait) => Some(started + wait),
                    Moment::SinceLastLayer(wait) if source.has_layers(layout, tags) => {
                        Some(Instant::now() + wait)
                    }
                    Moment::SinceLastLayer(_) => None,
                };
            }
            if due.is_some_and(|due| due <= Instant::now()) {
                pull.signal(Signal::SIGKILL);
            }
        }
        let has_ended = |(pull, ..): &mut (Running, _, _, _)| pull.has_ended();
        ended.extend(running.extract_if(.., has_ended));
        sleep(Duration::from_micros(100));
    }

    let state = |(pull, tags, ..): (Running, &[&str], _, _)| {
        // No process of the pull may be left, and no temporary file.
        let run = pull.end_with_staging();
        if run.was_killed() {
            source.state(layout, tags)
        } else {
            run.succeeded();
            PullState::TooLate
        }
    };
    let states: Vec<_> = ended.into_iter().map(state).collect();
    if layout.exists() {
        layout.assert_valid();
    } else {
        assert!(!scenario.on_top, "the layout is gone");
    }
    if scenario.on_top {
        assert!(
            source.names(layout, &["earlier"]),
            "the earlier image is lost"
        );
    }
    assert_staging_of(layout, &pids);
    states
}

/// Checks that beside the layout there are at most the staging folders of these pulls. Those of earlier pulls
/// may be there only if these pulls have not come far enough to sweep them.
fn assert_staging_of(layout: &Layout, pids: &[u32]) {
    let unexpected = layout.unexpected_entries();
    let ours = |name: &String| {
        pids.iter()
            .any(|pid| name.starts_with(&format!(".longshore-{pid}-")))
    };
    let of_these = unexpected.iter().filter(|name| ours(name)).count();
    assert!(of_these <= pids.len(), "{unexpected:?}");
    assert!(
        of_these == 0 || of_these == unexpected.len(),
        "not swept: {unexpected:?}"
    );
    assert!(
        unexpected
            .iter()
            .all(|name| name.starts_with(".longshore-")),
        "{unexpected:?}"
    );
}

fn from_env<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    let number = text.parse().ok();
    Some(number.unwrap_or_else(|| panic!("{name} must be a number, and is {text:?}")))
}
