//! The events of a fetch, as one typed stream. The command makes its progress and its timeline from these events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use oci_spec::image::Digest;
use serde::{Serialize, Serializer};
use tokio::sync::mpsc;

use super::Layer;
use crate::error::{Error, error_chain};

/// Something that happened during a fetch.
///
/// An event is serialised as one flat object: `at_ms`, `event` (the name of the kind), and the fields of the kind.
/// Times are whole milliseconds.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Event {
    /// The time of the event, counted from when the [`Events`] were made.
    #[serde(rename = "at_ms", serialize_with = "millis")]
    pub at: Duration,
    /// The kind of the event, with its data.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// The layer that an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BlobRef {
    /// The number of the image, zero-based, in the order in which the images were given; in
    /// [`pull_many`](crate::Fetcher::pull_many), the number of the request. If several images have the blob, this is
    /// the first of them.
    pub image: usize,
    /// The layer's place in its image, zero-based; 0 is the base layer.
    pub layer: usize,
    /// The digest of the layer's blob.
    #[serde(serialize_with = "text")]
    pub digest: Digest,
    /// The size of the layer's blob, in bytes.
    pub size: u64,
}

impl BlobRef {
    pub(super) fn of(image: usize, layer: &Layer) -> Self {
        Self {
            image,
            layer: layer.index,
            digest: layer.descriptor.digest().clone(),
            size: layer.descriptor.size(),
        }
    }
}

/// The documents of an image that a proxy is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DocumentKind {
    /// The manifest, which the proxy fetches when it opens the image.
    Manifest,
    /// The config.
    Config,
}

/// The kinds of [`Event`]. In [`pull_many`](crate::Fetcher::pull_many), the number of an image is the number of its
/// request, so all images of an index have the same number.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// An image's manifest is known.
    #[non_exhaustive]
    ImageOpened {
        /// The number of the image, zero-based.
        image: usize,
        /// The reference by which the image was asked for.
        reference: String,
        /// The digest of the image's manifest at its source, before any conversion.
        #[serde(serialize_with = "text")]
        digest: Digest,
        /// The number of the image's layers.
        layers: usize,
    },
    /// A layer will be fetched, unless the sink already has it ([`BlobReused`](Self::BlobReused)). In a pull of open
    /// images, all of these events come before the first layer is fetched.
    #[non_exhaustive]
    BlobQueued {
        /// The blob.
        #[serde(flatten)]
        blob: BlobRef,
    },
    /// A proxy is being started.
    #[non_exhaustive]
    ProxyStarted {
        /// The number of the proxy, zero-based.
        proxy: usize,
    },
    /// A proxy has opened an image, and can fetch blobs.
    #[non_exhaustive]
    ProxyReady {
        /// The number of the proxy.
        proxy: usize,
        /// The time from the start of the proxy until it had opened its first image.
        #[serde(rename = "took_ms", serialize_with = "millis")]
        took: Duration,
    },
    /// A proxy has been retired or has exited.
    #[non_exhaustive]
    ProxyEnded {
        /// The number of the proxy.
        proxy: usize,
        /// The reason why the proxy ended. `None` if it was no longer needed.
        reason: Option<String>,
    },
    /// A proxy is asked to open an image, or to fetch the config of an image. Each proxy opens an image for itself. For
    /// a config that the sink has, or that an earlier call fetched, this event comes as well, and no proxy is asked.
    #[non_exhaustive]
    DocumentRequested {
        /// The number of the image, zero-based.
        image: usize,
        /// The reference by which the image was asked for.
        reference: String,
        /// The document.
        document: DocumentKind,
        /// The number of the proxy.
        proxy: usize,
    },
    /// A proxy has opened an image or fetched the config of an image, or has failed to do so. Unless the proxy ends
    /// first, each [`DocumentRequested`](Self::DocumentRequested) is followed by such an event.
    #[non_exhaustive]
    DocumentAnswered {
        /// The number of the image.
        image: usize,
        /// The document.
        document: DocumentKind,
        /// The number of the proxy.
        proxy: usize,
        /// The reason of the failure. `None` if the proxy returned the document.
        error: Option<String>,
    },
    /// The sink already has this blob.
    #[non_exhaustive]
    BlobReused {
        /// The blob.
        #[serde(flatten)]
        blob: BlobRef,
    },
    /// A proxy is asked for a blob. If the request succeeds, [`BlobOpened`](Self::BlobOpened) follows.
    #[non_exhaustive]
    BlobRequested {
        /// The blob.
        #[serde(flatten)]
        blob: BlobRef,
        /// The number of the proxy.
        proxy: usize,
    },
    /// A proxy has begun to send a blob.
    #[non_exhaustive]
    BlobOpened {
        /// The blob.
        #[serde(flatten)]
        blob: BlobRef,
        /// The number of the proxy.
        proxy: usize,
        /// The time that the call took, which is mostly the wait for the registry's first byte.
        #[serde(rename = "took_ms", serialize_with = "millis")]
        took: Duration,
    },
    /// Bytes of a blob have arrived. Some of these events are left out if they are not read fast enough, so
    /// each one states the total of this try.
    #[non_exhaustive]
    BlobBytes {
        /// The blob.
        #[serde(flatten)]
        blob: BlobRef,
        /// The number of the blob's bytes that have come in this try.
        read: u64,
    },
    /// A blob is complete, verified and handled.
    #[non_exhaustive]
    BlobVerified {
        /// The blob.
        #[serde(flatten)]
        blob: BlobRef,
        /// The number of the proxy.
        proxy: usize,
    },
    /// A try to fetch a blob failed. The next one starts from the first byte.
    #[non_exhaustive]
    BlobRetried {
        /// The blob.
        #[serde(flatten)]
        blob: BlobRef,
        /// The number of the proxy of the failed try.
        proxy: usize,
        /// The number of tries that have failed so far.
        failed: u32,
        /// The reason why the last try failed.
        reason: String,
        /// The wait before the next try.
        #[serde(rename = "wait_ms", serialize_with = "millis")]
        wait: Duration,
    },
    /// A registry refused a call for a reason that may pass: it limits the rate of requests (429), has trouble (5xx),
    /// or can't be reached. No proxy asks it until the wait is over.
    #[non_exhaustive]
    RegistryPaused {
        /// The host of the registry, and its port if it has one.
        registry: String,
        /// The wait before the next request.
        #[serde(rename = "wait_ms", serialize_with = "millis")]
        wait: Duration,
        /// The reason of the refusal.
        reason: String,
    },
    /// A registry answers so late that it seems to limit the rate of requests. If a request is refused with 429, skopeo
    /// itself waits and repeats it, so the only sign of the limit is the time that an answer takes. Fewer proxies than
    /// before ask the registry from now on.
    #[non_exhaustive]
    RegistryThrottled {
        /// The host of the registry, and its port if it has one.
        registry: String,
        /// The maximum number of proxies for this registry from now on.
        proxies: usize,
    },
    /// A blob failed for good. The images that name it fail as well.
    #[non_exhaustive]
    BlobFailed {
        /// The blob.
        #[serde(flatten)]
        blob: BlobRef,
        /// The number of the proxy of the last try.
        proxy: usize,
        /// The reason why the blob failed.
        reason: String,
    },
    /// An image, or a whole index, is complete in the sink and visible to others.
    #[non_exhaustive]
    ImagePulled {
        /// The number of the image or of the request, zero-based.
        image: usize,
        /// The reference by which the image was asked for.
        reference: String,
    },
    /// One request of [`pull_many`](crate::Fetcher::pull_many) failed. The pull of the others goes on.
    #[non_exhaustive]
    ImageFailed {
        /// The number of the request, zero-based.
        image: usize,
        /// The reference by which the image was asked for.
        reference: String,
        /// The reason why the request failed.
        reason: String,
    },
}

fn millis<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn text<S: Serializer>(value: &impl ToString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

/// The maximum number of byte counts that wait to be read. Further ones are left out.
const MAX_UNREAD_COUNTS: usize = 4096;

/// The sending side of the events of one pull. The events go into an [`EventStream`], or nowhere.
///
/// A reader that is slow, or reads nothing, does not hold up the pull. Events wait in memory until they are read, about
/// 500 bytes each. There are about five events for each blob, two for each document, up to three for each retry, and at
/// most 4,096 unread byte counts ([`EventKind::BlobBytes`]). Further byte counts are left out. Nothing is kept once the
/// stream is dropped.
///
/// The events end when the call that fetches the layers, or one blob with `for_blob`, ends. If this call returned a
/// stream of layers, they end when the stream ends. They end earlier if a call that opens an image, or fetches from
/// one, fails or is dropped early. They also end if the fetcher and its images are dropped. For another pull, call
/// [`channel`](Self::channel) again.
///
/// ```no_run
/// # async fn example() -> longshore::Result<()> {
/// use std::sync::Arc;
/// use longshore::{Discard, Events, FetchOptions, Fetcher, ImageProxyConfig};
///
/// let (events, mut stream) = Events::channel();
/// let fetcher = Fetcher::new(ImageProxyConfig::default(), FetchOptions::default()).await?;
/// let fetcher = fetcher.with_events(events);
/// let pull = async {
///     let image = fetcher.open("docker://quay.io/fedora/fedora:latest").await?;
///     fetcher.pull(&image, Discard).await
/// };
/// let print = async {
///     while let Some(event) = stream.recv().await {
///         println!("{:?}", event.kind);
///     }
/// };
/// let (pulled, ()) = tokio::join!(pull, print);
/// println!("{} bytes", pulled?.bytes);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Events(Option<Target>);

#[derive(Debug, Clone)]
struct Target {
    /// `None` marks the end of the events.
    sender: mpsc::UnboundedSender<Option<Event>>,
    shared: Arc<Shared>,
    start: Instant,
}

#[derive(Debug, Default)]
struct Shared {
    /// The number of byte counts that wait to be read.
    counts: AtomicUsize,
    /// Whether the events have ended, so that no more are sent.
    ended: AtomicBool,
}

impl Events {
    /// Makes events that go nowhere.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Makes the sending side of the events of one pull, and the stream that receives them. The time of the events is
    /// counted from this call.
    #[must_use]
    pub fn channel() -> (Self, EventStream) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::default());
        let stream = EventStream {
            receiver,
            shared: Arc::clone(&shared),
            ended: false,
        };
        let start = Instant::now();
        let target = Target {
            sender,
            shared,
            start,
        };
        (Self(Some(target)), stream)
    }

    /// Sends an event that must not be left out.
    pub(super) fn send(&self, kind: impl FnOnce() -> EventKind) {
        if let Some(target) = &self.0 {
            target.send(kind());
        }
    }

    /// Sends the event that a proxy is asked for a document, and returns a function that sends the event of the answer.
    pub(super) fn document(
        &self,
        (image, reference): (usize, &str),
        document: DocumentKind,
        proxy: usize,
    ) -> impl FnOnce(Option<&Error>) {
        self.send(|| EventKind::DocumentRequested {
            image,
            reference: reference.to_owned(),
            document,
            proxy,
        });
        let events = self.clone();
        move |error| {
            events.send(|| EventKind::DocumentAnswered {
                image,
                document,
                proxy,
                error: error.map(error_chain),
            });
        }
    }

    /// Sends a byte count, unless too many wait to be read.
    pub(super) fn count(&self, kind: impl FnOnce() -> EventKind) {
        if let Some(target) = &self.0
            && target.shared.counts.load(Ordering::Relaxed) < MAX_UNREAD_COUNTS
        {
            target.shared.counts.fetch_add(1, Ordering::Relaxed);
            target.send(kind());
        }
    }

    /// Returns a guard that ends the events when it is dropped, unless [`EndGuard::keep`] is called.
    pub(super) fn end_guard(&self) -> EndGuard {
        EndGuard(self.clone())
    }
}

impl Target {
    fn send(&self, kind: EventKind) {
        if self.shared.ended.load(Ordering::Relaxed) {
            return;
        }
        let at = self.start.elapsed();
        // The stream may have been dropped. The fetch goes on without it.
        let _ = self.sender.send(Some(Event { at, kind }));
    }
}

/// A guard that ends the events when a call fails or is dropped.
#[derive(Debug)]
pub(super) struct EndGuard(Events);

impl EndGuard {
    /// Keeps the events open, because the call succeeded and another one follows.
    pub(super) fn keep(mut self) {
        self.0 = Events::none();
    }
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        if let Events(Some(target)) = &self.0 {
            target.shared.ended.store(true, Ordering::Relaxed);
            let _ = target.sender.send(None);
        }
    }
}

/// The receiving side of the events of one pull, in the order in which they happened. [`Events`] describes which events
/// are left out, and when they end.
#[derive(Debug)]
pub struct EventStream {
    receiver: mpsc::UnboundedReceiver<Option<Event>>,
    shared: Arc<Shared>,
    ended: bool,
}

impl EventStream {
    /// Waits for the next event. Returns `None` when the events have ended.
    ///
    /// # Cancel safety
    ///
    /// No event is lost if the future is dropped early.
    pub async fn recv(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = self.receiver.recv().await.flatten();
        self.note_received(event)
    }

    /// Returns the next event if there is one already. `None` means that there is none now, or that the
    /// events have ended.
    pub fn try_recv(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = self.receiver.try_recv().ok()?;
        self.note_received(event)
    }

    fn note_received(&mut self, event: Option<Event>) -> Option<Event> {
        match &event {
            Some(event) if matches!(event.kind, EventKind::BlobBytes { .. }) => {
                self.shared.counts.fetch_sub(1, Ordering::Relaxed);
            }
            Some(_) => {}
            None => self.ended = true,
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_flat_object() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let blob = BlobRef {
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
                "at_ms": 1500, "event": "blob_opened", "image": 0, "layer": 3, "digest": digest,
                "size": 7, "proxy": 2, "took_ms": 50,
            })
        );
    }

    fn count(read: u64) -> EventKind {
        let digest = format!("sha256:{}", "a".repeat(64));
        let blob = BlobRef {
            image: 0,
            layer: 0,
            digest: digest.parse().expect("a digest"),
            size: 7,
        };
        EventKind::BlobBytes { blob, read }
    }

    fn started(proxy: usize) -> EventKind {
        EventKind::ProxyStarted { proxy }
    }

    #[test]
    fn only_byte_counts_are_left_out_if_nobody_reads() {
        let (events, mut stream) = Events::channel();
        for number in 0..3 * MAX_UNREAD_COUNTS {
            events.count(|| count(number as u64));
            events.send(|| started(number));
        }
        let mut counts = 0;
        let mut others = 0;
        while let Some(event) = stream.try_recv() {
            match event.kind {
                EventKind::BlobBytes { .. } => counts += 1,
                _ => others += 1,
            }
        }
        assert_eq!((counts, others), (MAX_UNREAD_COUNTS, 3 * MAX_UNREAD_COUNTS));
        // Reading has made space for another byte count.
        events.count(|| count(1));
        assert!(stream.try_recv().is_some());
    }

    #[tokio::test]
    async fn events_end_with_the_call_although_others_could_send_more() {
        let (events, mut stream) = Events::channel();
        let first = events.end_guard();
        events.send(|| started(0));
        first.keep();
        let last = events.end_guard();
        events.send(|| started(1));
        drop(last);
        events.send(|| started(2));
        let mut seen = 0;
        while stream.recv().await.is_some() {
            seen += 1;
        }
        assert_eq!(seen, 2);
        assert!(stream.recv().await.is_none());
        assert!(stream.try_recv().is_none());
        // Nothing is kept for a stream that has been dropped.
        assert!(stream.receiver.is_empty());
    }
}
