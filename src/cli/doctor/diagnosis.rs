//! The problems that follow from what `doctor` found. Pure.

use longshore::{ConfigError, Error, printable};
use serde::Serialize;

use super::machine::{Limits, Machine};
use super::settings::{Policy, Settings};
use super::skopeo::Skopeo;
use crate::cli::failure::Failure;
use crate::cli::hint::{Access, NO_POLICY, hint};

/// The number of open files below which `doctor` gives a note. A pull with the default options needs about 300 for all
/// of its proxies and workers.
const MIN_OPEN_FILES: u64 = 512;

/// The object that `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Whether pulls can work.
    ok: bool,
    longshore: &'static str,
    pub(super) skopeo: Skopeo,
    #[serde(flatten)]
    pub(super) settings: Settings,
    #[serde(flatten)]
    pub(super) machine: Machine,
    /// Whether a policy is checked.
    pub(super) policy_checked: bool,
    /// The problems because of which pulls can't work.
    pub(super) problems: Vec<Problem>,
    /// The problems that do not prevent pulls.
    pub(super) notes: Vec<Problem>,
}

/// Something that is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Problem {
    pub(super) what: String,
    pub(super) advice: Option<String>,
}

impl Problem {
    fn new(what: impl Into<String>, advice: &str) -> Self {
        Self {
            what: what.into(),
            advice: Some(advice.to_owned()),
        }
    }

    /// Makes the problem that reports an error, perhaps about an image.
    pub(super) fn of(action: &str, error: &Error, image: Option<&str>, access: Access) -> Self {
        let reason = match error {
            // The name of the library's option says nothing to a user of the command.
            Error::Config(ConfigError::Invalid { reason, .. }) => printable(reason),
            error => Failure::from(error.clone()).to_string(),
        };
        Self {
            what: format!("can't {}: {reason}", printable(action)),
            advice: hint(error, image, access),
        }
    }
}

impl Report {
    pub(super) fn new(settings: Settings, machine: Machine, mut skopeo: Skopeo) -> Self {
        let checks_policy = skopeo.proxy.as_ref().map(|proxy| proxy.checks_policy);
        let problems = [
            skopeo.failed.take(),
            policy_problem(&settings, checks_policy),
            wrong_policy(&settings.policy, checks_policy),
            skopeo.settings_problem.take(),
            unreadable_auth_file(&settings, false),
        ];
        let notes = [
            skopeo.version_problem.take(),
            unchecked_policy(&settings, checks_policy),
            unreadable_auth_file(&settings, true),
            few_files(&machine.limits),
        ];
        let problems: Vec<Problem> = problems.into_iter().flatten().collect();
        Self {
            ok: problems.is_empty(),
            longshore: env!("CARGO_PKG_VERSION"),
            policy_checked: checks_policy == Some(true) && !settings.policy.is_off,
            skopeo,
            settings,
            machine,
            problems,
            notes: notes.into_iter().flatten().collect(),
        }
    }
}

/// Returns the problem of a missing policy. A skopeo that checks policies opens no image without one.
fn policy_problem(settings: &Settings, checks_policy: Option<bool>) -> Option<Problem> {
    let is_missing = settings.policy.file.is_none() && !settings.policy.is_off;
    (is_missing && checks_policy == Some(true)).then(|| {
        Problem::new(
            "there is no signature policy, and skopeo opens no image without one",
            NO_POLICY,
        )
    })
}

/// Returns the problem of a policy that no skopeo accepts.
fn wrong_policy(policy: &Policy, checks_policy: Option<bool>) -> Option<Problem> {
    let (file, mistake) = (policy.file.as_ref()?, policy.mistake.as_ref()?);
    (checks_policy == Some(true)).then(|| {
        Problem::new(
            format!("{file} is no signature policy, so skopeo opens no image: {mistake}"),
            &format!("correct {file}; containers-policy.json(5) describes it"),
        )
    })
}

/// Returns the problem of an auth file that this user may not read. skopeo reads the auth files one after the other until
/// one has credentials for the registry, and fails at the first file that it may not read. `may_work` says whether an
/// earlier file, which may have the credentials, is expected.
fn unreadable_auth_file(settings: &Settings, may_work: bool) -> Option<Problem> {
    let files = &settings.auth_files;
    let position = files.iter().position(|file| file.is_unreadable)?;
    let has_earlier = files[..position].iter().any(|file| file.exists);
    (has_earlier == may_work).then(|| {
        Problem::new(
            format!(
                "this user may not read the auth file {}; skopeo reads the auth files in their order, and fails at \
                 this one, unless an earlier file has credentials for the registry",
                files[position].path
            ),
            "change its permissions, name another file with --authfile, or use --no-creds; \
             for a file in /run/containers, XDG_RUNTIME_DIR can name another folder",
        )
    })
}

fn unchecked_policy(settings: &Settings, checks_policy: Option<bool>) -> Option<Problem> {
    (settings.policy.restricts_images && checks_policy == Some(false)).then(|| {
        Problem::new(
            "this skopeo does not check the signature policy, so every image is accepted",
            "use skopeo 1.13 or later; with --require-policy, pulls fail instead",
        )
    })
}

fn few_files(limits: &Limits) -> Option<Problem> {
    let files = limits.open_files.filter(|files| *files < MIN_OPEN_FILES)?;
    Some(Problem::new(
        format!(
            "this process may open only {files} files, so pulls may use fewer proxies and workers"
        ),
        "raise the limit: ulimit -n 1024",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::settings::AuthFile;

    fn settings(file: Option<&str>, restricts_images: bool, is_off: bool) -> Settings {
        Settings {
            policy: Policy {
                file: file.map(str::to_owned),
                restricts_images,
                is_off,
                mistake: None,
            },
            registries_conf: Vec::new(),
            auth_files: Vec::new(),
            credentials_given: false,
        }
    }

    #[test]
    fn a_missing_policy_is_a_problem_where_one_is_needed() {
        let table = [
            (None, false, Some(true), true),
            (None, false, Some(false), false),
            (None, false, None, false),
            (None, true, Some(true), false),
            (Some("/p"), false, Some(true), false),
        ];
        for (file, is_off, checks, expected) in table {
            let found = policy_problem(&settings(file, false, is_off), checks);
            assert_eq!(found.is_some(), expected, "{file:?} {is_off} {checks:?}");
        }
    }

    #[test]
    fn an_unchecked_policy_is_noted_if_it_restricts_images() {
        for (restricts, checks, expected) in [
            (true, Some(false), true),
            (true, Some(true), false),
            (false, Some(false), false),
            (true, None, false),
        ] {
            let found = unchecked_policy(&settings(Some("/p"), restricts, false), checks);
            assert_eq!(found.is_some(), expected, "{restricts} {checks:?}");
        }
    }

    #[test]
    fn an_auth_file_that_can_not_be_read_is_a_problem_unless_an_earlier_one_may_suffice() {
        let file = |path: &str, exists, is_unreadable| AuthFile {
            path: path.to_owned(),
            exists,
            is_unreadable,
        };
        for (earlier_exists, is_unreadable, problems, notes) in [
            (false, false, false, false),
            (false, true, true, false),
            (true, true, false, true),
        ] {
            let mut settings = settings(None, false, false);
            settings.auth_files = vec![
                file("/a", earlier_exists, false),
                file("/b", true, is_unreadable),
            ];
            let found = |may_work| unreadable_auth_file(&settings, may_work);
            assert_eq!(found(false).is_some(), problems, "{earlier_exists}");
            assert_eq!(found(true).is_some(), notes, "{earlier_exists}");
            let problem = found(false).or_else(|| found(true));
            assert!(problem.is_none_or(|problem| problem.what.contains("auth file /b;")));
        }
    }

    #[test]
    fn few_open_files_are_noted() {
        for (open_files, expected) in [(Some(64), true), (Some(1024), false), (None, false)] {
            let limits = Limits {
                open_files,
                open_files_hard: None,
                pipe_max_size: None,
                pipe_user_pages_soft: None,
                pipe_user_pages_hard: None,
            };
            assert_eq!(few_files(&limits).is_some(), expected, "{open_files:?}");
        }
    }
}
