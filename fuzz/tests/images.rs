//! Images made of any manifest, any config, any layer info and any index, at registries, in storages
//! and elsewhere.
//!
//! Nothing panics or hangs. An image that a pull reports as complete is complete, and any other image is not
//! visible. Nothing is written outside of the layout.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

use bolero::{TypeGenerator, check};
use longshore::oci_spec::image::Digest;
use longshore_fuzz::{TARGET_DURATION, TreeEntry, Workspace, digest, tree};
use serde_json::{Value, json};

#[derive(Debug, TypeGenerator)]
struct Case {
    transport: Transport,
    converted: bool,
    manifest: Document,
    config: Document,
    layers: Document,
    blobs: Vec<Vec<u8>>,
    /// Whether the bytes that are served for the blobs differ from their digests.
    lies: bool,
}

#[derive(Debug, TypeGenerator)]
enum Transport {
    Registry,
    Index,
    Storage,
    Other,
}

#[derive(Debug, TypeGenerator)]
enum Document {
    Bytes(Vec<u8>),
    /// A correct document, except for what its parts contain. One member may be replaced.
    Plausible {
        parts: Vec<Part>,
        replaced: Option<(Key, JsonValue)>,
    },
}

/// A layer, or another object with a digest.
#[derive(Debug, TypeGenerator)]
struct Part {
    digest: Name,
    size: Size,
    media_type: MediaType,
}

#[derive(Debug, TypeGenerator)]
enum Name {
    /// The digest of one of the blobs.
    Blob(u8),
    Config,
    Text(String),
    Odd(u8),
}

#[derive(Debug, TypeGenerator)]
enum Size {
    Right,
    Number(i64),
    Huge,
}

#[derive(Debug, TypeGenerator)]
enum MediaType {
    Gzip,
    Docker,
    Config,
    Text(String),
}

#[derive(Debug, TypeGenerator)]
enum Key {
    Config,
    Layers,
    Manifests,
    Rootfs,
    Os,
    SchemaVersion,
}

#[derive(Debug, TypeGenerator)]
enum JsonValue {
    Nothing,
    Number(i64),
    Text(String),
    List(Vec<String>),
}

const ODD: [&str; 10] = [
    "sha256:../../../outside",
    "../../outside:a",
    "sha256:",
    ":",
    "sha256:abc",
    "sha512:abc",
    "blake3:abcdef",
    "sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "a+b.c:d=e_f-g",
    "/:/",
];

impl Case {
    fn config(&self) -> Vec<u8> {
        self.config.bytes(|parts| {
            let ids: Vec<_> = parts
                .iter()
                .map(|part| self.name(&part.digest, b""))
                .collect();
            json!({
                "architecture": "amd64", "os": "linux",
                "rootfs": { "type": "layers", "diff_ids": ids },
            })
        })
    }

    fn name(&self, name: &Name, config: &[u8]) -> String {
        match name {
            Name::Blob(index) => digest(self.blob(*index)),
            Name::Config => digest(config),
            Name::Text(text) => text.clone(),
            Name::Odd(index) => ODD[usize::from(*index) % ODD.len()].to_owned(),
        }
    }

    fn blob(&self, index: u8) -> &[u8] {
        self.blobs
            .get(usize::from(index) % self.blobs.len().max(1))
            .map_or(b"blob", |blob| blob)
    }

    fn descriptor(&self, part: &Part, config: &[u8]) -> Value {
        let right = match part.digest {
            Name::Blob(index) => self.blob(index).len(),
            _ => config.len(),
        };
        json!({
            "mediaType": part.media_type.text(),
            // The name of this field in layer info.
            "media_type": part.media_type.text(),
            "digest": self.name(&part.digest, config),
            "size": match part.size {
                Size::Right => json!(right),
                Size::Number(number) => json!(number),
                Size::Huge => json!(u64::MAX),
            },
        })
    }

    fn serve(&self, workspace: &Workspace) {
        let config = self.config();
        let descriptors = |parts: &[Part]| -> Vec<Value> {
            parts
                .iter()
                .map(|part| self.descriptor(part, &config))
                .collect()
        };
        let manifest = self.manifest.bytes(|parts| {
            let config = Part {
                digest: Name::Config,
                size: Size::Right,
                media_type: MediaType::Config,
            };
            let layers = descriptors(parts);
            json!({
                "schemaVersion": 2,
                "config": descriptors(&[config])[0],
                "layers": layers,
                "manifests": layers,
            })
        });
        workspace.serve("config", &config);
        workspace.serve(
            "layers",
            &self.layers.bytes(|parts| Value::Array(descriptors(parts))),
        );
        workspace.serve("index", &manifest);
        let announced = if self.converted {
            digest(b"another")
        } else {
            digest(&manifest)
        };
        workspace.serve("digest", announced.as_bytes());
        workspace.serve("manifest", &manifest);
        let blobs = self.blobs.iter().map(|blob| &**blob);
        for blob in blobs.chain([b"blob", &*config]) {
            let served = if self.lies { b"lies" } else { blob };
            workspace.serve(&digest(blob), served);
        }
    }
}

impl Document {
    fn bytes(&self, make: impl FnOnce(&[Part]) -> Value) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Plausible { parts, replaced } => {
                let mut document = make(parts);
                if let (Some((key, something)), Some(document)) =
                    (replaced, document.as_object_mut())
                {
                    document.insert(key.text().into(), something.json());
                }
                document.to_string().into_bytes()
            }
        }
    }
}

impl MediaType {
    fn text(&self) -> &str {
        match self {
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Docker => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            Self::Config => "application/vnd.oci.image.config.v1+json",
            Self::Text(text) => text,
        }
    }
}

impl Key {
    fn text(&self) -> &str {
        match self {
            Self::Config => "config",
            Self::Layers => "layers",
            Self::Manifests => "manifests",
            Self::Rootfs => "rootfs",
            Self::Os => "os",
            Self::SchemaVersion => "schemaVersion",
        }
    }
}

impl JsonValue {
    fn json(&self) -> Value {
        match self {
            Self::Nothing => Value::Null,
            Self::Number(number) => json!(number),
            Self::Text(text) => json!(text),
            Self::List(texts) => json!(texts),
        }
    }
}

#[test]
fn images() {
    check!()
        .with_type::<Case>()
        .with_test_time(TARGET_DURATION)
        .for_each(|case| {
            let workspace = Workspace::new(env!("CARGO_BIN_EXE_files-as-skopeo"));
            case.serve(&workspace);
            let (reference, index) = match case.transport {
                Transport::Registry => ("docker://localhost/a:b", false),
                Transport::Index => ("docker://localhost/a:b", true),
                Transport::Storage => ("containers-storage:a", false),
                Transport::Other => ("oci:a:b", false),
            };
            let pulled = workspace.pull(reference, index);
            assert!(
                workspace
                    .names()
                    .iter()
                    .all(|name| name == "served" || name == "layout")
            );
            let layout = tree(&workspace.layout());
            let named = named(&layout);
            assert_eq!(
                named.len(),
                usize::from(pulled.is_ok()),
                "{pulled:?}: {named:?}"
            );
            for descriptor in named {
                assert_complete(&layout, &descriptor, 0);
            }
            for (path, entry) in &layout {
                let blob = path
                    .strip_prefix("blobs/")
                    .and_then(|path| path.split_once('/'));
                if let (Some((algorithm, hash)), TreeEntry::File(bytes)) = (blob, entry) {
                    assert_eq!(algorithm, "sha256", "{path}");
                    assert_eq!(digest(bytes), format!("sha256:{hash}"));
                } else {
                    let known = [
                        "blobs",
                        "blobs/sha256",
                        "index.json",
                        "oci-layout",
                        ".longshore.lock",
                    ];
                    assert!(known.contains(&&**path), "{path}");
                }
            }
        });
}

#[test]
fn sizes_whose_sum_overflows() {
    let part = |digest, size| Part {
        digest,
        size,
        media_type: MediaType::Gzip,
    };
    let parts = vec![
        part(Name::Config, Size::Huge),
        part(Name::Blob(0), Size::Right),
    ];
    let empty = || Document::Bytes(Vec::new());
    let case = Case {
        transport: Transport::Other,
        converted: false,
        manifest: Document::Plausible {
            parts,
            replaced: None,
        },
        config: empty(),
        layers: empty(),
        blobs: Vec::new(),
        lies: false,
    };
    let workspace = Workspace::new(env!("CARGO_BIN_EXE_files-as-skopeo"));
    case.serve(&workspace);
    workspace
        .pull("oci:a:b", false)
        .expect_err("an impossible size");
}

/// The descriptors in the index.
fn named(layout: &std::collections::BTreeMap<String, TreeEntry>) -> Vec<Value> {
    let Some(TreeEntry::File(index)) = layout.get("index.json") else {
        return Vec::new();
    };
    let index: Value = serde_json::from_slice(index).expect("an index");
    index["manifests"].as_array().expect("a list").clone()
}

/// Checks that everything that this descriptor names, directly or not, is there.
fn assert_complete(
    layout: &std::collections::BTreeMap<String, TreeEntry>,
    descriptor: &Value,
    depth: usize,
) {
    let name: Digest = descriptor["digest"].as_str().unwrap().parse().unwrap();
    let path = format!("blobs/{}/{}", name.algorithm(), name.digest());
    let Some(TreeEntry::File(bytes)) = layout.get(&path) else {
        panic!("{path} is missing");
    };
    assert_eq!(digest(bytes), name.to_string());
    assert_eq!(descriptor["size"], bytes.len());
    if depth == 0
        && let Ok(document) = serde_json::from_slice::<Value>(bytes)
    {
        let kind = descriptor["mediaType"].as_str().unwrap_or_default();
        let lists: &[&str] = if kind.contains("index") {
            &["manifests"]
        } else {
            &["layers"]
        };
        for list in lists {
            for part in document[list].as_array().into_iter().flatten() {
                assert_complete(layout, part, depth + 1);
            }
        }
        if !kind.contains("index") {
            assert_complete(layout, &document["config"], depth + 1);
        }
    }
}
