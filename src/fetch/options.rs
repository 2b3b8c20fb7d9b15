//! The options of a fetch.

use std::num::{NonZeroU64, NonZeroUsize};
use std::str::FromStr;

use super::retry::RetryPolicy;
use crate::error::ParseError;
use crate::reference::Place;

/// The default of [`FetchOptions::workers`](FetchOptions#structfield.workers). Each blob in flight needs one or two
/// pipes. If 32 blobs are written into a layout at the same time, each of them also needs 256 KiB of buffers.
pub const DEFAULT_WORKERS: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");

/// The default of [`FetchOptions::proxies_per_host`](FetchOptions#structfield.proxies_per_host). A proxy sends one
/// request at a time, so 16 proxies send about 530 requests per second to a registry that answers each request after 30
/// ms. More proxies were hardly faster (docs/decisions.md). Some registries throttle clients already at a lower rate. A
/// pull then goes on with fewer proxies ([`EventKind::RegistryThrottled`](crate::EventKind::RegistryThrottled)).
pub const DEFAULT_PROXIES_PER_HOST: NonZeroUsize = NonZeroUsize::new(16).expect("not zero");

/// The default of [`FetchOptions::max_expansion`](FetchOptions#structfield.max_expansion). gzip expands data at most
/// 1,032 times.
const DEFAULT_MAX_EXPANSION: NonZeroU64 = NonZeroU64::new(1100).expect("not zero");

/// The default of [`FetchOptions::max_zstd_window`](FetchOptions#structfield.max_zstd_window): the window that the
/// encoder of container tools uses at its best level (klauspost/compress, `SpeedBestCompression`). RFC 8878 recommends
/// that decoders support 8 MiB.
const DEFAULT_MAX_ZSTD_WINDOW: NonZeroU64 = NonZeroU64::new(32 << 20).expect("not zero");

/// The default of [`FetchOptions::max_documents_bytes`](FetchOptions#structfield.max_documents_bytes). It suffices for
/// some thousand usual images, whose manifest and config have 4 to 20 kB together.
const DEFAULT_MAX_DOCUMENTS_BYTES: u64 = 64 << 20;

/// The number of proxies that fetch at the same time. An archive (`docker-archive:`, `oci-archive:`) is always read by
/// one proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Proxies {
    /// As many proxies as make the pull faster, estimated from the latency of the registry and from how much there is
    /// to fetch. There are no more proxies than [`proxies_per_host`](FetchOptions#structfield.proxies_per_host) for one
    /// host, nor more than [`workers`](FetchOptions#structfield.workers). Each proxy fetches a limited number of blobs
    /// at a time. If all proxies have been at this limit for at least half a second, and other blobs wait, one more
    /// proxy is started. A proxy whose answer is late is replaced before it ends, so a host may have up to twice as
    /// many proxies for a while.
    #[default]
    Auto,
    /// This number of proxies, or fewer if there are fewer blobs.
    /// [`proxies_per_host`](FetchOptions#structfield.proxies_per_host) does not apply.
    Fixed(NonZeroUsize),
    /// As many proxies as make the pull faster, within these bounds, and not more than workers, unless `min` is higher.
    /// [`proxies_per_host`](FetchOptions#structfield.proxies_per_host) does not apply. As with [`Auto`](Self::Auto),
    /// late answers may double the number for a while.
    Range {
        /// The lowest number.
        min: NonZeroUsize,
        /// The highest number.
        max: NonZeroUsize,
    },
}

/// Parses `auto`, `N` or `MIN-MAX`.
impl FromStr for Proxies {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong =
            || ParseError::new(format!("{text:?} is not auto, a number from 1, or MIN-MAX"));
        let number = |text: &str| text.parse::<NonZeroUsize>().map_err(|_| wrong());
        match text.split_once('-') {
            None if text == "auto" => Ok(Self::Auto),
            None => Ok(Self::Fixed(number(text)?)),
            Some((min, max)) => {
                let (min, max) = (number(min)?, number(max)?);
                if min > max {
                    Err(wrong())
                } else {
                    Ok(Self::Range { min, max })
                }
            }
        }
    }
}

/// The options of a [`Fetcher`](super::Fetcher).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FetchOptions {
    /// The number of proxies. The default is [`Proxies::Auto`].
    pub proxies: Proxies,
    /// The maximum number of proxies of [`Proxies::Auto`] for one registry host in one pull. Proxies whose answer is
    /// late do not count. `None`, the default, means 16.
    ///
    /// Pulls of one fetcher and its clones that run at the same time share a limit: each pull has one proxy, and all of
    /// them together have at most [`workers`](Self#structfield.workers) further proxies. The pulls of another fetcher
    /// count separately, and so do pulls with a [fixed](Proxies::Fixed) number of proxies.
    ///
    /// With `None` and [`Proxies::Auto`], an image of docker.io is opened by one proxy only, because each opening
    /// counts as one pull in Docker Hub's quota. One image is then fetched by one proxy, and several images by at most
    /// as many proxies as there are images. With a number here, or another kind of [`Proxies`], docker.io is treated
    /// like every other registry.
    pub proxies_per_host: Option<NonZeroUsize>,
    /// The maximum number of blobs in flight at once, over all proxies. The default is 32. If the limit of open files
    /// (`RLIMIT_NOFILE`) does not suffice for all fetches of this process, there are fewer blobs in flight, and fewer
    /// proxies, unless their number is [fixed](Proxies::Fixed). The argument `ahead` of
    /// [`layers`](super::Fetcher::layers) replaces this limit for a stream.
    pub workers: NonZeroUsize,
    /// Which failures are retried, how often, and when.
    pub retry: RetryPolicy,
    /// The rate limit for all layers of a pull together, in bytes per second. Image configs are not limited. `None`,
    /// the default, means no limit.
    pub limit_rate: Option<NonZeroU64>,
    /// The maximum number of decompressed bytes of a layer, as a multiple of its compressed size; 1 MiB more is
    /// allowed. The limit also applies while the layer is read: the decompressed bytes must not exceed the compressed
    /// bytes that were read so far times this value, plus 32 MiB. The default is 1,100: gzip does not exceed 1,032
    /// (zlib's technical details).
    pub max_expansion: NonZeroU64,
    /// The largest accepted window of a zstd layer, in bytes. The value is rounded down to a power of two, and is taken
    /// as 1 KiB if it is less, and as 1 GiB if it is more. Each layer that is being decompressed needs as much memory
    /// as its window. The default is 32 MiB. `zstd` exceeds it only with `--ultra` (levels 21 and 22) or with `--long`.
    pub max_zstd_window: NonZeroU64,
    /// The maximum number of bytes of all documents of one pull together: manifests, indexes and image configs. They
    /// are held in memory; parsed, they need several times as much. The default is 64 MiB. In
    /// [`pull_many`](crate::Fetcher::pull_many), the limit is for each request. The pull holds the documents of a
    /// request until the caller takes its result, and takes a further request only while all documents that it holds
    /// have fewer bytes than this limit. Each single document is limited by
    /// [`max_document_bytes`](crate::ConnectionOptions#structfield.max_document_bytes).
    pub max_documents_bytes: u64,
    /// Whether *warm proxies* are started: proxies that the pull will probably need, and that are started while the
    /// first proxy still opens the image. Each of them opens the image, too, which reads its manifest once more. The
    /// default is true. Set it to false if most opened images are not pulled. No warm proxies are started in three
    /// cases: the image is not at a registry; there are at least as many images as proxies; or the image is at
    /// docker.io, where each opening counts ([`proxies_per_host`](Self#structfield.proxies_per_host)).
    pub start_ahead: bool,
    /// Whether the proxies for images at registries run without access to skopeo's shared blob-info cache.
    /// Nothing in a pull reads this cache, but each blob would wait for its lock. The default is true.
    /// [`Fetcher`](super::Fetcher#the-blob-info-cache) describes how it is hidden.
    pub private_blob_info_cache: bool,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            proxies: Proxies::Auto,
            proxies_per_host: None,
            workers: DEFAULT_WORKERS,
            retry: RetryPolicy::default(),
            limit_rate: None,
            max_expansion: DEFAULT_MAX_EXPANSION,
            max_zstd_window: DEFAULT_MAX_ZSTD_WINDOW,
            max_documents_bytes: DEFAULT_MAX_DOCUMENTS_BYTES,
            start_ahead: true,
            private_blob_info_cache: true,
        }
    }
}

impl FetchOptions {
    /// Sets [`proxies`](Self#structfield.proxies).
    #[must_use]
    pub fn proxies(mut self, proxies: Proxies) -> Self {
        self.proxies = proxies;
        self
    }

    /// Sets [`proxies_per_host`](Self#structfield.proxies_per_host).
    #[must_use]
    pub fn proxies_per_host(mut self, most: NonZeroUsize) -> Self {
        self.proxies_per_host = Some(most);
        self
    }

    /// Sets [`workers`](Self#structfield.workers).
    #[must_use]
    pub fn workers(mut self, workers: NonZeroUsize) -> Self {
        self.workers = workers;
        self
    }

    /// Sets [`retry`](Self#structfield.retry).
    #[must_use]
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Sets [`limit_rate`](Self#structfield.limit_rate).
    #[must_use]
    pub fn limit_rate(mut self, bytes_per_second: NonZeroU64) -> Self {
        self.limit_rate = Some(bytes_per_second);
        self
    }

    /// Sets [`max_expansion`](Self#structfield.max_expansion).
    #[must_use]
    pub fn max_expansion(mut self, times: NonZeroU64) -> Self {
        self.max_expansion = times;
        self
    }

    /// Sets [`max_zstd_window`](Self#structfield.max_zstd_window).
    #[must_use]
    pub fn max_zstd_window(mut self, bytes: NonZeroU64) -> Self {
        self.max_zstd_window = bytes;
        self
    }

    /// Sets [`max_documents_bytes`](Self#structfield.max_documents_bytes).
    #[must_use]
    pub fn max_documents_bytes(mut self, bytes: u64) -> Self {
        self.max_documents_bytes = bytes;
        self
    }

    /// Sets [`start_ahead`](Self#structfield.start_ahead).
    #[must_use]
    pub fn start_ahead(mut self, ahead: bool) -> Self {
        self.start_ahead = ahead;
        self
    }

    /// Sets [`private_blob_info_cache`](Self#structfield.private_blob_info_cache).
    #[must_use]
    pub fn private_blob_info_cache(mut self, private: bool) -> Self {
        self.private_blob_info_cache = private;
        self
    }

    /// The minimum and the maximum number of proxies for images of these sources.
    pub(super) fn bounds(&self, sources: &[Place<'_>]) -> (usize, usize) {
        // Each proxy that opens an archive unpacks all of it, so one proxy is enough.
        if sources.contains(&Place::Archive) {
            return (1, 1);
        }
        let (min, max) = match self.proxies {
            Proxies::Auto => {
                let caps = sources.iter().map(|source| self.cap(*source));
                (1, caps.min().unwrap_or(1))
            }
            Proxies::Fixed(number) => (number.get(), number.get()),
            Proxies::Range { min, max } => (min.get(), max.get()),
        };
        // A proxy without a free worker would be idle, so there are no more proxies than workers, unless the options
        // ask for more.
        (min, max.min(self.workers.get()).max(min))
    }

    /// The maximum number of proxies for all hosts together.
    pub(super) fn units(&self) -> usize {
        match self.proxies {
            Proxies::Auto => self.workers.get(),
            Proxies::Fixed(number) => number.get(),
            Proxies::Range { min, max } => max.get().min(self.workers.get()).max(min.get()),
        }
    }

    /// Whether the registry counts openings, so that an image is not opened more often than necessary.
    pub(super) fn counts_openings(&self, source: Place<'_>) -> bool {
        source.is_docker_hub() && self.proxies == Proxies::Auto && self.proxies_per_host.is_none()
    }

    fn cap(&self, place: Place<'_>) -> usize {
        match place {
            Place::Registry { .. } => {
                let default = DEFAULT_PROXIES_PER_HOST;
                self.proxies_per_host.unwrap_or(default).get()
            }
            Place::Local | Place::Storage | Place::Archive => DEFAULT_PROXIES_PER_HOST.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_proxies_is_auto_fixed_or_a_range() {
        let n = |n| NonZeroUsize::new(n).expect("not zero");
        let table = [
            ("auto", Some(Proxies::Auto)),
            ("1", Some(Proxies::Fixed(n(1)))),
            (
                "2-8",
                Some(Proxies::Range {
                    min: n(2),
                    max: n(8),
                }),
            ),
            (
                "4-4",
                Some(Proxies::Range {
                    min: n(4),
                    max: n(4),
                }),
            ),
            ("0", None),
            ("8-2", None),
            ("-2", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse().ok(), expected, "{text}");
        }
    }

    #[test]
    fn bounds_by_transport_and_host() {
        let n = |n| NonZeroUsize::new(n).expect("not zero");
        let auto = FetchOptions::default();
        let capped = FetchOptions::default().proxies_per_host(n(4));
        let fixed = FetchOptions::default().proxies(Proxies::Fixed(n(64)));
        let range = Proxies::Range {
            min: n(1),
            max: n(64),
        };
        let range = FetchOptions::default().proxies(range);
        let workers = FetchOptions::default().workers(n(8));
        let table = [
            (&auto, "docker://quay.io/a/b", (1, 16)),
            (&auto, "docker://localhost/a", (1, 16)),
            (&auto, "docker://debian", (1, 16)),
            (&capped, "docker://docker.io/a/b", (1, 4)),
            (&fixed, "docker://docker.io/a/b", (64, 64)),
            (&range, "docker://quay.io/a/b", (1, 32)),
            (&workers, "docker://quay.io/a/b", (1, 8)),
            (&fixed, "oci-archive:x.tar", (1, 1)),
            (&auto, "oci:x", (1, 16)),
        ];
        for (options, reference, expected) in table {
            let bounds = options.bounds(&[Place::of(reference)]);
            assert_eq!(bounds, expected, "{reference}");
        }
    }

    #[test]
    fn docker_hub_counts_openings_under_each_of_its_names() {
        let n = |n| NonZeroUsize::new(n).expect("not zero");
        let auto = FetchOptions::default();
        let capped = FetchOptions::default().proxies_per_host(n(4));
        let fixed = FetchOptions::default().proxies(Proxies::Fixed(n(8)));
        let table = [
            (&auto, "docker://quay.io/a/b", false),
            (&auto, "docker://debian", true),
            (&auto, "docker://docker.io/a/b", true),
            (&auto, "docker://index.docker.io/a/b", true),
            (&auto, "docker://registry-1.docker.io/a/b", true),
            (&auto, "docker://not-registry-1.docker.io/a/b", false),
            (&auto, "oci:x", false),
            (&capped, "docker://debian", false),
            (&fixed, "docker://debian", false),
        ];
        for (options, reference, expected) in table {
            let counts = options.counts_openings(Place::of(reference));
            assert_eq!(counts, expected, "{reference}");
        }
    }
}
