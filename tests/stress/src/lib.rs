//! The resources of this process, for programs that watch themselves.

#![allow(
    clippy::must_use_candidate,
    reason = "only the programs beside it use it"
)]

use std::fs;
use std::path::Path;
use std::process;

/// The resources of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The number of open file descriptors.
    pub fds: usize,
    /// The number of threads of any kind.
    pub threads: usize,
    /// The number of processes that this process has started and not reaped.
    pub children: usize,
    /// The resident memory, in KiB.
    pub memory_kib: u64,
}

impl Usage {
    /// Returns the current values.
    pub fn now() -> Self {
        Self {
            // The listing itself needs one descriptor, which is not counted.
            fds: entries("/proc/self/fd").count().saturating_sub(1),
            threads: entries("/proc/self/task").count(),
            children: children().len(),
            memory_kib: status_kib("VmRSS:"),
        }
    }

    /// Returns the larger value of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            fds: self.fds.max(other.fds),
            threads: self.threads.max(other.threads),
            children: self.children.max(other.children),
            memory_kib: self.memory_kib.max(other.memory_kib),
        }
    }

    /// Returns the smaller value of each.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self {
            fds: self.fds.min(other.fds),
            threads: self.threads.min(other.threads),
            children: self.children.min(other.children),
            memory_kib: self.memory_kib.min(other.memory_kib),
        }
    }
}

/// Returns the peak of resident memory, in KiB.
pub fn peak_memory_kib() -> u64 {
    status_kib("VmHWM:")
}

/// Returns the processes that this one has started and not reaped.
pub fn children() -> Vec<i32> {
    let us = process::id().to_string();
    let numbers = entries("/proc").filter_map(|name| name.parse().ok());
    numbers
        .filter(|pid: &i32| parent(*pid).as_deref() == Some(&us))
        .collect()
}

/// The process that has started this one.
fn parent(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The format is "pid (name) state ppid ...", and the name may contain anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1).map(str::to_owned)
}

fn status_kib(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix(field));
    let number = value.and_then(|value| value.split_whitespace().next());
    number.and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn entries(folder: impl AsRef<Path>) -> impl Iterator<Item = String> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
}
