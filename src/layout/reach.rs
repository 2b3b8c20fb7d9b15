//! Follows what the index of a layout names: indexes, manifests, configs and layers.

use std::collections::HashMap;
use std::io;

use oci_spec::image::{Descriptor, Digest, ImageManifest, MediaType};
use tokio_util::sync::CancellationToken;

use super::blobs;
use super::folder::Folder;
use crate::error::{Error, Result};
use crate::fetch::{document, is_foreign};
use crate::words::printable;

/// How deep indexes may be nested. No real image needs more.
const MAX_DEPTH: usize = 4;

/// The maximum size of a document that is parsed, in bytes.
pub(super) const MAX_DOCUMENT_BYTES: u64 = 64 * 1024 * 1024;

/// The kind of document that names another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NamedBy {
    /// The index of the layout.
    Layout,
    /// Another index.
    Index,
    /// A document that names the other one as its `subject` (image-spec, `descriptor.md`). A subject may be missing.
    Referrer,
}

/// A visitor of everything that a document names, directly or through other documents.
pub(super) trait Visitor {
    /// Returns the bytes of a manifest or index. `None` means that it is not followed.
    fn document(&mut self, named: &Descriptor, by: NamedBy) -> io::Result<Option<Vec<u8>>>;

    /// Handles the end of a document that was followed. All that it names was handled.
    fn followed(&mut self) {}

    /// Handles an image that is followed. The blobs of the image are handled afterwards.
    fn image(&mut self, manifest: &ImageManifest, raw: &[u8]) -> io::Result<()> {
        let _ = (manifest, raw);
        Ok(())
    }

    /// Handles a config or a layer of an image.
    fn blob(&mut self, named: &Descriptor) -> io::Result<()>;

    /// Handles a document that is neither an image nor an index. The index of a layout may name
    /// anything (image-spec, `image-layout.md`).
    fn other(&mut self, named: &Descriptor, raw: &[u8]) -> io::Result<()>;

    /// Handles a manifest or index that can't be understood, so that it is not followed.
    fn not_understood(&mut self, named: &Descriptor, error: Error) -> io::Result<()>;
}

/// Follows this document, which the index of the layout names.
pub(super) fn follow(visitor: &mut impl Visitor, named: &Descriptor) -> io::Result<()> {
    follow_from(visitor, named, NamedBy::Layout)
}

/// Follows this document, which a document of this kind names.
pub(super) fn follow_from(
    visitor: &mut impl Visitor,
    named: &Descriptor,
    by: NamedBy,
) -> io::Result<()> {
    follow_at(visitor, named, by, MAX_DEPTH)
}

fn follow_at(
    visitor: &mut impl Visitor,
    named: &Descriptor,
    by: NamedBy,
    deeper: usize,
) -> io::Result<()> {
    if let Some(raw) = visitor.document(named, by)? {
        follow_names(visitor, named, &raw, deeper)?;
        visitor.followed();
    }
    Ok(())
}

/// Follows what this document names.
fn follow_names(
    visitor: &mut impl Visitor,
    named: &Descriptor,
    raw: &[u8],
    deeper: usize,
) -> io::Result<()> {
    let Some(deeper) = deeper.checked_sub(1) else {
        let reason = "documents that name documents are nested too deeply".to_owned();
        return visitor.not_understood(named, Error::Image(reason));
    };
    let document = match parse(named, raw) {
        Ok(document) => document,
        Err(error) => return visitor.not_understood(named, error),
    };
    match document {
        Document::Index(entries) => {
            for entry in entries {
                let named = Descriptor::new(entry.media_type, entry.size, entry.digest);
                follow_at(visitor, &named, NamedBy::Index, deeper)?;
            }
        }
        Document::Image(manifest) => {
            visitor.image(&manifest, raw)?;
            visitor.blob(manifest.config())?;
            for layer in manifest.layers() {
                visitor.blob(layer)?;
            }
        }
        Document::Other => visitor.other(named, raw)?,
    }
    match document::subject(raw) {
        Ok(Some(subject)) => follow_at(visitor, &subject, NamedBy::Referrer, deeper),
        _ => Ok(()),
    }
}

enum Document {
    Index(Vec<document::Entry>),
    Image(Box<ImageManifest>),
    Other,
}

fn parse(named: &Descriptor, raw: &[u8]) -> Result<Document> {
    let understood = match document::index(raw) {
        Ok(Some(entries)) => Ok(Document::Index(entries)),
        Ok(None) => document::manifest(raw).map(|manifest| Document::Image(Box::new(manifest))),
        Err(error) => Err(error),
    };
    match understood {
        Err(_) if !is_image_or_index(named.media_type()) => Ok(Document::Other),
        other => other,
    }
}

/// Whether a document of this type must be an image or an index. A document of no type or another type can be anything.
pub(super) fn is_image_or_index(media_type: &MediaType) -> bool {
    matches!(
        media_type.as_ref(),
        "application/vnd.oci.image.index.v1+json"
            | "application/vnd.oci.image.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json"
            | "application/vnd.docker.distribution.manifest.v2+json"
    )
}

/// Returns an error unless these manifests and indexes, and every blob that they name, are there with their sizes, so
/// that the index of the layout may name them. Foreign layers are not checked, because they are stored
/// elsewhere. Digests are not computed: each blob was verified when it got its name.
///
/// Returns an error soon after `stop` is cancelled.
pub(super) fn check<'a>(
    root: &Folder,
    all: impl IntoIterator<Item = &'a Descriptor>,
    stop: &CancellationToken,
) -> io::Result<()> {
    let mut check = Check {
        root,
        stop,
        documents: HashMap::new(),
        blobs: HashMap::new(),
    };
    for named in all {
        follow(&mut check, named)?;
    }
    Ok(())
}

/// The check of what documents name. It looks for each blob once, however often the documents name it, so the work and
/// the memory are bounded by the blobs of the layout.
struct Check<'a> {
    root: &'a Folder,
    stop: &'a CancellationToken,
    /// The sizes of the documents that were read, in bytes.
    documents: HashMap<Digest, u64>,
    /// The sizes of the other blobs that were found, in bytes.
    blobs: HashMap<Digest, u64>,
}

impl Check<'_> {
    fn check_stopped(&self) -> io::Result<()> {
        if self.stop.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(())
    }
}

impl Visitor for Check<'_> {
    fn document(&mut self, named: &Descriptor, by: NamedBy) -> io::Result<Option<Vec<u8>>> {
        self.check_stopped()?;
        if by == NamedBy::Referrer {
            return Ok(None);
        }
        let digest = named.digest();
        if self.documents.get(digest) == Some(&named.size()) {
            return Ok(None);
        }
        let raw = blobs::read(self.root, digest, MAX_DOCUMENT_BYTES)?;
        let raw = raw.filter(|raw| raw.len() as u64 == named.size());
        let raw = raw.ok_or_else(|| missing(named))?;
        self.documents.insert(digest.clone(), named.size());
        Ok(Some(raw))
    }

    fn blob(&mut self, named: &Descriptor) -> io::Result<()> {
        let digest = named.digest();
        if is_foreign(named) || self.blobs.get(digest) == Some(&named.size()) {
            return Ok(());
        }
        self.check_stopped()?;
        if blobs::size_of(self.root, digest)? != Some(named.size()) {
            return Err(missing(named));
        }
        self.blobs.insert(digest.clone(), named.size());
        Ok(())
    }

    fn other(&mut self, named: &Descriptor, _: &[u8]) -> io::Result<()> {
        let digest = named.digest();
        Err(invalid(format!(
            "{digest} is neither an image nor an index"
        )))
    }

    fn not_understood(&mut self, _: &Descriptor, error: Error) -> io::Result<()> {
        Err(invalid(reason(&error)))
    }
}

fn missing(blob: &Descriptor) -> io::Error {
    invalid(format!(
        "blob {} of {} bytes is not there, or has another size; somebody else has changed the folder: \
         pull again",
        blob.digest(),
        blob.size()
    ))
}

/// Returns the reason why a document can't be understood, in a form that can be shown.
pub(super) fn reason(error: &Error) -> String {
    printable(&match error {
        Error::Image(reason) => reason.clone(),
        Error::Decode { source, .. } => format!("{error}: {source}"),
        error => error.to_string(),
    })
}

pub(super) fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::super::testing::TestLayout;
    use super::*;

    /// A layout with an index of one image with one layer: the layout, the index, and the descriptors of the blobs.
    fn layout() -> (TestLayout, Descriptor, Vec<Value>) {
        let layout = TestLayout::new();
        let config = layout.put(b"{}");
        let layer = layout.put(b"layer");
        let manifest = layout.put_json(&json!({ "config": config, "layers": [layer] }));
        let index = layout.put_json(&json!({ "manifests": [manifest] }));
        let named = serde_json::from_value(index.clone()).expect("a descriptor");
        (layout, named, vec![config, layer, manifest, index])
    }

    fn check(root: &Folder, named: &Descriptor) -> io::Result<()> {
        super::check(root, [named], &CancellationToken::new())
    }

    #[test]
    fn blobs_that_an_index_names_must_exist_with_their_size() {
        let (layout, named, blobs) = layout();
        let root = layout.root();
        check(&root, &named).expect("all is there");
        for blob in blobs {
            let path = layout.path_of(&blob);
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

    /// Checks an index that names a large manifest ten thousand times. If each were checked, this test would
    /// take very long.
    #[test]
    fn a_document_that_is_named_many_times_is_checked_once() {
        let layout = TestLayout::new();
        let root = layout.root();
        let config = layout.put(b"{}");
        let layers = vec![layout.put(b"layer"); 1000];
        let manifest = layout.put_json(&json!({ "config": config, "layers": layers }));
        let manifests = vec![manifest.clone(); 10_000];
        let index = layout.put_json(&json!({ "manifests": manifests }));
        let named: Descriptor = serde_json::from_value(index.clone()).expect("a descriptor");
        super::check(&root, vec![&named; 1000], &CancellationToken::new()).expect("all is there");

        // What is remembered counts only with its size.
        let mut wrong = manifest.clone();
        wrong["size"] = json!(1);
        let index = layout.put_json(&json!({ "manifests": [manifest, wrong] }));
        let named = serde_json::from_value(index).expect("a descriptor");
        check(&root, &named).expect_err("a wrong size");
    }

    #[test]
    fn a_check_can_be_stopped() {
        let (layout, named, _) = layout();
        let stop = CancellationToken::new();
        stop.cancel();
        let error = super::check(&layout.root(), [&named], &stop).expect_err("stopped");
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn nested_indexes_have_a_maximum_depth() {
        let (layout, _, blobs) = layout();
        let root = layout.root();
        let mut index = blobs[3].clone();
        for depth in 2..10 {
            let outer = json!({ "manifests": [index] });
            index = layout.put_json(&outer);
            let named = serde_json::from_value(index.clone()).expect("a descriptor");
            assert_eq!(check(&root, &named).is_ok(), depth < MAX_DEPTH, "{depth}");
        }
    }
}
