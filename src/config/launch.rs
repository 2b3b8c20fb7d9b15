//! Makes the commands of a configuration, for a single start or for any number of starts.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use semver::Version;

use super::auth::sealed;
use super::command_line::{clone_command, is_wrapper};
use super::credential_sources::CredentialSources;
use super::read_once::path_in_child;
use super::skopeo_version::query_version;
use super::{ImageProxyConfig, Platform, helpers, variable};
use crate::error::{ConfigError, Error, Result};

/// The environment variable that says how many processors a Go program uses at a time.
const GO_PROCESSORS: &str = "GOMAXPROCS";

/// The first skopeo version that supports `--user-agent-prefix`.
const USER_AGENT_PREFIX_SINCE: Version = Version::new(1, 21, 0);

/// A command that is ready to be started, with the settings of its supervisor.
pub(crate) struct Launch {
    pub(crate) command: Command,
    /// The name of the program, for messages.
    pub(crate) program: String,
    /// The descriptors that the child keeps open, under their current numbers.
    pub(crate) passed: Vec<Arc<OwnedFd>>,
    pub(crate) forward_stderr: bool,
    /// The text before each line of stderr that is passed on.
    pub(crate) label: String,
    pub(crate) shutdown_timeout: Duration,
    /// Whether skopeo's system-wide blob-info cache is hidden from the child.
    pub(crate) hide_system_cache: bool,
}

/// The part that is common to all launches of one configuration.
pub(crate) struct Template {
    /// The program, with its first arguments, environment and working folder.
    pub(super) base: Command,
    /// The arguments before the subcommand.
    global: Vec<OsString>,
    /// The arguments after the subcommand.
    registry: Vec<OsString>,
    decryption_keys: Vec<String>,
    /// The memory files that the children keep open.
    passed: Vec<Arc<OwnedFd>>,
    pub(crate) credential_sources: CredentialSources,
    forward_stderr: bool,
    shutdown_timeout: Duration,
}

impl Launch {
    /// Lets skopeo use at most this many processors at a time, unless the user has chosen a number.
    pub(crate) fn limit_processors(&mut self, most: usize) {
        let mut given = self.command.get_envs();
        let in_command = given.any(|(name, _)| name == GO_PROCESSORS);
        if !in_command && variable(GO_PROCESSORS).is_none() {
            self.command.env(GO_PROCESSORS, most.to_string());
        }
    }
}

impl ImageProxyConfig {
    /// Makes a template that can be started any number of times. Hooks (`pre_exec`) in
    /// [`skopeo_cmd`](Self#structfield.skopeo_cmd) are lost, because a command can't be cloned.
    ///
    /// This function blocks: it reads files such as [`auth_data`](Self#structfield.auth_data), and may run skopeo to
    /// ask for its version.
    pub(crate) fn into_template(mut self) -> Result<Template> {
        self.validate()?;
        if self.user_agent_prefix.is_some() {
            let found = query_version(self.base_command(), self.program_option())?;
            if found < USER_AGENT_PREFIX_SINCE {
                tracing::warn!(
                    "user_agent_prefix is left out: it needs skopeo {USER_AGENT_PREFIX_SINCE} or later, \
                     this is {found}"
                );
                self.user_agent_prefix = None;
            }
        }
        let mut passed = self.read_once()?;
        self.check_helpers()?;
        let auth = match (self.auth_data.take(), &self.credentials) {
            (Some(data), _) => Some(data.read()?),
            (None, Some(credentials)) => Some(credentials.auth_file()?),
            (None, None) => None,
        };
        if let Some(auth) = auth {
            let file = sealed(&auth);
            let file = file.map_err(Error::io("can't make a memory file for the credentials"))?;
            self.authfile = Some(path_in_child(&file));
            passed.push(Arc::new(file));
        }
        let credential_sources = CredentialSources::of(&self);
        Ok(Template {
            base: self.base_command(),
            global: self.global_arguments(),
            registry: self.registry_arguments(),
            decryption_keys: self.decryption_keys.take().unwrap_or_default(),
            passed,
            credential_sources,
            forward_stderr: self.debug,
            shutdown_timeout: self.connection.shutdown_timeout,
        })
    }

    /// Returns an error if skopeo would ignore the given credentials. A command of the caller is not checked, because
    /// a wrapper may use another registries.conf.
    fn check_helpers(&self) -> Result<(), ConfigError> {
        if self.skopeo_cmd.is_some() {
            return Ok(());
        }
        if self.authfile.is_some() {
            // This is only a warning, because some callers always set an auth file, and rely on the helper.
            if let Err(error) = helpers::check_auth_files_are_used(self, "authfile") {
                tracing::warn!("{error}");
            }
        }
        let given = [
            ("auth_data", self.auth_data.is_some()),
            ("credentials", self.credentials.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((option, _)) => helpers::check_auth_files_are_used(self, option),
            None => Ok(()),
        }
    }

    /// Makes a command that can be started once, with its hooks. This function blocks
    /// like [`into_template`](Self::into_template).
    pub(crate) fn into_launch(mut self) -> Result<Launch> {
        self.validate()?;
        let given = self.skopeo_cmd.take();
        if let Some(given) = &given {
            self.skopeo_cmd = Some(clone_command(given));
        }
        let template = self.into_template()?;
        Ok(template.launch_with(given.unwrap_or_else(|| clone_command(&template.base)), None))
    }
}

impl Template {
    /// Makes one more launch. With `private_cache`, the proxy does not use the blob-info cache that all skopeos share.
    /// The proxy chooses images of `platform` from indexes. `None` means the configured platform.
    pub(crate) fn launch(&self, private_cache: bool, platform: Option<&Platform>) -> Launch {
        let mut launch = self.launch_with(clone_command(&self.base), platform);
        match Cache::of(private_cache, uses_system_cache(), is_wrapper(&self.base)) {
            Cache::Shared => {}
            Cache::Hidden => launch.hide_system_cache = true,
            Cache::InMemory => {
                launch.command.env("XDG_DATA_HOME", "/dev/null");
            }
        }
        launch
    }

    /// Makes a launch of `skopeo inspect --raw`, which prints a manifest or index unchanged.
    pub(crate) fn launch_inspect(&self, reference: &str) -> Launch {
        self.launch_once(&["inspect", "--raw"], reference)
    }

    /// Makes a launch of `skopeo list-tags`, which prints the tags of a repository as JSON.
    pub(crate) fn launch_list_tags(&self, repository: &str) -> Launch {
        self.launch_once(&["list-tags"], repository)
    }

    /// Makes a launch of a subcommand that reads an image or a repository, with the options and files of the proxy.
    fn launch_once(&self, subcommand: &[&str], reference: &str) -> Launch {
        let mut command = clone_command(&self.base);
        command.args(&self.global).args(subcommand);
        command.args(&self.registry).arg(reference);
        self.launch_command(command)
    }

    fn launch_with(&self, mut command: Command, platform: Option<&Platform>) -> Launch {
        command.args(&self.global);
        if let Some(platform) = platform {
            // If an option occurs twice, the last one counts. An empty value counts as none.
            let variant = platform.variant.as_deref().unwrap_or_default();
            command.args(["--override-os", &platform.os]);
            command.args(["--override-arch", &platform.architecture]);
            command.args(["--override-variant", variant]);
        }
        command.arg("experimental-image-proxy").args(&self.registry);
        for key in &self.decryption_keys {
            command.args(["--decryption-key", key]);
        }
        self.launch_command(command)
    }

    fn launch_command(&self, command: Command) -> Launch {
        Launch {
            program: command.get_program().to_string_lossy().into_owned(),
            command,
            passed: self.passed.clone(),
            forward_stderr: self.forward_stderr,
            label: String::new(),
            shutdown_timeout: self.shutdown_timeout,
            hide_system_cache: false,
        }
    }
}

/// Whether and how a skopeo is kept from using the blob-info cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cache {
    /// The shared cache is used.
    Shared,
    /// The folder of root's cache is hidden.
    Hidden,
    /// The folder of a user's cache can't be created, so skopeo keeps the cache in memory.
    InMemory,
}

impl Cache {
    fn of(private: bool, system: bool, wrapper: bool) -> Self {
        match (private, system, wrapper) {
            (true, true, _) => Self::Hidden,
            // A wrapper may keep data of its own in `XDG_DATA_HOME`, as `podman unshare` does.
            (true, false, false) => Self::InMemory,
            (true, false, true) | (false, ..) => Self::Shared,
        }
    }
}

/// Whether skopeo regards this process as root's (containers/image, `blobinfocache`). Its cache is then below
/// `/var/lib`, and otherwise below `XDG_DATA_HOME`.
fn uses_system_cache() -> bool {
    let uid = std::env::var("_CONTAINERS_ROOTLESS_UID")
        .ok()
        .and_then(|uid| uid.parse().ok());
    uid.unwrap_or_else(|| nix::unistd::geteuid().as_raw()) == 0
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    use super::*;
    use crate::Credentials;

    fn arguments(config: ImageProxyConfig) -> Vec<String> {
        let launch = config.into_launch().expect("fine");
        launch
            .command
            .get_args()
            .map(|a| a.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn a_chosen_number_of_processors_stays() {
        let mut skopeo = Command::new("skopeo");
        skopeo.env(GO_PROCESSORS, "3");
        let config = ImageProxyConfig {
            skopeo_cmd: Some(skopeo),
            ..ImageProxyConfig::default()
        };
        let mut launch = config.into_launch().expect("fine");
        launch.limit_processors(1);
        let mut given = launch.command.get_envs();
        let number = given.find(|(name, _)| *name == GO_PROCESSORS);
        assert_eq!(number.and_then(|(_, number)| number), Some("3".as_ref()));
    }

    #[test]
    fn options_become_arguments_before_or_after_the_subcommand() {
        let config = || ImageProxyConfig::default();
        let table: [(ImageProxyConfig, &[&str]); 10] = [
            (config(), &["experimental-image-proxy"]),
            (
                config().debug(true),
                &["--debug", "experimental-image-proxy"],
            ),
            (
                config().authfile("/a b"),
                &["experimental-image-proxy", "--authfile", "/a b"],
            ),
            (
                config().auth_anonymous(true),
                &["experimental-image-proxy", "--no-creds"],
            ),
            (
                config().insecure_skip_tls_verification(true),
                &["experimental-image-proxy", "--tls-verify=false"],
            ),
            (
                // This leaves the decision to registries.conf.
                config().insecure_skip_tls_verification(false),
                &["experimental-image-proxy"],
            ),
            (
                config().require_tls_verification(true),
                &["experimental-image-proxy", "--tls-verify=true"],
            ),
            (
                config()
                    .policy("/p")
                    .registries_d("/d")
                    .temporary_directory("/t"),
                &[
                    "--policy",
                    "/p",
                    "--registries.d",
                    "/d",
                    "--tmpdir",
                    "/t",
                    "experimental-image-proxy",
                ],
            ),
            (
                config().os("linux").architecture("arm").variant("v7"),
                &[
                    "--override-os",
                    "linux",
                    "--override-arch",
                    "arm",
                    "--override-variant",
                    "v7",
                    "experimental-image-proxy",
                ],
            ),
            (
                config()
                    .certificate_directory("/c")
                    .decryption_keys(vec!["k".to_owned()]),
                &[
                    "experimental-image-proxy",
                    "--cert-dir",
                    "/c",
                    "--decryption-key",
                    "k",
                ],
            ),
        ];
        for (config, expected) in table {
            assert_eq!(arguments(config), expected);
        }
    }

    #[test]
    fn list_tags_gets_the_options_of_the_proxy() {
        let config = ImageProxyConfig::default()
            .registries_conf("/r")
            .authfile("/a")
            .certificate_directory("/c");
        let template = config.into_template().expect("fine");
        let launch = template.launch_list_tags("docker://a/b");
        let arguments: Vec<_> = launch.command.get_args().collect();
        let expected = "--registries-conf /r list-tags --authfile /a --cert-dir /c docker://a/b";
        assert_eq!(arguments, expected.split(' ').collect::<Vec<_>>());
    }

    #[test]
    fn conflicts_name_both() {
        let table = [
            (
                ImageProxyConfig::default()
                    .authfile("/a")
                    .auth_anonymous(true),
                "authfile and auth_anonymous",
            ),
            (
                ImageProxyConfig::default().authfile("/a").auth_data(vec![]),
                "authfile and auth_data",
            ),
            (
                ImageProxyConfig::default()
                    .policy("/a")
                    .insecure_policy(true),
                "policy and insecure_policy",
            ),
            (
                ImageProxyConfig::default()
                    .insecure_skip_tls_verification(true)
                    .require_tls_verification(true),
                "insecure_skip_tls_verification and require_tls_verification",
            ),
            (
                ImageProxyConfig::default()
                    .skopeo_path("/a")
                    .skopeo_cmd(Command::new("b")),
                "skopeo_path and skopeo_cmd",
            ),
        ];
        for (config, names) in table {
            let message = config.validate().expect_err("a conflict").to_string();
            assert!(message.starts_with(names), "{message}");
        }
    }

    #[test]
    fn secrets_are_in_a_sealed_file_and_nowhere_else() {
        let credentials = Credentials::password("example.com:5000", "me", "pass-word");
        let config = ImageProxyConfig::default().credentials(credentials);
        assert!(!format!("{config:?}").contains("pass-word"));
        let launch = config.into_launch().expect("fine");
        let shown = format!("{:?}", launch.command);
        let encoded = "bWU6cGFzcy13b3Jk"; // me:pass-word
        assert!(
            !shown.contains("pass-word") && !shown.contains(encoded),
            "{shown}"
        );

        let passed = launch.passed.into_iter().next().expect("one file");
        let mut file = File::from(Arc::into_inner(passed).expect("not shared"));
        let mut text = String::new();
        file.rewind().expect("it is a file");
        file.read_to_string(&mut text).expect("text");
        assert_eq!(
            text,
            format!(r#"{{"auths":{{"example.com:5000":{{"auth":"{encoded}"}}}}}}"#)
        );
        file.write_all(b"x").expect_err("sealed");
    }

    #[test]
    fn a_colon_in_a_user_name_is_refused() {
        let credentials = Credentials::password("example.com", "a:b", "c");
        let refused = ImageProxyConfig::default()
            .credentials(credentials)
            .into_launch();
        assert!(matches!(
            refused,
            Err(Error::Config(ConfigError::Invalid {
                option: "credentials",
                ..
            }))
        ));
    }

    #[test]
    fn a_wrapper_keeps_its_xdg_data_home() {
        for (program, wrapper) in [
            ("skopeo", false),
            ("/usr/bin/skopeo", false),
            ("/opt/skopeo-1.22", false),
            ("skopeo-wrapper.sh", true),
            ("podman", true),
        ] {
            assert_eq!(is_wrapper(&Command::new(program)), wrapper, "{program}");
        }
        assert_eq!(Cache::of(true, false, true), Cache::Shared);
        assert_eq!(Cache::of(true, false, false), Cache::InMemory);
        for wrapper in [false, true] {
            assert_eq!(Cache::of(true, true, wrapper), Cache::Hidden);
            assert_eq!(Cache::of(false, true, wrapper), Cache::Shared);
            assert_eq!(Cache::of(false, false, wrapper), Cache::Shared);
        }
    }
}
