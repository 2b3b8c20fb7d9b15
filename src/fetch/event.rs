//! What happens during a pull, as a stream of typed events.

use std::sync::Arc;

use oci_spec::image::Digest;
use tokio::sync::mpsc;

use super::ImageContent;

/// Something happened during a pull.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// Manifest and config are here; the blobs come next.
    ImageOpened {
        /// What the image consists of.
        content: Arc<ImageContent>,
    },
    /// The sink already has this blob.
    BlobReused {
        /// Which.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// The proxy has begun to send this blob.
    BlobOpened {
        /// Which.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// Bytes came. Some of these are left out when nobody takes them fast
    /// enough, so they say how many have come in all.
    BlobBytes {
        /// Of which blob.
        digest: Digest,
        /// How many of its bytes have come so far.
        read: u64,
    },
    /// This blob is complete, verified, and in the sink.
    BlobStored {
        /// Which.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
}

/// Where events go: to a receiver, or nowhere.
#[derive(Debug, Clone, Default)]
pub struct Events(Option<mpsc::Sender<Event>>);

impl Events {
    /// Nobody wants to know.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Send them here. The pull waits for room, except for byte counts, which
    /// are left out when there is none: take them promptly.
    #[must_use]
    pub fn to(receiver: mpsc::Sender<Event>) -> Self {
        Self(Some(receiver))
    }

    /// Send what must not be lost.
    pub(crate) async fn send(&self, event: Event) {
        if let Some(sender) = &self.0 {
            // Whoever listened has gone; the pull goes on.
            let _ = sender.send(event).await;
        }
    }

    /// Send what may be left out.
    pub(crate) fn try_send(&self, event: impl FnOnce() -> Event) {
        if let Some(sender) = &self.0
            && let Ok(place) = sender.try_reserve()
        {
            place.send(event());
        }
    }
}
