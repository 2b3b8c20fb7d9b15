//! How to make pulls faster, or gentler to registries.
//!
//! After this guide you know the few numbers that matter, when to change them, and how to find out whether it helped.
//!
//! # First, change nothing
//!
//! The number of proxies is estimated while the pull runs, from the latency of the registry and the work with the
//! bytes. On one machine with 2 processors, 16 pulls took at most 8 % longer than with the best of the fixed numbers
//! up to 16. A day before, one of them, 128 small layers from a registry without latency, took 42 % longer
//! (`benches/RESULTS.md`, *How many proxies are chosen*, 2026-11-28).
//!
//! A picture shows where a pull spends its time:
//!
//! ```text
//! longshore pull --timeline pull.html docker://quay.io/fedora/fedora:latest oci:fedora
//! ```
//!
//! | the picture shows | the pull waits for | what helps |
//! | --- | --- | --- |
//! | long waits before the first byte, few proxies | the registry's latency | more proxies |
//! | transfers side by side, all slow | the network, or the disk | no option; a nearer mirror |
//! | one long transfer at the end | one large layer | nothing: a blob is fetched in one piece |
//! | few transfers, and processors that are busy | the work with the bytes | fewer other programs; more processors |
//! | retries | the registry, or the network | fewer proxies, a rate limit |
//!
//! # The numbers
//!
//! ```
//! use longshore::{FetchOptions, Proxies};
//! use std::num::{NonZeroU64, NonZeroUsize};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let options = FetchOptions::default()
//!     // Within these bounds, as many as make the pull faster.
//!     .proxies("1-32".parse::<Proxies>()?)
//!     // Blobs in flight, over all proxies.
//!     .workers(NonZeroUsize::new(64).ok_or("zero")?)
//!     // Ten megabytes per second, over all layers of a pull.
//!     .limit_rate(NonZeroU64::new(10_000_000).ok_or("zero")?);
//! assert_eq!(options.workers.get(), 64);
//! # Ok(()) }
//! ```
//!
//! | option | default | raise it | lower it |
//! | --- | --- | --- | --- |
//! | [`proxies`](crate::FetchOptions#structfield.proxies) | [`Auto`](crate::Proxies::Auto) | many small layers from far away, on a machine with many processors | a registry that throttles; little memory |
//! | [`proxies_per_host`](crate::FetchOptions#structfield.proxies_per_host) | 16 | many small layers from far away; the number is still estimated | a registry that throttles; little memory |
//! | [`workers`](crate::FetchOptions#structfield.workers) | 32 | more than 32 proxies; handlers that wait a lot, such as for another server | handlers that need much memory each |
//! | [`limit_rate`](crate::FetchOptions#structfield.limit_rate) | none | | a line that others use, too |
//! | [`start_ahead`](crate::FetchOptions#structfield.start_ahead) | true | | most images that you open are not pulled |
//!
//! - **More than 16 proxies** helped only in one of the cases that were measured at a distance: 128 small layers at 100
//!   ms, by 6 %. At 30 ms, the same layers took 22 % more time with up to 32 proxies (`benches/RESULTS.md`, *At a
//!   distance*).
//! - **There are not more proxies than workers**, because a proxy without a free worker would be idle. The exceptions
//!   are a fixed number, the minimum of a range, and proxies that replace those whose answers are late.
//! - **A fixed number** ([`Proxies::Fixed`](crate::Proxies::Fixed)) is for measurements, and for registries whose limit you know.
//!
//! # Docker Hub
//!
//! Docker Hub's quota counts each opening of an image. So one image of docker.io is opened by one proxy, and several
//! images by at most as many proxies as there are images. If you have an account without such a quota, set `proxies` or
//! `proxies_per_host` to any number, and the rule no longer applies.
//!
//! # Besides the options
//!
//! - **skopeo 1.19 or later.** An older one hashes each blob, too, and does not end the transfer of a blob that is dropped early.
//! - **`GOMAXPROCS`** in the environment says how many processors each skopeo may use at a time. If it is not set, a
//!   skopeo that starts beside others is limited to twice its share of the processors. This saves memory: a Go program
//!   needs some for each processor that it may use.
//! - **The destination.** A layout syncs each blob to the disk before it gets its name. On a slow disk that is the limit.
//! - **The limit of open files.** With few descriptors, fewer blobs are in flight: see [`operating`](super::operating).
//! - **Handlers.** A proxy handles a limited number of blobs at a time. One more proxy is started if all proxies have
//!   been at this limit for at least half a second, other blobs wait, and `workers` and `proxies` allow more. With a
//!   rate limit, or while the registry throttles, none is started. More workers help a handler that waits; they do not
//!   help one that computes.
//!
//! # Decompression
//!
//! [`for_each_layer_uncompressed`](crate::Fetcher#method.for_each_layer_uncompressed) decompresses in the tasks of the
//! handlers, one layer in one task. An image with one large layer therefore uses one processor. For `tar` and the like,
//! the blocking methods read through a buffer of 64 KiB: the 85 layers of one image, each listed by `tar`, took 3.59 s
//! with the buffer instead of 3.96 s (`docs/decisions.md`, *Decompressed layers*).
//!
//! # Measure
//!
//! ```no_run
//! # async fn example() -> longshore::Result<()> {
//! use longshore::{Discard, FetchOptions, Fetcher, ImageProxyConfig, Proxies};
//! use std::time::Instant;
//!
//! for proxies in ["auto", "1", "4", "16"] {
//!     let proxies: Proxies = proxies.parse().unwrap_or_default();
//!     let options = FetchOptions::default().proxies(proxies);
//!     let fetcher = Fetcher::new(ImageProxyConfig::default(), options).await?;
//!     let began = Instant::now();
//!     let image = fetcher.open("docker://quay.io/fedora/fedora:latest").await?;
//!     // Every byte is fetched and verified, and nothing is kept.
//!     let pulled = fetcher.pull(&image, Discard).await?;
//!     println!("{proxies:?}: {:?}, {} proxies at once", began.elapsed(), pulled.proxies);
//! }
//! # Ok(()) }
//! ```
//!
//! Repeat the measurement, with the numbers in turn. Trust no difference that is smaller than the difference between
//! two equal runs. `benches/compare` measures in this way, also with other tools.
//!
//! # When this is the wrong tool
//!
//! For one image with one large layer, further proxies do not help, and the bytes pass through one more process than
//! with `skopeo copy`. Where no signature policy, no registries.conf and no other transport is needed, tools that speak
//! HTTP themselves use about half of the processor time (workload A at 50 ms in `benches/RESULTS.md`: 0.44 s of oras and
//! of crane, 0.88 s here).
