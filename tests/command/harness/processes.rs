//! Processes, as `/proc` shows them.

use std::fs;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The environment variable that marks all processes of one run.
pub(crate) const MARK: &str = "LONGSHORE_TEST_RUN";

/// A running process. A zombie has no environment any more, so it is not one.
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

/// The running processes with this mark.
pub(crate) fn marked(mark: &str) -> Vec<Process> {
    let wanted = format!("{MARK}={mark}\0");
    let entries = fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| read(pid, &wanted)).collect()
}

/// The process, if its environment contains this.
fn read(pid: u32, wanted: &str) -> Option<Process> {
    // Processes come and go. The bytes of our own are UTF-8.
    let text = |name: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{name}")).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let environ = text("environ").filter(|environ| environ.contains(wanted))?;
    // During an `exec`, there are no arguments for a moment.
    let cmdline = (0..100).find_map(|_| {
        let cmdline = text("cmdline").filter(|cmdline| !cmdline.is_empty());
        if cmdline.is_none() {
            thread::sleep(Duration::from_millis(1));
        }
        cmdline
    });
    Some(Process {
        pid,
        cmdline: cmdline?,
        environ,
    })
}

#[track_caller]
pub(crate) fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}
