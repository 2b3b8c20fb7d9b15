//! The effects of the signature policy on skopeo.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::ImageProxyConfig;

/// The path of the system's policy (containers-policy.json(5)).
const SYSTEM_POLICY: &str = "/etc/containers/policy.json";

impl ImageProxyConfig {
    /// Returns whether the signature policy has gpg keys. containers-policy.json(5) describes where the policy is. With
    /// gpg keys, skopeo has a temporary folder while it opens an image. If skopeo is killed at that time, it leaves the
    /// folder behind. A [`shutdown_timeout`](crate::ConnectionOptions#structfield.shutdown_timeout) of some seconds
    /// lets skopeo remove the folder.
    ///
    /// This function blocks: it reads the policy. The result is also `true` if the policy exists and can't be read, or
    /// is not a regular file. Such a file is not read, because it may be readable only once. The result is `false` if
    /// there is no policy file.
    #[must_use]
    pub fn may_ask_gpg(&self) -> bool {
        self.policy_in_force().may_ask_gpg()
    }

    /// Returns whether the signature policy may refuse images: whether it has another requirement than
    /// `insecureAcceptAnything`. containers-policy.json(5) describes where the policy is. If the policy may refuse
    /// images, check [`checks_policy`](crate::ImageProxy::checks_policy), or
    /// set [`require_policy`](Self#structfield.require_policy).
    ///
    /// This function blocks: it reads the policy. The result is also `true` if the policy exists and can't be read, or
    /// is not a regular file. Such a file is not read, because it may be readable only once. The result is `false` if
    /// there is no policy file.
    #[must_use]
    pub fn restricts_images(&self) -> bool {
        self.policy_in_force().restricts_images()
    }

    /// Returns the path of the signature policy that skopeo reads: [`policy`](Self#structfield.policy), or else the
    /// user's or the system's. `None` with [`insecure_policy`](Self#structfield.insecure_policy), and if there is no
    /// such file. Without the file, a skopeo that checks policies opens no image.
    ///
    /// This function blocks: it looks for the files. The environment of this process is used, not the environment or
    /// the arguments of [`skopeo_cmd`](Self#structfield.skopeo_cmd).
    #[must_use]
    pub fn policy_file(&self) -> Option<PathBuf> {
        let path = self.policy_in_force().path()?;
        path.exists().then_some(path)
    }

    pub(crate) fn policy_in_force(&self) -> Policy {
        Policy {
            required: self.policy.is_some() || self.require_policy,
            configured: self.policy.clone(),
            insecure: self.insecure_policy,
        }
    }
}

/// The policy that the skopeo of a configuration uses, if it checks one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policy {
    /// Whether a skopeo that checks no policy is an error.
    pub(crate) required: bool,
    configured: Option<PathBuf>,
    /// Whether all images are accepted.
    insecure: bool,
}

impl Policy {
    pub(crate) fn may_ask_gpg(&self) -> bool {
        self.may_have(|policy| policy.contains("\"signedBy\""))
    }

    pub(crate) fn restricts_images(&self) -> bool {
        self.may_have(restricts)
    }

    /// The path of the policy. The file may not exist. `None` if no policy is read.
    fn path(&self) -> Option<PathBuf> {
        if self.insecure {
            return None;
        }
        if let Some(configured) = &self.configured {
            return Some(configured.clone());
        }
        let home = std::env::home_dir().map(|home| home.join(".config/containers/policy.json"));
        // A file that can't be looked at, for example without permission, is not missing.
        let exists = |path: &PathBuf| {
            let found = fs::metadata(path);
            !found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        Some(home.filter(exists).unwrap_or_else(|| SYSTEM_POLICY.into()))
    }

    /// Whether the policy has this property. `true` if the policy can't be read.
    fn may_have(&self, has_property: impl Fn(&str) -> bool) -> bool {
        let Some(path) = self.path() else {
            return false;
        };
        let found = PolicyFile::read(&path);
        match found {
            PolicyFile::Missing => false,
            PolicyFile::Unreadable => true,
            PolicyFile::Content(policy) => has_property(&policy),
        }
    }
}

/// The policy file, if there is one.
enum PolicyFile {
    Missing,
    Unreadable,
    Content(String),
}

impl PolicyFile {
    fn read(path: &Path) -> Self {
        let is_file = fs::metadata(path).map(|found| found.is_file());
        let read = match is_file {
            Ok(true) => fs::read_to_string(path),
            // A file that can be read only once is left to skopeo.
            Ok(false) => return Self::Unreadable,
            Err(error) => Err(error),
        };
        match read {
            Ok(policy) => Self::Content(policy),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::Missing,
            Err(_) => Self::Unreadable,
        }
    }
}

/// Whether the policy has a requirement other than to accept everything.
fn restricts(policy: &str) -> bool {
    let Ok(policy) = serde_json::from_str::<Value>(policy) else {
        // skopeo rejects such a policy.
        return true;
    };
    let scopes = policy["transports"].as_object().into_iter().flatten();
    let scopes = scopes.flat_map(|(_, scopes)| scopes.as_object().into_iter().flatten());
    let requirements = scopes.map(|(_, requirements)| requirements);
    let accepts = |requirements: &Value| {
        requirements.as_array().is_some_and(|list| {
            let accepts = |one: &Value| one["type"] == "insecureAcceptAnything";
            !list.is_empty() && list.iter().all(accepts)
        })
    };
    !requirements.chain([&policy["default"]]).all(accepts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_with_keys_may_ask_gpg_unless_it_is_ignored() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("policy.json");
        let policy = |text: &str| {
            fs::write(&path, text).expect("a file");
            ImageProxyConfig::default().policy(path.clone())
        };
        let keys = r#"{"default": [{"type": "signedBy", "keyType": "GPGKeys"}]}"#;
        assert_eq!(policy(keys).policy_file().as_ref(), Some(&path));
        assert_eq!(policy(keys).insecure_policy(true).policy_file(), None);
        assert!(policy(keys).may_ask_gpg());
        assert!(policy(keys).restricts_images());
        assert!(!policy(keys).insecure_policy(true).may_ask_gpg());
        assert!(!policy(keys).insecure_policy(true).restricts_images());
        assert!(!policy(r#"{"default": [{"type": "reject"}]}"#).may_ask_gpg());
        fs::remove_file(&path).expect("it is there");
        let gone = ImageProxyConfig::default().policy(path.clone());
        assert!(!gone.may_ask_gpg() && !gone.restricts_images());
        assert_eq!(gone.policy_file(), None);
    }

    #[test]
    fn a_policy_that_can_be_read_only_once_is_not_read() {
        let pipe = ImageProxyConfig::default().policy("/dev/zero");
        assert!(pipe.may_ask_gpg() && pipe.restricts_images());
    }

    #[test]
    fn only_a_policy_that_accepts_anything_restricts_nothing() {
        let accept = r#"[{"type": "insecureAcceptAnything"}]"#;
        let reject = r#"[{"type": "reject"}]"#;
        let table = [
            (format!(r#"{{"default": {accept}}}"#), false),
            (
                format!(
                    r#"{{"default": {accept}, "transports": {{"docker-daemon": {{"": {accept}}}}}}}"#
                ),
                false,
            ),
            (format!(r#"{{"default": {reject}}}"#), true),
            (
                format!(
                    r#"{{"default": {accept}, "transports": {{"docker": {{"quay.io": {reject}}}}}}}"#
                ),
                true,
            ),
            (r#"{"default": []}"#.to_owned(), true),
            ("{}".to_owned(), true),
            ("{".to_owned(), true),
        ];
        for (policy, expected) in table {
            assert_eq!(restricts(&policy), expected, "{policy}");
        }
    }
}
