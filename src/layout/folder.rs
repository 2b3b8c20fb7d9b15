//! An open folder whose entries are addressed by plain names. Without paths, no symbolic link can lead out of
//! the folder.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fsync, unlinkat};

use crate::drain::bounded;

/// The permissions of files that others may read, less the user's umask. Image layouts are shared.
const FILE_MODE: Mode = Mode::from_bits_truncate(0o644);
pub(super) const FOLDER_MODE: Mode = Mode::from_bits_truncate(0o755);

const FOLDER_FLAGS: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder(OwnedFd);

/// The identity of a file in its present state. Each change of the file changes the identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    size: i64,
    /// The time of the last change, in seconds and nanoseconds.
    changed: (i64, i64),
}

impl Identity {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        Ok(Self::from(&fstat(file)?))
    }
}

impl From<&FileStat> for Identity {
    fn from(found: &FileStat) -> Self {
        Self {
            device: found.st_dev,
            inode: found.st_ino,
            size: found.st_size,
            changed: (found.st_ctime, found.st_ctime_nsec),
        }
    }
}

impl Folder {
    /// Opens the folder at a path that the user gave. Symbolic links in the path are followed.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        Ok(Self(open(path, FOLDER_FLAGS, Mode::empty())?))
    }

    /// Opens the folder at a path, and creates it durably if it does not exist.
    pub(super) fn make_at(path: &Path) -> io::Result<Self> {
        match (Self::at(path), path.parent(), path.file_name()) {
            (Err(e), Some(parent), Some(name)) if e.kind() == io::ErrorKind::NotFound => {
                let here = parent.as_os_str().is_empty();
                let parent = Self::make_at(if here { ".".as_ref() } else { parent })?;
                parent.make(name, FOLDER_MODE)?;
                parent.sync()?;
                Self::at(path)
            }
            (found, ..) => found,
        }
    }

    /// Opens the subfolder of this name.
    pub(super) fn open(&self, name: impl AsRef<OsStr>) -> io::Result<Self> {
        let name = entry_name(name.as_ref())?;
        let flags = FOLDER_FLAGS | OFlag::O_NOFOLLOW;
        match openat(&self.0, name, flags, Mode::empty()) {
            Ok(folder) => Ok(Self(folder)),
            Err(Errno::ENOTDIR | Errno::ELOOP) => Err(self.not_a(name, "folder")),
            Err(e) => Err(e.into()),
        }
    }

    /// Opens the subfolder of this name, and creates it if it does not exist.
    pub(super) fn open_or_make(&self, name: impl AsRef<OsStr>) -> io::Result<Self> {
        let name = name.as_ref();
        match self.open(name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.make(name, FOLDER_MODE)?;
                self.open(name)
            }
            other => other,
        }
    }

    /// Creates a subfolder. A subfolder that exists already is no error.
    fn make(&self, name: &OsStr, mode: Mode) -> io::Result<()> {
        match self.make_new(name, mode) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    pub(super) fn make_new(&self, name: impl AsRef<OsStr>, mode: Mode) -> io::Result<()> {
        Ok(mkdirat(&self.0, entry_name(name.as_ref())?, mode)?)
    }

    /// Opens the folder once more, so that it can be locked.
    pub(super) fn reopen(&self) -> io::Result<OwnedFd> {
        Ok(openat(&self.0, ".", FOLDER_FLAGS, Mode::empty())?)
    }

    /// The names of all entries.
    pub(super) fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::from_fd(self.reopen()?)?.iter() {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// The size of a plain file in bytes. `None` if there is no plain file of this name.
    pub(super) fn size_of(&self, name: impl AsRef<OsStr>) -> io::Result<Option<u64>> {
        match self.stat(entry_name(name.as_ref())?) {
            Ok(found) if kind(&found) == SFlag::S_IFREG => {
                Ok(Some(u64::try_from(found.st_size).unwrap_or(0)))
            }
            Ok(_) | Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The identity of the entry of this name. `None` if there is none.
    pub(super) fn identity_of(&self, name: impl AsRef<OsStr>) -> io::Result<Option<Identity>> {
        match self.stat(entry_name(name.as_ref())?) {
            Ok(found) => Ok(Some(Identity::from(&found))),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Gives a new file the owner and the permissions of the file of this name, if there is one, so that
    /// others keep their access.
    pub(super) fn keep_owner_and_mode(&self, name: &str, new: &File) -> io::Result<()> {
        match self.stat(entry_name(name.as_ref())?) {
            Ok(old) => {
                copy_owner(new, &old);
                // This may fail on a file system of another operating system.
                let _ = new.set_permissions(Permissions::from_mode(old.st_mode & 0o777));
                Ok(())
            }
            Err(Errno::ENOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    #[cfg(test)]
    pub(super) fn permissions_of(&self, name: impl AsRef<OsStr>) -> io::Result<u32> {
        Ok(self.stat(entry_name(name.as_ref())?)?.st_mode & 0o777)
    }

    /// The time since the entry was last modified.
    pub(super) fn age_of(&self, name: impl AsRef<OsStr>) -> io::Result<Duration> {
        let changed = self.stat(entry_name(name.as_ref())?)?.st_mtime;
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(changed.try_into().unwrap_or(0));
        // The clock of another host may be ahead; such an entry counts as new.
        Ok(SystemTime::now()
            .duration_since(changed)
            .unwrap_or_default())
    }

    /// Opens a file that serves only as a lock. A missing file is created, with permissions for those who may write
    /// into the folder.
    pub(super) fn lock_file(&self, name: impl AsRef<OsStr>) -> io::Result<File> {
        let name = entry_name(name.as_ref())?;
        // On NFS, only a file that is open for writing can be locked exclusively.
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        match openat(&self.0, name, flags, Mode::empty()) {
            Err(Errno::ENOENT) => {}
            Err(Errno::ELOOP) => return Err(self.not_a(name, "plain file")),
            other => return Ok(other?.into()),
        }
        // Only those who may write into the folder may lock the file. Otherwise, any user could block pulls.
        let folder = fstat(&self.0)?;
        let writers = folder.st_mode & 0o222;
        let mode = Mode::from_bits_truncate(writers | (writers << 1));
        match openat(&self.0, name, flags | OFlag::O_CREAT | OFlag::O_EXCL, mode) {
            Ok(file) => {
                let file = File::from(file);
                copy_owner(&file, &folder);
                // The umask must not apply. This may fail on a file system of another operating system.
                let _ = file.set_permissions(Permissions::from_mode(mode.bits()));
                Ok(file)
            }
            Err(Errno::EEXIST) => Ok(openat(&self.0, name, flags, Mode::empty())?.into()),
            Err(e) => Err(e.into()),
        }
    }

    /// Opens a plain file to read it. `None` if there is no file of this name.
    pub(super) fn open_file(&self, name: impl AsRef<OsStr>) -> io::Result<Option<File>> {
        let name = entry_name(name.as_ref())?;
        // Opening a named pipe must not wait for its other end.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&self.0, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ELOOP) => return Err(self.not_a(name, "plain file")),
            Err(e) => return Err(e.into()),
        };
        if kind(&fstat(&file)?) != SFlag::S_IFREG {
            return Err(self.not_a(name, "plain file"));
        }
        Ok(Some(file.into()))
    }

    /// The content of a plain file of at most `max` bytes. `None` if there is no file of this name.
    pub(super) fn read(&self, name: impl AsRef<OsStr>, max: u64) -> io::Result<Option<Vec<u8>>> {
        let name = name.as_ref();
        let Some(file) = self.open_file(name)? else {
            return Ok(None);
        };
        let Some(bytes) = bounded::read_blocking(file, max)? else {
            let reason = format!("{} has more than {max} bytes", name.display());
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
        };
        Ok(Some(bytes))
    }

    /// Creates a new file.
    pub(super) fn create(&self, name: impl AsRef<OsStr>) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let file = openat(&self.0, entry_name(name.as_ref())?, flags, FILE_MODE)?;
        Ok(file.into())
    }

    /// Moves a file into another folder, under a new name. An entry that has this name is replaced, even if
    /// it is a symbolic link.
    pub(super) fn move_to(&self, name: &str, there: &Self, new_name: &str) -> io::Result<()> {
        let (name, new_name) = (entry_name(name.as_ref())?, entry_name(new_name.as_ref())?);
        Ok(renameat(&self.0, name, &there.0, new_name)?)
    }

    pub(super) fn remove_file(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        let name = entry_name(name.as_ref())?;
        Ok(unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir)?)
    }

    /// Removes a file, and returns whether it was there.
    pub(super) fn remove_if_exists(&self, name: impl AsRef<OsStr>) -> io::Result<bool> {
        match self.remove_file(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map(|()| true),
        }
    }

    pub(super) fn remove_empty_folder(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        let name = entry_name(name.as_ref())?;
        Ok(unlinkat(&self.0, name, UnlinkatFlags::RemoveDir)?)
    }

    /// Makes the names in this folder durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(fsync(&self.0)?)
    }

    fn stat(&self, name: &OsStr) -> nix::Result<FileStat> {
        fstatat(&self.0, name, AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    fn not_a(&self, name: &OsStr, expected: &str) -> io::Error {
        let found = self.stat(name);
        let link = found.is_ok_and(|found| kind(&found) == SFlag::S_IFLNK);
        let name = name.display();
        let reason = if link {
            format!("{name} is a symbolic link; links within a layout are not followed")
        } else {
            format!("{name} is no {expected}")
        };
        io::Error::new(io::ErrorKind::InvalidInput, reason)
    }
}

/// Gives a file the owner and the group of `like`, as far as this process may. Only root can change the
/// owner; others can change the group to one of their own.
fn copy_owner(file: &File, like: &FileStat) {
    let (owner, group) = (Uid::from_raw(like.st_uid), Gid::from_raw(like.st_gid));
    let has_owner = fchown(file, Some(owner), Some(group)).is_ok();
    if !has_owner {
        let _ = fchown(file, None, Some(group));
    }
}

fn kind(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits())
}

/// Returns the name if it is a plain one, not a path.
fn entry_name(name: &OsStr) -> io::Result<&OsStr> {
    let path = name.is_empty() || name == "." || name == ".." || name.as_bytes().contains(&b'/');
    if path {
        let reason = format!("{} is not a plain name", name.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder with a file, a subfolder, and symbolic links out of it.
    fn folder() -> (tempfile::TempDir, Folder) {
        let all = tempfile::tempdir().expect("a folder");
        let inside = all.path().join("inside");
        for folder in [all.path(), &inside] {
            fs::create_dir_all(folder.join("folder")).expect("a folder");
            fs::write(folder.join("file"), "seven b").expect("a file");
        }
        symlink("../folder", inside.join("link-to-folder")).expect("a link");
        symlink("../file", inside.join("link-to-file")).expect("a link");
        symlink("nowhere", inside.join("dangling")).expect("a link");
        let folder = Folder::at(&inside).expect("it is there");
        (all, folder)
    }

    #[test]
    fn links_are_not_followed() {
        let (_all, folder) = folder();
        folder.open("folder").expect("a folder");
        assert_eq!(folder.size_of("file").expect("there"), Some(7));
        for link in ["link-to-folder", "link-to-file", "dangling"] {
            let words = format!("{link} is a symbolic link");
            let refused = [
                folder.open(link).expect_err(link),
                folder.open_or_make(link).expect_err(link),
                folder.read(link, 100).expect_err(link),
            ];
            for error in refused {
                assert!(error.to_string().starts_with(&words), "{error}");
            }
            assert_eq!(folder.size_of(link).expect("looked"), None);
            folder.create(link).expect_err(link);
        }
    }

    #[test]
    fn entries_of_another_kind_are_errors_and_do_not_block() {
        let (all, folder) = folder();
        let pipe = all.path().join("inside/pipe");
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
        for name in ["pipe", "folder"] {
            let error = folder.read(name, 100).expect_err(name);
            assert_eq!(error.to_string(), format!("{name} is no plain file"));
        }
        let error = folder.open("file").expect_err("a file");
        assert_eq!(error.to_string(), "file is no folder");
    }

    #[test]
    fn paths_are_not_names() {
        let (_all, folder) = folder();
        for path in ["", ".", "..", "../file", "/etc/passwd", "folder/x"] {
            folder.open(path).expect_err(path);
            folder.read(path, 100).expect_err(path);
            folder.size_of(path).expect_err(path);
            folder.create(path).expect_err(path);
            folder.move_to("file", &folder, path).expect_err(path);
            folder.remove_file(path).expect_err(path);
        }
    }

    #[test]
    fn a_file_over_the_limit_is_not_read() {
        let (_all, folder) = folder();
        let read = folder.read("file", 7).expect("as many as allowed");
        assert_eq!(read.as_deref(), Some(&b"seven b"[..]));
        folder.read("file", 6).expect_err("one too many");
        assert_eq!(folder.read("nothing", 6).expect("looked"), None);
    }
}
