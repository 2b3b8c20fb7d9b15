//! The end of a fetch, and how its readers and its owner learn of it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;

use tokio::sync::{mpsc, watch};

use crate::error::Error;

/// The engine's side of the end of a fetch. Dropping it ends the fetch.
#[derive(Debug)]
pub(super) struct End(watch::Sender<Option<Error>>);

impl End {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Ends the fetch because of this error, which readers return from now on.
    pub(super) fn end_with(&self, error: &Error) {
        self.0.send_replace(Some(error.clone()));
    }

    pub(super) fn watch(&self) -> EndWatch {
        EndWatch(Some(self.0.subscribe()))
    }
}

/// A reader's side of the end of a fetch.
#[derive(Debug, Clone)]
pub(super) struct EndWatch(Option<watch::Receiver<Option<Error>>>);

impl EndWatch {
    /// The side of a reader that belongs to no fetch.
    pub(super) fn never() -> Self {
        Self(None)
    }

    /// The reason why the fetch has ended, if it has. [`Error::Cancelled`] if it was dropped.
    pub(super) fn reason(&self) -> Option<Error> {
        let receiver = self.0.as_ref()?;
        // `has_changed` costs less than `borrow`, and each read calls this method.
        if matches!(receiver.has_changed(), Ok(false)) {
            return None;
        }
        Some(receiver.borrow().clone().unwrap_or(Error::Cancelled))
    }

    /// Waits until the fetch has ended.
    pub(super) fn wait(&self) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        let receiver = self.0.clone();
        Box::pin(async move {
            match receiver {
                // An error says that the fetch was dropped.
                Some(mut receiver) => drop(receiver.changed().await),
                None => std::future::pending().await,
            }
        })
    }
}

/// A token that each handler at work holds, so that the owner of the handlers can wait until none is at work.
#[derive(Debug, Clone)]
pub(super) struct AtWork {
    _held: mpsc::Sender<Infallible>,
}

/// The owner's side of [`AtWork`].
#[derive(Debug)]
pub(super) struct Idle(mpsc::Receiver<Infallible>);

impl AtWork {
    pub(super) fn new() -> (Self, Idle) {
        let (held, idle) = mpsc::channel(1);
        (Self { _held: held }, Idle(idle))
    }
}

impl Idle {
    /// Waits until no [`AtWork`] is left.
    pub(super) async fn wait(mut self) {
        while self.0.recv().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readers_get_the_reason_why_the_fetch_has_ended() {
        let end = End::new();
        let (end_watch, waiting) = (end.watch(), end.watch().wait());
        assert!(end_watch.reason().is_none());
        end.end_with(&Error::DeadlineExceeded);
        waiting.await;
        assert!(matches!(end_watch.reason(), Some(Error::DeadlineExceeded)));
        // A reader that is made late learns it, too.
        end_watch.clone().wait().await;
        drop(end);
        assert!(matches!(end_watch.reason(), Some(Error::DeadlineExceeded)));
    }

    #[tokio::test]
    async fn a_fetch_that_is_dropped_is_cancelled() {
        let end = End::new();
        let end_watch = end.watch();
        drop(end);
        end_watch.wait().await;
        assert!(matches!(end_watch.reason(), Some(Error::Cancelled)));
        assert!(EndWatch::never().reason().is_none());
    }

    #[tokio::test]
    async fn the_owner_waits_until_no_handler_is_at_work() {
        let (at_work, idle) = AtWork::new();
        let other = at_work.clone();
        drop(at_work);
        let waiting = tokio::spawn(idle.wait());
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(other);
        waiting.await.expect("no panic");
    }
}
