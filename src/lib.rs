//! Fetches container images through `skopeo experimental-image-proxy`.
//!
//! skopeo supports registries.conf, mirrors, credentials, signature policies and every transport. It serves manifests
//! and blobs over a private protocol. This crate speaks that protocol. It fetches many blobs at the same time, over
//! several skopeos, and verifies every byte.
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
//! | pull an image to another place | [`Fetcher::pull`] and your own [`Sink`] |
//! | pull many images, each of which may fail | [`Fetcher::pull_many`] |
//! | find damaged blobs in a layout, or remove the blobs that no image in the layout needs | [`OciLayout::verify`], [`OciLayout::prune`] |
//! | do something with each layer | [`Fetcher::for_each_layer`] |
//! | do something with the layers that I do not have | [`Fetcher::for_each_of`] |
//! | read layers decompressed | [`Fetcher::for_each_layer_uncompressed`](Fetcher#method.for_each_layer_uncompressed) |
//! | read layers with `std::io::Read` | [`Fetcher::for_each_layer_blocking`] |
//! | read layers one after another, in their order | [`Fetcher::layers`] |
//! | read one blob by its digest | [`Fetcher::for_blob`] |
//! | see an index, or any manifest, byte for byte | [`Fetcher::fetch_source`] |
//! | list the tags of a repository | [`Fetcher::list_tags`] |
//! | fetch over proxies that another program has started | [`Fetcher::over`] |
//! | show the progress of a pull | [`Events`] |
//! | talk to one proxy, call by call | [`ImageProxy`] |
//! | read how to do these things, task by task | the [`guide`] |
//!
//! # Behaviour
//!
//! - The library runs in the tokio runtime of the caller, whose timers and I/O must be enabled.
//!   In addition, each proxy has one thread, which starts and reaps the process.
//! - A proxy belongs to the runtime in which it was made. If the proxy is used in another runtime while that
//!   first one does not run, the call fails with [`Error::RuntimeIdle`] after 10 s. A [`Fetcher`] then continues
//!   with new proxies.
//! - Dropping a future cancels its work. The section *Cancel safety* of each method, or of its type, says what the
//!   cancellation does.
//! - Every wait has a limit by default. [`ConnectionOptions`] has the timeouts and the lowest rate of a blob.
//!   [`RetryPolicy::deadline`](RetryPolicy#structfield.deadline) limits a step with all its retries, such as opening an
//!   image or pulling its layers. By default, there is no deadline.
//! - A skopeo process is shut down when everything that uses it is dropped: the clones of its [`ImageProxy`] and their
//!   blobs, or the [`Image`]s and calls of a [`Fetcher`]. If your program exits sooner, skopeo is killed.
//! - `tracing` spans and events report the progress, without secrets.
//!
//! The crate needs Linux 5.4 or later (for pidfds that can be waited for). It speaks versions 0.2.3 (skopeo 1.6) to
//! 0.2.9 of skopeo's private protocol.
//!
//! # Features
//!
//! | feature | contents |
//! | --- | --- |
//! | `decompress` | the methods with `uncompressed` in their names, `UncompressedReader`, and `VerifyOptions::diff_ids` |
//! | `cli` | the dependencies of the `longshore` command |
//!
//! Both features are on by default, so that `cargo install` builds the whole command. A program that embeds this crate
//! sets `default-features = false`, so that it does not build the dependencies of `cli`.

mod config;
mod drain;
mod error;
mod fetch;
pub mod guide;
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
pub use error::{BlobError, ChildExit, ConfigError, Error, ParseError, Result, Violation};
#[cfg(feature = "decompress")]
pub use fetch::UncompressedReader;
pub use fetch::{
    BlobRef, BlockingReader, DEFAULT_PROXIES_PER_HOST, DEFAULT_WORKERS, Discard, DocumentKind,
    Event, EventKind, EventStream, Events, FetchOptions, Fetcher, Image, ImageContent,
    ImageRequest, Index, IndexContent, Layer, LayerReader, LayerStream, Platforms, Proxies,
    PullMany, Pulled, PulledImages, RetryPolicy, Sink, SourceDocument,
};
pub use layout::{
    Damage, DamagedBlob, OciLayout, PruneOptions, Pruned, PrunedBlob, Verified, VerifyOptions,
};
pub use oci_spec;
pub use protocol::{FIRST_SUPPORTED, LayerInfo, Refusal, RefusalCode, RefusalKind};
pub use proxy::{Blob, BlobDriver, BlobReader, ImageProxy, OpenedImage, RawBlob};
pub use reference::{ImageReference, Transport};
pub use words::printable;
