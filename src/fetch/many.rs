//! Several images are opened by several proxies at once, each image by one of them.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::descriptors::Room;
use super::documents::Documents;
use super::options::Transport;
use super::pace::Pace;
use super::{Fetcher, Image, open_in, panicked};
use crate::error::{Error, Result};
use crate::proxy::ImageProxy;

/// Answers that may wait to be collected.
const ANSWERS: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// Which image was opened, or could not be.
type Answer = (usize, Result<Image>);

impl Fetcher {
    /// Open each of these. While the first one is being opened, further proxies are started; when it is open, so
    /// that the registry is known to answer, they open the others.
    pub(super) async fn open_each(
        &self,
        references: &[impl AsRef<str>],
        documents: &mut Documents,
    ) -> Result<Vec<Image>> {
        let references: Vec<String> = references
            .iter()
            .map(|reference| reference.as_ref().to_owned())
            .collect();
        let [first, rest @ ..] = references.as_slice() else {
            return Ok(Vec::new());
        };
        if rest.is_empty() {
            let image = self.open(first).await?;
            documents.add_manifest(&image)?;
            return Ok(vec![image]);
        }
        // With a bound, but on what is sent all at once below.
        let (queue, queued) = async_channel::unbounded();
        let (answers, mut answered) = mpsc::channel(ANSWERS.get());
        let (prove, proved) = watch::channel(false);
        let one_more = |proxy| Opener {
            fetcher: self.clone(),
            transport_of: first.clone(),
            proxy,
            queue: queued.clone(),
            answers: answers.clone(),
        };
        let mut openers = JoinSet::new();
        let most = self.ahead(first).min(rest.len() - 1);
        let starting = async {
            let mut pace = Pace::from_now();
            for _ in 0..most {
                // The one before was started just now.
                pace.started();
                pace.due().await;
                openers.spawn(one_more(None).wait_and_open(proved.clone()));
            }
            std::future::pending().await
        };
        let image = tokio::select! {
            biased;
            image = self.open_alone(first) => image?,
            never = starting => never,
        };
        self.opened(&image, 0);
        documents.add_manifest(&image)?;
        let proxy = (image.proxy.clone(), image.starting);
        let mut images: Vec<Option<Image>> = vec![None; references.len()];
        images[0] = Some(image);
        for (number, reference) in references.iter().enumerate().skip(1) {
            if self.starter.is_proved(reference) {
                // It has no bound, and we have its other end.
                let _ = queue.try_send((number, reference.clone()));
                continue;
            }
            // The first one at another registry.
            let image = self.open_by(&proxy, reference).await?;
            self.opened(&image, number);
            documents.add_manifest(&image)?;
            images[number] = Some(image);
        }
        queue.close();
        prove.send_replace(true);
        openers.spawn(one_more(Some(proxy)).wait_and_open(proved));
        drop(answers);
        while let Some((number, image)) = answered.recv().await {
            let image = image?;
            self.opened(&image, number);
            documents.add_manifest(&image)?;
            images[number] = Some(image);
        }
        while let Some(ended) = openers.join_next().await {
            ended.map_err(panicked)?;
        }
        // Each was opened, or has failed.
        images
            .into_iter()
            .collect::<Option<_>>()
            .ok_or(Error::Closed)
    }

    /// How many proxies to start besides the first one.
    fn ahead(&self, reference: &str) -> usize {
        let source = Transport::of(reference);
        match source {
            Transport::Registry { .. } if self.options.start_ahead => {
                let (_, most) = self.options.bounds(&[source]);
                // The first one is not started yet.
                most.min(Room::now().proxies) - 1
            }
            _ => 0,
        }
    }

    /// By a new proxy.
    async fn open_alone(&self, reference: &str) -> Result<Image> {
        let opening = || async {
            let begun = Instant::now();
            let proxy = self.starter.start(Transport::of(reference)).await?;
            open_in(proxy, reference, begun.elapsed()).await
        };
        let image = self.retrying(reference, opening).await?;
        self.starter.proved(reference);
        Ok(image)
    }

    /// By this proxy, or a new one if it is lost.
    async fn open_by(
        &self,
        (proxy, starting): &(ImageProxy, Duration),
        reference: &str,
    ) -> Result<Image> {
        let opening = || open_in(proxy.clone(), reference, *starting);
        match self.retrying(reference, opening).await {
            Ok(image) => {
                self.starter.proved(reference);
                Ok(image)
            }
            Err(error) if error.is_closed() => self.open_alone(reference).await,
            Err(error) => Err(error),
        }
    }
}

/// One of those who open images, as long as there are some to open.
struct Opener {
    fetcher: Fetcher,
    /// An image of the kind that it is started for.
    transport_of: String,
    /// And what its start took; `None` if it is to be started.
    proxy: Option<(ImageProxy, Duration)>,
    queue: async_channel::Receiver<(usize, String)>,
    answers: mpsc::Sender<Answer>,
}

impl Opener {
    async fn wait_and_open(mut self, mut proved: watch::Receiver<bool>) {
        let proxy = match self.proxy.take() {
            Some(proxy) => proxy,
            None => match self.start().await {
                Ok(proxy) => proxy,
                // The others open what it would have.
                Err(error) => {
                    tracing::debug!(%error, "can't start one more proxy");
                    return;
                }
            },
        };
        // If it never is, nobody wants anything.
        if proved.wait_for(|proved| *proved).await.is_err() {
            return;
        }
        while let Ok((number, reference)) = self.queue.recv().await {
            let image = self.fetcher.open_by(&proxy, &reference).await;
            // Nobody waits for it after a failure.
            if self.answers.send((number, image)).await.is_err() {
                return;
            }
        }
    }

    async fn start(&self) -> Result<(ImageProxy, Duration)> {
        let begun = Instant::now();
        let transport = Transport::of(&self.transport_of);
        let proxy = self.fetcher.starter.start_further(transport).await?;
        Ok((proxy, begun.elapsed()))
    }
}
