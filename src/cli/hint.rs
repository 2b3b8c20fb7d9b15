//! The advice for an error, as far as its kind tells what to do. Pure.

mod refusal;

use std::io;

use longshore::{BlobError, Error, RefusalKind};

use super::args::repository_of;
use super::local_copy::LocalCopy;

pub(super) use self::refusal::NO_POLICY;
use self::refusal::hint_of_refusal;

/// Where the credentials come from, as the command line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Login {
    /// The command line contains the credentials, or names a file that contains only them.
    Given,
    /// No credentials may be used.
    Forbidden,
    /// The command line or the environment names an auth file, which may contain credentials.
    FromGivenFile,
    /// A default auth file may contain credentials.
    FromFiles,
}

const TRY_AGAIN: &str = "try again; a layout (oci:DIR) keeps the blobs that are complete";
const FULL: &str = "free some space and try again";

/// Returns the advice for this error about this image, if there is any.
pub(super) fn hint(error: &Error, image: Option<&str>, login: Login) -> Option<String> {
    if let Some(damage) = image
        .and_then(LocalCopy::of)
        .and_then(|copy| copy.hint(error))
    {
        return Some(damage);
    }
    let known = match error {
        Error::Spawn { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            Some("install skopeo, or say where it is with --skopeo PATH")
        }
        // A skopeo before 1.6, or one that was built without the image proxy, says that the subcommand is unknown.
        Error::ProxyExited(exit) if exit.stderr().contains("experimental-image-proxy") => Some(
            "this skopeo has no image proxy: use skopeo 1.6 or later (longshore doctor says which one this is); \
             --skopeo PATH chooses one",
        ),
        Error::Incompatible { .. } | Error::Unsupported { .. } => {
            Some("use a newer skopeo; --skopeo PATH chooses one")
        }
        Error::Io { source, .. } if is_full(source.kind()) => Some(
            "free some space and try again; a layout (oci:DIR) keeps the blobs that are complete",
        ),
        Error::Io { source, .. } => hint_of_io(source.kind()),
        Error::DocumentsTooLarge { .. } => Some("pull fewer images, or platforms, at a time"),
        Error::DeadlineExceeded => Some(
            "--deadline limits the time of the command; a layout (oci:DIR) keeps the blobs that are complete",
        ),
        Error::Refused {
            method, refusal, ..
        } => {
            if refusal.kind() == RefusalKind::NotFound {
                return hint_of_missing(method, image?);
            }
            return hint_of_refusal(refusal, login);
        }
        Error::Blob { source, .. } => match source {
            BlobError::Refused(refusal) => return hint_of_refusal(refusal, login),
            BlobError::Stalled { .. } => {
                Some("try again; --stall-timeout sets how long to wait for a byte")
            }
            BlobError::TooSlow { .. } => Some(
                "try again; --least-rate sets the minimum rate, and --workers how many blobs share the bandwidth",
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
    };
    known.map(str::to_owned)
}

/// Whether an error of this kind says that a disk or a quota is full.
pub(super) fn is_full(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Returns the advice for an error of the operating system of this kind, if there is any.
pub(super) fn hint_of_io(kind: io::ErrorKind) -> Option<&'static str> {
    match kind {
        kind if is_full(kind) => Some(FULL),
        io::ErrorKind::NotADirectory => {
            Some("a file has the name of the folder that is needed; choose another destination")
        }
        _ => None,
    }
}

/// Returns the advice for an image that its source does not have. Only a registry can list what there is.
fn hint_of_missing(method: &str, image: &str) -> Option<String> {
    let repository = repository_of(image)?;
    if method == "skopeo list-tags" {
        return Some("is the name right?".into());
    }
    let question = if repository == image {
        "no tag was given, which means latest;"
    } else {
        "are name and tag right?"
    };
    Some(format!(
        "{question} longshore list-tags {repository} lists the tags that there are"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tag_comes_with_the_command_that_lists_tags() {
        let table = [
            (
                "opening",
                "docker://a.b/c:d",
                Some("longshore list-tags docker://a.b/c lists"),
            ),
            (
                "opening",
                "docker://a.b/c",
                Some("no tag was given, which means latest;"),
            ),
            (
                "skopeo list-tags",
                "docker://a.b/c",
                Some("is the name right?"),
            ),
            ("opening", "oci-archive:x", None),
        ];
        for (method, image, expected) in table {
            let hint = hint_of_missing(method, image);
            assert_eq!(hint.is_some(), expected.is_some(), "{image}: {hint:?}");
            let words = expected.unwrap_or_default();
            assert!(hint.unwrap_or_default().contains(words), "{image}: {words}");
        }
    }
}
