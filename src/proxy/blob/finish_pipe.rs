//! The end of a blob by `FinishPipe` (`GetBlob`).
//!
//! Such a blob ends only when that call is answered. If the transfer breaks off, no more bytes come, and only the answer
//! tells why. The call blocks the connection until the blob has ended. So it is sent when all bytes are read, or
//! **early**: while the blob is quiet, if nothing else needs the connection any more.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, Sleep};

use crate::error::{BlobError, Error, Result};
use crate::proxy::held::ReleaseGuard;
use crate::time::deadline_after;

/// A blob is quiet if no byte of it has come for this long. Registries send without such gaps. If a blob is quiet for
/// another reason, nothing is lost: it goes on.
const QUIET_AFTER: Duration = Duration::from_secs(1);

/// What a quiet blob tells the owner of its connection, and what it waits for.
#[derive(Debug)]
pub(crate) struct QuietWatch {
    /// Tells the owner that the blob is quiet.
    pub(crate) is_quiet: oneshot::Sender<()>,
    /// Becomes `true` when nothing else needs the connection any more.
    pub(crate) is_alone: watch::Receiver<bool>,
}

/// The end of a blob's pipe, and the call that finishes it.
#[derive(Debug)]
pub(super) struct FinishPipe {
    guard: ReleaseGuard,
    early: Early,
}

type Answer = Pin<Box<dyn Future<Output = Result<()>> + Send + Sync>>;

/// The state of an early `FinishPipe`.
enum Early {
    /// The call is not sent early, because nobody says whether the connection is needed.
    Never,
    /// The blob is not quiet, or was not until now.
    NotQuiet(QuietWatch, Option<Pin<Box<Sleep>>>),
    /// The blob is quiet. The future ends when nothing else needs the connection.
    Quiet(Pin<Box<dyn Future<Output = ()> + Send + Sync>>),
    /// The call is sent.
    Sent(Answer),
    /// The proxy has answered that it sent all bytes. They are in the pipe, or were read.
    Succeeded,
}

impl fmt::Debug for Early {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "Never",
            Self::NotQuiet(..) => "NotQuiet",
            Self::Quiet(_) => "Quiet",
            Self::Sent(_) => "Sent",
            Self::Succeeded => "Succeeded",
        })
    }
}

impl FinishPipe {
    pub(super) fn new(guard: ReleaseGuard) -> Self {
        let early = Early::Never;
        Self { guard, early }
    }

    pub(super) fn set_drained(&mut self) {
        self.guard.set_drained();
    }

    /// Lets the call be sent early, as the watch says.
    pub(super) fn watch_quiet(&mut self, watch: QuietWatch) {
        self.early = Early::NotQuiet(watch, None);
    }

    /// Waits while no byte has come since `since`. Returns an error if the proxy reports that the transfer broke off.
    pub(super) fn poll_broken(&mut self, since: Instant, cx: &mut Context<'_>) -> Poll<BlobError> {
        loop {
            match &mut self.early {
                Early::Never | Early::Succeeded => return Poll::Pending,
                Early::NotQuiet(_, sleep) => {
                    let quiet_at = deadline_after(since, QUIET_AFTER);
                    let sleep =
                        sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(quiet_at)));
                    if sleep.deadline() != quiet_at {
                        sleep.as_mut().reset(quiet_at);
                    }
                    ready!(sleep.as_mut().poll(cx));
                    self.fall_quiet();
                }
                Early::Quiet(is_alone) => {
                    ready!(is_alone.as_mut().poll(cx));
                    self.early = Early::Sent(Box::pin(self.guard.finish_early()));
                }
                Early::Sent(answer) => match ready!(answer.as_mut().poll(cx)) {
                    Ok(()) => self.early = Early::Succeeded,
                    Err(error) => {
                        self.early = Early::Never;
                        return Poll::Ready(reason(error));
                    }
                },
            }
        }
    }

    fn fall_quiet(&mut self) {
        let Early::NotQuiet(watch, _) = std::mem::replace(&mut self.early, Early::Never) else {
            return;
        };
        let QuietWatch {
            is_quiet,
            mut is_alone,
        } = watch;
        // The owner may not care any more.
        let _ = is_quiet.send(());
        self.early = Early::Quiet(Box::pin(async move {
            if is_alone.wait_for(|is_alone| *is_alone).await.is_err() {
                // The owner is gone without a word.
                std::future::pending::<()>().await;
            }
        }));
    }

    /// Returns the proxy's answer if the call was sent early, and is still unanswered.
    pub(super) fn take_answer(&mut self) -> Option<Answer> {
        match std::mem::replace(&mut self.early, Early::Never) {
            Early::Sent(answer) => Some(answer),
            other => {
                self.early = other;
                None
            }
        }
    }

    /// Finishes the pipe, unless that was done early. Returns the proxy's answer, and the guard.
    pub(super) fn finish(mut self) -> (Answer, ReleaseGuard) {
        let answer: Answer = match self.early {
            Early::Sent(answer) => answer,
            Early::Succeeded => Box::pin(async { Ok(()) }),
            Early::Never | Early::NotQuiet(..) | Early::Quiet(_) => Box::pin(self.guard.release()),
        };
        (answer, self.guard)
    }
}

/// The reason that the proxy's answer gives for the end of a blob.
pub(super) fn reason(error: Error) -> BlobError {
    match error {
        Error::Refused { refusal, .. } => BlobError::Refused(refusal),
        error => BlobError::Connection(Box::new(error)),
    }
}
