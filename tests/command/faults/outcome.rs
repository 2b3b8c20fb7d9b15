//! What a pull under a fault comes to: as it should be, and as it was seen.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::Run;

/// `--stall-timeout` of the pulls that are to wait for it. No honest blob of a
/// busy machine takes as long.
pub(crate) const STALL: Duration = Duration::from_secs(4);
/// `--call-timeout` of those that wait for that one.
pub(crate) const CALL: Duration = Duration::from_secs(5);

/// How often something was tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retries {
    Exactly(usize),
    /// At least once; how often is a matter of chance.
    Some,
    /// Perhaps: that is a matter of chance.
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

/// How a pull is to end.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome {
    /// The whole image is in the layout.
    Right(Retries),
    /// Exit code 1, and these words are in what it says last.
    Wrong(Retries, &'static str),
    /// Told to end by this signal, it does, with the exit code that goes with
    /// it; or by the signal itself, before it can take it.
    Interrupted(Signal),
    /// Killed, of course. What it left is valid, and the next pull completes it.
    Killed,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Right(retries) => write!(f, "succeeds{retries}"),
            Self::Wrong(retries, words) => write!(f, "exit 1{retries}: `{words}`"),
            Self::Interrupted(signal) => write!(f, "exit {}", 128 + *signal as i32),
            Self::Killed => write!(f, "killed; the next pull completes it"),
        }
    }
}

impl Outcome {
    /// The run came to this.
    #[track_caller]
    pub(crate) fn assert_seen(self, run: &Run) {
        let last = last_words(run);
        let seen = retries(run);
        let fits = match self {
            Self::Right(retries) => run.status.success() && retries.include(seen),
            Self::Wrong(retries, words) => {
                // In a line, and perhaps another one of what to do.
                run.status.code() == Some(1)
                    && retries.include(seen)
                    && last.starts_with("longshore: can't pull ")
                    && last.lines().count() <= 2
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

/// What it said when it ended, without what it logged.
fn last_words(run: &Run) -> String {
    let lines = run.stderr.lines();
    lines
        .skip_while(|line| !line.starts_with("longshore: "))
        .collect::<Vec<_>>()
        .join("\n")
}

/// All that it tried again, the opening of the image included: of that there
/// are no events, but both are logged.
pub(crate) fn retries(run: &Run) -> usize {
    let lines = run.stderr.lines();
    lines.filter(|line| line.contains("will retry")).count()
}

/// The most that a pull waits for, apart from what is under way. Only a pull
/// that hangs takes noticeably longer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    /// Nothing.
    None,
    /// So many stall timeouts, one after the other.
    Stalls(u32),
    /// So many call timeouts.
    Calls(u32),
    /// The waits between retries.
    Backoff,
    /// What the registry asks skopeo to wait, or skopeo waits by itself.
    Skopeo(u64),
    /// What the server takes.
    Server(u64),
    /// From `SIGTERM` to `SIGKILL`, and the end of file operations.
    Grace,
}

impl Bound {
    pub(crate) fn duration(self) -> Duration {
        match self {
            Self::None => Duration::ZERO,
            Self::Stalls(times) => STALL * times,
            Self::Calls(times) => CALL * times,
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
            Self::Backoff => write!(f, "the waits between retries"),
            Self::Skopeo(seconds) => write!(f, "skopeo's own wait: {seconds} s"),
            Self::Server(seconds) => write!(f, "the server: {seconds} s"),
            Self::Grace => write!(f, "an ending: 4 s"),
        }
    }
}
