//! Options and commands of skopeo, crane, oras and podman that have another name here, or do not exist here.

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// The options of other tools, each with advice on what to use here. An option that means the same as one of
/// longshore's is not in this list, but an alias.
const OPTIONS: [(&[&str], &str); 13] = [
    (
        &["--all", "-a", "--multi-arch", "--all-tags"],
        "--platform all takes all platforms of an index",
    ),
    (
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
    (
        &[
            "--username",
            "--user",
            "-u",
            "--password",
            "-p",
            "--password-stdin",
            "--identity-token-stdin",
        ],
        "--creds-file FILE or --creds - reads USER:PASS",
    ),
    (
        &[
            "--registry-token",
            "--src-registry-token",
            "--identity-token",
        ],
        "--registry-token-file FILE reads a token",
    ),
    (
        &["--registry-config", "--config", "--auth-file"],
        "--authfile FILE names an auth file",
    ),
    (
        &["--ca-file", "--cafile"],
        "--cert-dir DIR names a folder with certificates",
    ),
    (
        &[
            "--concurrency",
            "--jobs",
            "-j",
            "--image-parallel-copies",
            "--max-parallel-downloads",
        ],
        "--workers N sets how many blobs are in flight",
    ),
    (
        &["--command-timeout", "--timeout"],
        "--deadline DURATION limits the time of everything",
    ),
    (&["--debug", "-d"], "--verbose shows debug messages"),
    (
        &["--output", "-o"],
        "the destination is the last argument: oci:DIR[:TAG]",
    ),
    (
        &["--format", "-f", "--preserve-digests"],
        "images are stored as their source has them",
    ),
    (
        &["--remove-signatures", "--sign-by", "--digestfile"],
        "there is no such option; skopeo copy has it, and reads the layout as oci:DIR:TAG",
    ),
    (
        &["--tmpdir"],
        "there is no such option; skopeo unpacks archives in /var/tmp",
    ),
];

/// Commands of other tools, each with what to use instead.
const COMMANDS: [(&[&str], &str); 9] = [
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
        &["gc", "clean"],
        "longshore prune oci:DIR removes what no image needs",
    ),
    (
        &["push", "delete", "rm", "rmi"],
        "longshore only pulls; skopeo copy and skopeo delete change a registry",
    ),
    (
        &["login", "logout", "auth"],
        "skopeo login writes the auth files that longshore reads",
    ),
];

const ADVICE_ON_DESTINATIONS: &str = "the destination is on this machine, and needs no such option";

/// Replaces clap's suggestions about an unknown option or command by ours, if another tool has one of this name.
pub(in crate::cli) fn with_advice(mut error: clap::Error) -> clap::Error {
    let (given, suggested) = match error.kind() {
        ErrorKind::UnknownArgument => (ContextKind::InvalidArg, ContextKind::SuggestedArg),
        ErrorKind::InvalidSubcommand => (
            ContextKind::InvalidSubcommand,
            ContextKind::SuggestedSubcommand,
        ),
        _ => return error,
    };
    let Some(ContextValue::String(name)) = error.get(given) else {
        return error;
    };
    let advice = if given == ContextKind::InvalidArg {
        advice_on(name.split('=').next().unwrap_or_default())
    } else {
        let known = COMMANDS.iter().find(|(names, _)| names.contains(&&**name));
        known.map(|(_, advice)| *advice)
    };
    // No image or destination begins with a dash, so clap's tip to write `--` before it is wrong.
    error.remove(ContextKind::Suggested);
    if let Some(advice) = advice {
        error.remove(suggested);
        error.remove(ContextKind::Usage);
        let advice = ContextValue::StyledStrs(vec![StyledStr::from(advice)]);
        error.insert(ContextKind::Suggested, advice);
    }
    error
}

fn advice_on(option: &str) -> Option<&'static str> {
    if option.starts_with("--dest-") {
        return Some(ADVICE_ON_DESTINATIONS);
    }
    let known = OPTIONS.iter().find(|(names, _)| names.contains(&option));
    known.map(|(_, advice)| *advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Arguments;
    use clap::{CommandFactory, Parser};

    fn error(option: &str) -> String {
        let arguments = ["longshore", "pull", option, "docker://a/b", "oci:x"];
        let error = Arguments::try_parse_from(arguments).expect_err(option);
        with_advice(error).to_string()
    }

    #[test]
    fn an_option_of_another_tool_gets_advice() {
        for (names, advice) in OPTIONS {
            for name in names {
                let message = error(name);
                assert!(message.contains(advice), "{name}: {message}");
                assert!(!message.contains("a similar argument"), "{name}: {message}");
            }
        }
        assert!(error("--dest-creds=a:b").contains(ADVICE_ON_DESTINATIONS));
        let message = error("--override-arch=arm64");
        assert!(message.contains("--platform"), "{message}");
        let message = error("--retrie");
        assert!(message.contains("--retries"), "{message}");
        assert!(!error("--frobnicate").contains("as a value"), "{message}");
    }

    #[test]
    fn a_command_of_another_tool_gets_advice() {
        for (names, advice) in COMMANDS {
            for name in names {
                let error = Arguments::try_parse_from(["longshore", name, "x"]).expect_err(name);
                let message = with_advice(error).to_string();
                assert!(message.contains(advice), "{name}: {message}");
                assert!(!message.contains("similar"), "{name}: {message}");
            }
        }
        let error = Arguments::try_parse_from(["longshore", "inspekt"]).expect_err("a typo");
        let message = with_advice(error).to_string();
        assert!(message.contains("'inspect'"), "{message}");
    }

    #[test]
    fn the_advice_names_only_options_that_exist() {
        let mut command = Arguments::command();
        let pull = command.find_subcommand_mut("pull").expect("a subcommand");
        let help = pull.render_long_help().to_string() + "--verbose";
        for (_, advice) in OPTIONS {
            for word in advice.split(' ').filter(|word| word.starts_with("--")) {
                assert!(help.contains(word), "{word}");
            }
        }
    }
}
