//! The fetch engine. It opens images, and fetches their layers with many workers, over as many proxies as
//! make the fetch faster.

mod attempts;
mod claims;
mod content;
#[cfg(feature = "decompress")]
mod decompress;
pub(crate) mod document;
mod document_budget;
mod each;
mod end;
mod engine;
mod event;
mod fetcher;
mod handler;
mod image;
mod index;
mod many;
mod options;
mod ordered;
mod pull;
mod rate;
mod reader;
mod request;
mod request_indexes;
mod resolve;
mod retry;
mod return_on_drop;
mod scheduler;
mod sink;
mod source;
mod starter;
mod unit;

pub use self::content::{ImageContent, Layer};
#[cfg(feature = "decompress")]
pub use self::decompress::UncompressedReader;
#[cfg(feature = "decompress")]
pub(crate) use self::decompress::{CountingReader, check_diff_id};
pub use self::each::BlockingReader;
pub use self::event::{BlobRef, DocumentKind, Event, EventKind, EventStream, Events};
pub use self::fetcher::Fetcher;
pub use self::image::Image;
pub use self::index::{Index, IndexContent};
pub use self::many::{PullMany, PulledImages};
pub use self::options::{DEFAULT_PROXIES_PER_HOST, DEFAULT_WORKERS, FetchOptions, Proxies};
pub use self::ordered::LayerStream;
pub use self::pull::Pulled;
pub(crate) use self::pull::is_foreign;
pub use self::reader::LayerReader;
pub use self::request::{ImageRequest, Platforms};
pub use self::retry::RetryPolicy;
pub use self::sink::{Discard, Sink};
pub use self::source::SourceDocument;
