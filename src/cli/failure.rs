//! Failures as the user sees them: what failed, where, and what to do.

use std::fmt;
use std::io;
use std::process::ExitCode;

use longshore::Error;

use super::format::plain;
use super::hint::{Login, hint, hint_of_system};
use super::say::say_patiently;

/// The exit code for wrong usage, which is also clap's.
const USAGE: u8 = 2;

#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is wrong.
    Usage(String),
    Failed(anyhow::Error),
    /// Several failures, and how many images were requested.
    Several {
        failures: Vec<Failure>,
        of: usize,
    },
    /// Some images failed, and then the command.
    After(Vec<Failure>, Box<Failure>),
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

    /// Puts earlier failures of single images in front of this failure, which ended the command.
    pub(crate) fn with_earlier(self, failures: Vec<Self>) -> Self {
        Self::After(failures, Box::new(self))
    }

    /// Writes the failure to stderr, in one or two lines. Blocks while stderr is not read.
    pub(crate) fn report(self, login: Login) -> ExitCode {
        match self {
            Self::Usage(message) => {
                say_patiently(format!("longshore: {}", plain(&message)));
                ExitCode::from(USAGE)
            }
            Self::Failed(error) => {
                say_patiently(format!("longshore: {}", plain(&format!("{error:#}"))));
                let of_system = || error.downcast_ref().and_then(hint_of_system);
                let ours = error.downcast_ref::<Error>();
                let ours = ours.and_then(|error| hint(error, login));
                if let Some(hint) = ours.or_else(of_system) {
                    say_patiently(format!("  {hint}"));
                }
                ExitCode::FAILURE
            }
            Self::Several { failures, of } => {
                let failed = failures.len();
                for failure in failures {
                    failure.report(login);
                }
                say_patiently(format!(
                    "longshore: {failed} of {of} images could not be pulled"
                ));
                ExitCode::FAILURE
            }
            Self::After(failures, last) => {
                for failure in failures {
                    failure.report(login);
                }
                last.report(login)
            }
        }
    }
}

/// The message says what failed and why. A hint says what to do.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) => f.write_str(&plain(message)),
            Self::Failed(error) => f.write_str(&plain(&format!("{error:#}"))),
            Self::Several { failures, of } => write!(f, "{} of {of} images failed", failures.len()),
            Self::After(_, last) => last.fmt(f),
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
        let error = error.downcast_ref::<Error>().expect("our error");
        assert!(hint(error, Login::FromFiles).is_some());
    }
}
