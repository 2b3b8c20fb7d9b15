//! The blobs of a layout, by their digests.

use std::fs::File;
use std::io;

use oci_spec::image::Digest;

use super::BLOBS;
use super::folder::Folder;

/// The folder of the blobs of this digest's algorithm. `None` if there is none.
pub(super) fn folder_of(root: &Folder, digest: &Digest) -> io::Result<Option<Folder>> {
    let folder = root
        .open(BLOBS)
        .and_then(|blobs| blobs.open(digest.algorithm().as_ref()));
    match folder {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// The content of a blob of at most `max` bytes. `None` if there is no such blob.
pub(super) fn read(root: &Folder, digest: &Digest, max: u64) -> io::Result<Option<Vec<u8>>> {
    match folder_of(root, digest)? {
        Some(folder) => folder.read(digest.digest(), max),
        None => Ok(None),
    }
}

/// Opens a blob. `None` if there is no such blob.
pub(super) fn open(root: &Folder, digest: &Digest) -> io::Result<Option<File>> {
    match folder_of(root, digest)? {
        Some(folder) => folder.open_file(digest.digest()),
        None => Ok(None),
    }
}

/// The size of a blob in bytes. `None` if there is no such blob, or if it is no plain file.
pub(super) fn size_of(root: &Folder, digest: &Digest) -> io::Result<Option<u64>> {
    match folder_of(root, digest)? {
        Some(folder) => folder.size_of(digest.digest()),
        None => Ok(None),
    }
}

/// The digests of all blobs, sorted. Files whose name is no digest are left out.
pub(super) fn all(root: &Folder) -> io::Result<Vec<Digest>> {
    let mut all = Vec::new();
    let blobs = match root.open(BLOBS) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(all),
        blobs => blobs?,
    };
    for algorithm in blobs.names()? {
        let Ok(folder) = blobs.open(&algorithm) else {
            // Other entries are not ours.
            continue;
        };
        for name in folder.names()? {
            let digest = format!("{}:{}", algorithm.display(), name.display());
            all.extend(digest.parse::<Digest>());
        }
    }
    all.sort_by(|one, other| one.as_ref().cmp(other.as_ref()));
    Ok(all)
}
