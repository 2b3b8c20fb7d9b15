//! A blob in a file. The file gets its name only when the blob is complete and right.

use std::fs::{self, Permissions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use longshore::oci_spec::image::Digest;
use longshore::{Fetcher, Image};
use tempfile::{Builder, NamedTempFile};

use super::{pass_on, unless_write_fails};
use crate::cli::failure::Failure;

/// A file that does not have its name yet. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Destination {
    file: NamedTempFile,
    path: PathBuf,
}

impl Destination {
    /// Makes a temporary file in the folder of this path. Blocks.
    pub(super) fn new(path: &Path) -> Result<Self, Failure> {
        let made = Self::temporary(path);
        made.map_err(Failure::of_output(&path.display().to_string()))
    }

    fn temporary(path: &Path) -> io::Result<Self> {
        let real = real_path(path)?;
        let folder = match real.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let file = Builder::new()
            .prefix(".longshore-blob-")
            // A new file has these permissions. The umask is applied to them.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)?;
        // A file that is replaced keeps its permissions.
        if let Ok(replaced) = fs::metadata(&real) {
            file.as_file().set_permissions(replaced.permissions())?;
        }
        Ok(Self { file, path: real })
    }

    /// Writes a blob, and gives the file its name. Returns the error of the file, if it has one.
    pub(super) async fn write(
        self,
        fetcher: &Fetcher,
        image: &Image,
        digest: &Digest,
    ) -> longshore::Result<io::Result<()>> {
        let file = match self.file.as_file().try_clone() {
            Ok(file) => file,
            Err(error) => return Ok(Err(error)),
        };
        let (failed, failure) = async_channel::bounded(1);
        let fetching = fetcher.for_blob_blocking(image, digest, move |mut reader| {
            let mut file = &file;
            // A try before this one may have left something.
            file.set_len(0)?;
            file.rewind()?;
            pass_on(&mut reader, &failed, |bytes| file.write_all(bytes))
        });
        if let Err(error) = unless_write_fails(&failure, fetching).await? {
            return Ok(Err(error));
        }
        let naming = tokio::task::spawn_blocking(move || self.name());
        Ok(naming
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error))))
    }

    /// Makes the bytes durable, and gives them their name.
    fn name(self) -> io::Result<()> {
        self.file.as_file().sync_all()?;
        self.file.persist(self.path)?;
        Ok(())
    }
}

/// Returns the path of the file to replace or make. A symbolic link is followed. Returns an error if anything but a
/// regular file has this path.
fn real_path(path: &Path) -> io::Result<PathBuf> {
    let wrong = |reason: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_)
            if path.file_name().is_none() || path.as_os_str().to_string_lossy().ends_with('/') =>
        {
            return wrong("it names no file");
        }
        Err(_) => return Ok(path.to_owned()),
        Ok(_) => {}
    }
    let real = fs::canonicalize(path)?;
    let found = fs::metadata(&real)?;
    if found.is_dir() {
        return wrong("it is a folder");
    }
    if !found.is_file() {
        return wrong("it is no regular file; send stdout there");
    }
    Ok(real)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_a_file_can_be_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "old").expect("a file");
        symlink("file", at("link")).expect("a link");
        symlink("nothing", at("dangling")).expect("a link");
        let real = fs::canonicalize(at("file")).expect("it is there");
        assert_eq!(real_path(&at("file")).expect("a file"), real);
        assert_eq!(real_path(&at("link")).expect("a file"), real);
        assert_eq!(real_path(&at("new")).expect("a name"), at("new"));
        for wrong in ["", "dangling", "new/", "file/new"] {
            real_path(&at(wrong)).expect_err(wrong);
        }
        real_path(Path::new("/dev/null")).expect_err("a device");
        real_path(Path::new("")).expect_err("no name");
    }
}
