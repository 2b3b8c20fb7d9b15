//! The methods of [`Fetcher`] that fetch documents of images, and that pull images into sinks.

use std::sync::Arc;

use futures_core::Stream;
use tokio::sync::mpsc;

use super::super::attempts::{with_deadline, with_retries};
use super::super::document_budget::DocumentBudget;
use super::super::event::EventKind;
use super::super::index::{FetchedIndex, check_entry};
use super::super::many::{Driver, IterStream};
use super::super::pull::{ForeignLayers, IntoSink, bytes_of};
use super::super::sink::Unfinished;
use super::super::{
    Discard, Image, ImageContent, ImageRequest, Index, IndexContent, Layer, PullMany, Pulled, Sink,
    resolve, retry,
};
use super::Fetcher;
use crate::error::{Error, Result};
use crate::proxy::{ImageProxy, OpenedImage};
use crate::reference::by_digest;

impl Fetcher {
    /// Returns the manifest, the config and the layers of an open image. Later calls for the same [`Image`] or its
    /// clones do not fetch the config again.
    ///
    /// # Errors
    ///
    /// [`Error::Blob`] or [`Error::Refused`] if the config can't be fetched; [`Error::Image`] or [`Error::Decode`] if a
    /// document can't be used; [`Error::DocumentTooLarge`] if the config is larger than
    /// [`max_document_bytes`](crate::ConnectionOptions#structfield.max_document_bytes); [`Error::DocumentsTooLarge`] if
    /// the manifest and the config together exceed
    /// [`max_documents_bytes`](crate::FetchOptions#structfield.max_documents_bytes); [`Error::ImageChanged`] if the
    /// proxy failed and another one finds a different image; [`Error::DeadlineExceeded`] after the
    /// [deadline](crate::RetryPolicy#structfield.deadline); the errors of a proxy.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, the config is not fetched. Another call that waits for the same config then
    /// fetches it.
    pub async fn content(&self, image: &Image) -> Result<Arc<ImageContent>> {
        let end_guard = self.events.end_guard();
        let mut budget = DocumentBudget::with_limit(self.options.max_documents_bytes);
        budget.add_manifest(image)?;
        budget.add_config(image)?;
        let fetch = || async {
            Box::pin(self.content_for(image, &Discard))
                .await
                .map(Arc::new)
        };
        // Another call may fetch the config, with a later deadline, so this call has a limit of its own.
        let fetched = image.data.content.get_or_try_init(fetch);
        let content = with_deadline(&self.options.retry, fetched).await?;
        end_guard.keep();
        Ok(Arc::clone(content))
    }

    async fn content_for(&self, image: &Image, sink: &impl Sink) -> Result<ImageContent> {
        let asked = (image.proxy(), image.opened());
        self.content_from(asked, image, sink).await
    }

    /// Returns the content of an image, from this proxy, in which the image is open.
    async fn content_from(
        &self,
        (proxy, opened): (&ImageProxy, &OpenedImage),
        image: &Image,
        sink: &impl Sink,
    ) -> Result<ImageContent> {
        let manifest = &image.data.manifest;
        let reference = image.reference();
        with_retries(&self.options.retry, reference, || async move {
            // The futures are boxed to keep the future of a pull small.
            let resolving = resolve::resolve(proxy, opened, reference, manifest, sink);
            match Box::pin(resolving).await {
                Err(error) if retry::is_proxy_failure(&error) => {
                    // The proxy has died or hangs, so another one is started.
                    Box::pin(async {
                        let proxy = self.starter.start(None, image.data.place(), None).await?;
                        let opened = proxy.open_image(reference).await?;
                        image.data.compare(&proxy, &opened).await?;
                        resolve::resolve(&proxy, &opened, reference, manifest, sink).await
                    })
                    .await
                }
                other => other,
            }
        })
        .await
    }

    /// Opens all images of an index, to be pulled together. If the reference names a single image, the returned
    /// [`Index`] contains only this image.
    ///
    /// # Errors
    ///
    /// [`Error::Image`] if the index is not at a registry (`docker://`), if one of its entries is not an image, or if a
    /// manifest does not have the size that the index states; [`Error::Blob`] if the index does not have the digest in
    /// the reference, or a manifest does not have the digest in the index; the errors of
    /// [`fetch_source`](Self::fetch_source) and of [`open_all`](Self::open_all).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, the processes that it started are ended.
    pub async fn open_index(&self, reference: &str) -> Result<Index> {
        let end_guard = self.events.end_guard();
        let listed = FetchedIndex::fetch(&self.starter, &self.options.retry, reference).await?;
        let mut budget = DocumentBudget::with_limit(self.options.max_documents_bytes);
        let (raw, images) = match listed {
            None => (None, vec![self.open(reference).await?]),
            Some(listed) => {
                budget.add(listed.raw.len() as u64)?;
                let references = listed.references(reference)?;
                let images = self.open_each(&references, &mut budget).await?;
                for (image, entry) in images.iter().zip(&listed.entries) {
                    check_entry(entry, &image.data.manifest)?;
                }
                (Some(listed.raw), images)
            }
        };
        end_guard.keep();
        Ok(Index::new(reference, raw, images))
    }

    /// Fetches the manifest of an image as it is at its source, before any [conversion](Image::is_converted): the
    /// bytes whose digest is [`Image::digest`]. If the manifest was not converted, no request is made.
    ///
    /// # Errors
    ///
    /// [`Error::Image`] if the manifest was converted, belongs to an index, and its source is not a
    /// registry (`docker://`); [`Error::Blob`] if the registry sends other bytes; the other errors
    /// of [`fetch_source`](Self::fetch_source).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, the processes that it started are ended.
    pub async fn source_manifest(&self, image: &Image) -> Result<Vec<u8>> {
        if !image.is_converted() {
            return Ok(image.manifest_raw().to_vec());
        }
        let end_guard = self.events.end_guard();
        let pinned = by_digest(image.reference(), image.digest());
        let reference = pinned.as_deref().unwrap_or(image.reference());
        let source = self.fetch_source(reference).await?;
        if pinned.is_none() && source.digest() != image.digest() {
            let reason = "the original manifest of one image of an index can be fetched only from a registry \
                          (docker://)";
            return Err(Error::image(reason));
        }
        end_guard.keep();
        Ok(source.into_raw())
    }

    /// Pulls an image into a sink. Foreign layers, whose descriptors have `urls`, are not fetched
    /// ([`Pulled::foreign_layers`]); `skopeo copy` does not fetch them either.
    ///
    /// # Errors
    ///
    /// The errors of [`pull_all`](Self::pull_all).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, all workers are stopped, and [`Sink::discard`] is called. An
    /// [`OciLayout`](crate::OciLayout) keeps the blobs that are complete.
    pub async fn pull(&self, image: &Image, sink: impl Sink) -> Result<Pulled> {
        self.pull_all(std::slice::from_ref(image), sink).await
    }

    /// Pulls several images into one sink, each blob once. The images become visible in the sink when all of
    /// them are complete. With [`pull_many`](Self::pull_many), each image becomes visible on its own, and a
    /// failure does not stop the others.
    ///
    /// # Errors
    ///
    /// The first fatal error, which stops the whole pull at once: an error of a blob, a config or a proxy after its
    /// retries, an error of the sink, [`Error::Image`], [`Error::DocumentTooLarge`], [`Error::DocumentsTooLarge`], or
    /// [`Error::DeadlineExceeded`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, all workers are stopped, and [`Sink::discard`] is called. An
    /// [`OciLayout`](crate::OciLayout) keeps the blobs that are complete.
    pub async fn pull_all(&self, images: &[Image], sink: impl Sink) -> Result<Pulled> {
        let _end_guard = self.events.end_guard();
        let sink = Arc::new(sink);
        let unfinished = Unfinished::new(&sink);
        let pulled = self.pull_blobs(images, &sink).await?;
        sink.commit_all(&pulled.images).await?;
        unfinished.keep();
        for (image, content) in pulled.images.iter().enumerate() {
            self.send_pulled(image, content.reference());
        }
        Ok(pulled)
    }

    fn send_pulled(&self, image: usize, reference: &str) {
        let reference = reference.to_owned();
        let event = || EventKind::ImagePulled { image, reference };
        self.events.send(event);
    }

    /// Pulls all images of an index, and the index itself. An [`Index`] that is a single image is pulled like
    /// that image.
    ///
    /// # Errors
    ///
    /// The errors of [`pull_all`](Self::pull_all); [`Error::Image`] if the sink does not accept an index.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, all workers are stopped, and [`Sink::discard`] is called. An
    /// [`OciLayout`](crate::OciLayout) keeps the blobs that are complete.
    pub async fn pull_index(&self, index: &Index, sink: impl Sink) -> Result<Pulled> {
        let _end_guard = self.events.end_guard();
        let sink = Arc::new(sink);
        let unfinished = Unfinished::new(&sink);
        let mut pulled = self.pull_blobs(index.images(), &sink).await?;
        match index.raw() {
            Some(raw) => {
                let content = IndexContent::new(index.reference(), raw, &pulled.images)?;
                sink.commit_index(&content, &pulled.images).await?;
                pulled.index = Some(content);
            }
            None => sink.commit_all(&pulled.images).await?,
        }
        unfinished.keep();
        self.send_pulled(0, index.reference());
        Ok(pulled)
    }

    async fn pull_blobs<S: Sink>(&self, images: &[Image], sink: &Arc<S>) -> Result<Pulled> {
        let mut layers: Vec<Vec<Layer>> = images.iter().map(Image::layers).collect();
        let mut foreign_layers = ForeignLayers::default();
        for layers in &mut layers {
            foreign_layers.take_from(layers);
        }
        let bytes = bytes_of(&layers);
        let mut budget = DocumentBudget::with_limit(self.options.max_documents_bytes);
        for image in images {
            budget.add_manifest(image)?;
            budget.add_config(image)?;
        }
        sink.prepare().await?;
        let images: Vec<&Image> = images.iter().collect();
        if images.is_empty() {
            return Ok(Pulled::default());
        }
        let mut engine = self.engine_for(&images);
        let ids = engine.begin(&images, self.events.clone(), IntoSink(Arc::clone(sink)));
        for (id, layers) in ids.iter().zip(&layers) {
            engine.fetch(*id, layers, true)?;
        }
        self.fetch_all(&mut engine, ids.len()).await?;
        let contents = ids.iter().map(|id| engine.content(*id).cloned());
        // Every image was fetched, so each one has its content.
        let contents: Vec<Arc<ImageContent>> = contents.flatten().collect();
        let pulled = engine.tally().clone();
        let configs = contents
            .iter()
            .filter(|content| content.config_was_fetched());
        let config_bytes: u64 = configs
            .clone()
            .map(|content| content.config().len() as u64)
            .sum();
        Ok(Pulled {
            bytes,
            fetched_blobs: pulled.fetched_blobs + configs.count(),
            fetched_bytes: pulled.fetched_bytes + config_bytes,
            images: contents,
            foreign_layers: foreign_layers.into_vec(),
            ..pulled
        })
    }

    /// Pulls many images into one sink. A blob that several images need is fetched once: images that are pulled at the
    /// same time share it, and for a later image, the sink says whether it still has the blob ([`Sink::has`]).
    ///
    /// An image becomes visible in the sink when everything that it names is there. [`PullMany::next`] then returns
    /// its result. Results come in the order in which images are done. A failed image has a result, too, and the pull
    /// of the others goes on. If two images have the same name in the sink, the one that becomes visible last
    /// replaces the other.
    ///
    /// A request is held from the moment when it is taken until its result is taken (one result that waits for the
    /// caller does not count). The next request is taken while fewer than 64 requests are held, fewer than 64 images
    /// are being pulled, and the known documents of all held requests have fewer bytes than
    /// [`max_documents_bytes`](crate::FetchOptions#structfield.max_documents_bytes) together. A single request whose
    /// documents exceed this limit fails.
    ///
    /// The pull runs in a task of its own. The task waits while more than 64 results have not been taken with
    /// [`PullMany::next`].
    /// The task also calls the iterator, which must not block. If requests arrive over time, use
    /// [`pull_stream`](Self::pull_stream).
    ///
    /// ```no_run
    /// # async fn example() -> longshore::Result<()> {
    /// use longshore::{FetchOptions, Fetcher, ImageProxyConfig, OciLayout};
    ///
    /// let fetcher = Fetcher::new(ImageProxyConfig::default(), FetchOptions::default()).await?;
    /// let images = ["docker://quay.io/fedora/fedora:latest", "docker://quay.io/podman/hello:latest"];
    /// let sink = OciLayout::named_by_reference("mirror");
    /// let mut pulling = fetcher.pull_many(images, sink);
    /// while let Some(pulled) = pulling.next().await {
    ///     match &pulled.images {
    ///         Ok(_) => println!("{} is there", pulled.request.reference),
    ///         Err(error) => println!("{} is not: {error}", pulled.request.reference),
    ///     }
    /// }
    /// // An error here means that the pull ended early.
    /// let pulled = pulling.finish().await?;
    /// println!("{} failed", pulled.failed_images);
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if called outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropping the [`PullMany`] stops the pull, and [`Sink::discard`] is called. The sink keeps the images that are
    /// complete, and an [`OciLayout`](crate::OciLayout) also keeps the blobs that are complete.
    pub fn pull_many<S, R>(&self, requests: R, sink: S) -> PullMany
    where
        S: Sink,
        R: IntoIterator<Item: Into<ImageRequest>, IntoIter: Send + 'static>,
    {
        self.pull_stream(IterStream(requests.into_iter()), sink)
    }

    /// Pulls many images, like [`pull_many`](Self::pull_many), with a stream of requests. The stream is polled for the
    /// next request only when that request can be taken.
    ///
    /// # Panics
    ///
    /// Panics if called outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropping the [`PullMany`] stops the pull, and [`Sink::discard`] is called. The sink keeps the images that are
    /// complete, and an [`OciLayout`](crate::OciLayout) also keeps the blobs that are complete.
    pub fn pull_stream<S, R>(&self, requests: R, sink: S) -> PullMany
    where
        S: Sink,
        R: Stream<Item: Into<ImageRequest>> + Send + 'static,
    {
        let (out, done) = mpsc::channel(1);
        let (fetcher, sink) = (self.clone(), Arc::new(sink));
        let task = tokio::spawn(async move {
            let Fetcher {
                starter,
                options,
                events,
            } = fetcher;
            let end_guard = events.end_guard();
            let unfinished = Unfinished::new(&sink);
            let driver = Driver::new(starter, options, events, sink);
            let pulled = driver.run(requests, out).await;
            if pulled
                .as_ref()
                .is_ok_and(|pulled| pulled.failed_images == 0)
            {
                unfinished.keep();
            }
            drop(end_guard);
            pulled
        });
        PullMany::new(done, task)
    }
}
