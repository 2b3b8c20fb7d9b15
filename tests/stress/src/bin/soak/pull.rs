//! One pull, and the check of how it ended.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use longshore::oci_spec::image::Descriptor;
use longshore::{BlobError, Discard, Error, Event, EventKind, Events, Fetcher, OciLayout};
use tokio::io::AsyncReadExt;
use tokio::time::{sleep, timeout};

use super::faults::End;
use super::images::{Checked, Images, Named, check_layout, sha256};
use super::plan::{Destination, Plan};
use test_registry::image::Written;
use test_registry::server::{Options, Registry};

/// A pull that takes longer than this hangs.
const PULL_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a cancelled pull may take to write its last bytes.
const TAIL: Duration = Duration::from_secs(10);

/// The result of a pull.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) ended: Ended,
    /// Descriptions of what is wrong. Empty if all is well.
    pub(crate) problems: Vec<String>,
    /// The number of blobs with wrong bytes.
    pub(crate) wrong: usize,
    /// The numbers of the images that were pulled.
    pulled_images: Vec<usize>,
    pub(crate) summary: Summary,
    pub(crate) took: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The whole image was pulled.
    Whole,
    /// The pull failed as expected.
    Failed,
    Cancelled,
    /// The pull did not end as it must.
    #[default]
    Wrong,
}

/// A summary of the events.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) retries: usize,
    pub(crate) blobs: usize,
    pub(crate) bytes: u64,
    pub(crate) proxies: usize,
    /// The number of proxies that were given up, or died.
    pub(crate) lost: usize,
}

impl Summary {
    fn record(&mut self, event: &Event) {
        match &event.kind {
            EventKind::BlobRetried { .. } => self.retries += 1,
            EventKind::BlobVerified { blob, .. } => {
                self.blobs += 1;
                self.bytes += blob.size;
            }
            EventKind::ProxyReady { .. } => self.proxies += 1,
            EventKind::ProxyEnded {
                reason: Some(_), ..
            } => self.lost += 1,
            _ => {}
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.retries += other.retries;
        self.blobs += other.blobs;
        self.bytes += other.bytes;
        self.proxies += other.proxies;
        self.lost += other.lost;
    }
}

/// Pulls by this plan. If that leaves a part of the image in a layout, pulls once more without faults.
///
/// # Errors
///
/// The errors of the program itself. The result of the pull is in the outcome.
pub(crate) async fn run(plan: &Plan, images: &Images) -> anyhow::Result<Outcome> {
    let all: Vec<&Written> = match plan.into {
        Destination::Many => images.images.iter().collect(),
        Destination::Layout | Destination::Discard | Destination::Handler => {
            vec![&images.images[plan.image]]
        }
    };
    let folder = tempfile::tempdir()?;
    let layout = folder.path().join("layout");
    let begun = Instant::now();
    let mut outcome = attempt(plan, images, &layout).await?;
    outcome.took = begun.elapsed();
    if let Destination::Layout | Destination::Many = plan.into {
        let pulled_images: Vec<&Written> = outcome
            .pulled_images
            .iter()
            .map(|image| &images.images[*image])
            .collect();
        let named = match (plan.into, outcome.ended) {
            // Some of the images may have been pulled before the cancellation.
            (Destination::Many, Ended::Cancelled) => Named::Some(&images.images),
            _ => Named::Exactly(&pulled_images),
        };
        outcome.take(check(&layout, named).await);
        if outcome.ended != Ended::Whole {
            let again = attempt(&plan.without_faults(), images, &layout).await?;
            let problems = again.problems.into_iter();
            let problems = problems.map(|problem| format!("the next pull: {problem}"));
            outcome.problems.extend(problems);
            outcome.summary.add(again.summary);
            outcome.take(check(&layout, Named::Exactly(&all)).await);
        }
    }
    Ok(outcome)
}

async fn check(layout: &Path, images: Named<'_>) -> Checked {
    // If a thread had begun a write when its pull was dropped, the write ends a moment later.
    let settled = timeout(TAIL, async {
        while !check_layout(layout, images).astray.is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    // What is still wrong after that time is reported below.
    let _ = settled.await;
    check_layout(layout, images)
}

impl Outcome {
    fn take(&mut self, checked: Checked) {
        self.wrong += checked.wrong.len();
        let wrong = checked.wrong.iter().map(|name| format!("{name} is wrong"));
        self.problems.extend(wrong.chain(checked.astray));
    }
}

async fn attempt(plan: &Plan, images: &Images, layout: &Path) -> anyhow::Result<Outcome> {
    let faults = match &*plan.fault {
        "" => Vec::new(),
        fault => vec![fault.parse()?],
    };
    let options = Options {
        faults,
        ..Options::default()
    };
    let registry = Registry::start(images.folder(), options).context("no registry")?;
    let (events, mut stream) = Events::channel();
    let mut summary = Summary::default();
    let hearing = async {
        while let Some(event) = stream.recv().await {
            summary.record(&event);
        }
    };
    let pulling = timeout(PULL_TIMEOUT, pull(plan, &registry, images, layout, events));
    // Boxed, because the future is large.
    let (pulled, ()) = Box::pin(async { tokio::join!(pulling, hearing) }).await;
    let mut outcome = Outcome {
        summary,
        ..Outcome::default()
    };
    match pulled {
        Err(_) => outcome.problems.push(format!("it hangs: {summary:?}")),
        Ok(Pulled::Done {
            wrong,
            pulled_images,
        }) => {
            outcome.ended = Ended::Whole;
            outcome.pulled_images = pulled_images;
            outcome.wrong += wrong.len();
            outcome.problems.extend(wrong);
            if let End::Failed(_) = plan.case.end {
                outcome
                    .problems
                    .push("it succeeded, and can't have".to_owned());
            }
        }
        Ok(Pulled::Cancelled) => outcome.ended = Ended::Cancelled,
        Ok(Pulled::Failed {
            error,
            pulled_images,
        }) => {
            outcome.pulled_images = pulled_images;
            match (plan.case.end, error) {
                (End::Failed(expected), error) if expected(&error) => outcome.ended = Ended::Failed,
                // A signal can hit the proxy of the last try.
                (End::Failed(_), error) if outcome.summary.lost > 0 && is_proxy_failure(&error) => {
                    outcome.ended = Ended::Failed;
                }
                (_, error) => {
                    let error = anyhow::Error::from(error);
                    outcome.problems.push(format!("it failed: {error:#}"));
                }
            }
        }
    }
    if !outcome.problems.is_empty() {
        outcome.ended = Ended::Wrong;
    }
    Ok(outcome)
}

/// Whether the error is due to a proxy that was lost or stopped, and not to the fault.
fn is_proxy_failure(error: &Error) -> bool {
    match error {
        Error::Blob { source, .. } => {
            matches!(source, BlobError::Stalled { .. } | BlobError::Connection(_))
        }
        error => error.is_closed(),
    }
}

enum Pulled {
    /// The pull succeeded. `wrong` describes blobs with wrong bytes.
    Done {
        wrong: Vec<String>,
        pulled_images: Vec<usize>,
    },
    /// The future was dropped.
    Cancelled,
    /// The pull failed. `pulled_images` contains the images of a pull of many that were pulled all the same.
    Failed {
        error: Error,
        pulled_images: Vec<usize>,
    },
}

impl From<Error> for Pulled {
    fn from(error: Error) -> Self {
        let pulled_images = Vec::new();
        Self::Failed {
            error,
            pulled_images,
        }
    }
}

async fn pull(
    plan: &Plan,
    registry: &Registry,
    images: &Images,
    layout: &Path,
    events: Events,
) -> Pulled {
    let pulling = async {
        let fetcher = match Fetcher::new(plan.config(), plan.options.clone()).await {
            Ok(fetcher) => fetcher.with_events(events),
            Err(error) => return error.into(),
        };
        if let Destination::Many = plan.into {
            return pull_many(plan, &fetcher, registry, images, layout).await;
        }
        let reference = registry.reference(&plan.image.to_string());
        let image = &images.images[plan.image];
        match pull_into(plan.into, &fetcher, &reference, image, layout).await {
            Ok(wrong) => Pulled::Done {
                wrong,
                pulled_images: vec![plan.image],
            },
            Err(error) => error.into(),
        }
    };
    let pulling = Box::pin(pulling);
    match plan.cancel {
        None => pulling.await,
        Some(after) => timeout(after, pulling).await.unwrap_or(Pulled::Cancelled),
    }
}

/// Pulls all images, each from a repository of its own. Returns one unexpected failure, if there is one.
async fn pull_many(
    plan: &Plan,
    fetcher: &Fetcher,
    registry: &Registry,
    images: &Images,
    layout: &Path,
) -> Pulled {
    let is_expected = |error: &Error| match plan.case.end {
        End::Failed(expected) => expected(error),
        End::Whole => false,
    };
    let sink = Arc::new(OciLayout::named_by_reference(layout));
    let address = registry.addr();
    let references: Vec<String> = (0..images.images.len())
        .map(|image| format!("docker://{address}/many/{image}:{image}"))
        .collect();
    let mut pulling = fetcher.pull_many(references, sink.clone());
    let (mut pulled_images, mut failure, mut count) = (Vec::new(), None, 0);
    while let Some(done) = pulling.next().await {
        count += 1;
        match done.images {
            Ok(_) => pulled_images.push(done.number),
            Err(error) if failure.as_ref().is_none_or(is_expected) => failure = Some(error),
            Err(_) => {}
        }
    }
    let failure = pulling.finish().await.err().or(failure);
    let wrong = match count {
        count if count == images.images.len() => Vec::new(),
        count => vec![format!("{count} images have a result")],
    };
    match failure {
        Some(error) => Pulled::Failed {
            error,
            pulled_images,
        },
        None => Pulled::Done {
            wrong,
            pulled_images,
        },
    }
}

/// Checks the result of a pull into a layout. Returns what is wrong.
async fn pull_into(
    into: Destination,
    fetcher: &Fetcher,
    reference: &str,
    image: &Written,
    layout: &Path,
) -> longshore::Result<Vec<String>> {
    let opened = fetcher.open(reference).await?;
    if *opened.digest() != image.manifest_digest {
        return Ok(vec![format!("the manifest is {}", opened.digest())]);
    }
    let pulled = match into {
        Destination::Handler => {
            let digest = |_, mut reader: longshore::LayerReader| async move {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).await?;
                Ok::<_, std::io::Error>(sha256(&bytes))
            };
            let found = fetcher.for_each_layer(&opened, digest).await?;
            let expected = image.layers.iter().map(Descriptor::digest);
            let pairs = found.iter().zip(expected);
            let wrong = pairs.filter(|(found, expected)| **found != expected.as_ref());
            let mut wrong: Vec<_> = wrong
                .map(|(_, digest)| format!("{digest} is wrong"))
                .collect();
            if found.len() != image.layers.len() {
                wrong.push(format!("{} layers came", found.len()));
            }
            return Ok(wrong);
        }
        Destination::Discard => fetcher.pull(&opened, Discard).await?,
        Destination::Layout | Destination::Many => {
            let sink = Arc::new(OciLayout::new(layout, Some("soak".into())));
            fetcher.pull(&opened, sink.clone()).await?
        }
    };
    let blobs = pulled.fetched_blobs + pulled.reused_blobs;
    let config = 1;
    // The config of an earlier pull may have been there.
    if blobs == image.layers.len() + config
        || (pulled.reused_blobs > 0 && blobs == image.layers.len())
    {
        Ok(Vec::new())
    } else {
        Ok(vec![format!("{blobs} blobs came: {pulled:?}")])
    }
}
