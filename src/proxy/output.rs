//! Runs a program once and returns its output. The program is supervised like a proxy.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::child::Child;
use crate::config::Launch;
use crate::drain::{bounded, pipe};
use crate::error::{ChildExit, Error, Result};
use crate::protocol::Refusal;
use crate::time::timeout;

/// Runs a program to its end, and returns its output: a document of at most `limit` bytes. In errors, `what` names the
/// document, and `method` names the operation. `time_limit` is the time limit of the run; `None` means no limit.
///
/// # Errors
///
/// - [`Error::Refused`] with skopeo's reason, if the program fails and logs one; otherwise [`Error::ProxyExited`].
/// - [`Error::DocumentTooLarge`] if the output is too large.
/// - [`Error::CallTimeout`] if the program takes too long.
///
/// # Cancel safety
///
/// If the future is dropped early, the program is ended.
pub(crate) async fn output(
    launch: Launch,
    time_limit: Option<Duration>,
    (method, what): (&'static str, &'static str),
    limit: u64,
) -> Result<Vec<u8>> {
    let program = launch.program.clone();
    let cant_read = || Error::io(format!("can't read what {program} prints"));
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| cant_read()(errno.into()))?;
    let mut child = Child::start(|| Ok(launch), Stdio::null(), Stdio::from(theirs)).await?;
    let reader = pipe::reader(ours).map_err(cant_read())?;
    let run = async {
        let read = bounded::read(reader, limit).await.map_err(cant_read())?;
        let printed = read.ok_or(Error::DocumentTooLarge { what, limit })?;
        match child.exited().await {
            Some(exit) if exit.failed() => Err(failure(method, &exit)),
            // A program that prints nothing has failed, even if its exit status is unknown.
            Some(exit) if printed.is_empty() => Err(failure(method, &exit)),
            Some(_) => Ok(printed),
            None => Err(Error::Closed),
        }
    };
    match time_limit {
        None => run.await,
        Some(after) => {
            let late = |_| Error::CallTimeout {
                method,
                tries: 1,
                after,
            };
            timeout(after, run).await.map_err(late)?
        }
    }
}

fn failure(method: &'static str, exit: &ChildExit) -> Error {
    match reason(exit.stderr()) {
        Some(message) => Error::Refused {
            tries: 1,
            method,
            refusal: Refusal::from_wire("", &message),
        },
        None => Error::ProxyExited(Arc::new(exit.before_first_answer())),
    }
}

/// The message of the last fatal error in skopeo's log (logrus, text format). `None` if there is none.
fn reason(stderr: &str) -> Option<String> {
    let mut lines = stderr.lines().rev();
    let (_, quoted) = lines.find_map(|line| line.split_once(" level=fatal msg=\""))?;
    let mut reason = String::new();
    let mut rest = quoted.chars();
    while let Some(c) = rest.next() {
        match c {
            '"' => break,
            '\\' => match rest.next()? {
                'n' | 't' | 'r' => reason.push(' '),
                escaped => reason.push(escaped),
            },
            c => reason.push(c),
        }
    }
    Some(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_as_skopeo_logs_it() {
        let table = [
            (
                "time=\"now\" level=info msg=\"hello\"\ntime=\"now\" level=fatal msg=\"Error parsing image name \
                 \\\"docker://a\\\": reading manifest b\\nin a: unauthorized\"\n",
                Some(
                    "Error parsing image name \"docker://a\": reading manifest b in a: unauthorized",
                ),
            ),
            ("time=\"now\" level=fatal msg=\"cut \\", None),
            ("panic: something", None),
            ("", None),
        ];
        for (stderr, expected) in table {
            assert_eq!(reason(stderr).as_deref(), expected, "{stderr}");
        }
    }
}
