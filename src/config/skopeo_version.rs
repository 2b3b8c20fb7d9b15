//! Asks a skopeo for its version.

use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use semver::Version;

use super::ImageProxyConfig;
use crate::error::{ConfigError, Error, Result, join_error};
use crate::sys;

impl ImageProxyConfig {
    /// Returns the version of the skopeo that this configuration would run. For that, skopeo is run with `--version`,
    /// for 10 s at most. The future does not borrow the configuration.
    ///
    /// # Errors
    ///
    /// [`Error::Spawn`] if the program can't be run, [`Error::CallTimeout`] if it does not answer in time,
    /// [`ConfigError::Invalid`] if it does not print a version.
    ///
    /// # Panics
    ///
    /// The future panics if it is polled outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// A skopeo that is running when the future is dropped exits by itself, or is killed after 10 s.
    pub fn skopeo_version(&self) -> impl Future<Output = Result<Version>> + Send + use<> {
        let (command, option) = (self.base_command(), self.program_option());
        async move {
            let asking = tokio::task::spawn_blocking(move || query_version(command, option));
            asking.await.map_err(join_error)?
        }
    }
}

/// How long a skopeo may take to print its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a skopeo to ask for its version. `option` is the option that names the program. This function blocks for
/// [`VERSION_TIMEOUT`] at most.
pub(super) fn query_version(mut command: Command, option: &'static str) -> Result<Version> {
    let program = command.get_program().to_string_lossy().into_owned();
    let spawn_failed = |source| Error::Spawn {
        program: program.clone(),
        source: Arc::new(source),
    };
    command
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0);
    sys::prepare_child(&mut command, &[], false);
    let mut process = command.spawn().map_err(spawn_failed)?;
    let pid = Pid::from_raw(process.id().cast_signed());
    let pidfd = sys::pidfd_open(pid);
    let printed = match process.stdout.take() {
        Some(stdout) => read_with_timeout(stdout, VERSION_TIMEOUT),
        None => Ok(None),
    };
    // The output is complete, or the time is up, so the process group is killed. The exit status does not matter.
    // Another part of this program may have reaped the process already.
    if pidfd.is_ok_and(|pidfd| sys::is_unreaped(&pidfd)) {
        let _ = killpg(pid, Signal::SIGKILL);
    }
    let _ = process.wait();
    let printed = printed.map_err(spawn_failed)?.ok_or(Error::CallTimeout {
        tries: 1,
        method: "asking skopeo for its version",
        after: VERSION_TIMEOUT,
    })?;
    parse_version(&String::from_utf8_lossy(&printed)).ok_or_else(|| {
        Error::from(ConfigError::Invalid {
            option,
            reason: format!("{program} printed no version with --version"),
        })
    })
}

/// Reads a pipe until it ends, and returns the first 4 KiB. `None` if that takes longer than `timeout`.
fn read_with_timeout(mut pipe: ChildStdout, timeout: Duration) -> io::Result<Option<Vec<u8>>> {
    let until = Instant::now() + timeout;
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], left) {
            Ok(0) | Err(Errno::EINTR) => continue,
            other => other.map(drop)?,
        }
        match pipe.read(&mut buffer)? {
            0 => return Ok(Some(read)),
            n => read.extend(&buffer[..n]),
        }
        read.truncate(buffer.len());
    }
}

/// Parses the output of `skopeo --version`: `skopeo version 1.22.0`, possibly with more text after it.
fn parse_version(printed: &str) -> Option<Version> {
    printed
        .split_whitespace()
        .find_map(|word| Version::parse(word).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_skopeos_print_them() {
        let table = [
            ("skopeo version 1.9.3\n", Some(Version::new(1, 9, 3))),
            (
                "skopeo version 1.22.0 commit: abc\n",
                Some(Version::new(1, 22, 0)),
            ),
            ("usage: something else", None),
        ];
        for (printed, expected) in table {
            assert_eq!(parse_version(printed), expected, "{printed}");
        }
    }
}
