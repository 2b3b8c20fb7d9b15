//! Fetching a whole image: workers eat from one queue of blobs, drain them at
//! the same time, and put them into a sink.

mod content;
mod event;
mod reader;
mod sink;
mod worker;

use std::cmp::Reverse;
use std::num::NonZeroUsize;
use std::sync::Arc;

use tokio::task::JoinSet;
use tracing::instrument;

pub use self::content::{ImageContent, Layer, resolve};
pub use self::event::{Event, Events};
pub use self::reader::LayerReader;
pub use self::sink::{Discard, Sink};

use self::worker::Worker;
use crate::error::{Error, Result};
use crate::proxy::ImageProxy;

/// Blobs in flight at once, unless set: enough to keep a link busy while
/// digests are computed; skopeo copies six at once.
pub const DEFAULT_WORKERS: NonZeroUsize = NonZeroUsize::new(6).expect("six is not zero");

/// What a pull did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Pulled {
    /// Blobs that came over the wire: layers, and the config where it is a
    /// blob.
    pub fetched_blobs: usize,
    /// Their bytes.
    pub fetched_bytes: u64,
    /// Blobs that the sink already had.
    pub reused_blobs: usize,
}

/// Pull an image into a sink, with `workers` blobs at a time over one proxy.
///
/// The first error ends the pull, and is the one that is reported. The image
/// becomes visible in the sink only at the end, when all of it is there.
///
/// # Errors
///
/// What the proxy, a blob, or the sink fails with.
///
/// # Cancel safety
///
/// Dropped early, all workers are stopped, and the sink keeps what was complete.
#[instrument(level = "debug", skip(proxy, sink, events))]
pub async fn pull<S: Sink>(
    proxy: &ImageProxy,
    reference: &str,
    sink: &Arc<S>,
    workers: NonZeroUsize,
    events: Events,
) -> Result<(Arc<ImageContent>, Pulled)> {
    let image = Arc::new(proxy.open_image(reference).await?);
    let content = Arc::new(content::resolve_with(proxy, &image, reference, &**sink).await?);
    events
        .send(Event::ImageOpened {
            content: Arc::clone(&content),
        })
        .await;

    let jobs = jobs(&content)?;
    let mut tasks = JoinSet::new();
    for _ in 0..workers.get().min(jobs.len()) {
        let worker = Worker {
            proxy: proxy.clone(),
            image: Arc::clone(&image),
            sink: Arc::clone(sink),
            jobs: jobs.clone(),
            events: events.clone(),
        };
        tasks.spawn(worker.run());
    }
    let mut pulled = Pulled::default();
    // Leaving early drops the set, which stops the others.
    while let Some(done) = tasks.join_next().await {
        pulled += done.map_err(worker_died)??;
    }
    if content.config_was_fetched() {
        pulled.fetched_blobs += 1;
        pulled.fetched_bytes += content.config().len() as u64;
    }
    sink.commit(&content).await?;
    Ok((content, pulled))
}

/// The queue: each blob once, the largest first, so that none of the large
/// ones starts when all others are done.
fn jobs(content: &ImageContent) -> Result<async_channel::Receiver<Layer>> {
    let mut layers: Vec<Layer> = content.blobs().cloned().collect();
    layers.sort_by_key(|layer| Reverse(layer.descriptor.size()));
    let (queue, jobs) = async_channel::bounded(layers.len().max(1));
    for layer in layers {
        // It has room for all; a queue that can't be filled can't be worked on.
        queue.try_send(layer).map_err(|_| Error::Closed)?;
    }
    Ok(jobs)
}

/// A panic goes on in the caller; a cancelled task means that the runtime ends.
fn worker_died(error: tokio::task::JoinError) -> Error {
    if error.is_panic() {
        std::panic::resume_unwind(error.into_panic());
    }
    Error::Closed
}

impl std::ops::AddAssign for Pulled {
    fn add_assign(&mut self, other: Self) {
        self.fetched_blobs += other.fetched_blobs;
        self.fetched_bytes += other.fetched_bytes;
        self.reused_blobs += other.reused_blobs;
    }
}
