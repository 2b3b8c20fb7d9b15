//! An image of many real layers, from a real registry, through each skopeo. Other tools must accept
//! the result.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use serde_json::Value;

use crate::harness::programs::{crane, oras, umoci};
use crate::harness::{
    ImageBuilder, Layout, Scratch, Skopeo, assert_skopeo_accepts, newest_skopeo, output_of,
    skopeo_copy, skopeos,
};
use test_registry::image::Written;
use test_support::registry_process::RegistryProcess;

/// The minimum number of layers for a useful test.
const LAYERS: usize = 60;

/// The layers that `tests/real-image.sh` makes, the base layer first.
fn real_layers() -> Vec<PathBuf> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real-image.sh");
    let printed = output_of(Command::new("bash").arg(script));
    let folder = String::from_utf8(printed).unwrap();
    let entries = fs::read_dir(folder.trim_end()).unwrap();
    let mut layers: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    layers.sort();
    assert!(layers.len() >= LAYERS, "only {} layers", layers.len());
    layers
}

pub(crate) fn real_image(layout: &Layout) -> Written {
    let layers = real_layers().into_iter();
    let image = layers.fold(ImageBuilder::new(), |image, layer| {
        image.layer_tar_gz(fs::read(layer).unwrap())
    });
    image.write(layout.folder(), "v1").unwrap()
}

/// Copies the image with skopeo and `oras`, pushes it with `crane`, which then validates the registry's copy,
/// and unpacks it with `umoci`.
fn assert_everybody_accepts(skopeo: &Skopeo, layout: &Layout, image: &Written, registry: &str) {
    assert_skopeo_accepts(skopeo, &layout.tagged("v1"));
    let digest = image.manifest_digest.to_string();
    let local = format!("{}:v1", layout.folder().display());

    let mut fetch = oras();
    fetch.args(["manifest", "fetch", "--oci-layout", &local]);
    let manifest: Value = serde_json::from_slice(&output_of(&mut fetch)).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), image.layers.len());

    let name = |by: &str| format!("{registry}/{by}/{}:v1", skopeo.protocol);
    let by_oras = name("oras");
    let mut copy = oras();
    copy.args(["copy", "--no-tty", "--from-oci-layout", "--to-plain-http"]);
    output_of(copy.args([&local, &by_oras]));

    let by_crane = name("crane");
    let folder = layout.folder().to_str().unwrap();
    output_of(crane().args(["push", "--insecure", folder, &by_crane]));
    output_of(crane().args(["validate", "--insecure", "--remote", &by_crane]));
    for pushed in [by_oras, by_crane] {
        let found = output_of(crane().args(["digest", "--insecure", &pushed]));
        assert_eq!(String::from_utf8(found).unwrap().trim_end(), digest);
    }

    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    let mut unpack = umoci();
    unpack.args(["unpack", "--image", &local]);
    if !nix::unistd::geteuid().is_root() {
        unpack.arg("--rootless");
    }
    output_of(unpack.arg(&bundle));
    // These files come from the lowest and from the highest layer.
    for file in ["usr/sbin/adduser", "usr/sbin/update-xmlcatalog"] {
        assert!(bundle.join("rootfs").join(file).is_file(), "{file}");
    }
}

#[test]
#[ignore = "needs skopeo, docker-registry, crane, oras, umoci, Debian packages"]
fn a_real_image_is_pulled_through_each_skopeo_and_accepted_by_all() {
    let scratch = Scratch::new();
    let made = scratch.layout("made");
    let image = real_image(&made);
    let registry = RegistryProcess::start();
    let reference = registry.reference("real/image:v1");
    skopeo_copy(&newest_skopeo(), &made.tagged("v1"), &reference);
    registry.take_blob_gets();

    let layouts = skopeos().map(|skopeo| {
        let layout = scratch.layout(skopeo.protocol);
        let pull = || scratch.pull(&skopeo, &reference, &layout.tagged("v1"));
        let first = pull().report();
        assert_eq!(
            first["images"][0]["digest"],
            image.manifest_digest.to_string()
        );
        assert_eq!(first["images"][0]["layers"], image.layers.len());
        assert_eq!(first["fetched_blobs"], image.layers.len() + 1);
        assert_eq!(registry.take_blob_gets().len(), image.layers.len() + 1);

        let second = pull().report();
        assert_eq!(second["fetched_blobs"], 0);
        assert_eq!(second["reused_blobs"], image.layers.len());
        assert_eq!(registry.take_blob_gets(), [""; 0], "{skopeo:?}");
        (skopeo, layout)
    });
    let address = registry.address();
    thread::scope(|scope| {
        for (skopeo, layout) in &layouts {
            scope.spawn(|| assert_everybody_accepts(skopeo, layout, &image, address));
        }
    });
}
