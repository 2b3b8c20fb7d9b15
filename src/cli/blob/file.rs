//! A blob in a file. The file gets its name only when the blob is complete and right.

use std::fs::Permissions;
use std::io::{self, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use longshore::oci_spec::image::Digest;
use longshore::{Fetcher, Image};
use tempfile::{Builder, NamedTempFile};

use super::{pass_on, unless_write_fails};
use crate::cli::args::Form;
use crate::cli::failure::Failure;
use crate::cli::output_path::{OutputPath, sync_folder};

/// The error of a temporary file that can't be made in this folder, without the name of that file.
fn of_folder(kind: io::ErrorKind, folder: &Path) -> io::Error {
    io::Error::new(kind, format!("its folder {}: {kind}", folder.display()))
}

/// A file that does not have its name yet. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Destination {
    file: NamedTempFile,
    output: OutputPath,
}

impl Destination {
    /// Makes a temporary file in the folder of this path. Blocks.
    pub(super) fn new(path: &Path) -> Result<Self, Failure> {
        let made = Self::temporary(path);
        made.map_err(Failure::of_output(&path.display().to_string()))
    }

    fn temporary(path: &Path) -> io::Result<Self> {
        let output = OutputPath::of(path, Form::Archive)?;
        let file = Builder::new()
            .prefix(".longshore-blob-")
            // A new file has these permissions. The umask is applied to them.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(output.parent())
            .map_err(|error| of_folder(error.kind(), output.parent()))?;
        output.copy_permissions(file.as_file())?;
        Ok(Self { file, output })
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
        self.file.persist(self.output.path())?;
        sync_folder(self.output.parent())
    }
}
