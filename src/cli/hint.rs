//! The advice for an error, as far as its kind tells what to do. Pure.

mod refusal;

use std::io;

use longshore::{BlobError, Error, FIRST_SUPPORTED, RefusalKind};

use super::args::repository_of;
use super::local_copy::LocalCopy;

pub(super) use self::refusal::NO_POLICY;
use self::refusal::hint_of_refusal;

/// How a command reaches its registry, as far as advice depends on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) login: Login,
    /// Whether options on the command line say which credentials or certificates are used. Another command for the same
    /// registry needs the same options.
    pub(super) has_options: bool,
}

/// Where the credentials come from, as the command line says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Login {
    /// The command line contains the credentials, or names a file that contains only them.
    Given,
    /// No credentials may be used.
    Forbidden,
    /// The command line or the environment names an auth file, which may contain credentials.
    FromGivenFile,
    /// A default auth file may contain credentials.
    #[default]
    FromFiles,
}

const TRY_AGAIN: &str =
    "try again; a pull into a layout (oci:DIR) keeps the blobs that are complete";
const FULL: &str = "free some space and try again";

/// Returns the advice for this error about this image, if there is any.
pub(super) fn hint(error: &Error, image: Option<&str>, access: Access) -> Option<String> {
    if let Some(damage) = image
        .and_then(LocalCopy::of)
        .and_then(|copy| copy.hint(error))
    {
        return Some(damage);
    }
    let known = match error {
        Error::Spawn {
            program, source, ..
        } => return hint_of_spawn(program, source),
        // A skopeo before 1.6, or one that was built without the image proxy, says that the subcommand is unknown.
        Error::ProxyExited(exit) if exit.stderr().contains("experimental-image-proxy") => Some(
            "this skopeo has no image proxy: use skopeo 1.6 or later; --skopeo PATH chooses one",
        ),
        // A skopeo gives its reason in a log line, with a level.
        Error::ProxyExited(exit) if exit.is_no_proxy() && !exit.stderr().contains("level=") => {
            Some("is this a skopeo? --skopeo PATH, or LONGSHORE_SKOPEO, chooses one")
        }
        Error::CallTimeout { method, .. } => hint_of_silence(method, image),
        Error::Incompatible { found, .. } if *found > FIRST_SUPPORTED => {
            Some("use an older skopeo, or a newer longshore; --skopeo PATH chooses a skopeo")
        }
        Error::Incompatible { .. } | Error::Unsupported { .. } => {
            Some("use a newer skopeo; --skopeo PATH chooses one")
        }
        Error::Io { source, .. } if is_full(source.kind()) => Some(
            "free some space and try again; a pull into a layout (oci:DIR) keeps the blobs that are complete",
        ),
        // Only the layout itself gives this kind with a reason of its own: a pull into it may be running.
        Error::Io { source, .. }
            if source.kind() == io::ErrorKind::ResourceBusy && source.get_ref().is_some() =>
        {
            Some("--wait 10m waits for up to 10 minutes for a running pull to end")
        }
        Error::Io { source, .. } => hint_of_io(source.kind()),
        Error::DocumentsTooLarge { .. } => Some("--platform OS/ARCH chooses one of the platforms"),
        Error::DeadlineExceeded => Some(
            "--deadline limits the time of the command; a pull into a layout (oci:DIR) keeps the blobs that are complete",
        ),
        Error::Refused {
            method, refusal, ..
        } => {
            if refusal.kind() == RefusalKind::NotFound {
                return hint_of_missing(method, image?, access);
            }
            return hint_of_refusal(refusal, access.login);
        }
        Error::Blob { source, .. } => match source {
            BlobError::Refused(refusal) => return hint_of_refusal(refusal, access.login),
            BlobError::Stalled { .. } => {
                Some("try again; --stall-timeout sets how long to wait for a byte")
            }
            BlobError::TooSlow { .. } => Some("try again; --least-rate sets the minimum rate"),
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
        io::ErrorKind::NotADirectory => Some("a file has the name of the folder that is needed"),
        _ => None,
    }
}

/// Returns the advice for a call that was not answered in time, if there is any.
fn hint_of_silence(method: &str, image: Option<&str>) -> Option<&'static str> {
    let is_of_registry = image.is_some_and(|image| image.starts_with("docker://"));
    match method {
        "starting skopeo" | "Initialize" => Some(
            "is this a skopeo with an image proxy? --skopeo PATH, or LONGSHORE_SKOPEO, chooses one",
        ),
        _ if is_of_registry => Some(
            "the registry does not answer; --call-timeout limits the wait for each answer, and --deadline the time of the whole command",
        ),
        _ => None,
    }
}

/// Returns the advice for a skopeo that can't be started, if there is any.
fn hint_of_spawn(program: &str, source: &io::Error) -> Option<String> {
    let where_it_is = "--skopeo PATH, or LONGSHORE_SKOPEO, says where skopeo is";
    if source.kind() == io::ErrorKind::NotFound {
        let is_looked_up = !program.contains('/') && program != "skopeo";
        let path = format!(
            "; a name without a slash is looked up in the folders of the variable PATH; for a file in this folder, type ./{program}"
        );
        let path = if is_looked_up { path.as_str() } else { "" };
        return Some(format!("install skopeo; {where_it_is}{path}"));
    }
    let is_no_program = source.kind() == io::ErrorKind::PermissionDenied
        || source.raw_os_error() == Some(nix::errno::Errno::ENOEXEC as i32);
    is_no_program.then(|| format!("that file is no program that this user can run; {where_it_is}"))
}

/// Returns the advice for an image that its source does not have. Only a registry can list what there is.
fn hint_of_missing(method: &str, image: &str, access: Access) -> Option<String> {
    let repository = repository_of(image)?;
    if method == "skopeo list-tags" {
        return Some("is the name right?".into());
    }
    let question = if repository == image {
        "no tag was given, which means latest;"
    } else if image.contains('@') {
        "are name and digest right?"
    } else {
        "are name and tag right?"
    };
    let options = if access.has_options {
        ", with the same options for the registry,"
    } else {
        ""
    };
    Some(format!(
        "{question} longshore list-tags {repository}{options} lists the tags that there are"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_for_a_skopeo_that_does_not_start_says_where_it_is_looked_for() {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let table = [
            (
                "skopeo",
                missing(),
                Some("LONGSHORE_SKOPEO, says where skopeo is"),
            ),
            (
                "/nowhere",
                missing(),
                Some("LONGSHORE_SKOPEO, says where skopeo is"),
            ),
            ("d", missing(), Some("for a file in this folder, type ./d")),
            (
                "./d",
                io::ErrorKind::PermissionDenied.into(),
                Some("that file is no program that this user can run"),
            ),
            (
                "./d",
                io::Error::from_raw_os_error(8),
                Some("that file is no program that this user can run"),
            ),
            ("skopeo", io::ErrorKind::OutOfMemory.into(), None),
        ];
        for (program, error, expected) in table {
            let advice = hint_of_spawn(program, &error);
            assert_eq!(
                advice.is_some(),
                expected.is_some(),
                "{program}: {advice:?}"
            );
            let end = expected.unwrap_or_default();
            assert!(
                advice.as_deref().unwrap_or_default().contains(end),
                "{program}: {advice:?}"
            );
        }
    }

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
                "opening",
                "docker://a.b/c@sha256:d",
                Some("are name and digest right? longshore list-tags docker://a.b/c lists"),
            ),
            (
                "skopeo list-tags",
                "docker://a.b/c",
                Some("is the name right?"),
            ),
            ("opening", "oci-archive:x", None),
        ];
        for (method, image, expected) in table {
            let hint = hint_of_missing(method, image, Access::default());
            assert_eq!(hint.is_some(), expected.is_some(), "{image}: {hint:?}");
            let words = expected.unwrap_or_default();
            assert!(hint.unwrap_or_default().contains(words), "{image}: {words}");
        }
    }

    #[test]
    fn the_command_that_lists_tags_needs_the_same_options() {
        let access = Access {
            has_options: true,
            ..Access::default()
        };
        let hint = hint_of_missing("opening", "docker://a.b/c:d", access).unwrap_or_default();
        let expected =
            "longshore list-tags docker://a.b/c, with the same options for the registry, lists";
        assert!(hint.contains(expected), "{hint}");
    }
}
