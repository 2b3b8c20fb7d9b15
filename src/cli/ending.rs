//! The end of the command by signals: the first one ends it in order, the second one at once.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use longshore::printable;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::children::Children;
use super::say::{flush_stderr, say_last};
use super::signals::{Signal, Signals};
use super::stop;

/// How long to wait at the end until the message about a signal has been written. Perhaps nobody reads stderr.
pub(super) const LAST_MESSAGE_TIMEOUT: Duration = Duration::from_millis(200);

/// What the next pull into the same folder does with the files that are left there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum NextPull {
    /// Nothing. The task is no pull.
    #[default]
    Ignores,
    /// It removes the incomplete files.
    Removes,
    /// It removes the incomplete files, and does not fetch the complete layers again.
    GoesOn,
}

/// What a task has under way when it is interrupted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Underway {
    /// Whether the task runs skopeo.
    pub(super) has_skopeo: bool,
    /// The folder in which incomplete files are.
    pub(super) incomplete_in: Option<PathBuf>,
    pub(super) next_pull: NextPull,
    /// Whether skopeo may have a temporary folder.
    pub(super) has_temporary: bool,
}

/// Starts the thread that receives signals, and waits until it does. After the first signal, the thread writes a
/// message, and sends the signal to the returned receiver. The second signal ends this process, whatever the other
/// threads wait for, such as a disk that hangs.
pub(super) fn watch(
    underway: Underway,
    children: Children,
) -> io::Result<oneshot::Receiver<Signal>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (first, received) = oneshot::channel();
    let (listening, listens) = mpsc::sync_channel(1);
    let thread = thread::Builder::new().name("longshore-signal".into());
    thread.spawn(move || {
        runtime.block_on(async {
            let mut signals = Signals::listen();
            tokio::spawn(stop::watch());
            // There is room for the only message.
            let _ = listening.send(());
            let signal = signals.next().await;
            say_last(format!("longshore: {}", underway.first_message(signal)));
            // The task may have ended meanwhile.
            let _ = first.send(signal);
            let signal = signals.next().await;
            say_last(format!("longshore: {}", underway.second_message()));
            let _ = timeout(LAST_MESSAGE_TIMEOUT, flush_stderr()).await;
            children.end_all();
            std::process::exit(signal.code.into());
        });
    })?;
    // The sender is gone only if the thread has panicked.
    let _ = listens.recv();
    Ok(received)
}

impl Underway {
    /// The message after the first signal.
    fn first_message(&self, signal: Signal) -> String {
        let doing = match (self.has_skopeo, self.incomplete_in.is_some()) {
            (false, _) => return signal.what.to_owned(),
            (true, false) => "ending skopeo",
            (true, true) => "ending skopeo and removing incomplete files",
        };
        let again = match signal.again {
            Some(again) => format!(" ({again} again ends it at once)"),
            None => String::new(),
        };
        let kept = match self.next_pull {
            NextPull::GoesOn => "; complete layers stay for the next pull",
            NextPull::Removes | NextPull::Ignores => "",
        };
        format!("{}: {doing}{again}{kept}", signal.what)
    }

    /// The message after the second signal. This function does not look at the disk, because the disk may hang.
    fn second_message(&self) -> String {
        let mut parts = vec!["ended at once".to_owned()];
        if let Some(folder) = &self.incomplete_in {
            let folder = printable(&folder.display().to_string());
            let removed = match self.next_pull {
                NextPull::GoesOn | NextPull::Removes => " (the next pull removes these files)",
                NextPull::Ignores => "",
            };
            parts.push(format!("incomplete files may be left in {folder}{removed}"));
        }
        if self.has_temporary {
            parts.push(
                "skopeo's temporary files may be left in /var/tmp, or in the folder that TMPDIR names (/tmp without it)".into(),
            );
        }
        parts.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_says_what_is_ended() {
        let [interrupt, terminate, _] = super::super::signals::ALL;
        let nothing = Underway::default();
        assert_eq!(nothing.first_message(interrupt), "interrupted");
        assert_eq!(nothing.second_message(), "ended at once");
        let inspect = Underway {
            has_skopeo: true,
            has_temporary: true,
            ..nothing
        };
        assert_eq!(
            inspect.first_message(interrupt),
            "interrupted: ending skopeo (Ctrl-C again ends it at once)"
        );
        assert_eq!(
            inspect.second_message(),
            "ended at once; skopeo's temporary files may be left in /var/tmp, or in the folder that TMPDIR names (/tmp without it)"
        );
        let pull = Underway {
            has_skopeo: true,
            incomplete_in: Some("image".into()),
            next_pull: NextPull::GoesOn,
            has_temporary: false,
        };
        assert_eq!(
            pull.first_message(terminate),
            "terminated: ending skopeo and removing incomplete files; complete layers stay for the next pull"
        );
        assert_eq!(
            pull.second_message(),
            "ended at once; incomplete files may be left in image (the next pull removes these files)"
        );
    }
}
