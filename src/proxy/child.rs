//! The proxy's process, and the supervisor thread that starts and reaps it.
//!
//! The supervisor lives as long as the child, because the kernel sends the parent-death signal when the *thread* that
//! forked ends. The supervisor waits on a pidfd, so it needs no `SIGCHLD` handler, and reaps no other child of the
//! embedding program.

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
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use nix::unistd::Pid;
use tokio::sync::{oneshot, watch};

use super::stderr_tail::{LineLabeller, StderrEnd, StderrTail};
use crate::config::Launch;
use crate::error::{ChildExit, Error, Result};
use crate::sys;
use crate::time::deadline_after;

/// The number of chunks of stderr that are read before the supervisor polls again. Together, they are larger than
/// a pipe.
const CHUNKS_PER_TURN: usize = 32;

/// The number of bytes for which a writable pipe certainly has room (Linux: `PIPE_BUF`).
const PIPE_BUF: usize = 4096;

/// The time from `SIGTERM` to `SIGKILL`.
const TERM_GRACE: Duration = Duration::from_secs(2);

/// The byte in the control socket that tells the supervisor to end the child. The end of the socket means the same, but
/// may never come, because a program that forks has copies of the socket.
const END: u8 = b'e';
/// The byte in the control socket that tells the supervisor to end the child without time to exit by itself.
const END_NOW: u8 = b'n';

/// A started child. Dropping it ends the child: the child has the shutdown timeout to exit by itself (its socket is
/// closed by then). After that, the child gets `SIGTERM` and then `SIGKILL`.
#[derive(Debug)]
pub(crate) struct Child {
    control: ControlSocket,
    exit: watch::Receiver<Option<Arc<ChildExit>>>,
}

/// The end of a socket pair through which the supervisor is told to end the child. It is not a pipe, because a write
/// to a pipe without a reader raises `SIGPIPE`, which ends a program that does not ignore that signal.
#[derive(Debug)]
struct ControlSocket(OwnedFd);

impl ControlSocket {
    /// Makes the socket, and the supervisor's end.
    fn new() -> nix::Result<(Self, OwnedFd)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, supervisors) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
        Ok((Self(ours), supervisors))
    }

    fn send(&self, byte: u8) {
        // If the other end is closed, the supervisor is already ending the child.
        let _ = send(self.0.as_raw_fd(), &[byte], MsgFlags::MSG_NOSIGNAL);
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.send(END);
    }
}

impl Child {
    /// Starts a program. `launch` may block.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, a child that is already started is ended.
    pub(crate) async fn start(
        launch: impl FnOnce() -> Result<Launch> + Send + 'static,
        stdin: Stdio,
        stdout: Stdio,
    ) -> Result<Self> {
        let (started, start) = oneshot::channel();
        thread::Builder::new()
            .name("longshore-child".into())
            .spawn(move || supervise(launch, [stdin, stdout], started))
            .map_err(Error::io("can't start the thread that supervises skopeo"))?;
        start.await.unwrap_or(Err(Error::Closed))
    }

    /// Waits until the child has exited and is reaped. `None` if the supervisor thread has ended without a result.
    pub(crate) async fn exited(&mut self) -> Option<Arc<ChildExit>> {
        let exit = self.exit.wait_for(Option::is_some).await.ok()?;
        exit.clone()
    }

    /// Ends the child as dropping does, and waits until the child is reaped.
    pub(crate) async fn end(self) -> Option<Arc<ChildExit>> {
        let Self { control, mut exit } = self;
        drop(control);
        let exit = exit.wait_for(Option::is_some).await.ok()?;
        exit.clone()
    }

    /// Ends the child without time to exit by itself: the child gets `SIGTERM` at once.
    pub(crate) fn end_now(self) {
        self.control.send(END_NOW);
    }
}

/// Runs the supervisor thread, from the start of the child until the child is reaped.
fn supervise(
    launch: impl FnOnce() -> Result<Launch>,
    stdio: [Stdio; 2],
    started: oneshot::Sender<Result<Child>>,
) {
    let (child, exit, supervised) = match launch().and_then(|launch| start(launch, stdio)) {
        Ok(all) => all,
        Err(error) => {
            // If nobody waits for the start any more, nobody needs the error.
            let _ = started.send(Err(error));
            return;
        }
    };
    // If nobody waits for the start any more, the `Child` is dropped here. Its control socket then tells this thread to
    // end the process.
    let _ = started.send(Ok(child));
    let ended = supervised.run_until_exit();
    exit.send_replace(Some(Arc::new(ended)));
}

type ExitSender = watch::Sender<Option<Arc<ChildExit>>>;

fn start(launch: Launch, [stdin, stdout]: [Stdio; 2]) -> Result<(Child, ExitSender, Supervised)> {
    let Launch {
        mut command,
        program,
        passed,
        forward_stderr,
        label,
        shutdown_timeout,
        hide_system_cache,
    } = launch;
    command
        .stdin(stdin)
        .stdout(stdout)
        .stderr(Stdio::piped())
        // The child has a process group of its own, so that signals also reach a wrapper's children, and Ctrl-C at the
        // terminal reaches only this process.
        .process_group(0);
    sys::prepare_child(&mut command, &passed, hide_system_cache);
    let spawn_failed = |source| Error::Spawn {
        program: program.clone(),
        source: Arc::new(source),
    };
    let (control, control_end) = ControlSocket::new()
        .map_err(|errno| Error::io("can't make a socket pair")(errno.into()))?;
    let mut process = command.spawn().map_err(spawn_failed)?;
    let watched = watch_process(&mut process);
    let (pidfd, stderr) = watched.map_err(|source| {
        // A process that can't be watched can't be supervised. After `SIGKILL`, the wait is short.
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
        stderr_tail: StderrTail::default(),
        forwarder: forward_stderr.then(|| LineLabeller::new(label)),
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

/// Writes as much of this text to the stderr of this process as there is room for. That stderr may be closed, or
/// nobody may be reading it. The stderr of the child must be read all the same. A file or terminal always has room.
fn forward(text: &[u8]) {
    let stderr = io::stderr();
    // Each piece fits into a pipe that is writable.
    for piece in text.chunks(PIPE_BUF) {
        let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        let has_room = poll(&mut fds, PollTimeout::ZERO).is_ok()
            && fds[0].revents() == Some(PollFlags::POLLOUT);
        // Rust's handle is not used, because a thread that waits for room may hold its lock.
        if !has_room || nix::unistd::write(&stderr, piece).is_err() {
            return;
        }
    }
}

#[expect(clippy::cast_possible_wrap, reason = "pids are far below 2^31")]
fn process_id(process: &std::process::Child) -> Pid {
    Pid::from_raw(process.id() as i32)
}

/// The stage of a child's end, and the moment of the next stage.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Running,
    /// The child has time until this moment to exit by itself.
    Asked {
        until: Instant,
    },
    Terminated {
        until: Instant,
    },
    Killed,
}

/// The state of a child in its supervisor thread.
#[derive(Debug)]
struct Supervised {
    process: std::process::Child,
    program: String,
    pidfd: OwnedFd,
    control: Option<OwnedFd>,
    stderr: Option<ChildStderr>,
    stderr_tail: StderrTail,
    /// The stderr that is passed on, with its label. `None` if it is not passed on.
    forwarder: Option<LineLabeller>,
    shutdown_timeout: Duration,
}

impl Supervised {
    fn run_until_exit(mut self) -> ChildExit {
        let mut stage = Stage::Running;
        loop {
            let [ended, wrote, control_event] = self.wait(stage);
            if wrote {
                self.drain_stderr();
            }
            if ended {
                break;
            }
            stage = self.next_stage(stage, control_event);
        }
        // The processes that the child has started must not outlive it.
        self.signal(Signal::SIGKILL);
        let status = self.process.wait().ok();
        self.drain_stderr();
        let (line, StderrEnd { stderr, crash }) = self.stderr_tail.end();
        if let Some(forwarder) = &mut self.forwarder {
            forward(forwarder.last(&line).as_bytes());
        }
        let exit = ChildExit::new(self.program, status, stderr, crash);
        tracing::debug!(%exit, "the proxy ended");
        exit
    }

    /// Waits for an event. Returns whether the child has exited, whether it wrote to stderr, and whether the control
    /// socket has a byte or was closed. All are `false` when the stage's time is up.
    fn wait(&self, stage: Stage) -> [bool; 3] {
        let timeout = match stage {
            Stage::Running | Stage::Killed => PollTimeout::NONE,
            Stage::Asked { until } | Stage::Terminated { until } => {
                let left = until.saturating_duration_since(Instant::now());
                // The time is rounded up, so that the loop does not spin through the last millisecond.
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
        // After an interrupted or failed poll, all results are `false`, and the clock decides.
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

    fn next_stage(&mut self, stage: Stage, control_event: bool) -> Stage {
        let now = Instant::now();
        if control_event && let Some(control) = &self.control {
            let mut byte = [0];
            let read = nix::unistd::read(control, &mut byte);
            if read == Ok(1) && byte == [END_NOW] {
                self.control = None;
                return self.terminate(now);
            }
            self.control = None;
            return Stage::Asked {
                until: deadline_after(now, self.shutdown_timeout),
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
        // The number of a process group is not used again before its leader is reaped. The supervisor reaps the leader
        // last. A program that waits for all children, or ignores `SIGCHLD`, may have reaped it before. The number may
        // then belong to another group.
        if sys::is_unreaped(&self.pidfd) {
            // The signal fails only if the whole group is gone, as it should be.
            let _ = killpg(process_id(&self.process), signal);
        }
    }

    /// Reads what the child wrote to stderr, and keeps its end. The amount is limited, so that a child that always
    /// writes does not keep the supervisor from other events.
    fn drain_stderr(&mut self) {
        let mut chunk = [0; 4096];
        for _ in 0..CHUNKS_PER_TURN {
            let Some(stderr) = &mut self.stderr else {
                return;
            };
            match stderr.read(&mut chunk) {
                Ok(0) => self.stderr = None,
                Ok(n) => {
                    let lines = self.stderr_tail.push(&chunk[..n]);
                    if let Some(forwarder) = &mut self.forwarder {
                        forward(forwarder.label(&lines).as_bytes());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.stderr = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::SigSet;
    use nix::sys::signalfd::{SfdFlags, SignalFd};

    use super::*;

    #[test]
    fn ending_a_child_whose_supervisor_is_gone_raises_no_signal() {
        // A blocked signal stays pending, even if it is ignored.
        let mut broken_pipe = SigSet::empty();
        broken_pipe.add(Signal::SIGPIPE);
        broken_pipe.thread_block().expect("a mask");
        let waiting = SignalFd::with_flags(&broken_pipe, SfdFlags::SFD_NONBLOCK);
        let waiting = waiting.expect("a descriptor");
        let (control, supervisors) = ControlSocket::new().expect("a socket pair");
        drop(supervisors);
        control.send(END_NOW);
        drop(control);
        assert!(waiting.read_signal().expect("an answer").is_none());
        // The same with a pipe shows that this test can fail.
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        drop(reader);
        nix::unistd::write(&writer, b"x").expect_err("no reader");
        assert!(waiting.read_signal().expect("an answer").is_some());
    }
}
