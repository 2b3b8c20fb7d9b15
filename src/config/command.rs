//! The command of a configuration, for callers who start the proxy themselves.

use std::process::Command;

use super::ImageProxyConfig;
use crate::error::{Error, Result};
use crate::sys;

/// Makes the command that starts the proxy, for callers who start the proxy themselves. They give the command a
/// `SOCK_SEQPACKET` socket as its stdin, and [connect](crate::ImageProxy::connect) over the other end.
///
/// The command keeps the hooks of [`skopeo_cmd`](ImageProxyConfig#structfield.skopeo_cmd). The memory files of secrets
/// stay open in the process. The process is killed when the *thread* that started it ends. The command does not contain
/// the limits of the [`connection`](ImageProxyConfig#structfield.connection).
///
/// [`connect`](crate::ImageProxy::connect) does not know the policy options: a skopeo before 1.13 then accepts every
/// image, without an error or a warning. Check [`checks_policy`](crate::ImageProxy::checks_policy) after connecting.
///
/// This conversion blocks: it reads [`auth_data`](ImageProxyConfig#structfield.auth_data), and may run skopeo to ask
/// for its version. It returns [`Error::Config`] if the options can't be used, [`Error::Io`] if a file can't be read,
/// and [`Error::Spawn`] or [`Error::CallTimeout`] if skopeo can't be asked.
///
/// ```
/// use std::process::Command;
///
/// use longshore::ImageProxyConfig;
///
/// let command = Command::try_from(ImageProxyConfig::default().auth_anonymous(true))?;
/// let arguments: Vec<_> = command.get_args().collect();
/// assert_eq!(arguments, ["experimental-image-proxy", "--no-creds"]);
/// # Ok::<(), longshore::Error>(())
/// ```
impl TryFrom<ImageProxyConfig> for Command {
    type Error = Error;

    fn try_from(config: ImageProxyConfig) -> Result<Self> {
        let launch = config.into_launch()?;
        let mut command = launch.command;
        sys::prepare_child(&mut command, &launch.passed, launch.hide_system_cache);
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_child_of_a_command_reads_the_auth_data() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "cat \"$3\"", "sh"]);
        let config = ImageProxyConfig::default()
            .skopeo_cmd(shell)
            .auth_data(b"{}".to_vec());
        let mut command = Command::try_from(config).expect("fine");
        let output = command.output().expect("a shell");
        assert_eq!(output.stdout, b"{}", "{output:?}");
    }

    #[test]
    fn options_that_exclude_each_other_make_no_command() {
        let config = ImageProxyConfig::default()
            .authfile("/a")
            .auth_anonymous(true);
        assert!(matches!(Command::try_from(config), Err(Error::Config(_))));
    }
}
