//! Runs all pulls, workload by workload, registry by registry, round by round.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use nix::unistd::syncfs;
use tempfile::TempDir;

use crate::check::check;
use crate::contestant::{Contestant, How};
use crate::measure::{Measured, Watching};
use crate::registry::{Kind, Registry, Trust};
use crate::results::{Case, Described, Report, Sample};
use crate::table::name_of;
use crate::tools::Tools;
use crate::workload::{Made, Task, Workload};
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

/// The values that are the same for all pulls of an image from a registry with a skopeo.
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
    /// The layout into which the image is pulled, or the folder for what a contestant stores.
    destination: PathBuf,
    /// Whether this folder is on a disk.
    is_on_disk: bool,
    contestants: Vec<Contestant>,
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

impl PullSetup<'_> {
    /// Removes the result of the last pull, and makes the command for the next one.
    fn prepare(&self, contestant: &Contestant) -> anyhow::Result<std::process::Command> {
        let (images, destination) = (&self.images, &self.destination);
        if destination.exists() {
            fs::remove_dir_all(destination)?;
        }
        let how = How {
            is_plain: self.trust.is_none(),
            is_index: self.is_index,
        };
        let mut command = if self.made.walked.is_some() {
            fs::create_dir_all(destination)?;
            let source = &self.made.layout;
            contestant.walk(self.tools, &images[0], destination, source, how)
        } else {
            contestant.pull(self.tools, images, destination, how)?
        };
        if let Some(trust) = &self.trust {
            trust.give_to(&mut command);
        }
        // The disk is still busy with the removal.
        self.sync()?;
        Ok(command)
    }

    /// Waits until everything is on disk, and returns the seconds that it took. In memory, there is nothing to do.
    fn sync(&self) -> anyhow::Result<Option<f64>> {
        if !self.is_on_disk {
            return Ok(None);
        }
        let folder = self.destination.parent().context("no work folder")?;
        let before = Instant::now();
        syncfs(File::open(folder)?).context("can't sync the work folder")?;
        Ok(Some(before.elapsed().as_secs_f64()))
    }

    /// Returns an error unless the result is right.
    fn check(&self, contestant: &Contestant, measured: &Measured) -> anyhow::Result<()> {
        if let Some(walked) = &self.made.walked {
            return walked.check(&contestant.found(&measured.output, &self.destination));
        }
        let images = self.made.images.iter().enumerate();
        let mut checked = images.map(|(number, image)| {
            let layout = contestant.layout_of(&self.destination, number, self.images.len());
            check(&layout, image)
        });
        checked.find(Result::is_err).unwrap_or(Ok(()))
    }
}

impl Run {
    /// Makes every contestant pull everything.
    pub(crate) fn measure(&self, tools: &Tools) -> anyhow::Result<Report> {
        let work = Work::new(self)?;
        let skopeos: anyhow::Result<Vec<Tools>> = self
            .skopeo
            .iter()
            .map(|protocol| tools.with_skopeo(protocol))
            .collect();
        let skopeos = skopeos?;
        let mut tasks: Vec<Task> = self.workloads.iter().map(|one| one.task()).collect();
        tasks.sort();
        tasks.dedup();
        let mut contestants = self.contestants();
        contestants.retain(|one| {
            let mut all = tasks
                .iter()
                .flat_map(|task| skopeos.iter().map(move |with| (task, with)));
            all.any(|(task, with)| one.obstacle(*task, &with.protocol).is_none())
        });
        let describe = |one: &Contestant| Described {
            name: one.to_string(),
            explanation: one.explanation(&tasks),
            durable: one.durable(&tasks),
        };
        let mut report = Report {
            command: std::env::args().skip(1).collect(),
            started: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
            machine: machine::describe(&work.folder)?,
            versions: Tools::versions(&skopeos),
            contestants: contestants.iter().map(describe).collect(),
            samples: Vec::new(),
        };
        for workload in &self.workloads {
            eprintln!("compare: making workload {workload}");
            let made = workload.make(&work.folder, tools, self.tiny)?;
            for kind in self.kinds() {
                let registry = kind.start(&made, &work.folder, tools)?;
                let setup = |tools| {
                    let folder = &work.folder;
                    self.setup(*workload, &made, (kind, &registry), folder, tools)
                };
                let setups: anyhow::Result<Vec<PullSetup<'_>>> =
                    skopeos.iter().map(setup).collect();
                let setups = setups?;
                for round in 0..self.runs.get() {
                    for setup in &setups {
                        for contestant in in_turn(&setup.contestants, round) {
                            report.samples.push(self.pull(setup, contestant, round)?);
                        }
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

    fn setup<'a>(
        &self,
        workload: Workload,
        made: &'a Made,
        (kind, registry): (Kind, &Registry),
        folder: &Path,
        tools: &'a Tools,
    ) -> anyhow::Result<PullSetup<'a>> {
        let case = Case {
            // Figures of a small image must not be mistaken for those of the real one.
            workload: format!("{workload}{}", if self.tiny { " (tiny)" } else { "" }),
            description: made.description.clone(),
            registry: kind.to_string(),
            skopeo: tools.protocol.clone(),
        };
        let mut contestants = self.contestants();
        contestants.retain(|contestant| {
            let obstacle = contestant.obstacle(workload.task(), &tools.protocol);
            if let Some(obstacle) = obstacle {
                let case = name_of(&case);
                eprintln!("compare: {case}: {contestant} takes no part: {obstacle}");
            }
            obstacle.is_none()
        });
        if contestants.is_empty() {
            bail!("{}: nobody takes part", name_of(&case));
        }
        Ok(PullSetup {
            case,
            made,
            images: registry.images(made),
            trust: registry.trust().cloned(),
            is_index: workload.is_index(),
            tools,
            destination: folder.join("pulled"),
            is_on_disk: machine::disk(folder)?.is_some(),
            contestants,
        })
    }

    /// Makes one contestant pull the image once.
    fn pull(
        &self,
        setup: &PullSetup<'_>,
        contestant: &Contestant,
        round: usize,
    ) -> anyhow::Result<Sample> {
        let mut command = setup.prepare(contestant)?;
        if self.memory_cache && !contestant.is_ours() {
            // skopeo then behaves as for an ordinary user. The folder of its cache can't be created, so the cache is in
            // memory.
            command.env("_CONTAINERS_ROOTLESS_UID", "1000");
            command.env("XDG_DATA_HOME", "/dev/null");
        }
        let watching = Watching {
            timeout: Duration::from_secs(self.timeout),
            tree_memory: self.tree_memory,
            keeps_output: setup.made.walked.is_some(),
        };
        let measured = measure::run(&mut command, &watching)?;
        let sync = setup.sync()?;
        let failure = measured.failure.clone().or_else(|| {
            let wrong = setup.check(contestant, &measured).err()?;
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
            tree_memory: measured.tree.map(|tree| tree.peak),
            tree_sampling: measured.tree.map(|tree| tree.sampling.as_secs_f64()),
            sync,
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
                    kinds.extend(distances.map(|distance| Kind::Distant {
                        distance: *distance,
                        elsewhere: self.elsewhere,
                    }));
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
        "cip:16",
        "cip:16:raw",
        "umoci",
        "bare:1",
        "bare:2",
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
        assert_eq!(all_contestants().len(), 13);
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
