//! Options and commands of skopeo, crane, oras and podman that have another name here, or do not exist here.

use clap::Command;

use super::options::has_option;

/// Options of other tools, with advice on what to use here. An option that means the same as one of longshore's is not
/// in this list, but an alias.
pub(super) struct Advice {
    pub(super) names: &'static [&'static str],
    /// The commands that the advice is for. If there are none, it is for each that has the options it names.
    commands: &'static [&'static str],
    pub(super) text: &'static str,
}

impl Advice {
    const fn new(names: &'static [&'static str], text: &'static str) -> Self {
        Self {
            names,
            commands: &[],
            text,
        }
    }

    const fn only(
        commands: &'static [&'static str],
        names: &'static [&'static str],
        text: &'static str,
    ) -> Self {
        Self {
            names,
            commands,
            text,
        }
    }

    /// Whether the advice can be followed with this command.
    pub(super) fn is_for(&self, command: &Command) -> bool {
        if !self.commands.is_empty() {
            return self.commands.contains(&command.get_name());
        }
        let mut options = self
            .text
            .split([' ', '='])
            .filter(|word| word.starts_with("--"));
        options.all(|option| has_option(command, option))
    }
}

/// The commands that ask a registry.
const ASKING: &[&str] = &[
    "pull",
    "inspect",
    "digest",
    "blob",
    "export",
    "list-tags",
    "doctor",
];

/// The options of other tools. The first advice that is for the command applies.
pub(super) const OPTIONS: &[Advice] = &[
    Advice::only(
        &["pull"],
        &["-a"],
        "--platform all takes all platforms of an index; --from FILE takes a list of images, for example a list of all tags",
    ),
    Advice::only(
        &["pull"],
        &["--all", "--multi-arch", "--all-platforms"],
        "--platform all takes all platforms of an index",
    ),
    Advice::only(
        &["inspect"],
        &["--all", "-a", "--multi-arch", "--all-platforms"],
        "--platform all lists all platforms of an index",
    ),
    Advice::only(
        &["pull"],
        &["--all-tags"],
        "longshore list-tags REPOSITORY lists the tags, and --from FILE takes a list of images",
    ),
    Advice::new(
        &[
            "--override-os",
            "--override-arch",
            "--override-variant",
            "--arch",
            "--os",
            "--variant",
        ],
        "--platform OS/ARCH[/VARIANT] chooses a platform",
    ),
    Advice::new(
        &[
            "--username",
            "--user",
            "-u",
            "--password",
            "-p",
            "--password-stdin",
            "--identity-token-stdin",
            "--credentials",
        ],
        "--creds-file FILE or --creds - reads USER:PASS",
    ),
    Advice::new(
        &[
            "--registry-token",
            "--src-registry-token",
            "--identity-token",
        ],
        "--registry-token-file FILE reads a token",
    ),
    Advice::new(
        &["--registry-config", "--config", "--auth-file"],
        "--authfile FILE names an auth file",
    ),
    Advice::new(
        &["--ca-file", "--cafile", "--cacert"],
        "--cert-dir DIR names a folder with certificates",
    ),
    Advice::new(
        &[
            "-k",
            "--http",
            "--no-tls-verify",
            "--skip-tls-verify",
            "--skip-verify",
            "--insecure-skip-tls-verify",
            "--insecure-registry",
            "--allow-insecure",
            "--verify",
        ],
        "--tls-verify=false accepts any certificate, and plain HTTP",
    ),
    Advice::only(
        &["list-tags"],
        &[
            "--policy",
            "--signature-policy",
            "--require-policy",
            "--insecure-policy",
            "--no-policy",
        ],
        "list-tags opens no image, so no signature policy applies: leave it out",
    ),
    Advice::new(
        &["--signature-policy", "--policy-file"],
        "--policy FILE names a signature policy",
    ),
    Advice::new(
        &["--no-policy"],
        "--insecure-policy accepts images whatever the policy says",
    ),
    Advice::only(
        &["pull"],
        &[
            "--concurrency",
            "--jobs",
            "-j",
            "--image-parallel-copies",
            "--max-parallel-downloads",
            "--threads",
            "--parallel",
        ],
        "--workers N sets how many blobs are in flight",
    ),
    Advice::only(
        &["verify"],
        &["--concurrency", "--jobs", "-j", "--threads", "--parallel"],
        "--workers N sets how many threads read",
    ),
    Advice::new(
        &["--rate-limit", "--max-rate", "--bandwidth", "--bwlimit"],
        "--limit-rate RATE limits the bytes per second",
    ),
    Advice::new(
        &["--retry", "--max-retries"],
        "--retries N sets how often a blob is retried",
    ),
    Advice::new(
        &["--command-timeout", "--timeout"],
        "--deadline DURATION limits the time of everything",
    ),
    Advice::only(
        ASKING,
        &["--proxy"],
        "the variables HTTPS_PROXY and NO_PROXY choose a proxy for HTTPS",
    ),
    Advice::new(&["--debug", "-d"], "--verbose shows debug messages"),
    Advice::new(&["--silent"], "--quiet prints only errors and warnings"),
    Advice::new(&["--no-progress"], "--progress none shows no progress"),
    Advice::new(&["--skopeo-path"], "--skopeo PATH chooses a skopeo"),
    Advice::new(&["--config-only"], "--config prints the config"),
    Advice::new(
        &["--image-list", "--list", "--file"],
        "--from FILE takes a list of images",
    ),
    Advice::only(&["pull"], &["-f"], "--from FILE takes a list of images"),
    Advice::new(&["--trace"], "--timeline FILE draws the pull"),
    Advice::only(
        &["pull"],
        &["--output", "-o", "--output-dir", "--dest", "--destination"],
        "the destination is the last argument: oci:DIR[:TAG]",
    ),
    Advice::only(
        &["export"],
        &["--output", "-o", "--file"],
        "the archive is the last argument: FILE",
    ),
    Advice::only(
        &["inspect", "digest", "list-tags"],
        &["--output", "-o"],
        "the result goes to stdout: > FILE writes it into a file",
    ),
    Advice::only(
        &["pull"],
        &["--format", "--preserve-digests"],
        "an OCI image is stored as its source has it; an image in a Docker format is converted to OCI",
    ),
    Advice::only(
        &["export"],
        &["--format", "-f"],
        "the archive is always a plain tar",
    ),
    Advice::only(
        &["digest"],
        &["--format", "-f"],
        "digest prints nothing but the digest",
    ),
    Advice::only(
        &["inspect", "list-tags"],
        &["--format", "-f"],
        "--json prints one JSON object",
    ),
    Advice::only(
        &["verify", "prune", "doctor"],
        &["--format"],
        "--json prints one JSON object",
    ),
    Advice::only(
        &["pull"],
        &["--remove-signatures", "--sign-by", "--digestfile"],
        "there is no such option; skopeo copy has it, and reads the layout as oci:DIR:TAG",
    ),
    Advice::only(
        &["pull", "inspect", "digest", "blob", "export", "doctor"],
        &["--tmpdir"],
        "there is no such option; skopeo unpacks archives in /var/tmp",
    ),
    Advice::only(
        &["completions"],
        &["--shell"],
        "the shell is the argument, as in longshore completions bash",
    ),
];

/// Commands of other tools, each with what to use instead.
pub(super) const COMMANDS: [(&[&str], &str); 11] = [
    (
        &["copy", "cp", "fetch", "download", "save"],
        "longshore pull IMAGE oci:DIR[:TAG] pulls an image into a layout",
    ),
    (
        &["sync", "mirror"],
        "longshore pull --from FILE oci:DIR pulls a list of images",
    ),
    (
        &["manifest"],
        "longshore inspect --manifest IMAGE prints a manifest, and --raw an index",
    ),
    (
        &["config"],
        "longshore inspect --config IMAGE prints the config",
    ),
    (
        &["tags", "ls", "list", "repo", "tag"],
        "longshore list-tags REPOSITORY lists tags",
    ),
    (
        &["validate", "check"],
        "longshore verify oci:DIR checks a layout",
    ),
    (
        &["extract", "unpack", "flatten"],
        "longshore export IMAGE FILE writes the files of an image as a tar archive",
    ),
    (
        &["gc", "clean"],
        "longshore prune oci:DIR removes what no image needs",
    ),
    (
        &["push", "delete", "rm", "rmi"],
        "longshore only pulls; skopeo copy and skopeo delete change a registry",
    ),
    (&["version"], "longshore --version prints the version"),
    (
        &["login", "logout", "auth"],
        "skopeo login writes the auth files that longshore reads",
    ),
];

const ADVICE_ON_DESTINATIONS: &str = "the destination is on this machine, and needs no such option";

/// The advice on an option of another tool, given to this command.
pub(super) fn advice_on(option: &str, command: &Command) -> Option<&'static str> {
    if option.starts_with("--dest-") && ["pull", "blob", "export"].contains(&command.get_name()) {
        return Some(ADVICE_ON_DESTINATIONS);
    }
    let mut known = OPTIONS.iter().filter(|of| of.names.contains(&option));
    known.find(|of| of.is_for(command)).map(|of| of.text)
}
