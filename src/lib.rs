//! Fetch container images through `skopeo experimental-image-proxy`.

mod config;
mod drain;
mod error;
mod fetch;
mod layout;
mod protocol;
mod proxy;
mod sys;

pub use config::{
    AuthData, ConnectionOptions, Credentials, DEFAULT_CALL_TIMEOUT, DEFAULT_SHUTDOWN_TIMEOUT,
    DEFAULT_STALL_TIMEOUT, ImageProxyConfig, VersionQuestion,
};
pub use error::{BlobError, ChildExit, ConfigError, Error, Result};
#[cfg(feature = "decompress")]
pub use fetch::UncompressedReader;
pub use fetch::{
    BlobName, DEFAULT_PROXIES_PER_HOST, DEFAULT_WORKERS, Discard, Event, EventKind, Events,
    FetchOptions, Fetcher, Image, ImageContent, Layer, LayerReader, Proxies, Pulled, RetryPolicy,
    Sink,
};
pub use layout::OciLayout;
pub use oci_spec;
pub use protocol::{FIRST_SUPPORTED, LayerInfo, Refusal, RefusalCode, Violation, supports_method};
pub use proxy::{Blob, BlobDriver, BlobReader, ImageProxy, OpenedImage};
