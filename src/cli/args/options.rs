//! The options of a command, as the parser defines them.

use clap::{Arg, Command};

/// Whether an option of this name, such as `--json`, is one of the command's, perhaps by an alias.
pub(super) fn has_option(command: &Command, name: &str) -> bool {
    option(command, name).is_some()
}

/// Whether the next word is the value of this option, which can't be without a value. In a word with several short
/// options, such as `-qv`, only the last one can have a value.
pub(super) fn value_is_next_word(command: &Command, word: &str) -> bool {
    let last = word.chars().last().map(|last| format!("-{last}"));
    let name = match word.strip_prefix('-') {
        Some(rest) if !rest.starts_with('-') => last.as_deref().unwrap_or_default(),
        _ => word,
    };
    let takes_word = |arg: &Arg| {
        let fewest = arg.get_num_args().map_or(0, |range| range.min_values());
        arg.get_action().takes_values() && fewest > 0 && !arg.is_require_equals_set()
    };
    // `--name=value` contains its value. No option is called `name=value`, so none is found.
    option(command, name).is_some_and(takes_word)
}

/// Whether the value of this option follows an equals sign, and never is the next word.
pub(super) fn is_set_by_equals_sign(command: &Command, name: &str) -> bool {
    option(command, name).is_some_and(Arg::is_require_equals_set)
}

/// The names of the options that the help shows, without their dashes.
pub(super) fn shown_options(command: &Command) -> impl Iterator<Item = &str> {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    shown.filter_map(Arg::get_long)
}

/// The option of this name, such as `--json` or `-q`.
fn option<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    let long = name.strip_prefix("--");
    command.get_arguments().find(|arg| match long {
        Some(long) => {
            let aliases = arg.get_all_aliases().unwrap_or_default();
            arg.get_long() == Some(long) || aliases.contains(&long)
        }
        None => arg
            .get_short()
            .is_some_and(|short| name == format!("-{short}")),
    })
}
