//! What a program prints, when it is run once and ends by itself: kept as a
//! proxy is.

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

/// Run it to its end, and give what it printed: a document of no more than
/// `limit` bytes, which `what` is to name in an error, as `method` names what was done.
///
/// # Errors
///
/// [`Error::Refused`] with its reason, if it gives one; otherwise [`Error::ProxyExited`].
///
/// # Cancel safety
///
/// Dropped early, the program is ended.
pub(crate) async fn output(
    launch: Launch,
    patience: Option<Duration>,
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
            Some(exit) if exit.failed() => Err(failure(method, exit)),
            // Whoever prints nothing has failed, also if nobody knows how it ended.
            Some(exit) if printed.is_empty() => Err(failure(method, exit)),
            Some(_) => Ok(printed),
            None => Err(Error::Closed),
        }
    };
    match patience {
        None => run.await,
        Some(after) => {
            let late = |_| Error::CallTimeout { method, after };
            timeout(after, run).await.map_err(late)?
        }
    }
}

fn failure(method: &'static str, exit: Arc<ChildExit>) -> Error {
    match reason(exit.stderr()) {
        Some(message) => Error::Refused {
            tries: 1,
            method,
            refusal: Refusal::from_wire("", &message),
        },
        None => Error::ProxyExited(exit),
    }
}

/// Why skopeo gives up, as it logs that last (logrus, text format).
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
