//! Failures as the user sees them: what failed, where, and what to do.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::process::ExitCode;

use longshore::Error;

use super::format::plain;
use super::hint::{Access, hint, hint_of_io, is_full};
use super::say::say_blocking;

/// The exit code for wrong usage, which is also clap's.
const USAGE: u8 = 2;

#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is wrong.
    Usage(String),
    Failed(FailedAction),
    /// Several failures, and how many images were requested.
    Several {
        failures: Vec<Failure>,
        requested: usize,
    },
    /// The failure of one of several images, and a line about the others.
    First(Box<Failure>, String),
    /// Some images failed, and then the command.
    WithEarlier(Vec<Failure>, Box<Failure>),
}

/// The failure of one action.
#[derive(Debug)]
pub(crate) struct FailedAction {
    error: anyhow::Error,
    /// The advice that was looked up. `None`: the kind of the error has to suffice.
    advice: Option<String>,
}

/// The action that failed: the beginning of the message.
#[derive(Debug)]
struct Action {
    what: &'static str,
    image: String,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "can't {} {}", self.what, self.image)
    }
}

impl FailedAction {
    /// The library's error. `None` if the action failed with another error.
    pub(crate) fn error(&self) -> Option<&Error> {
        self.error.downcast_ref()
    }

    /// The image of the action. `None` if the action was not on an image.
    pub(crate) fn image(&self) -> Option<&str> {
        let action = self.error.downcast_ref::<Action>();
        action.map(|action| &*action.image)
    }

    /// Whether a disk or a quota was full.
    pub(crate) fn is_full_disk(&self) -> bool {
        self.io_kinds().any(is_full)
    }

    /// Replaces the advice that the kind of the error would give.
    pub(crate) fn advise(&mut self, advice: String) {
        self.advice = Some(advice);
    }

    /// The advice: what to do about this failure.
    fn hint(&self, access: Access) -> Option<String> {
        let looked_up = self.advice.clone();
        let by_kind = || hint(self.error()?, self.image(), access);
        let by_io = || self.io_kinds().find_map(hint_of_io).map(str::to_owned);
        looked_up.or_else(by_kind).or_else(by_io)
    }

    /// The kinds of the errors of the operating system.
    fn io_kinds(&self) -> impl Iterator<Item = io::ErrorKind> {
        let kind = |cause: &(dyn StdError + 'static)| {
            let ours = cause.downcast_ref::<Error>();
            let of_library = match ours {
                Some(Error::Io { source, .. }) => Some(source.kind()),
                Some(error) => error.handler_ref().map(io::Error::kind),
                None => None,
            };
            of_library.or_else(|| Some(cause.downcast_ref::<io::Error>()?.kind()))
        };
        self.error.chain().filter_map(kind)
    }
}

impl Failure {
    pub(crate) fn usage(message: String) -> Self {
        Self::Usage(message)
    }

    /// Makes this failure of a destination, before anything was pulled, one of wrong usage if the destination is a file
    /// where a folder is needed.
    pub(crate) fn of_folder(mut self) -> Self {
        let is_file = |failed: &&mut FailedAction| {
            let mut kinds = failed.io_kinds();
            kinds.any(|kind| kind == io::ErrorKind::NotADirectory)
        };
        if self.parts().iter().any(is_file) {
            return Self::Usage(format!(
                "{self}; the destination, and each part of its path, must be a folder or must not exist yet"
            ));
        }
        self
    }

    /// Makes a failure of wrong usage that was found after images had been pulled.
    pub(crate) fn not_usage(self) -> Self {
        match self {
            Self::Usage(message) => anyhow::Error::msg(message).into(),
            other => other,
        }
    }

    /// Makes a failure of an action on an image.
    pub(crate) fn on(what: &'static str, image: &str) -> impl FnOnce(Error) -> Self {
        let image = image.to_owned();
        move |error| Self::from(error).with_context(Action { what, image })
    }

    /// Makes the failure of an output that can't be written. Usage is wrong only if the path can't name such a file or
    /// folder on any machine; a full or read-only disk and missing permissions are failures.
    pub(crate) fn of_output(shown: &str) -> impl FnOnce(io::Error) -> Self + use<> {
        let what = format!("can't write {shown}");
        move |error| match error.kind() {
            io::ErrorKind::InvalidInput
            | io::ErrorKind::InvalidFilename
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::NotFound => Self::Usage(format!("{what}: {error}")),
            _ => anyhow::Error::from(error).context(what).into(),
        }
    }

    /// Makes a failure that came after this was complete.
    pub(crate) fn after_success(self, what: &str) -> Self {
        self.with_context(format!("{what} is complete, but this failed"))
    }

    fn with_context(self, context: impl fmt::Display + Send + Sync + 'static) -> Self {
        match self {
            Self::Failed(FailedAction { error, advice }) => Self::Failed(FailedAction {
                error: error.context(context),
                advice,
            }),
            other => other,
        }
    }

    /// Puts earlier failures of single images in front of this failure, which ended the command.
    pub(crate) fn with_earlier(self, failures: Vec<Self>) -> Self {
        Self::WithEarlier(failures, Box::new(self))
    }

    /// The failures of single actions that this one consists of.
    pub(crate) fn parts(&mut self) -> Vec<&mut FailedAction> {
        match self {
            Self::Usage(_) => Vec::new(),
            Self::Failed(failed) => vec![failed],
            Self::First(failure, _) => failure.parts(),
            Self::Several { failures, .. } => failures.iter_mut().flat_map(Self::parts).collect(),
            Self::WithEarlier(failures, last) => {
                let earlier = failures.iter_mut().flat_map(Self::parts);
                earlier.chain(last.parts()).collect()
            }
        }
    }

    /// Adds a line about the images that were not pulled because of this failure.
    pub(crate) fn with_others(self, others: String) -> Self {
        Self::First(Box::new(self), others)
    }

    /// Writes the failure to stderr, in one to three lines. Blocks while stderr is not read.
    pub(crate) fn report(self, access: Access) -> ExitCode {
        match self {
            Self::Usage(message) => {
                say_blocking(format!("longshore: {}", plain(&message)));
                ExitCode::from(USAGE)
            }
            Self::Failed(failed) => {
                let message = plain(&format!("{:#}", failed.error));
                say_blocking(format!("longshore: {message}"));
                if let Some(hint) = failed.hint(access) {
                    say_blocking(format!("  {}", plain(&hint)));
                }
                ExitCode::FAILURE
            }
            Self::First(failure, others) => {
                let code = failure.report(access);
                say_blocking(format!("longshore: {others}"));
                code
            }
            Self::Several {
                failures,
                requested,
            } => {
                let failed = failures.len();
                for failure in failures {
                    failure.report(access);
                }
                say_blocking(format!(
                    "longshore: {failed} of {requested} images could not be pulled"
                ));
                ExitCode::FAILURE
            }
            Self::WithEarlier(failures, last) => {
                for failure in failures {
                    failure.report(access);
                }
                last.report(access)
            }
        }
    }
}

/// The message says what failed and why. A hint says what to do.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) => f.write_str(&plain(message)),
            Self::Failed(failed) => f.write_str(&plain(&format!("{:#}", failed.error))),
            Self::Several {
                failures,
                requested,
            } => write!(f, "{} of {requested} images failed", failures.len()),
            Self::First(failure, _) => failure.fmt(f),
            Self::WithEarlier(_, last) => last.fmt(f),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(FailedAction {
            error,
            advice: None,
        })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Config(error) => Self::Usage(error.to_string()),
            error => Self::from(anyhow::Error::from(error)),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::from(anyhow::Error::from(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(failure: &mut Failure) -> &mut FailedAction {
        let mut parts = failure.parts();
        assert_eq!(parts.len(), 1);
        parts.remove(0)
    }

    #[test]
    fn an_error_about_an_image_keeps_its_image_and_its_hint() {
        let mut failure =
            Failure::on("pull", "docker://a/b")(Error::DeadlineExceeded).after_success("the pull");
        assert!(
            failure
                .to_string()
                .contains("can't pull docker://a/b: not done within")
        );
        let failed = failed(&mut failure);
        assert_eq!(failed.image(), Some("docker://a/b"));
        assert!(matches!(failed.error(), Some(Error::DeadlineExceeded)));
        let hint = failed.hint(Access::default()).expect("a hint");
        assert!(hint.contains("--deadline"), "{hint}");
        failed.advise("looked up".into());
        assert_eq!(failed.hint(Access::default()).as_deref(), Some("looked up"));
    }

    #[test]
    fn a_full_disk_is_recognized_with_and_without_a_context() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let written = anyhow::Error::from(full()).context("can't write x");
        for mut failure in [Failure::from(full()), Failure::from(written)] {
            let failed = failed(&mut failure);
            assert!(failed.is_full_disk());
            let hint = failed.hint(Access::default()).expect("a hint");
            assert!(hint.contains("free some space"), "{hint}");
        }
        let mut other = Failure::from(io::Error::from(io::ErrorKind::NotFound));
        assert!(!failed(&mut other).is_full_disk());
    }

    #[test]
    fn only_a_wrong_path_of_an_output_is_wrong_usage() {
        let table = [
            (io::ErrorKind::InvalidInput, true),
            (io::ErrorKind::IsADirectory, true),
            (io::ErrorKind::NotADirectory, true),
            (io::ErrorKind::NotFound, true),
            (io::ErrorKind::PermissionDenied, false),
            (io::ErrorKind::QuotaExceeded, false),
            (io::ErrorKind::ReadOnlyFilesystem, false),
            (io::ErrorKind::StorageFull, false),
        ];
        for (kind, is_usage) in table {
            let failure = Failure::of_output("a/b")(kind.into());
            assert!(failure.to_string().starts_with("can't write a/b: "));
            assert_eq!(matches!(failure, Failure::Usage(_)), is_usage, "{kind:?}");
        }
    }

    #[test]
    fn a_destination_that_is_a_file_is_wrong_usage() {
        for (kind, is_usage) in [
            (io::ErrorKind::NotADirectory, true),
            (io::ErrorKind::PermissionDenied, false),
        ] {
            let failure = Failure::from(io::Error::from(kind)).of_folder();
            assert_eq!(matches!(failure, Failure::Usage(_)), is_usage, "{kind:?}");
        }
    }

    #[test]
    fn the_parts_of_a_failure_are_those_of_all_images() {
        let one = || Failure::on("pull", "a")(Error::Cancelled);
        let several = Failure::Several {
            failures: vec![one(), one()],
            requested: 3,
        };
        let usage = Failure::usage("x".into());
        let first = one().with_others("stopped".into());
        assert_eq!(first.to_string(), one().to_string());
        let mut all = first.with_earlier(vec![several, usage]);
        assert_eq!(all.parts().len(), 3);
    }
}
