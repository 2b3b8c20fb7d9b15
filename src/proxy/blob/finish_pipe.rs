//! The end of a blob by `FinishPipe` (`GetBlob`).
//!
//! Such a blob ends only when that call is answered. If the transfer breaks off, no more bytes come, and only the
//! answer tells why. The call blocks the connection until the blob has ended. So it is sent when all bytes are read, or
//! **early**: while the blob is quiet, if nothing else needs the connection any more.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, Sleep};

use crate::error::{BlobError, Error, Result};
use crate::proxy::held::ReleaseGuard;
use crate::time::{deadline_after, timeout};

/// A blob is quiet if no byte of it has come for this long. If the transfer is only slow and not broken, nothing is
/// lost: the transfer goes on.
const QUIET_AFTER: Duration = Duration::from_secs(1);

/// How long the proxy may take for its answer after all bytes were read, if the call was sent early, or may have to wait
/// for the early call of another blob. The bytes have been checked, so only the proxy's own check is missing.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// What a quiet blob tells its worker, and what it waits for.
#[derive(Debug)]
pub(crate) struct QuietWatch {
    /// Tells the worker that the blob is quiet.
    pub(crate) is_quiet: oneshot::Sender<()>,
    /// Becomes `true` when only quiet blobs need the connection.
    pub(crate) is_free: watch::Receiver<bool>,
}

/// The end of a blob's pipe, and the call that finishes it.
#[derive(Debug)]
pub(super) struct FinishPipe {
    guard: ReleaseGuard,
    early: Early,
    /// The timer of the quiet, made at the first wait.
    timer: Option<Pin<Box<Sleep>>>,
}

type Answer = Pin<Box<dyn Future<Output = Result<()>> + Send + Sync>>;

/// The state of an early `FinishPipe`.
enum Early {
    /// The call is not sent early.
    Never,
    /// The blob has not been quiet.
    NotQuiet(QuietWatch),
    /// The blob was quiet. The future ends when only quiet blobs need the connection, which the receiver tells, too.
    WasQuiet(
        Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
        watch::Receiver<bool>,
    ),
    /// The call may be sent while the blob is quiet.
    Allowed,
    /// The call is sent.
    Sent(Answer),
    /// The proxy has answered that it sent all bytes. They are in the pipe, or were read.
    Succeeded,
}

impl fmt::Debug for Early {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "Never",
            Self::NotQuiet(_) => "NotQuiet",
            Self::WasQuiet(..) => "WasQuiet",
            Self::Allowed => "Allowed",
            Self::Sent(_) => "Sent",
            Self::Succeeded => "Succeeded",
        })
    }
}

impl FinishPipe {
    pub(super) fn new(guard: ReleaseGuard) -> Self {
        Self {
            guard,
            early: Early::Never,
            timer: None,
        }
    }

    pub(super) fn set_drained(&mut self) {
        self.guard.set_drained();
    }

    /// Lets the call be sent early, as the watch says.
    pub(super) fn watch_quiet(&mut self, watch: QuietWatch) {
        self.early = Early::NotQuiet(watch);
    }

    /// Waits while no byte has come since `since`. Returns an error if the proxy reports that the transfer broke off.
    pub(super) fn poll_broken(&mut self, since: Instant, cx: &mut Context<'_>) -> Poll<BlobError> {
        loop {
            match &mut self.early {
                Early::Never | Early::Succeeded => return Poll::Pending,
                Early::NotQuiet(_) => {
                    ready!(self.poll_quiet(since, cx));
                    self.tell_quiet();
                }
                Early::WasQuiet(becomes_free, _) => {
                    ready!(becomes_free.as_mut().poll(cx));
                    self.early = Early::Allowed;
                }
                Early::Allowed => {
                    ready!(self.poll_quiet(since, cx));
                    self.early = Early::Sent(Box::pin(self.guard.finish_early()));
                }
                Early::Sent(answer) => match ready!(answer.as_mut().poll(cx)) {
                    Ok(()) => self.early = Early::Succeeded,
                    Err(Error::Refused { refusal, .. }) => {
                        self.early = Early::Never;
                        return Poll::Ready(BlobError::Refused(refusal));
                    }
                    // The connection failed. The rest of the blob may come all the same.
                    Err(_) => self.early = Early::Never,
                },
            }
        }
    }

    /// Waits until no byte has come for [`QUIET_AFTER`].
    fn poll_quiet(&mut self, since: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let quiet_at = deadline_after(since, QUIET_AFTER);
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(quiet_at)));
        if timer.deadline() != quiet_at {
            timer.as_mut().reset(quiet_at);
        }
        timer.as_mut().poll(cx)
    }

    fn tell_quiet(&mut self) {
        let Early::NotQuiet(watch) = std::mem::replace(&mut self.early, Early::Never) else {
            return;
        };
        let QuietWatch { is_quiet, is_free } = watch;
        // The worker may be gone.
        let _ = is_quiet.send(());
        let mut awaited = is_free.clone();
        let becomes_free = Box::pin(async move {
            if awaited.wait_for(|is_free| *is_free).await.is_err() {
                // The unit is gone, and so is this blob, soon.
                std::future::pending::<()>().await;
            }
        });
        self.early = Early::WasQuiet(becomes_free, is_free);
    }

    /// Returns a future of the proxy's report on the blob, if the call was sent early and is still
    /// unanswered. `None` otherwise.
    pub(super) fn take_report(
        &mut self,
    ) -> Option<impl Future<Output = Result<(), BlobError>> + Send + Sync + use<>> {
        match std::mem::replace(&mut self.early, Early::Never) {
            Early::Sent(answer) => Some(async {
                match answer.await {
                    Err(Error::Refused { refusal, .. }) => Err(BlobError::Refused(refusal)),
                    // If the connection failed, that is found out in another way.
                    _ => Ok(()),
                }
            }),
            other => {
                self.early = other;
                None
            }
        }
    }

    /// Finishes the pipe, unless that was done early. Returns the proxy's answer, and the guard.
    pub(super) fn finish(mut self) -> (Answer, ReleaseGuard) {
        let may_be_blocked = match &self.early {
            Early::Allowed => true,
            Early::WasQuiet(_, is_free) => *is_free.borrow(),
            _ => false,
        };
        let answer: Answer = match self.early {
            Early::Sent(answer) => Box::pin(within_answer_wait(answer)),
            Early::Succeeded => Box::pin(async { Ok(()) }),
            _ if may_be_blocked => Box::pin(within_answer_wait(self.guard.release())),
            _ => Box::pin(self.guard.release()),
        };
        (answer, self.guard)
    }
}

async fn within_answer_wait(answer: impl Future<Output = Result<()>>) -> Result<()> {
    let answer = timeout(ANSWER_WAIT, answer).await;
    answer.unwrap_or(Err(Error::Closed))
}
