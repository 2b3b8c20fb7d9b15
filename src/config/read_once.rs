//! Copies files that can be read only once, such as pipes, or only by this process, such as `/dev/stdin`. Each proxy
//! must read such a file, so its content is put into a sealed memory file.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::auth::sealed;
use super::{ImageProxyConfig, variable};
use crate::drain::bounded;
use crate::error::{ConfigError, Error, Result};

/// The maximum size of a file that is copied, in bytes.
const MAX_BYTES: usize = 1024 * 1024;

/// The environment variable that names an auth file to skopeo (skopeo(1)).
const AUTH_FILE_VARIABLE: &str = "REGISTRY_AUTH_FILE";

impl ImageProxyConfig {
    /// Copies the files of this configuration that can be read only once, and replaces their paths by those of memory
    /// files. Returns the memory files, which children must keep open.
    ///
    /// This function blocks until the files end.
    pub(super) fn read_once(&mut self) -> Result<Vec<Arc<OwnedFd>>> {
        self.take_auth_file_of_environment();
        let files = [
            ("authfile", &mut self.authfile),
            ("policy", &mut self.policy),
            ("registries_conf", &mut self.registries_conf),
        ];
        let mut passed = Vec::new();
        for (option, path) in files {
            if let Some(path) = path
                && is_read_once(path)
            {
                let content = read(path, option)?;
                let file = sealed(&content).map_err(Error::io("can't make a memory file"))?;
                *path = path_in_child(&file);
                passed.push(Arc::new(file));
            }
        }
        Ok(passed)
    }

    /// Uses the auth file that the environment names, if that file can be read only once and no option
    /// has credentials.
    fn take_auth_file_of_environment(&mut self) {
        let given = self.authfile.is_some()
            || self.auth_data.is_some()
            || self.credentials.is_some()
            || self.auth_anonymous;
        let mut environment = self
            .skopeo_cmd
            .iter()
            .flat_map(|command| command.get_envs());
        let another = environment.any(|(name, _)| name == AUTH_FILE_VARIABLE);
        if !given
            && !another
            && let Some(path) = variable(AUTH_FILE_VARIABLE).map(PathBuf::from)
            && is_read_once(&path)
        {
            self.authfile = Some(path);
        }
    }
}

/// The path by which a child opens a file that was passed to it.
pub(super) fn path_in_child(file: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// Whether a file must be read by this process. A path to a descriptor of this process names another file in any other
/// process. A file that does not exist is left to skopeo, which reports the error.
fn is_read_once(path: &Path) -> bool {
    let ours = ["/dev/fd", "/dev/stdin", "/proc/self", "/proc/thread-self"];
    let is_ours = ours.iter().any(|ours| path.starts_with(ours));
    is_ours || fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

fn read(path: &Path, option: &'static str) -> Result<Zeroizing<Vec<u8>>> {
    let read = File::open(path).and_then(|file| bounded::read_secret(file, MAX_BYTES));
    let read = read.map_err(Error::io(format!("can't read {}", path.display())))?;
    read.ok_or_else(|| {
        let reason = format!("{} has more than {MAX_BYTES} bytes", path.display());
        ConfigError::Invalid { option, reason }.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AuthData;
    use std::io::{Write, pipe};

    #[test]
    fn a_pipe_is_read_once_and_every_child_can_read_it() {
        let (reader, mut writer) = pipe().expect("a pipe");
        writer.write_all(b"{}").expect("room");
        drop(writer);
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
        let mut config = ImageProxyConfig::default().authfile(path);
        let passed = config.read_once().expect("it can be read");
        drop(reader);
        assert_eq!(passed.len(), 1);
        let path = config.authfile.expect("still given");
        for _ in 0..2 {
            assert_eq!(fs::read_to_string(&path).expect("a file"), "{}");
        }
    }

    #[test]
    fn a_clone_of_a_configuration_has_the_same_auth_data() {
        let (reader, mut writer) = pipe().expect("a pipe");
        writer.write_all(b"{}").expect("room");
        drop(writer);
        let auth = AuthData::from(OwnedFd::from(reader));
        let mut command = std::process::Command::new("wrapper");
        command.arg("its").env("NAME", "value").current_dir("/");
        let config = ImageProxyConfig::default()
            .auth_data(auth)
            .skopeo_cmd(command)
            .os("linux");
        for config in [config.clone(), config] {
            let command = config.skopeo_cmd.as_ref().expect("a command");
            assert_eq!(
                format!("{command:?}"),
                "cd \"/\" && NAME=\"value\" \"wrapper\" \"its\""
            );
            assert_eq!(config.os.as_deref(), Some("linux"));
            let auth = config.auth_data.expect("auth data").read();
            assert_eq!(auth.expect("it can be read").as_slice(), b"{}");
        }
    }

    #[test]
    fn a_file_without_end_is_refused() {
        let mut config = ImageProxyConfig::default().policy("/dev/zero");
        let error = config.read_once().expect_err("too large");
        assert!(
            error
                .to_string()
                .contains("policy: /dev/zero has more than"),
            "{error}"
        );
    }

    #[test]
    fn regular_and_missing_files_are_left_to_skopeo() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("auth.json");
        fs::write(&file, "{}").expect("a file");
        for path in [file, folder.path().join("none"), folder.path().into()] {
            let mut config = ImageProxyConfig::default().authfile(path.clone());
            assert!(config.read_once().expect("nothing to read").is_empty());
            assert_eq!(config.authfile, Some(path));
        }
    }
}
