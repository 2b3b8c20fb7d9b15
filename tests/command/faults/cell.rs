//! One fault with one skopeo: a pull, and a check of the result.

use std::any::Any;
use std::time::{Duration, Instant};

use super::outcome::{Bound, CALL, Outcome, STALL};
use crate::harness::{Layout, Longshore, Run, Running, Scratch, Served, Skopeo, small_image};
use test_registry::image::Written;
use test_registry::server::Options;

/// What a pull may take beyond its expected waits. Only a pull that hangs takes longer.
const SLACK: Duration = Duration::from_secs(50);

/// The value of timeouts that must not expire.
const LONG_TIMEOUT: Duration = Duration::from_secs(45);

/// The log that shows retries, and whether a pipe keeps its size.
const LOG: &str = "longshore::fetch=debug,longshore::drain=trace";

/// A value that must live until the pull has ended and everything is checked.
pub(crate) type Guard = Box<dyn Any>;

/// Prepares a pull, and may replace it by another one.
pub(crate) type Before = fn(&Cell, Longshore) -> (Longshore, Guard);

/// A fault, and the expected outcome.
pub(crate) struct Fault {
    pub(crate) name: String,
    /// The outcome with each skopeo, the oldest first.
    pub(crate) outcomes: [Outcome; 3],
    pub(crate) bound: Bound,
    /// The faults of the test registry.
    faults: Vec<String>,
    options: Vec<&'static str>,
    repeats: u32,
    image: Option<fn(&Served)>,
    before: Option<Before>,
    during: Option<fn(&Cell, &mut Running)>,
    after: Option<fn(&Cell, &Run)>,
}

impl Fault {
    pub(crate) fn new(name: impl Into<String>, bound: Bound, outcomes: [Outcome; 3]) -> Self {
        Self {
            name: name.into(),
            outcomes,
            bound,
            faults: Vec::new(),
            options: Vec::new(),
            repeats: 1,
            image: None,
            before: None,
            during: None,
            after: None,
        }
    }

    /// Adds a fault of the registry, as `registry --fault` reads it.
    pub(crate) fn fault(mut self, fault: &str) -> Self {
        self.faults.push(fault.to_owned());
        self
    }

    /// Sets the options of the pull.
    pub(crate) fn options(mut self, options: &[&'static str]) -> Self {
        self.options.extend(options);
        self
    }

    /// Adds to the name what distinguishes the fault from another one of the same kind.
    pub(crate) fn name_suffix(mut self, what: &str) -> Self {
        self.name.push_str(what);
        self
    }

    /// The number of retries that are allowed.
    pub(crate) fn retries(&self) -> &str {
        let option = self
            .options
            .iter()
            .position(|option| *option == "--retries");
        option.map_or("4", |option| self.options[option + 1])
    }

    /// Repeats the fault this many times, because it depends on chance.
    pub(crate) fn repeats(mut self, times: u32) -> Self {
        self.repeats = times;
        self
    }

    /// Puts another image into the registry.
    pub(crate) fn image(mut self, image: fn(&Served)) -> Self {
        self.image = Some(image);
        self
    }

    /// Adds a preparation.
    pub(crate) fn before(mut self, before: Before) -> Self {
        self.before = Some(before);
        self
    }

    /// Adds something to do while the pull runs.
    pub(crate) fn during(mut self, during: fn(&Cell, &mut Running)) -> Self {
        self.during = Some(during);
        self
    }

    /// Adds a check.
    pub(crate) fn after(mut self, after: fn(&Cell, &Run)) -> Self {
        self.after = Some(after);
        self
    }

    /// Runs the fault with one of the skopeos. Returns the outcome as the table shows it. Panics if the
    /// outcome is not the expected one.
    pub(crate) fn run_with(&self, skopeo: &Skopeo, which: usize) -> String {
        let outcome = self.outcomes[which];
        for _ in 0..self.repeats {
            Cell::new(self, skopeo).run_and_check(self, outcome);
        }
        outcome.to_string()
    }
}

/// The environment in which a fault is run.
pub(crate) struct Cell {
    pub(crate) skopeo: Skopeo,
    pub(crate) scratch: Scratch,
    pub(crate) served: Served,
    pub(crate) image: Written,
    pub(crate) layout: Layout,
    /// The reference that is pulled.
    pub(crate) reference: String,
}

impl Cell {
    fn new(fault: &Fault, skopeo: &Skopeo) -> Self {
        let served = Served::with(Options::default());
        let image = served.add("v1", &small_image(1));
        if let Some(other) = fault.image {
            other(&served);
        }
        let faults: Vec<&str> = fault.faults.iter().map(String::as_str).collect();
        served.faults(&faults);
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        Self {
            skopeo: skopeo.clone(),
            reference: served.reference("v1"),
            scratch,
            served,
            image,
            layout,
        }
    }

    pub(crate) fn pull(&self) -> Longshore {
        self.pull_from(&self.reference)
    }

    pub(crate) fn pull_from(&self, reference: &str) -> Longshore {
        self.scratch
            .pull(&self.skopeo, reference, &self.layout.tagged("v1"))
            .arg("--json")
    }

    fn run_and_check(&self, fault: &Fault, outcome: Outcome) {
        let (mut pull, guard) = match fault.before {
            Some(before) => before(self, self.pull()),
            None => (self.pull(), Box::new(()) as Guard),
        };
        let [stall, call] = match fault.bound {
            Bound::Stalls(_) => [STALL, LONG_TIMEOUT],
            Bound::Calls(_) => [LONG_TIMEOUT, CALL],
            _ => [LONG_TIMEOUT; 2],
        };
        for (option, timeout) in [("--stall-timeout", stall), ("--call-timeout", call)] {
            pull = pull.args([option, &format!("{}s", timeout.as_secs())]);
        }
        let pull = pull
            .args(fault.options.iter().copied())
            .env("RUST_LOG", LOG);
        let begun = Instant::now();
        let mut running = pull.start();
        if let Some(during) = fault.during {
            during(self, &mut running);
        }
        let run = match outcome {
            Outcome::Killed => running.end_with_staging(),
            _ => running.end(),
        };
        let took = begun.elapsed();
        outcome.assert_matches(&run);
        if let Bound::Quiet(_) = fault.bound {
            assert!(!run.stderr.contains("stalled"), "{run}");
        }
        assert!(took < fault.bound.duration() + SLACK, "{took:?}: {run}");
        assert!(!run.stderr.contains("panicked"), "{run}");
        self.check_layout(outcome);
        if let Some(after) = fault.after {
            after(self, &run);
        }
        drop(guard);
    }

    /// Checks that the layout is valid, and contains what it should.
    fn check_layout(&self, outcome: Outcome) {
        match outcome {
            Outcome::Succeeds(_) => self.assert_whole(),
            Outcome::Killed => {
                if self.layout.folder().join("oci-layout").exists() {
                    self.layout.assert_valid();
                }
                self.served.faults(&[]);
                self.pull_from(&self.served.reference("v1"))
                    .run()
                    .succeeded();
                self.assert_whole();
            }
            _ => {
                if self.layout.folder().join("oci-layout").exists() {
                    self.layout.assert_valid();
                    assert!(!self.layout.tags().contains_key("v1"));
                    assert_eq!(self.layout.unexpected_entries(), [""; 0]);
                }
            }
        }
    }

    /// Checks that the image is there, as the registry has it.
    fn assert_whole(&self) {
        self.layout.assert_valid();
        assert_eq!(self.layout.unexpected_entries(), [""; 0]);
        let there = Layout::new(self.served.folder.path().to_owned());
        assert_eq!(self.layout.tags()["v1"], there.tags()["v1"]);
    }
}
