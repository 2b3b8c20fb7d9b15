//! Stops the command on Ctrl-Z without the picture of progress, which would be in the way of the shell's lines.

use std::io::{self, IsTerminal};
use std::time::Duration;

use nix::sys::signal::{Signal, raise};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::say::HidePictureGuard;
use super::signals::listen_for_stop;

/// How long to wait until the picture is gone. A terminal that takes no text must not keep the process from stopping.
const HIDE_TIMEOUT: Duration = Duration::from_secs(2);

/// Handles Ctrl-Z if stderr is a terminal: takes the picture away, stops the process, and draws the picture again when
/// the process goes on. Never returns if Ctrl-Z is handled.
pub(super) async fn watch() {
    if !io::stderr().is_terminal() {
        return;
    }
    let Some(mut signals) = listen_for_stop() else {
        return;
    };
    while signals.recv().await.is_some() {
        let hidden = timeout(HIDE_TIMEOUT, spawn_blocking(HidePictureGuard::new)).await;
        // All threads stop. raise(3) sends the signal to this thread, which therefore stops here; after kill(2), it could
        // have the picture drawn again before another thread stops the process. A process may always stop itself.
        let _ = raise(Signal::SIGSTOP);
        drop(hidden);
    }
}
