//! The staging folder, which holds files until they are complete. Each pull has its own staging folder in the
//! layout, and locks it until the pull ends.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::Mode;
use oci_spec::image::Digest;

use super::folder::Folder;
use crate::time::format_duration;

/// The prefix of the names of staging folders. The numbers of the process and of the folder follow it. This library and
/// other tools ignore names in a layout that begin with a dot.
const PREFIX: &str = ".longshore-";

/// Only the owner may use a staging folder.
const STAGING_MODE: Mode = Mode::from_bits_truncate(0o700);

/// How long to wait for another process that changes the layout. Most changes take milliseconds, and `prune` holds the
/// lock for some seconds, so a process that takes this long hangs.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// The file that is locked by [`LayoutLock`]. The file is never removed, because a process could then hold a lock that
/// others do not see.
const LOCK: &str = ".longshore.lock";

/// The file in a staging folder that is locked until its pull ends. It contains the boot id of the host.
const STAGING_LOCK: &str = "lock";

/// A staging folder that is not locked, and has not changed for this long, belongs to no running pull on
/// any host.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// The lock of the layout. It is held while the index changes, while a staging folder is created, and while blobs or
/// the staging folders of dead pulls are removed. The kernel releases it if its holder dies.
///
/// The locked file is a plain file that is open for writing, because other hosts of a network file system see
/// only such locks (flock(2), "NFS details").
#[derive(Debug)]
pub(super) struct LayoutLock(#[expect(dead_code, reason = "held, not used")] Flock<File>);

impl LayoutLock {
    /// Takes the lock. Waits for other holders, but not longer than [`LOCK_TIMEOUT`].
    pub(super) fn take(root: &Folder) -> io::Result<Self> {
        let until = Instant::now() + LOCK_TIMEOUT;
        let mut file = root.lock_file(LOCK)?;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Self(lock)),
                Err((unlocked, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < until => {
                    file = unlocked;
                    thread::sleep(LOCK_RETRY);
                }
                Err((_, Errno::EWOULDBLOCK)) => {
                    let timeout = format_duration(LOCK_TIMEOUT);
                    let reason = format!("another process has locked it for {timeout}");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
                }
                Err((_, errno)) => return Err(errno.into()),
            }
        }
    }
}

/// Whether this is the name of a lock file or a staging folder of this library.
pub(super) fn is_ours(name: &OsStr) -> bool {
    name == LOCK || is_staging(name)
}

/// The boot id of this host. Processes with the same boot id see each other's locks.
fn own_boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// Whether this can be the name of a staging folder.
fn is_staging(name: &OsStr) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    name.to_str()
        .and_then(|name| name.strip_prefix(PREFIX))
        .and_then(|numbers| numbers.split_once('-'))
        .is_some_and(|(process, folder)| number(process) && number(folder))
}

/// The staging folders of a layout that were found, and those that were removed.
#[derive(Debug, Default)]
pub(super) struct Swept {
    /// The names of the staging folders of pulls that may be running. A folder that can't be removed is among them,
    /// with the error.
    pub(super) running_pulls: Vec<String>,
    /// The number of staging folders that were removed.
    pub(super) folders: usize,
    /// The size of the files in the removed folders, in bytes.
    pub(super) bytes: u64,
}

/// Removes the staging folders of dead pulls. The layout must be locked.
///
/// A folder that can't be removed is left, and counts as the folder of a running pull. It may belong to another user. A
/// folder that is already gone is no error, because a running pull removes its own folder without the lock.
pub(super) fn sweep(root: &Folder) -> io::Result<Swept> {
    let mut swept = Swept::default();
    for name in root.names()?.into_iter().filter(|name| is_staging(name)) {
        match sweep_one(root, &name) {
            Ok(Some(bytes)) => {
                swept.folders += 1;
                swept.bytes += bytes;
                tracing::debug!(folder = %name.display(), "removed what a dead pull left");
            }
            Ok(None) => swept.running_pulls.push(name.display().to_string()),
            Err(error) => {
                tracing::debug!(folder = %name.display(), %error, "can't remove what a pull left");
                if error.kind() != io::ErrorKind::NotFound {
                    let name = name.display();
                    swept
                        .running_pulls
                        .push(format!("{name}, which can't be removed: {error}"));
                }
            }
        }
    }
    Ok(swept)
}

/// Removes a staging folder if it belongs to no running pull, and returns the size of its files in bytes. Returns
/// `None` if the pull may be running. The pull may run on another host, whose locks are not seen here if the file
/// system does not share them.
fn sweep_one(root: &Folder, name: &OsStr) -> io::Result<Option<u64>> {
    let folder = root.open(name)?;
    let boot_id = folder.read(STAGING_LOCK, 1024)?;
    if let Some(boot_id) = &boot_id {
        let lock = Flock::lock(
            folder.lock_file(STAGING_LOCK)?,
            FlockArg::LockExclusiveNonblock,
        );
        // The file is empty if the pull died before it wrote its boot id. No pull can be writing it now, because a
        // pull does so while it holds the lock of the layout, which we hold.
        let is_this_host = boot_id.is_empty() || *boot_id == own_boot_id().into_bytes();
        if lock.is_err() || !is_this_host && root.age_of(name)? < ABANDONED_AFTER {
            return Ok(None);
        }
    } else if !folder.names()?.is_empty() && root.age_of(name)? < ABANDONED_AFTER {
        // Another version of this library has made this folder. An empty folder is not spared: its pull died before it
        // could lock the folder, because a pull does so while it holds the lock of the layout, which we hold.
        return Ok(None);
    }
    remove(root, name, &folder).map(Some)
}

/// Removes a staging folder and the plain files in it. Returns the size of these files in bytes.
fn remove(root: &Folder, name: &OsStr, folder: &Folder) -> io::Result<u64> {
    let mut bytes = 0;
    for file in folder.names()? {
        bytes += folder.size_of(&file)?.unwrap_or(0);
        folder.remove_file(file)?;
    }
    root.remove_empty_folder(name)?;
    Ok(bytes)
}

/// The staging folder of a pull. Dropping it removes the folder and all files in it.
#[derive(Debug)]
pub(super) struct Staging {
    root: Folder,
    name: String,
    folder: Arc<Folder>,
    files: AtomicU64,
    _lock: Flock<File>,
}

impl Staging {
    /// Creates a staging folder. The layout must be locked.
    pub(super) fn new(root: Folder) -> io::Result<Self> {
        let process = std::process::id();
        // Other pulls of this process may have staging folders here.
        let mut number = 0_u64;
        let name = loop {
            let name = format!("{PREFIX}{process}-{number}");
            match root.make_new(&name, STAGING_MODE) {
                Ok(()) => break name,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(e) => return Err(e),
            }
        };
        let folder = root.open(&name)?;
        let lock = Flock::lock(
            folder.lock_file(STAGING_LOCK)?,
            FlockArg::LockExclusiveNonblock,
        );
        let mut lock = lock.map_err(|(_, e)| e)?;
        lock.write_all(own_boot_id().as_bytes())?;
        Ok(Self {
            root,
            name,
            folder: Arc::new(folder),
            files: AtomicU64::new(0),
            _lock: lock,
        })
    }

    /// The folder of the layout.
    pub(super) fn root(&self) -> &Folder {
        &self.root
    }

    /// Creates a new file in the staging folder.
    pub(super) fn create(&self) -> io::Result<Staged> {
        let name = self.files.fetch_add(1, Ordering::Relaxed).to_string();
        let file = self.folder.create(&name)?;
        let name = StagedName {
            folder: Arc::clone(&self.folder),
            name,
        };
        Ok(Staged { file, name })
    }

    /// Writes these bytes into a file in the folder of the layout, in one step. The bytes are then durable. The name
    /// becomes durable when the folder is synced.
    pub(super) fn publish_file(&self, bytes: &[u8], name: &str) -> io::Result<()> {
        let mut staged = self.create()?;
        staged.file.write_all(bytes)?;
        self.root.keep_owner_and_mode(name, &staged.file)?;
        staged.publish(&self.root, name)
    }

    /// Gives a complete blob its name.
    pub(super) fn publish_blob(&self, staged: Staged, digest: &Digest) -> io::Result<()> {
        // The folder of the algorithm may be missing, if the layout has no blob of this algorithm yet.
        let blobs = self.root.open_or_make("blobs")?;
        let folder = blobs.open_or_make(digest.algorithm().as_ref())?;
        staged.publish(&folder, digest.digest())
    }

    /// Makes the names of all blobs durable.
    pub(super) fn sync_blobs(&self) -> io::Result<()> {
        let blobs = self.root.open("blobs")?;
        for algorithm in blobs.names()? {
            // Other entries are not ours to sync.
            if let Ok(folder) = blobs.open(&algorithm) {
                folder.sync()?;
            }
        }
        blobs.sync()?;
        self.root.sync()
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // If this fails, the next pull removes the folder.
        let _ = remove(&self.root, self.name.as_ref(), &self.folder);
    }
}

/// A file that is not complete yet. Dropping it removes the file.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) file: File,
    name: StagedName,
}

#[derive(Debug)]
struct StagedName {
    folder: Arc<Folder>,
    name: String,
}

impl Drop for StagedName {
    fn drop(&mut self) {
        // A published file has been moved, so this fails. Any other leftover is removed with its folder.
        let _ = self.folder.remove_file(&self.name);
    }
}

impl Staged {
    /// Makes a complete file durable, and gives it its name.
    fn publish(self, folder: &Folder, name: &str) -> io::Result<()> {
        self.file.sync_data()?;
        let Self { name: staged, .. } = self;
        staged.folder.move_to(&staged.name, folder, name)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn root() -> (tempfile::TempDir, impl Fn() -> Folder) {
        let root = tempfile::tempdir().expect("a folder");
        let path = root.path().to_owned();
        (root, move || Folder::at(&path).expect("it is there"))
    }

    #[test]
    fn sweeping_keeps_the_staging_folders_of_running_pulls() {
        let (path, root) = root();
        let running = Staging::new(root()).expect("staging");
        let dead = path.path().join(".longshore-1-0");
        fs::create_dir(&dead).expect("a folder");
        fs::write(dead.join("0"), "half a blob").expect("a file");
        fs::write(dead.join(STAGING_LOCK), own_boot_id()).expect("a file");
        sweep(&root()).expect("swept");
        assert!(!dead.exists());
        assert!(path.path().join(&running.name).exists());
        drop(running);
        assert_eq!(root().names().expect("a list").len(), 0);
    }

    #[test]
    fn a_staging_folder_of_another_host_is_swept_when_it_is_old() {
        let (path, root) = root();
        let other = path.path().join(".longshore-1-0");
        let (lock, blob) = (other.join(STAGING_LOCK), other.join("0"));
        for boot_id in [Some("another host"), None] {
            fs::create_dir(&other).expect("a folder");
            fs::write(&blob, "half a blob").expect("a file");
            if let Some(boot_id) = boot_id {
                fs::write(&lock, boot_id).expect("a file");
            }
            sweep(&root()).expect("swept");
            assert!(blob.exists(), "{boot_id:?}");
            let long_ago = std::time::SystemTime::now() - 2 * ABANDONED_AFTER;
            let folder = File::open(&other).expect("a folder");
            folder.set_modified(long_ago).expect("an older folder");
            sweep(&root()).expect("swept");
            assert!(!other.exists(), "{boot_id:?}");
        }
    }

    #[test]
    fn a_staging_folder_without_a_boot_id_is_swept() {
        let (path, root) = root();
        let dead = path.path().join(".longshore-1-0");
        for has_file in [false, true] {
            fs::create_dir(&dead).expect("a folder");
            if has_file {
                fs::write(dead.join(STAGING_LOCK), "").expect("a file");
            }
            sweep(&root()).expect("swept");
            assert!(!dead.exists());
        }
    }

    #[test]
    fn only_users_who_can_write_into_the_folder_can_lock_it() {
        let (path, root) = root();
        for (mode, expected) in [(0o755, 0o600), (0o775, 0o660), (0o700, 0o600)] {
            let folder = fs::Permissions::from_mode(mode);
            fs::set_permissions(path.path(), folder).expect("permissions");
            let lock = LayoutLock::take(&root()).expect("a lock");
            let found = root().permissions_of(LOCK).expect("looked");
            assert_eq!(found, expected, "{mode:o}");
            drop(lock);
            fs::remove_file(path.path().join(LOCK)).expect("removed");
        }
    }

    #[test]
    #[ignore = "needs root"]
    fn the_lock_file_has_the_owner_of_the_folder() {
        use std::os::unix::fs::{MetadataExt as _, chown};
        let (path, root) = root();
        chown(path.path(), Some(54321), Some(54322)).expect("given away");
        drop(LayoutLock::take(&root()).expect("a lock"));
        let lock = fs::metadata(path.path().join(LOCK)).expect("it is there");
        assert_eq!((lock.uid(), lock.gid()), (54321, 54322));
    }

    #[test]
    fn sweeping_removes_only_staging_folders() {
        let (path, root) = root();
        let names = [
            ".longshore-1",
            ".longshore-1-x",
            ".longshore--1",
            ".other",
            "mine",
        ];
        for name in names {
            fs::create_dir(path.path().join(name)).expect("a folder");
        }
        let outside = tempfile::tempdir().expect("a folder");
        fs::write(outside.path().join("0"), "somebody's").expect("a file");
        let link = path.path().join(".longshore-1-0");
        std::os::unix::fs::symlink(outside.path(), link).expect("a link");
        sweep(&root()).expect("swept");
        assert_eq!(root().names().expect("a list").len(), names.len() + 1);
        assert!(outside.path().join("0").exists());
    }

    #[test]
    fn a_symbolic_link_is_not_used_as_a_staging_folder() {
        let (path, root) = root();
        let outside = tempfile::tempdir().expect("a folder");
        let link = format!("{PREFIX}{}-0", std::process::id());
        std::os::unix::fs::symlink(outside.path(), path.path().join(link)).expect("a link");
        let staging = Staging::new(root()).expect("staging");
        let _staged = staging.create().expect("a file");
        assert!(staging.name.ends_with("-1"), "{staging:?}");
        assert_eq!(fs::read_dir(outside.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn sweeping_a_folder_that_is_gone_is_no_error() {
        let (_path, root) = root();
        let gone = sweep_one(&root(), ".longshore-1-0".as_ref());
        assert_eq!(gone.expect_err("gone").kind(), io::ErrorKind::NotFound);
        sweep(&root()).expect("nothing to sweep");
    }

    #[test]
    fn a_file_that_is_not_published_is_removed() {
        let (path, root) = root();
        let staging = Staging::new(root()).expect("staging");
        let staged = staging.create().expect("a file");
        let file = path.path().join(&staging.name).join(&staged.name.name);
        assert!(file.exists());
        drop(staged);
        assert!(!file.exists());
    }
}
