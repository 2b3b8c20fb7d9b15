//! The content of an image: its manifest, its config and its layers, as they are stored.
//!
//! Most images are stored byte for byte as they are at the registry. Two kinds of images are not:
//!
//! - Docker schema 2: the proxy converts the manifest and the config to OCI. The converted config exists only
//!   in the proxy.
//! - `containers-storage:`: the storage keeps layers uncompressed, so the compressed layers that the manifest names
//!   can't be fetched. The stored manifest names the uncompressed layers instead.

use std::sync::Arc;

use oci_spec::image::{
    Descriptor, Digest, DigestAlgorithm, ImageConfiguration, ImageManifest, MediaType,
};
use serde_json::{Value, json};

use super::document;
use crate::drain::verify::{has_digest, sha256};
use crate::error::{BlobError, Error, Result};
use crate::protocol::LayerInfo;

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Layer {
    /// The layer's place in the image, zero-based; 0 is the base layer.
    pub index: usize,
    /// The descriptor of the blob: its digest, its size in bytes and its media type.
    pub descriptor: Descriptor,
    /// The digest of the uncompressed layer, from the image config. `None` if the config was not read, does not have
    /// one `diff_id` for each layer, or has an invalid one for this layer.
    pub diff_id: Option<Digest>,
}

impl Layer {
    /// Makes a layer with this place and descriptor, and without a `diff_id`: for tests. Programs get layers from
    /// an image.
    #[must_use]
    pub fn new(index: usize, descriptor: Descriptor) -> Self {
        Self {
            index,
            descriptor,
            diff_id: None,
        }
    }
}

/// The manifest, the config and the layers of an image.
#[derive(Debug, Clone)]
pub struct ImageContent {
    reference: String,
    name: Option<Arc<str>>,
    source_digest: Digest,
    manifest: Vec<u8>,
    manifest_descriptor: Descriptor,
    config: Vec<u8>,
    config_descriptor: Descriptor,
    /// The parsed part of the config. It is empty if the config is not that of an image.
    parsed_config: document::Config,
    layers: Vec<Layer>,
    config_origin: ConfigOrigin,
}

/// The origin of the bytes of a config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConfigOrigin {
    /// The config was fetched as a blob.
    Blob,
    /// The proxy made the config when it converted the image.
    Conversion,
    /// The sink already had the config, or an earlier call fetched it.
    Known,
}

impl ImageContent {
    /// Makes the content of an image from the bytes of its manifest and its config: for tests of a
    /// [`Sink`](crate::Sink), without skopeo.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`] or [`Error::Image`] if the manifest can't be used; [`Error::Blob`] if the config does not have
    /// the digest that the manifest names.
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
        Self::of(reference, &fetched, (config, ConfigOrigin::Blob))
    }

    pub(super) fn of(
        reference: &str,
        fetched: &FetchedManifest,
        (config, config_origin): (Vec<u8>, ConfigOrigin),
    ) -> Result<Self> {
        let FetchedManifest {
            source_digest,
            stored,
            manifest,
            converted,
            ..
        } = fetched;
        let config_descriptor = manifest.config().clone();
        let parsed_config = match config_descriptor.media_type() {
            MediaType::ImageConfig => document::config(&config),
            _ => document::Config::default(),
        };
        let relabelled = match converted {
            true => relabelled(stored, &parsed_config.diff_ids)?,
            false => None,
        };
        let (stored, manifest) = match &relabelled {
            Some((stored, manifest)) => (stored, manifest),
            None => (stored, manifest),
        };
        let layers = layers(manifest, &parsed_config.diff_ids);
        let manifest_descriptor = describe_manifest(stored, &parsed_config)?;
        Ok(Self {
            reference: reference.to_owned(),
            name: None,
            source_digest: source_digest.clone(),
            manifest: stored.clone(),
            manifest_descriptor,
            config,
            config_descriptor,
            parsed_config,
            layers,
            config_origin,
        })
    }

    /// The reference by which the image was asked for.
    #[must_use]
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// The digest of the manifest at its source, before any conversion. The image can be pulled by this digest.
    #[must_use]
    pub fn source_digest(&self) -> &Digest {
        &self.source_digest
    }

    /// The bytes of the manifest, as they are to be stored. They are the bytes at the source, unless the proxy
    /// converted the image, or the image is in `containers-storage:`.
    #[must_use]
    pub fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    /// The digest, size in bytes and media type of [`manifest`](Self::manifest), with the platform of the image.
    #[must_use]
    pub fn manifest_descriptor(&self) -> &Descriptor {
        &self.manifest_descriptor
    }

    /// The bytes of the config, as they are to be stored. The config of an artifact that is no image can be
    /// anything, not only JSON.
    #[must_use]
    pub fn config(&self) -> &[u8] {
        &self.config
    }

    /// The digest, size in bytes and media type of [`config`](Self::config).
    #[must_use]
    pub fn config_descriptor(&self) -> &Descriptor {
        &self.config_descriptor
    }

    /// Parses the config, strictly as the OCI specification defines it. Some images whose config does not follow
    /// the specification can still be pulled and run.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`] if the config does not follow the specification.
    pub fn configuration(&self) -> Result<ImageConfiguration> {
        serde_json::from_slice(&self.config).map_err(Error::decode("image config"))
    }

    /// The layers, from the base layer up. The same blob can occur more than once.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The platform of the image, as `os/architecture[/variant]`. `None` if the config does not name one.
    #[must_use]
    pub fn platform(&self) -> Option<String> {
        let document::Config {
            os,
            architecture,
            variant,
            ..
        } = &self.parsed_config;
        let platform = format!("{}/{}", os.as_ref()?, architecture.as_ref()?);
        Some(match variant {
            Some(variant) => format!("{platform}/{variant}"),
            None => platform,
        })
    }

    /// The name that the caller chose for the image in the sink
    /// ([`ImageRequest::name`](crate::ImageRequest#structfield.name)), if any.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// A copy of this content with another name.
    pub(super) fn with_name(&self, name: Option<&str>) -> Self {
        Self {
            name: name.map(Into::into),
            ..self.clone()
        }
    }

    /// A copy of this content for another pull of the image. That pull does not fetch the config.
    pub(super) fn with_known_config(&self) -> Self {
        Self {
            config_origin: ConfigOrigin::Known,
            ..self.clone()
        }
    }

    /// Returns an error unless each layer has a `diff_id` of a known algorithm, and equal blobs have equal
    /// `diff_id`s. An artifact whose config is not that of an image needs none.
    #[cfg(feature = "decompress")]
    pub(crate) fn check_diff_ids(&self) -> Result<()> {
        if *self.config_descriptor.media_type() != MediaType::ImageConfig {
            return Ok(());
        }
        let wrong = |problem: String| Err(Error::image(format!("its config {problem}")));
        let ids = &self.parsed_config.diff_ids;
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

    /// Whether the config was fetched as a blob.
    pub(crate) fn config_was_fetched(&self) -> bool {
        self.config_origin == ConfigOrigin::Blob
    }
}

/// A fetched manifest, and its form that is to be stored.
#[derive(Debug)]
pub(super) struct FetchedManifest {
    pub(super) source_digest: Digest,
    /// The bytes from the proxy.
    pub(super) raw: Vec<u8>,
    /// The bytes that are to be stored. They name the layers that can be fetched.
    pub(super) stored: Vec<u8>,
    pub(super) manifest: ImageManifest,
    /// Whether the sha256 of `raw` differs from `source_digest`. The usual reason is that the proxy
    /// converted the manifest.
    pub(super) converted: bool,
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

    /// The size of the manifest at its source, in bytes. `None` if the proxy converted it.
    pub(super) fn source_size(&self) -> Option<u64> {
        (!self.converted).then_some(self.raw.len() as u64)
    }

    /// Whether the manifest at its source has this digest. The source of a converted manifest is known only by
    /// the sha256 that the proxy reports, so any digest of another algorithm is accepted for it.
    pub(super) fn has_source_digest(&self, digest: &Digest) -> bool {
        self.source_digest == *digest
            || if self.converted {
                *digest.algorithm() != DigestAlgorithm::Sha256
            } else {
                has_digest(&self.raw, digest)
            }
    }
}

pub(super) fn layers(manifest: &ImageManifest, diff_ids: &[String]) -> Vec<Layer> {
    // If the numbers differ, it is unknown which `diff_id` belongs to which layer.
    let all = diff_ids.len() == manifest.layers().len();
    let describe = |(index, descriptor): (usize, &Descriptor)| Layer {
        index,
        descriptor: descriptor.clone(),
        diff_id: all.then(|| diff_ids[index].parse().ok()).flatten(),
    };
    manifest.layers().iter().enumerate().map(describe).collect()
}

fn describe_manifest(manifest: &[u8], config: &document::Config) -> Result<Descriptor> {
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

/// The manifest with its layers replaced by these.
pub(super) fn with_layers(manifest: &[u8], layers: &[LayerInfo]) -> Result<Vec<u8>> {
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

/// The converted manifest with the media types of uncompressed layers corrected. `None` if all of them are right.
/// For images that `docker save` wrote, skopeo calls uncompressed layers compressed. A layer whose digest is its
/// `diff_id` is not compressed.
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

/// The OCI media type for a Docker media type of a layer. Docker's types are not allowed in an OCI manifest
/// (image-spec, `media-types.md`, "Compatibility Matrix").
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
    fn layers_of_a_storage_replace_those_of_the_manifest() {
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
    fn a_layer_whose_digest_is_its_diff_id_is_uncompressed() {
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
    fn diff_ids_are_set_only_if_there_is_one_for_each_layer() {
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
            parsed_config: document::Config {
                diff_ids: ids.to_vec(),
                ..document::Config::default()
            },
            layers: super::layers(&manifest, ids),
            config_origin: ConfigOrigin::Blob,
        }
    }

    #[cfg(feature = "decompress")]
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
