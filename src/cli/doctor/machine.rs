//! The limits of this process, and the folders that skopeo uses.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{AccessFlags, access};
use serde::Serialize;

use super::settings::shown;

/// The folders that the environment names, each by its variable.
const FOLDERS: [&str; 5] = [
    "HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "TMPDIR",
];

#[derive(Debug, Serialize)]
pub(super) struct Machine {
    pub(super) limits: Limits,
    pub(super) folders: Vec<Folder>,
}

/// `None` for a limit that could not be read.
#[derive(Debug, Serialize)]
pub(super) struct Limits {
    /// The maximum number of open files of this process.
    pub(super) open_files: Option<u64>,
    /// The maximum to which the process can raise that number.
    pub(super) open_files_hard: Option<u64>,
    /// The maximum size of a pipe of an ordinary user, in bytes.
    pub(super) pipe_max_size: Option<u64>,
    /// The number of pages that the pipes of an ordinary user may have before new ones are small; 0 means no limit.
    pub(super) pipe_user_pages_soft: Option<u64>,
    /// The number of pages that the pipes of an ordinary user may have; 0 means no limit.
    pub(super) pipe_user_pages_hard: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Folder {
    pub(super) variable: &'static str,
    /// `None` if the variable is not set.
    pub(super) path: Option<String>,
    pub(super) exists: bool,
    pub(super) is_writable: bool,
}

impl Machine {
    /// Reads limits and looks at folders. Blocks.
    pub(super) fn now() -> Self {
        let (open_files, open_files_hard) = getrlimit(Resource::RLIMIT_NOFILE).ok().unzip();
        Self {
            limits: Limits {
                open_files,
                open_files_hard,
                pipe_max_size: number("/proc/sys/fs/pipe-max-size"),
                pipe_user_pages_soft: number("/proc/sys/fs/pipe-user-pages-soft"),
                pipe_user_pages_hard: number("/proc/sys/fs/pipe-user-pages-hard"),
            },
            folders: FOLDERS.map(folder).into(),
        }
    }
}

fn number(file: &str) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn folder(variable: &'static str) -> Folder {
    let path = env::var_os(variable)
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    let does = |flags| {
        let path = path.as_deref();
        path.is_some_and(|path: &Path| path.is_dir() && access(path, flags).is_ok())
    };
    Folder {
        variable,
        exists: does(AccessFlags::F_OK),
        is_writable: does(AccessFlags::W_OK | AccessFlags::X_OK),
        path: path.as_deref().map(shown),
    }
}
