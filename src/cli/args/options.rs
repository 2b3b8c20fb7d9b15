//! The options of a command, as the parser defines them.

use clap::{Arg, Command};

/// Whether an option of this name, such as `--json`, is one of the command's, perhaps by an alias.
pub(super) fn has_option(command: &Command, name: &str) -> bool {
    let found = name.strip_prefix("--");
    command.get_arguments().any(|arg| match found {
        Some(name) => {
            arg.get_long() == Some(name)
                || arg.get_all_aliases().is_some_and(|all| all.contains(&name))
        }
        None => arg
            .get_short()
            .is_some_and(|short| name == format!("-{short}")),
    })
}

/// The names of the options that the help shows, without their dashes.
pub(super) fn shown_options(command: &Command) -> impl Iterator<Item = &str> {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    shown.filter_map(Arg::get_long)
}
