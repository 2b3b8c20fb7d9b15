//! An image that a [`Fetcher`](super::Fetcher) has opened.

use std::collections::HashSet;
use std::sync::Arc;

use oci_spec::image::{Digest, ImageManifest};
use semver::Version;

use tokio::sync::OnceCell;

use super::content::{FetchedManifest, ImageContent, Layer, layers};
use super::engine::{Home, Parked};
use crate::error::{Error, Result};
use crate::proxy::{ImageProxy, OpenedImage};
use crate::reference::Place;

/// An open image. It keeps the proxy that opened it. Further proxies that help to fetch its layers open it by the same
/// name; layers are fetched by digest, so it does not matter if its tag moves meanwhile.
#[derive(Debug, Clone)]
pub struct Image {
    pub(super) same: Arc<SameImage>,
    pub(super) home: Home,
    /// What opened it, with the proxies that were started meanwhile.
    pub(super) engine: Parked,
}

impl Image {
    /// The reference by which the image was asked for.
    #[must_use]
    pub fn reference(&self) -> &str {
        &self.same.reference
    }

    /// The digest of the image's manifest at its source, before any conversion.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.same.manifest.source_digest
    }

    /// The image's manifest as an OCI manifest.
    #[must_use]
    pub fn manifest(&self) -> &ImageManifest {
        &self.same.manifest.manifest
    }

    /// The bytes of the image's manifest as the proxy hands it out: those of its source, unless the proxy
    /// [converted](Self::is_converted) it.
    #[must_use]
    pub fn manifest_raw(&self) -> &[u8] {
        &self.same.manifest.raw
    }

    /// Whether the manifest at its source has another form, which the proxy converted to OCI (Docker schema 2, for one).
    /// [`Fetcher::source_manifest`](crate::Fetcher::source_manifest) fetches that form.
    #[must_use]
    pub fn is_converted(&self) -> bool {
        self.same.manifest.source_size().is_none()
    }

    /// The layers that the image's manifest names. Their `diff_id`s are known once
    /// [`Fetcher::content`](crate::Fetcher::content) has fetched the config.
    #[must_use]
    pub fn layers(&self) -> Vec<Layer> {
        match self.same.content.get() {
            Some(content) => content.layers().to_vec(),
            None => layers(self.manifest(), &[]),
        }
    }

    /// An error if one of these is no layer of the image.
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

    /// The version of the protocol that the proxy that opened the image speaks.
    #[must_use]
    pub fn protocol_version(&self) -> &Version {
        self.proxy().protocol_version()
    }

    /// Whether that proxy has checked the signature policy: from protocol 0.2.6 on (skopeo 1.13).
    #[must_use]
    pub fn policy_checked(&self) -> bool {
        self.proxy().checks_policy()
    }

    /// The proxy that opened the image. It is not handed out: whoever finalized it would end the engine's proxy.
    pub(super) fn proxy(&self) -> &ImageProxy {
        &self.home.proxy
    }

    /// The open image in [`proxy`](Self::proxy).
    pub(super) fn opened(&self) -> &OpenedImage {
        &self.home.opened
    }
}

/// What makes an image the same one in another proxy.
#[derive(Debug)]
pub(super) struct SameImage {
    pub(super) reference: String,
    pub(super) manifest: FetchedManifest,
    /// Once somebody has asked for it.
    pub(super) content: OnceCell<Arc<ImageContent>>,
}

impl SameImage {
    pub(super) fn place(&self) -> Place<'_> {
        Place::of(&self.reference)
    }

    /// Whether what was opened there is the same. At a registry that does not matter: its blobs are asked for by
    /// their digests, also if the tag has moved.
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
