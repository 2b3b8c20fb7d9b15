//! Proxies that are started before anybody knows whether they pay.
//!
//! While the first opening of an image waits for the registry, the processors
//! have nothing to do, and the wait itself says that answers are slow, which is
//! what further proxies help against. So each time the processors together have
//! waited as long as a proxy costs, one more is started, and opens the image,
//! too: what is spent on them is never more than what was waited. A registry that
//! answers at once brings none, or one. Until the first one has opened it, only few
//! others try.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

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
    /// It opens the image at once, or when it is told that somebody else could.
    fn start(starter: Arc<Starter>, reference: String, proved: Option<Proved>) -> Self {
        let mut opening = JoinSet::new();
        opening.spawn(open(starter, reference, proved));
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

/// How many open an image at a registry before one of them could: if the registry has trouble, or the image is
/// not there, each of them asks in vain.
const MOST_UNPROVED: usize = 8;

/// How long the first one may take to open the image before the others are given up. A registry that answers
/// takes less; one that throttles is asked again by each of them after some seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether somebody has opened the image. Its end says that nobody could.
type Proved = watch::Receiver<bool>;

/// Do `opening`, and start up to that many spares while it takes time. The first few of them open the image at
/// once; but where a login may be needed that is not known to be right, only `opening` does, for a registry may
/// lock an account after a few wrong passwords.
pub(super) async fn while_opening<T>(
    opening: impl Future<Output = Result<T>>,
    starter: &Arc<Starter>,
    reference: &str,
    most: usize,
) -> Result<(T, Spares)> {
    let (spare, spares) = async_channel::unbounded();
    let (prove, proved) = watch::channel(false);
    let begun = Instant::now();
    let starting = async {
        let at_once = if starter.may_need_unproved_login(reference).await {
            0
        } else {
            MOST_UNPROVED - 1
        };
        let mut pace = Pace::from_now();
        for number in 0..most {
            // The one before was started just now.
            pace.started();
            pace.due().await;
            let waits = (number >= at_once).then(|| proved.clone());
            let next = Spare::start(Arc::clone(starter), reference.to_owned(), waits);
            // It has no bound, and its other end is below.
            let _ = spare.try_send(next);
        }
        sleep_until(begun + PATIENCE).await;
        Spares(spares.clone()).end();
        std::future::pending().await
    };
    tokio::select! {
        biased;
        opened = opening => {
            let opened = opened?;
            starter.proved(reference);
            prove.send_replace(true);
            Ok((opened, Spares(spares)))
        }
        never = starting => never,
    }
}

async fn open(starter: Arc<Starter>, reference: String, proved: Option<Proved>) -> Result<Opened> {
    let begun = Instant::now();
    let proxy = starter.start_further(Transport::of(&reference)).await?;
    let starting = begun.elapsed();
    if let Some(mut proved) = proved {
        let proved = proved.wait_for(|proved| *proved).await;
        proved.map_err(|_| Error::Closed)?;
    }
    let image = proxy.open_image(&reference).await?;
    Ok(Opened {
        proxy,
        image,
        starting,
    })
}
