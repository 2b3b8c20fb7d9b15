//! Parses manifests, indexes and configs, as far as a pull needs them. This module is pure.
//!
//! Documents are parsed as Go's package `encoding/json` parses them, because programs written in Go write most
//! documents and run the pulled images.
//!
//! A pull stores documents unchanged. It needs to know only which blobs a manifest names, and which manifests an
//! index names. So nothing else that is unusual in a document stops a pull.

mod node;
#[cfg(test)]
mod tests;

use oci_spec::image::{Descriptor, Digest, ImageManifest, MediaType};
use serde_json::{Map, Value, json};

use self::node::Node;
use crate::error::{Error, Result};

/// A document or a part of it.
#[derive(Debug, Clone, Copy)]
struct Part<'a> {
    /// The kind of the document, for errors.
    what: &'static str,
    node: &'a Node,
}

/// The fields of an index entry that a pull needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) media_type: MediaType,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// The fields of an image config that a pull needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) os: Option<String>,
    pub(crate) architecture: Option<String>,
    pub(crate) variant: Option<String>,
    /// The digests of the uncompressed layers. They are not checked, and may be no digests.
    pub(crate) diff_ids: Vec<String>,
}

/// Parses the manifest of an image: its config, layers, media type, annotations, artifact type and subject. Annotations
/// that are no text are left out, and so are an invalid artifact type and an invalid subject, which no pull needs.
///
/// # Errors
///
/// [`Error::Decode`] if the manifest is no JSON. [`Error::Image`] if it names no config, names a blob without a valid
/// digest or with an invalid size (a missing size is 0), or if one of the keys that are read occurs
/// twice (case is ignored).
pub(crate) fn manifest(raw: &[u8]) -> Result<ImageManifest> {
    let node = parse(raw, "manifest")?;
    let part = Part {
        what: "manifest",
        node: &node,
    };
    let config = part
        .get("config")?
        .ok_or_else(|| part.wrong("names no config"))?;
    let layers = part.list("layers")?;
    let layers: Vec<Value> = layers.map(Part::descriptor).collect::<Result<_>>()?;
    let mut manifest = json!({
        "schemaVersion": 2,
        "config": config.descriptor()?,
        "layers": layers,
    });
    if let Some(media_type) = part.text("mediaType")? {
        manifest["mediaType"] = json!(media_type);
    }
    if let Some(annotations) = part.texts("annotations")? {
        manifest["annotations"] = Value::Object(annotations);
    }
    if let Ok(Some(artifact_type)) = part.text("artifactType") {
        manifest["artifactType"] = json!(artifact_type);
    }
    if let Ok(Some(subject)) = part.get("subject")
        && let Ok(subject) = subject.descriptor()
    {
        manifest["subject"] = subject;
    }
    serde_json::from_value(manifest).map_err(Error::decode("manifest"))
}

/// Parses an index, and returns its entries. `None` if the document has no list of manifests, so it is no index.
///
/// # Errors
///
/// The errors of [`manifest`]. [`Error::Image`] if the document is a manifest as well.
pub(crate) fn index(raw: &[u8]) -> Result<Option<Vec<Entry>>> {
    let entry = |descriptor: Descriptor| Entry {
        media_type: descriptor.media_type().clone(),
        digest: descriptor.digest().clone(),
        size: descriptor.size(),
    };
    let entries = descriptors(raw)?;
    Ok(entries.map(|entries| entries.into_iter().map(entry).collect()))
}

/// Parses an index, and returns its entries with their platforms. `None` if the document is no index. An entry has no
/// platform if it does not name one operating system and one architecture.
///
/// # Errors
///
/// The errors of [`manifest`].
pub(crate) fn descriptors(raw: &[u8]) -> Result<Option<Vec<Descriptor>>> {
    let node = parse(raw, "index")?;
    let part = Part {
        what: "index",
        node: &node,
    };
    if part.get("manifests")?.is_none() {
        return Ok(None);
    }
    for name in ["config", "layers", "fsLayers"] {
        if part.get(name)?.is_some() {
            // Some tools would take the document for an index, others for an image (CVE-2021-41190). skopeo
            // refuses it.
            return Err(part.wrong(format_args!(
                "also has the key {name:?}, which only the manifest of an image may have"
            )));
        }
    }
    let entry = |entry: Part<'_>| {
        let mut descriptor = entry.descriptor()?;
        if let Some(platform) = entry.platform() {
            descriptor["platform"] = platform;
        }
        serde_json::from_value(descriptor).map_err(Error::decode("index"))
    };
    part.list("manifests")?
        .map(entry)
        .collect::<Result<_>>()
        .map(Some)
}

/// Parses a descriptor, such as an entry of an index. `what` is the name of the document in errors.
///
/// # Errors
///
/// The errors of [`manifest`].
pub(crate) fn descriptor(raw: &[u8], what: &'static str) -> Result<Descriptor> {
    let node = parse(raw, what)?;
    let part = Part { what, node: &node };
    serde_json::from_value(part.descriptor()?).map_err(Error::decode(what))
}

/// Returns the descriptor of the document that this one refers to (image-spec, `manifest.md`, `subject`). `None` if
/// there is none.
///
/// # Errors
///
/// The errors of [`manifest`].
pub(crate) fn subject(raw: &[u8]) -> Result<Option<Descriptor>> {
    const WHAT: &str = "manifest";
    let node = parse(raw, WHAT)?;
    let part = Part {
        what: WHAT,
        node: &node,
    };
    let Some(subject) = part.get("subject")? else {
        return Ok(None);
    };
    let subject = serde_json::from_value(subject.descriptor()?);
    subject.map(Some).map_err(Error::decode(WHAT))
}

/// Returns the digests that a document of any kind contains anywhere.
pub(crate) fn digests_in(raw: &[u8]) -> Vec<Digest> {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"=_-+.:".contains(byte);
    raw.split(|byte| !is_part(byte))
        .filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok())
        .collect()
}

/// Parses a config. A field that can't be parsed is empty, because a config may be anything.
pub(crate) fn config(raw: &[u8]) -> Config {
    let Ok(node) = parse(raw, "image config") else {
        return Config::default();
    };
    let part = Part {
        what: "image config",
        node: &node,
    };
    let text = |name| {
        let text = part.text(name).ok().flatten();
        text.filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let rootfs = part.get("rootfs").ok().flatten();
    let diff_ids = rootfs.and_then(|rootfs| rootfs.list("diff_ids").ok());
    let diff_id = |part: Part<'_>| match part.node {
        Node::Text(text) => text.clone(),
        // An invalid value keeps its place, so that the others keep theirs.
        _ => String::new(),
    };
    Config {
        os: text("os"),
        architecture: text("architecture"),
        variant: text("variant"),
        diff_ids: diff_ids.into_iter().flatten().map(diff_id).collect(),
    }
}

fn parse(raw: &[u8], what: &'static str) -> Result<Node> {
    serde_json::from_str(&decode_like_go(raw)).map_err(Error::decode(what))
}

/// Returns the text of a document. Like Go, replaces invalid UTF-8, and each unpaired surrogate, with U+FFFD.
fn decode_like_go(raw: &[u8]) -> String {
    const ESCAPE: usize = "\\u0000".len();
    let mut text = String::from_utf8_lossy(raw).into_owned();
    let unit = |text: &str, at: usize| {
        let digits = text.get(at..at + ESCAPE)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut from = 0;
    while let Some(found) = text[from..].find('\\') {
        let at = from + found;
        from = match (unit(&text, at), unit(&text, at + ESCAPE)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => at + 2 * ESCAPE,
            (Some(0xd800..=0xdfff), _) => {
                text.replace_range(at..at + ESCAPE, "\\ufffd");
                at + ESCAPE
            }
            // The escaped character may be another backslash.
            _ => text[at + 1..]
                .chars()
                .next()
                .map_or(at + 1, |c| at + 1 + c.len_utf8()),
        };
    }
    text
}

/// Parses a document into its members, so that [`take`] and [`set`] can change it.
///
/// # Errors
///
/// [`Error::Decode`] if the document is no JSON object.
pub(crate) fn members(raw: &[u8], what: &'static str) -> Result<Map<String, Value>> {
    serde_json::from_str(&decode_like_go(raw)).map_err(Error::decode(what))
}

/// Removes the member that Go finds by this name, and returns its value.
pub(crate) fn take(members: &mut Map<String, Value>, name: &str) -> Option<Value> {
    let key = members.keys().find(|key| is_same_key(key, name))?.clone();
    members.remove(&key)
}

/// Replaces the member that Go finds by this name, or adds one.
pub(crate) fn set(members: &mut Map<String, Value>, name: &str, value: Value) {
    take(members, name);
    members.insert(name.into(), value);
}

impl<'a> Part<'a> {
    fn wrong(self, problem: impl std::fmt::Display) -> Error {
        Error::image(format!("its {} {problem}", self.what))
    }

    /// The member that Go finds by this name, in upper or lower case. `None` if there is none, or if its value
    /// is `null`.
    fn get(self, name: &str) -> Result<Option<Self>> {
        let Node::Object(members) = self.node else {
            return Ok(None);
        };
        let mut found = members.iter().filter(|(key, _)| is_same_key(key, name));
        let first = found.next();
        if found.next().is_some() {
            // Go takes the last of the members, and other languages take the one in the right case. They would
            // see different images.
            return Err(self.wrong(format_args!(
                "has the key {name:?} more than once (case is ignored)"
            )));
        }
        Ok(first
            .map(|(_, node)| Self { node, ..self })
            .filter(|part| *part.node != Node::Null))
    }

    fn text(self, name: &str) -> Result<Option<&'a str>> {
        Ok(match self.get(name)?.map(|part| part.node) {
            Some(Node::Text(text)) => Some(text.as_str()),
            _ => None,
        })
    }

    /// The elements of the list of this name. A missing list is an empty one.
    fn list(self, name: &str) -> Result<impl Iterator<Item = Self>> {
        let nodes = match self.get(name)?.map(|part| part.node) {
            None => [].iter(),
            Some(Node::List(nodes)) => nodes.iter(),
            Some(_) => {
                return Err(self.wrong(format_args!("has something other than a list as {name:?}")));
            }
        };
        Ok(nodes.map(move |node| Self { node, ..self }))
    }

    /// The members of the object of this name that are text. `None` if there is no such object.
    fn texts(self, name: &str) -> Result<Option<Map<String, Value>>> {
        Ok(match self.get(name)?.map(|part| part.node) {
            Some(Node::Object(members)) => Some(
                members
                    .iter()
                    .filter_map(|(key, node)| match node {
                        Node::Text(text) => Some((key.clone(), json!(text))),
                        _ => None,
                    })
                    .collect(),
            ),
            _ => None,
        })
    }

    /// The platform of an index's entry. `None` if it names no operating system or no architecture, or two.
    fn platform(self) -> Option<Value> {
        let part = self.get("platform").ok()??;
        let text = |name| part.text(name).ok().flatten();
        let mut platform = json!({ "os": text("os")?, "architecture": text("architecture")? });
        // The crate `oci-spec` reads the version of the operating system from the key `os_version`.
        for (name, read_as) in [("variant", "variant"), ("os.version", "os_version")] {
            if let Some(text) = text(name).filter(|text| !text.is_empty()) {
                platform[read_as] = json!(text);
            }
        }
        Some(platform)
    }

    /// The descriptor, with the fields that a pull needs: media type, digest, size, `urls` and annotations.
    fn descriptor(self) -> Result<Value> {
        let digest = self
            .text("digest")?
            .ok_or_else(|| self.wrong("names something without a digest"))?;
        if let Err(error) = digest.parse::<Digest>() {
            return Err(self.wrong(format_args!("names the digest {digest:?}: {error}")));
        }
        let size = match self.get("size")?.map(|part| part.node) {
            Some(Node::Number(number)) => number.as_u64(),
            // In Go, a missing size is 0.
            None => Some(0),
            Some(_) => None,
        };
        let size = size.ok_or_else(|| {
            self.wrong(format_args!(
                "gives {digest} a size that is no number of bytes"
            ))
        })?;
        let media_type = self.text("mediaType")?.unwrap_or_default();
        let mut descriptor = json!({ "mediaType": media_type, "digest": digest, "size": size });
        let urls: Vec<&str> = self
            .list("urls")?
            .filter_map(|part| match part.node {
                Node::Text(text) => Some(text.as_str()),
                _ => None,
            })
            .collect();
        if !urls.is_empty() {
            descriptor["urls"] = json!(urls);
        }
        if let Some(annotations) = self.texts("annotations")? {
            descriptor["annotations"] = Value::Object(annotations);
        }
        Ok(descriptor)
    }
}

/// Whether Go takes `key` for the field `name`. Its package `encoding/json` ignores the case of ASCII letters, and
/// folds two Unicode letters to ASCII letters.
pub(crate) fn is_same_key(key: &str, name: &str) -> bool {
    let folded = |c: char| match c {
        '\u{17F}' => 's',
        '\u{212A}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    key.chars().map(folded).eq(name.chars().map(folded))
}
