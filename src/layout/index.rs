//! Changing an `index.json`, without losing what other tools put there.

use std::io;

use oci_spec::image::Descriptor;
use serde_json::{Value, json};

use crate::fetch::document;

/// The annotation that names an image in a layout (image-spec,
/// `annotations.md`).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

pub(super) fn empty() -> Vec<u8> {
    json!({ "schemaVersion": 2, "manifests": [] })
        .to_string()
        .into_bytes()
}

/// Whether images can be added to this index.
pub(super) fn check(index: &[u8]) -> io::Result<()> {
    parsed(index).map(drop)
}

/// An index with a list of manifests: none, or `null`, which `umoci init` writes, is an empty one.
fn parsed(index: &[u8]) -> io::Result<Value> {
    let not_json = |error| invalid(format!("index.json is no JSON: {error}"));
    let mut index: Value = serde_json::from_slice(index).map_err(not_json)?;
    let wrong = |reason: &str| Err(invalid(reason.into()));
    let Some(members) = index.as_object_mut() else {
        return wrong("index.json is no JSON object");
    };
    // By the name that Go finds it under, which reads layouts: in any case.
    let manifests = match document::take(members, "manifests").unwrap_or_default() {
        Value::Null => json!([]),
        list @ Value::Array(_) => list,
        _ => return wrong("index.json has no list of manifests"),
    };
    document::set(members, "manifests", manifests);
    Ok(index)
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// The index with this image in it. An image that had its name goes; so does
/// the same one in an earlier entry without a name.
pub(super) fn with_image(
    index: &[u8],
    image: &Descriptor,
    tag: Option<&str>,
) -> io::Result<Vec<u8>> {
    let mut index = parsed(index)?;
    let Some(manifests) = index["manifests"].as_array_mut() else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let digest = image.digest().to_string();
    let name_of = |entry: &Value| entry["annotations"][REF_NAME].as_str().map(str::to_owned);
    manifests.retain(|entry| match (name_of(entry), tag) {
        (Some(name), Some(tag)) => name != tag,
        (Some(_), None) => true,
        (None, _) => entry["digest"] != digest.as_str(),
    });
    let mut entry = serde_json::to_value(image)?;
    if let Some(tag) = tag {
        entry["annotations"][REF_NAME] = json!(tag);
    }
    manifests.push(entry);
    Ok(index.to_string().into_bytes())
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

    /// Name and first digit of each entry, after adding these.
    fn entries(start: &[u8], added: &[(char, Option<&str>)]) -> Vec<(Option<String>, char)> {
        let mut index = start.to_vec();
        for (digit, tag) in added {
            index = with_image(&index, &image(*digit), *tag).expect("fine");
        }
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
    fn names_move_and_images_stay() {
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
    fn what_others_wrote_is_kept() {
        let start = br#"{"schemaVersion":2,"manifests":[{"digest":"sha256:0","extra":1}],"x":2}"#;
        let changed = with_image(start, &image('a'), Some("t")).expect("fine");
        let changed: Value = serde_json::from_slice(&changed).expect("JSON");
        assert_eq!(changed["x"], 2);
        assert_eq!(changed["manifests"][0]["extra"], 1);
    }

    #[test]
    fn images_in_a_list_of_another_case_stay() {
        let start = entries(&empty(), &[('b', Some("old"))]);
        assert_eq!(start.len(), 1);
        let index = with_image(&empty(), &image('b'), Some("old")).expect("fine");
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
        for damaged in ["", "[]", "null", r#"{"manifests":7}"#] {
            assert!(
                with_image(damaged.as_bytes(), &image('a'), None).is_err(),
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
