//! The public errors. A caller can tell their kinds apart without reading messages.

mod blob;
mod exit;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use oci_spec::image::Digest;
use semver::Version;
use serde::de::Error as _;

use crate::protocol::{
    self, FIRST_SUPPORTED, Refusal, RefusalKind, describe_call, describe_feature, first_skopeo,
    skopeo_of, skopeos_since,
};
use crate::time::format_duration;
use crate::words::printable;

pub use self::blob::BlobError;
pub use self::exit::ChildExit;

/// A result with this library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A violation of the protocol by the proxy, as text. The cause is a bug in the proxy or in this library, a proxy that
/// is newer than this library knows, or the limit of open files of this process: descriptors that come with a reply are
/// lost if the limit is reached.
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
/// Cloning is cheap. If a proxy dies, all calls that wait for it, and all later calls of this proxy, get
/// the same error.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The options contradict each other or can't be used. No proxy was started.
    #[error(transparent)]
    Config(#[from] ConfigError),

    /// The program of the proxy, usually skopeo, could not be started.
    #[error("can't start {program}")]
    #[non_exhaustive]
    Spawn {
        /// The program, as it is configured.
        program: String,
        /// The error of the operating system.
        source: Arc<io::Error>,
    },

    /// The proxy speaks a protocol version that this library does not speak.
    #[error(
        "this skopeo can't be used: it speaks protocol {found}, and this library speaks {FIRST_SUPPORTED} and later \
         versions of 0.2 ({})",
        skopeos_since(&FIRST_SUPPORTED)
    )]
    #[non_exhaustive]
    Incompatible {
        /// The version that the proxy speaks.
        found: Version,
    },

    /// The proxy is too old for this call, which was not sent. At the start of a proxy, this error means that the proxy
    /// checks no signature policy, and that the configuration has or requires one.
    #[error(
        "{} needs skopeo {}; this is {}",
        describe_feature(method),
        first_skopeo(required),
        skopeo_of(found)
    )]
    #[non_exhaustive]
    Unsupported {
        /// The name of the method in the protocol, or of another feature that the proxy lacks.
        method: &'static str,
        /// The first protocol version that has this method or feature.
        required: Version,
        /// The version that the proxy speaks.
        found: Version,
    },

    /// The call's arguments do not fit into one packet. Nothing was sent.
    #[error(
        "{}: the request has {bytes} bytes, more than the protocol allows",
        describe_call(method)
    )]
    #[non_exhaustive]
    TooLarge {
        /// The method's name on the wire.
        method: &'static str,
        /// The size of the packet, in bytes. The limit is 32 KiB.
        bytes: usize,
    },

    /// skopeo refused the call. If a proxy refused the call, the connection to this proxy is still good.
    #[error("{} failed{}", describe_call(method), tries_text(*.tries))]
    #[non_exhaustive]
    Refused {
        /// The name of the method in the protocol, or of a command such as `skopeo inspect`.
        method: &'static str,
        /// The number of tries by the [`Fetcher`](crate::Fetcher). An [`ImageProxy`](crate::ImageProxy) tries once.
        tries: u32,
        /// The reason.
        #[source]
        refusal: Refusal,
    },

    /// The proxy broke the protocol. The connection is closed.
    #[error("the proxy broke the protocol")]
    Protocol(#[source] Violation),

    /// The process of a proxy, or of another skopeo such as `skopeo inspect`, ended before this library asked it to, or
    /// its exit status reports a failure.
    #[error(transparent)]
    ProxyExited(Arc<ChildExit>),

    /// The proxy closed the connection, and this process did not see it exit. Either the connection was made by
    /// [`ImageProxy::connect`](crate::ImageProxy::connect), or the proxy's process did not exit within 2 s.
    #[error("the proxy closed the connection")]
    Disconnected,

    /// The proxy was finalized, or the runtime in which it was made is gone.
    #[error("the proxy is closed")]
    Closed,

    /// The runtime in which the proxy was made does not run, so no call is answered. A runtime of one thread runs only
    /// while some thread is in its `block_on`. Make the proxy, and open the image, in the runtime that uses them.
    #[error(
        "the proxy was made in a tokio runtime that does not run: use the proxy in that runtime, or make the proxy in this one"
    )]
    RuntimeIdle,

    /// skopeo did not answer a call, or end another operation, in time. If it was a call to a proxy, the connection to
    /// this proxy is closed, because all later calls would wait as well.
    #[error(
        "{}: skopeo did not answer within {}{}",
        describe_call(method),
        format_duration(*after),
        tries_text(*.tries)
    )]
    #[non_exhaustive]
    CallTimeout {
        /// The name of the method in the protocol, or of another operation, such as `skopeo inspect`.
        method: &'static str,
        /// The number of tries by the [`Fetcher`](crate::Fetcher). An [`ImageProxy`](crate::ImageProxy) tries once.
        tries: u32,
        /// The time limit of the call, usually the [`call_timeout`](crate::ConnectionOptions#structfield.call_timeout).
        after: Duration,
    },

    /// A blob could not be fetched, or its bytes are wrong.
    #[error("blob {digest}{}", tries_text(*.tries))]
    #[non_exhaustive]
    Blob {
        /// The digest of the blob.
        digest: Digest,
        /// The number of tries by the [`Fetcher`](crate::Fetcher). An [`ImageProxy`](crate::ImageProxy) tries once.
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
        /// `"manifest"`, `"index"`, `"image config"`, `"layer info"` or `"list of tags"`.
        what: &'static str,
        /// The error of the parser.
        source: Arc<serde_json::Error>,
    },

    /// A document is larger than [`max_document_bytes`](crate::ConnectionOptions#structfield.max_document_bytes), or a
    /// list of tags is larger than [`max_documents_bytes`](crate::FetchOptions#structfield.max_documents_bytes). The
    /// connection is still good, and at most one byte more than the limit was read.
    #[error("the {what} has more than {limit} bytes")]
    #[non_exhaustive]
    DocumentTooLarge {
        /// `"manifest"`, `"index"`, `"image config"`, `"layer info"` or `"list of tags"`.
        what: &'static str,
        /// The limit, in bytes.
        limit: u64,
    },

    /// The manifests, indexes and image configs of one pull together are larger
    /// than [`max_documents_bytes`](crate::FetchOptions#structfield.max_documents_bytes).
    #[error("manifests, indexes and image configs have more than {limit} bytes together")]
    #[non_exhaustive]
    DocumentsTooLarge {
        /// The limit, in bytes.
        limit: u64,
    },

    /// The image, or the request for it, can't be used. The text says why.
    #[error("the image can't be pulled: {0}")]
    Image(String),

    /// A handler or a sink failed with an error of its own. [`handler_ref`](Error::handler_ref) returns that error.
    #[error(transparent)]
    Handler(Arc<dyn std::error::Error + Send + Sync>),

    /// A handler returned without dropping the reader of its layer.
    #[error("a handler returned without dropping the reader of its layer")]
    ReaderKept,

    /// The image changed between two openings: its tag has moved, or its folder was changed.
    #[error("{reference} changed while it was fetched: it was {was}, now it is {now}")]
    #[non_exhaustive]
    ImageChanged {
        /// The reference by which the image was asked for.
        reference: String,
        /// The digest of the image's manifest at the first opening.
        was: Digest,
        /// The digest of the image's manifest at the later opening.
        now: Digest,
    },

    /// The call took longer than its [deadline](crate::RetryPolicy#structfield.deadline).
    #[error("not done within the deadline")]
    DeadlineExceeded,

    /// The future or the stream of the fetch was dropped, or a pull of many images ended while a layer of a failed
    /// request was still being fetched. The readers of its layers return this error.
    #[error("cancelled")]
    Cancelled,

    /// The operating system reported an error.
    #[error("{what}")]
    #[non_exhaustive]
    Io {
        /// The operation that failed, with the name of its file.
        what: String,
        /// The error of the operating system.
        source: Arc<io::Error>,
    },
}

/// Returns the number of tries as text, such as ` (tried 5 times)`. The text of a single try is empty.
fn tries_text(tries: u32) -> String {
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
            // The parser's message can quote the document.
            let message = source.to_string();
            let shown = printable(&message);
            let source = if shown == message {
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

    /// Makes an [`Error::Image`]. The reason is cleaned, because it can quote the image.
    pub(crate) fn image(reason: impl AsRef<str>) -> Self {
        Self::Image(printable(reason.as_ref()))
    }

    /// Makes an [`Error::Handler`] of the error of a handler or sink. If that error is an error of this library, or has
    /// one as its cause, the library's error is returned instead. The cause is also found inside an [`io::Error`], and
    /// under a context that `anyhow` added. It is not found in an `anyhow::Error` without a context. Add
    /// a context to such an error: `longshore::Error::handler(error.context("the handler failed"))`.
    pub fn handler(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let error = error.into();
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&*error);
        while let Some(error) = cause {
            if let Some(ours) = error.downcast_ref::<Self>() {
                return ours.clone();
            }
            // The source of an `io::Error` is not the error inside it, but the source of that error.
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

    /// Returns this error with `count` as its number of tries, unless that number is higher already.
    pub(crate) fn with_tries(mut self, count: u32) -> Self {
        if let Self::Blob { tries, .. }
        | Self::Refused { tries, .. }
        | Self::CallTimeout { tries, .. } = &mut self
        {
            *tries = (*tries).max(count);
        }
        self
    }

    /// Returns the reason why the registry or the proxy refused a call. `None` means that this error is not a refusal.
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

    /// Returns the error that a handler or a sink returned, if its type is `E`. `None` for every other error. The
    /// error of a handler that returned an `anyhow::Error` has a private type, so `None` is returned for it as well.
    #[must_use]
    pub fn handler_ref<E: std::error::Error + 'static>(&self) -> Option<&E> {
        match self {
            Self::Handler(error) => error.downcast_ref(),
            _ => None,
        }
    }

    /// Whether the same call may succeed later, on another proxy if this one is gone. For a refusal, this is
    /// [`Refusal::is_transient`], which assumes an image at a registry. If the image is elsewhere, such as in a folder,
    /// a retry after a refusal rarely helps.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { refusal, .. } => refusal.is_transient(),
            Self::ProxyExited(exit) => !exit.is_no_proxy(),
            Self::Protocol(_)
            | Self::Disconnected
            | Self::RuntimeIdle
            | Self::CallTimeout { .. } => true,
            Self::Blob { source, .. } => source.is_retryable(),
            _ => false,
        }
    }

    /// Whether the connection to the proxy is closed, so that every later call on it fails with the same error.
    ///
    /// The result is also `true` if the runtime of the proxy does not run now, and if another skopeo, such as `skopeo
    /// inspect`, exited or did not end in time.
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

/// Puts the library's error into an [`io::Error`], for the readers of blobs. [`io::Error::downcast`] returns the
/// library's error.
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

/// An error in the options. No proxy was started.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Two options exclude each other, and both were given.
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
        /// The problem with the value, and what would be right.
        reason: String,
    },
}

/// The error of a text that can't be parsed, such as a [`Platform`](crate::Platform). The message says
/// what is expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

impl ParseError {
    pub(crate) fn new(expected: impl Into<String>) -> Self {
        Self(expected.into())
    }
}

/// Returns the error of a task that ended without a result because its runtime is gone. If the task panicked, the
/// panic continues in the caller.
pub(crate) fn join_error(error: tokio::task::JoinError) -> Error {
    if error.is_panic() {
        std::panic::resume_unwind(error.into_panic());
    }
    Error::Closed
}

/// The message of an error and of its causes, on one line.
pub(crate) fn error_chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[derive(Debug, thiserror::Error)]
    #[error("theirs")]
    struct Theirs(#[source] io::Error);

    #[test]
    fn a_wrapped_error_of_this_library_is_found() {
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
