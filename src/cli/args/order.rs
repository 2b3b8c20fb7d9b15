//! Moves the options of `pull` in front of its images and their destination.
//!
//! There can be any number of images, so clap treats the word before an option as the destination. If all options are
//! in front, the destination is the last word.

use std::ffi::OsString;

use clap::Command;

use super::options::value_is_next_word;

/// Returns the words of a command line in an order that clap understands. Only those of `pull` are moved.
pub(super) fn options_first(words: Vec<OsString>, command: &mut Command) -> Vec<OsString> {
    command.build();
    let Some(subcommand) = subcommand_at(&words) else {
        return words;
    };
    let Some(pull) = command.find_subcommand("pull") else {
        return words;
    };
    if words[subcommand] != "pull" {
        return words;
    }
    let mut words = words.into_iter();
    let mut ordered: Vec<OsString> = words.by_ref().take(subcommand + 1).collect();
    let mut others = Vec::new();
    while let Some(word) = words.next() {
        if word == "--" {
            others.push(word);
            break;
        }
        if !is_option(&word) || word == "-" {
            others.push(word);
            continue;
        }
        let has_value = word
            .to_str()
            .is_some_and(|word| value_is_next_word(pull, word));
        ordered.push(word);
        if has_value {
            // The value of the last option is missing. In front of the images, the option would take one of them as its
            // value, so they are left out: the parser reports the option.
            let Some(value) = words.next() else {
                return ordered;
            };
            ordered.push(value);
        }
    }
    ordered.extend(others);
    ordered.extend(words);
    ordered
}

/// The place of the command's name in a command line: the first word that is no option.
pub(super) fn subcommand_at(words: &[OsString]) -> Option<usize> {
    let found = words.iter().skip(1).position(|word| !is_option(word));
    found.map(|at| at + 1)
}

/// The words after a command's name without options and their values.
pub(super) fn without_options<'a>(
    words: &[&'a str],
    command: &Command,
) -> impl Iterator<Item = &'a str> {
    let mut words = words.iter();
    std::iter::from_fn(move || {
        loop {
            let word = words.next()?;
            if *word == "-" || !word.starts_with('-') {
                return Some(*word);
            }
            if value_is_next_word(command, word) {
                words.next();
            }
        }
    })
}

fn is_option(word: &OsString) -> bool {
    word.as_encoded_bytes().starts_with(b"-")
}

#[cfg(test)]
mod tests {
    use clap::{Arg, CommandFactory};

    use super::*;
    use crate::cli::args::Arguments;

    #[test]
    fn options_may_be_anywhere() {
        let table = [
            ("x pull a b", "x pull a b"),
            ("x pull a --json b", "x pull --json a b"),
            ("x -v pull a --retries 3 b", "x -v pull --retries 3 a b"),
            ("x pull a --retries=3 b -v", "x pull --retries=3 -v a b"),
            ("x pull a --retry-times 3 b", "x pull --retry-times 3 a b"),
            (
                "x pull a --tls-verify false b",
                "x pull --tls-verify a false b",
            ),
            ("x pull --from - b", "x pull --from - b"),
            ("x pull a --frobnicate b", "x pull --frobnicate a b"),
            ("x pull a -q -- -b --json", "x pull -q a -- -b --json"),
            ("x pull a b --retries", "x pull --retries"),
            ("x pull a -v b --events", "x pull -v --events"),
            ("x pull a b --json", "x pull --json a b"),
            ("x pull a b --tls-verify", "x pull --tls-verify a b"),
            ("x inspect a --json", "x inspect a --json"),
            ("x", "x"),
            ("x --version", "x --version"),
        ];
        for (given, expected) in table {
            let words = given.split(' ').map(OsString::from).collect();
            let ordered = options_first(words, &mut Arguments::command());
            let ordered: Vec<&str> = ordered.iter().filter_map(|word| word.to_str()).collect();
            assert_eq!(ordered.join(" "), expected, "{given}");
        }
    }

    #[test]
    fn a_last_option_without_its_value_takes_no_image_as_its_value() {
        let mut command = Arguments::command();
        command.build();
        let pull = command.find_subcommand("pull").expect("a command");
        let mut count = 0;
        for option in pull.get_arguments().filter_map(Arg::get_long) {
            let option = format!("--{option}");
            if !value_is_next_word(pull, &option) {
                continue;
            }
            let line = [
                "x",
                "pull",
                "docker://a/b",
                "docker://a/c",
                "oci:d",
                &option,
            ];
            let words = line.map(OsString::from).to_vec();
            let words = options_first(words, &mut Arguments::command());
            let error = Arguments::command().try_get_matches_from(words);
            let error = error.expect_err(&option).to_string();
            assert!(error.contains("a value is required for"), "{error}");
            assert!(error.contains(&option), "{error}");
            count += 1;
        }
        assert!(count > 15, "{count}");
    }
}
