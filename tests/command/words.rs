//! Text from outside in messages, logs, events and reports: it controls no terminal and reveals no secret.

use std::fs;

use serde_json::json;

use crate::harness::{Answer, ImageBuilder, Scratch, answering, script, skopeos, small_image};

const SECRET: &str = "X-Amz-Signature=s3cret";

/// Escape sequences, C1 controls, and Unicode's directional formatting.
const HOSTILE: &str =
    "go\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}31m \u{202e}away\u{2066}\r\nlongshore: fine";

#[track_caller]
fn assert_harmless(what: &str, text: &str) {
    let control = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert_eq!(text.chars().find(|c| control(*c)), None, "{what}: {text:?}");
    assert!(!text.contains("\nlongshore: fine"), "{what}: {text:?}");
    assert!(!text.contains("s3cret"), "{what}: {text:?}");
}

/// A registry with an image whose layers are refused: with hostile text, or by a redirection to a pre-signed
/// address at which no server listens.
fn registry(scratch: &Scratch, redirects: bool) -> String {
    let folder = scratch.path("source");
    let image = small_image(1).write(&folder, "v1").unwrap();
    let layers: Vec<String> = image
        .layers
        .iter()
        .map(|layer| layer.digest().to_string())
        .collect();
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("index.json")).unwrap()).unwrap();
    let manifest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let blob = move |digest: &str| {
        let hex = digest.strip_prefix("sha256:").unwrap();
        fs::read_to_string(folder.join("blobs/sha256").join(hex)).unwrap()
    };
    let address = answering(move |path| {
        let name = path.rsplit('/').next().unwrap_or_default();
        if path == "/v2/" {
            Answer::new("200 OK", "{}")
        } else if path.contains("/manifests/") {
            Answer::new("200 OK", blob(&manifest))
                .header("Content-Type: application/vnd.oci.image.manifest.v1+json")
        } else if !path.contains("/blobs/") {
            Answer::new("404 Not Found", "{}")
        } else if !layers.iter().any(|layer| layer == name) {
            Answer::new("200 OK", blob(name))
        } else if redirects {
            Answer::new("307 Temporary Redirect", "")
                .header(format!("Location: http://127.0.0.1:1/blob?{SECRET}"))
        } else {
            let error = json!({ "errors": [{ "code": "TOOBAD", "message": HOSTILE }] });
            Answer::new("400 Bad Request", error.to_string())
        }
    });
    format!("docker://{address}/image:v1")
}

#[test]
#[ignore = "needs skopeo"]
fn text_of_a_registry_is_cleaned_in_every_output() {
    for redirects in [false, true] {
        for skopeo in skopeos() {
            let scratch = Scratch::new();
            let image = registry(&scratch, redirects);
            let events = scratch.path("events");
            let run = scratch
                .pull(&skopeo, &image, "oci:image")
                .args([
                    "--verbose",
                    "--retries",
                    "1",
                    "--events",
                    events.to_str().unwrap(),
                ])
                .run();
            let message = run.failed(1);
            let events = fs::read_to_string(events).unwrap();
            for (what, text) in [("stderr", &message), ("events", &events)] {
                assert_harmless(what, text);
            }
            assert!(message.contains("will retry"), "{message}");
            assert!(events.contains("blob_retried"), "{events}");
            assert!(!message.contains("signature policy"), "{message}");
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn text_of_an_image_is_cleaned_in_every_output() {
    let scratch = Scratch::new();
    let folder = scratch.path("source");
    let image = ImageBuilder::new()
        .layer_random(10, 1)
        .platform(HOSTILE, HOSTILE);
    image.label("l", HOSTILE).write(&folder, "v1").unwrap();
    let image = format!("oci:{}:v1", folder.display());
    for skopeo in skopeos() {
        for arguments in [&[][..], &["--json"], &["--verbose"]] {
            let inspect = scratch
                .inspect(&skopeo, &image)
                .args(arguments.iter().copied())
                .run();
            assert_eq!(inspect.status.code(), Some(0), "{inspect}");
            assert_harmless("stdout of inspect", &inspect.stdout);
            assert_harmless("stderr of inspect", &inspect.stderr);
            let pull = scratch.pull(&skopeo, &image, "oci:image:v1");
            let pull = pull.args(arguments.iter().copied()).run();
            assert_eq!(pull.status.code(), Some(0), "{pull}");
            assert_harmless("stdout of pull", &pull.stdout);
            assert_harmless("stderr of pull", &pull.stderr);
        }
    }
}

#[test]
fn a_crash_is_reported_with_its_reason_and_without_registers() {
    for crash in [
        "panic: runtime error: invalid memory address or nil pointer dereference",
        "fatal error: out of memory",
    ] {
        let scratch = Scratch::new();
        let registers =
            "i=0; while [ $i -lt 6000 ]; do echo \"r$i    0x0000\" >&2; i=$((i+1)); done";
        let lines = format!("echo '{crash}' >&2; echo >&2; {registers}; exit 2");
        let skopeo = script(&scratch, &lines);
        let pull = scratch.pull(&skopeo, "oci:somewhere:v1", "oci:image:v1");
        let message = pull.args(["--retries", "0"]).run().failed(1);
        assert!(message.contains(crash), "{message}");
        assert!(!message.contains("0x0000"), "{message}");
    }
}
