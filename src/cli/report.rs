//! The output of `pull --json`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use longshore::{ImageContent, IndexContent, Pulled};
use serde::Serialize;

use super::args::Destination;

/// The version of the format. It changes when a field changes its meaning or is removed.
const VERSION: u32 = 1;

/// The object that `--json` prints, for one image and for many.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    version: u32,
    /// The destination, as it was given.
    destination: String,
    /// The pulled images.
    images: &'a [ImageReport],
    /// The images that failed.
    failed: &'a [FailedReport],
    /// The reason why the pull ended before all images were done.
    error: Option<String>,
    /// The size of the layers of all images in bytes. A blob that several images have counts once if they are pulled at
    /// the same time, and otherwise again.
    bytes: u64,
    fetched_blobs: usize,
    fetched_bytes: u64,
    reused_blobs: usize,
    /// The digests of the foreign layers, which were left out.
    foreign_layers: &'a BTreeSet<String>,
    /// The highest number of proxies that were at work at the same time.
    proxies: usize,
    retries: usize,
    elapsed_ms: u64,
    /// The peak resident memory of this process in bytes, without its children.
    peak_rss: Option<u64>,
    protocol: String,
    /// The version of skopeo. `None` if it could not be determined.
    skopeo: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct FailedReport {
    pub(super) image: String,
    /// The platform that was requested, if any.
    pub(super) platform: Option<String>,
    pub(super) error: String,
}

#[derive(Debug, Serialize)]
pub(super) struct ImageReport {
    /// The reference that was asked for.
    requested: String,
    /// The reference of this image, which has a digest if it is one of the images of an index.
    image: String,
    /// The digest of the manifest at its source.
    digest: String,
    /// The digest of the manifest in the layout, which differs after a conversion.
    stored_digest: String,
    /// The digest of the index at its source, if all platforms were asked for.
    index_digest: Option<String>,
    platform: Option<String>,
    layers: usize,
}

impl ImageReport {
    pub(super) fn of(
        requested: &str,
        content: &ImageContent,
        index: Option<&IndexContent>,
    ) -> Self {
        Self {
            requested: requested.to_owned(),
            image: content.reference().to_owned(),
            digest: content.source_digest().to_string(),
            stored_digest: content.manifest_descriptor().digest().to_string(),
            index_digest: index.map(|index| index.source_digest().to_string()),
            platform: content.platform(),
            layers: content.layers().len(),
        }
    }
}

impl<'a> Report<'a> {
    pub(super) fn new(
        destination: &Destination,
        (images, failed): (&'a [ImageReport], &'a [FailedReport]),
        pulled: &Pulled,
        foreign_layers: &'a BTreeSet<String>,
        started: Instant,
        skopeo: Option<String>,
        error: Option<String>,
    ) -> Self {
        Self {
            version: VERSION,
            destination: destination.to_string(),
            images,
            failed,
            error,
            bytes: pulled.bytes,
            fetched_blobs: pulled.fetched_blobs,
            fetched_bytes: pulled.fetched_bytes,
            reused_blobs: pulled.reused_blobs,
            foreign_layers,
            proxies: pulled.proxies,
            retries: pulled.retries,
            elapsed_ms: milliseconds(started.elapsed()),
            peak_rss: peak_rss(),
            protocol: protocol_of(pulled),
            skopeo,
        }
    }
}

/// The version of the protocol; empty if no proxy was needed.
pub(super) fn protocol_of(pulled: &Pulled) -> String {
    let protocol = pulled.protocol.as_ref();
    protocol.map_or_else(String::new, ToString::to_string)
}

pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The peak resident memory of this process in bytes (proc(5), `VmHWM`).
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}
