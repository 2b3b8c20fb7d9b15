//! Failures as the user sees them: what failed, where, and what to do.

use std::fmt;
use std::io;
use std::process::ExitCode;

use longshore::{BlobError, Error, Refusal, RefusalKind, printable};

use super::say::say;

/// The exit code for wrong usage, which is also clap's.
const USAGE: u8 = 2;

#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is wrong.
    Usage(String),
    Failed(anyhow::Error),
    /// Some of several images failed.
    Several {
        failures: Vec<Failure>,
        of: usize,
    },
}

impl Failure {
    pub(crate) fn usage(message: String) -> Self {
        Self::Usage(message)
    }

    /// Makes a failure of an action on an image.
    pub(crate) fn on(what: &'static str, image: &str) -> impl FnOnce(Error) -> Self {
        move |error| match Self::from(error) {
            Self::Failed(error) => Self::Failed(error.context(format!("can't {what} {image}"))),
            other => other,
        }
    }

    /// Makes a failure that came after the pull was complete.
    pub(crate) fn after_all(self) -> Self {
        match self {
            Self::Failed(error) => {
                Self::Failed(error.context("the pull is complete, but this failed"))
            }
            other => other,
        }
    }

    /// Writes the failure to stderr, in one or two lines.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Self::Usage(message) => {
                say(format!("longshore: {}", printable(&message)));
                ExitCode::from(USAGE)
            }
            Self::Failed(error) => {
                say(format!("longshore: {}", printable(&format!("{error:#}"))));
                if let Some(hint) = error.downcast_ref::<Error>().and_then(hint) {
                    say(format!("  {hint}"));
                }
                ExitCode::FAILURE
            }
            Self::Several { failures, of } => {
                let failed = failures.len();
                for failure in failures {
                    failure.report();
                }
                say(format!(
                    "longshore: {failed} of {of} images could not be pulled"
                ));
                ExitCode::FAILURE
            }
        }
    }
}

/// The message says what failed and why. [`hint`] says what to do.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) => f.write_str(&printable(message)),
            Self::Failed(error) => f.write_str(&printable(&format!("{error:#}"))),
            Self::Several { failures, of } => write!(f, "{} of {of} images failed", failures.len()),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Config(error) => Self::Usage(error.to_string()),
            error => Self::Failed(error.into()),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.into())
    }
}

const TRY_AGAIN: &str = "try again; what is complete will not be fetched again";
const NOT_THERE: &str = "the registry does not have it, or not all of it: are name and tag right?";
const DENIED: &str =
    "the image may not exist, or need credentials: --authfile, --creds-file or --creds -";
const POLICY: &str = "the signature policy (--policy) decides what is accepted";
const REGISTRY_FAILED: &str = "the registry has trouble; try again later";
const NOT_REACHED: &str = "is the registry's name right, and does it run?";

/// The advice for this error, if there is any.
fn hint(error: &Error) -> Option<&'static str> {
    match error {
        Error::Spawn { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            Some("install skopeo, or say where it is with --skopeo PATH")
        }
        Error::Incompatible { .. } | Error::Unsupported { .. } => {
            Some("use a newer skopeo; --skopeo PATH chooses one")
        }
        Error::DocumentsTooLarge { .. } => Some("pull fewer images, or platforms, at a time"),
        Error::DeadlineExceeded => Some(
            "--deadline sets how long all may take; what is complete will not be fetched again",
        ),
        Error::Refused { refusal, .. } => hint_of_refusal(refusal),
        Error::Blob { source, .. } => match source {
            BlobError::Refused(refusal) => hint_of_refusal(refusal),
            BlobError::Stalled { .. } => {
                Some("try again; --stall-timeout sets how long to wait for a byte")
            }
            BlobError::TooSlow { .. } => Some(
                "try again; --least-rate sets how slow is too slow, and --workers how many blobs share the bandwidth",
            ),
            BlobError::Corrupt { .. } | BlobError::TooLong { .. } | BlobError::WrongSize { .. } => {
                Some(
                    "the registry, or a cache or gateway in between, does not send what the manifest says",
                )
            }
            BlobError::Short { .. } | BlobError::Connection(_) => Some(TRY_AGAIN),
            _ => None,
        },
        _ => None,
    }
}

fn hint_of_refusal(refusal: &Refusal) -> Option<&'static str> {
    let said = |words| refusal.message.contains(words);
    match refusal.kind() {
        RefusalKind::Tls if said("server gave HTTP response") => {
            Some("the registry speaks plain HTTP; --tls-verify=false allows it")
        }
        RefusalKind::Tls => Some("--cert-dir names a folder with the registry's certificates"),
        RefusalKind::Unauthorized => {
            Some("give credentials: --authfile, --creds-file or --creds -")
        }
        RefusalKind::NotFound => Some(NOT_THERE),
        RefusalKind::Denied => Some(DENIED),
        RefusalKind::Throttled => Some("the registry wants you to wait, or to log in"),
        RefusalKind::Policy => Some(POLICY),
        RefusalKind::Unavailable => Some(REGISTRY_FAILED),
        RefusalKind::Unreachable => Some(NOT_REACHED),
        RefusalKind::Invalid if said("no image found in") => {
            Some("--platform chooses another platform of the image")
        }
        _ if said("unexpected EOF") || said("connection reset") => Some(TRY_AGAIN),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_about_an_image_keeps_its_hint() {
        let Failure::Failed(error) = Failure::on("pull", "docker://a/b")(Error::DeadlineExceeded)
        else {
            panic!("a deadline is no wrong usage");
        };
        assert!(format!("{error:#}").starts_with("can't pull docker://a/b: not done within"));
        assert!(error.downcast_ref::<Error>().and_then(hint).is_some());
    }
}
