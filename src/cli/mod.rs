//! The command: from arguments to an exit code.

mod advice;
mod args;
mod blob;
mod children;
mod completions;
mod digest;
mod doctor;
mod ending;
#[cfg(feature = "decompress")]
mod export;
mod failure;
mod format;
mod full_disk;
mod hint;
mod inspect;
mod list;
mod list_tags;
mod local_copy;
mod man;
mod many;
mod name;
mod open;
mod outcome;
mod output_path;
mod page;
mod plan;
mod progress;
mod prune;
mod pull;
mod report;
mod say;
mod screen;
mod secret;
mod signals;
mod stop;
mod task;
mod temporary_folder;
mod timeline;
mod verify;
mod warnings;
mod whole;
mod writer;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use self::args::Arguments;
use self::children::Children;
use self::ending::LAST_MESSAGE_TIMEOUT;
use self::failure::Failure;
use self::hint::Access;
use self::say::{Log, flush_stderr, flush_stderr_blocking};
use self::task::Task;

/// How long to wait at the end for file operations that still run.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait at the end until the timeline of a pull that is interrupted has been written.
const TIMELINE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait for skopeo processes that may have a temporary folder. They remove it when they exit, but
/// are killed when this process exits. A skopeo that does not exit gets `SIGTERM` within this time.
const SKOPEO_EXIT_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn main() -> ExitCode {
    let Arguments { verbose, command } = Arguments::of_process();
    log_to_stderr(verbose > 0);
    // There are no signal handlers yet, so Ctrl-C still ends the process at once. `prepare` may wait until
    // somebody has typed a list or a password.
    let task = match Task::prepare(command, verbose) {
        Ok(task) => task,
        Err(failure) => return failed_early(failure, Access::default()),
    };
    let children = Children::from_now();
    let underway = task.underway();
    let may_leave_files = underway.has_temporary;
    // There must be handlers before there is something to interrupt.
    let signals = ending::watch(underway, children.clone());
    let (runtime, mut signal) = match (tokio::runtime::Runtime::new(), signals) {
        (Ok(runtime), Ok(signal)) => (runtime, signal),
        (Err(error), _) | (_, Err(error)) => {
            return failed_early(Failure::from(error), task.access());
        }
    };
    let code = runtime.block_on(async {
        tokio::select! {
            biased;
            Ok(signal) = &mut signal => {
                let _ = timeout(LAST_MESSAGE_TIMEOUT, flush_stderr()).await;
                // The task has been dropped, so its events have ended, and its timeline is being written.
                let _ = timeout(TIMELINE_TIMEOUT, progress::ended()).await;
                ExitCode::from(signal.code)
            }
            code = run_and_report(task) => code,
        }
    });
    // Tasks that still run are dropped, and remove their incomplete files. A disk that hangs delays this by at most
    // `SHUTDOWN_TIMEOUT`.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    if may_leave_files {
        children.wait_for_all(SKOPEO_EXIT_TIMEOUT);
    }
    children.end_all();
    // If a signal has come meanwhile, its message was written already.
    signal
        .try_recv()
        .map_or(code, |signal| ExitCode::from(signal.code))
}

fn failed_early(failure: Failure, access: Access) -> ExitCode {
    let code = failure.report(access);
    flush_stderr_blocking();
    code
}

async fn run_and_report(task: Task) -> ExitCode {
    let access = task.access();
    let code = match task.run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let reporting = spawn_blocking(move || failure.report(access));
            reporting.await.unwrap_or(ExitCode::FAILURE)
        }
    };
    flush_stderr().await;
    code
}

/// Returns an error if the work takes longer than the deadline.
async fn within<T>(
    deadline: Option<Duration>,
    work: impl Future<Output = longshore::Result<T>>,
) -> longshore::Result<T> {
    match deadline {
        None => work.await,
        Some(most) => tokio::time::timeout(most, work)
            .await
            .unwrap_or(Err(longshore::Error::DeadlineExceeded)),
    }
}

/// Runs `work`, which may wait for a disk, on a blocking thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Sends the log to stderr.
fn log_to_stderr(is_verbose: bool) {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(|| Log)
        .with_ansi(has_colours(io::stderr().is_terminal(), variable));
    tracing_subscriber::registry()
        .with(lines)
        .with(log_filter(is_verbose, variable("RUST_LOG").as_deref()))
        .init();
}

/// Returns which messages are logged. `selected`, the value of `RUST_LOG`, selects them. If it is not set, `-v` selects
/// the debug messages of longshore.
fn log_filter(is_verbose: bool, selected: Option<&str>) -> Targets {
    match selected.and_then(|targets| targets.parse().ok()) {
        Some(filter) => filter,
        None if is_verbose => Targets::new().with_target("longshore", LevelFilter::DEBUG),
        None => Targets::new(),
    }
}

/// Whether log lines have colours. `variable` returns the value of an environment variable that is set and not empty.
fn has_colours(is_terminal: bool, variable: impl Fn(&str) -> Option<String>) -> bool {
    let can_show = variable("TERM").is_some_and(|term| term != "dumb");
    is_terminal && can_show && variable("NO_COLOR").is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_for_the_log_overrides_the_option() {
        let debug = Targets::new().with_target("longshore", LevelFilter::DEBUG);
        let table = [
            (true, None, debug.clone()),
            (false, None, Targets::new()),
            (false, Some("longshore=debug"), debug.clone()),
            (
                true,
                Some("off"),
                Targets::new().with_default(LevelFilter::OFF),
            ),
            (true, Some("a=b=c"), debug),
        ];
        for (is_verbose, selected, expected) in table {
            let filter = log_filter(is_verbose, selected);
            assert_eq!(filter, expected, "{is_verbose} {selected:?}");
        }
    }

    #[test]
    fn only_a_terminal_that_has_colours_gets_them() {
        let table = [
            (true, Some("xterm"), None, true),
            (false, Some("xterm"), None, false),
            (true, Some("xterm"), Some("1"), false),
            (true, Some("dumb"), None, false),
            (true, None, None, false),
        ];
        for (is_terminal, term, no_color, expected) in table {
            let value = |name: &str| {
                let value = if name == "TERM" { term } else { no_color };
                value.map(str::to_owned)
            };
            let found = has_colours(is_terminal, value);
            assert_eq!(found, expected, "{is_terminal} {term:?} {no_color:?}");
        }
    }
}
