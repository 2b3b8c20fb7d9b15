//! The variables that stand for options.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use longshore::Proxies;

use super::Command;

pub(super) const SKOPEO: &str = "LONGSHORE_SKOPEO";
pub(super) const PROXIES: &str = "LONGSHORE_PROXIES";
pub(super) const AUTHFILE: &str = "LONGSHORE_AUTHFILE";

/// The text of the help about the variables.
pub(in crate::cli) const HELP: &str = "  LONGSHORE_SKOPEO    the skopeo program, as --skopeo
  LONGSHORE_PROXIES   the number of skopeo processes of a pull, as --proxies
  LONGSHORE_AUTHFILE  the auth file, as --authfile; not used with another option
                      about credentials (--creds, --no-creds, ...)
  RUST_LOG            which log messages to show, such as longshore=debug
  NO_COLOR            if set, log messages on a terminal have no colours
An option overrides the LONGSHORE_ variable that stands for it.
An empty variable counts as not set.";

/// The values of the variables that name files.
///
/// clap's own feature for variables is not used. It treats a variable like an option on the command line, so
/// `LONGSHORE_AUTHFILE` would conflict with `--creds`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Environment {
    pub(super) skopeo: Option<PathBuf>,
    pub(super) authfile: Option<PathBuf>,
}

/// Applies the variables to the options that are not given. Returns a message if a variable that is needed has
/// a wrong value.
pub(super) fn apply(
    command: &mut Command,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<(), String> {
    let variable = |name| variable(name).filter(|value| !value.is_empty());
    let source = match command {
        Command::Pull(pull) => {
            if pull.proxies.is_none() {
                pull.proxies = variable(PROXIES).as_deref().map(proxies).transpose()?;
            }
            &mut pull.proxy.source
        }
        Command::Inspect(inspect) => &mut inspect.proxy.source,
        Command::Digest(digest) => &mut digest.proxy.source,
        Command::Blob(blob) => &mut blob.fetch.proxy.source,
        #[cfg(feature = "decompress")]
        Command::Export(export) => &mut export.fetch.proxy.source,
        Command::Doctor(doctor) => {
            // The variable applies to pulls, and doctor says whether they can work.
            variable(PROXIES).as_deref().map(proxies).transpose()?;
            &mut doctor.proxy.source
        }
        Command::ListTags(list) => &mut list.source,
        Command::Verify(_) | Command::Prune(_) | Command::Completions(_) | Command::Man(_) => {
            return Ok(());
        }
    };
    source.environment = Environment {
        skopeo: variable(SKOPEO).map(PathBuf::from),
        authfile: variable(AUTHFILE).map(PathBuf::from),
    };
    Ok(())
}

fn proxies(value: &OsStr) -> Result<Proxies, String> {
    let parsed = value.to_string_lossy().parse::<Proxies>();
    parsed.map_err(|reason| format!("the variable {PROXIES}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Arguments, PullArguments};
    use clap::Parser;

    const IMAGE: &str = "docker://127.0.0.1:1/a/b";

    fn pull(options: &[&str], variables: &[(&str, &str)]) -> Result<PullArguments, String> {
        let start = ["longshore", "pull"];
        let line = start.iter().chain(options).chain(&[IMAGE, "oci:x"]);
        let mut command = Arguments::try_parse_from(line).expect("arguments").command;
        apply(&mut command, |name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.into())
        })?;
        match command {
            Command::Pull(arguments) => Ok(arguments),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_option_overrides_the_variable_for_the_number_of_proxies() {
        let proxies = |text: &str| Some(text.parse::<Proxies>().expect("proxies"));
        let table: [(&[&str], &str, _); 5] = [
            (&[], "3", proxies("3")),
            (&[], "2-4", proxies("2-4")),
            (&[], "", None),
            (&["--proxies", "5"], "3", proxies("5")),
            (&["--proxies", "auto"], "nonsense", proxies("auto")),
        ];
        for (options, value, expected) in table {
            let arguments = pull(options, &[(PROXIES, value)]).expect(value);
            assert_eq!(arguments.proxies, expected, "{options:?} {value:?}");
        }
        let message = pull(&[], &[(PROXIES, "0")]).expect_err("no number");
        let mut doctor = Arguments::try_parse_from(["longshore", "doctor"]).expect("arguments");
        let zero = |name: &str| (name == PROXIES).then(|| "0".into());
        assert_eq!(apply(&mut doctor.command, zero), Err(message.clone()));
        assert!(
            message.contains(PROXIES) && message.contains("MIN-MAX"),
            "{message}"
        );
    }

    #[test]
    fn an_option_overrides_the_variable_for_skopeo() {
        let table: [(&[&str], &str, Option<&str>); 3] = [
            (&[], "/a/skopeo", Some("/a/skopeo")),
            (&[], "", None),
            (&["--skopeo", "/b/skopeo"], "/a/skopeo", Some("/b/skopeo")),
        ];
        for (options, value, expected) in table {
            let arguments = pull(options, &[(SKOPEO, value)]).expect(value);
            let config = arguments.proxy.config(&[IMAGE], None, false).expect(value);
            let skopeo = config.skopeo_path.as_deref();
            assert_eq!(skopeo, expected.map(AsRef::as_ref), "{options:?} {value:?}");
        }
    }

    #[test]
    fn any_option_about_credentials_overrides_the_variable_for_the_auth_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("a file");
            path.to_str().expect("UTF-8").to_owned()
        };
        let of_variable = file("variable.json", "{}");
        let of_option = file("option.json", "{}");
        let creds = file("creds", "user:pass");
        let table: [(&[&str], &str, Option<&str>); 7] = [
            (&[], &of_variable, Some(&of_variable)),
            (&[], "", None),
            (&["--authfile", &of_option], &of_variable, Some(&of_option)),
            (&["--authfile", &of_option], "/missing", Some(&of_option)),
            (&["--creds", "user:pass"], &of_variable, None),
            (&["--creds-file", &creds], "/missing", None),
            (&["--no-creds"], &of_variable, None),
        ];
        for (options, value, expected) in table {
            let arguments = pull(options, &[(AUTHFILE, value)]).expect(value);
            let config = arguments.proxy.config(&[IMAGE], None, false).expect(value);
            let authfile = config.authfile.as_deref();
            assert_eq!(
                authfile,
                expected.map(AsRef::as_ref),
                "{options:?} {value:?}"
            );
        }
    }

    #[test]
    fn an_auth_file_that_does_not_exist_is_named_with_its_variable() {
        let arguments = pull(&[], &[(AUTHFILE, "/missing")]).expect("arguments");
        let failure = arguments.proxy.config(&[IMAGE], None, false);
        let message = format!("{:?}", failure.expect_err("no file"));
        assert!(
            message.contains("LONGSHORE_AUTHFILE /missing: No such file"),
            "{message}"
        );
    }
}
