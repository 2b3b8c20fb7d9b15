//! Why a blob could not be fetched, or is wrong.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use oci_spec::image::Digest;

use super::Error;
use crate::protocol::Refusal;
use crate::time::format_duration;

/// The reason why a blob could not be fetched, or is wrong.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The proxy or the registry refused the blob, before or during the transfer.
    #[error(transparent)]
    Refused(Refusal),
    /// The blob ended before all bytes came, and the proxy gave no reason.
    #[error("ended after {read} bytes of {size}")]
    #[non_exhaustive]
    Short {
        /// The number of bytes that came.
        read: u64,
        /// The expected size, in bytes.
        size: u64,
    },
    /// The blob is longer than expected: than the size in the descriptor of a [`Blob`](crate::Blob), or than the size
    /// that the registry announced for a [`RawBlob`](crate::RawBlob). At most one byte too many of a `Blob` was read.
    /// A `RawBlob` was read to its end.
    #[error("longer than the expected {size} bytes")]
    #[non_exhaustive]
    TooLong {
        /// The expected size, in bytes.
        size: u64,
    },
    /// The size that the registry announces is not the size in the descriptor.
    #[error("announced with {announced} bytes, its descriptor says {size}")]
    #[non_exhaustive]
    WrongSize {
        /// The size that the registry announces, in bytes.
        announced: u64,
        /// The size in the descriptor, in bytes.
        size: u64,
    },
    /// The bytes have another digest than expected. If the size was known before, it is right.
    #[error("corrupt: its bytes have digest {computed}")]
    #[non_exhaustive]
    Corrupt {
        /// The digest of the bytes that came.
        computed: Digest,
    },
    /// No byte of the blob came for the stall timeout while a caller waited to read. A [`Fetcher`](crate::Fetcher) also
    /// returns this error if the proxy did not answer the call for the blob in this time.
    #[error("stalled: no byte for {}, after {read} bytes", format_duration(*after))]
    #[non_exhaustive]
    Stalled {
        /// The [`stall_timeout`](crate::ConnectionOptions#structfield.stall_timeout).
        after: Duration,
        /// The number of bytes that came before.
        read: u64,
    },
    /// The bytes of the blob came too slowly while a caller waited to read.
    #[error(
        "too slow: less than {least} bytes a second over {}, after {read} bytes",
        format_duration(*over)
    )]
    #[non_exhaustive]
    TooSlow {
        /// The [`least_rate`](crate::ConnectionOptions#structfield.least_rate), in bytes per second.
        least: u64,
        /// The [`stall_timeout`](crate::ConnectionOptions#structfield.stall_timeout).
        over: Duration,
        /// The number of bytes that came before.
        read: u64,
    },
    /// The digest's algorithm is not sha256, sha384 or sha512. The blob was not fetched.
    #[error("its digest's algorithm can't be checked (known: sha256, sha384, sha512)")]
    UnknownAlgorithm,
    /// The reader was dropped before all bytes were read, so the blob could not be checked.
    #[error("its reader was dropped after {read} bytes, before the end")]
    #[non_exhaustive]
    Abandoned {
        /// The number of bytes that were read.
        read: u64,
    },
    /// The [`BlobDriver`](crate::BlobDriver) was awaited, and no byte was read for the stall timeout.
    #[error("nobody read from it for {}, so it could not be checked", format_duration(*after))]
    #[non_exhaustive]
    Unread {
        /// The [`stall_timeout`](crate::ConnectionOptions#structfield.stall_timeout).
        after: Duration,
    },
    /// The size in the descriptor is larger than the protocol can carry exactly (2^53 − 1 bytes).
    #[error("its size of {0} bytes is more than the protocol allows")]
    ImpossibleSize(u64),
    /// The layer can't be decompressed. Its compressed bytes may be wrong: after this error, a
    /// [`Fetcher`](crate::Fetcher) checks their digest only if at most 128 MiB are unread, and for 10 s at most.
    #[error("can't be decompressed")]
    Decompress(#[source] Arc<io::Error>),
    /// The layer decompresses to more bytes than its compressed size allows for.
    #[error("decompresses to more than the allowed {limit} bytes")]
    #[non_exhaustive]
    Expands {
        /// The limit, in bytes, from [`FetchOptions::max_expansion`](crate::FetchOptions#structfield.max_expansion).
        limit: u64,
    },
    /// The layer is compressed by zstd with a window larger than the limit. The decompression needs memory of the
    /// window's size.
    #[error("its zstd window is larger than the allowed {limit} bytes")]
    #[non_exhaustive]
    ZstdWindow {
        /// The limit, in bytes: [`FetchOptions::max_zstd_window`](crate::FetchOptions#structfield.max_zstd_window).
        limit: u64,
    },
    /// The layer's compressed bytes have the right digest, but the decompressed bytes have a wrong one.
    #[error("decompresses to {computed}, the image config says {diff_id}")]
    #[non_exhaustive]
    WrongDiffId {
        /// The digest of the decompressed bytes.
        computed: Box<Digest>,
        /// The digest in the image config.
        diff_id: Box<Digest>,
    },
    /// The connection to the proxy failed or was closed, before or during the transfer of the blob.
    #[error("its proxy failed")]
    Connection(#[source] Box<Error>),
    /// The pipe could not be read.
    #[error("its pipe can't be read")]
    Read(#[source] Arc<io::Error>),
}

impl BlobError {
    pub(super) fn is_retryable(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.is_transient(),
            Self::Short { .. }
            | Self::TooLong { .. }
            | Self::WrongSize { .. }
            | Self::Stalled { .. }
            | Self::TooSlow { .. }
            | Self::Corrupt { .. } => true,
            Self::Connection(source) => source.is_retryable(),
            _ => false,
        }
    }
}
