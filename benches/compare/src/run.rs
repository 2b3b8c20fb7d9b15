//! Runs all pulls, workload by workload, registry by registry, round by round.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::check::check;
use crate::contestant::{Contestant, How};
use crate::registry::{Kind, Trust};
use crate::results::{Case, Report, Sample};
use crate::table::name_of;
use crate::tools::Tools;
use crate::workload::Made;
use crate::{RegistryKind, Run, machine, measure};

/// The folder that is in memory on every Linux.
const MEMORY: &str = "/dev/shm";

/// The folder for everything that is large.
#[derive(Debug)]
struct Work {
    folder: PathBuf,
    /// The guard removes the folder when it is dropped.
    guard: Option<TempDir>,
}

/// The values that are the same for all pulls of an image from a registry.
#[derive(Debug)]
struct PullSetup<'a> {
    case: Case,
    made: &'a Made,
    /// The names of the images at the registry.
    images: Vec<String>,
    /// What contestants need for the certificate and the login of the registry, if it has them.
    trust: Option<Trust>,
    /// Whether all platforms of an index are wanted.
    is_index: bool,
    tools: &'a Tools,
    /// The layout into which the image is pulled.
    destination: PathBuf,
}

impl Work {
    fn new(run: &Run) -> anyhow::Result<Self> {
        let parent = match &run.work {
            Some(folder) => folder.clone(),
            None if Path::new(MEMORY).is_dir() => MEMORY.into(),
            None => bail!("no {MEMORY} here: say with --work where to keep the images"),
        };
        fs::create_dir_all(&parent)?;
        let guard = TempDir::with_prefix_in("compare-", parent).context("no work folder")?;
        if run.keep {
            let folder = guard.keep();
            eprintln!("compare: everything is kept in {}", folder.display());
            let guard = None;
            return Ok(Self { folder, guard });
        }
        Ok(Self {
            folder: guard.path().to_owned(),
            guard: Some(guard),
        })
    }

    /// Removes the folder, and reports a failure.
    fn remove(self) -> anyhow::Result<()> {
        let removed = self.guard.map_or(Ok(()), TempDir::close);
        removed.context("can't remove the work folder")
    }
}

impl Run {
    /// Makes every contestant pull everything.
    pub(crate) fn measure(&self, tools: &Tools) -> anyhow::Result<Report> {
        let work = Work::new(self)?;
        let contestants = self.contestants();
        let mut report = Report {
            command: std::env::args().skip(1).collect(),
            started: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
            machine: machine::describe(&work.folder)?,
            versions: tools.versions(),
            contestants: contestants
                .iter()
                .map(|contestant| (contestant.to_string(), contestant.explanation()))
                .collect(),
            samples: Vec::new(),
        };
        for workload in &self.workloads {
            eprintln!("compare: making workload {workload}");
            let made = workload.make(&work.folder, tools, self.tiny)?;
            for kind in self.kinds() {
                let registry = kind.start(&made, &work.folder, tools)?;
                let setup = PullSetup {
                    case: Case {
                        // Figures of a small image must not be mistaken for those of the real one.
                        workload: format!("{workload}{}", if self.tiny { " (tiny)" } else { "" }),
                        description: made.description.clone(),
                        registry: kind.to_string(),
                        skopeo: self.skopeo.clone(),
                    },
                    made: &made,
                    images: registry.images(&made),
                    trust: registry.trust().cloned(),
                    is_index: workload.is_index(),
                    tools,
                    destination: work.folder.join("pulled"),
                };
                for round in 0..self.runs.get() {
                    for contestant in in_turn(&contestants, round) {
                        report.samples.push(self.pull(&setup, contestant, round)?);
                    }
                }
                if let Some(file) = &self.json {
                    report.write(file)?;
                }
            }
            if !self.keep {
                fs::remove_dir_all(&made.layout)?;
            }
        }
        work.remove()?;
        Ok(report)
    }

    /// Makes one contestant pull the image once.
    fn pull(
        &self,
        setup: &PullSetup<'_>,
        contestant: &Contestant,
        round: usize,
    ) -> anyhow::Result<Sample> {
        if setup.destination.exists() {
            fs::remove_dir_all(&setup.destination)?;
        }
        let (images, destination) = (&setup.images, &setup.destination);
        let how = How {
            is_plain: setup.trust.is_none(),
            is_index: setup.is_index,
        };
        let mut command = contestant.pull(setup.tools, images, destination, how)?;
        if let Some(trust) = &setup.trust {
            trust.apply_to(&mut command);
        }
        if self.memory_cache && !contestant.is_ours() {
            // skopeo then does not regard itself as root's, and uses a cache folder that can't be created.
            command.env("_CONTAINERS_ROOTLESS_UID", "1000");
            command.env("XDG_DATA_HOME", "/dev/null");
        }
        let measured = measure::run(&mut command, Duration::from_secs(self.timeout))?;
        let failure = measured.failure.or_else(|| {
            let images = setup.made.images.iter().enumerate();
            let mut checked = images.map(|(number, image)| {
                let layout = contestant.layout_of(destination, number, setup.images.len());
                check(&layout, image)
            });
            let wrong = checked.find_map(Result::err)?;
            Some(format!("wrong result: {wrong:#}"))
        });
        let wall = measured.wall.as_secs_f64();
        eprintln!(
            "compare: {}, round {}, {contestant}: {}",
            name_of(&setup.case),
            round + 1,
            failure.clone().unwrap_or_else(|| format!("{wall:.3} s"))
        );
        Ok(Sample {
            case: setup.case.clone(),
            contestant: contestant.to_string(),
            round,
            wall,
            cpu: measured.cpu.as_secs_f64(),
            peak_rss: measured.peak_rss,
            left_behind: measured.left_behind,
            failure,
        })
    }

    fn kinds(&self) -> Vec<Kind> {
        let mut kinds = Vec::new();
        for kind in &self.registry {
            match kind {
                RegistryKind::Test => {
                    kinds.extend(self.ttfb.iter().map(|ttfb| Kind::Test { ttfb: *ttfb }));
                }
                RegistryKind::Docker => kinds.push(Kind::Docker),
                RegistryKind::Distant => {
                    let distances = self.distance.iter();
                    kinds.extend(distances.map(|distance| Kind::Distant(*distance)));
                }
            }
        }
        kinds
    }

    /// The contestants of the command line, each once.
    fn contestants(&self) -> Vec<Contestant> {
        let with_proxies = self.proxies.iter().map(|proxies| Contestant::Longshore {
            proxies: Some(proxies.clone()),
            workers: None,
        });
        let named = self.contestants.iter().cloned().chain(with_proxies);
        let mut contestants: Vec<Contestant> = Vec::new();
        for contestant in named {
            if !contestants.contains(&contestant) {
                contestants.push(contestant);
            }
        }
        if contestants.is_empty() {
            return all_contestants();
        }
        contestants
    }
}

/// Each contestant with its default settings, and with those that suit it best.
fn all_contestants() -> Vec<Contestant> {
    let names = [
        "longshore",
        "skopeo",
        "skopeo:16",
        "crane",
        "oras",
        "oras:16",
        "cip:1",
        "cip:6",
        "cip:16:raw",
    ];
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

/// All contestants. Each round starts with another one, and every second round has the reverse order, so that
/// none always runs after the same one.
fn in_turn(contestants: &[Contestant], round: usize) -> Vec<&Contestant> {
    let mut order: Vec<&Contestant> = contestants.iter().collect();
    let length = order.len();
    order.rotate_left(round % length);
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_contestants_can_be_parsed() {
        assert_eq!(all_contestants().len(), 9);
    }

    #[test]
    fn the_order_changes_from_round_to_round() {
        let contestants = ["crane", "oras", "skopeo"].map(|name| name.parse().unwrap());
        let order = |round| -> Vec<String> {
            let order = in_turn(&contestants, round);
            order.into_iter().map(Contestant::to_string).collect()
        };
        assert_eq!(order(0), ["crane", "oras", "skopeo"]);
        assert_eq!(order(1), ["crane", "skopeo", "oras"]);
        assert_eq!(order(2), ["skopeo", "crane", "oras"]);
    }
}
