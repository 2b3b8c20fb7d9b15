//! The result of a pull, and the handler that writes into a sink.

use std::collections::HashSet;
use std::sync::Arc;

use oci_spec::image::{Descriptor, Digest};
use semver::Version;

use super::handler::{Handler, HandlerFuture, Job};
use super::image::ImageData;
use super::{ImageContent, IndexContent, Layer, LayerReader, Sink, resolve};
use crate::proxy::{ImageProxy, OpenedImage};

/// The result of a pull.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Pulled {
    /// The images as they are in the sink.
    pub images: Vec<Arc<ImageContent>>,
    /// The index as it is in the sink. `None` for a single image, and for all pulls except
    /// [`pull_index`](crate::Fetcher::pull_index).
    pub index: Option<IndexContent>,
    /// The number of requests of [`pull_many`](crate::Fetcher::pull_many) that failed. 0 for all other pulls, which
    /// fail as a whole.
    pub failed_images: usize,
    /// The size of all layers together, in bytes, without foreign layers. A blob that several images have counts once.
    /// In [`pull_many`](crate::Fetcher::pull_many), such a blob counts once if its images are pulled at the same time,
    /// and otherwise again.
    pub bytes: u64,
    /// The number of blobs that were fetched: layers and configs.
    pub fetched_blobs: usize,
    /// The size of the blobs that were fetched, in bytes.
    pub fetched_bytes: u64,
    /// The number of layer blobs that the sink already had.
    pub reused_blobs: usize,
    /// The foreign layers of the images, each blob once. They are not fetched, because their licences do not allow
    /// everybody to distribute them. The container runtime fetches them from the `urls` of their descriptors.
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

/// Whether a blob is foreign: its descriptor has `urls`, so it may be stored elsewhere than in the registry of its
/// image (image-spec, `descriptor.md`).
pub(crate) fn is_foreign(blob: &Descriptor) -> bool {
    blob.urls().as_ref().is_some_and(|urls| !urls.is_empty())
}

/// The foreign layers of images, each blob once.
#[derive(Debug, Default)]
pub(super) struct ForeignLayers {
    all: Vec<Descriptor>,
    known: HashSet<Digest>,
}

impl ForeignLayers {
    /// Takes the foreign layers out of the layers of an image.
    pub(super) fn take_from(&mut self, layers: &mut Vec<Layer>) {
        for layer in layers.extract_if(.., |layer| is_foreign(&layer.descriptor)) {
            if self.known.insert(layer.descriptor.digest().clone()) {
                self.all.push(layer.descriptor);
            }
        }
    }

    /// Returns the layers, in the order in which they were found.
    pub(super) fn into_vec(self) -> Vec<Descriptor> {
        self.all
    }
}

/// The size of these layers together, in bytes, each blob once. The sum saturates, because a manifest may claim
/// any size.
pub(super) fn bytes_of(images: &[Vec<Layer>]) -> u64 {
    let mut known = HashSet::new();
    let layers = images.iter().flatten();
    let distinct = layers.filter(|layer| known.insert(layer.descriptor.digest()));
    distinct.fold(0, |sum, layer| sum.saturating_add(layer.descriptor.size()))
}

/// A handler that writes into a sink.
pub(super) struct IntoSink<S>(pub(super) Arc<S>);

impl<S: Sink> Handler for IntoSink<S> {
    fn skip<'a>(&'a self, job: &'a Job) -> HandlerFuture<'a, bool> {
        Box::pin(self.0.has(&job.layer))
    }

    fn handle<'a>(&'a self, job: &'a Job, reader: LayerReader) -> HandlerFuture<'a, ()> {
        Box::pin(self.0.store(&job.layer, reader))
    }

    fn content<'a>(
        &'a self,
        proxy: &'a ImageProxy,
        opened: &'a OpenedImage,
        image: &'a ImageData,
    ) -> HandlerFuture<'a, ImageContent> {
        if let Some(content) = image.content.get() {
            return Box::pin(async { Ok(content.with_known_config()) });
        }
        let (reference, manifest) = (&image.reference, &image.manifest);
        Box::pin(resolve::resolve(
            proxy, opened, reference, manifest, &*self.0,
        ))
    }
}
