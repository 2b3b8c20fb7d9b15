//! Errors. A caller tells the kinds apart without reading messages.

use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use oci_spec::image::Digest;
use semver::Version;
use serde::de::Error as _;

use crate::protocol::{
    self, FIRST_SUPPORTED, Refusal, RefusalKind, doing, first_skopeo, skopeo_of,
};
use crate::words::printable;

/// A result with this library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A violation of the protocol by the proxy, as text. It says a bug in the proxy, or in this library, or a proxy of a newer
/// version than this library knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct Violation(protocol::Violation);

impl From<protocol::Violation> for Error {
    fn from(violation: protocol::Violation) -> Self {
        Self::Protocol(Violation(violation))
    }
}

/// The error of every call of this library.
///
/// Cloning is cheap: when a proxy dies, all calls that wait for it, and all later ones, get the same error.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The options contradict each other or can't be used. Nothing was
    /// started.
    #[error(transparent)]
    Config(#[from] ConfigError),

    /// The program of the proxy, usually skopeo, could not be started.
    #[error("can't start {program}")]
    #[non_exhaustive]
    Spawn {
        /// The program, as it is configured.
        program: String,
        /// What the system says.
        source: Arc<io::Error>,
    },

    /// The proxy speaks a protocol version that this library does not.
    #[error(
        "this skopeo can't be used: it speaks protocol {found}, and {FIRST_SUPPORTED} or a later 0.2 is needed (skopeo {})",
        first_skopeo(&FIRST_SUPPORTED)
    )]
    #[non_exhaustive]
    Incompatible {
        /// The version that the proxy speaks.
        found: Version,
    },

    /// The proxy is too old for this call. Nothing was sent.
    #[error(
        "{} needs skopeo {}; this is {}",
        doing(method),
        first_skopeo(required),
        skopeo_of(found)
    )]
    #[non_exhaustive]
    Unsupported {
        /// The name of the method in the protocol, or of what else the proxy does not do.
        method: &'static str,
        /// The first protocol version that has it.
        required: Version,
        /// The version that the proxy speaks.
        found: Version,
    },

    /// The call's arguments do not fit into one packet. Nothing was sent.
    #[error(
        "{}: the request has {bytes} bytes, more than the protocol allows",
        doing(method)
    )]
    #[non_exhaustive]
    TooLarge {
        /// The method's name on the wire.
        method: &'static str,
        /// The packet's size.
        bytes: usize,
    },

    /// The proxy refused the call. The connection is still good.
    #[error("{} failed{}", doing(method), times(*.tries))]
    #[non_exhaustive]
    Refused {
        /// The method's name on the wire.
        method: &'static str,
        /// How often the [`Fetcher`](crate::Fetcher) tried; 1 of an [`ImageProxy`](crate::ImageProxy), which tries once.
        tries: u32,
        /// The reason.
        #[source]
        refusal: Refusal,
    },

    /// The proxy broke the protocol. The connection can't be used any more.
    #[error("the proxy broke the protocol")]
    Protocol(#[source] Violation),

    /// The proxy's process ended by itself.
    #[error(transparent)]
    ProxyExited(Arc<ChildExit>),

    /// The other end closed a connection that was given by [`ImageProxy::connect`](crate::ImageProxy::connect).
    #[error("the proxy closed the connection")]
    Disconnected,

    /// This proxy was finalized, or the runtime that drove it is gone.
    #[error("the proxy is closed")]
    Closed,

    /// The runtime in which the proxy was made does not run, so no call is answered: a runtime of one thread runs only while
    /// somebody is in its `block_on`. Make the proxy, and open the image, in the runtime that uses them.
    #[error(
        "the tokio runtime that the proxy was made in does not run: use it there, or make it here"
    )]
    RuntimeIdle,

    /// A call was not answered in time. The connection was given up, for all later calls would wait, too.
    #[error("{}: skopeo did not answer within {after:?}", doing(method))]
    #[non_exhaustive]
    CallTimeout {
        /// The method's name on the wire.
        method: &'static str,
        /// The [`call_timeout`](crate::ConnectionOptions::call_timeout).
        after: Duration,
    },

    /// A blob could not be fetched, or is not what it should be.
    #[error("blob {digest}{}", times(*.tries))]
    #[non_exhaustive]
    Blob {
        /// The digest of the blob.
        digest: Digest,
        /// How often the [`Fetcher`](crate::Fetcher) tried; 1 of an [`ImageProxy`](crate::ImageProxy), which tries once.
        tries: u32,
        /// The reason.
        #[source]
        source: BlobError,
    },

    /// A call was given an [`OpenedImage`](crate::OpenedImage) that another proxy has opened.
    #[error("the image was opened by another proxy")]
    ForeignImage,

    /// A document can't be parsed.
    #[error("the {what} can't be understood")]
    #[non_exhaustive]
    Decode {
        /// `"manifest"`, `"image config"` or `"layer info"`.
        what: &'static str,
        /// The error of the parser.
        source: Arc<serde_json::Error>,
    },

    /// A document has more bytes than
    /// [`max_document_bytes`](crate::ConnectionOptions::max_document_bytes)
    /// allows. The connection is still good, and no more than one byte too many
    /// was read.
    #[error("the {what} has more than {limit} bytes")]
    #[non_exhaustive]
    DocumentTooLarge {
        /// `"manifest"`, `"index"`, `"image config"` or `"layer info"`.
        what: &'static str,
        /// The limit, in bytes.
        limit: u64,
    },

    /// The manifests, indexes and image configs of one pull have more bytes together than
    /// [`max_documents_bytes`](crate::FetchOptions::max_documents_bytes) allows.
    #[error("manifests, indexes and image configs have more than {limit} bytes together")]
    #[non_exhaustive]
    DocumentsTooLarge {
        /// How many are allowed.
        limit: u64,
    },

    /// The image, or the request for it, can't be used as it is; the text says why.
    #[error("the image can't be pulled: {0}")]
    Image(String),

    /// A handler or a sink failed with an error of its own: see [`handler_ref`](Error::handler_ref).
    #[error(transparent)]
    Handler(Arc<dyn std::error::Error + Send + Sync>),

    /// A handler returned, and kept the reader it was given.
    #[error("a handler returned without dropping the reader of its layer")]
    ReaderKept,

    /// The image is not the same any more: its tag has moved, or its folder
    /// was changed, between two openings.
    #[error("{reference} changed while it was fetched: it was {was}, now it is {now}")]
    #[non_exhaustive]
    ImageChanged {
        /// The reference by which the image was asked for.
        reference: String,
        /// The digest of the image's manifest when the image was opened first.
        was: Digest,
        /// The digest of the image's manifest at the later opening.
        now: Digest,
    },

    /// The call took longer than its [deadline](crate::RetryPolicy::deadline).
    #[error("not done within the deadline")]
    DeadlineExceeded,

    /// The fetch has ended, by another error or because its future or stream was dropped: what a reader of one of its layers
    /// says then.
    #[error("cancelled")]
    Cancelled,

    /// The operating system refused something.
    #[error("{what}")]
    #[non_exhaustive]
    Io {
        /// What was tried, and on which file.
        what: String,
        /// What the system says.
        source: Arc<io::Error>,
    },
}

/// How often something was tried, if it was more than once: ` (tried 5 times)`.
fn times(tries: u32) -> String {
    match tries {
        0 | 1 => String::new(),
        _ => format!(" (tried {tries} times)"),
    }
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io {
            what,
            source: Arc::new(source),
        }
    }

    pub(crate) fn decode(what: &'static str) -> impl FnOnce(serde_json::Error) -> Self {
        move |source| {
            // It can quote the document.
            let said = source.to_string();
            let shown = printable(&said);
            let source = if shown == said {
                source
            } else {
                serde_json::Error::custom(shown)
            };
            Self::Decode {
                what,
                source: Arc::new(source),
            }
        }
    }

    /// The reason can quote what the image says.
    pub(crate) fn image(reason: impl AsRef<str>) -> Self {
        Self::Image(printable(reason.as_ref()))
    }

    /// Makes an [`Error::Handler`] of the error of a handler or sink. An error of this library stays what it is, also where
    /// it is the cause of another one: in an [`io::Error`] that a reader returned, or under a context. It can't be found in
    /// an `anyhow::Error` without a context; there, `error.downcast()` takes it out.
    pub fn handler(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let error = error.into();
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&*error);
        while let Some(error) = cause {
            if let Some(ours) = error.downcast_ref::<Self>() {
                return ours.clone();
            }
            // Its source is not what is in it, but the source of that.
            let inner = error
                .downcast_ref::<io::Error>()
                .and_then(io::Error::get_ref);
            cause = match inner {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        Self::Handler(Arc::from(error))
    }

    pub(crate) fn blob(digest: &Digest) -> impl Fn(BlobError) -> Self {
        move |source| Self::Blob {
            digest: digest.clone(),
            tries: 1,
            source,
        }
    }

    /// This error, as the last one of so many tries.
    pub(crate) fn after(mut self, count: u32) -> Self {
        if let Self::Blob { tries, .. } | Self::Refused { tries, .. } = &mut self {
            *tries = (*tries).max(count);
        }
        self
    }

    /// Why a registry, or the proxy, refused to open an image or to hand out a blob. `None` for every other error.
    #[must_use]
    pub fn kind(&self) -> Option<RefusalKind> {
        match self {
            Self::Refused { refusal, .. }
            | Self::Blob {
                source: BlobError::Refused(refusal),
                ..
            } => Some(refusal.kind()),
            Self::Blob {
                source: BlobError::Connection(source),
                ..
            } => source.kind(),
            _ => None,
        }
    }

    /// The error of a handler or a sink, if this is one of that type: what its future returned, before it became an
    /// [`Error::Handler`]. An `anyhow::Error` becomes one whose type nobody can name.
    #[must_use]
    pub fn handler_ref<E: std::error::Error + 'static>(&self) -> Option<&E> {
        match self {
            Self::Handler(error) => error.downcast_ref(),
            _ => None,
        }
    }

    /// Whether the same call may succeed later, on another proxy if this one is gone. Of refusals, it goes by
    /// [`Refusal::is_transient`], which holds for images at a registry.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { refusal, .. } => refusal.is_transient(),
            Self::ProxyExited(_)
            | Self::Disconnected
            | Self::RuntimeIdle
            | Self::CallTimeout { .. } => true,
            Self::Blob { source, .. } => source.is_retryable(),
            _ => false,
        }
    }

    /// Whether the connection is closed, so that every further call on it fails the same way.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Protocol(_)
            | Self::ProxyExited(_)
            | Self::Disconnected
            | Self::Closed
            | Self::RuntimeIdle
            | Self::CallTimeout { .. } => true,
            Self::Blob {
                source: BlobError::Connection(source),
                ..
            } => source.is_closed(),
            _ => false,
        }
    }
}

/// Readers of a blob get the library's error inside an [`io::Error`];
/// [`io::Error::downcast`] takes it out again.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Blob {
                source: BlobError::Stalled { .. } | BlobError::TooSlow { .. },
                ..
            } => io::ErrorKind::TimedOut,
            Error::Blob {
                source: BlobError::Short { .. },
                ..
            } => io::ErrorKind::UnexpectedEof,
            Error::Blob { .. } => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Options that can't be used. Nothing was started.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Two options of which only one can be given.
    #[error("{first} and {second} exclude each other: give only one of them")]
    #[non_exhaustive]
    Conflict {
        /// The name of one option.
        first: &'static str,
        /// The name of the other option.
        second: &'static str,
    },
    /// An option's value can't be used.
    #[error("{option}: {reason}")]
    #[non_exhaustive]
    Invalid {
        /// The name of the option.
        option: &'static str,
        /// What is wrong with the value, and what would be right.
        reason: String,
    },
}

/// The reason why a blob could not be fetched, or is wrong.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The proxy, or the registry behind it, refused the blob: at once, or during the transfer.
    #[error(transparent)]
    Refused(Refusal),
    /// The blob ended before all bytes came, and the proxy gave no reason.
    #[error("ended after {read} bytes of {size}")]
    #[non_exhaustive]
    Short {
        /// The number of bytes that came.
        read: u64,
        /// How many were to come.
        size: u64,
    },
    /// The blob is longer than its descriptor says. No more than one byte too many was read.
    #[error("longer than the {size} bytes of its descriptor")]
    #[non_exhaustive]
    TooLong {
        /// How many were to come.
        size: u64,
    },
    /// The registry announces another size than the descriptor.
    #[error("announced with {announced} bytes, its descriptor says {size}")]
    #[non_exhaustive]
    WrongSize {
        /// The size that the registry announces, in bytes.
        announced: u64,
        /// How many were to come.
        size: u64,
    },
    /// The blob has the right size, but another digest.
    #[error("corrupt: its bytes have digest {computed}")]
    #[non_exhaustive]
    Corrupt {
        /// The digest of what came.
        computed: Digest,
    },
    /// No byte came for that long while somebody was waiting to read.
    #[error("stalled: no byte for {after:?}, after {read} in all")]
    #[non_exhaustive]
    Stalled {
        /// The [`stall_timeout`](crate::ConnectionOptions::stall_timeout).
        after: Duration,
        /// The number of bytes that came before.
        read: u64,
    },
    /// Bytes came, but too slowly, while somebody was waiting to read.
    #[error("too slow: less than {least} bytes a second over {over:?}, after {read} in all")]
    #[non_exhaustive]
    TooSlow {
        /// The [`least_rate`](crate::ConnectionOptions::least_rate).
        least: u64,
        /// The [`stall_timeout`](crate::ConnectionOptions::stall_timeout).
        over: Duration,
        /// How many bytes came before.
        read: u64,
    },
    /// The digest's algorithm is not sha256, sha384 or sha512. Nothing was
    /// fetched.
    #[error("its digest's algorithm can't be checked (known: sha256, sha384, sha512)")]
    UnknownAlgorithm,
    /// The reader was dropped before all bytes were read, so that there is no
    /// verdict.
    #[error("its reader was dropped after {read} bytes, before the end")]
    #[non_exhaustive]
    Abandoned {
        /// The number of bytes that were read.
        read: u64,
    },
    /// The driver was awaited, and nobody read for the stall timeout.
    #[error("nobody read from it for {after:?}, so its end can't be judged")]
    #[non_exhaustive]
    Unread {
        /// The [`stall_timeout`](crate::ConnectionOptions::stall_timeout).
        after: Duration,
    },
    /// The size in the descriptor is one that no transport has.
    #[error("a size of {0} bytes can't be asked for")]
    ImpossibleSize(u64),
    /// The layer's compressed bytes are right, but they can't be decompressed.
    #[error("can't be decompressed")]
    Decompress(#[source] Arc<io::Error>),
    /// The layer decompresses to more bytes than its compressed size allows for.
    #[error("decompresses to more than {limit} bytes, the bound that max_expansion sets")]
    #[non_exhaustive]
    Expands {
        /// The bound, from [`FetchOptions::max_expansion`](crate::FetchOptions::max_expansion).
        limit: u64,
    },
    /// The layer is compressed by zstd with a larger window than is allowed, so that decompressing it would
    /// take more memory.
    #[error("its zstd window is larger than the {limit} bytes of max_zstd_window")]
    #[non_exhaustive]
    ZstdWindow {
        /// The bound, [`FetchOptions::max_zstd_window`](crate::FetchOptions::max_zstd_window).
        limit: u64,
    },
    /// The layer's compressed bytes are right, but not what they decompress to.
    #[error("decompresses to {computed}, the image config says {diff_id}")]
    #[non_exhaustive]
    WrongDiffId {
        /// The digest of what came out.
        computed: Box<Digest>,
        /// The digest in the image config.
        diff_id: Box<Digest>,
    },
    /// The proxy itself failed while the blob was on its way.
    #[error("its proxy failed")]
    Connection(#[source] Box<Error>),
    /// The pipe could not be read.
    #[error("its pipe can't be read")]
    Read(#[source] Arc<io::Error>),
}

impl BlobError {
    fn is_retryable(&self) -> bool {
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

/// The end of a proxy's process: its exit status, and the end of its stderr.
#[derive(Debug, Clone)]
pub struct ChildExit {
    program: String,
    status: Option<ExitStatus>,
    stderr: String,
    crash: Option<String>,
}

/// How much of a line of the proxy's stderr an error message shows.
const SHOWN_STDERR_CHARS: usize = 300;

impl ChildExit {
    pub(crate) fn new(
        program: String,
        status: Option<ExitStatus>,
        stderr: String,
        crash: Option<String>,
    ) -> Self {
        Self {
            program,
            status,
            stderr,
            crash,
        }
    }

    /// The exit status. `None` if the process was reaped by somebody else
    /// (a program that ignores `SIGCHLD`, or waits for all its children).
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        self.status
    }

    /// The last 64 KiB of what it wrote to stderr, as [`printable`](crate::printable) lines.
    #[must_use]
    pub fn stderr(&self) -> &str {
        &self.stderr
    }

    /// Whether it ended with status 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// Whether it is known to have failed. A status that somebody else collected tells nothing, and
    /// what else is known, such as that all bytes came, decides.
    pub(crate) fn failed(&self) -> bool {
        self.status.is_some_and(|status| !status.success())
    }
}

impl std::fmt::Display for ChildExit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            program,
            status,
            stderr,
            crash,
        } = self;
        match status {
            Some(status) => write!(f, "{program} ended: {status}")?,
            None => write!(
                f,
                "{program} ended (its status was collected by somebody else)"
            )?,
        }
        let last = stderr.lines().rev().find(|line| !line.trim().is_empty());
        let (said, line) = match (crash, last) {
            (Some(crash), _) => ("it crashed", crash.as_str()),
            (None, Some(last)) => ("it last said", last),
            (None, None) => return Ok(()),
        };
        let shown: String = line.trim().chars().take(SHOWN_STDERR_CHARS).collect();
        write!(f, "; {said}: {shown}")
    }
}

impl std::error::Error for ChildExit {}

/// The error of a task that ended without a result. A task that panicked panics on in its owner; one that was cancelled went
/// with its runtime.
pub(crate) fn panicked(error: tokio::task::JoinError) -> Error {
    if error.is_panic() {
        std::panic::resume_unwind(error.into_panic());
    }
    Error::Closed
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[derive(Debug, thiserror::Error)]
    #[error("theirs")]
    struct Theirs(#[source] io::Error);

    #[test]
    fn an_error_of_ours_stays_what_it_is_whatever_it_is_wrapped_in() {
        let io = || io::Error::from(Error::Cancelled);
        let wrapped: [Box<dyn std::error::Error + Send + Sync>; 6] = [
            Error::Cancelled.into(),
            io().into(),
            io::Error::other(io()).into(),
            Theirs(io()).into(),
            anyhow::Error::from(Error::Cancelled).context("more").into(),
            anyhow::Error::from(io())
                .context("and")
                .context("more")
                .into(),
        ];
        for error in wrapped {
            let shown = format!("{error:?}");
            let error = Error::handler(error);
            assert!(matches!(error, Error::Cancelled), "{shown}: {error:?}");
        }
        let read: Result<(), _> = Err(io()).context("can't read");
        let error = Error::handler(read.expect_err("an error"));
        assert!(matches!(error, Error::Cancelled), "{error:?}");
        let others: [Box<dyn std::error::Error + Send + Sync>; 3] = [
            "theirs".into(),
            io::Error::other("theirs").into(),
            Theirs(io::Error::other("x")).into(),
        ];
        for theirs in others {
            let error = Error::handler(theirs);
            assert!(matches!(error, Error::Handler(_)), "{error:?}");
            assert_eq!(error.to_string(), "theirs");
        }
    }
}
