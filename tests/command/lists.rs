//! Lists of images: each image succeeds or fails on its own, under a name of its own.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use test_registry::image::write_index;

use crate::harness::{
    Layout, Longshore, Run, Scratch, Served, Skopeo, newest_skopeo, skopeos, small_image,
};

const IMAGES: u64 = 24;

/// Serves images of three layers each, with the tags `i0`, `i1`, ...
fn serve() -> Served {
    let served = Served::start();
    for image in 0..IMAGES {
        served.add(&format!("i{image}"), &small_image(image));
    }
    served
}

fn references(served: &Served) -> Vec<String> {
    (0..IMAGES)
        .map(|image| served.reference(&format!("i{image}")))
        .collect()
}

/// A pull of the images of this list.
fn pull(scratch: &Scratch, skopeo: &Skopeo, list: &str, dest: &str) -> Longshore {
    let path = scratch.path("list");
    fs::write(&path, list).unwrap();
    let longshore = scratch.longshore();
    let longshore = longshore.args([
        "pull",
        "--tls-verify=false",
        "--insecure-policy",
        "--skopeo",
    ]);
    let longshore = longshore.arg(skopeo.path.to_str().unwrap());
    longshore.args(["--from", path.to_str().unwrap(), dest])
}

/// The name that an image has in a layout by default.
fn name_of(reference: &str) -> String {
    reference.strip_prefix("docker://").unwrap().to_owned()
}

/// The text on stderr. stdout contains the images that were pulled.
#[track_caller]
fn failed(run: Run, code: i32) -> String {
    assert_eq!(run.status.code(), Some(code), "{run}");
    run.stderr
}

fn names(layout: &Layout) -> BTreeSet<String> {
    layout.tags().into_keys().collect()
}

#[test]
#[ignore = "needs skopeo"]
fn a_missing_image_is_named_and_the_others_are_pulled() {
    for skopeo in skopeos() {
        let served = serve();
        let mut references = references(&served);
        let missing = served.reference("missing");
        references.insert(7, missing.clone());
        let list = format!("# some images\n\n{}  # the last\n", references.join("\n"));
        let scratch = Scratch::new();
        let layout = scratch.layout("mirror");
        let run = pull(&scratch, &skopeo, &list, &layout.all()).run();
        let message = failed(run, 1);
        assert!(
            message.contains(&format!("can't pull {missing}: ")),
            "{message}"
        );
        let end = message.lines().last().unwrap();
        assert_eq!(end, "longshore: 1 of 25 images could not be pulled");
        references.retain(|reference| *reference != missing);
        let expected: BTreeSet<String> = references.iter().map(|image| name_of(image)).collect();
        assert_eq!(names(&layout), expected);
        layout.assert_valid();
        // Blobs that are there are not fetched again.
        served.take_blob_gets();
        let run = pull(&scratch, &skopeo, &list, &layout.all());
        let run = run.arg("--json").run();
        let report: Value = serde_json::from_str(&run.stdout).unwrap();
        failed(run, 1);
        assert_eq!(report["failed"].as_array().unwrap().len(), 1, "{report}");
        assert_eq!(report["failed"][0]["image"], missing.as_str());
        let error = report["failed"][0]["error"].as_str().unwrap();
        assert!(error.contains("manifest unknown"), "{error}");
        assert_eq!(report["images"].as_array().unwrap().len() as u64, IMAGES);
        assert_eq!(report["fetched_blobs"], 0, "{report}");
        assert_eq!(served.take_blob_gets(), [""; 0]);
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_strict_pull_stops_at_the_first_failure() {
    let (skopeo, served, scratch) = (newest_skopeo(), serve(), Scratch::new());
    let layout = scratch.layout("mirror");
    let missing = served.reference("missing");
    let list = format!("{missing}\n{}\n", references(&served).join("\n"));
    let run = pull(&scratch, &skopeo, &list, &layout.all());
    let message = failed(run.arg("--strict").run(), 1);
    assert!(
        message.contains(&format!("can't pull {missing}: ")),
        "{message}"
    );
    layout.assert_valid();
}

#[test]
#[ignore = "needs skopeo"]
fn keep_going_applies_to_images_of_the_command_line() {
    let (skopeo, served, scratch) = (newest_skopeo(), serve(), Scratch::new());
    let (missing, one) = (served.reference("missing"), served.reference("i1"));
    // Without the option, neither image is pulled.
    let layout = scratch.layout("none");
    let run = scratch.pull(&skopeo, &missing, &one).arg(&layout.all());
    run.run().failed(1);
    assert!(!layout.exists() || names(&layout).is_empty());
    let layout = scratch.layout("one");
    let run = scratch.pull(&skopeo, &missing, &one).arg(&layout.all());
    failed(run.arg("--keep-going").run(), 1);
    assert_eq!(names(&layout), [name_of(&one)].into());
    layout.assert_valid();
}

#[test]
#[ignore = "needs skopeo"]
fn the_parts_of_a_list_contain_each_image_once() {
    let (skopeo, served, scratch) = (newest_skopeo(), serve(), Scratch::new());
    let list = references(&served).join("\n");
    let mut all = BTreeSet::new();
    for part in 0..3 {
        let layout = scratch.layout(&format!("part-{part}"));
        let shard = format!("--shard={part}/3");
        let run = pull(&scratch, &skopeo, &list, &layout.all());
        run.arg(&shard).run().succeeded();
        let names = names(&layout);
        assert!(!names.is_empty() && names.is_disjoint(&all), "{names:?}");
        all.extend(names);
    }
    let expected: BTreeSet<String> = references(&served)
        .iter()
        .map(|image| name_of(image))
        .collect();
    assert_eq!(all, expected);
}

#[test]
#[ignore = "needs skopeo"]
fn a_list_may_contain_platforms_and_names() {
    for skopeo in skopeos() {
        let (served, scratch) = (Served::start(), Scratch::new());
        let images = [
            small_image(1).platform("linux", "amd64"),
            small_image(2).platform("linux", "arm64"),
        ];
        let written = write_index(served.folder.path(), "v1", &images).unwrap();
        let image = served.reference("v1");
        let list = format!(
            "{image} platform=linux/amd64 name=amd\n{image} platform=linux/arm64 name=arm\n\
             {image} platform=all name=all\n"
        );
        let layout = scratch.layout("mirror");
        let run = pull(&scratch, &skopeo, &list, &layout.all());
        run.run().succeeded();
        let tags = layout.tags();
        for (name, image) in [("amd", 0), ("arm", 1)] {
            let digest = written.images[image].manifest_digest.to_string();
            assert_eq!(tags[name], digest, "{name}");
        }
        assert_eq!(tags["all"], written.digest.to_string());
        layout.assert_valid();
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_template_names_the_images_of_a_list_from_stdin() {
    let (skopeo, served, scratch) = (newest_skopeo(), serve(), Scratch::new());
    let layout = scratch.layout("mirror");
    let longshore = scratch.longshore();
    let longshore = longshore.args([
        "pull",
        "--tls-verify=false",
        "--insecure-policy",
        "--skopeo",
    ]);
    let longshore = longshore.arg(skopeo.path.to_str().unwrap());
    let run = longshore.args(["--from", "-", &layout.tagged("{name}-{tag}")]);
    let list = scratch.path("list");
    fs::write(&list, references(&served)[..3].join("\n")).unwrap();
    let script = r#"exec "$@" < "$0""#;
    let run = run.under("sh", ["-c", script, list.to_str().unwrap()]);
    run.run().succeeded();
    let expected = ["image-i0", "image-i1", "image-i2"].map(str::to_owned);
    assert_eq!(names(&layout), expected.into());
}

/// A wrong list is noticed before anything is fetched.
#[test]
#[ignore = "needs skopeo"]
fn an_error_in_a_list_is_wrong_usage() {
    let (skopeo, served, scratch) = (newest_skopeo(), serve(), Scratch::new());
    let layout = scratch.layout("mirror");
    let (one, two) = (served.reference("i1"), served.reference("i2"));
    let tagged = layout.tagged("same");
    let cases = [
        (format!("{one}\nnonsense\n"), layout.all(), "line 2: "),
        (
            format!("{one} platform=arm\n"),
            layout.all(),
            "line 1: a platform is",
        ),
        (
            format!("{one} name=-\n"),
            layout.all(),
            "line 1: \"-\" can't name an image",
        ),
        (
            format!("{one} name=x\n{two} name=x\n"),
            layout.all(),
            "would be called x",
        ),
        ("# nothing\n".to_owned(), layout.all(), "it names no image"),
        (
            format!("{one}\n{two}\n"),
            tagged,
            "one TAG can't name several images; oci:DIR",
        ),
        (
            format!("{one}\n{two} name={}\n", name_of(&one)),
            layout.all(),
            "would be called",
        ),
        (
            format!("{}\n", one.replace("/image:", "/im__age:")),
            layout.all(),
            "give it a name of its own",
        ),
    ];
    for (list, dest, words) in cases {
        let message = pull(&scratch, &skopeo, &list, &dest).run().failed(2);
        assert!(message.contains(words), "{list}: {message}");
        assert!(!layout.exists(), "{list}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_list_for_an_unusable_folder_fails_at_once() {
    let (skopeo, served, scratch) = (newest_skopeo(), serve(), Scratch::new());
    let layout = scratch.layout("mirror");
    fs::create_dir(scratch.path("mirror")).unwrap();
    fs::write(scratch.path("mirror/mine"), "").unwrap();
    let list = references(&served).join("\n");
    let message = failed(pull(&scratch, &skopeo, &list, &layout.all()).run(), 1);
    assert!(
        message.contains("neither empty nor an OCI image layout"),
        "{message}"
    );
}

#[test]
#[ignore = "needs skopeo"]
fn one_image_with_keep_going_has_its_given_name() {
    let (skopeo, served, scratch) = (newest_skopeo(), serve(), Scratch::new());
    let layout = scratch.layout("one");
    let run = scratch.pull(&skopeo, &served.reference("i1"), &layout.tagged("v1"));
    run.arg("--keep-going").run().succeeded();
    assert_eq!(names(&layout), ["v1".to_owned()].into());
}

#[test]
#[ignore = "needs skopeo"]
fn a_part_without_images_is_no_failure() {
    let (skopeo, served, scratch) = (newest_skopeo(), serve(), Scratch::new());
    fs::write(scratch.path("creds"), "user:password").unwrap();
    let one = served.reference("i1");
    let mut came = 0;
    for part in 0..8 {
        let layout = scratch.layout(&format!("part-{part}"));
        let run = pull(&scratch, &skopeo, &one, &layout.all());
        let creds = scratch.path("creds");
        let shard = format!("--shard={part}/8");
        let run = run.args(["--creds-file", creds.to_str().unwrap(), &shard]);
        run.run().succeeded();
        came += usize::from(layout.exists() && !names(&layout).is_empty());
    }
    assert_eq!(came, 1);
}

/// Proxies for one transport can't open the other, and only one proxy is allowed.
#[test]
#[ignore = "needs skopeo"]
fn one_proxy_pulls_images_of_two_transports() {
    let (skopeo, served, scratch) = (newest_skopeo(), serve(), Scratch::new());
    let local = format!("oci:{}:i1", served.folder.path().display());
    for images in [
        [local.clone(), served.reference("i2")],
        [served.reference("i2"), local],
    ] {
        let layout = scratch.layout(&format!("from-{}", &images[0][..3]));
        let list = format!("{} name=a\n{} name=b\n", images[0], images[1]);
        let run = pull(&scratch, &skopeo, &list, &layout.all());
        run.args(["--proxies", "1"]).run().succeeded();
        assert_eq!(names(&layout), ["a".to_owned(), "b".to_owned()].into());
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_pull_that_stops_at_the_first_failure_says_what_became_of_the_others() {
    let served = Served::start();
    served.add("v1", &small_image(1));
    let skopeo = newest_skopeo();
    let (missing, good) = (served.reference("nope"), served.reference("v1"));
    let start = "longshore: stopped at the first failure";
    let table: [(&str, &[&str], &str); 3] = [
        (
            "oci:image",
            &[],
            ": 0 of 2 images were pulled; --keep-going pulls the others",
        ),
        (
            "oci-archive:image.tar",
            &[],
            ", so nothing was written; --keep-going goes on with the others",
        ),
        (
            "oci:image",
            &["--dry-run"],
            "; --keep-going goes on with the others",
        ),
    ];
    for (dest, options, end) in table {
        let scratch = Scratch::new();
        let pull = scratch.pull(&skopeo, &missing, &good);
        let message = pull.arg(dest).args(options.iter().copied()).run().failed(1);
        let last = message.lines().last().unwrap_or_default();
        assert_eq!(last, format!("{start}{end}"), "{message}");
    }
    let scratch = Scratch::new();
    let list = format!("{missing}\n{good}\n");
    let run = pull(&scratch, &skopeo, &list, "oci:image")
        .arg("--strict")
        .run();
    let message = failed(run, 1);
    assert!(
        message.contains("a pull without --strict pulls the others"),
        "{message}"
    );
    let single = scratch.pull(&skopeo, &missing, "oci:image").run().failed(1);
    assert!(!single.contains("stopped"), "{single}");
}
