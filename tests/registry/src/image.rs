//! Makes correct images, with the right digests, of layers from any source.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use oci_spec::image::{Descriptor, Digest, MediaType};
use serde_json::{Value, json};

use super::archive;
use super::format::{Compression, Format};
use super::store::{Blob, Hashing, Store};

/// An image to be written to an OCI image layout.
#[derive(Clone, Debug)]
pub struct ImageBuilder {
    layers: Vec<Layer>,
    compression: Compression,
    format: Format,
    os: String,
    architecture: String,
    created: String,
    labels: BTreeMap<String, String>,
}

/// The source of a layer.
#[derive(Clone, Debug)]
enum Layer {
    /// An archive to make, and to compress or not.
    Tar(Contents),
    /// A compressed archive, which is stored unchanged.
    TarGz(Vec<u8>),
    /// Any bytes.
    Blob { media_type: String, bytes: Vec<u8> },
}

/// The source of an archive.
#[derive(Clone, Debug)]
enum Contents {
    Random { size: u64, seed: u64 },
    Directory(PathBuf),
    TarFile(PathBuf),
}

/// An image that has been written.
#[derive(Clone, Debug)]
pub struct Written {
    /// The digest of the manifest.
    pub manifest_digest: Digest,
    /// The digest of the configuration.
    pub config_digest: Digest,
    /// The layers in the order of the manifest.
    pub layers: Vec<Descriptor>,
}

/// An index that has been written.
#[derive(Clone, Debug)]
pub struct WrittenIndex {
    /// The digest of the index.
    pub digest: Digest,
    /// The images of the index, in order.
    pub images: Vec<Written>,
}

impl Default for ImageBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ImageBuilder {
    /// Makes an OCI image for linux/amd64, created at the epoch, without layers.
    #[must_use]
    pub fn new() -> Self {
        Self {
            layers: Vec::new(),
            compression: Compression::default(),
            format: Format::default(),
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            created: "1970-01-01T00:00:00Z".to_owned(),
            labels: BTreeMap::new(),
        }
    }

    /// Adds a layer with one file of `size` bytes that do not compress, named after the seed.
    #[must_use]
    pub fn layer_random(self, size: u64, seed: u64) -> Self {
        self.layer(Layer::Tar(Contents::Random { size, seed }))
    }

    /// Adds a layer of what a directory contains.
    #[must_use]
    pub fn layer_dir(self, path: impl Into<PathBuf>) -> Self {
        self.layer(Layer::Tar(Contents::Directory(path.into())))
    }

    /// Adds a layer that is a tar archive in a file.
    #[must_use]
    pub fn layer_tar(self, path: impl Into<PathBuf>) -> Self {
        self.layer(Layer::Tar(Contents::TarFile(path.into())))
    }

    /// Adds a layer that is a tar archive compressed with gzip. The archive is stored unchanged.
    #[must_use]
    pub fn layer_tar_gz(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.layer(Layer::TarGz(bytes.into()))
    }

    /// Adds a layer of any bytes with any media type. The `diff_id` is the digest of the bytes, which is
    /// right only if they are not compressed.
    #[must_use]
    pub fn layer_blob(self, media_type: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        let media_type = media_type.into();
        let bytes = bytes.into();
        self.layer(Layer::Blob { media_type, bytes })
    }

    /// Sets the compression of the layers that are not compressed already.
    #[must_use]
    pub fn compression(self, compression: Compression) -> Self {
        Self {
            compression,
            ..self
        }
    }

    /// Makes the image a Docker image with a version 2, schema 2 manifest.
    #[must_use]
    pub fn docker_schema2(self) -> Self {
        let format = Format::Docker;
        Self { format, ..self }
    }

    /// Sets the platform, such as `linux` and `arm64`.
    #[must_use]
    pub fn platform(mut self, os: &str, architecture: &str) -> Self {
        os.clone_into(&mut self.os);
        architecture.clone_into(&mut self.architecture);
        self
    }

    /// Sets the time of creation, such as `2024-02-29T12:00:00Z`.
    #[must_use]
    pub fn created(mut self, time: &str) -> Self {
        time.clone_into(&mut self.created);
        self
    }

    /// Adds a label to the configuration.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Writes the image to a layout, and tags it. The layout is created if it does not exist.
    ///
    /// # Errors
    ///
    /// If a layer cannot be read, or the layout cannot be written to.
    pub fn write(&self, layout: impl AsRef<Path>, tag: &str) -> io::Result<Written> {
        let store = Store::open(layout.as_ref())?;
        let (manifest, written) = self.store(&store)?;
        store.tag(&manifest, tag)?;
        Ok(written)
    }

    fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Stores the image without tagging it.
    fn store(&self, store: &Store) -> io::Result<(Descriptor, Written)> {
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for layer in &self.layers {
            let (descriptor, diff_id) = self.store_layer(store, layer)?;
            layers.push(descriptor);
            diff_ids.push(diff_id);
        }
        let config = store.put(self.config(&diff_ids).to_string().as_bytes())?;
        let config = describe(self.format.config(), config);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": self.format.manifest(),
            "config": config,
            "layers": layers,
        });
        let blob = store.put(manifest.to_string().as_bytes())?;
        let written = Written {
            manifest_digest: blob.digest.clone(),
            config_digest: config.digest().clone(),
            layers,
        };
        Ok((describe(self.format.manifest(), blob), written))
    }

    fn config(&self, diff_ids: &[Digest]) -> Value {
        let diff_ids: Vec<&str> = diff_ids.iter().map(AsRef::as_ref).collect();
        let step = json!({"created": self.created, "created_by": "the test registry"});
        json!({
            "created": self.created,
            "os": self.os,
            "architecture": self.architecture,
            "config": {"Labels": self.labels},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": vec![step; diff_ids.len()],
        })
    }

    /// Stores a layer. Returns its descriptor and its `diff_id`.
    fn store_layer(&self, store: &Store, layer: &Layer) -> io::Result<(Descriptor, Digest)> {
        match layer {
            Layer::Tar(contents) => {
                let (blob, diff_id) =
                    store.put_with(|file| contents.write_layer(file, self.compression))?;
                let media_type = self.format.layer(self.compression);
                Ok((describe(media_type, blob), diff_id))
            }
            Layer::TarGz(bytes) => {
                let media_type = self.format.layer(Compression::Gzip);
                let blob = store.put(bytes)?;
                Ok((describe(media_type, blob), unzipped_digest(bytes)?))
            }
            Layer::Blob { media_type, bytes } => {
                let blob = store.put(bytes)?;
                let diff_id = blob.digest.clone();
                Ok((describe(media_type, blob), diff_id))
            }
        }
    }
}

impl Contents {
    /// Writes the archive, compressed or not. Returns the digest of the uncompressed bytes.
    fn write_layer(&self, file: &mut dyn Write, compression: Compression) -> io::Result<Digest> {
        match compression {
            Compression::Gzip => {
                let mut tar = Hashing::new(GzEncoder::new(file, self.level()));
                self.write_tar(&mut tar)?;
                let (encoder, tar) = tar.finish()?;
                encoder.finish()?;
                Ok(tar.digest)
            }
            Compression::None => {
                let mut tar = Hashing::new(file);
                self.write_tar(&mut tar)?;
                Ok(tar.finish()?.1.digest)
            }
        }
    }

    fn write_tar(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Random { size, seed } => archive::write_random(out, *size, *seed),
            Self::Directory(path) => archive::write_directory(out, path),
            Self::TarFile(path) => io::copy(&mut File::open(path)?, out).map(drop),
        }
    }

    /// The compression level. Random bytes do not get smaller, so they are only wrapped.
    fn level(&self) -> flate2::Compression {
        match self {
            Self::Random { .. } => flate2::Compression::none(),
            Self::Directory(_) | Self::TarFile(_) => flate2::Compression::default(),
        }
    }
}

/// Writes images for several platforms to a layout, and tags an index of them. The index is a Docker manifest
/// list if the first image is a Docker image.
///
/// # Errors
///
/// If a layer cannot be read, or the layout cannot be written to.
pub fn write_index(
    layout: impl AsRef<Path>,
    tag: &str,
    images: &[ImageBuilder],
) -> io::Result<WrittenIndex> {
    let store = Store::open(layout.as_ref())?;
    let mut manifests = Vec::new();
    let mut written = Vec::new();
    for image in images {
        let (manifest, image_written) = image.store(&store)?;
        let mut entry = serde_json::to_value(manifest)?;
        entry["platform"] = json!({"os": image.os, "architecture": image.architecture});
        manifests.push(entry);
        written.push(image_written);
    }
    let format = images.first().map_or(Format::Oci, |image| image.format);
    let index = json!({
        "schemaVersion": 2,
        "mediaType": format.index(),
        "manifests": manifests,
    });
    let index = store.put(index.to_string().as_bytes())?;
    store.tag(&describe(format.index(), index.clone()), tag)?;
    Ok(WrittenIndex {
        digest: index.digest,
        images: written,
    })
}

fn describe(media_type: &str, blob: Blob) -> Descriptor {
    Descriptor::new(MediaType::from(media_type), blob.size, blob.digest)
}

fn unzipped_digest(bytes: &[u8]) -> io::Result<Digest> {
    let mut tar = Hashing::new(io::sink());
    io::copy(&mut MultiGzDecoder::new(bytes), &mut tar)?;
    Ok(tar.finish()?.1.digest)
}
