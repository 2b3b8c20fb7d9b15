//! An image that a [`Fetcher`](super::Fetcher) has opened.

use std::collections::HashSet;
use std::sync::Arc;

use oci_spec::image::{Digest, ImageManifest};
use semver::Version;

use tokio::sync::OnceCell;

use super::content::{FetchedManifest, ImageContent, Layer, layers};
use super::engine::{FirstOpened, IdleEngine};
use crate::error::{Error, Result};
use crate::proxy::{ImageProxy, OpenedImage};
use crate::reference::Place;

/// An open image. The proxy that opened it runs until the image and its clones are dropped. Each other proxy that
/// fetches layers of the image opens it by the same reference. At a registry, the tag may have moved to another image
/// by then. This does no harm, because layers are fetched by digest. At any other source, a fetch fails with
/// [`Error::ImageChanged`] if the image has changed.
#[derive(Debug, Clone)]
pub struct Image {
    pub(super) data: Arc<ImageData>,
    pub(super) first_opened: FirstOpened,
    /// The engine that opened the image, with its warm proxies.
    pub(super) engine: IdleEngine,
}

impl Image {
    /// The reference by which the image was asked for.
    #[must_use]
    pub fn reference(&self) -> &str {
        &self.data.reference
    }

    /// The digest of the image's manifest at its source, before any conversion.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.data.manifest.source_digest
    }

    /// The image's manifest, parsed: its media type, config, layers, annotations, artifact type and subject. An artifact
    /// type or a subject that is not valid is left out; [`manifest_raw`](Self::manifest_raw) has everything. For
    /// `containers-storage:`, the layers are the uncompressed ones that can be fetched.
    #[must_use]
    pub fn manifest(&self) -> &ImageManifest {
        &self.data.manifest.manifest
    }

    /// The bytes of the image's manifest, as the proxy returned them. They are the bytes at the source, unless the
    /// proxy [converted](Self::is_converted) the manifest.
    #[must_use]
    pub fn manifest_raw(&self) -> &[u8] {
        &self.data.manifest.raw
    }

    /// Whether the proxy converted the manifest to OCI, because it has another format at its source, such as Docker
    /// schema 2. [`Fetcher::source_manifest`](crate::Fetcher::source_manifest) fetches the original.
    #[must_use]
    pub fn is_converted(&self) -> bool {
        self.data.manifest.source_size().is_none()
    }

    /// The layers that the image's manifest names, from the base layer up. They have `diff_id`s once
    /// [`Fetcher::content`](crate::Fetcher::content) has fetched the config. Call `content` before you fetch some
    /// layers decompressed: without a `diff_id`, only the compressed bytes of a layer are checked.
    #[must_use]
    pub fn layers(&self) -> Vec<Layer> {
        match self.data.content.get() {
            Some(content) => content.layers().to_vec(),
            None => layers(self.manifest(), &[]),
        }
    }

    /// Returns an error if one of these is no layer of the image.
    pub(super) fn check_layers(&self, layers: &[Layer]) -> Result<()> {
        let of_image = self.layers();
        let known: HashSet<_> = (of_image.iter())
            .map(|layer| (layer.descriptor.digest(), layer.descriptor.size()))
            .collect();
        let is_known =
            |layer: &&Layer| known.contains(&(layer.descriptor.digest(), layer.descriptor.size()));
        match layers.iter().find(|layer| !is_known(layer)) {
            None => Ok(()),
            Some(other) => Err(Error::image(format!(
                "{} of {} bytes is no layer of {}",
                other.descriptor.digest(),
                other.descriptor.size(),
                self.reference()
            ))),
        }
    }

    /// The protocol version of the proxy that opened the image.
    #[must_use]
    pub fn protocol_version(&self) -> &Version {
        self.proxy().protocol_version()
    }

    /// Whether the proxy that opened the image is new enough to check the signature policy (protocol 0.2.6, skopeo
    /// 1.13). With [`insecure_policy`](crate::ImageProxyConfig#structfield.insecure_policy), such a proxy accepts every
    /// image all the same.
    #[must_use]
    pub fn policy_checked(&self) -> bool {
        self.proxy().checks_policy()
    }

    /// The proxy that opened the image. It is not public, because a caller that finalized it would end a proxy of
    /// the engine.
    pub(super) fn proxy(&self) -> &ImageProxy {
        &self.first_opened.proxy
    }

    /// The open image in [`proxy`](Self::proxy).
    pub(super) fn opened(&self) -> &OpenedImage {
        &self.first_opened.opened
    }
}

/// The data of an image that are the same in all proxies.
#[derive(Debug)]
pub(super) struct ImageData {
    pub(super) reference: String,
    pub(super) manifest: FetchedManifest,
    /// The content, once [`Fetcher::content`](super::Fetcher::content) has fetched it.
    pub(super) content: OnceCell<Arc<ImageContent>>,
}

impl ImageData {
    pub(super) fn place(&self) -> Place<'_> {
        Place::of(&self.reference)
    }

    /// Compares this image with the one that another proxy has opened by the same reference. Images of a registry are
    /// not compared, because their blobs are fetched by digest, even if the tag has moved.
    ///
    /// # Errors
    ///
    /// [`Error::ImageChanged`] if the manifests differ; the errors of fetching the manifest.
    pub(super) async fn compare(&self, proxy: &ImageProxy, opened: &OpenedImage) -> Result<()> {
        if matches!(self.place(), Place::Registry { .. }) {
            return Ok(());
        }
        let (digest, raw) = proxy.fetch_manifest_raw_oci(opened).await?;
        if raw == self.manifest.raw {
            Ok(())
        } else {
            Err(Error::ImageChanged {
                reference: self.reference.clone(),
                was: self.manifest.source_digest.clone(),
                now: digest,
            })
        }
    }
}
