//! Runs one program to its end, and measures it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeVal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use crate::tree;

/// Whether the user wants to stop the measurement.
pub(crate) static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How often the memory of the program is sampled.
const SAMPLING: Duration = Duration::from_millis(20);
/// How often the memory of the whole tree of processes is sampled, if it is. The kernel walks the page tables of each
/// process for it.
const TREE_SAMPLING: Duration = Duration::from_millis(40);
/// How long processes may outlive the program that started them.
const GRACE: Duration = Duration::from_secs(2);

/// The options for running and watching a program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watching {
    /// After how long the program is killed.
    pub(crate) timeout: Duration,
    /// Whether the memory of the whole tree of processes is sampled.
    pub(crate) tree_memory: bool,
    /// Whether the standard output is kept.
    pub(crate) keeps_output: bool,
}

/// The measurements of one run of a program.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// The time from before the start until the end.
    pub(crate) wall: Duration,
    /// The CPU time of the program and all its descendants, in user and kernel mode.
    pub(crate) cpu: Duration,
    /// The peak resident memory of the program itself, without its children, in bytes. Growth in its last 20
    /// ms may be missing. `None` if the program did not run that long.
    pub(crate) peak_rss: Option<u64>,
    /// The memory of the whole tree of processes.
    pub(crate) tree: Option<TreeMemory>,
    /// The standard output, if it was kept.
    pub(crate) output: String,
    /// How many descendants had to be killed after the end of the program.
    pub(crate) left_behind: usize,
    /// The failure, if there was one.
    pub(crate) failure: Option<String>,
}

/// The memory of a program and all its descendants.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TreeMemory {
    /// The highest of the sampled sums of their PSS, in bytes.
    pub(crate) peak: u64,
    /// The CPU time of sampling, which is that of this process.
    pub(crate) sampling: Duration,
}

/// Makes this process the parent of orphans, so that their CPU time counts.
pub(crate) fn adopt_orphans() -> anyhow::Result<()> {
    nix::sys::prctl::set_child_subreaper(true).context("can't adopt orphans")
}

/// Ends this program if the user wants that.
pub(crate) fn stop_if_interrupted() -> anyhow::Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Runs a program to its end, or kills it when the time is up.
///
/// # Errors
///
/// If the program can't be started. A failure of the program is no error, but part of the measurements.
pub(crate) fn run(command: &mut Command, watching: &Watching) -> anyhow::Result<Measured> {
    let complaints = tempfile::tempfile().context("no file for the standard error")?;
    let output = tempfile::tempfile().context("no file for the standard output")?;
    command
        .stdin(Stdio::null())
        .stdout(if watching.keeps_output {
            output.try_clone()?.into()
        } else {
            Stdio::null()
        })
        .stderr(complaints.try_clone()?);
    let others = tree::children();
    let cpu_before = cpu_of_children()?;

    let start = Instant::now();
    let mut child = command
        .spawn()
        .with_context(|| format!("can't run {}", command.get_program().display()))?;
    let (stop, stopped) = channel();
    let watch = Watch {
        pid: child.id(),
        deadline: start + watching.timeout,
        others: watching.tree_memory.then(|| others.clone()),
    };
    let watcher = thread::spawn(move || watch.until(&stopped));
    let status = child.wait().context("can't wait for a child")?;
    let wall = start.elapsed();
    drop(stop);

    let Ok(seen) = watcher.join() else {
        bail!("the watching thread panicked");
    };
    let left_behind = reap_orphans(&others);
    let cpu = cpu_of_children()?.saturating_sub(cpu_before);
    stop_if_interrupted()?;
    let failure = if seen.killed {
        Some(format!("not done after {} s", watching.timeout.as_secs()))
    } else if status.success() {
        None
    } else {
        Some(describe(status, &text_of(complaints)?))
    };
    Ok(Measured {
        wall,
        cpu,
        peak_rss: seen.peak_rss,
        tree: seen.tree,
        output: text_of(output)?,
        left_behind,
        failure,
    })
}

fn text_of(mut file: File) -> anyhow::Result<String> {
    file.rewind()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// What a thread does while a program runs.
#[derive(Debug)]
struct Watch {
    pid: u32,
    deadline: Instant,
    /// The children of this process that do not belong to the program. `None` if the memory of the tree is not sampled.
    others: Option<BTreeSet<u32>>,
}

/// The observations of the thread that watches a program.
#[derive(Debug, Default)]
struct Seen {
    peak_rss: Option<u64>,
    tree: Option<TreeMemory>,
    killed: bool,
}

impl Watch {
    /// Samples the memory of a child until it ends, and kills it when the time is up.
    fn until(&self, ended: &Receiver<()>) -> Seen {
        let mut seen = Seen::default();
        let mut next_tree = Instant::now();
        while ended.recv_timeout(SAMPLING) == Err(RecvTimeoutError::Timeout) {
            let now = Instant::now();
            seen.peak_rss = seen.peak_rss.max(peak_rss(self.pid));
            if let Some(others) = &self.others
                && now >= next_tree
            {
                sample_tree(others, seen.tree.get_or_insert_default());
                next_tree = now + TREE_SAMPLING;
            }
            let late = now > self.deadline || INTERRUPTED.load(Ordering::Relaxed);
            if late && !seen.killed {
                // This can fail only if the child has just ended.
                let _ = kill_process(self.pid);
                seen.killed = true;
            }
        }
        seen
    }
}

fn sample_tree(others: &BTreeSet<u32>, memory: &mut TreeMemory) {
    let before = cpu_of_thread();
    // Orphans are children of this process, too.
    let roots = tree::children();
    let sum = tree::memory(roots.difference(others).copied());
    memory.peak = memory.peak.max(sum);
    memory.sampling += cpu_of_thread().saturating_sub(before);
}

/// The CPU time of this thread. Zero if there is no such clock.
fn cpu_of_thread() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

fn kill_process(pid: u32) -> Result<(), Errno> {
    let pid = i32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    kill(Pid::from_raw(pid), Signal::SIGKILL)
}

/// The kernel's own record of the peak memory of a process, in bytes.
fn peak_rss(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Waits for the processes that a program has left running, and kills them after a while. Returns how many
/// had to be killed.
fn reap_orphans(others: &BTreeSet<u32>) -> usize {
    let deadline = Instant::now() + GRACE;
    let mut killed = BTreeSet::new();
    loop {
        // A process that ends may leave its own children as new orphans.
        let orphans: Vec<u32> = tree::children().difference(others).copied().collect();
        if orphans.is_empty() {
            return killed.len();
        }
        for pid in orphans {
            if let Ok(raw) = i32::try_from(pid) {
                // Whatever this returns, the next round shows whether the process is still there.
                let _ = waitpid(Pid::from_raw(raw), Some(WaitPidFlag::WNOHANG));
            }
            if Instant::now() > deadline && kill_process(pid).is_ok() {
                killed.insert(pid);
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// The CPU time of all children that have been waited for, and of their descendants.
fn cpu_of_children() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let duration = |time: TimeVal| -> anyhow::Result<Duration> {
        let microseconds = u64::try_from(time.tv_usec())?;
        let seconds = Duration::from_secs(u64::try_from(time.tv_sec())?);
        Ok(seconds + Duration::from_micros(microseconds))
    };
    Ok(duration(usage.user_time())? + duration(usage.system_time())?)
}

fn describe(status: ExitStatus, complaints: &str) -> String {
    const LONGEST: usize = 300;
    let last = complaints
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty());
    let last: String = last
        .unwrap_or("without a word")
        .chars()
        .take(LONGEST)
        .collect();
    format!("{status}: {}", last.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn shell(script: &str, timeout: Duration) -> Measured {
        let watching = Watching {
            timeout,
            tree_memory: true,
            keeps_output: true,
        };
        run(Command::new("sh").args(["-c", script]), &watching).unwrap()
    }

    #[test]
    fn a_failure_contains_the_message_of_the_program() {
        let measured = shell("echo one >&2; echo two >&2; exit 3", LONG);
        assert_eq!(measured.failure.as_deref(), Some("exit status: 3: two"));
        assert_eq!(shell("true", LONG).failure, None);
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let measured = shell("exec sleep 60", Duration::from_millis(100));
        assert!(measured.failure.is_some());
        assert!(measured.wall < LONG);
    }

    #[test]
    fn time_and_memory_are_measured() {
        let measured = shell("sleep 0.2", LONG);
        assert!(measured.wall >= Duration::from_millis(200));
        assert!(measured.peak_rss.is_some_and(|bytes| bytes > 100_000));
        assert!(measured.tree.is_some_and(|tree| tree.peak > 100_000));
    }

    #[test]
    fn output_is_kept() {
        assert_eq!(shell("echo hello", LONG).output, "hello\n");
    }
}
