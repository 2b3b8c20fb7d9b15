//! Mistakes in a command line that the parser would accept, or would describe as other mistakes.

use std::ffi::OsString;

use clap::Command;

use super::options::{is_set_by_equals_sign, value_is_next_word};
use super::order;
use super::reference::{example_of_pull, transport_of};

/// Returns a message if the command line has such a mistake.
pub(super) fn find(words: &[OsString], command: &mut Command) -> Option<String> {
    command.build();
    let at = order::subcommand_at(words)?;
    let subcommand = command.find_subcommand(&words[at])?;
    let words = words[at + 1..]
        .iter()
        .map(|word| word.to_str().unwrap_or_default());
    let words: Vec<&str> = words.take_while(|word| *word != "--").collect();
    let options = words.windows(2).find_map(|pair| {
        let [option, next] = pair else { return None };
        separate_bool(option, next, subcommand).or_else(|| image_as_value(option, next, subcommand))
    });
    options.or_else(|| lonely_word(&words, subcommand))
}

/// The mistake in `--tls-verify false`.
fn separate_bool(option: &str, next: &str, command: &Command) -> Option<String> {
    let is_wrong = matches!(next, "true" | "false") && is_set_by_equals_sign(command, option);
    is_wrong.then(|| format!("the value of {option} follows an equals sign: {option}={next}"))
}

/// The mistake in `--events docker://a/b oci:x`: the value of the option is missing.
fn image_as_value(option: &str, next: &str, command: &Command) -> Option<String> {
    let transport = transport_of(next)?;
    // A user can be called "oci".
    let can_be_value = transport != "docker" && option.ends_with("creds");
    let is_wrong = !can_be_value && value_is_next_word(command, option);
    is_wrong.then(|| {
        format!("a value is required for {option}, and {next} follows it, which is an image or a destination")
    })
}

/// The mistake in `pull alpine`.
fn lonely_word(words: &[&str], command: &Command) -> Option<String> {
    let has_list = words
        .iter()
        .any(|word| *word == "--from" || word.starts_with("--from="));
    if command.get_name() != "pull" || has_list || has_option_of_help(words) {
        return None;
    }
    let mut others = order::without_options(words, command);
    let (Some(only), None) = (others.next(), others.next()) else {
        return None;
    };
    let example = example_of_pull(only)?;
    Some(format!(
        "the image or the destination is missing; an image is pulled by {example}"
    ))
}

fn has_option_of_help(words: &[&str]) -> bool {
    words.iter().any(|word| matches!(*word, "-h" | "--help"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Arguments;
    use clap::CommandFactory;

    #[test]
    fn mistakes() {
        let table = [
            (
                "pull --tls-verify false docker://a/b oci:x",
                Some("--tls-verify=false"),
            ),
            (
                "export docker://a/b x.tar --tls-verify true",
                Some("--tls-verify=true"),
            ),
            (
                "inspect --src-tls-verify false x",
                Some("--src-tls-verify=false"),
            ),
            (
                "pull docker://a/b --events oci:x",
                Some("a value is required for --events"),
            ),
            (
                "pull docker://a/b --creds docker://a/c oci:x",
                Some("required for --creds"),
            ),
            (
                "inspect --authfile docker://a/b",
                Some("required for --authfile"),
            ),
            ("pull docker://a/b --creds oci:x oci:y", None),
            ("pull docker://a/b oci:x --events=oci:x", None),
            ("pull docker://a/b --json oci:x", None),
            ("export -- --tls-verify false", None),
            (
                "pull alpine",
                Some("pulled by longshore pull docker://alpine oci:alpine"),
            ),
            (
                "pull alpine:3 -q",
                Some("longshore pull docker://alpine:3 oci:alpine:3"),
            ),
            (
                "pull quay.io/a/b",
                Some("longshore pull docker://quay.io/a/b oci:b"),
            ),
            (
                "pull docker://quay.io/a/b:v1",
                Some("docker://quay.io/a/b:v1 oci:b:v1"),
            ),
            ("pull ./alpine", None),
            ("pull x.tar", None),
            ("pull oci:x", None),
            ("pull --from list alpine", None),
            ("pull --from=list alpine", None),
            ("pull alpine oci:x", None),
            ("pull alpine --help", None),
            ("inspect alpine", None),
            ("--version", None),
        ];
        for (line, expected) in table {
            let words = format!("longshore {line}");
            let words: Vec<OsString> = words.split(' ').map(OsString::from).collect();
            let found = find(&words, &mut Arguments::command());
            assert_eq!(found.is_some(), expected.is_some(), "{line}: {found:?}");
            let found = found.unwrap_or_default();
            assert!(
                found.contains(expected.unwrap_or_default()),
                "{line}: {found}"
            );
        }
    }
}
