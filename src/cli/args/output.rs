//! The destination of a blob or an archive: a file or stdout.

use std::path::{Path, PathBuf};

use super::destination::folder_of;

/// The destination of a blob or an archive.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Output<'a> {
    /// Stdout, also if that is a terminal.
    Stdout,
    /// Stdout, unless that is a terminal.
    StdoutUnlessTerminal,
    File(&'a Path),
}

impl<'a> Output<'a> {
    /// Returns the destination that the argument names. `-` is stdout.
    pub(super) fn of(path: Option<&'a Path>) -> Self {
        match path {
            None => Self::StdoutUnlessTerminal,
            Some(path) if path == Path::new("-") => Self::Stdout,
            Some(path) => Self::File(path),
        }
    }

    /// The folder of the file to write. `None` for stdout.
    pub(crate) fn folder(self) -> Option<PathBuf> {
        match self {
            Self::File(path) => Some(folder_of(path)),
            Self::Stdout | Self::StdoutUnlessTerminal => None,
        }
    }
}
