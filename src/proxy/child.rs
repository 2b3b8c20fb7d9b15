//! The proxy's process, and the thread that keeps it.
//!
//! One long-lived thread starts the child and reaps it. It has to be the same
//! one: the kernel sends the parent-death signal when the *thread* that forked
//! ends. It waits on a pidfd, so it needs no SIGCHLD handler and steals no
//! child of the embedding program.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, pipe2};
use tokio::sync::{oneshot, watch};

use super::said::{LastWords, Said};
use crate::config::Launch;
use crate::error::{ChildExit, Error, Result};
use crate::sys;
use crate::time::moment_after;

/// How many chunks of stderr are read before looking at everything else again:
/// more than a pipe holds.
const CHUNKS_PER_TURN: usize = 32;

/// As many bytes as a pipe that can be written to takes at once (Linux: `PIPE_BUF`).
const PIPE_BUF: usize = 4096;

/// From `SIGTERM` to `SIGKILL`.
const TERM_GRACE: Duration = Duration::from_secs(2);

/// What a byte in the control pipe tells the supervisor. Its end says [`END`], too, but may never come: a program
/// that forks has copies of it.
const END: u8 = b'e';
/// The same, without time to end by itself.
const END_NOW: u8 = b'n';

/// A started child. When this is dropped, the child is told to end: it has the
/// shutdown timeout to do so by itself (its socket is closed by then), then
/// gets `SIGTERM` and then `SIGKILL`.
#[derive(Debug)]
pub(crate) struct Child {
    control: ControlPipe,
    exit: watch::Receiver<Option<Arc<ChildExit>>>,
}

#[derive(Debug)]
struct ControlPipe(OwnedFd);

impl ControlPipe {
    fn tell(&self, byte: u8) {
        // If the pipe is closed, the supervisor is past all this.
        let _ = nix::unistd::write(&self.0, &[byte]);
    }
}

impl Drop for ControlPipe {
    fn drop(&mut self) {
        self.tell(END);
    }
}

impl Child {
    /// Start a program. `launch` may block.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, the child, if already started, is ended.
    pub(crate) async fn start(
        launch: impl FnOnce() -> Result<Launch> + Send + 'static,
        stdin: Stdio,
        stdout: Stdio,
    ) -> Result<Self> {
        let (started, start) = oneshot::channel();
        thread::Builder::new()
            .name("longshore-child".into())
            .spawn(move || keep(launch, [stdin, stdout], started))
            .map_err(Error::io("can't start the thread that keeps the proxy"))?;
        start.await.unwrap_or(Err(Error::Closed))
    }

    /// Wait until the child has ended and is reaped. `None` if that can't be
    /// known any more.
    pub(crate) async fn exited(&mut self) -> Option<Arc<ChildExit>> {
        let exit = self.exit.wait_for(Option::is_some).await.ok()?;
        exit.clone()
    }

    /// Let it end, as dropping does, and wait until it is reaped.
    pub(crate) async fn end(self) -> Option<Arc<ChildExit>> {
        let Self { control, mut exit } = self;
        drop(control);
        let exit = exit.wait_for(Option::is_some).await.ok()?;
        exit.clone()
    }

    /// End it without giving it time to do so by itself.
    pub(crate) fn end_now(self) {
        self.control.tell(END_NOW);
    }
}

/// The supervisor thread, from the start to the reaping.
fn keep(
    launch: impl FnOnce() -> Result<Launch>,
    stdio: [Stdio; 2],
    started: oneshot::Sender<Result<Child>>,
) {
    let (child, exit, supervised) = match launch().and_then(|launch| start(launch, stdio)) {
        Ok(all) => all,
        Err(error) => {
            // Nobody waits for it: nothing to tell.
            let _ = started.send(Err(error));
            return;
        }
    };
    // If nobody waits any more, the `Child` is dropped here, and its control pipe
    // tells us to end what we have just started.
    let _ = started.send(Ok(child));
    let ended = supervised.until_it_ends();
    exit.send_replace(Some(Arc::new(ended)));
}

type ExitSender = watch::Sender<Option<Arc<ChildExit>>>;

fn start(launch: Launch, [stdin, stdout]: [Stdio; 2]) -> Result<(Child, ExitSender, Supervised)> {
    let Launch {
        mut command,
        program,
        passed,
        pass_stderr_on,
        shutdown_timeout,
        hide_system_cache,
    } = launch;
    command
        .stdin(stdin)
        .stdout(stdout)
        .stderr(Stdio::piped())
        // Of its own, so that signals reach a wrapper's children too, and
        // Ctrl-C at our terminal reaches only us.
        .process_group(0);
    sys::prepare_child(&mut command, &passed, hide_system_cache);
    let spawn_failed = |source| Error::Spawn {
        program: program.clone(),
        source: Arc::new(source),
    };
    let (control_end, control) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .map_err(|errno| Error::io("can't make a pipe")(errno.into()))?;
    let control = ControlPipe(control);
    let mut process = command.spawn().map_err(spawn_failed)?;
    let watched = watch_process(&mut process);
    let (pidfd, stderr) = watched.map_err(|source| {
        // We can't keep what we can't watch. SIGKILL is sure, so is the wait.
        let _ = process.kill();
        let _ = process.wait();
        Error::Spawn {
            program: program.clone(),
            source: Arc::new(source),
        }
    })?;
    tracing::debug!(program, pid = process.id(), "started the proxy");
    let (exit_sender, exit) = watch::channel(None);
    let supervised = Supervised {
        process,
        program,
        pidfd,
        control: Some(control_end),
        stderr: Some(stderr),
        said: Said::default(),
        pass_stderr_on,
        shutdown_timeout,
    };
    Ok((Child { control, exit }, exit_sender, supervised))
}

fn watch_process(process: &mut std::process::Child) -> io::Result<(OwnedFd, ChildStderr)> {
    let pidfd = sys::pidfd_open(process_id(process))?;
    let stderr = process.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let flags = OFlag::from_bits_retain(fcntl(&stderr, FcntlArg::F_GETFL)?);
    fcntl(&stderr, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok((pidfd, stderr))
}

/// Writes to our stderr what there is room for. Nobody may be reading it, or it may be closed; what the
/// child writes must be taken all the same. A file or terminal always has room.
fn pass_on(text: &[u8]) {
    let stderr = io::stderr();
    // What fits into a pipe that can be written to.
    for piece in text.chunks(PIPE_BUF) {
        let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        let has_room = poll(&mut fds, PollTimeout::ZERO).is_ok()
            && fds[0].revents() == Some(PollFlags::POLLOUT);
        // Not through Rust's handle, whose lock somebody may hold who waits for room.
        if !has_room || nix::unistd::write(&stderr, piece).is_err() {
            return;
        }
    }
}

#[expect(clippy::cast_possible_wrap, reason = "pids are far below 2^31")]
fn process_id(process: &std::process::Child) -> Pid {
    Pid::from_raw(process.id() as i32)
}

/// How far the ending of the child has come, and when it goes on.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Running,
    /// Told to end; it may do so by itself until then.
    Asked {
        until: Instant,
    },
    Terminated {
        until: Instant,
    },
    Killed,
}

/// The child as its supervisor thread sees it.
#[derive(Debug)]
struct Supervised {
    process: std::process::Child,
    program: String,
    pidfd: OwnedFd,
    control: Option<OwnedFd>,
    stderr: Option<ChildStderr>,
    said: Said,
    pass_stderr_on: bool,
    shutdown_timeout: Duration,
}

impl Supervised {
    fn until_it_ends(mut self) -> ChildExit {
        let mut stage = Stage::Running;
        loop {
            let [ended, wrote, pulled] = self.wait(stage);
            if wrote {
                self.drain_stderr();
            }
            if ended {
                break;
            }
            stage = self.next_stage(stage, pulled);
        }
        // What it started must not outlive it.
        self.signal(Signal::SIGKILL);
        let status = self.process.wait().ok();
        self.drain_stderr();
        let (line, LastWords { stderr, crash }) = self.said.end();
        if self.pass_stderr_on {
            pass_on(line.as_bytes());
        }
        let exit = ChildExit::new(self.program, status, stderr, crash);
        tracing::debug!(%exit, "the proxy ended");
        exit
    }

    /// Wait for something to happen: it ended, it wrote to stderr, the control pipe
    /// was pulled or dropped. All `false` when the stage's time is up.
    fn wait(&self, stage: Stage) -> [bool; 3] {
        let timeout = match stage {
            Stage::Running | Stage::Killed => PollTimeout::NONE,
            Stage::Asked { until } | Stage::Terminated { until } => {
                let left = until.saturating_duration_since(Instant::now());
                // Rounded up, so as not to spin through the last millisecond.
                let millis = left.as_millis().saturating_add(1);
                PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut fds = vec![PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        fds.extend(
            self.stderr
                .as_ref()
                .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)),
        );
        fds.extend(
            self.control
                .as_ref()
                .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)),
        );
        // An interrupted or failed poll looks as if the time were up; the
        // clock decides.
        let _ = poll(&mut fds, timeout);
        let happened = |fd: Option<std::os::fd::BorrowedFd<'_>>| {
            fd.is_some_and(|wanted| {
                fds.iter().any(|polled| {
                    polled.as_fd().as_raw_fd() == wanted.as_raw_fd() && polled.any() == Some(true)
                })
            })
        };
        [
            happened(Some(self.pidfd.as_fd())),
            happened(self.stderr.as_ref().map(AsFd::as_fd)),
            happened(self.control.as_ref().map(AsFd::as_fd)),
        ]
    }

    fn next_stage(&mut self, stage: Stage, pulled: bool) -> Stage {
        let now = Instant::now();
        if pulled && let Some(control) = &self.control {
            let mut told = [0];
            let read = nix::unistd::read(control, &mut told);
            if read == Ok(1) && told == [END_NOW] {
                self.control = None;
                return self.terminate(now);
            }
            self.control = None;
            return Stage::Asked {
                until: moment_after(now, self.shutdown_timeout),
            };
        }
        match stage {
            Stage::Asked { until } if now >= until => self.terminate(now),
            Stage::Terminated { until } if now >= until => {
                self.signal(Signal::SIGKILL);
                Stage::Killed
            }
            same => same,
        }
    }

    fn terminate(&self, now: Instant) -> Stage {
        self.signal(Signal::SIGTERM);
        Stage::Terminated {
            until: now + TERM_GRACE,
        }
    }

    fn signal(&self, signal: Signal) {
        // As long as its leader is not reaped, the group's number is not used again. We do that last;
        // but a program that waits for all children, or ignores SIGCHLD, may have been first. Then
        // the number may be that of somebody else's group.
        if sys::is_there(&self.pidfd) {
            // It fails only if the whole group is gone, which is what we want.
            let _ = killpg(process_id(&self.process), signal);
        }
    }

    /// Take what is there of stderr, and keep its end. A child that writes
    /// without end must not keep us from the rest.
    fn drain_stderr(&mut self) {
        let mut chunk = [0; 4096];
        for _ in 0..CHUNKS_PER_TURN {
            let Some(stderr) = &mut self.stderr else {
                return;
            };
            match stderr.read(&mut chunk) {
                Ok(0) => self.stderr = None,
                Ok(n) => {
                    let lines = self.said.take(&chunk[..n]);
                    if self.pass_stderr_on {
                        pass_on(lines.as_bytes());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.stderr = None,
            }
        }
    }
}
