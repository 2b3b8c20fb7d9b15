//! Implements `Debug` for values that can contain secrets: the environment and the arguments of a command, and keys.

use std::fmt;
use std::process::Command;

use super::ImageProxyConfig;
use super::launch::{Launch, Template};

/// Shows a command without its arguments and without the values of its environment, because both can
/// contain secrets.
struct Redacted<'a>(&'a Command);

impl fmt::Debug for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.get_envs().map(|(name, _)| name).collect();
        f.debug_struct("Command")
            .field("program", &self.0.get_program())
            .field("arguments", &self.0.get_args().len())
            .field("environment", &names)
            .field("current_dir", &self.0.get_current_dir())
            .finish()
    }
}

/// Shows only the number of keys.
struct RedactedKeys(usize);

impl fmt::Debug for RedactedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} secret]", self.0)
    }
}

/// Shows only the number of decryption keys. The arguments and the values of the environment of `skopeo_cmd` are
/// not shown.
impl fmt::Debug for ImageProxyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            authfile,
            auth_data,
            credentials,
            auth_anonymous,
            certificate_directory,
            decryption_keys,
            insecure_skip_tls_verification,
            require_tls_verification,
            policy,
            require_policy,
            insecure_policy,
            registries_conf,
            registries_d,
            os,
            architecture,
            variant,
            user_agent_prefix,
            temporary_directory,
            debug,
            skopeo_path,
            skopeo_cmd,
            connection,
        } = self;
        let keys = decryption_keys
            .as_ref()
            .map(|keys| RedactedKeys(keys.len()));
        f.debug_struct("ImageProxyConfig")
            .field("authfile", authfile)
            .field("auth_data", auth_data)
            .field("credentials", credentials)
            .field("auth_anonymous", auth_anonymous)
            .field("certificate_directory", certificate_directory)
            .field("decryption_keys", &keys)
            .field(
                "insecure_skip_tls_verification",
                insecure_skip_tls_verification,
            )
            .field("require_tls_verification", require_tls_verification)
            .field("policy", policy)
            .field("require_policy", require_policy)
            .field("insecure_policy", insecure_policy)
            .field("registries_conf", registries_conf)
            .field("registries_d", registries_d)
            .field("os", os)
            .field("architecture", architecture)
            .field("variant", variant)
            .field("user_agent_prefix", user_agent_prefix)
            .field("temporary_directory", temporary_directory)
            .field("debug", debug)
            .field("skopeo_path", skopeo_path)
            .field("skopeo_cmd", &skopeo_cmd.as_ref().map(Redacted))
            .field("connection", connection)
            .finish()
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template")
            .field("base", &Redacted(&self.base))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launch")
            .field("command", &Redacted(&self.command))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_of_a_command_or_a_key_is_shown() {
        let config = || {
            let mut command = Command::new("wrapper");
            command.arg("s3cret-argument").env("TOKEN", "s3cret-value");
            ImageProxyConfig::default()
                .skopeo_cmd(command)
                .decryption_keys(vec!["s3cret-key".to_owned()])
        };
        let template = config().into_template().expect("fine");
        let launch = format!("{:?}", template.launch(true, None));
        let all = [
            format!("{:?}", config()),
            format!("{:?}", config().clone()),
            format!("{template:?}"),
            launch,
        ];
        for shown in all {
            assert!(!shown.contains("s3cret"), "{shown}");
            assert!(
                shown.contains("wrapper") && shown.contains("TOKEN"),
                "{shown}"
            );
        }
        assert!(format!("{:?}", config()).contains("[1 secret]"));
    }
}
