//! Checks that everything that a manifest or index names is in the layout, before the index of the layout
//! names it.

use std::io;

use oci_spec::image::Descriptor;

use super::BLOBS;
use super::folder::Folder;
use crate::fetch::{document, is_foreign};

/// How deep indexes may be nested. No real image needs more.
const DEEPEST: usize = 4;

/// The maximum size of a document that is parsed, in bytes.
const MAX_DOCUMENT_BYTES: u64 = 64 * 1024 * 1024;

/// Returns an error unless this manifest or index, and every blob that it names, is there with its size.
/// Foreign layers are not checked, because they are stored elsewhere. Digests are not computed: each blob was
/// verified when it got its name.
pub(super) fn check(root: &Folder, named: &Descriptor) -> io::Result<()> {
    check_at(root, named, DEEPEST)
}

fn check_at(root: &Folder, named: &Descriptor, deeper: usize) -> io::Result<()> {
    let Some(deeper) = deeper.checked_sub(1) else {
        return Err(invalid("an index names an index too often".into()));
    };
    let raw = blobs(root, named)?.read(named.digest().digest(), MAX_DOCUMENT_BYTES)?;
    let raw = raw.ok_or_else(|| missing(named))?;
    if raw.len() as u64 != named.size() {
        return Err(missing(named));
    }
    let odd = |error: crate::Error| invalid(error.to_string());
    if let Some(entries) = document::index(&raw).map_err(odd)? {
        for entry in entries {
            let named = Descriptor::new(entry.media_type, entry.size, entry.digest);
            check_at(root, &named, deeper)?;
        }
        return Ok(());
    }
    let manifest = document::manifest(&raw).map_err(odd)?;
    let layers = manifest.layers().iter().filter(|layer| !is_foreign(layer));
    for blob in std::iter::once(manifest.config()).chain(layers) {
        let found = blobs(root, blob)?.size_of(blob.digest().digest())?;
        if found != Some(blob.size()) {
            return Err(missing(blob));
        }
    }
    Ok(())
}

fn blobs(root: &Folder, blob: &Descriptor) -> io::Result<Folder> {
    let folder = root.open(BLOBS)?.open(blob.digest().algorithm().as_ref());
    folder.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => missing(blob),
        _ => error,
    })
}

fn missing(blob: &Descriptor) -> io::Error {
    invalid(format!(
        "blob {} of {} bytes is not there, or has another size; somebody else has changed the folder: \
         pull again",
        blob.digest(),
        blob.size()
    ))
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;
    use crate::drain::verify::sha256;

    fn put(folder: &Path, bytes: &[u8]) -> Value {
        let digest = sha256(bytes);
        fs::write(folder.join("blobs/sha256").join(digest.digest()), bytes).expect("a blob");
        json!({ "mediaType": "x", "digest": digest, "size": bytes.len() })
    }

    /// A layout with an index of one image with one layer: its folder, the index, and the descriptors of
    /// the blobs.
    fn layout() -> (tempfile::TempDir, Descriptor, Vec<Value>) {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("blobs/sha256")).expect("a folder");
        let config = put(folder.path(), b"{}");
        let layer = put(folder.path(), b"layer");
        let manifest = json!({ "config": config, "layers": [layer] });
        let manifest = put(folder.path(), manifest.to_string().as_bytes());
        let index = json!({ "manifests": [manifest] });
        let index = put(folder.path(), index.to_string().as_bytes());
        let named = serde_json::from_value(index.clone()).expect("a descriptor");
        (folder, named, vec![config, layer, manifest, index])
    }

    #[test]
    fn what_an_index_names_has_to_be_there_with_its_size() {
        let (folder, named, blobs) = layout();
        let root = Folder::at(folder.path()).expect("a folder");
        check(&root, &named).expect("all is there");
        for blob in blobs {
            let name = blob["digest"].as_str().expect("text").replace(':', "/");
            let path = folder.path().join("blobs").join(name);
            let bytes = fs::read(&path).expect("it is there");
            fs::write(&path, &bytes[1..]).expect("written");
            check(&root, &named).expect_err("a byte is missing");
            fs::remove_file(&path).expect("removed");
            let error = check(&root, &named).expect_err("it is missing").to_string();
            assert!(
                error.contains(blob["digest"].as_str().expect("text")),
                "{error}"
            );
            fs::write(&path, &bytes).expect("written");
        }
        check(&root, &named).expect("all is there again");
    }

    #[test]
    fn an_index_in_an_index_has_an_end() {
        let (folder, _, blobs) = layout();
        let root = Folder::at(folder.path()).expect("a folder");
        let mut index = blobs[3].clone();
        for depth in 2..10 {
            let outer = json!({ "manifests": [index] });
            index = put(folder.path(), outer.to_string().as_bytes());
            let named = serde_json::from_value(index.clone()).expect("a descriptor");
            assert_eq!(check(&root, &named).is_ok(), depth < DEEPEST, "{depth}");
        }
    }
}
