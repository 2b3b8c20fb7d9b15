//! Ends the skopeo processes that this process has started.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgid};

/// The children of this process. Each of them leads a process group.
#[derive(Debug, Clone)]
pub(crate) struct Children {
    /// Children of the program that this process was before `exec`. They are not ours to end.
    inherited: Vec<Pid>,
}

impl Children {
    /// The children that are started from now on.
    pub(crate) fn from_now() -> Self {
        Self {
            inherited: groups(),
        }
    }

    fn groups(&self) -> Vec<Pid> {
        let mut groups = groups();
        groups.retain(|group| !self.inherited.contains(group));
        groups
    }

    /// Waits until all children have been reaped by the threads that started them, but not longer
    /// than `timeout`.
    pub(crate) fn wait_for_all(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        while !self.groups().is_empty() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the remaining children with their process groups. A skopeo dies with this process, but one that
    /// a wrapper has started does not.
    pub(crate) fn end_all(&self) {
        for group in self.groups() {
            // The group may have ended meanwhile.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// The process groups that children of this process lead.
fn groups() -> Vec<Pid> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten();
    let children = tasks.filter_map(|task| {
        let children = fs::read_to_string(task.ok()?.path().join("children")).ok()?;
        let pids = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok());
        Some(pids.map(Pid::from_raw).collect::<Vec<_>>())
    });
    let leads_a_group = |pid: &Pid| getpgid(Some(*pid)) == Ok(*pid);
    children.flatten().filter(leads_a_group).collect()
}
