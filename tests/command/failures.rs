//! What a registry can do wrong. The command ends with code 1, names image, blob and what to do, and leaves
//! nothing behind.

use std::net::TcpListener;

use serde_json::json;

use crate::harness::{
    Answer, ImageBuilder, Scratch, Served, Skopeo, answering, newest_skopeo, skopeos, small_image,
};
use test_registry::image::Written;

/// The error of a pull under one fault, without retries. It must be one line about what failed, and perhaps
/// one line about what to do.
#[track_caller]
fn failing_pull(skopeo: &Skopeo, served: &Served, fault: &str) -> String {
    served.faults(&[fault]);
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let image = served.reference("v1");
    let pull = scratch.pull(skopeo, &image, &layout.tagged("v1"));
    let message = pull.args(["--quiet", "--retries", "0"]).run().failed(1);
    assert!(message.lines().count() <= 2, "{fault}: {message}");
    let start = format!("longshore: can't pull {image}: ");
    assert!(message.starts_with(&start), "{fault}: {message}");
    if layout.folder().exists() {
        layout.assert_valid();
        assert_eq!(layout.entries(), []);
    }
    message
}

/// Checks that the error contains one of these texts, and has a second line if there is something to do.
#[track_caller]
fn assert_says(message: &str, fault: &str, any_of: &[&str]) {
    let found = any_of.iter().any(|words| message.contains(words));
    assert!(found, "{fault}: not one of {any_of:?} in {message}");
    assert_eq!(message.lines().count(), 2, "{fault} has no hint: {message}");
}

fn served() -> (Served, Written) {
    Served::image("v1", &small_image(1))
}

#[test]
#[ignore = "needs skopeo"]
fn a_wrong_blob_is_refused() {
    let (served, image) = served();
    let cases = [
        ("corrupt", &["corrupt: its bytes have digest"][..]),
        ("corrupt=0", &["corrupt: its bytes have digest"]),
        ("shorter=1", &["bytes, its descriptor says"]),
        ("longer=1", &["bytes, its descriptor says"]),
        ("content-length=7", &["announced with 7 bytes"]),
        // An old skopeo may be the first to notice.
        ("chunked-longer=1", &["longer than", "orrupted blob"]),
    ];
    for skopeo in skopeos() {
        for (kind, words) in cases {
            for (target, digest) in [
                ("blob#1", image.layers[1].digest()),
                ("config", &image.config_digest),
            ] {
                let fault = format!("{target}:{kind}");
                let message = failing_pull(&skopeo, &served, &fault);
                assert_says(&message, &fault, words);
                assert!(message.contains(&format!("blob {digest}")), "{message}");
            }
        }
    }
}

/// The blob is written in several chunks, and hashed where it is written.
#[test]
#[ignore = "needs skopeo"]
fn a_wrong_byte_anywhere_in_a_large_blob_is_found() {
    let image = ImageBuilder::new().layer_random(2_000_000, 7);
    let (served, image) = Served::image("v1", &image);
    let size = image.layers[0].size();
    let last = size - 1;
    for skopeo in skopeos() {
        for at in [0, 512 * 1024 - 1, 512 * 1024, 1_500_000, last] {
            let fault = format!("blob#0:corrupt={at}");
            let message = failing_pull(&skopeo, &served, &fault);
            assert_says(&message, &fault, &["corrupt: its bytes have digest"]);
        }
        for (kind, words) in [
            ("shorter=1", &["bytes, its descriptor says"][..]),
            ("chunked-longer=1", &["longer than", "orrupted blob"]),
        ] {
            let fault = format!("blob#0:{kind}");
            let message = failing_pull(&skopeo, &served, &fault);
            assert_says(&message, &fault, words);
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_refused_blob_is_reported() {
    let (served, image) = served();
    let cases = [
        ("status=401", &["unauthorized"][..]),
        ("status=403", &["denied", "403"]),
        ("status=404", &["unknown", "404"]),
        ("status=500", &["500"]),
    ];
    for skopeo in skopeos() {
        for (kind, words) in cases {
            let fault = format!("blob#2:{kind}");
            let message = failing_pull(&skopeo, &served, &fault);
            assert_says(&message, &fault, words);
            let blob = format!("blob {}", image.layers[2].digest());
            assert!(message.contains(&blob), "{message}");
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_unavailable_manifest_is_reported() {
    let (served, _) = served();
    let cases = [
        ("manifest:status=401", &["unauthorized"][..]),
        ("manifest:status=403", &["denied"]),
        ("manifest:status=404", &["unknown"]),
        ("manifest:status=500", &["500"]),
        ("ping:status=500", &["500"]),
        ("manifest:cut=half", &["unexpected EOF"]),
    ];
    for skopeo in skopeos() {
        for (fault, words) in cases {
            let message = failing_pull(&skopeo, &served, fault);
            assert!(
                message.contains("opening the image failed"),
                "{fault}: {message}"
            );
            assert_says(&message, fault, words);
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_invalid_manifest_is_refused() {
    let (served, _) = served();
    for skopeo in skopeos() {
        for fault in [
            "manifest:not-json",
            "manifest:big-manifest=5M",
            "manifest:redirect-loop",
        ] {
            failing_pull(&skopeo, &served, fault);
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_missing_image_is_reported() {
    let (served, _) = served();
    served.faults(&[]);
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let message = scratch
            .pull(&skopeo, &served.reference("v2"), &layout.tagged("v2"))
            .run()
            .failed(1);
        assert_says(&message, "no such tag", &["manifest unknown"]);
        assert!(!layout.folder().exists());

        let message = scratch
            .pull(&skopeo, "oci:nowhere:v2", &layout.tagged("v2"))
            .run()
            .failed(1);
        assert!(message.contains("can't pull oci:nowhere:v2: "), "{message}");
        assert!(!layout.folder().exists());
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_missing_registry_is_reported() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let image = format!("docker://{}/a/b:c", gone.unwrap());
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let pull = scratch.pull(&skopeo, &image, &layout.tagged("v1"));
        for run in [
            pull.args(["--retries", "0"]),
            scratch.inspect(&skopeo, &image),
        ] {
            let message = run.run().failed(1);
            assert_says(&message, "gone", &["connection refused"]);
            assert!(message.contains(&image), "{message}");
        }
        assert!(!layout.folder().exists());
    }
}

/// A server that accepts everybody, and then answers only with this error.
fn server_that_says(message: &str) -> String {
    let error = json!({ "errors": [{ "code": "DENIED", "message": message }] });
    let address = answering(move |path| match path {
        "/v2/" => Answer::new("200 OK", "{}"),
        _ => Answer::new("403 Forbidden", error.to_string()),
    });
    format!("docker://{address}/a/b:c")
}

#[test]
#[ignore = "needs skopeo"]
fn plain_http_must_be_asked_for() {
    let image = server_that_says("not read");
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let pull = scratch.longshore().args(["pull", &image, "oci:image"]);
        let message = pull
            .args(["--skopeo", skopeo.path.to_str().unwrap()])
            .run()
            .failed(1);
        assert_says(&message, "HTTP", &["server gave HTTP response to HTTPS"]);
        assert!(message.contains("--tls-verify=false"), "{message}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_message_of_a_registry_cant_control_the_terminal() {
    let image = server_that_says("go\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}31m away\r\nlongshore: fine");
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        for run in [
            scratch.pull(&skopeo, &image, "oci:image"),
            scratch.inspect(&skopeo, &image),
        ] {
            let message = run.run().failed(1);
            assert!(message.contains("go"), "{message}");
            let control = message.chars().find(|c| c.is_control() && *c != '\n');
            assert_eq!(control, None, "{message:?}");
            assert!(message.lines().count() <= 2, "{message:?}");
            assert!(!message.contains("\nlongshore"), "{message:?}");
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn the_other_blobs_are_stopped_when_one_fails() {
    let (served, image) = served();
    let stalled = format!("blob@{}:stall=half", image.layers[0].digest());
    let corrupt = format!("blob@{}:corrupt", image.layers[1].digest());
    for skopeo in skopeos() {
        served.faults(&[&stalled, &corrupt]);
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let message = scratch
            .pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"))
            .args(["--retries", "0"])
            .run()
            .failed(1);
        assert!(message.contains("corrupt"), "{message}");
        layout.assert_valid();
        assert_eq!(layout.unexpected_entries(), [""; 0]);
    }
}

#[test]
#[ignore = "needs skopeo"]
fn json_also_reports_a_failed_pull() {
    let (served, _) = served();
    served.faults(&["blob#0:corrupt"]);
    let scratch = Scratch::new();
    let image = served.reference("v1");
    let run = scratch
        .pull(&newest_skopeo(), &image, "oci:image")
        .args(["--json", "--retries", "0"])
        .run();
    assert_eq!(run.status.code(), Some(1), "{run}");
    assert!(run.stderr.contains("corrupt"), "{run}");
    let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["images"], json!([]));
    assert_eq!(report["failed"][0]["image"], image);
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("corrupt"), "{report}");
}

#[test]
#[ignore = "needs skopeo"]
fn a_registry_that_never_answers_is_reported_while_it_is_waited_for_and_at_the_end() {
    let (served, _) = Served::image("v1", &small_image(1));
    served.faults(&["any:headers-never"]);
    let scratch = Scratch::new();
    let image = served.reference("v1");
    let repository = image.trim_end_matches(":v1").to_owned();
    let commands: [&[&str]; 5] = [
        &["inspect", &image],
        &["digest", &image],
        &["list-tags", &repository],
        &["blob", &image, &format!("sha256:{}", "0".repeat(64))],
        &["export", &image, "x.tar"],
    ];
    let skopeo = newest_skopeo();
    let start = |command: &[&str], options: &[&str]| {
        let run = scratch
            .longshore()
            .args(command.iter().copied())
            .args(options.iter().copied());
        let run = run.args([
            "--tls-verify=false",
            "--skopeo",
            skopeo.path.to_str().unwrap(),
        ]);
        run.start()
    };
    let slow = commands.map(|command| start(command, &["--deadline", "11s"]));
    let fast = start(commands[0], &["--call-timeout", "1s"]);
    let message = fast.end().failed(1);
    assert!(
        message.contains("skopeo did not answer within 1 s (tried 5 times)"),
        "{message}"
    );
    assert!(
        message.contains("the registry does not answer; --call-timeout limits"),
        "{message}"
    );
    for running in slow {
        let message = running.end().failed(1);
        assert!(message.starts_with("  no answer for 10 s\n"), "{message}");
    }
}
