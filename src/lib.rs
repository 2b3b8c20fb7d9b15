//! Fetch container images through `skopeo experimental-image-proxy`.
//!
//! skopeo brings registries.conf, mirrors, credentials, signature policy and
//! every transport, and hands manifests and blobs out over a private protocol.
//! This crate speaks it, and fetches with it: many blobs at a time, over as many
//! skopeos as pay, every byte verified.
//!
//! - [`Fetcher`] is the engine, and what most programs want: open an image,
//!   run a handler [for each layer](Fetcher::for_each_layer), or
//!   [pull](Fetcher::pull) it into a [`Sink`] such as [`OciLayout`].
//! - [`ImageProxy`] is one proxy, call by call: a cheap handle to a task that
//!   alone owns the connection.
//!
//! ```no_run
//! # async fn example() -> longshore::Result<()> {
//! use std::sync::Arc;
//! use longshore::{FetchOptions, Fetcher, ImageProxyConfig, OciLayout};
//!
//! let fetcher = Fetcher::new(ImageProxyConfig::default(), FetchOptions::default()).await?;
//! let image = fetcher.open("docker://quay.io/fedora/fedora:latest").await?;
//! let layout = Arc::new(OciLayout::new("fedora", Some("latest".into())));
//! let pulled = fetcher.pull(&image, &layout).await?;
//! println!("{} bytes over {} proxies", pulled.fetched_bytes, pulled.proxies);
//! # Ok(()) }
//! ```
//!
//! # Behaviour
//!
//! - Everything runs in the tokio runtime of the caller, but for one thread a
//!   proxy, which starts and reaps the process. Timers and I/O must be enabled.
//! - A proxy belongs to the runtime that it was made in. Used in another one
//!   while its own does not run, it fails with [`Error::RuntimeIdle`] after
//!   some seconds; a [`Fetcher`] then goes on with new proxies.
//! - Dropping a future cancels what it does; see *Cancel safety* at each method
//!   for what that means on the wire.
//! - Nothing waits for ever: see [`ConnectionOptions`] for the timeouts and for the slowest rate at which a
//!   blob may come, and [`RetryPolicy::deadline`] for a bound on the whole.
//! - Children die with this process, and with the last handle to them.
//! - `tracing` spans and events tell what happens, without secrets.
//!
//! Linux only (5.3 or later, for pidfds). The protocol is skopeo's private one;
//! versions 0.2.3 (skopeo 1.6) to 0.2.9 are spoken.
//!
//! # Features
//!
//! `decompress`: `Fetcher::for_each_layer_uncompressed`. `cli`: what only the
//! `longshore` command needs. Both are on by default.

mod config;
mod drain;
mod error;
mod fetch;
#[cfg(feature = "unstable-internals")]
#[doc(hidden)]
pub mod internals;
mod layout;
mod protocol;
mod proxy;
mod sys;
mod time;
mod words;

pub use config::{
    AuthData, ConnectionOptions, Credentials, DEFAULT_CALL_TIMEOUT, DEFAULT_LEAST_RATE,
    DEFAULT_MAX_DOCUMENT_BYTES, DEFAULT_SHUTDOWN_TIMEOUT, DEFAULT_STALL_TIMEOUT, ImageProxyConfig,
    Platform, VersionQuestion,
};
pub use error::{BlobError, ChildExit, ConfigError, Error, Result};
#[cfg(feature = "decompress")]
pub use fetch::UncompressedReader;
pub use fetch::{
    BlobName, BlockingReader, DEFAULT_PROXIES_PER_HOST, DEFAULT_WORKERS, Discard, Event, EventKind,
    EventStream, Events, FetchOptions, Fetcher, Image, ImageContent, ImageRequest, Index,
    IndexContent, Layer, LayerReader, LayerStream, OrderedReader, Platforms, Proxies, PullMany,
    Pulled, PulledImages, RetryPolicy, Sink,
};
pub use layout::OciLayout;
pub use oci_spec;
pub use protocol::{
    FIRST_SUPPORTED, LayerInfo, Refusal, RefusalCode, RefusalKind, Violation, supports_method,
};
pub use proxy::{Blob, BlobDriver, BlobReader, ImageProxy, OpenedImage};
pub use words::printable;
