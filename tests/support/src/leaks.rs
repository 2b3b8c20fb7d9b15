//! Runs a test alone, and checks what it leaves behind.
//!
//! A process has one table of descriptors, so tests that check it can't run at the same time. Each test of a
//! binary goes through [`run`], which takes a lock of the whole process. This works under plain `cargo test`.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::future::Future;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

/// How long background work may take to end.
const TAIL: Duration = Duration::from_secs(10);

static ALONE: Mutex<()> = Mutex::new(());

/// Runs a test on a runtime of two workers, alone in this process. Fails if the test leaves a descriptor, a
/// process or a supervisor thread. The check is made while the runtime still runs, and again after its end.
pub fn run(test: impl Future<Output = ()>) {
    on(&mut Builder::new_multi_thread(), test);
}

/// Runs a test like [`run`], on a runtime of one thread that a test may block.
pub fn run_single(test: impl Future<Output = ()>) {
    on(&mut Builder::new_current_thread(), test);
}

fn on(builder: &mut Builder, test: impl Future<Output = ()>) {
    run_without(|| {
        let runtime = builder.worker_threads(2).enable_all().build().unwrap();
        watch(&runtime, test);
    });
}

/// Runs a test like [`run`] that makes and ends its runtimes itself.
pub fn run_without(test: impl FnOnce()) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // This makes tokio's signal pipe, which then stays open until the process ends.
    drop(Builder::new_current_thread().enable_all().build().unwrap());
    let without_runtime = Snapshot::take();
    test();
    let deadline = Instant::now() + TAIL;
    while let Some(more) = Snapshot::take().more_than(&without_runtime) {
        assert!(Instant::now() < deadline, "left after the runtime: {more}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs the preparation of a test, which may start other programs. A test that ran at the same time would count their
/// processes and pipes as its own.
pub fn prepare<T>(work: impl FnOnce() -> T) -> T {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    work()
}

fn watch(runtime: &Runtime, test: impl Future<Output = ()>) {
    let before = Snapshot::take();
    runtime.block_on(async {
        test.await;
        let deadline = Instant::now() + TAIL;
        // A test may have stopped tokio's clock, so this uses the real one.
        while let Some(more) = Snapshot::take().more_than(&before) {
            assert!(Instant::now() < deadline, "left by the test: {more}");
            tokio::task::yield_now().await;
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}

/// The resources of this process at one time.
#[derive(Debug, PartialEq, Eq)]
struct Snapshot {
    /// Descriptors as `number -> target`. Pipes and sockets have unique targets.
    descriptors: BTreeSet<String>,
    children: BTreeSet<String>,
    supervisor_threads: usize,
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "descriptors {:?}, processes {:?}, {} supervisor threads",
            self.descriptors, self.children, self.supervisor_threads
        )
    }
}

impl Snapshot {
    fn take() -> Self {
        Self {
            descriptors: descriptors(),
            children: children(std::process::id()),
            supervisor_threads: supervisor_threads(),
        }
    }

    /// The resources that are here and not in `before`. `None` if there are none.
    fn more_than(&self, before: &Self) -> Option<Self> {
        let descriptors: BTreeSet<_> = &self.descriptors - &before.descriptors;
        let children: BTreeSet<_> = &self.children - &before.children;
        let supervisor_threads = self
            .supervisor_threads
            .saturating_sub(before.supervisor_threads);
        (!descriptors.is_empty() || !children.is_empty() || supervisor_threads > 0).then_some(
            Self {
                descriptors,
                children,
                supervisor_threads,
            },
        )
    }
}

/// The open descriptors of this process, without the one that lists them.
pub fn descriptors() -> BTreeSet<String> {
    entries("/proc/self/fd")
        .filter_map(|fd| {
            let target = fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
            let target = target.display().to_string();
            let listing = format!("/proc/{}/fd", std::process::id());
            (target != listing).then(|| format!("{fd} -> {target}"))
        })
        .collect()
}

/// The processes that `parent` has started and not reaped, including zombies.
pub fn children(parent: u32) -> BTreeSet<String> {
    entries("/proc")
        .filter_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The format is "pid (name) state ppid ...", and the name may contain anything.
            let (name, rest) = stat.rsplit_once(')')?;
            let mut rest = rest.split_whitespace();
            let state = rest.next()?;
            let found: u32 = rest.next()?.parse().ok()?;
            (found == parent).then(|| format!("{name}) {state}"))
        })
        .collect()
}

fn supervisor_threads() -> usize {
    entries("/proc/self/task")
        .filter_map(|id| fs::read_to_string(format!("/proc/self/task/{id}/comm")).ok())
        .filter(|name| name.starts_with("longshore"))
        .count()
}

fn entries(folder: impl AsRef<Path>) -> impl Iterator<Item = String> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
}
