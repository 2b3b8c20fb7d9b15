//! Changes an `index.json`, and keeps what other tools have put there.

use std::collections::{BTreeMap, HashSet};
use std::io;

use oci_spec::image::Descriptor;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::reach::{invalid, reason};
use crate::fetch::document::{self, is_same_key};

/// The annotation that contains the name of an image in a layout (image-spec, `annotations.md`).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The key of the list of images.
const MANIFESTS: &str = "manifests";

pub(super) fn empty() -> Vec<u8> {
    json!({ "schemaVersion": 2, "manifests": [] })
        .to_string()
        .into_bytes()
}

/// Returns an error if images can't be added to this index.
pub(super) fn check(index: &[u8]) -> io::Result<()> {
    Index::parse(index).map(drop)
}

/// An index, as pieces of its text. If it were parsed completely, it would need ten times the memory.
struct Index<'a> {
    /// All members except the list of manifests.
    members: BTreeMap<String, &'a RawValue>,
    manifests: Vec<&'a RawValue>,
}

impl<'a> Index<'a> {
    /// Parses an index. A missing list of manifests is an empty one, and so is `null`, which `umoci init` writes.
    fn parse(index: &'a [u8]) -> io::Result<Self> {
        let not_json = |error| invalid(format!("index.json is no JSON: {error}"));
        let wrong = |reason: &str| invalid(format!("index.json {reason}"));
        let whole: &RawValue = serde_json::from_slice(index).map_err(not_json)?;
        let all: BTreeMap<String, &RawValue> =
            serde_json::from_str(whole.get()).map_err(|_| wrong("is no JSON object"))?;
        // Go ignores the case of this key, and most tools that read layouts are written in Go.
        let (lists, members): (BTreeMap<_, _>, _) =
            (all.into_iter()).partition(|(key, _)| is_same_key(key, MANIFESTS));
        if lists.len() > 1 {
            return Err(wrong(
                "has two lists of manifests (in keys, upper and lower case are the same)",
            ));
        }
        let list = lists.values().next();
        let manifests = list.map_or(Ok(None), |list| serde_json::from_str(list.get()));
        let manifests: Option<_> = manifests.map_err(|_| wrong("has no list of manifests"))?;
        Ok(Self {
            members,
            manifests: manifests.unwrap_or_default(),
        })
    }

    fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut members = self.members.clone();
        let manifests = to_raw_value(&self.manifests)?;
        members.insert(MANIFESTS.into(), &manifests);
        Ok(serde_json::to_vec(&members)?)
    }
}

/// An entry of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub(super) descriptor: Descriptor,
    /// The name of the image in the layout.
    pub(super) name: Option<String>,
}

impl IndexEntry {
    /// The name, or else the digest.
    pub(super) fn name_or_digest(&self) -> &str {
        let digest = self.descriptor.digest().as_ref();
        self.name.as_deref().unwrap_or(digest)
    }
}

/// The entries of the index, in order. Returns an error if one of them names no blob.
pub(super) fn entries(index: &[u8]) -> io::Result<Vec<IndexEntry>> {
    let entry = |entry: &&RawValue| {
        let entry = document::descriptor(entry.get().as_bytes(), "entry");
        let descriptor = entry.map_err(|error| {
            let reason = reason(&error);
            invalid(format!("index.json can't be understood: {reason}"))
        })?;
        let annotations = descriptor.annotations().as_ref();
        let name = annotations.and_then(|all| all.get(REF_NAME)).cloned();
        Ok(IndexEntry { descriptor, name })
    };
    Index::parse(index)?.manifests.iter().map(entry).collect()
}

/// Adds images to the index, each with its name in the layout, in this order.
///
/// An old entry is removed if it has one of these names, or if it has no name and is of one of these images.
pub(super) fn with_images(
    index: &[u8],
    images: &[(Descriptor, Option<String>)],
) -> io::Result<Vec<u8>> {
    let mut index = Index::parse(index)?;
    let (mut names, mut digests) = (HashSet::new(), HashSet::new());
    let mut entries = Vec::with_capacity(images.len());
    // The loop begins at the end, because a later image replaces an earlier one of the same name.
    for (image, name) in images.iter().rev() {
        let is_first_of_digest = digests.insert(image.digest().to_string());
        let is_kept = match name.as_deref() {
            Some(name) => names.insert(name),
            None => is_first_of_digest,
        };
        if is_kept {
            let mut entry = serde_json::to_value(image)?;
            if let Some(name) = name {
                entry["annotations"][REF_NAME] = json!(name);
            }
            entries.push(to_raw_value(&entry)?);
        }
    }
    let is_replaced = |entry: &RawValue| {
        let entry: Value = serde_json::from_str(entry.get()).unwrap_or_default();
        match entry["annotations"][REF_NAME].as_str() {
            Some(name) => names.contains(name),
            None => (entry["digest"].as_str()).is_some_and(|digest| digests.contains(digest)),
        }
    };
    index.manifests.retain(|entry| !is_replaced(entry));
    index
        .manifests
        .extend(entries.iter().rev().map(Box::as_ref));
    index.to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::image::{Digest, MediaType};

    fn image(digit: char) -> Descriptor {
        let digest: Digest = format!("sha256:{}", digit.to_string().repeat(64))
            .parse()
            .expect("a digest");
        Descriptor::new(MediaType::ImageManifest, 7, digest)
    }

    /// The name and the first digit of each entry after these images have been added.
    fn entries(start: &[u8], added: &[(char, Option<&str>)]) -> Vec<(Option<String>, char)> {
        let images: Vec<_> = (added.iter())
            .map(|(digit, tag)| (image(*digit), tag.map(str::to_owned)))
            .collect();
        let mut index = start.to_vec();
        for image in &images {
            index = with_images(&index, std::slice::from_ref(image)).expect("fine");
        }
        let together = with_images(start, &images).expect("fine");
        assert_eq!(together, index, "at once as one after the other: {added:?}");
        let index: Value = serde_json::from_slice(&index).expect("JSON");
        let entry = |entry: &Value| {
            let digest = entry["digest"].as_str().expect("a digest");
            let name = entry["annotations"][REF_NAME].as_str().map(str::to_owned);
            (name, digest.chars().nth(7).expect("a digit"))
        };
        index["manifests"]
            .as_array()
            .expect("a list")
            .iter()
            .map(entry)
            .collect()
    }

    #[test]
    fn a_name_moves_to_the_new_image_and_other_images_stay() {
        let named = |name: &str, digit| (Some(name.to_owned()), digit);
        let table = [
            (vec![('a', Some("x"))], vec![named("x", 'a')]),
            (
                vec![('a', Some("x")), ('b', Some("x"))],
                vec![named("x", 'b')],
            ),
            (
                vec![('a', Some("x")), ('a', Some("y"))],
                vec![named("x", 'a'), named("y", 'a')],
            ),
            (vec![('a', None), ('a', None)], vec![(None, 'a')]),
            (
                vec![('a', None), ('b', None)],
                vec![(None, 'a'), (None, 'b')],
            ),
            (vec![('a', None), ('a', Some("x"))], vec![named("x", 'a')]),
            (
                vec![('a', Some("x")), ('a', None)],
                vec![named("x", 'a'), (None, 'a')],
            ),
        ];
        for (added, expected) in table {
            assert_eq!(entries(&empty(), &added), expected, "{added:?}");
        }
    }

    #[test]
    fn entries_are_read_with_their_names() {
        let images = [(image('a'), Some("x".to_owned())), (image('b'), None)];
        let index = with_images(&empty(), &images).expect("fine");
        let read = super::entries(&index).expect("fine");
        let shown: Vec<_> = read.iter().map(IndexEntry::name_or_digest).collect();
        assert_eq!(shown, ["x", images[1].0.digest().as_ref()]);
        for damaged in ["", r#"{"manifests":[{"size":7}]}"#, r#"{"manifests":[7]}"#] {
            super::entries(damaged.as_bytes()).expect_err(damaged);
        }
    }

    #[test]
    fn members_that_other_tools_wrote_are_kept() {
        let start = br#"{"schemaVersion":2,"manifests":[{"digest":"sha256:0","extra":1}],"x":2}"#;
        let changed = with_images(start, &[(image('a'), Some("t".into()))]).expect("fine");
        let changed: Value = serde_json::from_slice(&changed).expect("JSON");
        assert_eq!(changed["x"], 2);
        assert_eq!(changed["manifests"][0]["extra"], 1);
    }

    #[test]
    fn a_list_under_a_key_in_another_case_is_understood() {
        let start = entries(&empty(), &[('b', Some("old"))]);
        assert_eq!(start.len(), 1);
        let index = with_images(&empty(), &[(image('b'), Some("old".into()))]).expect("fine");
        let index = String::from_utf8(index)
            .expect("text")
            .replace("\"manifests\"", "\"Manifests\"");
        let both = entries(index.as_bytes(), &[('a', Some("new"))]);
        assert_eq!(
            both,
            [(Some("old".to_owned()), 'b'), (Some("new".to_owned()), 'a')]
        );
    }

    #[test]
    fn a_damaged_index_is_an_error() {
        let two_lists = r#"{"manifests":[],"Manifests":[]}"#;
        for damaged in ["", "[]", "null", r#"{"manifests":7}"#, two_lists] {
            assert!(
                with_images(damaged.as_bytes(), &[(image('a'), None)]).is_err(),
                "{damaged}"
            );
            assert!(check(damaged.as_bytes()).is_err(), "{damaged}");
        }
    }

    #[test]
    fn an_index_without_manifests_is_an_empty_one() {
        for empty in ["{}", r#"{"manifests":null}"#, r#"{"manifests":[]}"#] {
            check(empty.as_bytes()).expect(empty);
            let added = entries(empty.as_bytes(), &[('a', Some("x"))]);
            assert_eq!(added, [(Some("x".to_owned()), 'a')], "{empty}");
        }
    }
}
