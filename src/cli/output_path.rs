//! The path at which a destination appears: in which folder, and whether something may be put there.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::{AccessFlags, access};

use super::args::Form;

/// The path of a file or folder that will be made, or replaced.
#[derive(Debug)]
pub(super) struct OutputPath {
    path: PathBuf,
    parent: PathBuf,
}

impl OutputPath {
    /// Returns the path of a destination of this form, or an error if something else is there, or its
    /// folder is missing.
    pub(super) fn of(path: &Path, form: Form) -> io::Result<Self> {
        let real = match fs::symlink_metadata(path) {
            Ok(_) => fs::canonicalize(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => absent(path, form)?,
            Err(error) => return Err(error),
        };
        let parent = real
            .parent()
            .ok_or_else(|| wrong("it is the root folder"))?;
        let output = Self {
            parent: parent.to_owned(),
            path: real,
        };
        match (fs::metadata(&output.path), form) {
            (Err(error), _) if error.kind() == io::ErrorKind::NotFound => {}
            (found, Form::Archive) => check_file(&found?)?,
            (found, Form::Folder | Form::Layout) => output.check_folder(&found?)?,
        }
        output.check_mount(form)?;
        Ok(output)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder in which the file or folder will appear.
    pub(super) fn parent(&self) -> &Path {
        &self.parent
    }

    /// Returns an error if this process may not write into the folder.
    pub(super) fn check(&self) -> io::Result<()> {
        Ok(access(&self.parent, AccessFlags::W_OK | AccessFlags::X_OK)?)
    }

    /// Gives a new file the permissions of the file that it will replace, if there is one.
    pub(super) fn copy_permissions(&self, new: &File) -> io::Result<()> {
        match fs::metadata(&self.path) {
            Ok(replaced) => new.set_permissions(replaced.permissions()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Gives a new folder the owner, the group and the permissions of the folder that it will replace, if there is one.
    pub(super) fn copy_owner_and_permissions(&self, new: &Path) -> io::Result<()> {
        let replaced = match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            replaced => replaced?,
        };
        let new = File::open(new)?;
        let made = new.metadata()?;
        let (owner, group) = (replaced.uid(), replaced.gid());
        if (made.uid(), made.gid()) != (owner, group) {
            let changed = fchown(
                &new,
                (made.uid() != owner).then_some(owner),
                (made.gid() != group).then_some(group),
            );
            changed.map_err(|error| {
                let reason = format!(
                    "the new folder can't get the owner and the group of the existing one ({owner}:{group}): {error}; \
                     remove the existing folder, or name another one"
                );
                io::Error::new(error.kind(), reason)
            })?;
        }
        new.set_permissions(replaced.permissions())
    }

    /// Returns an error if something is mounted at the path: nothing can replace a mount point. The mounts are compared,
    /// because a bind mount may be of the same file system.
    fn check_mount(&self, form: Form) -> io::Result<()> {
        let advice = match form {
            Form::Archive => "name another file",
            Form::Folder | Form::Layout => "name a folder in it",
        };
        match (mount(&self.path), mount(&self.parent)) {
            (Some(mount), Some(parent)) if mount != parent => {
                let reason = format!("it is a mount point, which can't be replaced; {advice}");
                Err(wrong(&reason))
            }
            _ => Ok(()),
        }
    }

    fn check_folder(&self, found: &fs::Metadata) -> io::Result<()> {
        if !found.is_dir() {
            return Err(wrong("it is no folder"));
        }
        // The shell would be left in the folder that was replaced, and see no image.
        if is_current(found) {
            let reason =
                "it is the current folder, which would be replaced; name a new folder in it";
            return Err(wrong(reason));
        }
        if fs::read_dir(&self.path)?.next().is_some() {
            let reason = "the folder is not empty; empty it, or name another one";
            return Err(wrong(reason));
        }
        // A folder that may not be written can't be moved either, and the new one gets its permissions.
        Ok(access(&self.path, AccessFlags::W_OK | AccessFlags::X_OK)?)
    }
}

/// Returns the id of the mount that a path is on. `None` if there is nothing at the path, or the kernel does not say it.
fn mount(path: &Path) -> Option<String> {
    let mut options = File::options();
    options.read(true).custom_flags(OFlag::O_PATH.bits());
    let opened = options.open(path).ok()?;
    // proc(5): since Linux 3.15.
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", opened.as_raw_fd())).ok()?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    Some(id.trim().to_owned())
}

/// Whether this is the current folder of the process, whatever path leads to it.
fn is_current(folder: &fs::Metadata) -> bool {
    let current = fs::metadata(".");
    current.is_ok_and(|current| (current.dev(), current.ino()) == (folder.dev(), folder.ino()))
}

/// Returns the path of a file or folder that does not exist yet. Symbolic links in the path of its folder are resolved.
fn absent(path: &Path, form: Form) -> io::Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(wrong("it names no file or folder"));
    };
    if form == Form::Archive && path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(wrong("it names no file"));
    }
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let real = fs::canonicalize(parent).map_err(|error| {
        let reason = format!("its folder {}: {error}", parent.display());
        io::Error::new(error.kind(), reason)
    })?;
    if !real.is_dir() {
        return Err(wrong(&format!("{} is no folder", parent.display())));
    }
    Ok(real.join(name))
}

fn check_file(found: &fs::Metadata) -> io::Result<()> {
    if found.is_dir() {
        return Err(wrong("it is a folder"));
    }
    if !found.is_file() {
        return Err(wrong("it is no regular file; name a file"));
    }
    Ok(())
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn wrong(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn new_names_files_and_empty_folders_are_accepted() {
        let all = tempfile::tempdir().expect("a folder");
        let real = fs::canonicalize(all.path()).expect("it is there");
        let at = |name: &str| all.path().join(name);
        fs::write(at("file"), "old").expect("a file");
        fs::create_dir(at("empty")).expect("a folder");
        symlink("file", at("link-to-file")).expect("a link");
        symlink("empty", at("link-to-empty")).expect("a link");
        let table = [
            (Form::Archive, "new", "new"),
            (Form::Archive, "file", "file"),
            (Form::Archive, "link-to-file", "file"),
            (Form::Archive, "empty/new", "empty/new"),
            (Form::Folder, "new", "new"),
            (Form::Folder, "new/", "new"),
            (Form::Folder, "empty", "empty"),
            (Form::Folder, "link-to-empty/", "empty"),
            (Form::Folder, "link-to-empty/new", "empty/new"),
        ];
        for (form, name, expected) in table {
            let found = OutputPath::of(&at(name), form).expect(name);
            assert_eq!(found.path(), real.join(expected), "{name}");
            assert_eq!(Some(found.parent()), found.path().parent(), "{name}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let all = tempfile::tempdir().expect("a folder");
        let at = |name: &str| all.path().join(name);
        fs::write(at("file"), "old").expect("a file");
        symlink("nothing", at("dangling")).expect("a link");
        let table = [
            (Form::Archive, "", "is a folder"),
            (Form::Archive, "dangling", "No such file"),
            (Form::Archive, "new/", "names no file"),
            (Form::Archive, "missing/new", "missing: No such file"),
            (Form::Archive, "file/new", "Not a directory"),
            (Form::Folder, "", "not empty"),
            (Form::Folder, "file", "no folder"),
            (Form::Folder, "missing/new", "missing: No such file"),
            (Form::Folder, "missing/..", "names no file or folder"),
        ];
        for (form, name, expected) in table {
            let error = OutputPath::of(&at(name), form).expect_err(name).to_string();
            assert!(error.contains(expected), "{name}: {error}");
        }
        let device = OutputPath::of(Path::new("/dev/null"), Form::Archive);
        let device = device.expect_err("a device").to_string();
        assert!(device.contains("no regular file"), "{device}");
        let root = OutputPath::of(Path::new("/"), Form::Folder).expect_err("not empty");
        assert!(root.to_string().contains("root folder"), "{root}");
    }

    #[test]
    fn a_new_file_gets_the_permissions_of_the_replaced_one() {
        let all = tempfile::tempdir().expect("a folder");
        let old = all.path().join("old");
        fs::write(&old, "old").expect("a file");
        fs::set_permissions(&old, fs::Permissions::from_mode(0o640)).expect("permissions");
        let new = File::create(all.path().join("new")).expect("a file");
        let output = OutputPath::of(&old, Form::Archive).expect("a path");
        output.copy_permissions(&new).expect("permissions");
        let mode = new.metadata().expect("looked").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }

    #[test]
    fn a_new_folder_gets_the_permissions_of_the_replaced_one() {
        let all = tempfile::tempdir().expect("a folder");
        let (old, new) = (all.path().join("old"), all.path().join("new"));
        for mode in [0o700, 0o2770] {
            let _ = fs::remove_dir(&new);
            fs::create_dir(&new).expect("a folder");
            let _ = fs::create_dir(&old);
            fs::set_permissions(&old, fs::Permissions::from_mode(mode)).expect("permissions");
            let output = OutputPath::of(&old, Form::Folder).expect("a path");
            output.copy_owner_and_permissions(&new).expect("copied");
            let found = fs::metadata(&new).expect("looked").permissions().mode();
            assert_eq!(found & 0o7777, mode);
        }
        fs::remove_dir(&old).expect("an empty folder");
        let output = OutputPath::of(&old, Form::Folder).expect("a path");
        let copied = output.copy_owner_and_permissions(&new);
        copied.expect("there is nothing to copy");
    }

    #[test]
    #[ignore = "needs root"]
    fn a_new_folder_gets_the_owner_and_the_group_of_the_replaced_one() {
        let all = tempfile::tempdir().expect("a folder");
        let (old, new) = (all.path().join("old"), all.path().join("new"));
        fs::create_dir(&old).expect("a folder");
        fs::create_dir(&new).expect("a folder");
        std::os::unix::fs::chown(&old, Some(54321), Some(1)).expect("given away");
        fs::set_permissions(&old, fs::Permissions::from_mode(0o2770)).expect("permissions");
        let output = OutputPath::of(&old, Form::Folder).expect("a path");
        output.copy_owner_and_permissions(&new).expect("copied");
        let found = fs::metadata(&new).expect("looked");
        assert_eq!((found.uid(), found.gid()), (54321, 1));
        assert_eq!(found.permissions().mode() & 0o7777, 0o2770);
    }

    #[test]
    fn the_current_folder_is_recognized_by_any_path() {
        let current = std::env::current_dir().expect("a folder");
        for path in [Path::new("."), &current, &current.join("src/..")] {
            assert!(is_current(&fs::metadata(path).expect("looked")));
        }
        assert!(!is_current(&fs::metadata("src").expect("looked")));
    }
}
