//! Images with manifests that no registry should have.

use std::fs;

use longshore::oci_spec::image::{Descriptor, MediaType};
use serde_json::{Value, json};

use crate::harness::{Layout, Served, small_image};
use test_registry::image::write_index;
use test_registry::store::Store;

/// Changes the manifest of `v1`.
fn edit(served: &Served, change: impl FnOnce(&mut Value)) {
    let layout = Layout::new(served.folder.path().to_owned());
    let mut manifest = layout.manifest("v1");
    change(&mut manifest);
    let store = Store::open(served.folder.path()).unwrap();
    let blob = store.put(manifest.to_string().as_bytes()).unwrap();
    let descriptor = Descriptor::new(MediaType::ImageManifest, blob.size, blob.digest);
    store.tag(&descriptor, "v1").unwrap();
}

pub(crate) fn ten_thousand_layers(served: &Served) {
    edit(served, |manifest| {
        let layers = manifest["layers"].as_array().unwrap();
        manifest["layers"] = layers.iter().cycle().take(10_000).cloned().collect();
    });
}

pub(crate) fn empty_layer(served: &Served) {
    let image = small_image(1).layer_blob("application/vnd.oci.image.layer.v1.tar", []);
    served.add("v1", &image);
}

pub(crate) fn no_layers(served: &Served) {
    edit(served, |manifest| manifest["layers"] = json!([]));
}

pub(crate) fn layer_of_unknown_algorithm(served: &Served) {
    let digest = format!("blake3:{}", "a".repeat(64));
    edit(served, |manifest| {
        manifest["layers"][1]["digest"] = json!(digest);
    });
}

pub(crate) fn layer_digest_is_a_path(served: &Served) {
    edit(served, |manifest| {
        manifest["layers"][1]["digest"] = json!("sha256:../../x");
    });
}

pub(crate) fn config_digest_is_a_path(served: &Served) {
    edit(served, |manifest| {
        manifest["config"]["digest"] = json!("sha256:../../x");
    });
}

pub(crate) fn negative_layer_size(served: &Served) {
    edit(served, |manifest| manifest["layers"][1]["size"] = json!(-1));
}

pub(crate) fn enormous_layer_size(served: &Served) {
    edit(served, |manifest| {
        manifest["layers"][1]["size"] = json!(1_u64 << 63);
    });
}

/// The size is the largest integer that every JSON number can represent exactly.
pub(crate) fn large_layer_size(served: &Served) {
    edit(served, |manifest| {
        manifest["layers"][1]["size"] = json!((1_u64 << 53) - 1);
    });
}

pub(crate) fn negative_config_size(served: &Served) {
    edit(served, |manifest| manifest["config"]["size"] = json!(-1));
}

pub(crate) fn enormous_config_size(served: &Served) {
    edit(served, |manifest| {
        manifest["config"]["size"] = json!(1_u64 << 63);
    });
}

pub(crate) fn config_over_the_bound(served: &Served) {
    served.add("v1", &small_image(1).label("long", &"x".repeat(5 << 20)));
}

pub(crate) fn unknown_layer_type(served: &Served) {
    edit(served, |manifest| {
        manifest["layers"][1]["mediaType"] = json!("application/x-nobody-knows");
    });
}

pub(crate) fn unknown_config_type(served: &Served) {
    edit(served, |manifest| {
        manifest["config"]["mediaType"] = json!("application/x-nobody-knows");
    });
}

pub(crate) fn unknown_manifest_type(served: &Served) {
    edit(served, |manifest| {
        manifest["mediaType"] = json!("application/x-nobody-knows");
    });
}

pub(crate) fn manifest_without_config(served: &Served) {
    edit(served, |manifest| {
        manifest.as_object_mut().unwrap().remove("config");
    });
}

/// Replaces the config of the image.
fn config(served: &Served, bytes: &[u8]) {
    let store = Store::open(served.folder.path()).unwrap();
    let blob = store.put(bytes).unwrap();
    edit(served, |manifest| {
        manifest["config"]["digest"] = json!(blob.digest.to_string());
        manifest["config"]["size"] = json!(blob.size);
    });
}

/// The config matches its descriptor, but is not JSON. It is stored unchanged.
pub(crate) fn config_is_no_json(served: &Served) {
    config(served, b"<html></html>");
}

pub(crate) fn empty_config(served: &Served) {
    config(served, b"{}");
}

pub(crate) fn no_diff_ids(served: &Served) {
    let text =
        br#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":null}}"#;
    config(served, text);
}

pub(crate) fn null_layers(served: &Served) {
    edit(served, |manifest| manifest["layers"] = json!(null));
}

pub(crate) fn null_annotation(served: &Served) {
    edit(served, |manifest| {
        manifest["annotations"] = json!({ "a": null });
    });
}

/// Go uses the last of the two lists, and other parsers the one in lower case.
pub(crate) fn two_lists_of_layers(served: &Served) {
    edit(served, |manifest| manifest["Layers"] = json!([]));
}

pub(crate) fn layer_of_two_sizes(served: &Served) {
    edit(served, |manifest| {
        let layers = manifest["layers"].as_array_mut().unwrap();
        let mut again = layers[0].clone();
        again["size"] = json!(8);
        layers.push(again);
    });
}

pub(crate) fn foreign_layer(served: &Served) {
    edit(served, |manifest| {
        manifest["layers"].as_array_mut().unwrap().push(json!({
            "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "digest": format!("sha256:{}", "f".repeat(64)),
            "size": 7,
            "urls": ["https://127.0.0.1:1/layer"],
        }));
    });
}

/// The blob of the layer is not at the registry.
pub(crate) fn layer_is_missing(served: &Served) {
    let layout = Layout::new(served.folder.path().to_owned());
    let manifest = layout.manifest("v1");
    let digest = manifest["layers"][1]["digest"].as_str().unwrap();
    fs::remove_file(layout.blob(digest)).unwrap();
}

/// The index contains only images for a platform that no machine has.
pub(crate) fn index_without_our_platform(served: &Served) {
    let image = small_image(1).platform("plan9", "mips");
    write_index(served.folder.path(), "v1", &[image]).unwrap();
}
