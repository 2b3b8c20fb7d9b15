//! How skopeo is started.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// The numbers of the descriptors that this crate passes to skopeo, besides stdin, stdout and stderr. A
/// [`skopeo_cmd`](ImageProxyConfig#structfield.skopeo_cmd) that passes descriptors of its own must use other numbers.
/// Other numbers are used if all of these are in use, or if the limit of open files does not allow them.
pub const RESERVED_FD_RANGE: Range<i32> = 100..200;

/// If this variable is set, each proxy logs its debug messages.
const DEBUG_VARIABLE: &str = "CONTAINERS_IMAGE_PROXY_DEBUG";

/// The configuration of a proxy.
///
/// ```
/// let mut config = containers_image_proxy::ImageProxyConfig::default();
/// config.auth_anonymous = true;
/// ```
#[derive(Default)]
#[non_exhaustive]
pub struct ImageProxyConfig {
    /// The path of an auth file, as in `skopeo --authfile`. It excludes `auth_data` and `auth_anonymous`.
    pub authfile: Option<PathBuf>,
    /// The open auth file, read from its current position. It excludes `authfile` and `auth_anonymous`.
    pub auth_data: Option<File>,
    /// Whether no credentials are used at all, not even those of the default auth files. This excludes `authfile` and
    /// `auth_data`.
    pub auth_anonymous: bool,
    /// The folder with certificates (`*.crt`, `*.cert`, `*.key`) for the registry, as in `skopeo --cert-dir`.
    pub certificate_directory: Option<PathBuf>,
    /// The keys for encrypted layers, as in `skopeo copy --decryption-key`. No released skopeo (up to 1.22) accepts
    /// this option for the proxy.
    pub decryption_keys: Option<Vec<String>>,
    /// `Some(true)` accepts any certificate, and plain HTTP. `Some(false)` and `None` leave the decision to
    /// registries.conf.
    pub insecure_skip_tls_verification: Option<bool>,
    /// `Some(true)` accepts images whatever the signature policy says. With `Some(false)` and `None`, skopeo checks the
    /// policy (since 1.13).
    pub insecure_policy: Option<bool>,
    /// The text that is put in front of skopeo's user agent. A skopeo before 1.21 does not support
    /// this option: it is left out, and a warning is logged.
    pub user_agent_prefix: Option<String>,
    /// Whether skopeo logs its debug messages. Its stderr then also goes to the stderr of this process.
    pub debug: bool,
    /// A command to which the options of the proxy are added: `skopeo` with an environment of its own, or a wrapper
    /// such as `podman unshare skopeo`. The default is `skopeo` from the `PATH`.
    ///
    /// Stdin, stdout and stderr of the command are replaced. It runs in a process group of its own, and dies
    /// with this process.
    pub skopeo_cmd: Option<Command>,
    /// The timeouts of the connection, and the largest size of a manifest or config. The other crate has
    /// no such field.
    pub connection: longshore::ConnectionOptions,
}

/// Neither decryption keys, nor the arguments and environment of `skopeo_cmd`, are shown.
impl fmt::Debug for ImageProxyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            authfile,
            auth_data,
            auth_anonymous,
            certificate_directory,
            decryption_keys,
            insecure_skip_tls_verification,
            insecure_policy,
            user_agent_prefix,
            debug,
            skopeo_cmd,
            connection,
        } = self;
        let tls = insecure_skip_tls_verification;
        let keys = decryption_keys.as_ref().map(Vec::len);
        let program = skopeo_cmd.as_ref().map(Command::get_program);
        f.debug_struct("ImageProxyConfig")
            .field("authfile", authfile)
            .field("auth_data", auth_data)
            .field("auth_anonymous", auth_anonymous)
            .field("certificate_directory", certificate_directory)
            .field("decryption_keys", &keys)
            .field("insecure_skip_tls_verification", tls)
            .field("insecure_policy", insecure_policy)
            .field("user_agent_prefix", user_agent_prefix)
            .field("debug", debug)
            .field("skopeo_cmd", &program)
            .field("connection", connection)
            .finish()
    }
}

/// Makes the configuration of longshore's own interface, for programs that move to that.
impl From<ImageProxyConfig> for longshore::ImageProxyConfig {
    fn from(config: ImageProxyConfig) -> Self {
        let mut ours = Self::default();
        ours.authfile = config.authfile;
        ours.auth_data = config.auth_data.map(Into::into);
        ours.auth_anonymous = config.auth_anonymous;
        ours.certificate_directory = config.certificate_directory;
        ours.decryption_keys = config.decryption_keys;
        ours.insecure_skip_tls_verification = config.insecure_skip_tls_verification;
        ours.insecure_policy = config.insecure_policy == Some(true);
        ours.user_agent_prefix = config.user_agent_prefix;
        ours.debug = config.debug || std::env::var_os(DEBUG_VARIABLE).is_some();
        ours.skopeo_cmd = config.skopeo_cmd;
        ours.connection = config.connection;
        ours
    }
}

/// Makes the command that starts the proxy, for callers who start the proxy themselves. The command needs a
/// `SOCK_SEQPACKET` socket as its stdin. Its stdout is discarded. Its stderr is a pipe, unless `debug` or the
/// environment variable `CONTAINERS_IMAGE_PROXY_DEBUG` is set. The process is killed when the *thread* that
/// started it ends.
///
/// This conversion blocks: it reads `auth_data`, and may ask skopeo for its version. It returns
/// [`Error::Configuration`] if the options can't be used, [`Error::Io`] if a file can't be read, and
/// [`Error::SkopeoSpawnError`] or [`Error::Other`] if skopeo can't be asked.
impl TryFrom<ImageProxyConfig> for Command {
    type Error = Error;

    fn try_from(config: ImageProxyConfig) -> Result<Self> {
        let config = longshore::ImageProxyConfig::from(config);
        let debug = config.debug;
        let command = Self::try_from(config);
        let mut command = command.map_err(|error| Error::of_call("Initialize", &error))?;
        command.stdout(Stdio::null());
        if !debug {
            command.stderr(Stdio::piped());
        }
        Ok(command)
    }
}
