//! The command `longshore man`: the manual, made from the definition of the command line.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use roff::{Roff, roman};
use tempfile::Builder;

use super::args::{Arguments, ENVIRONMENT, EXIT_CODES};
use super::failure::Failure;
use super::say::print_document;

/// A page of the manual, in roff.
#[derive(Debug)]
struct Page {
    /// The name of its file, such as `longshore-pull.1`.
    name: String,
    text: Vec<u8>,
}

/// Prints the page of the command itself, or writes all pages into an existing folder.
pub(crate) async fn run(folder: Option<PathBuf>) -> Result<(), Failure> {
    let (main, others) = pages().map_err(anyhow::Error::from)?;
    let Some(folder) = folder else {
        return print_document(main.text).await;
    };
    let writing = tokio::task::spawn_blocking(move || {
        check_folder(&folder)?;
        for page in others.iter().chain([&main]) {
            let path = folder.join(&page.name);
            let written = write(page, &folder, &path);
            written.with_context(|| format!("can't write {}", path.display()))?;
        }
        Ok(())
    });
    writing.await.map_err(anyhow::Error::from)?
}

/// The page of the command itself, and those of its commands.
fn pages() -> io::Result<(Page, Vec<Page>)> {
    let mut command = Arguments::command()
        .disable_help_subcommand(true)
        .subcommand_help_heading("COMMANDS")
        .subcommand_value_name("command");
    command.build();
    let more = [("ENVIRONMENT", ENVIRONMENT), ("EXIT STATUS", EXIT_CODES)];
    let main = page(&command, &more)?;
    let others = command.get_subcommands().map(|command| page(command, &[]));
    Ok((main, others.collect::<io::Result<_>>()?))
}

/// Makes a page, with more sections at its end.
fn page(command: &Command, more: &[(&str, &str)]) -> io::Result<Page> {
    let name = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name());
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .source(concat!("longshore ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    let mut roff = Roff::new();
    if let Some(examples) = command.get_after_help() {
        let examples = examples.to_string();
        let lines = examples.strip_prefix("Examples:\n").unwrap_or(&examples);
        section(&mut roff, "EXAMPLES", lines);
    }
    for (heading, lines) in more {
        section(&mut roff, heading, lines);
    }
    roff.to_writer(&mut text)?;
    let name = man.get_filename();
    Ok(Page { name, text })
}

/// Adds a section whose lines are shown as they are.
fn section(roff: &mut Roff, heading: &str, lines: &str) {
    roff.control("SH", [heading]).control("nf", []);
    for line in lines.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
}

fn check_folder(folder: &Path) -> Result<(), Failure> {
    let cant = |reason: &dyn std::fmt::Display| {
        Failure::usage(format!("can't write into {}: {reason}", folder.display()))
    };
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(cant(&"it is no folder")),
        Err(error) if error.kind() == io::ErrorKind::NotFound && is_command(folder) => {
            let name = folder.display();
            Err(cant(&format!(
                "there is no such folder; longshore {name} --help says all about {name}"
            )))
        }
        Err(error) => Err(cant(&error)),
    }
}

/// Whether a path is the name of one of longshore's commands.
fn is_command(path: &Path) -> bool {
    Arguments::command().find_subcommand(path).is_some()
}

/// Writes a page into a file, which gets its name when it is complete.
fn write(page: &Page, folder: &Path, path: &Path) -> io::Result<()> {
    let mut file = Builder::new()
        .prefix(".longshore-man-")
        // A new file has these permissions. The umask is applied to them.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)?;
    file.write_all(&page.text)?;
    file.persist(path)?;
    Ok(())
}
