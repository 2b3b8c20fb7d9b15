//! Pulls images into sinks, and their layers into handlers.

use std::collections::HashSet;
use std::sync::Arc;

use oci_spec::image::Descriptor;
use semver::Version;

use super::documents::Documents;
use super::event::EventKind;
use super::handler::{Doing, Handler};
use super::image::SameImage;
use super::sink::Unfinished;
use super::{
    Fetcher, Image, ImageContent, Index, IndexContent, Job, Layer, LayerReader, Sink, content,
};
use crate::error::Result;
use crate::proxy::{ImageProxy, OpenedImage};

/// The result of a pull.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Pulled {
    /// The images as they are in the sink.
    pub images: Vec<Arc<ImageContent>>,
    /// How many requests of [`pull_many`](Fetcher::pull_many) failed. Every other pull fails as a whole.
    pub failed_images: usize,
    /// The size of all layers together, in bytes, each blob once.
    pub bytes: u64,
    /// The number of blobs that were fetched: layers and configs.
    pub fetched_blobs: usize,
    /// The size of the blobs that were fetched, in bytes.
    pub fetched_bytes: u64,
    /// The number of layer blobs that the sink already had.
    pub reused_blobs: usize,
    /// The foreign layers, which are left out. Their licences do not allow everybody to distribute them.
    /// Their descriptors have addresses (`urls`) from which the container runtime fetches them.
    pub foreign_layers: Vec<Descriptor>,
    /// The number of retries of all blobs together.
    pub retries: usize,
    /// The highest number of proxies that were at work at the same time.
    pub proxies: usize,
    /// The protocol version of a proxy, if one was started.
    pub protocol: Option<Version>,
    /// Whether a proxy was too old to check the signature policy ([`ImageProxy::checks_policy`]).
    pub policy_unchecked: bool,
}

impl Fetcher {
    /// Pulls an image into a sink. Foreign layers, whose descriptors have `urls`, are left out
    /// ([`Pulled::foreign_layers`]), as `skopeo copy` does.
    ///
    /// # Errors
    ///
    /// As [`pull_all`](Self::pull_all).
    ///
    /// # Cancel safety
    ///
    /// As [`pull_all`](Self::pull_all).
    pub async fn pull(&self, image: &Image, sink: impl Sink) -> Result<Pulled> {
        self.pull_all(std::slice::from_ref(image), sink).await
    }

    /// Pulls several images into one sink, each blob once. The images become visible in the sink when all of
    /// them are complete. With [`pull_many`](Self::pull_many), each image becomes visible on its own, and a
    /// failure does not stop the others.
    ///
    /// # Errors
    ///
    /// The first fatal error, which stops the whole pull at once.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, all workers are stopped. The sink keeps the blobs that were complete.
    pub async fn pull_all(&self, images: &[Image], sink: impl Sink) -> Result<Pulled> {
        let _ending = self.events.ending();
        let sink = Arc::new(sink);
        let unfinished = Unfinished::new(&sink);
        let pulled = self.pull_blobs(images, &sink).await?;
        sink.commit_all(&pulled.images).await?;
        unfinished.keep();
        for (image, content) in pulled.images.iter().enumerate() {
            self.is_pulled(image, content.reference());
        }
        Ok(pulled)
    }

    fn is_pulled(&self, image: usize, reference: &str) {
        let reference = reference.to_owned();
        let event = || EventKind::ImagePulled { image, reference };
        self.events.send(event);
    }

    /// Pulls all images of an index, and the index itself. If the reference names a single image, pulls that
    /// image.
    ///
    /// # Errors
    ///
    /// As [`pull_all`](Self::pull_all); [`Error::Image`](crate::Error::Image) if the sink does not accept an
    /// index.
    ///
    /// # Cancel safety
    ///
    /// As [`pull_all`](Self::pull_all).
    pub async fn pull_index(&self, index: &Index, sink: impl Sink) -> Result<Pulled> {
        let _ending = self.events.ending();
        let sink = Arc::new(sink);
        let unfinished = Unfinished::new(&sink);
        let pulled = self.pull_blobs(index.images(), &sink).await?;
        match index.raw() {
            Some(raw) => {
                let content = IndexContent::new(index.reference(), raw, &pulled.images)?;
                sink.commit_index(&content, &pulled.images).await?;
            }
            None => sink.commit_all(&pulled.images).await?,
        }
        unfinished.keep();
        self.is_pulled(0, index.reference());
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
        let bytes = bytes_of(&layers);
        let mut documents = Documents::within(self.options.max_documents_bytes);
        for image in images {
            documents.add_manifest(image)?;
            documents.add_config(image)?;
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
        // All of them have been fetched.
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
            foreign_layers,
            ..pulled
        })
    }
}

/// Whether a blob is stored elsewhere than in the registry of its image (image-spec, `descriptor.md`,
/// `urls`).
pub(crate) fn is_foreign(blob: &Descriptor) -> bool {
    blob.urls().as_ref().is_some_and(|urls| !urls.is_empty())
}

/// The size of these layers, each blob once. The sum saturates, because a manifest may claim any size.
fn bytes_of(images: &[Vec<Layer>]) -> u64 {
    let mut known = HashSet::new();
    let layers = images.iter().flatten();
    let distinct = layers.filter(|layer| known.insert(layer.descriptor.digest()));
    distinct.fold(0, |sum, layer| sum.saturating_add(layer.descriptor.size()))
}

/// A handler that writes into a sink.
pub(super) struct IntoSink<S>(pub(super) Arc<S>);

impl<S: Sink> Handler for IntoSink<S> {
    fn skip<'a>(&'a self, job: &'a Job) -> Doing<'a, bool> {
        Box::pin(self.0.has(&job.layer))
    }

    fn handle<'a>(&'a self, job: &'a Job, reader: LayerReader) -> Doing<'a, ()> {
        Box::pin(self.0.store(&job.layer, reader))
    }

    fn content<'a>(
        &'a self,
        proxy: &'a ImageProxy,
        opened: &'a OpenedImage,
        image: &'a SameImage,
    ) -> Doing<'a, ImageContent> {
        if let Some(content) = image.content.get() {
            return Box::pin(async { Ok(content.known()) });
        }
        let (reference, manifest) = (&image.reference, &image.manifest);
        Box::pin(content::resolve(
            proxy, opened, reference, manifest, &*self.0,
        ))
    }
}
