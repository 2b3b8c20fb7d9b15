//! Proxies that are started before anybody knows whether they pay.
//!
//! While the first opening of an image waits for the registry, the processors
//! have nothing to do, and the wait itself says that answers are slow, which is
//! what further proxies help against. So each time the processors together have
//! waited as long as a proxy costs, one more is started, and opens the image,
//! too: what is spent on them is never more than what was waited. A registry that
//! answers at once brings none, or one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::options::Transport;
use super::pace::Pace;
use super::panicked;
use super::starter::Starter;
use crate::error::{Error, Result};
use crate::proxy::{ImageProxy, OpenedImage};

/// A proxy that has opened the image, or is about to. Dropped, it is ended.
#[derive(Debug)]
pub(super) struct Spare {
    /// One task, until it has ended.
    opening: JoinSet<Result<Opened>>,
    opened: Option<Result<Opened>>,
}

impl Spare {
    fn start(starter: Arc<Starter>, reference: String) -> Self {
        let mut opening = JoinSet::new();
        opening.spawn(open(starter, reference));
        Self {
            opening,
            opened: None,
        }
    }

    /// Wait until it has opened the image.
    ///
    /// # Cancel safety
    ///
    /// It goes on opening.
    pub(super) async fn opened(&mut self) -> Result<&Opened> {
        if let Some(ended) = self.opening.join_next().await {
            self.opened = Some(ended.map_err(panicked)?);
        }
        match &self.opened {
            Some(opened) => opened.as_ref().map_err(Clone::clone),
            None => Err(Error::Closed),
        }
    }

    /// Lend it to somebody who gives it back.
    pub(super) fn lend(self) -> (Lent, oneshot::Receiver<Self>) {
        let (back, given_back) = oneshot::channel();
        (Lent { spare: self, back }, given_back)
    }

    pub(super) async fn into_opened(mut self) -> Result<Opened> {
        self.opened().await?;
        self.opened.unwrap_or(Err(Error::Closed))
    }
}

/// A spare in the hands of somebody who asks it for something else first.
#[derive(Debug)]
pub(super) struct Lent {
    pub(super) spare: Spare,
    back: oneshot::Sender<Spare>,
}

impl Lent {
    pub(super) fn give_back(self) {
        // If nobody wants it any more, it is ended.
        let _ = self.back.send(self.spare);
    }
}

#[derive(Debug)]
pub(super) struct Opened {
    pub(super) proxy: ImageProxy,
    pub(super) image: OpenedImage,
    /// What the start of the proxy took.
    pub(super) starting: Duration,
}

/// The spares of an image, each for whoever takes it first. With the last
/// clone, those that nobody took end.
#[derive(Debug, Clone)]
pub(super) struct Spares(async_channel::Receiver<Spare>);

impl Spares {
    pub(super) fn none() -> Self {
        Self(async_channel::bounded(1).1)
    }

    pub(super) fn take(&self) -> Option<Spare> {
        self.0.try_recv().ok()
    }

    /// End those that nobody took.
    pub(super) fn end(&self) {
        while let Some(spare) = self.take() {
            drop(spare);
        }
    }
}

/// Do `opening`, and start up to that many spares while it takes time.
pub(super) async fn while_opening<T>(
    opening: impl Future<Output = Result<T>>,
    starter: &Arc<Starter>,
    reference: &str,
    most: usize,
) -> Result<(T, Spares)> {
    let (spare, spares) = async_channel::unbounded();
    let starting = async {
        let mut pace = Pace::from_now();
        for _ in 0..most {
            // The one before was started just now.
            pace.started();
            pace.due().await;
            let next = Spare::start(Arc::clone(starter), reference.to_owned());
            // It has no bound, and its other end is below.
            let _ = spare.try_send(next);
        }
        std::future::pending().await
    };
    tokio::select! {
        biased;
        opened = opening => Ok((opened?, Spares(spares))),
        never = starting => never,
    }
}

async fn open(starter: Arc<Starter>, reference: String) -> Result<Opened> {
    let begun = Instant::now();
    let proxy = starter.start_further(Transport::of(&reference)).await?;
    let starting = begun.elapsed();
    let image = proxy.open_image(&reference).await?;
    Ok(Opened {
        proxy,
        image,
        starting,
    })
}
