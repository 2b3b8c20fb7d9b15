//! Fetch container images through `skopeo experimental-image-proxy`.
//!
//! skopeo brings registries.conf, mirrors, credentials, signature policy and
//! every transport, and hands manifests and blobs out over a private protocol.
//! This crate speaks it, and fetches many blobs at the same time, over several skopeos, every byte verified.
//!
//! A *proxy* is a running skopeo together with the connection to it.
//!
//! ```no_run
//! # async fn example() -> longshore::Result<()> {
//! use longshore::{FetchOptions, Fetcher, ImageProxyConfig, OciLayout};
//!
//! let fetcher = Fetcher::new(ImageProxyConfig::default(), FetchOptions::default()).await?;
//! let image = fetcher.open("docker://quay.io/fedora/fedora:latest").await?;
//! let layout = OciLayout::new("fedora", Some("latest".into()));
//! let pulled = fetcher.pull(&image, layout).await?;
//! println!("{} bytes over {} proxies", pulled.fetched_bytes, pulled.proxies);
//! # Ok(()) }
//! ```
//!
//! | I want to | use |
//! | --- | --- |
//! | pull an image into an OCI layout | [`Fetcher::pull`] and [`OciLayout`] |
//! | pull it to somewhere else | [`Fetcher::pull`] and a [`Sink`] of my own |
//! | pull many images, each of which may fail | [`Fetcher::pull_many`] |
//! | do something with each layer | [`Fetcher::for_each_layer`] |
//! | do it with those that I do not have | [`Fetcher::for_each_of`] |
//! | read layers decompressed | [`Fetcher::for_each_layer_uncompressed`](Fetcher#method.for_each_layer_uncompressed) |
//! | read them with `std::io::Read` | [`Fetcher::for_each_layer_blocking`] |
//! | read layers one after another, in their order | [`Fetcher::layers`] |
//! | fetch over proxies that somebody else has started | [`Fetcher::over`] |
//! | know what happens meanwhile | [`Events`] |
//! | talk to one proxy, call by call | [`ImageProxy`] |
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
//! Linux only (5.4 or later, for pidfds that can be waited for). The protocol is skopeo's private one;
//! versions 0.2.3 (skopeo 1.6) to 0.2.9 are spoken.
//!
//! # Features
//!
//! `decompress`: `Fetcher::for_each_layer_uncompressed`. `cli`: what only the `longshore` command needs. Both are on by
//! default, for `cargo install`; a program that embeds this crate switches `cli` off by `default-features = false`.

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
mod reference;
mod sys;
mod time;
mod words;

pub use config::{
    AuthData, ConnectionOptions, Credentials, DEFAULT_CALL_TIMEOUT, DEFAULT_LEAST_RATE,
    DEFAULT_MAX_DOCUMENT_BYTES, DEFAULT_SHUTDOWN_TIMEOUT, DEFAULT_STALL_TIMEOUT, ImageProxyConfig,
    Platform,
};
pub use error::{BlobError, ChildExit, ConfigError, Error, Result, Violation};
#[cfg(feature = "decompress")]
pub use fetch::UncompressedReader;
pub use fetch::{
    BlobRef, BlockingReader, DEFAULT_PROXIES_PER_HOST, DEFAULT_WORKERS, Discard, Event, EventKind,
    EventStream, Events, FetchOptions, Fetcher, Image, ImageContent, ImageRequest, Index,
    IndexContent, Layer, LayerReader, LayerStream, Platforms, Proxies, PullMany, Pulled,
    PulledImages, RetryPolicy, Sink, SourceDocument,
};
pub use layout::OciLayout;
pub use oci_spec;
pub use protocol::{FIRST_SUPPORTED, LayerInfo, Refusal, RefusalCode, RefusalKind};
pub use proxy::{Blob, BlobDriver, BlobReader, ImageProxy, OpenedImage, RawBlob};
pub use reference::{ImageReference, Transport};
pub use words::printable;
