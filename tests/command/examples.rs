//! The examples do what they say.

use std::path::PathBuf;
use std::process::Command;

use crate::harness::{Scratch, Served, newest_skopeo, output_of, small_image};

/// An example as cargo builds it beside the tests.
fn example(name: &str) -> Command {
    let command = PathBuf::from(env!("CARGO_BIN_EXE_longshore"));
    let program = command.parent().unwrap().join("examples").join(name);
    assert!(
        program.exists(),
        "{} is not built: use `cargo test`",
        program.display()
    );
    let skopeo = newest_skopeo().path;
    let folders = std::env::var_os("PATH").unwrap();
    let folders = std::env::split_paths(&folders);
    let path = std::iter::once(skopeo.parent().unwrap().to_owned()).chain(folders);
    let mut command = Command::new(program);
    command.env("PATH", std::env::join_paths(path).unwrap());
    command
}

#[test]
#[ignore = "needs skopeo"]
fn embed_prints_a_checksum_for_each_layer() {
    let (served, image) = Served::image("v1", &small_image(1));
    let printed = output_of(example("embed").args([&served.reference("v1"), "insecure"]));
    let printed = String::from_utf8(printed).unwrap();
    let digests: Vec<_> = printed
        .lines()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let expected: Vec<_> = image
        .layers
        .iter()
        .map(|layer| layer.digest().to_string())
        .collect();
    assert_eq!(digests, expected);
}

#[test]
#[ignore = "needs skopeo"]
fn sink_puts_each_layer_into_a_file() {
    let (served, image) = Served::image("v1", &small_image(2));
    let scratch = Scratch::new();
    let folder = scratch.path("flat");
    let reference = served.reference("v1");
    output_of(example("sink").arg(reference).arg(&folder).arg("insecure"));
    for layer in &image.layers {
        let file = std::fs::metadata(folder.join(layer.digest().digest())).unwrap();
        assert_eq!(file.len(), layer.size());
    }
    assert!(folder.join("manifest.json").exists());
}

#[test]
#[cfg(feature = "decompress")]
#[ignore = "needs skopeo"]
fn list_files_lists_what_is_in_the_layers() {
    let (served, image) = Served::image("v1", &small_image(3));
    let printed = output_of(example("list_files").args([&served.reference("v1"), "insecure"]));
    let printed = String::from_utf8(printed).unwrap();
    assert_eq!(
        printed
            .lines()
            .filter(|line| line.starts_with("sha256:"))
            .count(),
        image.layers.len()
    );
    assert!(
        printed
            .lines()
            .filter(|line| line.starts_with("    "))
            .count()
            >= image.layers.len()
    );
}
