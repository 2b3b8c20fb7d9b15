//! The examples do what they say.

#![allow(clippy::expect_used, clippy::unwrap_used)]

mod command;

use std::path::PathBuf;
use std::process::Command;

use command::{Scratch, Served, newest_skopeo, output_of, small_image};

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

#[test]
fn load_tells_what_it_took() {
    let skopeo = newest_skopeo().path;
    let mut load = example("load");
    load.args(["--blobs", "30", "--size", "10K", "--workers", "8", "--json"]);
    let printed = output_of(load.arg("--skopeo").arg(skopeo));
    let report: serde_json::Value = serde_json::from_slice(&printed).unwrap();
    // And the config.
    assert_eq!(report["blobs"], 31);
    assert_eq!(report["retries"], 0);
    for histogram in ["open_ms", "first_byte_ms", "drain_ms"] {
        assert_eq!(report[histogram]["count"], 30, "{histogram}: {report}");
    }
    for histogram in ["actor_queue_ms", "round_trip_ms"] {
        // Blobs, and what comes before.
        assert!(report[histogram]["count"].as_u64() > Some(30), "{report}");
    }
    assert!(report["peak_memory_kib"].as_u64() > Some(0), "{report}");
}

/// A real run takes minutes; this one ends after its first round.
#[test]
fn soak_ends_with_its_tables() {
    let skopeo = newest_skopeo().path;
    let mut soak = example("soak");
    soak.args(["--minutes", "0.001", "--seed", "1"]);
    let printed = output_of(soak.arg("--skopeo").arg(skopeo));
    let printed = String::from_utf8(printed).unwrap();
    assert!(printed.starts_with("seed 1\n"), "{printed}");
    assert!(printed.contains("| **all** |"), "{printed}");
    assert!(printed.contains("at rest, 1 times"), "{printed}");
    assert!(printed.ends_with("all is well\n"), "{printed}");
}
