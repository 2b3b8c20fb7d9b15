//! The results of all pulls, as tables.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::plan::Plan;
use super::pull::{Ended, Outcome, Summary};
use longshore_stress::Usage;

/// The counts for each fault, and in total.
#[derive(Debug, Default)]
pub(crate) struct Table {
    faults: BTreeMap<&'static str, Row>,
    all: Row,
    pub(crate) signals: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Row {
    pulls: usize,
    whole: usize,
    failed: usize,
    cancelled: usize,
    /// The number of pulls that did not end as they must.
    problems: usize,
    /// The number of blobs with wrong bytes.
    wrong: usize,
    summary: Summary,
    longest: Duration,
}

impl Row {
    fn add(&mut self, outcome: &Outcome) {
        self.pulls += 1;
        match outcome.ended {
            Ended::Whole => self.whole += 1,
            Ended::Failed => self.failed += 1,
            Ended::Cancelled => self.cancelled += 1,
            Ended::Wrong => {}
        }
        self.problems += usize::from(!outcome.problems.is_empty());
        self.wrong += outcome.wrong;
        self.summary.add(outcome.summary);
        self.longest = self.longest.max(outcome.took);
    }
}

impl Table {
    pub(crate) fn add(&mut self, plan: &Plan, outcome: &Outcome) {
        self.faults.entry(plan.case.fault).or_default().add(outcome);
        self.all.add(outcome);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| fault | pulls | whole | failed as they must | cancelled | problems | retries | longest, s |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
        )?;
        let named = self.faults.iter().map(|(fault, row)| match *fault {
            "" => ("none", row),
            fault => (fault, row),
        });
        for (fault, row) in named.chain([("**all**", &self.all)]) {
            let Row {
                pulls,
                whole,
                failed,
                cancelled,
                problems,
                summary: Summary { retries, .. },
                ..
            } = row;
            let longest = row.longest.as_secs_f64();
            writeln!(
                f,
                "| {fault} | {pulls} | {whole} | {failed} | {cancelled} | {problems} | {retries} | {longest:.1} |"
            )?;
        }
        let Row { summary, wrong, .. } = self.all;
        writeln!(
            f,
            "\n{} blobs, {} bytes; {} proxies, of which {} were lost; {} signals; wrong bytes: {wrong}",
            summary.blobs, summary.bytes, summary.proxies, summary.lost, self.signals,
        )
    }
}

/// The resources of the process whenever nothing was running.
#[derive(Debug)]
pub(crate) struct IdleUsage {
    samples: Vec<Usage>,
}

/// How much memory may grow over the run because of the allocator: the value in the second tenth of the run, divided
/// by the first number, plus as many KiB as the second number says.
const MEMORY_GROWTH: (u64, u64) = (4, 8 * 1024);

/// The minimum number of samples for a statement about growth.
const ENOUGH_SAMPLES: usize = 50;

impl IdleUsage {
    pub(crate) fn new() -> Self {
        Self {
            samples: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, usage: Usage) {
        self.samples.push(usage);
    }

    /// The maximum in the second tenth of the run, and in the last tenth. `None` if there
    /// are not enough samples.
    fn memory(&self) -> Option<(u64, u64)> {
        if self.samples.len() < ENOUGH_SAMPLES {
            return None;
        }
        let tenth = self.samples.len() / 10;
        let most = |samples: &[Usage]| samples.iter().map(|usage| usage.memory_kib).max();
        let early = most(self.samples.get(tenth..2 * tenth)?)?;
        let late = most(self.samples.get(self.samples.len() - tenth..)?)?;
        Some((early, late))
    }

    /// A description of the growth, if memory grew by more than it may.
    pub(crate) fn leaks_memory(&self) -> Option<String> {
        let (early, late) = self.memory()?;
        let (part, some) = MEMORY_GROWTH;
        (late > early + early / part + some)
            .then(|| format!("resident memory grew from {early} to {late} KiB"))
    }
}

impl fmt::Display for IdleUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(first), Some(last)) = (self.samples.first(), self.samples.last()) else {
            return Ok(());
        };
        let min = self.samples.iter().copied().fold(*first, Usage::min);
        let max = self.samples.iter().copied().fold(*first, Usage::max);
        writeln!(
            f,
            "| at rest, {} times | first | min | max | last |\n| --- | ---: | ---: | ---: | ---: |",
            self.samples.len()
        )?;
        let fields = |usage: Usage| {
            [
                ("fds", usage.fds as u64),
                ("threads", usage.threads as u64),
                ("children", usage.children as u64),
                ("resident memory, KiB", usage.memory_kib),
            ]
        };
        let [first, min, max, last] = [*first, min, max, *last].map(fields);
        for row in 0..first.len() {
            let [(name, first), (_, min), (_, max), (_, last)] =
                [first[row], min[row], max[row], last[row]];
            writeln!(f, "| {name} | {first} | {min} | {max} | {last} |")?;
        }
        if let Some((early, late)) = self.memory() {
            writeln!(
                f,
                "\nThe most memory at rest was {early} KiB in the second tenth of the run, {late} KiB in the last."
            )?;
        }
        Ok(())
    }
}
