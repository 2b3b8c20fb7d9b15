//! How the process of a proxy ended.

use std::fmt;
use std::process::ExitStatus;

/// The exit of a proxy's process: its exit status, and the end of its stderr.
#[derive(Debug, Clone)]
pub struct ChildExit {
    program: String,
    status: Option<ExitStatus>,
    stderr: String,
    crash: Option<String>,
    /// Whether the process ended before it had answered anything.
    is_early: bool,
}

/// The maximum length of the line of the proxy's stderr that an error message shows, in characters.
const SHOWN_STDERR_CHARS: usize = 300;

impl ChildExit {
    pub(crate) fn new(
        program: String,
        status: Option<ExitStatus>,
        stderr: String,
        crash: Option<String>,
    ) -> Self {
        Self {
            program,
            status,
            stderr,
            crash,
            is_early: false,
        }
    }

    /// Returns this exit as one that came before the process had answered anything.
    pub(crate) fn before_first_answer(&self) -> Self {
        Self {
            is_early: true,
            ..self.clone()
        }
    }

    /// Whether the process exited by itself, without a crash, before its first answer. If so, the program is no skopeo
    /// with an image proxy, or it does not accept the options, and another start would end in the same way.
    ///
    /// The first answer of a proxy is the reply to its first call. The answer of another skopeo, such as `skopeo
    /// inspect`, is its result, or the reason why it has none.
    #[must_use]
    pub fn is_no_proxy(&self) -> bool {
        let has_exited = self.status.is_some_and(|status| status.code().is_some());
        self.is_early && has_exited && self.crash.is_none()
    }

    /// The exit status. `None` if other code of this program reaped the process. That happens in a program that
    /// ignores `SIGCHLD` or waits for all its children.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        self.status
    }

    /// The last 64 KiB that the process wrote to stderr. The lines are cleaned like
    /// [`printable`](crate::printable) text.
    #[must_use]
    pub fn stderr(&self) -> &str {
        &self.stderr
    }

    /// Whether the process exited with status 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// Whether the process is known to have failed. If other code reaped the process, the status is unknown, and
    /// callers decide by what else is known, such as whether all bytes came.
    pub(crate) fn failed(&self) -> bool {
        self.status.is_some_and(|status| !status.success())
    }
}

impl fmt::Display for ChildExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            program,
            status,
            stderr,
            crash,
            ..
        } = self;
        match status {
            Some(status) => write!(f, "{program} ended: {status}")?,
            None => write!(
                f,
                "{program} ended (other code of this program collected its exit status)"
            )?,
        }
        let last = stderr.lines().rev().find(|line| !line.trim().is_empty());
        let (lead, line) = match (crash, last) {
            (Some(crash), _) => ("it crashed", crash.as_str()),
            (None, Some(last)) => ("it last said", last),
            (None, None) => return Ok(()),
        };
        let shown: String = line.trim().chars().take(SHOWN_STDERR_CHARS).collect();
        write!(f, "; {lead}: {shown}")
    }
}

impl std::error::Error for ChildExit {}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn a_program_that_exits_by_itself_before_its_first_answer_is_no_proxy() {
        let crash = Some("fatal error: out of memory".to_owned());
        let (exited, killed) = (ExitStatus::from_raw(1 << 8), ExitStatus::from_raw(9));
        let table = [
            (Some(exited), None, true, true),
            (Some(exited), None, false, false),
            (Some(exited), crash, true, false),
            (Some(killed), None, true, false),
            (None, None, true, false),
        ];
        for (status, crash, is_early, expected) in table {
            let shown = format!("{status:?} {crash:?} {is_early}");
            let exit = ChildExit::new("skopeo".into(), status, String::new(), crash);
            let exit = if is_early {
                exit.before_first_answer()
            } else {
                exit
            };
            assert_eq!(exit.is_no_proxy(), expected, "{shown}");
        }
    }
}
