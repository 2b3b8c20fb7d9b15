//! Unusual documents that still name their blobs. Other tools pull such images, so this one does, too.

use longshore::oci_spec::image::{Descriptor, MediaType};
use serde_json::{Value, json};
use test_registry::store::Store;

use crate::harness::{Layout, Scratch, Served, Skopeo, newest_skopeo, skopeos, small_image};

/// Changes the config and the manifest of a small image, and serves it as `v1`.
fn serve(config: impl FnOnce(&mut Value), manifest: impl FnOnce(&mut Value)) -> (Served, String) {
    let served = Served::start();
    served.add("v1", &small_image(1));
    let layout = Layout::new(served.folder.path().to_owned());
    let store = Store::open(served.folder.path()).unwrap();
    let mut documents = layout.manifest("v1");
    let digest = documents["config"]["digest"].as_str().unwrap();
    let mut changed = layout.json(digest);
    config(&mut changed);
    let blob = store.put(changed.to_string().as_bytes()).unwrap();
    documents["config"]["digest"] = json!(blob.digest);
    documents["config"]["size"] = json!(blob.size);
    manifest(&mut documents);
    let blob = store.put(documents.to_string().as_bytes()).unwrap();
    let digest = blob.digest.to_string();
    let descriptor = Descriptor::new(MediaType::ImageManifest, blob.size, blob.digest);
    store.tag(&descriptor, "v1").unwrap();
    (served, digest)
}

#[track_caller]
fn comes_whole(skopeo: &Skopeo, served: &Served, digest: &str, what: &str) {
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let run = scratch
        .pull(skopeo, &served.reference("v1"), &layout.tagged("v1"))
        .run();
    assert!(
        run.status.success(),
        "{what} with {}: {run}",
        skopeo.protocol
    );
    assert_eq!(layout.tags()["v1"], digest, "{what}");
    layout.assert_valid();
}

type Change = fn(&mut Value);

#[test]
#[ignore = "needs skopeo"]
fn an_odd_config_is_stored_as_it_is() {
    let changes: [Change; 13] = [
        |config| *config = json!({}),
        |config| config["rootfs"]["diff_ids"] = json!(null),
        |config| config["rootfs"]["diff_ids"] = json!(["x", 7]),
        |config| drop(config.as_object_mut().unwrap().remove("rootfs")),
        |config| drop(config.as_object_mut().unwrap().remove("os")),
        |config| drop(config.as_object_mut().unwrap().remove("architecture")),
        |config| config["architecture"] = json!(7),
        |config| config["config"] = json!({ "Entrypoint": "/bin/sh" }),
        |config| config["config"] = json!({ "Labels": { "a": 1 } }),
        |config| config["config"] = json!({ "ExposedPorts": ["80/tcp"] }),
        |config| config["config"] = json!({ "Env": null, "Volumes": [] }),
        |config| config["history"] = json!({ "not": "a list" }),
        |config| config["created"] = json!("yesterday"),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let (served, digest) = serve(change, |_| {});
        for skopeo in skopeos() {
            comes_whole(&skopeo, &served, &digest, &format!("config {number}"));
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_odd_manifest_is_stored_as_it_is() {
    let changes: [Change; 5] = [
        |manifest| manifest["layers"] = json!(null),
        |manifest| manifest["annotations"] = json!({ "a": null, "b": "c" }),
        |manifest| manifest["config"]["platform"] = json!({}),
        |manifest| manifest["layers"][0]["urls"] = json!(null),
        |manifest| manifest["layers"][0]["annotations"] = json!({ "a": null }),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let (served, digest) = serve(|_| {}, change);
        for skopeo in skopeos() {
            comes_whole(&skopeo, &served, &digest, &format!("manifest {number}"));
        }
    }
}

/// `inspect` once named other layers than those that a container runtime would use.
#[test]
#[ignore = "needs skopeo"]
fn an_ambiguous_manifest_is_refused() {
    let (served, _) = serve(
        |_| {},
        |manifest| manifest["Layers"] = json!([manifest["layers"][0]]),
    );
    let scratch = Scratch::new();
    let (skopeo, reference) = (newest_skopeo(), served.reference("v1"));
    for run in [
        scratch.inspect(&skopeo, &reference).run(),
        scratch.pull(&skopeo, &reference, "oci:image:v1").run(),
    ] {
        let message = run.failed(1);
        assert!(message.contains("\"layers\" more than once"), "{message}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_layer_of_two_sizes_is_refused() {
    let (served, _) = serve(
        |_| {},
        |manifest| {
            let mut again = manifest["layers"][0].clone();
            again["size"] = json!(8);
            manifest["layers"].as_array_mut().unwrap().push(again);
        },
    );
    let scratch = Scratch::new();
    let message = scratch
        .pull(&newest_skopeo(), &served.reference("v1"), "oci:image:v1")
        .run()
        .failed(1);
    assert!(message.contains("two sizes"), "{message}");
    assert_eq!(served.take_blob_gets(), Vec::<String>::new());
}
