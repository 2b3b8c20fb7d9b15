//! The public interface of the crate `containers-image-proxy` 0.11, on top of [`longshore`].
//!
//! A program that was written against that crate compiles unchanged with this one: the types, names, traits, futures
//! and errors are the same. Below them, longshore owns the proxy's socket in one task, reads blobs without a blocking
//! thread, and verifies every blob. [`ImageProxy::get_raw_blob`] is the exception: as in that crate, its bytes come
//! through a [`tokio::fs::File`], which uses blocking threads, and nothing verifies them.
//!
//! ```toml
//! [dependencies]
//! containers-image-proxy = { package = "longshore-image-proxy", version = "0.1" }
//! ```
//!
//! ```no_run
//! # async fn example() -> containers_image_proxy::Result<()> {
//! use containers_image_proxy::{ImageProxy, ImageProxyConfig};
//! use tokio::io::AsyncReadExt;
//!
//! let proxy = ImageProxy::new_with_config(ImageProxyConfig::default()).await?;
//! let image = proxy.open_image("docker://quay.io/fedora/fedora:latest").await?;
//! let (digest, manifest) = proxy.fetch_manifest(&image).await?;
//! println!("{digest} has {} layers", manifest.layers().len());
//! for layer in manifest.layers() {
//!     let (mut reader, driver) = proxy.get_descriptor(&image, layer).await?;
//!     let mut bytes = Vec::new();
//!     let (read, driver) = tokio::join!(reader.read_to_end(&mut bytes), driver);
//!     read?;
//!     driver?; // now the bytes are known to be the right ones
//! }
//! proxy.close_image(&image).await?;
//! proxy.finalize().await?;
//! # Ok(()) }
//! ```
//!
//! The README of this package lists every public item, says what differs, and shows the second step: from here to
//! `longshore::Fetcher`.
//!
//! Linux only (5.4 or later). The tokio runtime needs I/O and time (`enable_all`, as `#[tokio::main]` does).

mod blob;
mod config;
mod error;
mod image;
mod proxy;
pub mod transport;

pub use ::oci_spec;

pub use blob::{BlobStream, BlobStreamSource};
pub use config::{ImageProxyConfig, RESERVED_FD_RANGE};
pub use error::{Error, GetBlobError, Result};
pub use image::{ConvertedLayerInfo, OpenedImage};
pub use proxy::ImageProxy;
pub use transport::{
    ContainersStorageRef, ImageReference, ImageReferenceError, Transport, TransportConversionError,
};

/// Compiles the code of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
