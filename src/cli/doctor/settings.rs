//! The files that skopeo reads, by their paths. The content of auth files is not read.

use std::path::Path;

use longshore::ImageProxyConfig;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use serde::Serialize;

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
        Self {
            policy: Policy {
                file: config.policy_file().as_deref().map(shown),
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
