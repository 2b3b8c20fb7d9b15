//! Checks whether skopeo may log in at a registry: whether there are credentials for the registry, as far as this
//! process can see.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{ImageProxyConfig, command_line, helpers, variable};

impl ImageProxyConfig {
    /// Returns the paths of the auth files in which skopeo looks for credentials, in this
    /// order (containers-auth.json(5)). A path may name no file. The list is empty if the configuration has
    /// credentials of its own, or if skopeo uses no credentials. The environment of this process is used, not the
    /// environment or the arguments of [`skopeo_cmd`](Self#structfield.skopeo_cmd).
    #[must_use]
    pub fn auth_files(&self) -> Vec<PathBuf> {
        let given = self.auth_data.is_some() || self.credentials.is_some();
        match &self.authfile {
            _ if given || self.auth_anonymous => Vec::new(),
            Some(named) => vec![named.clone()],
            None => default_auth_files(variable, std::env::home_dir().as_deref()),
        }
    }
}

/// The places where the skopeo of a configuration looks for credentials.
#[derive(Debug, Clone, Default)]
pub(crate) struct CredentialSources {
    /// Whether no credentials are used at all.
    anonymous: bool,
    /// Whether skopeo looks in places that this process can't see.
    has_hidden_sources: bool,
    /// Whether registries.conf has mirrors or other locations. Any credentials may then be for one of these.
    has_mirrors_or_locations: bool,
    /// The auth files (containers-auth.json(5)).
    files: Vec<PathBuf>,
}

impl CredentialSources {
    /// Finds the places where the skopeo of this configuration looks for credentials. `authfile` must already be the
    /// path that skopeo gets. This function blocks: it reads registries.conf.
    pub(super) fn of(config: &ImageProxyConfig) -> Self {
        let wrapped = config
            .skopeo_cmd
            .as_ref()
            .is_some_and(command_line::is_wrapper);
        Self {
            anonymous: config.auth_anonymous,
            has_hidden_sources: wrapped || helpers::uses_credential_helpers(config),
            has_mirrors_or_locations: helpers::has_mirrors_or_locations(config),
            files: match &config.authfile {
                Some(named) => vec![named.clone()],
                None => default_auth_files(variable, std::env::home_dir().as_deref()),
            },
        }
    }

    /// Whether there may be credentials for this registry.
    ///
    /// This function blocks: it reads the auth files.
    pub(crate) fn may_have(&self, host: &str) -> bool {
        let names = |path: &PathBuf| {
            let read = fs::read(path).map(Zeroizing::new);
            let host = if self.has_mirrors_or_locations {
                r#""auth""#
            } else {
                host
            };
            read.is_ok_and(|text| auth_file_mentions(&text, host))
        };
        !self.anonymous && (self.has_hidden_sources || self.files.iter().any(names))
    }
}

/// Whether an auth file mentions this registry, or a credential helper.
fn auth_file_mentions(auth_file: &[u8], host: &str) -> bool {
    let has = |text: &str| {
        auth_file
            .windows(text.len())
            .any(|found| found == text.as_bytes())
    };
    has(host) || has("credsStore")
}

/// The auth files that skopeo reads by default (containers-auth.json(5), skopeo(1)). `variable` returns the value of an
/// environment variable that is set and not empty.
fn default_auth_files(
    variable: impl Fn(&str) -> Option<OsString>,
    home: Option<&Path>,
) -> Vec<PathBuf> {
    let variable = |name| variable(name).map(PathBuf::from);
    if let Some(named) = variable("REGISTRY_AUTH_FILE") {
        return vec![named];
    }
    let in_home = |path: &str| home.map(|home| home.join(path));
    // skopeo looks into only one of these two folders.
    let system = || format!("/run/containers/{}", nix::unistd::geteuid()).into();
    let runtime = variable("XDG_RUNTIME_DIR").map(|folder| folder.join("containers"));
    let runtime = runtime.unwrap_or_else(system);
    let config = variable("XDG_CONFIG_HOME").or(in_home(".config"));
    let docker = variable("DOCKER_CONFIG").or(in_home(".docker"));
    let files = [
        Some(runtime.join("auth.json")),
        config.map(|folder| folder.join("containers/auth.json")),
        docker.map(|folder| folder.join("config.json")),
        in_home(".dockercfg"),
    ];
    files.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::not_empty;

    #[test]
    fn an_empty_variable_does_not_hide_the_auth_files() {
        let files = |variables: &[(&str, &str)]| {
            let value = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                not_empty(found.map(|(_, value)| value.into()))
            };
            let files = default_auth_files(value, Some(Path::new("/home/x")));
            files.into_iter().map(|path| path.display().to_string())
        };
        let of_system = format!("/run/containers/{}/auth.json", nix::unistd::geteuid());
        let unset: Vec<String> = files(&[]).collect();
        let expected = [
            &of_system,
            "/home/x/.config/containers/auth.json",
            "/home/x/.docker/config.json",
            "/home/x/.dockercfg",
        ];
        assert_eq!(unset, expected);
        for name in [
            "REGISTRY_AUTH_FILE",
            "XDG_RUNTIME_DIR",
            "XDG_CONFIG_HOME",
            "DOCKER_CONFIG",
        ] {
            assert!(files(&[(name, "")]).eq(unset.clone()), "{name}");
            let mut set = files(&[(name, "/set")]);
            assert!(set.any(|path| path.starts_with("/set")), "{name}");
        }
    }

    #[test]
    fn an_auth_file_that_names_the_registry_may_have_credentials() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("auth.json");
        let may_have = |text: &str, host| {
            fs::write(&path, text).expect("a file");
            CredentialSources::of(&ImageProxyConfig::default().authfile(path.clone()))
                .may_have(host)
        };
        let auths = r#"{"auths": {"a.b:5/c": {"auth": "x"}, "https://index.docker.io/v1/": {}}}"#;
        assert!(may_have(auths, "a.b:5"));
        assert!(may_have(auths, "docker.io"));
        assert!(!may_have(auths, "quay.io"));
        assert!(may_have(r#"{"credsStore": "x"}"#, "quay.io"));
        assert!(!may_have("", "quay.io"));
        let conf = folder.path().join("registries.conf");
        fs::write(
            &conf,
            "[[registry]]\nprefix = \"quay.io\"\nlocation = \"a.b:5\"",
        )
        .expect("a file");
        let redirected = ImageProxyConfig::default()
            .authfile(path.clone())
            .registries_conf(conf);
        for (text, expected) in [(auths, true), ("{}", false)] {
            fs::write(&path, text).expect("a file");
            assert_eq!(
                CredentialSources::of(&redirected).may_have("quay.io"),
                expected,
                "{text}"
            );
        }
        let named = ImageProxyConfig::default().authfile(path.clone());
        assert_eq!(named.auth_files(), [path]);
        let anonymous = ImageProxyConfig::default().auth_anonymous(true);
        assert!(anonymous.auth_files().is_empty());
        assert!(!CredentialSources::of(&anonymous).may_have("a.b:5"));
        let wrapper = std::process::Command::new("podman");
        let wrapper = ImageProxyConfig::default().skopeo_cmd(wrapper);
        assert!(CredentialSources::of(&wrapper).may_have("a.b:5"));
    }
}
