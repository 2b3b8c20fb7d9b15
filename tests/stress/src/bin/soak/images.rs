//! The images that are pulled, and the check of the results.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use longshore::oci_spec::image::{Descriptor, Digest};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use test_registry::image::{ImageBuilder, Written};

/// The files that may be in a layout.
const LAYOUT: [&str; 4] = [".longshore.lock", "blobs", "index.json", "oci-layout"];

/// Some images in one OCI layout. Their tags are their numbers.
#[derive(Debug)]
pub(crate) struct Images {
    folder: TempDir,
    pub(crate) images: Vec<Written>,
}

/// The result of a check.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// The number of complete blobs.
    pub(crate) blobs: usize,
    pub(crate) bytes: u64,
    /// Blobs whose bytes do not match their digest.
    pub(crate) wrong: Vec<String>,
    /// Blobs that should be there and are not, and files that should not be there.
    pub(crate) astray: Vec<String>,
}

impl Images {
    pub(crate) fn make() -> io::Result<Self> {
        let sizes: [&[u64]; 4] = [
            &[3_000_000],
            &[100_000; 6],
            &[10_000; 40],
            &[0, 1, 4_096, 65_536, 1_000_000, 4_000_000, 300_000],
        ];
        let numbered = |image: usize| (1000 * image as u64..).zip(sizes[image].iter().copied());
        let mut layers: Vec<Vec<(u64, u64)>> = (0..sizes.len())
            .map(|image| numbered(image).collect())
            .collect();
        // These two share layers with others.
        layers.push(numbered(1).chain([(5000, 200_000)]).collect());
        layers.push(numbered(2).take(20).chain(numbered(1)).collect());
        let folder = tempfile::tempdir()?;
        let mut images = Vec::new();
        for layers in layers {
            let start = ImageBuilder::new();
            let image = (layers.into_iter())
                .fold(start, |image, (seed, size)| image.layer_random(size, seed));
            images.push(image.write(folder.path(), &images.len().to_string())?);
        }
        Ok(Self { folder, images })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// The digest of some bytes, computed without the library.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut digest = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        // Writing to a string can't fail.
        let _ = write!(digest, "{byte:02x}");
    }
    digest
}

/// The images that a layout must name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Named<'a> {
    /// Exactly these. If there are none, there need not be a layout.
    Exactly(&'a [&'a Written]),
    /// Some of these.
    Some(&'a [Written]),
}

/// Checks that every blob in the layout is complete, that nothing else is there, and that everything of each
/// image is there that the layout names.
pub(crate) fn check_layout(layout: &Path, expected: Named<'_>) -> Checked {
    let mut checked = Checked::default();
    let may_be_none = matches!(expected, Named::Exactly([]) | Named::Some(_));
    if may_be_none && !layout.join("oci-layout").exists() {
        return checked;
    }
    check_blobs(&layout.join("blobs/sha256"), &mut checked);
    for name in names(layout) {
        if !LAYOUT.contains(&&*name) {
            checked.astray.push(name);
        }
    }
    let index = fs::read(layout.join("index.json")).unwrap_or_default();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap_or_default();
    let manifests = index["manifests"].as_array().into_iter().flatten();
    let named: BTreeSet<&str> = manifests
        .filter_map(|manifest| manifest["digest"].as_str())
        .collect();
    let images: Vec<&Written> = match expected {
        Named::Exactly(images) => images.to_vec(),
        Named::Some(images) => {
            let images = images.iter();
            images
                .filter(|image| named.contains(image.manifest_digest.as_ref()))
                .collect()
        }
    };
    let expected = images.iter().map(|image| image.manifest_digest.as_ref());
    let expected: BTreeSet<&str> = expected.collect();
    if named != expected {
        let what = format!("the index names {named:?} instead of {expected:?}");
        checked.astray.push(what);
    }
    for digest in images.into_iter().flat_map(digests) {
        if !layout.join("blobs/sha256").join(digest.digest()).exists() {
            checked.astray.push(format!("{digest} is missing"));
        }
    }
    checked
}

fn check_blobs(folder: &Path, checked: &mut Checked) {
    for name in names(folder) {
        match fs::read(folder.join(&name)) {
            Ok(bytes) if sha256(&bytes) == format!("sha256:{name}") => {
                checked.blobs += 1;
                checked.bytes += bytes.len() as u64;
            }
            Ok(_) => checked.wrong.push(name),
            Err(error) => checked.astray.push(format!("{name}: {error}")),
        }
    }
}

/// The digests of all blobs of an image.
fn digests(image: &Written) -> impl Iterator<Item = &Digest> {
    let layers = image.layers.iter().map(Descriptor::digest);
    layers.chain([&image.config_digest, &image.manifest_digest])
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}
