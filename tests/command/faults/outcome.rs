//! The outcome of a pull under a fault: as expected, and as observed.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::Run;

/// The `--stall-timeout` of the pulls that wait for it. A correct blob is not that late, even on a busy machine.
pub(crate) const STALL: Duration = Duration::from_secs(4);

/// The time after which a blob counts as quiet.
const QUIET: Duration = Duration::from_secs(1);
/// The `--call-timeout` of the pulls that wait for it.
pub(crate) const CALL: Duration = Duration::from_secs(5);

/// The expected number of retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retries {
    Exactly(usize),
    /// At least once. How often depends on chance.
    Some,
    /// Any number, also none. It depends on chance.
    Any,
}

impl Retries {
    fn include(self, seen: usize) -> bool {
        match self {
            Self::Exactly(times) => times == seen,
            Self::Some => seen > 0,
            Self::Any => true,
        }
    }
}

impl fmt::Display for Retries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(0) | Self::Any => Ok(()),
            Self::Exactly(1) => write!(f, " after 1 retry"),
            Self::Exactly(times) => write!(f, " after {times} retries"),
            Self::Some => write!(f, " after retries"),
        }
    }
}

/// The expected outcome of a pull.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome {
    /// The whole image is in the layout.
    Succeeds(Retries),
    /// Exit code 1, and these words in the last lines of stderr.
    Fails(Retries, &'static str),
    /// Exit code 2, and these words in the only line of stderr.
    WrongUsage(&'static str),
    /// The command ends after this signal, with the exit code for it. If the signal comes before the handler
    /// exists, the signal itself ends the command.
    Interrupted(Signal),
    /// The command is killed. What it has left is valid, and the next pull completes it.
    Killed,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Succeeds(retries) => write!(f, "succeeds{retries}"),
            Self::Fails(retries, words) => write!(f, "exit 1{retries}: `{words}`"),
            Self::WrongUsage(words) => write!(f, "exit 2: `{words}`"),
            Self::Interrupted(signal) => write!(f, "exit {}", 128 + *signal as i32),
            Self::Killed => write!(f, "killed; the next pull completes it"),
        }
    }
}

impl Outcome {
    /// Checks that the run had this outcome.
    #[track_caller]
    pub(crate) fn assert_matches(self, run: &Run) {
        let last = failure_message(run);
        let seen = retries(run);
        let fits = match self {
            Self::Succeeds(retries) => run.status.success() && retries.include(seen),
            Self::Fails(retries, words) => {
                // The error has one line, and perhaps another one about what to do.
                run.status.code() == Some(1)
                    && retries.include(seen)
                    && last.starts_with("longshore: can't pull ")
                    && last.lines().count() <= 2
                    && last.contains(words)
            }
            Self::WrongUsage(words) => {
                run.status.code() == Some(2)
                    && seen == 0
                    && last.starts_with("longshore: can't pull ")
                    && last.lines().count() == 1
                    && last.contains(words)
            }
            Self::Interrupted(signal) => {
                let code = 128 + signal as i32;
                run.status.code() == Some(code) || run.status.signal() == Some(signal as i32)
            }
            Self::Killed => run.status.signal() == Some(Signal::SIGKILL as i32),
        };
        let status = run.status;
        assert!(
            fits,
            "wanted: {self}; seen: {status}, {seen} retries: {last}\n{run}"
        );
    }
}

/// The last lines of stderr, without the log.
fn failure_message(run: &Run) -> String {
    let lines = run.stderr.lines();
    lines
        .skip_while(|line| !line.starts_with("longshore: "))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The number of retries, including those of the opening of the image. Openings have no events, but both
/// are logged.
pub(crate) fn retries(run: &Run) -> usize {
    let lines = run.stderr.lines();
    lines.filter(|line| line.contains("will retry")).count()
}

/// The longest wait of a pull, apart from the work itself. Only a pull that hangs takes noticeably longer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    /// No wait.
    None,
    /// This many stall timeouts, one after the other.
    Stalls(u32),
    /// This many call timeouts.
    Calls(u32),
    /// This many times the time after which a blob counts as quiet, and the waits between retries.
    Quiet(u32),
    /// The waits between retries.
    Backoff,
    /// Seconds that skopeo waits, because the registry asks it to or by itself.
    Skopeo(u64),
    /// Seconds that the server takes.
    Server(u64),
    /// The shutdown: the time from `SIGTERM` to `SIGKILL`, and the time for file operations that still run.
    Grace,
}

impl Bound {
    pub(crate) fn duration(self) -> Duration {
        match self {
            Self::None => Duration::ZERO,
            Self::Stalls(times) => STALL * times,
            Self::Calls(times) => CALL * times,
            Self::Quiet(times) => QUIET * times + Self::Backoff.duration(),
            Self::Backoff => Duration::from_secs(2),
            Self::Skopeo(seconds) | Self::Server(seconds) => Duration::from_secs(seconds),
            Self::Grace => Duration::from_secs(4),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => write!(f, "nothing"),
            Self::Stalls(1) => write!(f, "the stall timeout"),
            Self::Stalls(times) => write!(f, "{times} stall timeouts"),
            Self::Calls(1) => write!(f, "the call timeout"),
            Self::Calls(times) => write!(f, "{times} call timeouts"),
            Self::Quiet(1) => write!(f, "a second without a byte, the waits between retries"),
            Self::Quiet(times) => write!(
                f,
                "{times} times a second without a byte, the waits between retries"
            ),
            Self::Backoff => write!(f, "the waits between retries"),
            Self::Skopeo(seconds) => write!(f, "skopeo's own wait: {seconds} s"),
            Self::Server(seconds) => write!(f, "the server: {seconds} s"),
            Self::Grace => write!(f, "the shutdown: 4 s"),
        }
    }
}
