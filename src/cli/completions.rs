//! The command `longshore completions`.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::args::Arguments;
use super::failure::Failure;
use super::say::print_document;

pub(crate) async fn run(shell: Shell) -> Result<(), Failure> {
    let mut command = Arguments::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    generate(shell, &mut command, name, &mut script);
    print_document(script).await
}
