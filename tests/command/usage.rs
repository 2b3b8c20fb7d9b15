//! Wrong command lines end with code 2 and a hint, and nothing is started.

use std::fs;

use crate::harness::{Scratch, Served, newest_skopeo, small_image};

/// Runs the command with a skopeo that does not exist, so that using it would fail.
#[track_caller]
fn refused(scratch: &Scratch, args: &[&str], words: &str) {
    let run = scratch.longshore().env("PATH", "/nowhere");
    let message = run.args(args.iter().copied()).run().failed(2);
    assert!(
        message.contains(words),
        "{args:?}: no {words:?} in {message}"
    );
}

#[test]
#[ignore = "needs skopeo"]
#[expect(clippy::too_many_lines, reason = "a table")]
fn wrong_usage_is_code_2() {
    let scratch = Scratch::new();
    fs::write(scratch.path("nonsense"), "no colon\n").unwrap();
    fs::create_dir(scratch.path("half")).unwrap();
    fs::write(scratch.path("half/x.key"), "").unwrap();
    let image = "docker://127.0.0.1:1/a/b";
    let table: &[(&[&str], &str)] = &[
        (&[], "Usage"),
        (&["fetch"], "longshore pull IMAGE oci:DIR"),
        (&["copy", image, "oci:x"], "longshore pull IMAGE oci:DIR"),
        (&["manifest", image], "longshore inspect --manifest IMAGE"),
        (&["pull"], "IMAGE"),
        (
            &["pull", image],
            "longshore pull docker://127.0.0.1:1/a/b oci:b",
        ),
        (
            &["pull", "alpine"],
            "longshore pull docker://alpine oci:alpine",
        ),
        (
            &["pull", image, image],
            "the destination after it is missing",
        ),
        (
            &["--insecure-policy", "pull", image, "oci:x"],
            "longshore pull --insecure-policy",
        ),
        (&["inspect", "--format", "json", image], "--json"),
        (
            &["export", image, "x", "--tls-verify", "false"],
            "--tls-verify=false",
        ),
        (&["pull", "--frobnicate", image, "oci:x"], "--frobnicate"),
        (&["pull", "debian", "oci:x"], "did you mean docker://debian"),
        (&["inspect", "debian:12"], "did you mean docker://debian:12"),
        (
            &[
                "inspect",
                "docker://a/b:c@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            ],
            "skopeo takes a tag or a digest, not both; type docker://a/b@sha256:01",
        ),
        (
            &["pull", "docker://127.0.0.1:1", "oci:x"],
            "no repository; type docker://127.0.0.1:1/REPOSITORY",
        ),
        (
            &["list-tags", "docker://127.0.0.1:1"],
            "no repository; type docker://127.0.0.1:1/REPOSITORY",
        ),
        (
            &["list-tags", "docker://quay.io"],
            "no repository; type docker://quay.io/REPOSITORY",
        ),
        (&["pull", image, "x"], "did you mean oci:x"),
        (
            &["pull", "dokcer://a/b", "oci:x"],
            "did you mean docker://a/b",
        ),
        (
            &["pull", "--tls-verify", "false", image, "oci:x"],
            "--tls-verify=false",
        ),
        (&["pull", "--all", image, "oci:x"], "--platform all"),
        (
            &["pull", "--authfile", "missing", image, "oci:x"],
            "--authfile missing: No such file",
        ),
        (
            &["pull", "--authfile", "half", image, "oci:x"],
            "--authfile half: it is a folder",
        ),
        (
            &["pull", "--policy", "missing", image, "oci:x"],
            "--policy missing: No such file",
        ),
        (
            &["pull", image, "https://a.b/c", image, "oci:x"],
            "did you mean docker://a.b/c",
        ),
        (
            &["pull", "--cert-dir", ".", image, "oci:x"],
            "it has no file *.crt",
        ),
        (
            &["pull", "--cert-dir", "half", image, "oci:x"],
            "it has x.key and no x.cert",
        ),
        (&["pull", image, "oci:x:a b"], "can't name an image"),
        (
            &["pull", "--workers", "0", image, "oci:x"],
            "\"0\" is not a number from 1",
        ),
        (
            &["pull", "dir", "oci:x"],
            "dir is a transport; an image is dir:NAME",
        ),
        (
            &["list-tags", "docker://a.b/c:d"],
            "did you mean docker://a.b/c?",
        ),
        (&["pull", "--stall-timeout", "soon", image, "oci:x"], "90s"),
        (&["pull", "--platform", "linux", image, "oci:x"], "OS/ARCH"),
        (
            &["pull", "--timeline", "a.png", image, "oci:x"],
            ".html (a page), .svg (a picture) or .json",
        ),
        (
            &["pull", "--timeline", "missing/a.svg", image, "oci:x"],
            "can't write missing/a.svg: its folder missing: No such file",
        ),
        (
            &["pull", "--timeline", "nonsense/a.svg", image, "oci:x"],
            "can't write nonsense/a.svg: Not a directory",
        ),
        (
            &["pull", "--timeline-axis", "3s", image, "oci:x"],
            "--timeline <FILE>",
        ),
        (
            &["pull", "--no-creds", "--authfile", "f", image, "oci:x"],
            "cannot be used with",
        ),
        (
            &["pull", "--policy", "p", "--insecure-policy", image, "oci:x"],
            "cannot be used with",
        ),
        (
            &["pull", "--creds", "nonsense", image, "oci:x"],
            "USER:PASS",
        ),
        (
            &["pull", "--creds-file", "nonsense", image, "oci:x"],
            "USER:PASS",
        ),
        (
            &["pull", "--creds-file", "missing", image, "oci:x"],
            "--creds-file missing: No such file",
        ),
        (
            &["pull", "--creds-file", "me:pw", image, "oci:x"],
            "--creds-file: No such file or directory; the option needs the name of a file",
        ),
        (
            &["pull", "--creds-file", "-", image, "oci:x"],
            "--creds - reads a line of stdin",
        ),
        (
            &["pull", "--creds-file", "half/x.key", image, "oci:x"],
            "--creds-file half/x.key: its first line is empty",
        ),
        (
            &["pull", "--registry-token-file", "missing", image, "oci:x"],
            "--registry-token-file missing: No such file",
        ),
        (
            &["inspect", "--raw", "--config", image],
            "cannot be used with",
        ),
        (
            &["inspect", "--manifest", "--json", image],
            "cannot be used with",
        ),
        (
            &["inspect", "--raw", "--platform", "linux/arm64", image],
            "cannot be used with",
        ),
        (
            &["inspect", "--manifest", "--platform", "all", image],
            "choose a platform",
        ),
        (
            &["inspect", "--raw", "--require-policy", image],
            "leave out --policy",
        ),
        (&["digest", "debian"], "did you mean docker://debian"),
        (&["digest", "--policy", "p", image], "give a platform"),
        (&["export"], "IMAGE"),
        (&["export", "debian"], "did you mean docker://debian"),
        (
            &["export", image, "missing/x.tar"],
            "can't write missing/x.tar: its folder missing: No such file",
        ),
        (&["export", image, "oci:y"], "such as x.tar"),
        (&["export", image, "x.tar.gz"], "| gzip > x.tar.gz"),
        (&["inspect", "--deadline", "0", image], "there is no limit"),
        (
            &["pull", "--retries", "lots", image, "oci:x"],
            "\"lots\" is not a number from 0",
        ),
        (
            &["pull", "--platform", "a/b,a/c", image, "oci:x"],
            "platform= and name=",
        ),
        (
            &["digest", "--platform", "all", image],
            "longshore digest without --platform",
        ),
        (
            &["pull", image, "oci:x:{nope}"],
            "the placeholders are {registry}",
        ),
        (&["man", "pull"], "longshore pull --help"),
        (&["export", image, "."], "can't write .: it is a folder"),
        (&["blob", image], "DIGEST"),
        (&["blob", image, "sha256:7"], "a digest is sha256:HEX"),
        (
            &["pull", "--creds", "u:p", "dir:y", "oci:x"],
            "only for docker://",
        ),
        (&["verify"], "LAYOUT"),
        (&["verify", "x"], "did you mean oci:x"),
        (&["verify", "oci:x:"], "TAG"),
        (
            &["verify", "--all", "oci:x:v1"],
            "--all is for a whole layout",
        ),
        (&["verify", "--wait", "1m", "oci:x"], "--repair"),
        (&["prune"], "LAYOUT"),
        (&["prune", "x"], "did you mean oci:x"),
        (&["prune", "oci:x:v1"], "pruned as a whole"),
    ];
    for (args, words) in table {
        refused(&scratch, args, words);
    }
    assert!(!scratch.path("x").exists());
}

/// An option whose value was forgotten at the end of the line takes neither an image nor the destination as its value.
#[test]
#[ignore = "needs skopeo"]
fn a_forgotten_value_is_code_2() {
    let scratch = Scratch::new();
    let image = "docker://127.0.0.1:1/a/b";
    for option in ["--creds", "--events", "--from", "--platform", "--skopeo"] {
        let words = format!("a value is required for '{option} <");
        refused(&scratch, &["pull", image, image, "oci:x", option], &words);
        refused(
            &scratch,
            &["pull", image, "--json", "oci:x", option],
            &words,
        );
    }
    assert!(!scratch.path("x").exists() && !scratch.path("oci:x").exists());
}

/// Destinations that skopeo writes, or that can't hold what is asked for.
#[test]
#[ignore = "needs skopeo"]
fn a_wrong_destination_is_code_2() {
    let scratch = Scratch::new();
    let image = "docker://127.0.0.1:1/a/b";
    let table: &[(&[&str], &str)] = &[
        (
            &["pull", image, "containers-storage:x"],
            "pull the image into oci:DIR:TAG, and then copy it: skopeo copy oci:DIR:TAG containers-storage:x",
        ),
        (
            &["pull", image, "docker-daemon:x"],
            "skopeo copy oci:DIR:TAG docker-daemon:x:TAG",
        ),
        (
            &["pull", image, "docker-archive:x.tar:a:b"],
            "skopeo copy oci:DIR:TAG docker-archive:x.tar:a:b",
        ),
        (&["pull", image, "x.tar"], "did you mean oci-archive:x.tar"),
        (&["pull", image, "oci-archive:"], "the FILE is missing"),
        (
            &["pull", image, "oci-archive:-"],
            "can't be written to stdout",
        ),
        (
            &["pull", image, "oci://x"],
            "did you mean oci:x, or oci:/x?",
        ),
        (&["pull", image, "oci:~/x"], "type oci:$HOME/x"),
        (&["pull", image, "oci-dir:x"], "did you mean oci:x?"),
        (&["inspect", "oci://x:v1"], "did you mean oci:x:v1"),
        (&["verify", "oci://x"], "did you mean oci:x"),
        (&["verify", "x.tar"], "an archive can't be verified"),
        (&["inspect", "x.tar"], "did you mean oci-archive:x.tar"),
        (&["inspect", "./x:v1"], "did you mean oci:./x:v1?"),
        (
            &["pull", image, image, "dir:x"],
            "dir:DIR holds a single image",
        ),
        (
            &["pull", "--platform", "all", image, "dir:x"],
            "dir:DIR holds the image of a single platform",
        ),
        (
            &["pull", image, image, "oci-archive:x:v1"],
            "oci-archive:FILE likewise",
        ),
    ];
    for (args, words) in table {
        refused(&scratch, args, words);
    }
    assert!(!scratch.path("x").exists());
}

#[test]
#[ignore = "needs skopeo"]
fn options_may_stand_between_the_images_and_the_destination() {
    let (served, _) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let skopeo = newest_skopeo();
    let pull = scratch.longshore().args(["pull", &served.reference("v1")]);
    let pull = pull.args([
        "--tls-verify=false",
        "--skopeo",
        skopeo.path.to_str().unwrap(),
    ]);
    pull.args(["oci:image:v1", "--quiet"]).run().succeeded();
    assert!(scratch.layout("image").tags().contains_key("v1"));
}

#[test]
fn a_place_that_can_not_be_written_is_a_failure() {
    let scratch = Scratch::new();
    let image = "docker://127.0.0.1:1/a/b";
    // Nobody can create a file there, not even root.
    let digest = format!("sha256:{}", "0".repeat(64));
    for args in [
        &["export", image, "/sys/new.tar"][..],
        &["blob", image, &digest, "-o", "/sys/new"],
        &["pull", "--events", "/sys/new", image, "oci:x"],
        &["pull", "--timeline", "/sys/new.svg", image, "oci:x"],
    ] {
        let run = scratch.longshore().args(args.iter().copied()).run();
        let message = run.failed(1);
        assert!(message.contains("can't write /sys/new"), "{message}");
    }
}

#[test]
fn a_password_in_an_argument_is_not_repeated() {
    let scratch = Scratch::new();
    let run = scratch.longshore();
    let arguments = ["pull", "http://user:sesame@a.b/c", "oci:x"];
    let message = run.args(arguments).run().failed(2);
    assert!(message.contains("a.b/c"), "{message}");
    assert!(!message.contains("sesame"), "{message}");
}

#[test]
fn a_suggestion_is_shown_as_it_is_to_be_typed() {
    let scratch = Scratch::new();
    let message = scratch.longshore().args(["inspect", "debian"]).run();
    let message = message.failed(2);
    assert!(
        message.contains("did you mean docker://debian?\n"),
        "{message}"
    );
}

#[test]
#[ignore = "needs skopeo"]
fn an_empty_variable_for_the_log_counts_as_not_set() {
    let scratch = Scratch::new();
    let has_log = |value| {
        let inspect = scratch.inspect(&newest_skopeo(), "docker://127.0.0.1:1/a");
        let inspect = inspect.arg("-v").env("RUST_LOG", value);
        inspect.run().failed(1).contains("DEBUG longshore")
    };
    assert!(has_log("") && !has_log("off"));
}

#[test]
fn wrong_usage_is_code_2_even_if_stderr_is_closed() {
    // Because of the password, the command cleans the message and writes it by itself.
    for image in ["debian", "http://a:secret@b/c"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = std::process::Command::new(env!("CARGO_BIN_EXE_longshore"))
            .args(["inspect", image])
            .stderr(writer)
            .status()
            .unwrap();
        assert_eq!(ended.code(), Some(2), "{image}");
    }
}

#[test]
fn help_and_version_succeed() {
    let scratch = Scratch::new();
    for args in [
        &["--help"][..],
        &["pull", "--help"],
        &["inspect", "--help"],
        &["digest", "--help"],
        &["blob", "--help"],
        &["export", "--help"],
        &["verify", "--help"],
        &["prune", "--help"],
        &["list-tags", "-h"],
        &["doctor", "-h"],
    ] {
        let run = scratch.longshore().args(args.iter().copied()).run();
        assert!(run.succeeded().stdout.contains("Usage"));
    }
    let run = scratch.longshore().arg("--version").run().succeeded();
    let version = concat!("longshore ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(run.stdout, version);
}

#[test]
#[ignore = "needs skopeo"]
fn a_wrong_credential_is_not_repeated() {
    let scratch = Scratch::new();
    let run = scratch.longshore().env("PATH", "/nowhere");
    let message = run
        .args(["pull", "--creds", "-", "docker://127.0.0.1:1/a", "oci:x"])
        .input("sesame-without-a-colon\n")
        .run()
        .failed(2);
    assert!(!message.contains("sesame"), "{message}");
}
