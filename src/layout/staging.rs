//! Where files lie until they are complete: a folder within the layout, one a
//! pull, locked as long as that pull lives.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// How staging folders are called. They begin with a dot, as other tools' do,
/// so that nobody takes them for part of the layout.
const PREFIX: &str = ".longshore-";

/// How long to wait for another process that changes the layout: it takes
/// milliseconds, or has hung.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// Held while the index is changed, or staging folders come and go. The kernel
/// releases it when its holder dies.
#[derive(Debug)]
pub(super) struct LayoutLock(#[expect(dead_code, reason = "held, not used")] Flock<File>);

impl LayoutLock {
    /// May wait for others, but not for ever.
    pub(super) fn take(root: &Path) -> io::Result<Self> {
        let until = Instant::now() + LOCK_PATIENCE;
        let mut folder = File::open(root)?;
        loop {
            match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Self(lock)),
                Err((unlocked, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < until => {
                    folder = unlocked;
                    thread::sleep(LOCK_RETRY);
                }
                Err((_, Errno::EWOULDBLOCK)) => {
                    let reason = format!("another process has locked it for {LOCK_PATIENCE:?}");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
                }
                Err((_, errno)) => return Err(errno.into()),
            }
        }
    }
}

/// Remove what pulls that died have left. Call it with the layout locked.
pub(super) fn sweep(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if !ours || !entry.file_type()?.is_dir() {
            continue;
        }
        let folder = File::open(entry.path())?;
        if Flock::lock(folder, FlockArg::LockExclusiveNonblock).is_ok() {
            tracing::debug!(folder = %entry.path().display(), "sweeping what a dead pull left");
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Make renames in this folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A staging folder. Dropped, it is removed with all that is still in it.
#[derive(Debug)]
pub(super) struct Staging {
    root: PathBuf,
    folder: PathBuf,
    files: AtomicU64,
    _lock: Flock<File>,
}

impl Staging {
    /// Make one. Call it with the layout locked.
    pub(super) fn new(root: &Path) -> io::Result<Self> {
        let process = std::process::id();
        // Others of this process may have theirs here.
        let mut number = 0_u64;
        let folder = loop {
            let folder = root.join(format!("{PREFIX}{process}-{number}"));
            match fs::create_dir(&folder) {
                Ok(()) => break folder,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(e) => return Err(e),
            }
        };
        let opened = File::open(&folder)?;
        let lock = Flock::lock(opened, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e)?;
        Ok(Self {
            root: root.to_owned(),
            folder,
            files: AtomicU64::new(0),
            _lock: lock,
        })
    }

    /// A new file in it.
    pub(super) fn create(&self) -> io::Result<Staged> {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(number.to_string());
        let file = File::create_new(&path)?;
        Ok(Staged {
            file,
            path: StagedPath(path),
        })
    }

    /// Put these bytes at `target`, durably and in one step.
    pub(super) fn publish_bytes(&self, bytes: &[u8], target: &Path) -> io::Result<()> {
        let mut staged = self.create()?;
        staged.file.write_all(bytes)?;
        staged.publish(target)
    }

    /// Make the names of all blobs durable.
    pub(super) fn sync_blobs(&self) -> io::Result<()> {
        let blobs = self.root.join("blobs");
        for algorithm in fs::read_dir(&blobs)? {
            let algorithm = algorithm?;
            if algorithm.file_type()?.is_dir() {
                sync_folder(&algorithm.path())?;
            }
        }
        sync_folder(&blobs)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What can't be removed now is swept by the next pull.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A file that is not complete yet. Dropped, it is removed.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) file: File,
    path: StagedPath,
}

#[derive(Debug)]
struct StagedPath(PathBuf);

impl Drop for StagedPath {
    fn drop(&mut self) {
        // Published, it is not there any more; otherwise its folder goes too.
        let _ = fs::remove_file(&self.0);
    }
}

impl Staged {
    /// It is complete: make it durable, and give it its name.
    pub(super) fn publish(self, target: &Path) -> io::Result<()> {
        self.file.sync_data()?;
        if let Some(folder) = target.parent() {
            // For an algorithm that the layout has not seen before.
            fs::create_dir_all(folder)?;
        }
        fs::rename(&self.path.0, target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeping_spares_the_living() {
        let root = tempfile::tempdir().expect("a folder");
        let living = Staging::new(root.path()).expect("staging");
        let dead = root.path().join(".longshore-1-0");
        fs::create_dir(&dead).expect("a folder");
        fs::write(dead.join("0"), "half a blob").expect("a file");
        sweep(root.path()).expect("swept");
        assert!(!dead.exists());
        assert!(living.folder.exists());
        drop(living);
        assert_eq!(fs::read_dir(root.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn what_is_not_published_is_gone() {
        let root = tempfile::tempdir().expect("a folder");
        let staging = Staging::new(root.path()).expect("staging");
        let staged = staging.create().expect("a file");
        let path = staged.path.0.clone();
        assert!(path.exists());
        drop(staged);
        assert!(!path.exists());
    }
}
