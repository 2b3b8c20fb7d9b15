//! How to migrate from the crate `containers-image-proxy`.
//!
//! The first step changes one line, and your program uses this crate. The second step removes the code that fetches
//! many layers by hand. The first step is useful alone, and restoring the line undoes it.
//!
//! # Step one: one line of `Cargo.toml`
//!
//! The package `longshore-image-proxy` has the whole public interface of `containers-image-proxy` 0.11, on top of this crate:
//! the same names and types, and the same errors and texts, with few exceptions that `compat/README.md` lists. In
//! `Cargo.toml`, give the package the name that your code uses:
//!
//! ```toml
//! [dependencies]
//! containers-image-proxy = { package = "longshore-image-proxy", version = "0.1" }
//! ```
//!
//! Until the packages are published, `path = ".../compat"` takes the place of the version. No line of code changes. You need
//! Rust 1.88, Linux 5.4, and a tokio runtime with I/O and time enabled.
//!
//! What you get at once:
//!
//! - Every blob of `get_blob`, `get_descriptor` and `get_blob_stream` is verified here, without blocking threads.
//! - Many blobs of one proxy come at the same time, and other calls are answered meanwhile.
//! - A call without an answer for 300 s ends the proxy, and a blob without a byte for 60 s fails. Only a blob of
//!   `get_raw_blob` has no timeout.
//! - A future may be dropped at any time. What it opened is closed.
//!
//! `compat/README.md` lists every public item, what differs, and the tests that compare both crates. Read its table
//! *What differs* before you deploy. Two entries concern most programs: manifests and configs have at most 4 MiB, and
//! the proxy belongs to the runtime that made it. One thing is slower with a skopeo before 1.19: if a transfer breaks
//! off, the program learns it only after the stall timeout. Until then, the reader does not end, and the driver does
//! not fail.
//!
//! # Step two: `for_each_layer`
//!
//! That interface is one proxy, call by call. Everything else is code of its users: which layers to fetch at the same
//! time, what to do when a transfer breaks off, when to give up. Such a program has a task for each layer. From
//! `compat/README.md`:
//!
//! ```text
//!             for attempt in 0.. {
//!                 let (mut reader, driver) = proxy.get_descriptor(image, &layer).await?;
//!                 let mut bytes = Vec::new();
//!                 let (read, driver) = tokio::join!(reader.read_to_end(&mut bytes), driver);
//!                 match driver {
//!                     Ok(()) => return anyhow::Ok((index, read?)),
//!                     Err(error) if error.is_retryable() && attempt < 3 => continue,
//!                     Err(error) => return Err(error.into()),
//!                 }
//!             }
//! ```
//!
//! Around it are a semaphore, a `JoinSet`, an `Arc` of proxy and image, a vector of results by index, and two calls that close
//! things. With a [`Fetcher`](crate::Fetcher), this remains:
//!
//! ```no_run
//! use longshore::{FetchOptions, Fetcher, ImageProxyConfig};
//! use tokio::io::AsyncReadExt;
//!
//! async fn sizes(reference: &str) -> longshore::Result<Vec<usize>> {
//!     let fetcher = Fetcher::new(ImageProxyConfig::default(), FetchOptions::default()).await?;
//!     let image = fetcher.open(reference).await?;
//!     fetcher
//!         .for_each_layer(&image, |_layer, mut reader| async move {
//!             let mut bytes = Vec::new();
//!             // The end comes only if size and digest are right.
//!             reader.read_to_end(&mut bytes).await
//!         })
//!         .await
//! }
//! ```
//!
//! For this, add `longshore = { version = "0.1", default-features = false }` to `Cargo.toml`. Both crates can be used
//! side by side while a program moves: an `ImageProxyConfig` or an `ImageReference` of the first step becomes one of
//! this crate by `into()`.
//!
//! # What disappears
//!
//! | in your code | because here |
//! | --- | --- |
//! | `join!` of reader and driver | a reader that ends has the right bytes, and everything else is an error of the read |
//! | the semaphore, and the choice of its number | a fetcher starts as many proxies as make the pull faster |
//! | the loop of attempts | a layer that breaks off is fetched again, on another proxy if there is one ([`RetryPolicy`](crate::RetryPolicy)) |
//! | the start of a new proxy after one died | a proxy that dies or hangs is replaced |
//! | the hashing of raw blobs | every byte is verified before the end is reported |
//! | timeouts around each read | a stall timeout, a lowest rate, a call timeout, and a deadline if you set one |
//! | `close_image`, `finalize` | images and proxies end when they are dropped |
//!
//! # Which method is yours?
//!
//! | your program | use |
//! | --- | --- |
//! | fetches all layers at the same time | [`for_each_layer`](crate::Fetcher::for_each_layer) |
//! | fetches only the layers that it does not have | [`for_each_of`](crate::Fetcher::for_each_of) |
//! | imports one layer after another, in their order, as ostree does | [`layers`](crate::Fetcher::layers), [`layers_of`](crate::Fetcher::layers_of) |
//! | unpacks with `std::io::Read`, as composefs does | [`for_each_layer_blocking`](crate::Fetcher::for_each_layer_blocking) |
//! | needs layers decompressed, and checked against their `diff_id`s | [`for_each_layer_uncompressed`](crate::Fetcher#method.for_each_layer_uncompressed) |
//! | writes a layout or a store of its own | [`pull`](crate::Fetcher::pull) into a [`Sink`](crate::Sink) |
//! | needs one blob | [`for_blob`](crate::Fetcher::for_blob) |
//!
//! A serial import becomes this. The next 3 layers are opened while one is read:
//!
//! ```no_run
//! # async fn import(_: impl tokio::io::AsyncRead + Unpin) -> std::io::Result<()> { Ok(()) }
//! # fn is_there(_: &longshore::Layer) -> bool { false }
//! async fn import_missing(fetcher: &longshore::Fetcher, reference: &str) -> anyhow::Result<()> {
//!     let image = fetcher.open(reference).await?;
//!     let mut missing = image.layers();
//!     missing.retain(|layer| !is_there(layer));
//!     let mut layers = fetcher.layers_of(&image, &missing, 3)?;
//!     while let Some(next) = layers.next().await {
//!         let (_layer, reader) = next?;
//!         // `import` must read to the end, and keep nothing if a read fails.
//!         import(reader).await?;
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # One proxy, call by call, with the interface of this crate
//!
//! A program that needs single calls uses [`ImageProxy`](crate::ImageProxy) itself. A blob comes as a
//! [`Blob`](crate::Blob) to read, and [`split`](crate::Blob::split) makes a reader and a driver of it:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use longshore::{ImageProxy, ImageProxyConfig};
//! use tokio::io::AsyncReadExt;
//!
//! let proxy = ImageProxy::new_with_config(ImageProxyConfig::default()).await?;
//! let image = proxy.open_image("docker://quay.io/podman/hello:latest").await?;
//! let (digest, manifest) = proxy.fetch_manifest(&image).await?;
//! println!("{digest}");
//! for layer in manifest.layers() {
//!     let (mut reader, driver) = proxy.get_descriptor(&image, layer).await?.split();
//!     let mut bytes = Vec::new();
//!     reader.read_to_end(&mut bytes).await?;
//!     driver.await?;
//! }
//! proxy.close_image(image).await?;
//! proxy.finalize().await?;
//! # Ok(()) }
//! ```
