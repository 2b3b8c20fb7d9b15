//! How the proxy is started: the options, and the command line of the child.
//!
//! Credentials are never part of a command line or an environment. They are written to a sealed memory file that
//! stays open in the child, and in the programs that the child starts.

mod auth;
mod command;
mod command_line;
mod credential_sources;
mod debug;
mod helpers;
mod launch;
mod platform;
mod policy;
mod read_once;
mod skopeo_version;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

pub use self::auth::{AuthData, Credentials};
pub use self::platform::Platform;

pub(crate) use self::launch::{Launch, Template};
pub(crate) use self::policy::Policy;

use crate::error::ConfigError;

/// The default of [`ConnectionOptions::stall_timeout`](ConnectionOptions#structfield.stall_timeout).
pub const DEFAULT_STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The default of [`ConnectionOptions::least_rate`](ConnectionOptions#structfield.least_rate), in bytes per second:
/// 6,000 bytes in a minute. Thirty-two blobs at a time then need 26 kbit/s, which the slowest networks in use provide.
/// (cargo gives up below 10 bytes per second over half a minute.)
pub const DEFAULT_LEAST_RATE: u64 = 100;

/// The default of [`ConnectionOptions::call_timeout`](ConnectionOptions#structfield.call_timeout). Within one call,
/// skopeo may wait several times for a registry that answers "too many requests", up to 60 s each time.
pub const DEFAULT_CALL_TIMEOUT: Duration = Duration::from_secs(300);

/// The default of [`ConnectionOptions::shutdown_timeout`](ConnectionOptions#structfield.shutdown_timeout).
pub const DEFAULT_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// The default of [`ConnectionOptions::max_document_bytes`](ConnectionOptions#structfield.max_document_bytes). skopeo
/// accepts manifests and configs of the same size (containers/image, `iolimits.MaxManifestBodySize` and
/// `MaxConfigBodySize`), and the OCI distribution-spec ("Pushing Manifests") asks registries to accept manifests of
/// this size.
pub const DEFAULT_MAX_DOCUMENT_BYTES: u64 = 4 * 1024 * 1024;

/// The limits of a connection to a proxy: timeouts, the lowest rate, and the size of documents.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectionOptions {
    /// The longest time for which a caller waits for the next byte of a blob. After this time, the blob fails as
    /// [stalled](crate::BlobError::Stalled). The default is 60 s. `None` or zero means no limit.
    pub stall_timeout: Option<Duration>,

    /// The lowest rate of a blob, in bytes per second. A slower blob fails as [too
    /// slow](crate::BlobError::TooSlow). The rate is measured over each
    /// [`stall_timeout`](Self#structfield.stall_timeout) in which a caller waits to read; time in which no caller reads
    /// does not count. The default is 100. Zero means that a single byte within each stall timeout is enough.
    /// Without a stall timeout, this option has no effect.
    pub least_rate: u64,

    /// How long a call may wait for its answer, from the moment when its turn comes. The time in which it waits for
    /// earlier calls of the same proxy does not count. After the limit, the whole connection fails: the proxy answers
    /// in order, so all other calls would wait as well. The default is 300 s. `None` or zero means no limit.
    ///
    /// Some calls take long. Opening a compressed archive unpacks it within the call, and skopeo waits within
    /// the call if a registry answers "too many requests".
    pub call_timeout: Option<Duration>,

    /// How long [`finalize`](crate::ImageProxy::finalize) waits for blobs that are still open, and how long a
    /// proxy may then take to exit. After that, a proxy that this library started gets `SIGTERM` and, 2 s later,
    /// `SIGKILL`. The default is 5 s.
    ///
    /// If the image is at a registry, this timeout is at most 100 ms for the proxies that a
    /// call of a [`Fetcher`](crate::Fetcher) starts after its first one, unless the policy [may make
    /// them run gpg](crate::ImageProxyConfig::may_ask_gpg).
    pub shutdown_timeout: Duration,

    /// The maximum size of a manifest, index, image config or layer info, in bytes. A larger one fails as
    /// [too large](crate::Error::DocumentTooLarge), because documents are read into memory as a whole. The
    /// default is 4 MiB, which is also skopeo's limit for a registry. [`u64::MAX`] means no limit of
    /// this library.
    pub max_document_bytes: u64,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            stall_timeout: Some(DEFAULT_STALL_TIMEOUT),
            least_rate: DEFAULT_LEAST_RATE,
            call_timeout: Some(DEFAULT_CALL_TIMEOUT),
            shutdown_timeout: DEFAULT_SHUTDOWN_TIMEOUT,
            max_document_bytes: DEFAULT_MAX_DOCUMENT_BYTES,
        }
    }
}

impl ConnectionOptions {
    /// The stall timeout. `None` means no limit.
    pub(crate) fn stall_limit(&self) -> Option<Duration> {
        self.stall_timeout.filter(|limit| !limit.is_zero())
    }

    /// The call timeout. `None` means no limit.
    pub(crate) fn call_limit(&self) -> Option<Duration> {
        self.call_timeout.filter(|limit| !limit.is_zero())
    }

    /// Sets [`stall_timeout`](Self#structfield.stall_timeout): a duration, or `None` for no limit.
    #[must_use]
    pub fn stall_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.stall_timeout = timeout.into();
        self
    }

    /// Sets [`least_rate`](Self#structfield.least_rate).
    #[must_use]
    pub fn least_rate(mut self, bytes_per_second: u64) -> Self {
        self.least_rate = bytes_per_second;
        self
    }

    /// Sets [`call_timeout`](Self#structfield.call_timeout): a duration, or `None` for no limit.
    #[must_use]
    pub fn call_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.call_timeout = timeout.into();
        self
    }

    /// Sets [`shutdown_timeout`](Self#structfield.shutdown_timeout).
    #[must_use]
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.shutdown_timeout = timeout;
        self
    }

    /// Sets [`max_document_bytes`](Self#structfield.max_document_bytes).
    #[must_use]
    pub fn max_document_bytes(mut self, bytes: u64) -> Self {
        self.max_document_bytes = bytes;
        self
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

/// The configuration of a proxy: how skopeo is started. Fields that also exist in the crate containers-image-proxy have
/// the same names here. Methods with the names of the fields set them in a chain:
///
/// ```
/// use longshore::ImageProxyConfig;
/// let config = ImageProxyConfig::default()
///     .insecure_skip_tls_verification(true)
///     .architecture("arm64");
/// ```
///
/// Some options exclude each other: `authfile`, `auth_data`, `credentials` and `auth_anonymous`; `policy` and
/// `insecure_policy`; `require_policy` and `insecure_policy`; `require_tls_verification` and
/// `insecure_skip_tls_verification`; `skopeo_path` and `skopeo_cmd`. With two of them, no proxy is started, and the
/// error is [`ConfigError::Conflict`].
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of skopeo's"
)]
#[derive(Default)]
#[non_exhaustive]
pub struct ImageProxyConfig {
    /// The path of an auth file, as in `skopeo --authfile`. A file that can be read only once, such as a pipe, is read
    /// when a proxy or a [`Fetcher`](crate::Fetcher) is made, and has at most 1 MiB. A proxy or a fetcher of a clone of
    /// this configuration reads it again. It then finds nothing or, if the file is a named pipe, waits for a writer.
    /// Use [`auth_data`](Self#structfield.auth_data) for clones.
    pub authfile: Option<PathBuf>,
    /// The content of an auth file.
    pub auth_data: Option<AuthData>,
    /// The credentials for one registry. skopeo then reads no other auth file, so for other registries it has only the
    /// credentials of the helper programs that registries.conf names.
    pub credentials: Option<Credentials>,
    /// Whether no credentials are used at all, not even those of the default auth files.
    pub auth_anonymous: bool,
    /// The folder with certificates (`*.crt`, `*.cert`, `*.key`) for the registry, as in `skopeo --cert-dir`.
    pub certificate_directory: Option<PathBuf>,
    /// The keys for encrypted layers, passed as `--decryption-key`. No released skopeo (up to 1.22) accepts this
    /// option for the proxy. Startup then fails with skopeo's message.
    pub decryption_keys: Option<Vec<String>>,
    /// Whether invalid certificates and plain HTTP are accepted. `Some(false)` and `None` leave the decision to
    /// registries.conf, which can declare a registry `insecure`.
    pub insecure_skip_tls_verification: Option<bool>,
    /// Whether HTTPS with a valid certificate is required, even if registries.conf says `insecure`.
    pub require_tls_verification: bool,
    /// The path of a signature policy file, as in `skopeo --policy`. A skopeo before 1.13 (protocol 0.2.6) checks no
    /// policy, so this option is an error with such a skopeo. If the option is `None`, such a skopeo ignores the
    /// system's policy. A warning is then logged if that policy may refuse images.
    pub policy: Option<PathBuf>,
    /// Whether a skopeo that checks no signature policy (before 1.13, protocol 0.2.6) is an error, even
    /// if [`policy`](Self#structfield.policy) is `None`.
    pub require_policy: bool,
    /// Whether images are accepted whatever the signature policy says, as in `skopeo --insecure-policy`.
    pub insecure_policy: bool,
    /// The path of a file that is used instead of the system's `registries.conf`.
    pub registries_conf: Option<PathBuf>,
    /// The path of a folder that is used instead of the system's `registries.d`.
    pub registries_d: Option<PathBuf>,
    /// The operating system (`linux`) for which an image is chosen from an index. `None` means this machine's.
    pub os: Option<String>,
    /// The architecture (`amd64`, `arm64`, ...) for which an image is chosen from an index. `None` means
    /// this machine's.
    pub architecture: Option<String>,
    /// The variant of the architecture (`v7`, ...) for which an image is chosen from an index. `None` leaves the choice
    /// to skopeo.
    pub variant: Option<String>,
    /// The text that is put in front of skopeo's user agent. This needs skopeo 1.21 or later. With an older
    /// skopeo, the text is left out, with a warning in the log.
    pub user_agent_prefix: Option<String>,
    /// The folder for skopeo's temporary files, such as unpacked archives. `None` means skopeo's default, which is
    /// usually `/var/tmp`.
    pub temporary_directory: Option<PathBuf>,
    /// Whether skopeo logs its debug messages. Its stderr then also goes to the stderr of this process. If the proxy
    /// has a number in the events of a [`Fetcher`](crate::Fetcher), each line begins with this number: `proxy 3: `. The
    /// end of stderr is kept for error messages in any case.
    pub debug: bool,
    /// The program to run instead of `skopeo` from the `PATH`.
    pub skopeo_path: Option<PathBuf>,
    /// The command to which the arguments of this configuration are added: `skopeo` with an environment of its own, or
    /// a wrapper such as `podman unshare skopeo`.
    ///
    /// The library replaces stdin, stdout and stderr of the command. The stdout of a proxy is discarded.
    /// [`fetch_source`](crate::Fetcher::fetch_source), [`list_tags`](crate::Fetcher::list_tags) and
    /// [`skopeo_version`](Self::skopeo_version) read stdout, so a wrapper must print nothing of its own there. The
    /// command runs in a process group of its own. When it exits, all remaining processes of the group are killed.
    ///
    /// A wrapper that starts skopeo elsewhere (`systemd-run`) does not pass on the memory file of
    /// [`auth_data`](Self#structfield.auth_data) and [`credentials`](Self#structfield.credentials). Use
    /// an `authfile` there.
    ///
    /// A clone of the configuration has a copy of the command: the same program, arguments and folder, and the
    /// variables that were set with `env` or removed with `env_remove`. The copy loses `env_clear`, `uid`, `gid`,
    /// `arg0`, and hooks such as `pre_exec`. A [`Fetcher`](crate::Fetcher) starts its proxies with such a copy, too.
    pub skopeo_cmd: Option<Command>,
    /// The limits of the connection to the proxy.
    pub connection: ConnectionOptions,
}

impl Clone for ImageProxyConfig {
    fn clone(&self) -> Self {
        Self {
            authfile: self.authfile.clone(),
            auth_data: self.auth_data.clone(),
            credentials: self.credentials.clone(),
            certificate_directory: self.certificate_directory.clone(),
            decryption_keys: self.decryption_keys.clone(),
            policy: self.policy.clone(),
            registries_conf: self.registries_conf.clone(),
            registries_d: self.registries_d.clone(),
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
            user_agent_prefix: self.user_agent_prefix.clone(),
            temporary_directory: self.temporary_directory.clone(),
            skopeo_path: self.skopeo_path.clone(),
            skopeo_cmd: self.skopeo_cmd.as_ref().map(command_line::clone_command),
            connection: self.connection.clone(),
            ..*self
        }
    }
}

impl ImageProxyConfig {
    setters! {
        /// Sets [`authfile`](Self#structfield.authfile).
        authfile: PathBuf => Some;
        /// Sets [`auth_data`](Self#structfield.auth_data).
        auth_data: AuthData => Some;
        /// Sets [`credentials`](Self#structfield.credentials).
        credentials: Credentials => Some;
        /// Sets [`auth_anonymous`](Self#structfield.auth_anonymous).
        auth_anonymous: bool => |value| value;
        /// Sets [`certificate_directory`](Self#structfield.certificate_directory).
        certificate_directory: PathBuf => Some;
        /// Sets [`decryption_keys`](Self#structfield.decryption_keys).
        decryption_keys: Vec<String> => Some;
        /// Sets [`insecure_skip_tls_verification`](Self#structfield.insecure_skip_tls_verification).
        insecure_skip_tls_verification: bool => Some;
        /// Sets [`require_tls_verification`](Self#structfield.require_tls_verification).
        require_tls_verification: bool => |value| value;
        /// Sets [`policy`](Self#structfield.policy).
        policy: PathBuf => Some;
        /// Sets [`require_policy`](Self#structfield.require_policy).
        require_policy: bool => |value| value;
        /// Sets [`insecure_policy`](Self#structfield.insecure_policy).
        insecure_policy: bool => |value| value;
        /// Sets [`registries_conf`](Self#structfield.registries_conf).
        registries_conf: PathBuf => Some;
        /// Sets [`registries_d`](Self#structfield.registries_d).
        registries_d: PathBuf => Some;
        /// Sets [`os`](Self#structfield.os).
        os: String => Some;
        /// Sets [`architecture`](Self#structfield.architecture).
        architecture: String => Some;
        /// Sets [`variant`](Self#structfield.variant).
        variant: String => Some;
        /// Sets [`user_agent_prefix`](Self#structfield.user_agent_prefix).
        user_agent_prefix: String => Some;
        /// Sets [`temporary_directory`](Self#structfield.temporary_directory).
        temporary_directory: PathBuf => Some;
        /// Sets [`debug`](Self#structfield.debug).
        debug: bool => |value| value;
        /// Sets [`skopeo_path`](Self#structfield.skopeo_path).
        skopeo_path: PathBuf => Some;
        /// Sets [`skopeo_cmd`](Self#structfield.skopeo_cmd).
        skopeo_cmd: Command => Some;
        /// Sets [`connection`](Self#structfield.connection).
        connection: ConnectionOptions => |value| value;
    }

    /// Returns an error if options exclude each other. This is checked before anything is started.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let exclusive: [&[(&'static str, bool)]; 5] = [
            &[
                ("authfile", self.authfile.is_some()),
                ("auth_data", self.auth_data.is_some()),
                ("credentials", self.credentials.is_some()),
                ("auth_anonymous", self.auth_anonymous),
            ],
            &[
                (
                    "insecure_skip_tls_verification",
                    self.insecure_skip_tls_verification == Some(true),
                ),
                ("require_tls_verification", self.require_tls_verification),
            ],
            &[
                ("policy", self.policy.is_some()),
                ("insecure_policy", self.insecure_policy),
            ],
            &[
                ("require_policy", self.require_policy),
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
}

/// The value of an environment variable. `None` if the variable is not set or is empty: skopeo and Go's runtime treat
/// an empty variable as one that is not set.
fn variable(name: &str) -> Option<OsString> {
    not_empty(std::env::var_os(name))
}

fn not_empty(value: Option<OsString>) -> Option<OsString> {
    value.filter(|value| !value.is_empty())
}
