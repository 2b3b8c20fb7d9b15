//! An image that a [`Fetcher`](super::Fetcher) has opened.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::OnceCell;

use super::content::{FetchedManifest, ImageContent, Layer, layers};
use super::engine::{Home, Parked};
use super::options::Transport;
use crate::error::{Error, Result};
use crate::proxy::{ImageProxy, OpenedImage};
use oci_spec::image::{Digest, ImageManifest};

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

    /// The layers that the image's manifest names, without `diff_id`s, which only the config has
    /// ([`Fetcher::content`](crate::Fetcher::content)).
    #[must_use]
    pub fn layers(&self) -> Vec<Layer> {
        layers(self.manifest(), &[])
    }

    /// An error if one of these is no layer of the image.
    pub(super) fn check_layers(&self, layers: &[Layer]) -> Result<()> {
        let of_content = self.same.content.get().map(|content| content.layers());
        let of_manifest = self.layers();
        let known: HashSet<_> = (of_manifest.iter())
            .chain(of_content.unwrap_or_default())
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

    /// The proxy that opened the image, for calls that the [`Fetcher`](crate::Fetcher) does not have.
    #[must_use]
    pub fn proxy(&self) -> &ImageProxy {
        &self.home.proxy
    }

    /// The open image in [`proxy`](Self::proxy).
    #[must_use]
    pub fn opened(&self) -> &OpenedImage {
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
    pub(super) fn transport(&self) -> Transport<'_> {
        Transport::of(&self.reference)
    }

    /// Whether what was opened there is the same. At a registry that does not matter: its blobs are asked for by
    /// their digests, also if the tag has moved.
    pub(super) async fn compare(&self, proxy: &ImageProxy, opened: &OpenedImage) -> Result<()> {
        if matches!(self.transport(), Transport::Registry { .. }) {
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

/// `docker://repository@digest`, of a reference to an image at a registry.
pub(super) fn by_digest(reference: &str, digest: &str) -> Option<String> {
    Some(format!("{}@{digest}", repository(reference)?))
}

/// What one open image gives access to: at a registry, any open image of a repository serves any blob of it (so it
/// is in skopeo 1.9 to 1.22). Elsewhere each image is its own.
pub(super) fn source_of(reference: &str) -> &str {
    repository(reference).unwrap_or(reference)
}

/// `docker://repository`, of a reference to an image at a registry.
fn repository(reference: &str) -> Option<&str> {
    let name = reference.strip_prefix("docker://")?;
    let prefix = reference.len() - name.len();
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    // A colon after the last slash begins a tag, before it a port.
    let path = name.rfind('/').map_or(0, |slash| slash + 1);
    let end = name[path..]
        .find(':')
        .map_or(name.len(), |colon| path + colon);
    Some(&reference[..prefix + end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_by_digest() {
        let table = [
            ("docker://a.b/c/d:tag", Some("docker://a.b/c/d@sha256:x")),
            ("docker://a.b:5000/c", Some("docker://a.b:5000/c@sha256:x")),
            (
                "docker://a.b:5000/c:tag",
                Some("docker://a.b:5000/c@sha256:x"),
            ),
            ("docker://name:tag", Some("docker://name@sha256:x")),
            ("docker://a.b/c@sha256:y", Some("docker://a.b/c@sha256:x")),
            ("oci:dir:tag", None),
        ];
        for (reference, expected) in table {
            let pinned = by_digest(reference, "sha256:x");
            assert_eq!(pinned.as_deref(), expected, "{reference}");
        }
    }
}
