//! The command line, and the library's configuration that is made from it.

#![allow(
    clippy::doc_markdown,
    reason = "doc comments here are help texts for a terminal"
)]

use std::borrow::Cow;
use std::ffi::OsStr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use longshore::oci_spec::distribution::Reference;
use longshore::{
    ConnectionOptions, Credentials, FetchOptions, ImageProxyConfig, ImageRequest, OciLayout,
    Platform, Platforms, Proxies, RetryPolicy,
};

use super::failure::Failure;
use super::list::{self, Shard};
use super::say::say;
use super::secret;

/// Fetch container images through skopeo.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    /// Show debug messages, and what skopeo logs (RUST_LOG selects in detail)
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Pull images into an OCI image layout
    #[command(allow_missing_positional = true)]
    Pull(PullArguments),
    /// Show the contents of an image
    Inspect(InspectArguments),
}

impl Command {
    /// Reads the list of images, if there is one. Blocks.
    pub(crate) fn read_list(&mut self) -> Result<(), Failure> {
        match self {
            Self::Pull(arguments) => arguments.read_list(),
            Self::Inspect(_) => Ok(()),
        }
    }

    fn references(&self) -> Vec<String> {
        match self {
            Self::Pull(PullArguments { requests, .. }) => {
                let references = requests.iter().map(|request| request.reference.clone());
                references.collect()
            }
            Self::Inspect(InspectArguments { image, .. }) => vec![image.clone()],
        }
    }

    /// Whether skopeo will unpack an archive into a temporary folder.
    pub(crate) fn unpacks_archives(&self) -> bool {
        let is_archive = |image: &String| {
            image.starts_with("oci-archive:") || image.starts_with("docker-archive:")
        };
        self.references().iter().any(is_archive)
    }

    /// The configuration for skopeo, with the credentials. Blocks.
    pub(crate) fn proxy_config(&self, verbose: bool) -> Result<ImageProxyConfig, Failure> {
        let (platform, proxy) = match self {
            Self::Pull(PullArguments {
                platform, proxy, ..
            }) => match platform {
                Some(Platforms::One(platform)) => (Some(platform), proxy),
                _ => (None, proxy),
            },
            Self::Inspect(InspectArguments {
                platform, proxy, ..
            }) => (platform.as_ref(), proxy),
        };
        proxy.config(&self.references(), platform, verbose)
    }
}

#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub(crate) struct PullArguments {
    /// The image: docker://HOST/NAME:TAG, oci:DIR:TAG, dir:DIR, oci-archive:FILE, docker-archive:FILE,
    /// containers-storage:NAME. Several images go into one layout, each under its own name
    #[arg(value_parser = image_reference, required_unless_present = "from", num_args = 1.., value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
    /// The destination: oci:DIR[:TAG], an image layout that is created or added to. For several images, TAG
    /// is a template of {registry}, {repository}, {name} (the last part of the repository), {tag} and
    /// {platform}
    #[arg(value_name = "DEST", value_parser = OsStringValueParser::new().try_map(|text| Destination::parse(&text)))]
    pub(crate) destination: Destination,
    /// Also pull the images of a list. Each line names one image, optionally followed by
    /// platform=OS/ARCH[/VARIANT] or platform=all, and by name=NAME. # begins a comment; - is stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
    /// Pull only part I of N of all images, counted from 0. The name of an image determines its part
    #[arg(long, value_name = "I/N")]
    pub(crate) shard: Option<Shard>,
    /// When an image fails, go on with the others; the default for a list
    #[arg(long, conflicts_with = "strict")]
    pub(crate) keep_going: bool,
    /// When an image fails, stop; the default for images on the command line
    #[arg(long)]
    pub(crate) strict: bool,
    /// The platform to choose from a multi-platform index (linux/arm64, linux/arm/v7), or all of them, with
    /// the index. Default: this machine's. In a list, it applies to images without a platform of their own
    #[arg(long, value_name = "OS/ARCH[/VARIANT]|all")]
    pub(crate) platform: Option<Platforms>,
    /// Blobs in flight at once, over all proxies
    #[arg(long, value_name = "N", default_value_t = longshore::DEFAULT_WORKERS)]
    workers: NonZeroUsize,
    /// The number of skopeo processes: auto, N, or MIN-MAX. auto uses as many as make the pull faster, at
    /// most 16 for a registry. For docker.io, whose quota counts openings, it uses one for each image
    #[arg(long, value_name = "auto|N|MIN-MAX", default_value = "auto")]
    proxies: Proxies,
    /// How often to retry a blob that failed; 0 = never
    #[arg(long, value_name = "N", default_value_t = RetryPolicy::default().retries)]
    retries: u32,
    /// The maximum number of bytes per second, over all blobs: 500K, 10M, 1G (powers of a thousand)
    #[arg(long, value_name = "RATE", value_parser = rate)]
    limit_rate: Option<NonZeroU64>,
    /// Write the events into this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub(crate) events: Option<PathBuf>,
    /// Print one JSON object at the end, and no progress
    #[arg(long)]
    pub(crate) json: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) proxy: ProxyArguments,
    /// All requests, once the list has been read.
    #[arg(skip)]
    pub(crate) requests: Vec<ImageRequest>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// The image, as for pull
    #[arg(value_parser = image_reference)]
    pub(crate) image: String,
    /// The platform to choose from a multi-platform index (linux/arm64, linux/arm/v7); default: this
    /// machine's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<Platform>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) proxy: ProxyArguments,
}

impl PullArguments {
    /// Collects the requests from the command line and from the list.
    fn read_list(&mut self) -> Result<(), Failure> {
        let given = self.images.iter().map(ImageRequest::new);
        let mut requests: Vec<ImageRequest> = given.collect();
        if let Some(path) = &self.from {
            if path == Path::new("-") && self.proxy.creds.as_deref() == Some("-") {
                let reason = "stdin can't be both the list and the credentials; use --creds-file";
                return Err(Failure::usage(reason.into()));
            }
            requests.extend(list::read(path)?);
        }
        if let Some(shard) = self.shard {
            requests.retain(|request| shard.has(&request.reference));
        }
        let platforms = self.platform.clone().unwrap_or_default();
        for request in &mut requests {
            if request.platforms == Platforms::Configured {
                request.platforms = platforms.clone();
            }
        }
        let tag = self.destination.tag.as_deref();
        let template = tag.filter(|tag| list::is_template(tag));
        let is_one = self.from.is_none() && self.images.len() == 1;
        if tag.is_some() && template.is_none() && !is_one {
            let reason = "several images go into oci:DIR, each under its own name, or into \
                          oci:DIR:TEMPLATE, such as {name}-{tag}";
            return Err(Failure::usage(reason.into()));
        }
        self.requests = if is_one && template.is_none() {
            let named = |request: ImageRequest| match tag {
                Some(tag) => request.name(tag),
                None => request,
            };
            requests.into_iter().map(named).collect()
        } else {
            list::name_all(requests, template).map_err(Failure::usage)?
        };
        Ok(())
    }

    pub(crate) fn options(&self) -> FetchOptions {
        let retry = RetryPolicy::default().retries(self.retries);
        let options = FetchOptions::default();
        let options = options
            .proxies(self.proxies)
            .workers(self.workers)
            .retry(retry);
        match self.limit_rate {
            Some(rate) => options.limit_rate(rate),
            None => options,
        }
    }
}

/// The options that become an [`ImageProxyConfig`], and the deadline.
#[derive(Debug, Args)]
pub(crate) struct ProxyArguments {
    /// The skopeo program to run
    #[arg(long, value_name = "PATH")]
    skopeo: Option<PathBuf>,
    /// Auth file (see containers-auth.json(5))
    #[arg(long, value_name = "FILE", group = "auth")]
    authfile: Option<PathBuf>,
    /// Credentials; other users can see them on the command line. "-" reads one line USER:PASS from stdin
    #[arg(long, value_name = "USER:PASS", group = "auth")]
    creds: Option<String>,
    /// A file whose first line is USER:PASS
    #[arg(long, value_name = "FILE", group = "auth")]
    creds_file: Option<PathBuf>,
    /// A file with a token for the registry's token service (an identity token, as docker login
    /// stores it)
    #[arg(long, value_name = "FILE", group = "auth")]
    registry_token_file: Option<PathBuf>,
    /// Use no credentials, not even those of the default auth files
    #[arg(long, group = "auth")]
    no_creds: bool,
    /// Certificates (*.crt, *.cert, *.key) for the registry
    #[arg(long, value_name = "DIR")]
    cert_dir: Option<PathBuf>,
    /// Require HTTPS with a valid certificate. false accepts any certificate, and plain HTTP
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls_verify: Option<bool>,
    /// Signature policy file
    #[arg(long, value_name = "FILE", group = "trust")]
    policy: Option<PathBuf>,
    /// Require a skopeo that checks the signature policy (1.13 or later), even if it is the system's policy
    #[arg(long, conflicts_with = "insecure_policy")]
    require_policy: bool,
    /// Accept images whatever the signature policy says
    #[arg(long, group = "trust")]
    insecure_policy: bool,
    /// Give up on a blob if no byte arrives for this long: 90, 90s, 2m; 0 = never
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    stall_timeout: Duration,
    /// Give up on a blob that is slower than this many bytes per second, measured over the stall timeout:
    /// 100, 2K; 0 = never
    #[arg(long, value_name = "RATE", default_value_t = longshore::DEFAULT_LEAST_RATE, value_parser = rate_or_none)]
    least_rate: u64,
    /// Give up on everything that is not done within this time: 90, 90s, 10m, 1h; default: no limit
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) deadline: Option<Duration>,
    /// Give up on a skopeo that has not answered for this long; 0 = never
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    call_timeout: Duration,
}

impl ProxyArguments {
    /// Reads the files that are needed, and makes the configuration.
    fn config(
        &self,
        images: &[String],
        platform: Option<&Platform>,
        verbose: bool,
    ) -> Result<ImageProxyConfig, Failure> {
        let connection = ConnectionOptions::default()
            .stall_timeout(self.stall_timeout)
            .least_rate(self.least_rate)
            .call_timeout(self.call_timeout);
        let mut config = ImageProxyConfig::default()
            .auth_anonymous(self.no_creds)
            .require_tls_verification(self.tls_verify == Some(true))
            .require_policy(self.require_policy)
            .insecure_policy(self.insecure_policy)
            .debug(verbose)
            .connection(connection);
        config.authfile.clone_from(&self.authfile);
        config.credentials = self.credentials(images)?;
        config.certificate_directory.clone_from(&self.cert_dir);
        if self.tls_verify == Some(false) {
            config.insecure_skip_tls_verification = Some(true);
        }
        config.policy.clone_from(&self.policy);
        config.skopeo_path.clone_from(&self.skopeo);
        if let Some(platform) = platform.cloned() {
            config.os = Some(platform.os);
            config.architecture = Some(platform.architecture);
            config.variant = platform.variant;
        }
        Ok(config)
    }

    fn credentials(&self, images: &[String]) -> Result<Option<Credentials>, Failure> {
        // A part of a list can be empty.
        if images.is_empty() {
            return Ok(None);
        }
        if let Some(file) = &self.registry_token_file {
            let token = secret::first_line_of(file)?;
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
            (None, Some(file)) => secret::first_line_of(file)?,
            (None, None) => return Ok(None),
        };
        let (user, password) = line
            .split_once(':')
            .ok_or_else(|| Failure::usage("credentials must be USER:PASS, on one line".into()))?;
        Ok(Some(Credentials::password(
            common_registry(images)?,
            user,
            password,
        )))
    }
}

/// The one registry that the credentials are for.
fn common_registry(images: &[String]) -> Result<String, Failure> {
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
    let reference: Reference = reference
        .parse()
        .map_err(|e| Failure::usage(format!("{image} is not an image reference: {e}")))?;
    Ok(reference.registry().to_owned())
}

/// Checks only that the reference has a transport, because skopeo's message for that is unclear.
pub(super) fn image_reference(text: &str) -> Result<String, String> {
    match text.split_once(':') {
        Some((transport, rest)) if !rest.is_empty() && is_transport(transport) => {
            Ok(text.to_owned())
        }
        _ => Err(format!(
            "an image is TRANSPORT:REFERENCE; did you mean docker://{text}?"
        )),
    }
}

/// Whether skopeo knows this transport (containers-transports(5)).
fn is_transport(name: &str) -> bool {
    const TRANSPORTS: [&str; 10] = [
        "atomic",
        "containers-storage",
        "dir",
        "docker",
        "docker-archive",
        "docker-daemon",
        "oci",
        "oci-archive",
        "ostree",
        "sif",
    ];
    TRANSPORTS.contains(&name)
}

/// The destination of a pull, given as `oci:DIR[:TAG]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) folder: PathBuf,
    pub(crate) tag: Option<String>,
}

impl Destination {
    /// Parses a destination. The name of the folder need not be UTF-8.
    fn parse(text: &OsStr) -> Result<Self, String> {
        let shown = text.display();
        let rest = text
            .as_bytes()
            .strip_prefix(b"oci:")
            .ok_or_else(|| format!("a destination is oci:DIR[:TAG]; did you mean oci:{shown}?"))?;
        let (folder, tag) = match rest.iter().position(|byte| *byte == b':') {
            Some(colon) => (&rest[..colon], Some(&rest[colon + 1..])),
            None => (rest, None),
        };
        if folder.is_empty() {
            return Err("a destination is oci:DIR[:TAG], and the DIR is missing".into());
        }
        let tag = tag.map(String::from_utf8_lossy);
        if let Some(tag) = &tag
            && !OciLayout::can_name(tag)
            && !list::is_template(tag)
        {
            return Err(list::cant_name(tag));
        }
        Ok(Self {
            folder: OsStr::from_bytes(folder).into(),
            tag: tag.map(Cow::into_owned),
        })
    }
}

/// Parses a duration: `3`, `3s`, `2m`, `1h`, `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let wrong = || format!("{text:?} is not a duration: 90, 90s, 2m, 1h or 500ms");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = |factor| {
        number
            .checked_mul(factor)
            .map(Duration::from_secs)
            .ok_or_else(wrong)
    };
    match unit {
        "" | "s" => seconds(1),
        "ms" => Ok(Duration::from_millis(number)),
        "m" => seconds(60),
        "h" => seconds(60 * 60),
        _ => Err(wrong()),
    }
}

/// Parses a rate like [`rate`], or 0.
fn rate_or_none(text: &str) -> Result<u64, String> {
    match text {
        "0" => Ok(0),
        _ => rate(text).map(NonZeroU64::get),
    }
}

/// Parses a rate: `500K`, `10M`, `1G`, or bytes.
fn rate(text: &str) -> Result<NonZeroU64, String> {
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let factor = match unit {
        "" => Some(1),
        "K" | "k" => Some(1_000),
        "M" => Some(1_000_000),
        "G" => Some(1_000_000_000),
        _ => None,
    };
    let bytes = factor.and_then(|factor| number.parse::<u64>().ok()?.checked_mul(factor));
    bytes
        .and_then(NonZeroU64::new)
        .ok_or_else(|| format!("{text:?} is not a rate: bytes per second, such as 500K, 10M or 1G"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn rates() {
        let table = [
            ("1", Some(1)),
            ("500K", Some(500_000)),
            ("10M", Some(10_000_000)),
            ("0", None),
            ("M", None),
            ("1.5M", None),
            ("99999999999999G", None),
        ];
        for (text, expected) in table {
            assert_eq!(rate(text).ok().map(NonZeroU64::get), expected, "{text}");
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations() {
        let table = [
            ("3", Some(Duration::from_secs(3))),
            ("3s", Some(Duration::from_secs(3))),
            ("2m", Some(Duration::from_secs(120))),
            ("1h", Some(Duration::from_secs(3600))),
            ("500ms", Some(Duration::from_millis(500))),
            ("0", Some(Duration::ZERO)),
            ("", None),
            ("s", None),
            ("-1", None),
            ("1.5s", None),
            ("3 s", None),
            ("99999999999999999999", None),
            ("18446744073709551615h", None),
        ];
        for (text, expected) in table {
            assert_eq!(duration(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn destinations() {
        let to = |folder: &str, tag: Option<&str>| {
            Some(Destination {
                folder: folder.into(),
                tag: tag.map(str::to_owned),
            })
        };
        let table = [
            ("oci:dir", to("dir", None)),
            ("oci:/a/b:latest", to("/a/b", Some("latest"))),
            (
                "oci:dir:name/with:parts",
                to("dir", Some("name/with:parts")),
            ),
            ("dir", None),
            ("oci:", None),
            ("oci::tag", None),
            ("oci:dir:", None),
            ("oci:dir:a b", None),
            ("dir:x", None),
        ];
        for (text, expected) in table {
            assert_eq!(Destination::parse(text.as_ref()).ok(), expected, "{text}");
        }
        let odd = OsStr::from_bytes(b"oci:a\xff:v1");
        let parsed = Destination::parse(odd).expect("a folder");
        assert_eq!(parsed.folder.as_os_str().as_bytes(), b"a\xff");
        assert_eq!(parsed.tag.as_deref(), Some("v1"));
        Destination::parse(OsStr::from_bytes(b"oci:a:\xff")).expect_err("no tag");
    }

    #[test]
    fn images_need_a_transport() {
        for good in ["docker://a/b", "oci:dir", "containers-storage:x"] {
            assert!(image_reference(good).is_ok(), "{good}");
        }
        for bad in ["debian", "debian:stable", "http://a/b", "docker:", ""] {
            assert!(image_reference(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn platforms() {
        assert!("linux/arm64".parse::<Platform>().is_ok());
        assert!("linux/arm/v7".parse::<Platform>().is_ok());
        for bad in ["linux", "", "linux/", "/arm", "a/b/c/d"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn credentials_go_to_the_images_registry() {
        let table = [
            ("docker://127.0.0.1:5000/a/b:c", Some("127.0.0.1:5000")),
            ("docker://quay.io/a/b", Some("quay.io")),
            ("docker://debian", Some("docker.io")),
            ("oci:dir", None),
        ];
        for (image, expected) in table {
            assert_eq!(registry_of(image).ok().as_deref(), expected, "{image}");
        }
    }
}
