//! What an image consists of, in the form in which it can be fetched and
//! stored.
//!
//! Most images are stored byte for byte as the registry has them. Two are not:
//! a Docker schema 2 manifest comes converted to OCI, with a config that exists
//! only in its converted form; and `containers-storage:` keeps layers
//! uncompressed, so that its manifest's layers can't be had and those that can
//! are written into a manifest of ours.

use std::sync::Arc;

use oci_spec::image::{
    Descriptor, Digest, DigestAlgorithm, ImageConfiguration, ImageManifest, MediaType,
};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::{Sink, document};
use crate::drain::verify::{has_digest, sha256};
use crate::error::{BlobError, Error, Result};
use crate::protocol::LayerInfo;
use crate::proxy::{ImageProxy, OpenedImage};
use crate::reference::Place;
use crate::time::timeout;

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Layer {
    /// The layer's place in the image, zero-based; 0 is the base layer.
    pub index: usize,
    /// The descriptor of the blob: its digest, its size in bytes and its media type.
    pub descriptor: Descriptor,
    /// The digest of the uncompressed layer, as the image config has it. `None` if the config was not read, or does not
    /// list one for each layer.
    pub diff_id: Option<Digest>,
}

impl Layer {
    /// Returns a layer of this place, whose `diff_id` is not known. Most programs get layers from an image; this is for
    /// tests.
    #[must_use]
    pub fn new(index: usize, descriptor: Descriptor) -> Self {
        Self {
            index,
            descriptor,
            diff_id: None,
        }
    }
}

/// The documents of an image, manifest and config, and the list of its layers.
#[derive(Debug, Clone)]
pub struct ImageContent {
    reference: String,
    name: Option<Arc<str>>,
    source_digest: Digest,
    manifest: Vec<u8>,
    manifest_descriptor: Descriptor,
    config: Vec<u8>,
    config_descriptor: Descriptor,
    /// What is understood of the config; nothing, if it is not an image's.
    understood: document::Config,
    layers: Vec<Layer>,
    config_from: ConfigFrom,
}

/// Where the config's bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConfigFrom {
    /// It was fetched as the blob that it is.
    Blob,
    /// It exists only as the proxy's conversion.
    Conversion,
    /// The sink or the image had it.
    Known,
}

impl ImageContent {
    /// Returns the content of an image with this manifest and this config, as a pull would: for tests of a
    /// [`Sink`], without skopeo.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`] or [`Error::Image`] if the manifest can't be understood; [`Error::Blob`] if the config is not the one
    /// that the manifest names.
    pub fn from_bytes(
        reference: &str,
        manifest: impl Into<Vec<u8>>,
        config: impl Into<Vec<u8>>,
    ) -> Result<Self> {
        let (manifest, config) = (manifest.into(), config.into());
        let fetched = FetchedManifest::new(sha256(&manifest), manifest)?;
        let wanted = fetched.manifest.config().digest();
        if !has_digest(&config, wanted) {
            let computed = sha256(&config);
            return Err(Error::blob(wanted)(BlobError::Corrupt { computed }));
        }
        Self::of(reference, &fetched, (config, ConfigFrom::Blob))
    }

    /// The content of an image, of its manifest and its config.
    fn of(
        reference: &str,
        fetched: &FetchedManifest,
        (config, config_from): (Vec<u8>, ConfigFrom),
    ) -> Result<Self> {
        let FetchedManifest {
            source_digest,
            stored,
            manifest,
            converted,
            ..
        } = fetched;
        let config_descriptor = manifest.config().clone();
        let understood = match config_descriptor.media_type() {
            MediaType::ImageConfig => document::config(&config),
            _ => document::Config::default(),
        };
        let relabelled = match converted {
            true => relabelled(stored, &understood.diff_ids)?,
            false => None,
        };
        let (stored, manifest) = match &relabelled {
            Some((stored, manifest)) => (stored, manifest),
            None => (stored, manifest),
        };
        let layers = layers(manifest, &understood.diff_ids);
        let manifest_descriptor = describe(stored, &understood)?;
        Ok(Self {
            reference: reference.to_owned(),
            name: None,
            source_digest: source_digest.clone(),
            manifest: stored.clone(),
            manifest_descriptor,
            config,
            config_descriptor,
            understood,
            layers,
            config_from,
        })
    }

    /// The reference by which the image was asked for.
    #[must_use]
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// The digest of the manifest at its source, before any conversion: what
    /// the image can be pulled by.
    #[must_use]
    pub fn source_digest(&self) -> &Digest {
        &self.source_digest
    }

    /// The manifest in the bytes in which it is to be stored.
    #[must_use]
    pub fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    /// Digest, size and media type of [`manifest`](Self::manifest), and the
    /// image's platform.
    #[must_use]
    pub fn manifest_descriptor(&self) -> &Descriptor {
        &self.manifest_descriptor
    }

    /// The config in the bytes in which it is to be stored. Of an artifact
    /// that is no image it can be anything.
    #[must_use]
    pub fn config(&self) -> &[u8] {
        &self.config
    }

    /// Digest, size and media type of [`config`](Self::config).
    #[must_use]
    pub fn config_descriptor(&self) -> &Descriptor {
        &self.config_descriptor
    }

    /// Parses the config as the specification has it. An image can be pulled and run although its
    /// config is not quite so.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`].
    pub fn configuration(&self) -> Result<ImageConfiguration> {
        serde_json::from_slice(&self.config).map_err(Error::decode("image config"))
    }

    /// The layers, from the base layer up. The same blob can occur more than once.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The platform as `os/architecture[/variant]`; `None` if the config does not say it.
    #[must_use]
    pub fn platform(&self) -> Option<String> {
        let document::Config {
            os,
            architecture,
            variant,
            ..
        } = &self.understood;
        let platform = format!("{}/{}", os.as_ref()?, architecture.as_ref()?);
        Some(match variant {
            Some(variant) => format!("{platform}/{variant}"),
            None => platform,
        })
    }

    /// The name that the image gets in the sink, if the caller gave one
    /// ([`ImageRequest::name`](crate::ImageRequest::name)).
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The same, to be called so.
    pub(super) fn named(&self, name: Option<&str>) -> Self {
        Self {
            name: name.map(Into::into),
            ..self.clone()
        }
    }

    /// The same, for another pull of the image, which fetches no config.
    pub(super) fn known(&self) -> Self {
        Self {
            config_from: ConfigFrom::Known,
            ..self.clone()
        }
    }

    /// Whether each layer has a `diff_id` that can be checked, of an image whose config is an image's:
    /// one for each, of an algorithm that is known, and the same one for the same blob.
    #[cfg(feature = "decompress")]
    pub(super) fn check_diff_ids(&self) -> Result<()> {
        if *self.config_descriptor.media_type() != MediaType::ImageConfig {
            return Ok(());
        }
        let wrong = |problem: String| Err(Error::image(format!("its config {problem}")));
        let ids = &self.understood.diff_ids;
        if ids.len() != self.layers.len() {
            let (ids, layers) = (ids.len(), self.layers.len());
            return wrong(format!("has {ids} diff_ids for {layers} layers"));
        }
        let mut seen = std::collections::HashMap::new();
        for (layer, id) in self.layers.iter().zip(ids) {
            let blob = layer.descriptor.digest();
            if layer
                .diff_id
                .as_ref()
                .and_then(crate::drain::verify::Verifier::new)
                .is_none()
            {
                return wrong(format!("has the diff_id {id:?}, which can't be checked"));
            }
            if *seen.entry(blob).or_insert(id) != id {
                return wrong(format!("has two diff_ids for the blob {blob}"));
            }
        }
        Ok(())
    }

    /// The config came over the wire as a blob of its own.
    pub(crate) fn config_was_fetched(&self) -> bool {
        self.config_from == ConfigFrom::Blob
    }
}

/// A manifest as it was fetched, and as it is to be stored.
#[derive(Debug)]
pub(super) struct FetchedManifest {
    pub(super) source_digest: Digest,
    /// As the proxy hands it out.
    pub(super) raw: Vec<u8>,
    /// With the layers that can be fetched.
    pub(super) stored: Vec<u8>,
    pub(super) manifest: ImageManifest,
    /// The proxy converted it, so that its bytes do not have its digest.
    converted: bool,
}

impl FetchedManifest {
    pub(super) fn new(source_digest: Digest, raw: Vec<u8>) -> Result<Self> {
        let manifest = document::manifest(&raw)?;
        let converted = sha256(&raw) != source_digest;
        Ok(Self {
            source_digest,
            stored: raw.clone(),
            raw,
            manifest,
            converted,
        })
    }
}

impl FetchedManifest {
    /// Its size at its source, unless it was converted since.
    pub(super) fn source_size(&self) -> Option<u64> {
        (!self.converted).then_some(self.raw.len() as u64)
    }

    /// Whether the manifest at its source has this digest. Of a converted one only the proxy's word is
    /// known, which is a sha256.
    pub(super) fn has_source_digest(&self, digest: &Digest) -> bool {
        self.source_digest == *digest
            || if self.converted {
                *digest.algorithm() != DigestAlgorithm::Sha256
            } else {
                has_digest(&self.raw, digest)
            }
    }
}

/// Fetch an opened image's manifest, and find out what its layers are to be
/// fetched by.
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
                "layers of containers-storage: need protocol 0.2.5 or later \
                 (skopeo 1.11), this proxy speaks {found}"
            ))
        })?;
        fetched.stored = with_layers(&fetched.raw, &layers)?;
        fetched.manifest = document::manifest(&fetched.stored)?;
    }
    Ok(fetched)
}

/// Fetch the config that belongs to a manifest, unless the sink has it.
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

pub(super) fn layers(manifest: &ImageManifest, diff_ids: &[String]) -> Vec<Layer> {
    // Only if there is one for each can they be told apart.
    let all = diff_ids.len() == manifest.layers().len();
    let describe = |(index, descriptor): (usize, &Descriptor)| Layer {
        index,
        descriptor: descriptor.clone(),
        diff_id: all.then(|| diff_ids[index].parse().ok()).flatten(),
    };
    manifest.layers().iter().enumerate().map(describe).collect()
}

fn describe(manifest: &[u8], config: &document::Config) -> Result<Descriptor> {
    let (size, digest) = (manifest.len() as u64, sha256(manifest));
    let mut descriptor = Descriptor::new(MediaType::ImageManifest, size, digest);
    if let (Some(os), Some(architecture)) = (&config.os, &config.architecture) {
        let mut platform = json!({ "os": os, "architecture": architecture });
        if let Some(variant) = &config.variant {
            platform["variant"] = json!(variant);
        }
        let platform = serde_json::from_value(platform).map_err(Error::decode("image config"))?;
        descriptor.set_platform(Some(platform));
    }
    Ok(descriptor)
}

/// The config in just the bytes that the manifest names.
async fn config(
    proxy: &ImageProxy,
    image: &OpenedImage,
    fetched: &FetchedManifest,
    sink: &impl Sink,
) -> Result<(Vec<u8>, ConfigFrom)> {
    let descriptor = fetched.manifest.config();
    let limit = proxy.options().max_document_bytes;
    if descriptor.size() > limit {
        let what = "image config";
        return Err(Error::DocumentTooLarge { what, limit });
    }
    if let Some(config) = sink.read(descriptor).await?
        && has_digest(&config, descriptor.digest())
    {
        return Ok((config, ConfigFrom::Known));
    }
    if fetched.converted {
        let asking = proxy.fetch_config_raw(image);
        let config = answered(proxy, descriptor, asking).await?;
        // Otherwise it was not converted after all (a manifest whose digest is
        // not a sha256, for one).
        if has_digest(&config, descriptor.digest()) {
            return Ok((config, ConfigFrom::Conversion));
        }
    }
    Ok((
        config_blob(proxy, image, descriptor).await?,
        ConfigFrom::Blob,
    ))
}

async fn config_blob(
    proxy: &ImageProxy,
    image: &OpenedImage,
    descriptor: &Descriptor,
) -> Result<Vec<u8>> {
    let asking = proxy.get_descriptor(image, descriptor);
    let mut blob = answered(proxy, descriptor, asking).await?;
    let mut config = Vec::new();
    if let Err(error) = blob.read_to_end(&mut config).await {
        return Err(error
            .downcast()
            .unwrap_or_else(Error::io("can't read the image config")));
    }
    match answered(proxy, descriptor, blob.finish()).await {
        Err(Error::Blob {
            source: BlobError::Stalled { .. },
            ..
        }) if has_digest(&config, descriptor.digest()) => Ok(config),
        verdict => verdict.map(|()| config),
    }
}

/// What is asked about the config, unless the proxy does not answer within the
/// stall timeout: then another one may.
async fn answered<T>(
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

/// The manifest with these layers instead of its own.
fn with_layers(manifest: &[u8], layers: &[LayerInfo]) -> Result<Vec<u8>> {
    let mut manifest = document::members(manifest, "manifest")?;
    let describe = |layer: &LayerInfo| {
        let size = (layer.size).ok_or_else(|| {
            Error::image(format!("the size of layer {} is not known", layer.digest))
        })?;
        let media_type = oci_layer_type(&layer.media_type);
        Ok(json!({ "mediaType": media_type, "digest": layer.digest, "size": size }))
    };
    let layers = layers.iter().map(describe).collect::<Result<Value>>()?;
    document::set(&mut manifest, "layers", layers);
    Ok(Value::Object(manifest).to_string().into_bytes())
}

/// A converted manifest in which layers that are not compressed are not called so; `None` if none was.
/// skopeo does that with what `docker save` writes. A layer that has its `diff_id` as its digest is not
/// compressed.
fn relabelled(manifest: &[u8], diff_ids: &[String]) -> Result<Option<(Vec<u8>, ImageManifest)>> {
    let mut relabelled: Value =
        serde_json::from_slice(manifest).map_err(Error::decode("manifest"))?;
    let mut changed = false;
    let layers = relabelled["layers"].as_array_mut().into_iter().flatten();
    for (layer, diff_id) in layers.zip(diff_ids) {
        let media_type = layer["mediaType"].as_str().unwrap_or_default();
        if layer["digest"] == diff_id.as_str()
            && let Some(plain) = media_type
                .strip_suffix("+gzip")
                .or_else(|| media_type.strip_suffix("+zstd"))
        {
            layer["mediaType"] = json!(plain);
            changed = true;
        }
    }
    if !changed {
        return Ok(None);
    }
    let raw = relabelled.to_string().into_bytes();
    let manifest = document::manifest(&raw)?;
    Ok(Some((raw, manifest)))
}

/// Docker's name for an uncompressed or gzipped layer is not allowed in an OCI
/// manifest (image-spec, `media-types.md`, "Compatibility Matrix").
fn oci_layer_type(media_type: &MediaType) -> MediaType {
    match media_type.as_ref() {
        "application/vnd.docker.image.rootfs.diff.tar" => MediaType::ImageLayer,
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => MediaType::ImageLayerGzip,
        _ => media_type.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    fn manifest(layers: &[char]) -> Value {
        let describe = |digit: &char| {
            json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": digest(*digit),
                "size": 7,
            })
        };
        json!({
            "schemaVersion": 2,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest('c'),
                "size": 2,
            },
            "layers": layers.iter().map(describe).collect::<Vec<_>>(),
            "annotations": { "kept": "yes" },
        })
    }

    #[test]
    fn a_storages_layers_replace_the_manifests_and_nothing_else_changes() {
        let info = LayerInfo {
            digest: digest('b').parse().expect("a digest"),
            size: Some(99),
            media_type: MediaType::from("application/vnd.docker.image.rootfs.diff.tar"),
        };
        let raw = manifest(&['a']).to_string().into_bytes();
        let changed: Value =
            serde_json::from_slice(&with_layers(&raw, &[info]).expect("fine")).expect("JSON");
        let mut expected = manifest(&['b']);
        expected["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar");
        expected["layers"][0]["size"] = json!(99);
        assert_eq!(changed, expected);
    }

    #[test]
    fn a_layer_that_is_its_own_diff_id_is_not_called_compressed() {
        let raw = manifest(&['a', 'b']).to_string().into_bytes();
        let (changed, understood) = relabelled(&raw, &[digest('a'), digest('c')])
            .expect("fine")
            .expect("changed");
        let mut expected = manifest(&['a', 'b']);
        expected["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar");
        assert_eq!(
            serde_json::from_slice::<Value>(&changed).expect("JSON"),
            expected
        );
        assert_eq!(understood.layers()[0].media_type(), &MediaType::ImageLayer);
        let same = relabelled(&raw, &[digest('d'), digest('e')]).expect("fine");
        assert!(same.is_none());
    }

    #[test]
    fn a_layer_of_unknown_size_is_refused() {
        let info = LayerInfo {
            digest: digest('b').parse().expect("a digest"),
            size: None,
            media_type: MediaType::ImageLayer,
        };
        let raw = manifest(&['a']).to_string().into_bytes();
        assert!(matches!(with_layers(&raw, &[info]), Err(Error::Image(_))));
    }

    #[test]
    fn diff_ids_are_given_only_if_there_is_one_for_each_layer() {
        let manifest: ImageManifest =
            serde_json::from_value(manifest(&['a', 'b'])).expect("a manifest");
        let ids = |ids: &[char]| -> Vec<_> {
            let ids: Vec<String> = ids.iter().map(|id| digest(*id)).collect();
            let layers = layers(&manifest, &ids).into_iter();
            layers.map(|layer| layer.diff_id).collect()
        };
        let both = ['d', 'e'].map(|d| Some(digest(d).parse().expect("a digest")));
        assert_eq!(ids(&['d', 'e']), both);
        assert_eq!(ids(&['d']), [None, None]);
    }

    fn content(layers: &[char], ids: &[String], config_type: &MediaType) -> ImageContent {
        let mut manifest = manifest(layers);
        manifest["config"]["mediaType"] = json!(config_type);
        let manifest: ImageManifest = serde_json::from_value(manifest).expect("a manifest");
        ImageContent {
            reference: String::new(),
            name: None,
            source_digest: sha256(b""),
            manifest: Vec::new(),
            manifest_descriptor: manifest.config().clone(),
            config: Vec::new(),
            config_descriptor: manifest.config().clone(),
            understood: document::Config {
                diff_ids: ids.to_vec(),
                ..document::Config::default()
            },
            layers: super::layers(&manifest, ids),
            config_from: ConfigFrom::Blob,
        }
    }

    #[test]
    fn diff_ids_that_can_not_be_checked_are_an_error() {
        let check = |layers: &[char], ids: &[String]| {
            content(layers, ids, &MediaType::ImageConfig).check_diff_ids()
        };
        let [d, e] = ['d', 'e'].map(digest);
        for (layers, ids) in [
            (&['a', 'b'][..], &[d.clone(), e.clone()][..]),
            (&['a', 'a'], &[d.clone(), d.clone()]),
            (&['a', 'b'], &[d.clone(), d.clone()]),
            (&[], &[]),
        ] {
            check(layers, ids).unwrap_or_else(|e| panic!("{ids:?}: {e}"));
        }
        let upper = d.to_uppercase();
        for (layers, ids) in [
            (&['a', 'b'][..], &[d.clone()][..]),
            (&['a'], &[]),
            (&['a'], &[d.clone(), e.clone()]),
            (&['a', 'a'], &[d.clone(), e]),
            (&['a'], &[format!("md5:{}", "0".repeat(32))]),
            (&['a'], &[upper]),
            (&['a'], &[String::new()]),
        ] {
            assert!(check(layers, ids).is_err(), "{layers:?} {ids:?}");
        }
        let other = content(&['a'], &[], &MediaType::from("application/x-artifact"));
        other.check_diff_ids().expect("there is nothing to check");
    }
}
