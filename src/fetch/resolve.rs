//! Fetches what the content of an image is made of: its manifest and its config.

use oci_spec::image::Descriptor;
use tokio::io::AsyncReadExt;

use super::content::{ConfigOrigin, FetchedManifest, ImageContent, with_layers};
use super::{Sink, document};
use crate::drain::verify::has_digest;
use crate::error::{BlobError, Error, Result};
use crate::proxy::{ImageProxy, OpenedImage};
use crate::reference::Place;
use crate::time::timeout;

/// Fetches the manifest of an open image. For `containers-storage:`, also asks for the layers that can be fetched.
pub(super) async fn fetch_manifest(
    proxy: &ImageProxy,
    image: &OpenedImage,
    place: Place<'_>,
) -> Result<FetchedManifest> {
    let (source_digest, raw) = proxy.fetch_manifest_raw_oci(image).await?;
    let mut fetched = FetchedManifest::new(source_digest, raw)?;
    if place == Place::Storage {
        let layers = proxy.get_layer_info(image).await?.ok_or_else(|| {
            let found = proxy.protocol_version();
            Error::image(format!(
                "an image in containers-storage needs skopeo 1.11 or later \
                 (protocol 0.2.5); this one speaks protocol {found}"
            ))
        })?;
        fetched.stored = with_layers(&fetched.raw, &layers)?;
        fetched.manifest = document::manifest(&fetched.stored)?;
    }
    Ok(fetched)
}

/// Fetches the config that belongs to a manifest, unless the sink has it, and returns the content of the image.
pub(super) async fn resolve(
    proxy: &ImageProxy,
    image: &OpenedImage,
    reference: &str,
    fetched: &FetchedManifest,
    sink: &impl Sink,
) -> Result<ImageContent> {
    let config = config(proxy, image, fetched, sink).await?;
    ImageContent::of(reference, fetched, config)
}

/// The config with the digest that the manifest names, and the origin of its bytes.
async fn config(
    proxy: &ImageProxy,
    image: &OpenedImage,
    fetched: &FetchedManifest,
    sink: &impl Sink,
) -> Result<(Vec<u8>, ConfigOrigin)> {
    let descriptor = fetched.manifest.config();
    let limit = proxy.options().max_document_bytes;
    if descriptor.size() > limit {
        let what = "image config";
        return Err(Error::DocumentTooLarge { what, limit });
    }
    if let Some(config) = sink.read(descriptor).await?
        && has_digest(&config, descriptor.digest())
    {
        return Ok((config, ConfigOrigin::Known));
    }
    if fetched.converted {
        let asking = proxy.fetch_config_raw(image);
        let config = within_stall_timeout(proxy, descriptor, asking).await?;
        // With another digest, the config was not converted, and is a blob. `converted` is then true for another
        // reason, such as a manifest digest that is not a sha256.
        if has_digest(&config, descriptor.digest()) {
            return Ok((config, ConfigOrigin::Conversion));
        }
    }
    Ok((
        config_blob(proxy, image, descriptor).await?,
        ConfigOrigin::Blob,
    ))
}

async fn config_blob(
    proxy: &ImageProxy,
    image: &OpenedImage,
    descriptor: &Descriptor,
) -> Result<Vec<u8>> {
    let asking = proxy.get_descriptor(image, descriptor);
    let mut blob = within_stall_timeout(proxy, descriptor, asking).await?;
    let mut config = Vec::new();
    if let Err(error) = blob.read_to_end(&mut config).await {
        return Err(error
            .downcast()
            .unwrap_or_else(Error::io("can't read the image config")));
    }
    match within_stall_timeout(proxy, descriptor, blob.finish()).await {
        Err(Error::Blob {
            source: BlobError::Stalled { .. },
            ..
        }) if has_digest(&config, descriptor.digest()) => Ok(config),
        verdict => verdict.map(|()| config),
    }
}

/// The answer of the proxy to a call for the config.
///
/// # Errors
///
/// [`BlobError::Stalled`] if the proxy does not answer within the stall timeout. Another proxy may answer.
async fn within_stall_timeout<T>(
    proxy: &ImageProxy,
    config: &Descriptor,
    asking: impl Future<Output = Result<T>>,
) -> Result<T> {
    let after = proxy.options().stall_limit();
    timeout(after, asking).await.unwrap_or_else(|_| {
        let after = after.unwrap_or_default();
        let stalled = BlobError::Stalled { after, read: 0 };
        Err(Error::blob(config.digest())(stalled))
    })
}
