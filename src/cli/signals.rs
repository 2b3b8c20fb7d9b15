//! The signals that ask the command to end.

use std::fs;
use std::future::pending;

use tokio::signal::unix::{SignalKind, signal};

/// A signal, with its message and its exit code.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signal {
    kind: SignalKind,
    pub(crate) what: &'static str,
    /// The exit code, which is 128 and the number of the signal, as in a shell.
    pub(crate) code: u8,
}

const ALL: [Signal; 3] = [
    Signal {
        kind: SignalKind::interrupt(),
        what: "interrupted",
        code: 130,
    },
    Signal {
        kind: SignalKind::terminate(),
        what: "terminated",
        code: 143,
    },
    Signal {
        kind: SignalKind::hangup(),
        what: "the terminal was closed",
        code: 129,
    },
];

/// Waits for `SIGINT` (Ctrl-C), `SIGTERM` or `SIGHUP` (closed terminal). A signal that was ignored when this
/// process was started (`nohup`, `trap '' INT`) stays ignored.
pub(crate) async fn received() -> Signal {
    let ignored = fs::read_to_string("/proc/self/status").map_or(0, |status| ignored(&status));
    let [first, second, third] = ALL.map(|signal| one(signal, ignored));
    tokio::select! {
        signal = first => signal,
        signal = second => signal,
        signal = third => signal,
    }
}

async fn one(awaited: Signal, ignored: u64) -> Signal {
    let bit = u32::try_from(awaited.kind.as_raw_value() - 1).unwrap_or(u32::MAX);
    let is_ignored = ignored.checked_shr(bit).unwrap_or(0) & 1 == 1;
    // If a handler can't be installed, the signal keeps its default effect.
    let handler = (!is_ignored).then(|| signal(awaited.kind));
    match handler {
        Some(Ok(mut handler)) => {
            handler.recv().await;
            awaited
        }
        Some(Err(_)) | None => pending().await,
    }
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
    fn ignored_signals_as_proc_tells_them() {
        let status = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t00\n";
        assert_eq!(ignored(status), 0x1001);
        assert_eq!(ignored("nothing of it"), 0);
    }
}
