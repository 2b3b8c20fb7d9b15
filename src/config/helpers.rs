//! Checks whether skopeo uses the credentials that were given. `credential-helpers` in registries.conf can make skopeo
//! ignore auth files.

use std::fs;
use std::path::{Path, PathBuf};

use super::ImageProxyConfig;
use crate::error::ConfigError;

/// The entry of `credential-helpers` that stands for auth files (containers-registries.conf(5)).
const AUTH_FILES_ENTRY: &str = "containers-auth.json";

const SYSTEM_REGISTRIES_CONF: &str = "/etc/containers/registries.conf";

impl ImageProxyConfig {
    /// Returns the paths of the registries.conf files that skopeo reads, in this
    /// order (containers-registries.conf(5)). Only files that exist are returned.
    ///
    /// This function blocks: it looks for the files. The environment of this process is used, not the environment or
    /// the arguments of [`skopeo_cmd`](Self#structfield.skopeo_cmd).
    #[must_use]
    pub fn registries_files(&self) -> Vec<PathBuf> {
        let mut files = conf_files(self);
        files.retain(|path| path.exists());
        files
    }
}

/// Returns an error if skopeo asks only credential helpers, and ignores auth files. `option` is the name of the option
/// with the credentials.
///
/// This function blocks: it reads registries.conf, and the files of registries.conf.d.
pub(super) fn check_auth_files_are_used(
    config: &ImageProxyConfig,
    option: &'static str,
) -> Result<(), ConfigError> {
    match credential_helpers(config) {
        Some((helpers, path))
            if !helpers.is_empty() && !helpers.iter().any(|one| one == AUTH_FILES_ENTRY) =>
        {
            Err(ConfigError::Invalid {
                option,
                reason: format!(
                    "{} makes skopeo ask {} for credentials and ignore all others: add \"{AUTH_FILES_ENTRY}\" to its \
                     credential-helpers, or log in with the helper",
                    path.display(),
                    helpers.join(", ")
                ),
            })
        }
        _ => Ok(()),
    }
}

/// Whether skopeo asks credential helpers.
///
/// This function blocks like [`check_auth_files_are_used`].
pub(super) fn uses_credential_helpers(config: &ImageProxyConfig) -> bool {
    credential_helpers(config)
        .is_some_and(|(helpers, _)| helpers.iter().any(|one| one != AUTH_FILES_ENTRY))
}

/// Whether skopeo may ask other hosts than the one in the name of an image: a mirror, or another location.
///
/// This function blocks like [`check_auth_files_are_used`].
pub(super) fn has_mirrors_or_locations(config: &ImageProxyConfig) -> bool {
    let texts = conf_files(config).into_iter().map(fs::read_to_string);
    texts.flatten().any(|text| mentions_other_location(&text))
}

fn mentions_other_location(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim_start);
    lines.any(|line| {
        let location = line.strip_prefix("location");
        location.is_some_and(|rest| rest.trim_start().starts_with('='))
            || line.starts_with("[[registry.mirror")
    })
}

/// The list of credential helpers, and the file that contains it. The last such file counts.
fn credential_helpers(config: &ImageProxyConfig) -> Option<(Vec<String>, PathBuf)> {
    let mut credential_helpers = conf_files(config).into_iter().filter_map(|path| {
        let text = fs::read_to_string(&path).ok()?;
        Some((parse_credential_helpers(&text)?, path))
    });
    credential_helpers.next_back()
}

/// The paths of the registries.conf files, in the order in which skopeo reads
/// them (containers-registries.conf.d(5)). The first path may name no file.
fn conf_files(config: &ImageProxyConfig) -> Vec<PathBuf> {
    let users = std::env::home_dir().map(|home| home.join(".config/containers/registries.conf"));
    // The system's folder is ignored if the user has a file (containers-registries.conf(5)).
    let (main, has_system_folder) = match (&config.registries_conf, &users) {
        (Some(named), _) => (named.clone(), true),
        (None, Some(users)) if users.exists() => (users.clone(), false),
        (None, _) => (SYSTEM_REGISTRIES_CONF.into(), true),
    };
    let with_folder = |conf: &Path| {
        let mut folder = conf.as_os_str().to_owned();
        folder.push(".d");
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
        files.retain(|path| {
            path.extension()
                .is_some_and(|extension| extension == "conf")
        });
        files.sort();
        files
    };
    let mut files = vec![main];
    if has_system_folder {
        files.extend(with_folder(SYSTEM_REGISTRIES_CONF.as_ref()));
    }
    files.extend(users.iter().flat_map(|users| with_folder(users)));
    files
}

/// The value of `credential-helpers` in this TOML, if there is one.
fn parse_credential_helpers(text: &str) -> Option<Vec<String>> {
    let without_comments: String = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        // The lines before the first table belong to no table.
        .take_while(|line| !line.starts_with('['))
        .flat_map(|line| [line, "\n"])
        .collect();
    let list = without_comments.lines().position(|line| {
        let rest = line.strip_prefix("credential-helpers");
        rest.is_some_and(|rest| rest.trim_start().starts_with('='))
    })?;
    let following: Vec<&str> = without_comments.lines().skip(list).collect();
    let following = following.join(" ");
    let (_, list) = following.split_once('[')?;
    let (list, _) = list.split_once(']')?;
    let names = list
        .split(',')
        .map(|name| name.trim().trim_matches(['"', '\'']));
    Some(
        names
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credential_helpers_in_their_usual_forms() {
        let table: [(&str, Option<&[&str]>); 8] = [
            ("", None),
            ("credential-helpers = []", Some(&[])),
            ("credential-helpers = [\"a\"]", Some(&["a"])),
            (
                "x = 1\n credential-helpers=['a', \"b\"] # c",
                Some(&["a", "b"]),
            ),
            (
                "credential-helpers = [\n  \"a\", # one\n  \"b\",\n]\n",
                Some(&["a", "b"]),
            ),
            ("# credential-helpers = [\"a\"]", None),
            ("credential-helpers-too = [\"a\"]", None),
            ("[[registry]]\ncredential-helpers = [\"a\"]", None),
        ];
        for (text, expected) in table {
            let found = parse_credential_helpers(text);
            let found = found
                .as_ref()
                .map(|found| found.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn mirrors_and_other_locations_are_found() {
        for (text, expected) in [
            ("", false),
            ("[[registry]]\nprefix = \"a\"\nblocked = true", false),
            ("# location = \"b\"", false),
            ("[[registry]]\nprefix = \"a\"\nlocation=\"b\"", true),
            (
                "[[registry]]\nprefix = \"a\"\n  [[registry.mirror]]\n  location = \"b\"",
                true,
            ),
        ] {
            assert_eq!(mentions_other_location(text), expected, "{text}");
        }
    }

    #[test]
    fn helpers_are_used_if_the_list_names_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("registries.conf");
        for (text, expected) in [
            ("credential-helpers = []", false),
            ("credential-helpers = [\"containers-auth.json\"]", false),
            (
                "credential-helpers = [\"containers-auth.json\", \"a\"]",
                true,
            ),
        ] {
            fs::write(&path, text).expect("a file");
            let config = ImageProxyConfig::default().registries_conf(path.clone());
            assert_eq!(uses_credential_helpers(&config), expected, "{text}");
        }
    }

    #[test]
    fn credentials_that_skopeo_would_ignore_are_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("registries.conf");
        let check = |text: &str| {
            fs::write(&path, text).expect("a file");
            let config = ImageProxyConfig::default().registries_conf(path.clone());
            check_auth_files_are_used(&config, "credentials")
        };
        check("").expect("nothing is said");
        let config = ImageProxyConfig::default().registries_conf(path.clone());
        assert_eq!(config.registries_files().first(), Some(&path));
        check("credential-helpers = []").expect("the default");
        check("credential-helpers = [\"a\", \"containers-auth.json\"]")
            .expect("they are looked at");
        let error = check("credential-helpers = [\"a\", \"b\"]").expect_err("they are not");
        let message = error.to_string();
        assert!(
            message.contains("ask a, b for credentials") && message.contains("registries.conf"),
            "{message}"
        );
    }
}
