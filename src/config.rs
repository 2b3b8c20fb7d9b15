//! How the proxy is to be started: options, and what becomes of them on the
//! child's command line.
//!
//! A secret never goes there, nor into the environment: it is written to a
//! sealed memory file that only the child has open.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use semver::Version;
use zeroize::Zeroizing;

use crate::error::{ConfigError, Error, Result};

/// Default of [`ConnectionOptions::stall_timeout`].
pub const DEFAULT_STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Default of [`ConnectionOptions::call_timeout`]: skopeo waits up to 60 s for
/// a registry that says "too many requests", several times, inside one call.
pub const DEFAULT_CALL_TIMEOUT: Duration = Duration::from_secs(300);

/// Default of [`ConnectionOptions::shutdown_timeout`].
pub const DEFAULT_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// The lowest descriptor that is handed to the child besides stdin, stdout and
/// stderr: clear of those even if this process runs with some of them closed.
const FIRST_PASSED_FD: i32 = 10;

/// The skopeo version that brought `--user-agent-prefix`.
const USER_AGENT_PREFIX_SINCE: Version = Version::new(1, 21, 0);

/// How the connection behaves, whoever started the proxy.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectionOptions {
    /// A blob of which no byte comes for that long, while somebody waits to
    /// read one, fails as [stalled](crate::BlobError::Stalled). 60 s unless
    /// set; zero means never.
    pub stall_timeout: Duration,

    /// A call that is not answered for that long makes the whole connection
    /// fail: the proxy answers in order, so all others would wait too. 300 s
    /// unless set; zero means never.
    ///
    /// Opening a compressed archive unpacks it inside the call, and skopeo
    /// sits out a registry's "too many requests" there.
    pub call_timeout: Duration,

    /// How long [`finalize`](crate::ImageProxy::finalize) waits for blobs that
    /// are still open, and then a proxy that is told to end may take for it,
    /// before it gets `SIGTERM` and, 2 s later, `SIGKILL`. 5 s unless set.
    pub shutdown_timeout: Duration,

    /// Leave the check of a blob's digest to proxies that make it themselves
    /// (protocol before 0.2.8), and save the CPU time of a second one. The
    /// bytes are then not to be trusted before
    /// [`finish`](crate::Blob::finish) has said yes. Off unless set; newer
    /// proxies check nothing, so there it has no effect.
    pub trust_proxy_verification: bool,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            stall_timeout: DEFAULT_STALL_TIMEOUT,
            call_timeout: DEFAULT_CALL_TIMEOUT,
            shutdown_timeout: DEFAULT_SHUTDOWN_TIMEOUT,
            trust_proxy_verification: false,
        }
    }
}

impl ConnectionOptions {
    /// Set [`stall_timeout`](Self::stall_timeout).
    #[must_use]
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.stall_timeout = timeout;
        self
    }

    /// Set [`call_timeout`](Self::call_timeout).
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Set [`shutdown_timeout`](Self::shutdown_timeout).
    #[must_use]
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.shutdown_timeout = timeout;
        self
    }

    /// Set [`trust_proxy_verification`](Self::trust_proxy_verification).
    #[must_use]
    pub fn trust_proxy_verification(mut self, trust: bool) -> Self {
        self.trust_proxy_verification = trust;
        self
    }
}

/// A secret in memory: not shown by `Debug`, wiped when dropped.
#[derive(Clone)]
struct Secret(Zeroizing<Vec<u8>>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.as_bytes().to_vec()))
    }
}

/// The content of an auth file (`man containers-auth.json`), from memory or
/// from an open file or pipe. The child gets it as a sealed memory file.
#[derive(Debug)]
pub struct AuthData(AuthSource);

#[derive(Debug)]
enum AuthSource {
    Bytes(Secret),
    File(File),
}

impl From<Vec<u8>> for AuthData {
    fn from(bytes: Vec<u8>) -> Self {
        Self(AuthSource::Bytes(Secret(Zeroizing::new(bytes))))
    }
}

impl From<File> for AuthData {
    /// Read from its present position to its end when the proxy is started.
    fn from(file: File) -> Self {
        Self(AuthSource::File(file))
    }
}

impl From<OwnedFd> for AuthData {
    /// Read from its present position to its end when the proxy is started.
    fn from(fd: OwnedFd) -> Self {
        Self::from(File::from(fd))
    }
}

/// Credentials for one registry. The child gets them as an auth file that is
/// sealed and in memory only; no other registry, such as a mirror, is shown
/// them.
///
/// skopeo takes a ready-made *bearer* token only on its command line, where
/// every user of the machine can read it; that is not offered here.
#[derive(Debug, Clone)]
pub struct Credentials {
    registry: String,
    kind: CredentialKind,
}

#[derive(Debug, Clone)]
enum CredentialKind {
    Password { username: String, password: Secret },
    IdentityToken(Secret),
}

impl Credentials {
    /// User name and password for `registry` (`host` or `host:port`, or a
    /// namespace under it).
    pub fn password(
        registry: impl Into<String>,
        username: impl Into<String>,
        password: &str,
    ) -> Self {
        let kind = CredentialKind::Password {
            username: username.into(),
            password: password.into(),
        };
        Self {
            registry: registry.into(),
            kind,
        }
    }

    /// A token that the registry's token service takes as an OAuth 2 refresh
    /// token: what `docker login` stores as `identitytoken`.
    pub fn identity_token(registry: impl Into<String>, token: &str) -> Self {
        Self {
            registry: registry.into(),
            kind: CredentialKind::IdentityToken(token.into()),
        }
    }

    fn auth_file(&self) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
        let entry = match &self.kind {
            CredentialKind::Password { username, password } => {
                if username.contains(':') {
                    return Err(ConfigError::Invalid {
                        option: "credentials",
                        reason: "a user name can't contain ':'".into(),
                    });
                }
                let plain = Zeroizing::new([username.as_bytes(), b":", &password.0].concat());
                let encoded =
                    Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(&*plain));
                serde_json::json!({ "auth": *encoded })
            }
            CredentialKind::IdentityToken(token) => {
                let token = std::str::from_utf8(&token.0).map_err(|_| ConfigError::Invalid {
                    option: "credentials",
                    reason: "the token is not text".into(),
                })?;
                // containers/image asks for an `auth` beside the token; docker writes this one.
                let auth = base64::engine::general_purpose::STANDARD.encode("<token>:");
                serde_json::json!({ "auth": auth, "identitytoken": token })
            }
        };
        let file = serde_json::json!({ "auths": { (self.registry.as_str()): entry } });
        Ok(Zeroizing::new(file.to_string().into_bytes()))
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty => $wrap:expr;)+) => {
        $(
            $(#[$doc])*
            #[must_use]
            pub fn $name(mut self, value: impl Into<$type>) -> Self {
                #[allow(clippy::redundant_closure_call, reason = "one macro for plain and optional fields")]
                { self.$name = ($wrap)(value.into()); }
                self
            }
        )+
    };
}

/// How to start the proxy. All fields are public and named as in the crate
/// containers-image-proxy where it has them; the methods of the same names set
/// them in a chain:
///
/// ```
/// use longshore::ImageProxyConfig;
/// let config = ImageProxyConfig::default()
///     .insecure_skip_tls_verification(true)
///     .architecture("arm64");
/// ```
#[derive(Debug, Default)]
pub struct ImageProxyConfig {
    /// Auth file, as `skopeo --authfile`.
    pub authfile: Option<PathBuf>,
    /// The content of an auth file.
    pub auth_data: Option<AuthData>,
    /// Credentials for one registry.
    pub credentials: Option<Credentials>,
    /// Use no credentials at all, not even the default auth files.
    pub auth_anonymous: bool,
    /// Certificates (`*.crt`, `*.cert`, `*.key`) for the registry, as
    /// `skopeo --cert-dir`.
    pub certificate_directory: Option<PathBuf>,
    /// Keys for encrypted layers, passed as `--decryption-key`. No skopeo up
    /// to 1.22 knows that option of the proxy and such a one ends at once,
    /// saying so; builds that do exist.
    pub decryption_keys: Option<Vec<String>>,
    /// `Some(true)`: accept any certificate, and plain HTTP. `Some(false)`:
    /// demand a valid one also where registries.conf says `insecure`.
    pub insecure_skip_tls_verification: Option<bool>,
    /// Signature policy file, as `skopeo --policy`.
    pub policy: Option<PathBuf>,
    /// Accept images whatever the signature policy says, as
    /// `skopeo --insecure-policy`.
    pub insecure_policy: bool,
    /// Use this instead of the system's `registries.conf`.
    pub registries_conf: Option<PathBuf>,
    /// Use this instead of the system's `registries.d`.
    pub registries_d: Option<PathBuf>,
    /// Choose from an index for this operating system (`linux`).
    pub os: Option<String>,
    /// Choose from an index for this architecture (`amd64`, `arm64`, ...).
    pub architecture: Option<String>,
    /// Choose from an index for this variant (`v7`, ...).
    pub variant: Option<String>,
    /// Put in front of skopeo's user agent. skopeo 1.21 or later; an older
    /// one is refused before it is started as a proxy.
    pub user_agent_prefix: Option<String>,
    /// Where skopeo puts temporary files (archives it unpacks).
    pub temporary_directory: Option<PathBuf>,
    /// Have skopeo log its debug messages, and pass its stderr on to ours. The
    /// end of it is kept for error messages all the same.
    pub debug: bool,
    /// The program to run instead of `skopeo` from the `PATH`.
    pub skopeo_path: Option<PathBuf>,
    /// A command to which our arguments are added: `skopeo` itself with an
    /// environment of its own, or a wrapper such as `podman unshare skopeo`.
    /// Its stdin and stderr are ours, stdout goes nowhere. It runs in a
    /// process group of its own, and what is left of the group when it ends
    /// is killed. A wrapper that starts skopeo elsewhere (`systemd-run`) does
    /// not pass on the memory file of [`auth_data`](Self::auth_data) and
    /// [`credentials`](Self::credentials): give it an `authfile`.
    pub skopeo_cmd: Option<Command>,
    /// How the connection behaves.
    pub connection: ConnectionOptions,
}

impl ImageProxyConfig {
    setters! {
        /// Set [`authfile`](Self#structfield.authfile).
        authfile: PathBuf => Some;
        /// Set [`auth_data`](Self#structfield.auth_data).
        auth_data: AuthData => Some;
        /// Set [`credentials`](Self#structfield.credentials).
        credentials: Credentials => Some;
        /// Set [`auth_anonymous`](Self#structfield.auth_anonymous).
        auth_anonymous: bool => |value| value;
        /// Set [`certificate_directory`](Self#structfield.certificate_directory).
        certificate_directory: PathBuf => Some;
        /// Set [`decryption_keys`](Self#structfield.decryption_keys).
        decryption_keys: Vec<String> => Some;
        /// Set [`insecure_skip_tls_verification`](Self#structfield.insecure_skip_tls_verification).
        insecure_skip_tls_verification: bool => Some;
        /// Set [`policy`](Self#structfield.policy).
        policy: PathBuf => Some;
        /// Set [`insecure_policy`](Self#structfield.insecure_policy).
        insecure_policy: bool => |value| value;
        /// Set [`registries_conf`](Self#structfield.registries_conf).
        registries_conf: PathBuf => Some;
        /// Set [`registries_d`](Self#structfield.registries_d).
        registries_d: PathBuf => Some;
        /// Set [`os`](Self#structfield.os).
        os: String => Some;
        /// Set [`architecture`](Self#structfield.architecture).
        architecture: String => Some;
        /// Set [`variant`](Self#structfield.variant).
        variant: String => Some;
        /// Set [`user_agent_prefix`](Self#structfield.user_agent_prefix).
        user_agent_prefix: String => Some;
        /// Set [`temporary_directory`](Self#structfield.temporary_directory).
        temporary_directory: PathBuf => Some;
        /// Set [`debug`](Self#structfield.debug).
        debug: bool => |value| value;
        /// Set [`skopeo_path`](Self#structfield.skopeo_path).
        skopeo_path: PathBuf => Some;
        /// Set [`skopeo_cmd`](Self#structfield.skopeo_cmd).
        skopeo_cmd: Command => Some;
        /// Set [`connection`](Self#structfield.connection).
        connection: ConnectionOptions => |value| value;
    }

    /// What asks the skopeo that this configuration would run for its version.
    #[must_use]
    pub fn version_question(&self) -> VersionQuestion {
        VersionQuestion(self.base_command())
    }

    /// Options that exclude each other are refused before anything is started.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let exclusive: [&[(&'static str, bool)]; 3] = [
            &[
                ("authfile", self.authfile.is_some()),
                ("auth_data", self.auth_data.is_some()),
                ("credentials", self.credentials.is_some()),
                ("auth_anonymous", self.auth_anonymous),
            ],
            &[
                ("policy", self.policy.is_some()),
                ("insecure_policy", self.insecure_policy),
            ],
            &[
                ("skopeo_path", self.skopeo_path.is_some()),
                ("skopeo_cmd", self.skopeo_cmd.is_some()),
            ],
        ];
        for group in exclusive {
            let mut given = group
                .iter()
                .filter(|(_, given)| *given)
                .map(|(name, _)| *name);
            if let (Some(first), Some(second)) = (given.next(), given.next()) {
                return Err(ConfigError::Conflict { first, second });
            }
        }
        Ok(())
    }

    /// A fresh command like the one to be run, without our arguments.
    fn base_command(&self) -> Command {
        let Some(given) = &self.skopeo_cmd else {
            return Command::new(self.skopeo_path.as_deref().unwrap_or("skopeo".as_ref()));
        };
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

    /// Turn the options into a command, and the files it is to inherit.
    /// Blocks: it reads [`auth_data`](Self#structfield.auth_data), and may ask skopeo
    /// for its version.
    pub(crate) fn into_launch(mut self) -> Result<Launch> {
        self.validate()?;
        if self.user_agent_prefix.is_some() {
            let found = self.version_question().ask()?;
            if found < USER_AGENT_PREFIX_SINCE {
                return Err(Error::from(ConfigError::Invalid {
                    option: "user_agent_prefix",
                    reason: format!(
                        "needs skopeo {USER_AGENT_PREFIX_SINCE} or later, this is {found}"
                    ),
                }));
            }
        }
        let auth = match (self.auth_data.take(), &self.credentials) {
            (Some(AuthData(AuthSource::Bytes(bytes))), _) => Some(bytes.0),
            (Some(AuthData(AuthSource::File(mut file))), _) => {
                let mut bytes = Zeroizing::new(Vec::new());
                file.read_to_end(&mut bytes)
                    .map_err(Error::io("can't read the auth data"))?;
                Some(bytes)
            }
            (None, Some(credentials)) => Some(credentials.auth_file()?),
            (None, None) => None,
        };
        let auth_file = auth
            .map(|bytes| sealed(&bytes))
            .transpose()
            .map_err(Error::io("can't make a memory file for the credentials"))?;
        let mut command = match self.skopeo_cmd.take() {
            Some(command) => command,
            None => self.base_command(),
        };
        let program = command.get_program().to_string_lossy().into_owned();
        self.add_arguments(&mut command, auth_file.as_ref());
        Ok(Launch {
            command,
            program,
            passed: auth_file.into_iter().collect(),
            pass_stderr_on: self.debug,
            shutdown_timeout: self.connection.shutdown_timeout,
        })
    }

    fn add_arguments(&self, command: &mut Command, auth_file: Option<&OwnedFd>) {
        // skopeo's global options stand before the subcommand.
        if self.debug {
            command.arg("--debug");
        }
        if self.insecure_policy {
            command.arg("--insecure-policy");
        }
        let global = [
            ("--policy", self.policy.as_ref()),
            ("--registries-conf", self.registries_conf.as_ref()),
            ("--registries.d", self.registries_d.as_ref()),
            ("--tmpdir", self.temporary_directory.as_ref()),
        ];
        for (option, path) in global {
            if let Some(path) = path {
                command.arg(option).arg(path);
            }
        }
        let global = [
            ("--override-os", self.os.as_ref()),
            ("--override-arch", self.architecture.as_ref()),
            ("--override-variant", self.variant.as_ref()),
            ("--user-agent-prefix", self.user_agent_prefix.as_ref()),
        ];
        for (option, text) in global {
            if let Some(text) = text {
                command.arg(option).arg(text);
            }
        }
        command.arg("experimental-image-proxy");
        if self.auth_anonymous {
            command.arg("--no-creds");
        }
        if let Some(path) = &self.authfile {
            command.arg("--authfile").arg(path);
        }
        if let Some(file) = auth_file {
            command
                .arg("--authfile")
                .arg(format!("/proc/self/fd/{}", file.as_raw_fd()));
        }
        if let Some(directory) = &self.certificate_directory {
            command.arg("--cert-dir").arg(directory);
        }
        for key in self.decryption_keys.iter().flatten() {
            command.arg("--decryption-key").arg(key);
        }
        if let Some(skip) = self.insecure_skip_tls_verification {
            command.arg(format!("--tls-verify={}", !skip));
        }
    }
}

/// Asks a skopeo for its version.
#[derive(Debug)]
pub struct VersionQuestion(Command);

impl VersionQuestion {
    /// Start it with `--version`, and wait for what it prints: not on an async
    /// task's thread.
    ///
    /// # Errors
    ///
    /// [`Error::Spawn`] if it can't be run, [`ConfigError::Invalid`] if what
    /// it prints is not a version.
    pub fn ask(mut self) -> Result<Version> {
        let command = &mut self.0;
        let program = command.get_program().to_string_lossy().into_owned();
        let output = command
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|source| Error::Spawn {
                program: program.clone(),
                source: Arc::new(source),
            })?;
        let printed = String::from_utf8_lossy(&output.stdout);
        parse_version(&printed).ok_or_else(|| {
            Error::from(ConfigError::Invalid {
                option: "skopeo_path",
                reason: format!("{program} --version printed no version ({})", output.status),
            })
        })
    }
}

/// What to start, ready to be started.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) command: Command,
    /// The program's name, for messages.
    pub(crate) program: String,
    /// Files that the child keeps open under their present numbers.
    pub(crate) passed: Vec<OwnedFd>,
    pub(crate) pass_stderr_on: bool,
    pub(crate) shutdown_timeout: Duration,
}

/// A memory file with this content that nobody can change any more.
fn sealed(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create("longshore-auth", flags)?);
    file.write_all(bytes)?;
    let seals = SealFlag::F_SEAL_SEAL
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    crate::sys::duplicate_above(&file, FIRST_PASSED_FD)
}

/// What `skopeo --version` prints: `skopeo version 1.22.0`, perhaps with more
/// behind it.
fn parse_version(printed: &str) -> Option<Version> {
    printed
        .split_whitespace()
        .find_map(|word| Version::parse(word).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Seek;

    fn arguments(config: ImageProxyConfig) -> Vec<String> {
        let launch = config.into_launch().expect("fine");
        launch
            .command
            .get_args()
            .map(|a| a.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn options_become_arguments_where_skopeo_wants_them() {
        let config = || ImageProxyConfig::default();
        let table: [(ImageProxyConfig, &[&str]); 9] = [
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
                config().insecure_skip_tls_verification(false),
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
        let shown = format!("{launch:?}");
        let encoded = "bWU6cGFzcy13b3Jk"; // me:pass-word
        assert!(
            !shown.contains("pass-word") && !shown.contains(encoded),
            "{shown}"
        );

        let mut file = File::from(launch.passed.into_iter().next().expect("one file"));
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
    fn versions_as_skopeos_print_them() {
        let table = [
            ("skopeo version 1.9.3\n", Some(Version::new(1, 9, 3))),
            (
                "skopeo version 1.22.0 commit: abc\n",
                Some(Version::new(1, 22, 0)),
            ),
            ("usage: something else", None),
        ];
        for (printed, expected) in table {
            assert_eq!(parse_version(printed), expected, "{printed}");
        }
    }
}
