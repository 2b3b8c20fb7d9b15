//! The command line of skopeo: the program, and the options of a configuration as arguments.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;

use super::ImageProxyConfig;

impl ImageProxyConfig {
    /// Makes the command of the configuration, without arguments of this library.
    pub(super) fn base_command(&self) -> Command {
        match &self.skopeo_cmd {
            Some(given) => clone_command(given),
            None => Command::new(self.skopeo_path.as_deref().unwrap_or("skopeo".as_ref())),
        }
    }

    /// The option that names the program.
    pub(super) fn program_option(&self) -> &'static str {
        match &self.skopeo_cmd {
            Some(_) => "skopeo_cmd",
            None => "skopeo_path",
        }
    }

    /// The global options of skopeo, which come before the subcommand.
    pub(super) fn global_arguments(&self) -> Vec<OsString> {
        let mut arguments = Vec::new();
        if self.debug {
            arguments.push("--debug".into());
        }
        if self.insecure_policy {
            arguments.push("--insecure-policy".into());
        }
        let paths = [
            ("--policy", &self.policy),
            ("--registries-conf", &self.registries_conf),
            ("--registries.d", &self.registries_d),
            ("--tmpdir", &self.temporary_directory),
        ];
        for (option, path) in paths {
            if let Some(path) = path {
                arguments.extend([option.into(), path.into()]);
            }
        }
        let texts = [
            ("--override-os", &self.os),
            ("--override-arch", &self.architecture),
            ("--override-variant", &self.variant),
            ("--user-agent-prefix", &self.user_agent_prefix),
        ];
        for (option, text) in texts {
            if let Some(text) = text {
                arguments.extend([option.into(), text.into()]);
            }
        }
        arguments
    }

    /// The options for the source of images, which come after the subcommand.
    pub(super) fn registry_arguments(&self) -> Vec<OsString> {
        let mut arguments = Vec::new();
        if self.auth_anonymous {
            arguments.push("--no-creds".into());
        }
        if let Some(path) = &self.authfile {
            arguments.extend(["--authfile".into(), path.into()]);
        }
        if let Some(directory) = &self.certificate_directory {
            arguments.extend(["--cert-dir".into(), directory.into()]);
        }
        if self.insecure_skip_tls_verification == Some(true) {
            arguments.push("--tls-verify=false".into());
        } else if self.require_tls_verification {
            arguments.push("--tls-verify=true".into());
        }
        arguments
    }
}

/// Makes a command with the same program, arguments and working folder, and the variables that were set or removed.
pub(super) fn clone_command(given: &Command) -> Command {
    let mut command = Command::new(given.get_program());
    command.args(given.get_args());
    for (name, value) in given.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(directory) = given.get_current_dir() {
        command.current_dir(directory);
    }
    command
}

/// Whether this command starts a wrapper, and not skopeo itself. A wrapper is a program whose name is not
/// `skopeo`, with or without a version.
pub(super) fn is_wrapper(command: &Command) -> bool {
    let name = Path::new(command.get_program()).file_name();
    let version = name.and_then(|name| name.as_bytes().strip_prefix(b"skopeo"));
    let is_version_character = |c: &u8| c.is_ascii_digit() || b".-_".contains(c);
    !version.is_some_and(|version| version.iter().all(is_version_character))
}
