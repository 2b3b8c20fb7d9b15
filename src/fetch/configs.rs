//! Who is asked for the configs of images.
//!
//! A proxy answers one call at a time, and the first one had better begin with the
//! largest layer. So where there is a spare, that one is asked for the first config,
//! and works for the run when it has answered; otherwise the first one is asked,
//! and takes no layer before.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::ahead::{Lent, Spare};
use super::documents::Documents;
use super::{Discard, Fetcher, Image, ImageContent, Sink, content, panicked, retry};
use crate::error::{Error, Result};
use crate::proxy::{ImageProxy, OpenedImage};

/// How long a spare may take to open the image before the first proxy is asked after
/// all. It was started while that one opened it, so one that takes longer hangs.
const SPARE_PATIENCE: Duration = Duration::from_secs(5);

/// Whom the first config is asked of.
pub(super) enum Asker {
    /// The first proxy, which is busy until this is dropped.
    Home(DropGuard),
    Spare(Lent),
}

/// What a run must know of it: who is not to be asked for layers yet.
#[derive(Debug, Default)]
pub(super) struct Busy {
    /// The first proxy, until this is cancelled.
    pub(super) home: Option<CancellationToken>,
    /// A spare, until it comes from here.
    pub(super) spare: Option<oneshot::Receiver<Spare>>,
}

impl Fetcher {
    /// Manifest, config and layers of an open image.
    ///
    /// # Errors
    ///
    /// What fetching the config fails with; [`Error::Decode`](crate::Error::Decode);
    /// [`Error::Image`](crate::Error::Image);
    /// [`Error::DocumentsTooLarge`](crate::Error::DocumentsTooLarge).
    ///
    /// # Cancel safety
    ///
    /// Nothing is kept of it.
    pub async fn content(&self, image: &Image) -> Result<ImageContent> {
        let ending = self.events.ending();
        let mut documents = Documents::within(self.options.max_documents_bytes);
        documents.add_manifest(image)?;
        documents.add_config(image)?;
        let content = self.content_for(image, &Discard).await?;
        ending.keep();
        Ok(content)
    }

    /// Whom to ask for the first of these images' configs. A spare is not used up where
    /// the sink has it already.
    pub(super) async fn asker(&self, images: &[Image], sink: &impl Sink) -> Result<(Asker, Busy)> {
        if let Some(first) = images.first()
            && !sink.has(first.manifest().config()).await?
            && let Some(spare) = first.spares.take()
        {
            let (lent, given_back) = spare.lend();
            let busy = Busy {
                spare: Some(given_back),
                home: None,
            };
            return Ok((Asker::Spare(lent), busy));
        }
        let free = CancellationToken::new();
        let busy = Busy {
            home: Some(free.clone()),
            spare: None,
        };
        Ok((Asker::Home(free.drop_guard()), busy))
    }

    /// The contents of all of these. Each proxy is asked for those that it has opened, one after the other;
    /// all are asked at once.
    pub(super) async fn contents<S: Sink>(
        &self,
        asker: Asker,
        images: &[Image],
        sink: &Arc<S>,
    ) -> Result<Vec<Arc<ImageContent>>> {
        let Some((first, others)) = images.split_first() else {
            return Ok(Vec::new());
        };
        let mut documents = Documents::within(self.options.max_documents_bytes);
        images
            .iter()
            .try_for_each(|image| documents.add_manifest(image))?;
        images
            .iter()
            .try_for_each(|image| documents.add_config(image))?;
        let mut asking = JoinSet::new();
        for group in by_proxy(others) {
            asking.spawn(self.clone().contents_by_one(group, Arc::clone(sink)));
        }
        let content = match asker {
            Asker::Spare(lent) => self.content_by(lent, first, &**sink).await?,
            Asker::Home(busy) => {
                let content = self.content_for(first, &**sink).await?;
                drop(busy);
                content
            }
        };
        let mut contents = vec![None; images.len()];
        contents[0] = Some(Arc::new(content));
        while let Some(asked) = asking.join_next().await {
            for (number, content) in asked.map_err(panicked)?? {
                contents[number] = Some(content);
            }
        }
        // Each is in a group.
        contents
            .into_iter()
            .collect::<Option<_>>()
            .ok_or(Error::Closed)
    }

    async fn contents_by_one<S: Sink>(
        self,
        images: Vec<(usize, Image)>,
        sink: Arc<S>,
    ) -> Result<Vec<(usize, Arc<ImageContent>)>> {
        let mut contents = Vec::with_capacity(images.len());
        for (number, image) in images {
            let content = self.content_for(&image, &*sink).await?;
            contents.push((number, Arc::new(content)));
        }
        Ok(contents)
    }

    /// Ask that spare, unless it can't open the image.
    async fn content_by(
        &self,
        mut lent: Lent,
        image: &Image,
        sink: &impl Sink,
    ) -> Result<ImageContent> {
        let opened = timeout(SPARE_PATIENCE, lent.spare.opened()).await;
        let content = match opened {
            Ok(Ok(spare)) => {
                let asked = (&spare.proxy, &spare.image);
                self.content_from(asked, image, sink).await
            }
            _ => self.content_for(image, sink).await,
        };
        lent.give_back();
        content
    }

    async fn content_for(&self, image: &Image, sink: &impl Sink) -> Result<ImageContent> {
        let asked = (&image.proxy, &*image.opened);
        self.content_from(asked, image, sink).await
    }

    /// Ask this proxy, in which the image is open.
    async fn content_from(
        &self,
        (proxy, opened): (&ImageProxy, &OpenedImage),
        image: &Image,
        sink: &impl Sink,
    ) -> Result<ImageContent> {
        let manifest = &image.same.manifest;
        let reference = image.reference();
        self.retrying(reference, || async move {
            // Boxed, here and below, so that pulls are no larger than they must be.
            let resolving = content::resolve(proxy, opened, reference, manifest, sink);
            match Box::pin(resolving).await {
                Err(error) if retry::is_the_proxys(&error) => {
                    // Its proxy is gone, or hangs, but not the image.
                    Box::pin(async {
                        let proxy = self.starter.start(image.same.transport()).await?;
                        let opened = image.same.open_in(&proxy).await?;
                        content::resolve(&proxy, &opened, reference, manifest, sink).await
                    })
                    .await
                }
                other => other,
            }
        })
        .await
    }
}

/// All but the first image, by the proxy that has opened them, with their numbers.
fn by_proxy(others: &[Image]) -> Vec<Vec<(usize, Image)>> {
    let mut groups: Vec<Vec<(usize, Image)>> = Vec::new();
    for (number, image) in others.iter().enumerate() {
        let one = (number + 1, image.clone());
        let of_its_proxy = |group: &&mut Vec<(usize, Image)>| {
            let first = group.first();
            first.is_some_and(|(_, known)| image.opened.is_open_in(&known.proxy))
        };
        match groups.iter_mut().find(of_its_proxy) {
            Some(group) => group.push(one),
            None => groups.push(vec![one]),
        }
    }
    groups
}
