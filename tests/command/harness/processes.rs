//! Processes, as `/proc` shows them.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::DirEntryExt;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The environment variable that marks all processes of one run.
pub(crate) const MARK: &str = "LONGSHORE_TEST_RUN";

/// More bytes than any environment has here.
const LARGEST_ENVIRONMENT: usize = 256 << 10;

/// A running process, which is no zombie. A zombie has no environment any more, so it is not found.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// The arguments, each followed by a NUL byte.
    pub(crate) cmdline: String,
    pub(crate) environ: String,
}

impl Process {
    /// Whether this is a skopeo that serves as a proxy, and not one that prints its version, or the shell
    /// that becomes it.
    pub(crate) fn is_proxy(&self) -> bool {
        self.cmdline.contains("\0experimental-image-proxy\0")
            && !self.cmdline.starts_with("/bin/sh\0")
    }

    /// Whether this is the daemon that gpg leaves behind when skopeo has it verify. The daemon exits when its
    /// folder is gone.
    pub(crate) fn is_gpg_agent(&self) -> bool {
        self.cmdline.starts_with("gpg-agent\0")
    }
}

/// Finds the running processes of one run.
#[derive(Debug)]
pub(crate) struct Finder {
    wanted: String,
    /// The processes of other runs, with their inodes in `/proc`, because the number of a process is used again.
    /// They are not read again. Otherwise many tests read the environments of all processes every few milliseconds.
    others: RefCell<HashSet<(u32, u64)>>,
}

impl Finder {
    pub(crate) fn new(mark: &str) -> Self {
        Self {
            wanted: format!("{MARK}={mark}\0"),
            others: RefCell::default(),
        }
    }

    /// Returns the processes that run now.
    pub(crate) fn find(&self) -> Vec<Process> {
        let mut others = self.others.borrow_mut();
        let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let numbered = entries.filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, entry.ino()))
        });
        let found = numbered.filter_map(|(pid, number)| {
            if others.contains(&(pid, number)) {
                return None;
            }
            let environ = environ(pid)?;
            if environ.contains(&self.wanted) {
                return Some(Process {
                    pid,
                    cmdline: cmdline(pid)?,
                    environ,
                });
            }
            // During an `exec`, there is no environment for a moment.
            if !environ.is_empty() {
                others.insert((pid, number));
            }
            None
        });
        found.collect()
    }
}

/// The environment of a process. Processes come and go.
///
/// A single read gets the whole environment. Between two reads, the process could call `exec`. The second read would
/// then return nothing, and the part from the first one may lack the mark of the run.
fn environ(pid: u32) -> Option<String> {
    let mut bytes = vec![0; LARGEST_ENVIRONMENT];
    let mut file = File::open(format!("/proc/{pid}/environ")).ok()?;
    let length = file.read(&mut bytes).ok()?;
    assert!(length < LARGEST_ENVIRONMENT, "the environment is too large");
    bytes.truncate(length);
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The arguments of a process. During an `exec`, there are none for a moment.
fn cmdline(pid: u32) -> Option<String> {
    (0..100).find_map(|_| {
        let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok();
        let cmdline = bytes
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .filter(|cmdline| !cmdline.is_empty());
        if cmdline.is_none() {
            thread::sleep(Duration::from_millis(1));
        }
        cmdline
    })
}

#[track_caller]
pub(crate) fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// Sends a signal to a process that may have ended.
#[track_caller]
pub(crate) fn signal_if_there(pid: u32, signal: Signal) {
    let sent = kill(Pid::from_raw(pid.cast_signed()), signal);
    assert!(matches!(sent, Ok(()) | Err(Errno::ESRCH)), "{sent:?}");
}
