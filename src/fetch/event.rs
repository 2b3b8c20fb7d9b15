//! What happens during a fetch, as one stream of typed events. Progress bars,
//! logs and pictures of a pull are made from it and from nothing else.

use std::time::{Duration, Instant};

use oci_spec::image::Digest;
use serde::{Serialize, Serializer};
use tokio::sync::mpsc;

use super::Layer;

/// Something happened during a fetch.
///
/// Serialised, it is one flat object: `at_ms`, `event` (the kind's name), and
/// the kind's own fields; durations are milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// When, counted from the making of the [`Events`].
    #[serde(rename = "at_ms", serialize_with = "millis")]
    pub at: Duration,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// Which layer an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlobName {
    /// The image, counted from 0 in the order in which they were given.
    pub image: usize,
    /// The layer's place in it, counted from the bottom, which is 0.
    pub layer: usize,
    /// Its digest.
    #[serde(serialize_with = "text")]
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

impl BlobName {
    pub(super) fn of(image: usize, layer: &Layer) -> Self {
        Self {
            image,
            layer: layer.index,
            digest: layer.descriptor.digest().clone(),
            size: layer.descriptor.size(),
        }
    }
}

/// The kinds of [`Event`].
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// An image's manifest is known.
    ImageOpened {
        /// The image, counted from 0.
        image: usize,
        /// As it was asked for.
        reference: String,
        /// The digest of its manifest.
        digest: String,
        /// The number of its layers.
        layers: usize,
    },
    /// A layer is to be fetched. All come before the first of them is.
    BlobQueued {
        /// Which.
        #[serde(flatten)]
        blob: BlobName,
    },
    /// A proxy is being started.
    ProxyStarted {
        /// Its number, counted from 0.
        proxy: usize,
    },
    /// It has opened its image and takes blobs.
    ProxyReady {
        /// Its number.
        proxy: usize,
        /// What that took.
        #[serde(rename = "took_ms", serialize_with = "millis")]
        took: Duration,
    },
    /// It takes no more blobs.
    ProxyEnded {
        /// Its number.
        proxy: usize,
        /// Why, if it was not just no longer needed.
        reason: Option<String>,
    },
    /// The sink already has this blob.
    BlobReused {
        /// Which.
        #[serde(flatten)]
        blob: BlobName,
    },
    /// A proxy has begun to send it.
    BlobOpened {
        /// Which.
        #[serde(flatten)]
        blob: BlobName,
        /// By which proxy.
        proxy: usize,
        /// What the call took: mostly the registry's first byte.
        #[serde(rename = "took_ms", serialize_with = "millis")]
        took: Duration,
    },
    /// Bytes came. Some of these are left out when nobody takes them fast
    /// enough, so they say how many have come in all, in this try.
    BlobBytes {
        /// Which.
        #[serde(flatten)]
        blob: BlobName,
        /// How many of its bytes have come so far.
        read: u64,
    },
    /// It is complete, verified and handled.
    BlobVerified {
        /// Which.
        #[serde(flatten)]
        blob: BlobName,
        /// By which proxy.
        proxy: usize,
    },
    /// A try failed, and there will be another, from the first byte on.
    BlobRetried {
        /// Which.
        #[serde(flatten)]
        blob: BlobName,
        /// By which proxy the failed try was.
        proxy: usize,
        /// How many tries have failed.
        failed: u32,
        /// Why.
        reason: String,
        /// How long it waits.
        #[serde(rename = "wait_ms", serialize_with = "millis")]
        wait: Duration,
    },
    /// It failed for good, and with it the fetch.
    BlobFailed {
        /// Which.
        #[serde(flatten)]
        blob: BlobName,
        /// By which proxy.
        proxy: usize,
        /// Why.
        reason: String,
    },
}

fn millis<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64() * 1000.0)
}

fn text<S: Serializer>(value: &impl ToString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

/// Where events go: to a receiver, or nowhere.
#[derive(Debug, Clone, Default)]
pub struct Events(Option<Target>);

#[derive(Debug, Clone)]
struct Target {
    sender: mpsc::Sender<Event>,
    start: Instant,
}

impl Events {
    /// Nobody wants to know.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Send them here. The fetch waits for room, except for byte counts, which
    /// are left out when there is none: take them promptly.
    #[must_use]
    pub fn to(sender: mpsc::Sender<Event>) -> Self {
        Self(Some(Target {
            sender,
            start: Instant::now(),
        }))
    }

    /// Send what must not be lost.
    pub(super) async fn send(&self, kind: impl FnOnce() -> EventKind + Send) {
        if let Some(Target { sender, start }) = &self.0 {
            let event = Event {
                at: start.elapsed(),
                kind: kind(),
            };
            // Whoever listened has gone; the fetch goes on.
            let _ = sender.send(event).await;
        }
    }

    /// Send what may be left out.
    pub(super) fn try_send(&self, kind: impl FnOnce() -> EventKind) {
        if let Some(Target { sender, start }) = &self.0
            && let Ok(place) = sender.try_reserve()
        {
            place.send(Event {
                at: start.elapsed(),
                kind: kind(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_flat_object() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let blob = BlobName {
            image: 0,
            layer: 3,
            digest: digest.parse().expect("a digest"),
            size: 7,
        };
        let kind = EventKind::BlobOpened {
            blob,
            proxy: 2,
            took: Duration::from_millis(50),
        };
        let event = Event {
            at: Duration::from_millis(1500),
            kind,
        };
        assert_eq!(
            serde_json::to_value(event).expect("JSON"),
            serde_json::json!({
                "at_ms": 1500.0, "event": "blob_opened", "image": 0, "layer": 3, "digest": digest,
                "size": 7, "proxy": 2, "took_ms": 50.0,
            })
        );
    }
}
