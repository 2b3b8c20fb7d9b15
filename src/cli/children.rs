//! The skopeos that this process has started, at its end.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgid};

/// Waits until all of them are reaped, by the threads that started them, but no longer than this.
pub(crate) fn wait_for_all(patience: Duration) {
    let deadline = Instant::now() + patience;
    while !groups().is_empty() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Ends those that are left, with all that they have started: a skopeo dies with this process, but one
/// that a wrapper has started does not.
pub(crate) fn end_all() {
    for group in groups() {
        // It may have ended meanwhile.
        let _ = killpg(group, Signal::SIGKILL);
    }
}

/// The groups of our children. Each leads one, unless it was started by the program that we were before
/// (`exec`), and is none of ours.
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
