//! The plan of a pull, for `pull --dry-run`: which blobs would be fetched, and which ones the layout has.
//!
//! The images are pulled into a [`Survey`], a sink that claims to have every layer and stores nothing. It tells the
//! [`Plan`] whether the layout has the layer.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use longshore::oci_spec::image::{Descriptor, Digest};
use longshore::{
    ImageContent, IndexContent, Layer, LayerReader, OciLayout, Pulled, Sink, printable,
};
use serde::Serialize;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::args::Destination;
use super::format::{bytes, counted};
use super::report::{FailedReport, ImageReport, milliseconds, protocol_of};

/// The version of the object that `--dry-run --json` prints. It changes when a field changes its meaning or is removed.
const VERSION: u32 = 1;

/// Makes a sink for a dry run, and the plan that the sink fills. `layout` is the destination, if it can have blobs.
pub(super) fn survey(layout: Option<OciLayout>) -> (Survey, Plan) {
    let (found, incoming) = unbounded_channel();
    let plan = Plan {
        incoming,
        known: HashMap::new(),
        images: Vec::new(),
    };
    (Survey { layout, found }, plan)
}

/// The sink of a dry run.
#[derive(Debug)]
pub(super) struct Survey {
    layout: Option<OciLayout>,
    found: UnboundedSender<Found>,
}

/// A layer that a manifest names.
#[derive(Debug, Clone)]
struct Found {
    digest: Digest,
    size: u64,
    /// Whether the layout has the layer.
    is_present: bool,
}

impl Sink for Survey {
    /// Returns `true`, so that the layer is not fetched.
    async fn has(&self, layer: &Layer) -> longshore::Result<bool> {
        let is_present = match &self.layout {
            Some(layout) => layout.has(layer).await?,
            None => false,
        };
        let found = Found {
            digest: layer.descriptor.digest().clone(),
            size: layer.descriptor.size(),
            is_present,
        };
        // The plan is gone only if the pull has ended.
        let _ = self.found.send(found);
        Ok(true)
    }

    async fn read(&self, blob: &Descriptor) -> longshore::Result<Option<Vec<u8>>> {
        match &self.layout {
            Some(layout) => layout.read(blob).await,
            None => Ok(None),
        }
    }

    async fn store(&self, _: &Layer, reader: LayerReader) -> longshore::Result<()> {
        // This is never called, because every layer is there.
        reader.finish().await
    }

    async fn commit(&self, _: &ImageContent) -> longshore::Result<()> {
        Ok(())
    }

    async fn commit_index(
        &self,
        _: &IndexContent,
        _: &[Arc<ImageContent>],
    ) -> longshore::Result<()> {
        Ok(())
    }
}

/// The layers that a pull would fetch, and those that are there.
#[derive(Debug)]
pub(super) struct Plan {
    incoming: UnboundedReceiver<Found>,
    /// The layers of all images, each blob once.
    known: HashMap<Digest, Found>,
    images: Vec<PlannedImage>,
}

/// A number of layers, each blob once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    layers: usize,
    bytes: u64,
    present_layers: usize,
    present_bytes: u64,
}

impl Sum {
    /// Adds up layers. Sizes saturate, because a manifest may claim any size.
    fn of<'a>(all: impl IntoIterator<Item = &'a Found>) -> Self {
        all.into_iter().fold(Self::default(), |mut sum, found| {
            sum.layers += 1;
            sum.bytes = sum.bytes.saturating_add(found.size);
            if found.is_present {
                sum.present_layers += 1;
                sum.present_bytes = sum.present_bytes.saturating_add(found.size);
            }
            sum
        })
    }

    /// Formats the sum for people.
    fn shown(self) -> String {
        let Self {
            layers,
            bytes: all,
            present_layers,
            present_bytes,
        } = self;
        format!(
            "{} ({}): {present_layers} already there ({}), {} to fetch ({})",
            counted(layers, "layer"),
            bytes(all),
            bytes(present_bytes),
            layers - present_layers,
            bytes(all.saturating_sub(present_bytes)),
        )
    }
}

#[derive(Debug, Serialize)]
struct PlannedImage {
    #[serde(flatten)]
    image: ImageReport,
    /// The size of the layers in bytes, each blob once.
    bytes: u64,
    /// The number and the size of the layers that the layout has.
    present_layers: usize,
    present_bytes: u64,
}

/// The object that `--dry-run --json` prints, for one image and for many.
#[derive(Debug, Serialize)]
pub(super) struct PlanReport<'a> {
    version: u32,
    /// Always true.
    dry_run: bool,
    /// The destination, as it was given.
    destination: String,
    images: &'a [PlannedImage],
    /// The images that failed.
    failed: &'a [FailedReport],
    /// The reason why the dry run ended before all images were done.
    error: Option<String>,
    /// The layers of all images: their number and their size in bytes, each blob once.
    layers: usize,
    bytes: u64,
    /// The layers that the layout has: their number and their size in bytes.
    present_layers: usize,
    present_bytes: u64,
    /// The layers and configs that would be fetched: their number and their size in bytes.
    blobs_to_fetch: usize,
    bytes_to_fetch: u64,
    /// The digests of the foreign layers, which would be left out.
    foreign_layers: &'a BTreeSet<String>,
    elapsed_ms: u64,
    protocol: String,
    /// The version of skopeo. `None` if it could not be determined.
    skopeo: Option<String>,
}

impl Plan {
    /// Adds an image, and returns its lines for people. The sink must have been asked for all layers of the image.
    pub(super) fn add(&mut self, content: &ImageContent, report: ImageReport) -> String {
        self.catch_up();
        let mut seen = HashSet::new();
        let layers = content.layers().iter();
        let digests = layers.map(|layer| layer.descriptor.digest());
        // Foreign layers are not known: the sink was not asked for them.
        let known = digests.filter_map(|digest| self.known.get(digest));
        let sum = Sum::of(known.filter(|found| seen.insert(&found.digest)));
        let lines = format!(
            "{}: {}\n  {}\n",
            printable(content.reference()),
            content.source_digest(),
            sum.shown()
        );
        self.images.push(PlannedImage {
            image: report,
            bytes: sum.bytes,
            present_layers: sum.present_layers,
            present_bytes: sum.present_bytes,
        });
        lines
    }

    /// Takes in what the sink has found so far.
    fn catch_up(&mut self) {
        while let Ok(found) = self.incoming.try_recv() {
            // An image that comes later may name a layer again.
            let digest = found.digest.clone();
            self.known.entry(digest).or_insert(found);
        }
    }

    fn sum(&mut self) -> Sum {
        self.catch_up();
        Sum::of(self.known.values())
    }

    /// Formats the totals for people.
    pub(super) fn totals(&mut self, destination: &Destination, pulled: &Pulled) -> String {
        let sum = self.sum();
        let (blobs, to_fetch) = to_fetch(sum, pulled);
        let mut line = printable(&destination.to_string());
        // Writing to a `String` can't fail.
        let _ = writeln!(
            line,
            ": {} to fetch ({}), {} already there ({}); nothing was written",
            counted(blobs, "blob"),
            bytes(to_fetch),
            sum.present_layers,
            bytes(sum.present_bytes),
        );
        line
    }

    /// Returns the object that `--json` prints.
    pub(super) fn report<'a>(
        &'a mut self,
        destination: &Destination,
        failed: &'a [FailedReport],
        pulled: &Pulled,
        foreign_layers: &'a BTreeSet<String>,
        started: Instant,
        (skopeo, error): (Option<String>, Option<String>),
    ) -> PlanReport<'a> {
        let sum = self.sum();
        let (blobs_to_fetch, bytes_to_fetch) = to_fetch(sum, pulled);
        PlanReport {
            version: VERSION,
            dry_run: true,
            destination: destination.to_string(),
            images: &self.images,
            failed,
            error,
            layers: sum.layers,
            bytes: sum.bytes,
            present_layers: sum.present_layers,
            present_bytes: sum.present_bytes,
            blobs_to_fetch,
            bytes_to_fetch,
            foreign_layers,
            elapsed_ms: milliseconds(started.elapsed()),
            protocol: protocol_of(pulled),
            skopeo,
        }
    }
}

/// The number of blobs to fetch, and their size in bytes: the layers and the configs that are missing. The dry run
/// itself has fetched these configs, so `pulled` counts them.
fn to_fetch(sum: Sum, pulled: &Pulled) -> (usize, u64) {
    let layers = sum.layers - sum.present_layers;
    let bytes = sum.bytes.saturating_sub(sum.present_bytes);
    (
        layers + pulled.fetched_blobs,
        bytes.saturating_add(pulled.fetched_bytes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(digit: char, size: u64, is_present: bool) -> Found {
        let digest = format!("sha256:{}", digit.to_string().repeat(64));
        Found {
            digest: digest.parse().expect("a digest"),
            size,
            is_present,
        }
    }

    #[test]
    fn a_blob_that_several_images_name_counts_once() {
        let (survey, mut plan) = survey(None);
        for found in [
            found('a', 1_000, false),
            found('b', 20_000, true),
            found('a', 1_000, true),
        ] {
            survey.found.send(found).expect("the plan is there");
        }
        let sum = plan.sum();
        let expected = Sum {
            layers: 2,
            bytes: 21_000,
            present_layers: 1,
            present_bytes: 20_000,
        };
        assert_eq!(sum, expected);
        assert_eq!(
            sum.shown(),
            "2 layers (21.0 kB): 1 already there (20.0 kB), 1 to fetch (1.0 kB)"
        );
        let mut pulled = Pulled::default();
        pulled.fetched_blobs = 2;
        pulled.fetched_bytes = 500;
        assert_eq!(to_fetch(sum, &pulled), (3, 1_500));
    }

    #[test]
    fn impossible_sizes_do_not_overflow() {
        let all = [found('a', u64::MAX, false), found('b', u64::MAX, true)];
        let sum = Sum::of(&all);
        assert_eq!((sum.bytes, sum.present_bytes), (u64::MAX, u64::MAX));
        assert_eq!(to_fetch(sum, &Pulled::default()), (1, 0));
    }
}
