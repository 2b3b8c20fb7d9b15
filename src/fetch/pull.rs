//! What is fetched: layers into handlers, images into sinks.

use std::collections::HashMap;
use std::sync::Arc;

use oci_spec::image::{Descriptor, Digest};

use super::configs::Busy;
use super::ledger::Order;
use super::unit::Handler;
use super::{
    Fetcher, Image, ImageContent, Index, IndexContent, Job, Layer, LayerReader, Sink, jobs,
};
use crate::error::{Error, Result};

/// What a pull did.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Pulled {
    /// The images, as they are in the sink now.
    pub images: Vec<Arc<ImageContent>>,
    /// Of all their layers, each blob once.
    pub bytes: u64,
    /// Blobs that came over the wire: layers, and configs.
    pub fetched_blobs: usize,
    /// Their bytes.
    pub fetched_bytes: u64,
    /// Layers' blobs that the sink already had.
    pub reused_blobs: usize,
    /// Foreign layers, which were left out: their descriptors say at which addresses they are, because
    /// their licences do not allow everybody to hand them out. What runs the image fetches them there.
    pub foreign_layers: Vec<Descriptor>,
    /// How often a blob was tried again.
    pub retries: usize,
    /// The most proxies that were at work at once.
    pub proxies: usize,
}

impl Fetcher {
    /// Run `handler` for each layer, many at once, each in its own task. The
    /// results come in the order of the layers; of a blob that is there twice,
    /// the handler gets one, and the result is cloned.
    ///
    /// The handler gets a reader of the layer's blob as it is stored: verified
    /// to the end, compressed or not. If the blob breaks, the handler is run
    /// again from the start with a fresh reader, as far as the [`RetryPolicy`](super::RetryPolicy)
    /// goes; what it did before must not matter, or be undone when its future
    /// ends. What it leaves unread is read and checked after it.
    ///
    /// # Errors
    ///
    /// The first fatal one, which stops all others at once: a blob's or a
    /// proxy's beyond its retries, [`Error::Handler`] with the handler's own.
    /// A blob's error is reported rather than the one it causes in the handler.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, all handlers are stopped.
    pub async fn for_each_layer<T, E, Fut>(
        &self,
        image: &Image,
        handler: impl Fn(Layer, LayerReader) -> Fut + Send + Sync + 'static,
    ) -> Result<Vec<T>>
    where
        T: Clone + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let _ending = self.events.ending();
        let content = self.content(image).await?;
        self.for_each_of(image, &content, handler).await
    }

    pub(super) async fn for_each_of<T, E, Fut>(
        &self,
        image: &Image,
        content: &ImageContent,
        handler: impl Fn(Layer, LayerReader) -> Fut + Send + Sync + 'static,
    ) -> Result<Vec<T>>
    where
        T: Clone + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
        Fut: Future<Output = Result<T, E>> + Send,
    {
        let jobs = jobs([content.layers()])?;
        let handler = EachLayer(move |layer, reader| {
            let work = handler(layer, reader);
            async move { work.await.map_err(Error::handler) }
        });
        let (outputs, _) = self
            .run(
                &[image],
                jobs.clone(),
                Order::Mixed,
                Busy::default(),
                handler,
            )
            .await?;
        let by_digest: HashMap<&Digest, T> = jobs
            .iter()
            .map(|job| job.layer.descriptor.digest())
            .zip(outputs)
            .collect();
        let result = |layer: &Layer| by_digest.get(layer.descriptor.digest()).cloned();
        // Each layer has a job, and each job its output.
        Ok(content.layers().iter().filter_map(result).collect())
    }

    /// Pull an image into a sink. Foreign layers, whose descriptors have `urls`, are left out, as
    /// `skopeo copy` does ([`Pulled::foreign_layers`]).
    ///
    /// # Errors
    ///
    /// As [`pull_all`](Self::pull_all).
    ///
    /// # Cancel safety
    ///
    /// As [`pull_all`](Self::pull_all).
    pub async fn pull<S: Sink>(&self, image: &Image, sink: &Arc<S>) -> Result<Pulled> {
        self.pull_all(std::slice::from_ref(image), sink).await
    }

    /// Pull several images into one sink, each blob once. An image becomes
    /// visible in the sink only when all of them are there.
    ///
    /// # Errors
    ///
    /// The first fatal one, which stops all others at once.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, all workers are stopped, and the sink keeps what was
    /// complete.
    pub async fn pull_all<S: Sink>(&self, images: &[Image], sink: &Arc<S>) -> Result<Pulled> {
        let _ending = self.events.ending();
        let pulled = self.pull_blobs(images, sink).await?;
        for content in &pulled.images {
            sink.commit(content).await?;
        }
        Ok(pulled)
    }

    /// Pull all images of an index, and the index; or the single image that was opened as an index.
    ///
    /// # Errors
    ///
    /// As [`pull_all`](Self::pull_all); [`Error::Image`] if the sink takes no
    /// index.
    ///
    /// # Cancel safety
    ///
    /// As [`pull_all`](Self::pull_all).
    pub async fn pull_index<S: Sink>(&self, index: &Index, sink: &Arc<S>) -> Result<Pulled> {
        let _ending = self.events.ending();
        let pulled = self.pull_blobs(index.images(), sink).await?;
        match IndexContent::new(index, &pulled.images)? {
            Some(content) => sink.commit_index(&content, &pulled.images).await?,
            None => {
                for content in &pulled.images {
                    sink.commit(content).await?;
                }
            }
        }
        Ok(pulled)
    }

    async fn pull_blobs<S: Sink>(&self, images: &[Image], sink: &Arc<S>) -> Result<Pulled> {
        let mut layers: Vec<Vec<Layer>> = images.iter().map(Image::layers).collect();
        let mut foreign_layers: Vec<Descriptor> = Vec::new();
        for layer in layers
            .iter_mut()
            .flat_map(|layers| layers.extract_if(.., |layer| is_foreign(&layer.descriptor)))
        {
            let known = |known: &Descriptor| known.digest() == layer.descriptor.digest();
            if !foreign_layers.iter().any(known) {
                foreign_layers.push(layer.descriptor);
            }
        }
        let jobs = jobs(layers.iter().map(Vec::as_slice))?;
        // What a manifest says may be more than there is in the world.
        let sizes = jobs.iter().map(|job| job.layer.descriptor.size());
        let bytes = sizes.fold(0, u64::saturating_add);
        sink.prepare().await?;
        // The configs come beside the layers: no layer has to wait for them.
        let (asker, busy) = self.asker(images, &**sink).await?;
        let contents = self.contents(asker, images, sink);
        let images: Vec<&Image> = images.iter().collect();
        let handler = IntoSink(Arc::clone(sink));
        let run = self.run(&images, jobs, Order::Mixed, busy, handler);
        let (contents, (_, pulled)) = tokio::try_join!(contents, run)?;
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
            foreign_layers,
            ..pulled
        })
    }
}

/// Whether a blob is elsewhere than in the registry of its image (image-spec, `descriptor.md`, `urls`).
pub(crate) fn is_foreign(blob: &Descriptor) -> bool {
    blob.urls().as_ref().is_some_and(|urls| !urls.is_empty())
}

/// A closure as a handler.
struct EachLayer<F>(F);

impl<F, T, Fut> Handler for EachLayer<F>
where
    F: Fn(Layer, LayerReader) -> Fut + Send + Sync + 'static,
    T: Send + 'static,
    Fut: Future<Output = Result<T>> + Send,
{
    type Output = T;

    async fn skip(&self, _: &Job) -> Result<Option<T>> {
        Ok(None)
    }

    async fn handle(&self, job: &Job, reader: LayerReader) -> Result<T> {
        (self.0)(job.layer.clone(), reader).await
    }
}

/// A sink as a handler.
struct IntoSink<S>(Arc<S>);

impl<S: Sink> Handler for IntoSink<S> {
    type Output = ();

    async fn skip(&self, job: &Job) -> Result<Option<()>> {
        Ok(self.0.has(&job.layer.descriptor).await?.then_some(()))
    }

    async fn handle(&self, job: &Job, reader: LayerReader) -> Result<()> {
        self.0.store(&job.layer.descriptor, reader).await
    }
}
