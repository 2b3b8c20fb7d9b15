//! What this process has at a moment: for programs that watch themselves.

#![allow(
    clippy::must_use_candidate,
    reason = "only the programs beside it use it"
)]

use std::fs;
use std::path::Path;
use std::process;

/// What this process has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Open file descriptors.
    pub fds: usize,
    /// Threads, of whatever kind.
    pub threads: usize,
    /// Processes that it started and that are not reaped.
    pub children: usize,
    /// Resident memory.
    pub memory_kib: u64,
}

impl Usage {
    /// What there is now.
    pub fn now() -> Self {
        Self {
            // But for the one that the listing itself needs.
            fds: entries("/proc/self/fd").count().saturating_sub(1),
            threads: entries("/proc/self/task").count(),
            children: children().len(),
            memory_kib: status_kib("VmRSS:"),
        }
    }

    /// The larger one of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            fds: self.fds.max(other.fds),
            threads: self.threads.max(other.threads),
            children: self.children.max(other.children),
            memory_kib: self.memory_kib.max(other.memory_kib),
        }
    }

    /// The smaller one of each.
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

/// The most memory that was ever resident.
pub fn peak_memory_kib() -> u64 {
    status_kib("VmHWM:")
}

/// The processes that this one started and that are not reaped.
pub fn children() -> Vec<i32> {
    let us = process::id().to_string();
    let numbers = entries("/proc").filter_map(|name| name.parse().ok());
    numbers
        .filter(|pid: &i32| parent(*pid).as_deref() == Some(&us))
        .collect()
}

/// The process that started this one.
fn parent(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // "pid (name) state ppid ...": the name may contain anything.
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
