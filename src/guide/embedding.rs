//! How to fetch images from your own program.
//!
//! After this guide you can fetch images in an async server and in a one-shot command, fetch only some layers, read
//! them with synchronous libraries, write them where you want, and decide what to do about an error.
//!
//! # The dependency
//!
//! ```toml
//! [dependencies]
//! longshore = { version = "0.1", default-features = false, features = ["decompress"] }
//! tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
//! ```
//!
//! `default-features = false` leaves out the dependencies of the command. `decompress` is needed only to read layers
//! decompressed, and to compare `diff_id`s in [`OciLayout::verify`](crate::OciLayout::verify). Until the package is
//! published, `path = "..."` takes the place of the version. skopeo must be in the `PATH`, or be named by
//! [`skopeo_path`](crate::ImageProxyConfig#structfield.skopeo_path).
//!
//! # A one-shot command
//!
//! ```no_run
//! use longshore::{FetchOptions, Fetcher, ImageProxyConfig, OciLayout};
//!
//! #[tokio::main]
//! async fn main() -> longshore::Result<()> {
//!     let fetcher = Fetcher::new(ImageProxyConfig::default(), FetchOptions::default()).await?;
//!     let image = fetcher.open("docker://quay.io/fedora/fedora:latest").await?;
//!     println!("{} layers", image.layers().len());
//!     fetcher.pull(&image, OciLayout::new("fedora", Some("latest".into()))).await?;
//!     Ok(())
//! }
//! ```
//!
//! There is nothing to close. Proxies end when the images and the calls that use them are dropped, and they are killed
//! if the process exits before. A program without async code wraps the same calls in
//! `tokio::runtime::Runtime::new()?.block_on(async { ... })`.
//!
//! # An async server
//!
//! A [`Fetcher`](crate::Fetcher) of `Fetcher::new` holds no proxy. An open [`Image`](crate::Image) holds the proxy that
//! opened it and, until its layers are fetched, the proxies that were started ahead. Clones of a fetcher share one
//! configuration. So make one fetcher at the start, and give each request a clone:
//!
//! ```no_run
//! use longshore::{Fetcher, OciLayout};
//! use std::time::Duration;
//!
//! async fn pull(fetcher: Fetcher, reference: String) -> longshore::Result<u64> {
//!     let image = fetcher.open(&reference).await?;
//!     let pulled = fetcher.pull(&image, OciLayout::named_by_reference("cache")).await?;
//!     Ok(pulled.fetched_bytes)
//! }
//!
//! async fn requests(fetcher: Fetcher) {
//!     let request = pull(fetcher.clone(), "docker://quay.io/podman/hello:latest".into());
//!     // Each request runs in a task of its own. Every future of this crate is `Send`.
//!     let request = tokio::spawn(request);
//!     // Another request has a time limit. When the time is up, the future is dropped, and the pull ends.
//!     let other = pull(fetcher, "docker://quay.io/fedora/fedora:latest".into());
//!     match tokio::time::timeout(Duration::from_secs(600), other).await {
//!         Ok(pulled) => println!("{pulled:?}"),
//!         Err(_) => println!("given up"),
//!     }
//!     println!("{:?}", request.await);
//! }
//! ```
//!
//! - **Dropping a future cancels its work.** This happens if a client goes away, at a timeout, or in a
//!   `select!`. Workers stop, proxies end, and the layout keeps the blobs that were complete. *Cancel safety* at
//!   each method says more.
//! - **Pulls may write into one layout at the same time**, also from several processes.
//! - **Pulls of one fetcher share a limit on their proxies.** Each pull has one proxy, and all pulls together have up
//!   to 32 further ones by default ([`proxies_per_host`](crate::FetchOptions#structfield.proxies_per_host) says more).
//!   All pulls of a process share its [descriptors](super::operating#descriptors).
//! - **The other limits are for each pull**: workers, rate, documents. With many requests at once, put a
//!   `tokio::sync::Semaphore` in front, or pull lists with [`pull_many`](crate::Fetcher::pull_many): all its images
//!   share the workers and the rate. Its limit of documents is for each request.
//!
//! `examples/async_server.rs` is such a server, with axum.
//!
//! # Runtimes
//!
//! The crate runs in the tokio runtime of the caller, with one thread or several. Timers and I/O must be
//! enabled (`enable_all()`; `#[tokio::main]` does that). In addition, each proxy has one thread, which starts
//! and reaps the process.
//!
//! A proxy belongs to the runtime in which it was made. A program with several runtimes should use an
//! [`Image`](crate::Image) in the runtime that opened it. If that runtime does not run, the first call in
//! another runtime fails after 10 s ([`Error::RuntimeIdle`](crate::Error::RuntimeIdle)); a fetcher then
//! continues with new proxies.
//!
//! # Some of the layers
//!
//! An open image knows its layers. Ask your store, and fetch what is missing:
//!
//! ```no_run
//! # async fn example(fetcher: longshore::Fetcher, store: std::collections::HashSet<String>) -> longshore::Result<()> {
//! use longshore::Layer;
//! use tokio::io::AsyncReadExt;
//!
//! let image = fetcher.open("docker://quay.io/fedora/fedora:latest").await?;
//! let is_missing = |layer: &Layer| !store.contains(layer.descriptor.digest().as_ref());
//! let missing: Vec<Layer> = image.layers().into_iter().filter(is_missing).collect();
//! let layers = fetcher
//!     .for_each_of(&image, &missing, |_layer, mut reader| async move {
//!         let mut bytes = Vec::new();
//!         reader.read_to_end(&mut bytes).await?;
//!         Ok::<_, std::io::Error>(bytes)
//!     })
//!     .await?;
//! for (layer, bytes) in layers {
//!     println!("{}: {} bytes", layer.descriptor.digest(), bytes.len());
//! }
//! # Ok(()) }
//! ```
//!
//! Three rules for handlers:
//!
//! 1. **Trust no byte before the reader's end.** Only the end says that size and digest are right. Until then, keep
//!    private what the handler makes of the bytes.
//! 2. **A handler may run again.** If a transfer breaks off, the handler is run again, and gets the layer from its
//!    first byte. A run that failed must leave nothing that disturbs the next one.
//! 3. **Many handlers run at the same time**: at most as many as there are
//!    [workers](crate::FetchOptions#structfield.workers), 32 by default.
//!
//! If your store needs the layers one after another, in their order, use [`layers`](crate::Fetcher::layers) or
//! [`layers_of`](crate::Fetcher::layers_of). The next layers are opened meanwhile. These methods do not retry a layer
//! that fails while it is read, because you have seen a part of it.
//!
//! # Handlers that block
//!
//! `tar`, and most libraries for archives, read from [`std::io::Read`]. Their handlers run on tokio's blocking threads:
//!
//! ```no_run
//! # #[cfg(feature = "decompress")]
//! # async fn example(fetcher: longshore::Fetcher) -> longshore::Result<()> {
//! let image = fetcher.open("docker://quay.io/fedora/fedora:latest").await?;
//! let files = fetcher
//!     .for_each_layer_uncompressed_blocking(&image, |_layer, reader| {
//!         let mut archive = tar::Archive::new(reader);
//!         let mut files = 0_u64;
//!         for entry in archive.entries()? {
//!             entry?;
//!             files += 1;
//!         }
//!         Ok::<_, std::io::Error>(files)
//!     })
//!     .await?;
//! println!("{files:?}");
//! # Ok(()) }
//! ```
//!
//! A thread can't be dropped like a future. When the fetch ends early, the next read of the handler fails
//! instead, so that the handler returns. Do not call blocking functions in an async handler: they delay the other
//! tasks of the program.
//!
//! # A store of your own
//!
//! [`Fetcher::pull`](crate::Fetcher::pull) writes into a [`Sink`](crate::Sink): an object store, a database, a file
//! system. A sink is asked which layers it has, stores the others, and makes the image visible at the end. Tests of a
//! sink need no skopeo:
//!
//! ```
//! use longshore::oci_spec::image::{Descriptor, Digest, MediaType};
//! use longshore::{Error, ImageContent, Layer, LayerReader, Result, Sink};
//! use tokio::io::AsyncReadExt;
//! use tokio::sync::mpsc;
//!
//! /// Sends each verified layer to another task.
//! struct Outbox(mpsc::Sender<(Digest, Vec<u8>)>);
//!
//! impl Sink for Outbox {
//!     async fn has(&self, _: &Layer) -> Result<bool> {
//!         Ok(false)
//!     }
//!
//!     async fn store(&self, layer: &Layer, mut reader: LayerReader) -> Result<()> {
//!         let mut bytes = Vec::new();
//!         // If the reader failed, `Error::handler` returns the reader's error, so that the layer is retried. Every
//!         // other error becomes an `Error::Handler`.
//!         reader.read_to_end(&mut bytes).await.map_err(Error::handler)?;
//!         reader.finish().await?;
//!         let layer = (layer.descriptor.digest().clone(), bytes);
//!         self.0.send(layer).await.map_err(Error::handler)
//!     }
//!
//!     async fn commit(&self, image: &ImageContent) -> Result<()> {
//!         println!("{} is complete", image.reference());
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
//! let (sender, mut stored) = mpsc::channel(1);
//! let sink = Outbox(sender);
//! let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
//! let layer = Layer::new(0, Descriptor::new(MediaType::ImageLayer, 3, abc.parse::<Digest>()?));
//!
//! sink.store(&layer, LayerReader::from_bytes(&layer, "abd")?).await.expect_err("wrong bytes");
//! assert!(stored.try_recv().is_err());
//! sink.store(&layer, LayerReader::from_bytes(&layer, "abc")?).await?;
//! assert_eq!(stored.recv().await, Some((abc.parse()?, b"abc".to_vec())));
//! # Ok(()) }
//! ```
//!
//! `examples/sink.rs` writes files. [`OciLayout`](crate::OciLayout) is a sink, too.
//!
//! # Errors
//!
//! [`Error`](crate::Error) is an enum. A program decides by its variants and its `kind`, and shows its text to people:
//!
//! ```
//! use longshore::{Error, RefusalKind};
//!
//! /// The status of an HTTP server that answers for a registry.
//! fn status(error: &Error) -> u16 {
//!     match error.kind() {
//!         Some(RefusalKind::NotFound) => 404,
//!         Some(RefusalKind::Unauthorized | RefusalKind::Denied | RefusalKind::Policy) => 403,
//!         Some(RefusalKind::Throttled) => 429,
//!         _ if matches!(error, Error::DeadlineExceeded) => 504,
//!         // The same call may succeed later.
//!         _ if error.is_retryable() => 503,
//!         _ => 502,
//!     }
//! }
//!
//! /// The text of an error, with its causes.
//! fn text(error: &Error) -> String {
//!     let mut text = error.to_string();
//!     let mut cause = std::error::Error::source(error);
//!     while let Some(error) = cause {
//!         text = format!("{text}: {error}");
//!         cause = error.source();
//!     }
//!     text
//! }
//!
//! assert_eq!(status(&Error::DeadlineExceeded), 504);
//! assert_eq!(text(&Error::Cancelled), "cancelled");
//! ```
//!
//! - [`kind`](crate::Error::kind) says why the registry or the proxy refused.
//! - [`is_retryable`](crate::Error::is_retryable) says whether the same call may succeed later.
//! - [`handler_ref`](crate::Error::handler_ref) returns the error of your own handler or sink, by its type.
//! - `anyhow::Error::from(error)`, printed with `{:#}`, shows the causes as well.
//!
//! # Retries
//!
//! A fetcher retries before it returns an error: a blob 4 times by default, on another proxy if there is one. So
//! do not put a retry loop around its calls. Set the [`RetryPolicy`](crate::RetryPolicy) instead, and a deadline
//! if somebody waits:
//!
//! ```
//! use longshore::{ConnectionOptions, FetchOptions, ImageProxyConfig, RetryPolicy};
//! use std::time::Duration;
//!
//! let retry = RetryPolicy::default().retries(2).deadline(Duration::from_secs(120));
//! let options = FetchOptions::default().retry(retry);
//! let connection = ConnectionOptions::default().stall_timeout(Duration::from_secs(20));
//! let config = ImageProxyConfig::default().connection(connection);
//! ```
//!
//! The defaults, and what is retried at all, are in the documentation of [`RetryPolicy`](crate::RetryPolicy) and
//! [`ConnectionOptions`](crate::ConnectionOptions).
//!
//! # Without the right to start processes
//!
//! [`Fetcher::over`](crate::Fetcher::over) fetches over proxies that another program has started, and whose sockets it
//! has passed to this one. A sandboxed program then needs neither skopeo nor credentials nor a network.
