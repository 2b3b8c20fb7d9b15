//! Pulls whose stderr is a terminal.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::Signal;
use test_registry::server::Options;

use crate::harness::{Scratch, Served, eventually, newest_skopeo, small_image};

/// The end of what erases a picture: the cursor goes back to where the picture began.
const ERASED: &str = "\u{1b}8";

/// A terminal of 80 columns and 24 rows.
struct Terminal {
    screen: File,
    /// Everything that was written to the terminal.
    written: String,
}

impl Terminal {
    /// Returns the terminal, and the end for a program.
    fn open() -> (Self, OwnedFd) {
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let ends = openpty(&size, None).unwrap();
        fcntl(&ends.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let terminal = Self {
            screen: ends.master.into(),
            written: String::new(),
        };
        (terminal, ends.slave)
    }

    /// Takes what was written meanwhile. Returns everything that was written.
    fn written(&mut self) -> &str {
        let mut bytes = [0; 4096];
        loop {
            match self.screen.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => self
                    .written
                    .push_str(&String::from_utf8_lossy(&bytes[..count])),
                // No program has the other end open any more.
                Err(error) if error.raw_os_error() == Some(nix::libc::EIO) => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        &self.written
    }
}

/// The state of a process: proc(5), the third field of `/proc/PID/stat`.
fn state(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields[..1].to_owned()
}

#[test]
#[ignore = "needs skopeo"]
fn ctrl_z_takes_the_picture_away_and_the_pull_goes_on_afterwards() {
    let served = Served::with(Options {
        bandwidth: Some(20_000),
        ..Options::default()
    });
    served.add("v1", &small_image(1));
    let scratch = Scratch::new();
    let (mut terminal, end) = Terminal::open();
    let mut pull = scratch
        .pull(&newest_skopeo(), &served.reference("v1"), "oci:image:v1")
        .env("CI", "")
        .env("TERM", "xterm")
        .env("LC_ALL", "C")
        .stderr_to(end)
        .start();
    pull.wait_until("layers are shown", |_| {
        terminal.written().contains("of 3 layers")
    });
    pull.signal(Signal::SIGTSTP);
    pull.wait_until("the command has stopped", |pull| state(pull.pid()) == "T");
    // A stopped process writes nothing. The kernel hands over late what was written before.
    pull.wait_until("the picture is gone", |_| {
        terminal.written().ends_with(ERASED)
    });
    let stopped = terminal.written().len();
    pull.signal(Signal::SIGCONT);
    pull.wait_until("layers are shown again", |_| {
        terminal.written()[stopped..].contains("of 3 layers")
    });
    let run = pull.end().succeeded();
    assert!(run.stdout.contains("4 blobs fetched"), "{run}");
    eventually("the picture is gone at the end", || {
        terminal.written().ends_with(ERASED)
    });
}
