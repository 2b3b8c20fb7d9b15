//! A temporary folder beside a destination.
//!
//! The folder is locked while its process lives. A process that makes such a folder first removes those of dead
//! processes, as pulls into a layout do with staging folders. Nothing else in the folder of the destination is locked
//! or left behind.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::geteuid;

/// The prefix of the folders' names. The numbers of the process and of the folder follow it.
const PREFIX: &str = ".longshore-new-";

/// The file that is locked until the process ends. It contains the boot id of the host.
const LOCK: &str = "lock";

/// A folder of another host belongs to no running process if its lock file was written this long ago. The lock itself
/// may not be visible here.
const ABANDONED_AFTER: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How often to try to remove a folder, and the wait in between. A thread may still be creating a file in it.
const REMOVALS: (u32, Duration) = (200, Duration::from_millis(5));

/// A temporary folder. Dropping it removes it, with everything in it.
#[derive(Debug)]
pub(super) struct TemporaryFolder {
    path: PathBuf,
    _lock: Flock<File>,
}

impl TemporaryFolder {
    /// Removes what dead processes have left in this folder, and makes a new temporary folder in it. Blocks.
    pub(super) fn create_in(folder: &Path) -> io::Result<Self> {
        sweep(folder);
        let process = std::process::id();
        let mut number = 0_u64;
        loop {
            let path = folder.join(format!("{PREFIX}{process}-{number}"));
            number += 1;
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            match lock_new(&path) {
                Ok(Some(lock)) => return Ok(Self { path, _lock: lock }),
                // Another process has swept it meanwhile.
                Ok(None) => {}
                Err(error) => {
                    let _ = fs::remove_dir_all(&path);
                    return Err(error);
                }
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let (tries, pause) = REMOVALS;
        for _ in 0..tries {
            match fs::remove_dir_all(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    thread::sleep(pause);
                }
                // If this fails, the next run removes it.
                _ => return,
            }
        }
    }
}

/// Locks a new folder. `None` if another process has begun to remove the folder, which is possible until it is locked.
fn lock_new(folder: &Path) -> io::Result<Option<Flock<File>>> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    let file = match file {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let Some(mut lock) = try_lock(file)? else {
        return Ok(None);
    };
    let (ours, found) = (lock.metadata()?, fs::symlink_metadata(&path));
    match found {
        Ok(found) if (found.dev(), found.ino()) == (ours.dev(), ours.ino()) => {}
        _ => return Ok(None),
    }
    lock.write_all(current_boot_id().as_bytes())?;
    Ok(Some(lock))
}

/// Locks a file. `None` if somebody else has locked it.
fn try_lock(file: File) -> io::Result<Option<Flock<File>>> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// The boot id of this host. Processes with the same boot id see each other's locks.
fn current_boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// Removes the temporary folders of dead processes. What can't be removed is left, because it does no harm.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !is_temporary_folder(entry.file_name().as_encoded_bytes()) {
            continue;
        }
        let path = entry.path();
        match sweep_one(&path) {
            Ok(true) => tracing::debug!(folder = %path.display(), "removed what a dead pull left"),
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(folder = %path.display(), %error, "can't remove what a pull left");
            }
        }
    }
}

fn is_temporary_folder(name: &[u8]) -> bool {
    let is_number = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let numbers = name.strip_prefix(PREFIX.as_bytes());
    let numbers = numbers.map(|rest| rest.split(|byte| *byte == b'-').collect::<Vec<_>>());
    matches!(numbers.as_deref(), Some([process, folder]) if is_number(process) && is_number(folder))
}

/// Removes a temporary folder unless its process may be alive. Returns whether it was removed.
fn sweep_one(folder: &Path) -> io::Result<bool> {
    let found = fs::symlink_metadata(folder)?;
    // In a folder that others may write to, a folder of somebody else is none of ours.
    if !found.is_dir() || found.uid() != geteuid().as_raw() {
        return Ok(false);
    }
    let lock = match open_lock(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // The lock is the first file in a folder. The process is about to create it, or was killed before that, or
            // while it removed the folder.
            match fs::remove_dir(folder) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                removed => return removed.map(|()| true),
            }
            match open_lock(folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                lock => Some(lock?),
            }
        }
        lock => Some(lock?),
    };
    let Some(lock) = lock else {
        return fs::remove_dir_all(folder).map(|()| true);
    };
    let age = lock.metadata()?.modified()?.elapsed().unwrap_or_default();
    let Some(lock) = try_lock(lock)? else {
        return Ok(false);
    };
    let mut boot_id = String::new();
    (&*lock).take(1024).read_to_string(&mut boot_id)?;
    // The file is empty if the process was killed before it wrote its boot id.
    let is_of_this_host = boot_id.is_empty() || boot_id == current_boot_id();
    if !is_of_this_host && age < ABANDONED_AFTER {
        return Ok(false);
    }
    fs::remove_dir_all(folder).map(|()| true)
}

fn open_lock(folder: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut options = OpenOptions::new();
    // On NFS, only a file that is open for writing can be locked exclusively.
    options.read(true).write(true).custom_flags(flags.bits());
    options.open(folder.join(LOCK))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        names
            .map(|name| name.into_string().expect("UTF-8"))
            .collect()
    }

    /// Makes the folder of a process that is not there any more.
    fn dead(folder: &Path, boot_id: Option<&str>) -> PathBuf {
        let path = folder.join(format!("{PREFIX}1-0"));
        fs::create_dir_all(path.join("layout/blobs")).expect("a folder");
        fs::write(path.join("layout/blobs/half"), "half a blob").expect("a file");
        if let Some(boot_id) = boot_id {
            fs::write(path.join(LOCK), boot_id).expect("a file");
        }
        path
    }

    #[test]
    fn a_dropped_folder_is_removed_with_its_contents() {
        let folder = tempfile::tempdir().expect("a folder");
        let temporary = TemporaryFolder::create_in(folder.path()).expect("a temporary folder");
        let other = TemporaryFolder::create_in(folder.path()).expect("another one");
        assert_ne!(temporary.path(), other.path());
        fs::create_dir_all(temporary.path().join("a/b")).expect("a folder");
        fs::write(temporary.path().join("a/b/c"), "text").expect("a file");
        drop((temporary, other));
        assert_eq!(names(folder.path()), [""; 0]);
    }

    #[test]
    fn folders_of_dead_processes_are_swept_and_those_of_living_ones_are_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let living = TemporaryFolder::create_in(folder.path()).expect("a temporary folder");
        for boot_id in [Some(&*current_boot_id()), Some(""), None] {
            let dead = dead(folder.path(), boot_id);
            drop(TemporaryFolder::create_in(folder.path()).expect("a temporary folder"));
            assert!(!dead.exists(), "{boot_id:?}");
        }
        let empty = folder.path().join(format!("{PREFIX}2-0"));
        fs::create_dir(&empty).expect("a folder");
        sweep(folder.path());
        assert!(!empty.exists());
        assert!(living.path().join(LOCK).exists());
    }

    #[test]
    fn old_folders_of_other_hosts_are_swept() {
        let folder = tempfile::tempdir().expect("a folder");
        let other = dead(folder.path(), Some("another host"));
        sweep(folder.path());
        assert!(other.exists());
        let long_ago = SystemTime::now() - 2 * ABANDONED_AFTER;
        let lock = File::options().write(true).open(other.join(LOCK));
        lock.expect("a file").set_modified(long_ago).expect("older");
        sweep(folder.path());
        assert!(!other.exists());
    }

    #[test]
    fn other_folders_are_not_swept() {
        let folder = tempfile::tempdir().expect("a folder");
        let others = ["1", "1-", "1-x", "-1", "1-2-3"].map(|rest| format!("{PREFIX}{rest}"));
        for name in &others {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let outside = tempfile::tempdir().expect("a folder");
        fs::write(outside.path().join("0"), "somebody's").expect("a file");
        let link = folder.path().join(format!("{PREFIX}1-0"));
        std::os::unix::fs::symlink(outside.path(), link).expect("a link");
        sweep(folder.path());
        assert_eq!(names(folder.path()).len(), others.len() + 1);
        assert!(outside.path().join("0").exists());
    }

    #[test]
    #[ignore = "needs root"]
    fn folders_of_other_users_are_not_swept() {
        let folder = tempfile::tempdir().expect("a folder");
        let other = dead(folder.path(), None);
        std::os::unix::fs::chown(&other, Some(54321), None).expect("given away");
        sweep(folder.path());
        assert!(other.exists());
    }
}
