//! The raw figures as they are stored in a file, and the values that are computed from them.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// The measurements of one run of the program.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The arguments of the program.
    pub(crate) command: Vec<String>,
    /// The seconds from 1970 to its start.
    pub(crate) started: u64,
    /// Lines about the machine.
    pub(crate) machine: Vec<String>,
    /// The versions of the contestants.
    pub(crate) versions: Vec<String>,
    pub(crate) contestants: Vec<Described>,
    /// The measured pulls.
    pub(crate) samples: Vec<Sample>,
}

/// A contestant, described for readers of the tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Described {
    /// The name in the tables.
    pub(crate) name: String,
    /// A sentence about the program and its settings.
    pub(crate) explanation: String,
    /// What is on disk for certain after a run.
    pub(crate) durable: String,
}

/// The measurements of one pull.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// The image and the registry.
    #[serde(flatten)]
    pub(crate) case: Case,
    /// The name of the contestant.
    pub(crate) contestant: String,
    /// The number of the round, zero-based.
    pub(crate) round: usize,
    /// The seconds from start to end.
    pub(crate) wall: f64,
    /// The CPU seconds of the contestant and its descendants.
    pub(crate) cpu: f64,
    /// The peak memory of the contestant itself, in bytes.
    pub(crate) peak_rss: Option<u64>,
    /// The peak memory of the contestant and all its descendants, in bytes, if it was sampled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tree_memory: Option<u64>,
    /// The CPU seconds of sampling the memory of all descendants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tree_sampling: Option<f64>,
    /// The seconds, after the end of the contestant, until everything was on disk; on a disk only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sync: Option<f64>,
    /// How many processes the contestant left running.
    pub(crate) left_behind: usize,
    /// Why the figures are not valid, if they are not.
    pub(crate) failure: Option<String>,
}

/// A case: the figures of one case can be compared with each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Case {
    /// The letter of the workload, or `COUNTxSIZE`.
    pub(crate) workload: String,
    /// A description of the images.
    pub(crate) description: String,
    /// The registry: `50 ms` for the test registry, or `docker-registry`.
    pub(crate) registry: String,
    /// The protocol version of the skopeo.
    pub(crate) skopeo: String,
}

/// The valid samples of one contestant in one case.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    /// The duration in seconds.
    pub(crate) wall: Spread,
    /// The CPU time in seconds.
    pub(crate) cpu: Spread,
    /// The peak memory in bytes.
    pub(crate) peak_rss: Option<Spread>,
    /// The peak memory of all processes in bytes.
    pub(crate) tree_memory: Option<Spread>,
    /// The seconds until everything is on disk.
    pub(crate) sync: Option<Spread>,
}

/// The median and the bounds of several figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    /// The figure in the middle, or the mean of the two in the middle.
    pub(crate) median: f64,
    /// The lowest figure.
    pub(crate) min: f64,
    /// The highest figure.
    pub(crate) max: f64,
}

impl Report {
    /// Reads a report, or several as if they were one.
    pub(crate) fn read(files: &[impl AsRef<Path>]) -> anyhow::Result<Self> {
        let mut all = Self::default();
        for file in files {
            let file = file.as_ref();
            let text = fs::read(file).with_context(|| format!("can't read {}", file.display()))?;
            let report: Self = serde_json::from_slice(&text)
                .with_context(|| format!("{} is not a report", file.display()))?;
            all.merge(report);
        }
        Ok(all)
    }

    /// Writes the report into a file.
    pub(crate) fn write(&self, file: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(file, text).with_context(|| format!("can't write {}", file.display()))
    }

    fn merge(&mut self, other: Self) {
        if self.samples.is_empty() {
            *self = other;
            return;
        }
        self.command.push("+".into());
        self.command.extend(other.command);
        merge_list(&mut self.machine, other.machine);
        merge_list(&mut self.versions, other.versions);
        merge_list(&mut self.contestants, other.contestants);
        self.samples.extend(other.samples);
    }

    /// The cases in the order in which they were measured.
    pub(crate) fn cases(&self) -> Vec<&Case> {
        let mut cases: Vec<&Case> = Vec::new();
        for sample in &self.samples {
            if !cases.contains(&&sample.case) {
                cases.push(&sample.case);
            }
        }
        cases
    }

    /// All samples of a contestant in a case, including the failed ones.
    pub(crate) fn samples_of<'a>(
        &'a self,
        case: &'a Case,
        contestant: &'a str,
    ) -> impl Iterator<Item = &'a Sample> {
        let of_case = self
            .samples
            .iter()
            .filter(move |sample| sample.case == *case);
        of_case.filter(move |sample| sample.contestant == contestant)
    }

    /// The results of a contestant in a case. `None` without a valid sample.
    pub(crate) fn summary(&self, case: &Case, contestant: &str) -> Option<Summary> {
        let valid: Vec<&Sample> = self
            .samples_of(case, contestant)
            .filter(|sample| sample.failure.is_none())
            .collect();
        #[allow(clippy::cast_precision_loss, reason = "no process is that large")]
        let sizes = |size: fn(&Sample) -> Option<u64>| {
            let sizes = valid.iter().filter_map(|sample| size(sample));
            Spread::of(sizes.map(|bytes| bytes as f64).collect())
        };
        Some(Summary {
            wall: Spread::of(valid.iter().map(|sample| sample.wall).collect())?,
            cpu: Spread::of(valid.iter().map(|sample| sample.cpu).collect())?,
            peak_rss: sizes(|sample| sample.peak_rss),
            tree_memory: sizes(|sample| sample.tree_memory),
            sync: Spread::of(valid.iter().filter_map(|sample| sample.sync).collect()),
        })
    }

    /// The names of the contestants.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.contestants.iter().map(|one| one.name.as_str())
    }
}

fn merge_list<T: PartialEq>(ours: &mut Vec<T>, others: Vec<T>) {
    for item in others {
        if !ours.contains(&item) {
            ours.push(item);
        }
    }
}

impl Spread {
    /// Computes the spread. `None` without figures.
    pub(crate) fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        let middle = figures.len() / 2;
        let median = if figures.len() % 2 == 1 {
            figures[middle]
        } else {
            f64::midpoint(figures[middle - 1], figures[middle])
        };
        Some(Self { median, min, max })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn case(workload: &str, registry: &str) -> Case {
        Case {
            workload: workload.into(),
            description: format!("{workload}: some layers"),
            registry: registry.into(),
            skopeo: "0.2.8".into(),
        }
    }

    /// A report in which each contestant has pulled the case in these times.
    pub(crate) fn report(case: &Case, times: &[(&str, &[f64])]) -> Report {
        let mut report = Report::default();
        for (name, times) in times {
            report.contestants.push(Described {
                name: (*name).into(),
                explanation: "a program".into(),
                durable: "nothing".into(),
            });
            for (round, wall) in times.iter().enumerate() {
                report.samples.push(Sample {
                    case: case.clone(),
                    contestant: (*name).into(),
                    round,
                    wall: *wall,
                    cpu: wall / 2.0,
                    peak_rss: Some(10 << 20),
                    tree_memory: None,
                    tree_sampling: None,
                    sync: None,
                    left_behind: 0,
                    failure: None,
                });
            }
        }
        report
    }

    #[test]
    fn a_spread_contains_the_median() {
        let spread = |figures: &[f64]| Spread::of(figures.to_vec());
        let of = |median, min, max| Some(Spread { median, min, max });
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[3.0, 1.0, 2.0]), of(2.0, 1.0, 3.0));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), of(2.5, 1.0, 4.0));
    }

    #[test]
    fn failed_runs_do_not_count_in_the_median() {
        let case = case("B", "50 ms");
        let mut report = report(&case, &[("crane", &[1.0, 2.0, 30.0])]);
        report.samples[2].failure = Some("no".into());
        let summary = report.summary(&case, "crane");
        assert_eq!(summary.map(|summary| summary.wall.median), Some(1.5));
        assert_eq!(report.samples_of(&case, "crane").count(), 3);
    }

    #[test]
    fn a_report_can_be_written_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.json");
        let case = case("B", "50 ms");
        report(&case, &[("crane", &[1.0, 2.0])])
            .write(&file)
            .unwrap();
        let read = Report::read(&[&file, &file]).unwrap();
        assert_eq!(read.samples.len(), 4);
        assert_eq!(read.contestants.len(), 1);
        assert_eq!(read.cases(), [&case]);
    }
}
