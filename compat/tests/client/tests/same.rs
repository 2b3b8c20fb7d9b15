//! The example client of containers-image-proxy does the same with both crates.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail this way"
)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use test_registry::image::ImageBuilder;
use test_registry::server::{Options, Registry};
use test_support::{sha256, tools};

/// Runs the client, which uses the `skopeo` in its `PATH` and the policy in its home.
fn run(client: &str, protocol: &str, home: &Path, arguments: &[&str]) -> Output {
    let skopeo = tools::skopeo(protocol);
    let mut command = Command::new(client);
    command
        .args(arguments)
        .env("PATH", skopeo.parent().unwrap())
        .env("HOME", home);
    command.output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs skopeo"]
async fn the_example_client_does_the_same_with_both_crates() {
    let folder = tempfile::tempdir().unwrap();
    let (home, layout) = (folder.path().join("home"), folder.path().join("layout"));
    let policy = home.join(".config/containers");
    fs::create_dir_all(&policy).unwrap();
    fs::write(
        policy.join("policy.json"),
        r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
    )
    .unwrap();
    let image = ImageBuilder::new()
        .layer_random(1000, 1)
        .layer_random(1 << 20, 2);
    let image = image.write(&layout, "latest").unwrap();
    let registry = Registry::start(&layout, Options::default()).unwrap();

    let reference = registry.reference("latest");
    let missing = registry.reference("missing");
    let layer = &image.layers[1];
    let (digest, size) = (layer.digest().to_string(), layer.size().to_string());
    let calls: [&[&str]; 6] = [
        &["get-metadata", "--insecure", &reference],
        &["get-blob", "--insecure", &reference, &digest, &size],
        &["get-blob-raw", "--insecure", &reference, &digest, &size],
        &["fetch-container-to-dev-null", "--insecure", &reference],
        &[
            "fetch-container-to-dev-null",
            "--raw-blobs",
            "--insecure",
            &reference,
        ],
        &["get-metadata", "--insecure", &missing],
    ];
    for protocol in ["0.2.6", tools::NEWEST] {
        for call in calls {
            let theirs = run(env!("CARGO_BIN_EXE_client-theirs"), protocol, &home, call);
            let ours = run(env!("CARGO_BIN_EXE_client-ours"), protocol, &home, call);
            let what = format!("{protocol} {call:?}: {ours:?}");
            assert!(ours.status.success(), "{what}");
            assert_eq!(ours.status, theirs.status, "{what}");
            assert_eq!(sha256(&ours.stdout), sha256(&theirs.stdout), "{what}");
            // An old proxy has no raw blobs. The texts of that error differ between the crates.
            let is_raw = call[0] == "get-blob-raw" || call[1] == "--raw-blobs";
            if is_raw && protocol != tools::NEWEST {
                assert_eq!(ours.stderr.is_empty(), theirs.stderr.is_empty(), "{what}");
            } else {
                let text = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
                assert_eq!(text(&ours), text(&theirs), "{what}");
            }
            if call[0] == "get-blob" {
                assert_eq!(sha256(&ours.stdout).to_string(), digest, "{what}");
            }
        }
    }
}
