//! Tips about a command line that the parser refuses.

use std::ffi::OsString;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory};

use super::Arguments;
use super::options::{has_option, is_set_by_equals_sign, shown_options};
use super::other_tools::{COMMANDS, advice_on};
use super::similar::similar;

/// Replaces clap's suggestions by ours. clap suggests names that are merely similar, also hidden ones and opposites.
/// `words` are the words of the command line.
pub(in crate::cli) fn with_tips(mut error: clap::Error, words: &[OsString]) -> clap::Error {
    let mut command = Arguments::command();
    command.build();
    match error.kind() {
        ErrorKind::UnknownArgument => about_option(&mut error, words, &command),
        ErrorKind::InvalidSubcommand => about_command(&mut error, &command),
        ErrorKind::InvalidValue => about_value(&mut error),
        ErrorKind::TooManyValues => {
            if let Some(option) = context(&error, ContextKind::InvalidArg) {
                tip(
                    &mut error,
                    format!("{option} takes no value: give it as {option}, or leave it out"),
                );
            }
        }
        _ => {}
    }
    error
}

fn context(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    }
}

/// Shows this tip, and not the usage, which clap makes for another option.
fn tip(error: &mut clap::Error, text: impl Into<String>) {
    error.remove(ContextKind::Usage);
    let tips = vec![StyledStr::from(text.into())];
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
}

fn about_option(error: &mut clap::Error, words: &[OsString], command: &Command) {
    // No image or destination begins with a dash, so clap's tip to write `--` before it is wrong.
    error.remove(ContextKind::Suggested);
    error.remove(ContextKind::SuggestedArg);
    let Some(name) = context(error, ContextKind::InvalidArg) else {
        return;
    };
    let name = name.split('=').next().unwrap_or_default();
    let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    let given = words.iter().position(|word| is_option(word, name));
    let found = words.iter().enumerate().skip(1).find_map(|(at, word)| {
        let subcommand = command.find_subcommand(word)?;
        Some((at, subcommand))
    });
    let (at, subcommand) = found.unwrap_or((0, command));
    let is_before = given.is_some_and(|given| given < at);
    if is_before {
        let command = subcommand.get_name();
        if has_option(subcommand, name) {
            // Without its value, `--tls-verify=false` would mean the opposite. No other value is repeated.
            let option = match given {
                Some(given) if is_set_by_equals_sign(subcommand, name) => words[given],
                _ => name,
            };
            let text = format!("{name} belongs after the command: longshore {command} {option}");
            tip(error, text);
        } else if let Some(advice) = advice_on(name, subcommand) {
            tip(
                error,
                format!("{advice}; options follow the command {command}"),
            );
        }
        return;
    }
    let word = given.map_or(name, |given| words[given]);
    if let Some(text) = mistyped(word, name, subcommand) {
        tip(error, text);
    } else if let Some(advice) = advice_on(name, subcommand) {
        tip(error, advice);
    } else if let Some(text) = of_others(name, subcommand, command) {
        tip(error, text);
    } else if let Some(near) = name.strip_prefix("--") {
        let near = similar(near, shown_options(subcommand));
        if let Some(near) = near {
            error.remove(ContextKind::Usage);
            let near = ContextValue::String(format!("--{near}"));
            error.insert(ContextKind::SuggestedArg, near);
        }
    }
}

/// Whether this word contains the option.
fn is_option(word: &str, name: &str) -> bool {
    if name.starts_with("--") {
        return word.split('=').next() == Some(name);
    }
    let letter = name.trim_start_matches('-');
    word.starts_with('-') && !word.starts_with("--") && word.contains(letter)
}

/// The tip for `-platform` or `-1`. `word` contains the option `name`.
fn mistyped(word: &str, name: &str, command: &Command) -> Option<String> {
    if name.starts_with("--") {
        return None;
    }
    let of_word = word.split('=').next().unwrap_or_default();
    if has_option(command, &format!("-{of_word}")) {
        return Some(format!("did you mean -{of_word}, with two dashes?"));
    }
    let is_number = name
        .trim_start_matches('-')
        .starts_with(|c: char| c.is_ascii_digit());
    is_number.then(|| "numbers, times and rates here are never negative".to_owned())
}

/// The tip for an option that only other commands have.
fn of_others(name: &str, subcommand: &Command, command: &Command) -> Option<String> {
    if !name.starts_with("--") || subcommand.get_name() == command.get_name() {
        return None;
    }
    let having = command.get_subcommands().filter(|of| has_option(of, name));
    let having: Vec<&str> = having.map(Command::get_name).collect();
    let (last, others) = having.split_last()?;
    let having = match others {
        [] => format!("longshore {last} has it"),
        _ => format!("longshore {} and {last} have it", others.join(", ")),
    };
    Some(format!(
        "{} has no such option; {having}",
        subcommand.get_name()
    ))
}

fn about_command(error: &mut clap::Error, command: &Command) {
    error.remove(ContextKind::Suggested);
    error.remove(ContextKind::SuggestedSubcommand);
    let Some(name) = context(error, ContextKind::InvalidSubcommand) else {
        return;
    };
    if let Some((_, advice)) = COMMANDS.iter().find(|(names, _)| names.contains(&&*name)) {
        tip(error, *advice);
    } else if let Some(near) = similar(&name, command.get_subcommands().map(Command::get_name)) {
        let near = ContextValue::Strings(vec![near.to_owned()]);
        error.insert(ContextKind::SuggestedSubcommand, near);
    }
}

fn about_value(error: &mut clap::Error) {
    let given = context(error, ContextKind::InvalidValue).unwrap_or_default();
    let suggested = context(error, ContextKind::SuggestedValue);
    if suggested.is_some_and(|suggested| similar(&given, [&*suggested]).is_none()) {
        error.remove(ContextKind::SuggestedValue);
    }
}

#[cfg(test)]
mod tests {
    use super::super::other_tools::OPTIONS;
    use super::*;
    use clap::Parser;

    fn refusal(line: &str) -> String {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let error = Arguments::try_parse_from(&words).expect_err(line);
        with_tips(error, &words).to_string()
    }

    #[test]
    fn an_option_of_another_tool_gets_advice_that_the_command_can_follow() {
        let mut command = Arguments::command();
        command.build();
        let mut count = 0;
        for command in command
            .get_subcommands()
            .filter(|of| of.get_name() != "help")
        {
            for (at, known) in OPTIONS.iter().enumerate() {
                if !known.is_for(command) {
                    continue;
                }
                for name in known.names {
                    let mut earlier = OPTIONS[..at].iter();
                    if has_option(command, name)
                        || earlier.any(|of| of.names.contains(name) && of.is_for(command))
                    {
                        continue;
                    }
                    let message = refusal(&format!("x {} {name} docker://a/b", command.get_name()));
                    assert!(message.contains(known.text), "{name}: {message}");
                    assert!(!message.contains("a similar argument"), "{name}: {message}");
                    count += 1;
                }
            }
        }
        assert!(count > 150, "{count}");
    }

    #[test]
    fn a_wrong_option_gets_a_tip_if_there_is_one_that_is_right() {
        let table = [
            (
                "pull --dest-creds=a:b x",
                "tip: the destination is on this machine",
            ),
            ("pull --override-arch=arm64 x", "tip: --platform OS/ARCH"),
            (
                "pull --retrie 3 x",
                "a similar argument exists: '--retries'",
            ),
            (
                "pull -platform linux/amd64",
                "tip: did you mean --platform, with two dashes?",
            ),
            (
                "pull -platform=linux/amd64",
                "tip: did you mean --platform, with two dashes?",
            ),
            (
                "pull --workers -1 x",
                "tip: numbers, times and rates here are never negative",
            ),
            (
                "pull --deadline -1s x",
                "tip: numbers, times and rates here are never negative",
            ),
            (
                "pull --json=true x",
                "tip: --json takes no value: give it as --json",
            ),
            (
                "inspect --quiet x",
                "tip: inspect has no such option; longshore pull has it",
            ),
            (
                "list-tags --insecure-policy x",
                "tip: list-tags opens no image",
            ),
            (
                "verify --tls-verify=false x",
                "longshore pull, inspect, digest, blob, ",
            ),
            (
                "digest --format json x",
                "tip: digest prints nothing but the digest",
            ),
            (
                "inspect --format json x",
                "tip: --json prints one JSON object",
            ),
            (
                "export -o x.tar x",
                "tip: the archive is the last argument: FILE",
            ),
            ("pull -f list", "tip: --from FILE takes a list of images"),
            (
                "--insecure-policy pull x",
                "after the command: longshore pull --insecure-policy",
            ),
            (
                "--tls-verify=false pull x",
                "after the command: longshore pull --tls-verify=false\n",
            ),
            (
                "--creds=me:pw pull x",
                "after the command: longshore pull --creds\n",
            ),
            (
                "--authfile a pull x",
                "after the command: longshore pull --authfile",
            ),
            (
                "--override-arch a inspect x",
                "a platform; options follow the command inspect",
            ),
            ("completions --shell bash", "tip: the shell is the argument"),
        ];
        for (line, expected) in table {
            let message = refusal(&format!("longshore {line}"));
            assert!(message.contains(expected), "{line}: {message}");
            assert!(!message.contains("Usage"), "{line}: {message}");
        }
    }

    #[test]
    fn no_tip_is_better_than_a_wrong_one() {
        for line in [
            "pull --frobnicate x",
            "pull --signature-polic x",
            "pull --no-clobber x",
            "pull --ignore-policy x",
            "pull --disable-tls-verify x",
            "pull --src-tls-verif x",
            "prune -a oci:x",
            "prune -f oci:x",
            "verify -o x oci:x",
            "completions tcsh",
            "--json",
        ] {
            let message = refusal(&format!("longshore {line}"));
            assert!(!message.contains("tip:"), "{line}: {message}");
        }
    }

    #[test]
    fn a_command_of_another_tool_gets_advice() {
        for (names, advice) in COMMANDS {
            for name in names {
                let message = refusal(&format!("longshore {name} x"));
                assert!(message.contains(advice), "{name}: {message}");
                assert!(!message.contains("similar"), "{name}: {message}");
            }
        }
        let table = [
            ("inspekt", Some("'inspect'")),
            ("help pul", Some("'pull'")),
            ("import", None),
            ("run", None),
        ];
        for (line, expected) in table {
            let message = refusal(&format!("longshore {line}"));
            match expected {
                Some(name) => assert!(message.contains(name), "{line}: {message}"),
                None => assert!(!message.contains("tip:"), "{line}: {message}"),
            }
        }
    }
}
