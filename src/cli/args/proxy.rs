//! The options for skopeo, and the library's configuration that is made from them.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use longshore::{ConnectionOptions, Credentials, ImageProxyConfig, Platform};

use super::environment::{AUTHFILE, Environment};
use super::headings::{CREDENTIALS, LIMITS, TRUST};
use super::values::{duration, rate_or_none, time_limit};
use crate::cli::failure::Failure;
use crate::cli::hint::{Access, Login};
use crate::cli::name::RegistryName;
use crate::cli::say::say;
use crate::cli::secret;

/// The options of each command that asks a registry: how the registry is reached, and how long that may take.
#[derive(Debug, Args)]
pub(crate) struct SourceArguments {
    /// The skopeo program to run
    ///
    /// Default: what LONGSHORE_SKOPEO names, or else the skopeo of the search path (the variable PATH).
    #[arg(long, value_name = "PATH")]
    skopeo: Option<PathBuf>,
    /// Auth file, as podman login writes it
    ///
    /// The format is that of containers-auth.json(5). Default: what LONGSHORE_AUTHFILE names, or else the files that
    /// skopeo looks for. LONGSHORE_AUTHFILE is ignored if another option of this group gives or forbids credentials.
    #[arg(long, alias = "src-authfile", value_name = "FILE", group = "auth", help_heading = CREDENTIALS)]
    authfile: Option<PathBuf>,
    /// Credentials; - reads a line of stdin
    ///
    /// The credentials are for one registry, and all images must be at this registry. Every user of this machine can
    /// read the command line, so "-", which reads one line USER:PASS from stdin, or --creds-file is safer.
    #[arg(long, alias = "src-creds", value_name = "USER:PASS", group = "auth", help_heading = CREDENTIALS)]
    creds: Option<String>,
    /// File whose first line is USER:PASS
    #[arg(long, value_name = "FILE", group = "auth", help_heading = CREDENTIALS)]
    creds_file: Option<PathBuf>,
    /// File with an identity token
    ///
    /// The first line of the file is a token for the registry's token service, as docker login stores it.
    #[arg(long, value_name = "FILE", group = "auth", help_heading = CREDENTIALS)]
    registry_token_file: Option<PathBuf>,
    /// Use no credentials
    ///
    /// Credentials in the default auth files are not used either.
    #[arg(long, alias = "src-no-creds", group = "auth", help_heading = CREDENTIALS)]
    no_creds: bool,
    /// Folder with certificates and keys
    ///
    /// *.crt are certificates of authorities to trust; *.cert and *.key are the certificate of this client and its key.
    #[arg(long, alias = "src-cert-dir", value_name = "DIR", help_heading = CREDENTIALS)]
    cert_dir: Option<PathBuf>,
    /// Require HTTPS with a valid certificate
    ///
    /// --tls-verify=false accepts any certificate, and plain HTTP. Default: true, unless registries.conf says that the
    /// registry is insecure.
    #[arg(long, alias = "src-tls-verify", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = CREDENTIALS)]
    tls_verify: Option<bool>,
    /// The same as --tls-verify=false, as crane and oras call it.
    #[arg(long, alias = "plain-http", hide = true, conflicts_with = "tls_verify")]
    insecure: bool,
    /// Time limit of the command; default: none
    ///
    /// The command fails after this time. A pull into oci:DIR keeps the layers that are complete. Examples: 90 or 90s
    /// (seconds), 10m, 1h, 500ms.
    #[arg(long, value_name = "DURATION", value_parser = time_limit, help_heading = LIMITS)]
    pub(crate) deadline: Option<Duration>,
    /// Time to wait for skopeo
    ///
    /// A skopeo process that has not answered for this long is ended, and the call may be retried with another one.
    /// Examples: 90 or 90s (seconds), 10m, 1h. 0 = no limit.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration, help_heading = LIMITS)]
    call_timeout: Duration,
    /// The variables that stand for options which are not given.
    #[arg(skip)]
    pub(super) environment: Environment,
}

/// All options that become an [`ImageProxyConfig`].
#[derive(Debug, Args)]
pub(crate) struct ProxyArguments {
    #[command(flatten)]
    pub(crate) source: SourceArguments,
    /// Signature policy file; default: the system's
    ///
    /// The format is that of containers-policy.json(5). The policy decides which images are accepted.
    #[arg(long, value_name = "FILE", group = "trust", help_heading = TRUST)]
    policy: Option<PathBuf>,
    /// Fail if skopeo does not check the policy
    ///
    /// skopeo checks the signature policy since version 1.13. With an older skopeo, the command warns if the system's
    /// policy may refuse images. With this option, it fails.
    #[arg(long, conflicts_with = "insecure_policy", help_heading = TRUST)]
    require_policy: bool,
    /// Accept images whatever the policy says
    #[arg(long, group = "trust", help_heading = TRUST)]
    insecure_policy: bool,
    /// Time to wait for a byte
    ///
    /// A transfer of a blob ends if no byte arrives for this long, and may be retried. Examples: 90 or 90s (seconds),
    /// 2m. 0 = no limit.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration, help_heading = LIMITS)]
    stall_timeout: Duration,
    /// Minimum bytes per second
    ///
    /// A transfer of a blob ends if it is slower than this over one stall timeout, and may be retried. Examples: 100,
    /// 2K (2,000). 0 = no limit.
    #[arg(long, value_name = "RATE", default_value_t = longshore::DEFAULT_LEAST_RATE, value_parser = rate_or_none, help_heading = LIMITS)]
    least_rate: u64,
}

impl ProxyArguments {
    /// Whether the credentials are a line of stdin.
    pub(super) fn read_stdin(&self) -> bool {
        self.source.creds.as_deref() == Some("-")
    }

    /// Whether an option demands that the signature policy is checked, which is done when an image is opened.
    pub(crate) fn demands_policy(&self) -> bool {
        self.policy.is_some() || self.require_policy
    }

    /// Returns a failure if the policy file does not exist. skopeo looks for the file only after it has
    /// reached the registry.
    pub(crate) fn check_policy(&self) -> Result<(), Failure> {
        match &self.policy {
            Some(policy) => check_file("--policy", policy),
            None => Ok(()),
        }
    }

    /// Reads the files that are needed, and makes the configuration. Blocks.
    pub(crate) fn config(
        &self,
        images: &[&str],
        platform: Option<&Platform>,
        verbose: bool,
    ) -> Result<ImageProxyConfig, Failure> {
        let mut config = self.source.config(images, verbose)?;
        config.connection = config
            .connection
            .stall_timeout(self.stall_timeout)
            .least_rate(self.least_rate);
        config.require_policy = self.require_policy;
        config.insecure_policy = self.insecure_policy;
        config.policy.clone_from(&self.policy);
        if let Some(platform) = platform.cloned() {
            config.os = Some(platform.os);
            config.architecture = Some(platform.architecture);
            config.variant = platform.variant;
        }
        Ok(config)
    }
}

impl SourceArguments {
    /// Whether credentials for one registry are given.
    pub(super) fn names_credentials(&self) -> bool {
        self.creds.is_some() || self.creds_file.is_some() || self.registry_token_file.is_some()
    }

    /// The auth file, and the option or variable that names it. An option about credentials overrides the variable.
    fn authfile(&self) -> Option<(&'static str, &Path)> {
        if let Some(file) = &self.authfile {
            return Some(("--authfile", file));
        }
        if self.names_credentials() || self.no_creds {
            return None;
        }
        let file = self.environment.authfile.as_deref()?;
        Some((AUTHFILE, file))
    }

    /// Reads the files that are needed, and makes the configuration. Blocks.
    pub(crate) fn config(
        &self,
        images: &[&str],
        verbose: bool,
    ) -> Result<ImageProxyConfig, Failure> {
        self.check_files()?;
        let connection = ConnectionOptions::default().call_timeout(self.call_timeout);
        let mut config = ImageProxyConfig::default()
            .auth_anonymous(self.no_creds)
            .require_tls_verification(self.tls_verify == Some(true))
            .debug(verbose)
            .connection(connection);
        config.authfile = self.authfile().map(|(_, file)| file.to_owned());
        config.credentials = self.credentials(images)?;
        config.certificate_directory.clone_from(&self.cert_dir);
        if self.insecure || self.tls_verify == Some(false) {
            config.insecure_skip_tls_verification = Some(true);
        }
        let skopeo = self.skopeo.as_ref().or(self.environment.skopeo.as_ref());
        config.skopeo_path = skopeo.cloned();
        Ok(config)
    }

    pub(crate) fn access(&self) -> Access {
        let login = self.login();
        let sets_tls = self.insecure || self.tls_verify.is_some() || self.cert_dir.is_some();
        Access {
            login,
            has_options: sets_tls
                || self.no_creds
                || login == Login::Given
                || self.authfile.is_some(),
        }
    }

    fn login(&self) -> Login {
        let given = [
            self.creds.is_some(),
            self.creds_file.is_some(),
            self.registry_token_file.is_some(),
        ];
        match self.no_creds {
            true => Login::Forbidden,
            false if given.contains(&true) => Login::Given,
            false if self.authfile().is_some() => Login::FromGivenFile,
            false => Login::FromFiles,
        }
    }

    /// Checks the files whose absence skopeo would not report, or would report as a refusal of the registry.
    fn check_files(&self) -> Result<(), Failure> {
        if let Some((given_by, file)) = self.authfile() {
            check_file(given_by, file)?;
        }
        let Some(folder) = &self.cert_dir else {
            return Ok(());
        };
        let entries = fs::read_dir(folder).map_err(|e| cant_use("--cert-dir", folder, e))?;
        let names: Vec<PathBuf> = entries.flatten().map(|of| of.file_name().into()).collect();
        certificates(&names).map_err(|what| cant_use("--cert-dir", folder, what))?;
        match without_pem(folder, &names) {
            None => Ok(()),
            Some(name) => {
                let what = "it has no PEM data (-----BEGIN ...)";
                Err(cant_use("--cert-dir", &folder.join(name), what))
            }
        }
    }

    fn credentials(&self, images: &[&str]) -> Result<Option<Credentials>, Failure> {
        // With `--shard`, the part of the list that is pulled can have no images.
        if images.is_empty() {
            return Ok(None);
        }
        if let Some(file) = &self.registry_token_file {
            let token = secret::first_line_of("--registry-token-file", file)?;
            let registry = common_registry(images)?;
            return Ok(Some(Credentials::identity_token(registry, &token)));
        }
        let line = match (&self.creds, &self.creds_file) {
            (Some(dash), _) if dash == "-" => {
                tracing::debug!("reading credentials from stdin");
                secret::line_from_stdin()?
            }
            (Some(given), _) => {
                say(
                    "longshore: warning: --creds USER:PASS can be seen by every user of this machine; \
                     use --creds - or --creds-file",
                );
                given.clone().into()
            }
            (None, Some(file)) => secret::first_line_of("--creds-file", file)?,
            (None, None) => return Ok(None),
        };
        let (user, password) = line.split_once(':').ok_or_else(|| {
            let from = match &self.creds_file {
                Some(file) => format!("--creds-file {}", file.display()),
                None => "--creds".into(),
            };
            let what = if line.is_empty() {
                "there is nothing"
            } else {
                "there is no colon"
            };
            Failure::usage(format!(
                "{from}: credentials are USER:PASS on one line, and {what}"
            ))
        })?;
        Ok(Some(Credentials::password(
            common_registry(images)?,
            user,
            password,
        )))
    }
}

/// Returns a failure if this file does not exist, or is a folder. It may be a pipe, so it is not opened.
fn check_file(option: &str, file: &Path) -> Result<(), Failure> {
    let found = fs::metadata(file).map_err(|e| cant_use(option, file, e))?;
    if found.is_dir() {
        return Err(cant_use(option, file, "it is a folder"));
    }
    Ok(())
}

/// The beginning of PEM data.
const PEM: &[u8] = b"-----BEGIN ";

/// Checks the names in a folder with certificates, by the rules of containers-certs.d(5).
fn certificates(names: &[PathBuf]) -> Result<(), String> {
    let with = |ending: &'static str| {
        let of_kind = move |name: &&PathBuf| name.extension().is_some_and(|of| of == ending);
        names.iter().filter(of_kind)
    };
    for (one, other) in [("cert", "key"), ("key", "cert")] {
        for name in with(one) {
            let missing = name.with_extension(other);
            if !names.contains(&missing) {
                let (name, missing) = (name.display(), missing.display());
                return Err(format!(
                    "it has {name} and no {missing}: they are needed together"
                ));
            }
        }
    }
    if with("crt").chain(with("cert")).next().is_none() {
        return Err(
            "it has no file *.crt (certificates to trust), and no *.cert with a *.key (of this client)"
                .to_owned(),
        );
    }
    Ok(())
}

/// Returns a file with certificates or a key that has no PEM data. skopeo ignores such a certificate of a registry, so one
/// is returned only if all are like this.
fn without_pem<'a>(folder: &Path, names: &'a [PathBuf]) -> Option<&'a PathBuf> {
    let lacks_pem = |name: &&PathBuf| {
        let path = folder.join(name);
        // Another file, such as a pipe, may be readable only once. A file that can't be read is left to skopeo.
        let is_file = fs::metadata(&path).is_ok_and(|found| found.is_file());
        let text = fs::read(&path).ok().filter(|_| is_file);
        text.is_some_and(|text| !text.windows(PEM.len()).any(|part| part == PEM))
    };
    let with = |endings: &'static [&'static str]| {
        let ends = move |name: &&PathBuf| {
            endings
                .iter()
                .any(|of| name.extension() == Some(of.as_ref()))
        };
        names.iter().filter(ends)
    };
    let of_client = with(&["cert", "key"]).find(lacks_pem);
    let of_registries = || {
        let mut trusted = with(&["crt"]);
        with(&["crt"])
            .all(|name| lacks_pem(&name))
            .then(|| trusted.next())
            .flatten()
    };
    of_client.or_else(of_registries)
}

fn cant_use(option: &str, path: &Path, reason: impl Display) -> Failure {
    Failure::usage(format!("{option} {}: {reason}", path.display()))
}

/// The one registry that the credentials are for.
fn common_registry(images: &[&str]) -> Result<String, Failure> {
    let registries: Result<Vec<_>, _> = images.iter().map(|image| registry_of(image)).collect();
    let mut registries = registries?;
    registries.sort_unstable();
    registries.dedup();
    match <[String; 1]>::try_from(registries) {
        Ok([registry]) => Ok(registry),
        Err(several) => Err(Failure::usage(format!(
            "credentials are for one registry, and these are several: {}; use --authfile",
            several.join(", ")
        ))),
    }
}

fn registry_of(image: &str) -> Result<String, Failure> {
    let reference = image.strip_prefix("docker://").ok_or_else(|| {
        Failure::usage(format!(
            "credentials are of use only for docker:// images, not for {image}"
        ))
    })?;
    let name = RegistryName::parse(reference)
        .map_err(|e| Failure::usage(format!("{image} is not an image reference: {e}")))?;
    Ok(name.host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_folder_has_certificates_and_each_client_certificate_its_key() {
        let table: [(&[&str], Option<&str>); 7] = [
            (&["ca.crt"], None),
            (&["a.cert", "a.key"], None),
            (&["ca.crt", "readme"], None),
            (&[], Some("no file *.crt")),
            (&["ca.pem"], Some("no file *.crt")),
            (&["ca.crt", "a.key"], Some("it has a.key and no a.cert")),
            (&["a.cert", "b.key"], Some("it has a.cert and no a.key")),
        ];
        for (names, expected) in table {
            let names: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
            let wrong = certificates(&names).err();
            assert_eq!(wrong.is_some(), expected.is_some(), "{names:?}: {wrong:?}");
            let words = expected.unwrap_or_default();
            assert!(wrong.unwrap_or_default().contains(words), "{names:?}");
        }
    }

    #[test]
    fn a_certificate_folder_has_pem_data() {
        type Files = &'static [(&'static str, &'static str)];
        const PEM: &str = "-----BEGIN CERTIFICATE-----";
        let table: [(Files, Option<&str>); 5] = [
            (&[("ca.crt", PEM), ("other.crt", "hello")], None),
            (&[("ca.crt", "hello")], Some("ca.crt")),
            (
                &[("a.cert", PEM), ("a.key", "-----BEGIN EC PRIVATE KEY-----")],
                None,
            ),
            (&[("a.cert", PEM), ("a.key", "")], Some("a.key")),
            (&[("ca.crt", PEM), ("readme", "hello")], None),
        ];
        for (files, expected) in table {
            let folder = tempfile::tempdir().expect("a folder");
            for (name, text) in files {
                fs::write(folder.path().join(name), text).expect("a file");
            }
            let names: Vec<PathBuf> = files.iter().map(|(name, _)| name.into()).collect();
            let found = without_pem(folder.path(), &names);
            assert_eq!(
                found.map(PathBuf::as_path),
                expected.map(Path::new),
                "{files:?}"
            );
        }
    }

    #[test]
    fn credentials_go_to_the_images_registry() {
        let table = [
            ("docker://127.0.0.1:5000/a/b:c", Some("127.0.0.1:5000")),
            ("docker://quay.io/a/b", Some("quay.io")),
            ("docker://debian", Some("docker.io")),
            ("docker://[::1]:5000/a/b", Some("[::1]:5000")),
            ("oci:dir", None),
        ];
        for (image, expected) in table {
            assert_eq!(registry_of(image).ok().as_deref(), expected, "{image}");
        }
    }
}
