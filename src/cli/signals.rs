//! The signals that ask the command to end or to stop.

use std::fs;
use std::future::poll_fn;
use std::task::Poll;

use tokio::signal::unix::{self, SignalKind, signal};

/// A signal, with its message and its exit code.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signal {
    kind: SignalKind,
    pub(crate) what: &'static str,
    /// The key that sends the signal again. `None` if no key does.
    pub(crate) again: Option<&'static str>,
    /// The exit code, which is 128 plus the number of the signal, as in a shell.
    pub(crate) code: u8,
}

pub(super) const ALL: [Signal; 3] = [
    Signal {
        kind: SignalKind::interrupt(),
        what: "interrupted",
        again: Some("Ctrl-C"),
        code: 130,
    },
    Signal {
        kind: SignalKind::terminate(),
        what: "terminated",
        again: None,
        code: 143,
    },
    Signal {
        kind: SignalKind::hangup(),
        what: "the terminal was closed",
        again: None,
        code: 129,
    },
];

/// The handlers of all signals.
#[derive(Debug)]
pub(crate) struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    /// Sets the handlers of `SIGINT` (Ctrl-C), `SIGTERM` and `SIGHUP` (closed terminal). A signal that was ignored when
    /// this process was started (`nohup`, `trap '' INT`) stays ignored.
    pub(crate) fn listen() -> Self {
        let ignored = ignored_at_start();
        let handled = ALL
            .into_iter()
            .filter(|signal| !is_in(signal.kind, ignored));
        // Without a handler, a signal has its default effect.
        let handlers = handled.filter_map(|of| Some((of, signal(of.kind).ok()?)));
        Self(handlers.collect())
    }

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) -> Signal {
        let received = poll_fn(|context| {
            for (signal, handler) in &mut self.0 {
                if let Poll::Ready(Some(())) = handler.poll_recv(context) {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        });
        received.await
    }
}

/// Sets a handler of `SIGTSTP` (Ctrl-Z), which then no longer stops the process. `None` if the signal was ignored when
/// this process was started.
pub(super) fn listen_for_stop() -> Option<unix::Signal> {
    let stop = SignalKind::from_raw(nix::sys::signal::Signal::SIGTSTP as i32);
    if is_in(stop, ignored_at_start()) {
        return None;
    }
    signal(stop).ok()
}

fn is_in(kind: SignalKind, mask: u64) -> bool {
    let bit = u32::try_from(kind.as_raw_value() - 1).unwrap_or(u32::MAX);
    mask.checked_shr(bit).unwrap_or(0) & 1 == 1
}

/// The signals that this process ignores. Called before handlers are set.
fn ignored_at_start() -> u64 {
    fs::read_to_string("/proc/self/status").map_or(0, |status| ignored(&status))
}

/// The ignored signals, one bit each; the lowest bit is signal 1 (proc(5), `SigIgn`).
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_proc() {
        let status = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t00\n";
        assert_eq!(ignored(status), 0x1001);
        assert_eq!(ignored("nothing of it"), 0);
    }
}
