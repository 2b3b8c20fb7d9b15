//! The advice in an error: the names, platforms or tags that exist, if the wanted one does not.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

use crate::harness::{Scratch, Served, Skopeo, newest_skopeo, skopeos, small_image};
use test_registry::auth::Auth;
use test_registry::image::write_index;
use test_registry::server::Options;

/// Runs each command that opens an image on this image, and checks the second line of its error.
#[track_caller]
fn assert_all_advise(
    scratch: &Scratch,
    skopeo: &Skopeo,
    image: &str,
    commands: &[&[&str]],
    advice: &str,
) {
    let digest = format!("sha256:{}", "0".repeat(64));
    for command in commands {
        let (name, options) = command.split_first().unwrap();
        let path = skopeo.path.to_str().unwrap();
        let run = scratch
            .longshore()
            .args([*name, "--tls-verify=false", "--skopeo", path]);
        let run = run.args(options.iter().copied()).arg(image);
        let run = match *name {
            "pull" => run.arg("oci:image"),
            "blob" => run.args([&*digest, "-o", "blob"]),
            _ => run,
        };
        let message = run.run().failed(1);
        let second = message.lines().nth(1);
        assert_eq!(
            second,
            Some(format!("  {advice}").as_str()),
            "{command:?}: {message}"
        );
        assert_eq!(message.lines().count(), 2, "{command:?}: {message}");
    }
    assert!(!scratch.path("image").exists());
    assert!(!scratch.path("blob").exists());
}

#[test]
#[ignore = "needs skopeo"]
fn the_names_of_a_layout_are_listed_where_the_wanted_one_is_missing() {
    const ALL: &[&[&str]] = &[
        &["pull"],
        &["pull", "--platform", "all"],
        &["inspect"],
        &["inspect", "--raw"],
        &["inspect", "--platform", "all"],
        &["digest"],
        &["digest", "--platform", "linux/amd64"],
        &["blob"],
        &["export"],
    ];
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let layout = scratch.layout("several");
        for tag in ["v1", "v2", "latest"] {
            small_image(1)
                .label("tag", tag)
                .write(layout.folder(), tag)
                .unwrap();
        }
        let table = [
            (
                "oci:several",
                "the names that there are: v1, v2, latest; oci:several:v1 is the first of them",
            ),
            (
                "oci:several:x/y",
                "the names that there are: v1, v2, latest",
            ),
            (
                "oci:several:latst",
                "did you mean oci:several:latest? The names that there are: v1, v2, latest",
            ),
            ("oci:nowhere:v1", "there is no folder nowhere"),
            (
                "oci:file",
                "file is no folder, and oci: names the folder of an image layout",
            ),
        ];
        fs::write(scratch.path("file"), "").unwrap();
        for (image, advice) in table {
            assert_all_advise(&scratch, &skopeo, image, ALL, advice);
        }
        for (image, advice) in [
            ("dir:nowhere", "there is no folder nowhere"),
            ("dir:file", "file is no folder"),
            (
                "dir:several",
                "the folder is an OCI image layout: oci:several",
            ),
        ] {
            let message = scratch.inspect(&skopeo, image).run().failed(1);
            assert_eq!(
                message.lines().nth(1),
                Some(&*format!("  {advice}")),
                "{message}"
            );
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn the_platforms_of_an_index_are_listed_where_the_wanted_one_is_missing() {
    const ALL: &[&[&str]] = &[
        &["pull", "--platform", "plan9/mips"],
        &["inspect", "--platform", "plan9/mips"],
        &["inspect", "--config", "--platform", "plan9/mips"],
        &["digest", "--platform", "plan9/mips"],
        &["blob", "--platform", "plan9/mips"],
        &["export", "--platform", "plan9/mips"],
    ];
    let images = [
        small_image(1).platform("linux", "arm64"),
        small_image(2).platform("windows", "amd64"),
        small_image(3).platform("unknown", "unknown"),
    ];
    let served = Served::start();
    write_index(served.folder.path(), "v1", &images).unwrap();
    served.add("single", &small_image(4));
    let folder = format!("oci:{}:v1", served.folder.path().display());
    let advice = "the platforms that there are: linux/arm64, windows/amd64; --platform chooses one";
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        for image in [&served.reference("v1"), &folder] {
            assert_all_advise(&scratch, &skopeo, image, ALL, advice);
        }
        let doctor = scratch.longshore().args(["doctor", "--tls-verify=false"]);
        let doctor = doctor.args(["--skopeo", skopeo.path.to_str().unwrap()]);
        let run = doctor
            .args(["--platform", "plan9/mips", &served.reference("v1")])
            .run();
        assert!(run.stdout.contains("linux/arm64, windows/amd64;"), "{run}");
        // Of several images, the error names the wrong one, and the others are pulled.
        let run = scratch
            .pull(
                &skopeo,
                &served.reference("single"),
                &served.reference("v1"),
            )
            .args(["--platform", "plan9/mips", "--keep-going", "oci:several"])
            .run();
        assert_eq!(run.status.code(), Some(1), "{run}");
        assert!(run.stderr.contains(advice), "{run}");
        assert!(run.stdout.contains("single"), "{run}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn refused_and_missing_credentials_get_different_advice() {
    let password = Some(("user".to_owned(), "sesame".to_owned()));
    let served = Served::with(Options {
        auth: Auth {
            basic: password,
            ..Auth::default()
        },
        ..Options::default()
    });
    served.add("v1", &small_image(1));
    let image = served.reference("v1");
    let host = image.strip_prefix("docker://").unwrap().split('/').next();
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let auth = BASE64.encode("user:wrong");
        let wrong = json!({ "auths": { host.unwrap(): { "auth": auth } } });
        fs::write(scratch.path("wrong.json"), wrong.to_string()).unwrap();
        fs::write(scratch.path("empty.json"), "{}").unwrap();
        fs::write(scratch.path("creds"), "user:wrong\n").unwrap();
        let table: [(&[&str], &str); 4] = [
            (
                &["--authfile", "wrong.json"],
                "the registry does not accept the credentials of the auth file that was given",
            ),
            (
                &["--authfile", "empty.json"],
                "the auth file that was given has no credentials for this registry",
            ),
            (
                &["--creds-file", "creds"],
                "the registry does not accept the credentials that were given",
            ),
            (
                &["--no-creds"],
                "the registry wants credentials, and --no-creds",
            ),
        ];
        for (options, words) in table {
            let pull = scratch.pull(&skopeo, &image, "oci:image");
            let inspect = scratch.inspect(&skopeo, &image);
            for run in [pull, inspect] {
                let message = run.args(options.iter().copied()).run().failed(1);
                let second = message.lines().nth(1).unwrap_or_default();
                assert!(second.trim().starts_with(words), "{options:?}: {message}");
                assert!(!message.contains("sesame"), "{message}");
            }
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_missing_tag_comes_with_the_command_that_lists_tags() {
    let (served, _) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let image = served.reference("v2");
    let (repository, _) = image.rsplit_once(':').unwrap();
    let message = scratch.inspect(&newest_skopeo(), &image).run().failed(1);
    let expected = format!(
        "are name and tag right? longshore list-tags {repository}, with the same options for the registry, lists"
    );
    assert!(message.contains(&expected), "{message}");
    let message = scratch
        .inspect(&newest_skopeo(), repository)
        .run()
        .failed(1);
    assert!(
        message.contains("no tag was given, which means latest"),
        "{message}"
    );
}

#[test]
#[ignore = "needs skopeo"]
fn the_advice_for_a_damaged_copy_is_about_the_copy() {
    let served = Served::with(Options::default());
    let image = served.add("v1", &small_image(1));
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let copy = scratch.layout("copy");
        let of_registry = served.reference("v1");
        scratch
            .pull(&skopeo, &of_registry, &copy.tagged("v1"))
            .run()
            .succeeded();
        let hex = image.layers[0].digest().to_string().replace("sha256:", "");
        let blob = copy.folder().join("blobs/sha256").join(hex);
        let mut bytes = fs::read(&blob).unwrap();
        bytes[0] ^= 1;
        fs::write(&blob, bytes).unwrap();
        fs::write(scratch.path("no.tar"), "no archive at all").unwrap();
        for (source, advice) in [
            (&*copy.tagged("v1"), "longshore verify --repair oci:"),
            (
                "oci-archive:no.tar",
                "the file is damaged, or no archive of this kind",
            ),
            (
                "docker-archive:no.tar",
                "the file is damaged, or no archive of this kind",
            ),
        ] {
            let message = scratch.pull(&skopeo, source, "oci:other").run().failed(1);
            let last = message.lines().last().unwrap();
            assert!(last.contains(advice), "{source}: {message}");
        }
    }
}
