//! The files that skopeo reads, by their paths. Of their contents, only the policy is looked at.

use std::fs;
use std::path::Path;

use longshore::{ImageProxyConfig, printable};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use serde::Serialize;
use serde_json::Value;

/// The settings of a configuration.
#[derive(Debug, Serialize)]
pub(super) struct Settings {
    pub(super) policy: Policy,
    /// The registries.conf files, in the order in which skopeo reads them.
    pub(super) registries_conf: Vec<String>,
    /// The auth files, in the order in which skopeo reads them.
    pub(super) auth_files: Vec<AuthFile>,
    /// Whether credentials were given by an option, so that no auth file is looked at.
    pub(super) credentials_given: bool,
}

/// The signature policy.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Policy {
    /// The file that applies. `None` if there is none.
    pub(super) file: Option<String>,
    /// Whether the policy may refuse images.
    pub(super) restricts_images: bool,
    /// Whether an option says that images are accepted whatever the policy says.
    pub(super) is_off: bool,
    /// Why no skopeo accepts the file as a policy. `None` if it may be one.
    #[serde(skip)]
    pub(super) mistake: Option<String>,
}

/// Returns why no skopeo accepts this file as a policy (containers-policy.json(5)). `None` if it may be one. Blocks.
fn policy_mistake(path: &Path) -> Option<String> {
    // Another file, such as a pipe, may be readable only once.
    let is_file = fs::metadata(path).is_ok_and(|found| found.is_file());
    let text = fs::read(path).ok().filter(|_| is_file)?;
    mistake_in_policy(&text)
}

fn mistake_in_policy(text: &[u8]) -> Option<String> {
    let policy: Value = match serde_json::from_slice(text) {
        Ok(policy) => policy,
        Err(error) => return Some(format!("it is not JSON: {}", printable(&error.to_string()))),
    };
    let default = policy.get("default").and_then(Value::as_array);
    let has_default = default.is_some_and(|requirements| !requirements.is_empty());
    (!has_default).then(|| "it has no list \"default\" with a requirement".to_owned())
}

#[derive(Debug, Serialize)]
pub(super) struct AuthFile {
    pub(super) path: String,
    pub(super) exists: bool,
    /// Whether this user may not read the file, or not look into its folder. skopeo fails then.
    pub(super) is_unreadable: bool,
}

impl AuthFile {
    fn of(path: &Path) -> Self {
        // The file is not opened, because opening a pipe would wait.
        let may_read = access(path, AccessFlags::R_OK);
        Self {
            path: shown(path),
            exists: path.exists(),
            is_unreadable: may_read == Err(Errno::EACCES),
        }
    }
}

impl Settings {
    /// Looks for the files. Blocks.
    pub(super) fn of(config: &ImageProxyConfig) -> Self {
        let policy = config.policy_file();
        Self {
            policy: Policy {
                mistake: policy.as_deref().and_then(policy_mistake),
                file: policy.as_deref().map(shown),
                restricts_images: config.restricts_images(),
                is_off: config.insecure_policy,
            },
            registries_conf: config
                .registries_files()
                .iter()
                .map(|path| shown(path))
                .collect(),
            auth_files: config
                .auth_files()
                .iter()
                .map(|path| AuthFile::of(path))
                .collect(),
            credentials_given: config.credentials.is_some(),
        }
    }
}

/// Returns a path as text. Bytes that are not UTF-8 are replaced, because JSON can't contain them.
pub(super) fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_json_with_a_default() {
        let table = [
            (r#"{"default": [{"type": "reject"}], "more": 1}"#, None),
            ("oops", Some("it is not JSON")),
            ("", Some("it is not JSON")),
            ("{}", Some("no list \"default\"")),
            ("[]", Some("no list \"default\"")),
            (r#"{"default": []}"#, Some("no list \"default\"")),
        ];
        for (text, expected) in table {
            let mistake = mistake_in_policy(text.as_bytes());
            assert_eq!(mistake.is_some(), expected.is_some(), "{text}: {mistake:?}");
            let words = expected.unwrap_or_default();
            assert!(mistake.unwrap_or_default().contains(words), "{text}");
        }
    }
}
