//! Makes skopeo's folder of an image (`dir:`) from a layout with that image.
//!
//! The folder has a file `version`, the manifest as `manifest.json`, and each blob under the hexadecimal digits
//! of its digest.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::cli::output_path::sync_folder;

/// What skopeo writes into the file `version`, and demands to find there.
const VERSION: &str = "Directory Transport Version: 1.1\n";

/// Makes the folder, and moves the blobs of the layout into it. The layout must contain only this image. `manifest` is
/// the digest of the image's manifest.
pub(super) fn make(layout: &Path, manifest: &str, folder: &Path) -> io::Result<()> {
    fs::create_dir(folder)?;
    let mut is_found = false;
    for algorithm in fs::read_dir(layout.join("blobs"))? {
        let algorithm = algorithm?;
        for blob in fs::read_dir(algorithm.path())? {
            let (blob, algorithm) = (blob?, algorithm.file_name());
            let (algorithm, hex) = (algorithm.to_string_lossy(), blob.file_name());
            let is_manifest = format!("{algorithm}:{}", hex.display()) == manifest;
            is_found |= is_manifest;
            let name = if is_manifest {
                OsStr::new("manifest.json")
            } else {
                hex.as_os_str()
            };
            fs::rename(blob.path(), folder.join(name))?;
        }
    }
    if !is_found {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the manifest is missing",
        ));
    }
    let mut version = File::create_new(folder.join("version"))?;
    version.write_all(VERSION.as_bytes())?;
    version.sync_all()?;
    // The blobs are durable already.
    sync_folder(folder)
}
