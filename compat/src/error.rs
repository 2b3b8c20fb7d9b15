//! The errors of the other crate, and how the errors of longshore are converted to them.

use std::fmt::Write as _;
use std::io;

use longshore::{BlobError, ChildExit, Refusal, RefusalCode};
use serde::de::Error as _;

/// The result of the functions of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// The name of the call that the other crate itself refuses if the proxy is too old. The proxy refuses the others.
pub(crate) const OPEN_VARLINK_SOCKET: &str = "OpenVarlinkSocket";

/// The error of every call of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("i/o error: {0}")]
    Io(#[from] io::Error),
    /// skopeo could not be started.
    #[error("skopeo spawn error: {0}")]
    SkopeoSpawnError(#[source] io::Error),
    /// A document can't be parsed: a manifest, an image config, or the list of layers.
    #[error("serialization error: {0}")]
    SerDe(#[from] serde_json::Error),
    /// The proxy refused a call or is too old for it, the image is closed, or longshore found that a blob is not what
    /// it should be.
    #[error("failed to invoke method {method}: {error}")]
    RequestInitiationFailure {
        /// The name of the method in the protocol.
        method: Box<str>,
        /// The reason.
        error: Box<str>,
    },
    /// The proxy refused a call for a transient reason, or a blob stalled or was too slow.
    #[error("failed to invoke method {method}: {error}")]
    RetryableRequestFailure {
        /// The name of the method in the protocol.
        method: Box<str>,
        /// The reason.
        error: Box<str>,
    },
    /// The proxy did not end well: its exit status, and the end of its stderr.
    #[error("proxy request returned error: {0}")]
    RequestReturned(Box<str>),
    /// A blob failed while the proxy sent it.
    #[error(transparent)]
    BlobError(#[from] GetBlobError),
    /// A version can't be parsed. No call of this crate returns this variant.
    #[error("semantic version error: {0}")]
    SemanticVersion(#[from] semver::Error),
    /// The proxy is too old for [`open_varlink_socket`](crate::ImageProxy::open_varlink_socket), or it speaks a version
    /// of the protocol that this crate does not speak: one before 0.2.3, or 0.3 and later. Another call for which the
    /// proxy is too old returns [`RequestInitiationFailure`](Self::RequestInitiationFailure).
    #[error("proxy too old (requested={requested_version} found={found_version}) error")]
    ProxyTooOld {
        /// The versions of the protocol that are needed, such as `^0.2.9`.
        requested_version: Box<str>,
        /// The version that the proxy speaks.
        found_version: Box<str>,
    },
    /// Options exclude each other, or can't be used.
    #[error("configuration error: {0}")]
    Configuration(Box<str>),
    /// Every other error. The text says which.
    #[error("other error: {0}")]
    Other(Box<str>),
}

/// The failure of a blob while the proxy sends it: an error that the proxy reports, or, for example, a stall.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GetBlobError {
    /// A transient error: the same request may succeed later.
    #[error("retryable error: {0}")]
    Retryable(Box<str>),
    /// Every other error.
    #[error("other error: {0}")]
    Other(Box<str>),
}

impl Error {
    /// Whether the same call may succeed later: the proxy marked its error as retryable (since protocol 0.2.8, skopeo
    /// 1.19), or a blob stalled or was too slow. This crate repeats no call by itself.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        let by_the_call = matches!(self, Self::RetryableRequestFailure { .. });
        by_the_call || matches!(self, Self::BlobError(GetBlobError::Retryable(_)))
    }

    /// The error of the call with this name in the protocol.
    pub(crate) fn of_call(method: &str, error: &longshore::Error) -> Self {
        use longshore::Error as E;
        match error {
            E::Refused { refusal, .. } => Self::refused(method, refusal),
            E::Blob { source, .. } => Self::of_blob(method, source),
            E::ProxyExited(exit) => {
                let how = exit_description(exit);
                let text = format!(
                    "skopeo proxy unexpectedly exited during request method {method}: {how}"
                );
                Self::Other(text.into())
            }
            E::Config(error) => Self::Configuration(chain(error).into()),
            E::Spawn { source, .. } => Self::SkopeoSpawnError(copy_io_error(source)),
            E::Io { source, .. } => Self::Io(copy_io_error(source)),
            E::Decode { source, .. } => Self::SerDe(serde_json::Error::custom(source)),
            E::Incompatible { found, .. } => {
                Self::too_old(longshore::FIRST_SUPPORTED, found.to_string())
            }
            // The other crate checks the version only for this call. The proxy refuses the others.
            E::Unsupported {
                required, found, ..
            } if method == OPEN_VARLINK_SOCKET => Self::too_old(required, found.to_string()),
            E::Unsupported { .. } => Self::failed(method, chain(error), false),
            other => Self::Other(chain(other).into()),
        }
    }

    /// The error of a blob that [`get_blob`](crate::ImageProxy::get_blob) fetches, as the error of this call.
    pub(crate) fn of_blob(method: &str, error: &BlobError) -> Self {
        match error {
            BlobError::Refused(refusal) => Self::refused(method, refusal),
            BlobError::Connection(error) => Self::of_call(method, error),
            BlobError::UnknownAlgorithm => Self::Other(chain(error).into()),
            BlobError::Stalled { .. } | BlobError::TooSlow { .. } => {
                Self::failed(method, chain(error), true)
            }
            _ => Self::failed(method, chain(error), false),
        }
    }

    fn refused(method: &str, refusal: &Refusal) -> Self {
        Self::failed(method, refusal.to_string(), is_retryable(refusal))
    }

    pub(crate) fn failed(method: &str, error: String, retryable: bool) -> Self {
        let (method, error) = (method.into(), error.into());
        if retryable {
            Self::RetryableRequestFailure { method, error }
        } else {
            Self::RequestInitiationFailure { method, error }
        }
    }

    fn too_old(required: impl std::fmt::Display, found: String) -> Self {
        Self::ProxyTooOld {
            requested_version: format!("^{required}").into(),
            found_version: found.into(),
        }
    }

    /// The error of [`finalize`](crate::ImageProxy::finalize).
    pub(crate) fn of_finalize(error: &longshore::Error) -> Self {
        match error {
            longshore::Error::ProxyExited(exit) => {
                Self::RequestReturned(format!("proxy failed: {}", exit_description(exit)).into())
            }
            other => Self::of_call("Shutdown", other),
        }
    }
}

impl GetBlobError {
    /// Converts the error of a blob. `Ok` if the proxy only noticed that nobody reads the blob any more.
    pub(crate) fn of(error: &longshore::Error) -> std::result::Result<(), Self> {
        match error {
            longshore::Error::Blob { source, .. } => match source {
                BlobError::Refused(refusal) if refusal.code == Some(RefusalCode::BrokenPipe) => {
                    Ok(())
                }
                BlobError::Refused(refusal) if is_retryable(refusal) => {
                    Err(Self::Retryable(refusal.to_string().into()))
                }
                BlobError::Stalled { .. } | BlobError::TooSlow { .. } => {
                    Err(Self::Retryable(chain(source).into()))
                }
                other => Err(Self::Other(chain(other).into())),
            },
            other => Err(Self::Other(chain(other).into())),
        }
    }
}

/// Converts an error of rustix, as the other crate does.
impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// Whether the proxy itself marked its error as retryable.
fn is_retryable(refusal: &Refusal) -> bool {
    refusal.code == Some(RefusalCode::Retryable)
}

/// The exit status of the proxy, and the end of its stderr.
fn exit_description(exit: &ChildExit) -> String {
    let stderr = exit.stderr();
    match exit.status() {
        Some(status) => format!("{status}\n{stderr}"),
        None => format!("exit status unknown\n{stderr}"),
    }
}

/// The text of an error and its causes. Most users print only the outermost text.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string does not fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// Copies an I/O error, which can't be cloned: its number, or else its kind and text.
fn copy_io_error(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
