//! Helpers of the fuzz targets: an image whose parts are all made up, the program that serves it, and checks
//! of a folder.

#![allow(clippy::expect_used, reason = "what fails here is a test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use longshore::{
    FetchOptions, Fetcher, ImageProxyConfig, OciLayout, PruneOptions, Pruned, Pulled, RetryPolicy,
    VerifyOptions,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// More time than any case needs that does not hang.
pub const BOUND: Duration = Duration::from_secs(30);

/// How long each target runs by itself in the ordinary tests.
pub const TARGET_DURATION: Duration = Duration::from_secs(3);

/// The sha256 digest as text.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let start = String::from("sha256:");
    let hash = Sha256::digest(bytes);
    hash.iter()
        .fold(start, |text, byte| format!("{text}{byte:02x}"))
}

/// A folder with the served files (`served`), a layout to pull into, and files that the pull must not touch.
#[derive(Debug)]
pub struct Workspace {
    folder: TempDir,
    program: PathBuf,
}

impl Workspace {
    /// Makes an empty workspace. `program` is the path of the program `files-as-skopeo`.
    ///
    /// # Panics
    ///
    /// If the workspace can't be created.
    #[must_use]
    pub fn new(program: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("served")).expect("a folder");
        let program = program.into();
        Self { folder, program }
    }

    /// The folder of the layout, which need not exist.
    #[must_use]
    pub fn layout(&self) -> PathBuf {
        self.folder.path().join("layout")
    }

    /// The folder beside the layout.
    #[must_use]
    pub fn outside(&self) -> PathBuf {
        self.folder.path().join("outside")
    }

    /// The names of everything beside the layout and the served files.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let entries = tree(self.folder.path());
        let top = entries.keys().filter(|name| !name.contains('/'));
        top.cloned().collect()
    }

    /// Serves these bytes under this name.
    ///
    /// # Panics
    ///
    /// If the file can't be written.
    pub fn serve(&self, name: &str, bytes: &[u8]) {
        fs::write(self.folder.path().join("served").join(name), bytes).expect("written");
    }

    /// Pulls what is served under this reference.
    ///
    /// # Errors
    ///
    /// The errors of the pull.
    ///
    /// # Panics
    ///
    /// If the pull hangs, or the runtime can't be made.
    pub fn pull(&self, reference: &str, index: bool) -> longshore::Result<Pulled> {
        let mut command = Command::new(&self.program);
        command.env("FILES_AS_SKOPEO", self.folder.path().join("served"));
        let config = ImageProxyConfig::default().skopeo_cmd(command);
        let options = FetchOptions::default().retry(RetryPolicy::default().retries(0));
        let layout = Arc::new(OciLayout::new(self.layout(), Some("new".into())));
        let pull = async {
            let fetcher = Fetcher::new(config, options).await?;
            if index {
                let index = fetcher.open_index(reference).await?;
                fetcher.pull_index(&index, layout.clone()).await
            } else {
                let image = fetcher.open(reference).await?;
                fetcher.pull(&image, layout.clone()).await
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().expect("a runtime");
        runtime
            .block_on(async { tokio::time::timeout(BOUND, pull).await })
            .expect("it hangs")
    }
}

/// Verifies a layout, removes what is damaged, and prunes it.
///
/// # Errors
///
/// The first error of these.
///
/// # Panics
///
/// If one of them hangs, or the runtime can't be made.
pub fn maintain(layout: &Path) -> longshore::Result<Pruned> {
    let layout = OciLayout::new(layout, None);
    let work = async {
        let options = VerifyOptions::default().unnamed(true).diff_ids(true);
        let verified = layout.verify(&options).await?;
        layout.remove_damaged(&verified, Duration::ZERO).await?;
        layout.prune(&PruneOptions::default()).await
    };
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().expect("a runtime");
    runtime
        .block_on(async { tokio::time::timeout(BOUND, work).await })
        .expect("it hangs")
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeEntry {
    /// A file with its content.
    File(Vec<u8>),
    /// A symbolic link with its target.
    Link(PathBuf),
    /// A folder.
    Folder,
    /// A named pipe or another special file.
    Other,
}

/// All entries of a folder, by path.
#[must_use]
pub fn tree(folder: &Path) -> BTreeMap<String, TreeEntry> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            let path = entry.path();
            let kind = entry.file_type();
            let entry = match kind {
                Ok(kind) if kind.is_symlink() => {
                    TreeEntry::Link(fs::read_link(&path).unwrap_or_default())
                }
                Ok(kind) if kind.is_dir() => {
                    folders.push(path.clone());
                    TreeEntry::Folder
                }
                Ok(kind) if kind.is_file() => TreeEntry::File(fs::read(&path).unwrap_or_default()),
                _ => TreeEntry::Other,
            };
            let name = path.strip_prefix(folder).unwrap_or(&path);
            found.insert(name.display().to_string(), entry);
        }
    }
    found
}
