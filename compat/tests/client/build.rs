//! Copies the example client out of the source of containers-image-proxy, which cargo has downloaded. It is not a part
//! of this repository.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "only the tests need it"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let example = source().join("examples/client.rs");
    let client = fs::read_to_string(&example).expect("the package has its examples");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("ours.rs"), &client).expect("it is our folder");
    // The dependency has another name here, because that of the package is taken.
    let theirs = client.replace("containers_image_proxy", "incumbent");
    fs::write(out.join("theirs.rs"), theirs).expect("it is our folder");
}

/// The folder with the source of the package.
fn source() -> PathBuf {
    let target = env::var("TARGET").expect("cargo sets it");
    let metadata = Command::new(env::var_os("CARGO").expect("cargo sets it"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(["--filter-platform", &target])
        .output()
        .expect("cargo runs");
    assert!(metadata.status.success(), "{metadata:?}");
    let metadata: serde_json::Value =
        serde_json::from_slice(&metadata.stdout).expect("it prints JSON");
    let packages = metadata["packages"].as_array().expect("a list");
    let package = packages
        .iter()
        .find(|package| package["name"] == "containers-image-proxy");
    let manifest = &package.expect("a dependency")["manifest_path"];
    let manifest = Path::new(manifest.as_str().expect("a path"));
    manifest.parent().expect("a folder").to_owned()
}
