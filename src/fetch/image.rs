//! An image that a [`Fetcher`](super::Fetcher) has opened.

use std::sync::Arc;
use std::time::Duration;

use oci_spec::image::ImageManifest;
use tokio_util::sync::CancellationToken;

use super::ahead::Spares;
use super::content::{FetchedManifest, Layer, layers};
use super::options::Transport;
use crate::error::{Error, Result};
use crate::proxy::{ImageProxy, OpenedImage};

/// An open image. It keeps the proxy that opened it; further ones open the
/// same content, whatever happens to its tag meanwhile.
#[derive(Debug, Clone)]
pub struct Image {
    pub(super) same: Arc<SameImage>,
    pub(super) proxy: ImageProxy,
    pub(super) opened: Arc<OpenedImage>,
    /// What `OpenImage` took: two of the registry's answers.
    pub(super) opening: Duration,
    /// What the start of the proxy took.
    pub(super) starting: Duration,
    /// Proxies that were started meanwhile.
    pub(super) spares: Spares,
}

/// A proxy that was there before the run, with what it has open.
#[derive(Debug, Clone)]
pub(super) struct Home {
    pub(super) proxy: ImageProxy,
    /// Those of a run's images that it has open, by their number in the run.
    pub(super) opened: Vec<(usize, Arc<OpenedImage>)>,
    /// Cancelled when it can be asked for layers, if not at once.
    pub(super) free: Option<CancellationToken>,
}

impl Image {
    /// As it was asked for.
    #[must_use]
    pub fn reference(&self) -> &str {
        &self.same.reference
    }

    /// The digest of its manifest at its source.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.same.manifest.source_digest
    }

    /// Its manifest, as OCI.
    #[must_use]
    pub fn manifest(&self) -> &ImageManifest {
        &self.same.manifest.manifest
    }

    /// Its layers, without what only its config tells: their `diff_id`s.
    #[must_use]
    pub fn layers(&self) -> Vec<Layer> {
        layers(self.manifest(), &[])
    }

    /// The proxy that opened it, for whatever else is to be asked.
    #[must_use]
    pub fn proxy(&self) -> &ImageProxy {
        &self.proxy
    }

    /// The image in that proxy.
    #[must_use]
    pub fn opened(&self) -> &OpenedImage {
        &self.opened
    }
}

/// What makes an image the same one in another proxy.
#[derive(Debug)]
pub(super) struct SameImage {
    pub(super) reference: String,
    pub(super) manifest: FetchedManifest,
}

impl SameImage {
    pub(super) fn transport(&self) -> Transport<'_> {
        Transport::of(&self.reference)
    }

    /// What one open image gives access to: any open image of a repository serves any blob of it (so it is in
    /// skopeo 1.9 to 1.22). Elsewhere each image is its own.
    pub(super) fn source(&self) -> &str {
        match repository(&self.reference) {
            Some(repository) => repository,
            None => &self.reference,
        }
    }

    /// Open it in another proxy: by digest where the transport has digests, so
    /// that a tag may move; compared in any case.
    pub(super) async fn open_in(&self, proxy: &ImageProxy) -> Result<OpenedImage> {
        let opened = match by_digest(&self.reference, &self.manifest.source_digest) {
            None => proxy.open_image(&self.reference).await?,
            Some(pinned) => match proxy.open_image(&pinned).await {
                // A signature policy can allow the tag and not the digest.
                Err(Error::Refused { .. }) => proxy.open_image(&self.reference).await?,
                other => other?,
            },
        };
        self.compare(proxy, &opened).await?;
        Ok(opened)
    }

    /// What was opened there by name: the same content, also if the tag had
    /// moved.
    pub(super) async fn settle_in(
        &self,
        proxy: &ImageProxy,
        opened: OpenedImage,
    ) -> Result<OpenedImage> {
        match self.compare(proxy, &opened).await {
            Ok(()) => Ok(opened),
            Err(Error::ImageChanged { .. }) => {
                drop(opened);
                self.open_in(proxy).await
            }
            Err(error) => Err(error),
        }
    }

    async fn compare(&self, proxy: &ImageProxy, opened: &OpenedImage) -> Result<()> {
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
