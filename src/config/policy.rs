//! What the signature policy has skopeo do.

use std::fs;
use std::io::ErrorKind;

use super::ImageProxyConfig;

/// The system's policy (containers-policy.json(5)).
const SYSTEM: &str = "/etc/containers/policy.json";

impl ImageProxyConfig {
    /// Whether the signature policy has keys of gpg (containers-policy.json(5),
    /// also for where it lies). Then skopeo has a temporary folder while it
    /// opens an image, and had better not be killed then.
    ///
    /// Blocks: it reads the policy.
    #[must_use]
    pub fn may_ask_gpg(&self) -> bool {
        let home = std::env::home_dir().map(|home| home.join(".config/containers/policy.json"));
        let policy = match &self.policy {
            Some(named) => fs::read_to_string(named),
            None => home
                .map_or(Err(ErrorKind::NotFound.into()), fs::read_to_string)
                .or_else(|_| fs::read_to_string(SYSTEM)),
        };
        !self.insecure_policy && policy.is_ok_and(|policy| policy.contains("\"signedBy\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_with_keys_may_ask_gpg_unless_it_is_not_looked_at() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("policy.json");
        let policy = |text: &str| {
            fs::write(&path, text).expect("a file");
            ImageProxyConfig::default().policy(path.clone())
        };
        let keys = r#"{"default": [{"type": "signedBy", "keyType": "GPGKeys"}]}"#;
        assert!(policy(keys).may_ask_gpg());
        assert!(!policy(keys).insecure_policy(true).may_ask_gpg());
        assert!(!policy(r#"{"default": [{"type": "reject"}]}"#).may_ask_gpg());
    }
}
