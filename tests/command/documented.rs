//! What is printed as JSON has the fields that docs/json.md says, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use longshore::oci_spec::image::Descriptor;
use serde_json::Value;

use crate::harness::{Longshore, Scratch, Served, newest_skopeo, small_image};
use test_registry::image::write_index;

const DOCUMENT: &str = include_str!("../../docs/json.md");

/// The rows of the tables, by the heading above them: the field and its type.
fn tables() -> BTreeMap<String, BTreeMap<String, String>> {
    let mut tables: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut heading = String::new();
    for line in DOCUMENT.lines() {
        if let Some(text) = line.strip_prefix("## ").or(line.strip_prefix("### ")) {
            text.clone_into(&mut heading);
            tables.entry(heading.clone()).or_default();
        } else if let Some(row) = line.strip_prefix("| `") {
            let (field, rest) = row.split_once("` | ").expect("a field");
            let (kind, _) = rest.split_once(" | ").expect("a type");
            let table = tables.get_mut(&heading).expect("a heading");
            let known = table.insert(field.to_owned(), kind.to_owned());
            assert_eq!(known, None, "{heading}: {field}");
        }
    }
    tables
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) => {
            assert!(number.is_u64(), "{number}");
            "number"
        }
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Checks the type of each field, and collects the fields.
#[track_caller]
fn check(
    table: &BTreeMap<String, String>,
    object: &Value,
    prefix: &str,
    found: &mut BTreeSet<String>,
) {
    for (name, value) in object.as_object().expect("an object") {
        let field = format!("{prefix}{name}");
        let kinds = table.get(&field);
        let kinds = kinds.unwrap_or_else(|| panic!("{field} is not documented"));
        let is_kind = |known: &str| match known {
            "any" => true,
            "map" => value.is_object(),
            known => known == kind_of(value),
        };
        let is_documented = kinds.split(" or ").any(is_kind);
        assert!(is_documented, "{field} is no {kinds}: {value}");
        // The names in a map, or in a value of any type, come from outside.
        if value.is_object() && kinds.contains("object") {
            check(table, value, &format!("{field}."), found);
        }
        if kinds.contains("array") {
            let items = value.as_array().into_iter().flatten();
            for item in items.filter(|item| item.is_object()) {
                check(table, item, &format!("{field}[]."), found);
            }
        }
        found.insert(field);
    }
}

/// Checks that the command ends with this code, and that its output has exactly the fields of the table.
#[track_caller]
fn check_output(heading: &str, command: Longshore, code: i32) -> Value {
    let run = command.arg("--json").run();
    assert_eq!(run.status.code(), Some(code), "{run}");
    let line = run.stdout.strip_suffix('\n').expect("a line");
    assert!(!line.contains('\n'), "{run}");
    let object: Value = serde_json::from_str(line).unwrap();
    let table = &tables()[heading];
    let mut found = BTreeSet::new();
    check(table, &object, "", &mut found);
    let documented: BTreeSet<String> = table.keys().cloned().collect();
    assert_eq!(found, documented, "{object}");
    object
}

#[test]
#[ignore = "needs skopeo"]
fn the_plan_of_a_dry_run_has_the_documented_fields() {
    let (served, _) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let missing = served.reference("missing");
    let pull = scratch.pull(&newest_skopeo(), &served.reference("v1"), &missing);
    let run = pull
        .args(["oci:image", "--keep-going", "--json", "--dry-run"])
        .run();
    assert_eq!(run.status.code(), Some(1), "{run}");
    let plan: Value = serde_json::from_str(&run.stdout).unwrap();
    let table = &tables()["The plan: `pull --dry-run --json`"];
    let mut found = BTreeSet::new();
    check(table, &plan, "", &mut found);
    let documented: BTreeSet<String> = table.keys().cloned().collect();
    assert_eq!(found, documented, "{plan}");
}

#[test]
#[ignore = "needs skopeo"]
fn the_report_and_the_events_have_the_documented_fields() {
    let tables = tables();
    let (served, _) = Served::image("v1", &small_image(1));
    served.faults(&["blob#1:status=500*1"]);
    let scratch = Scratch::new();
    let events = scratch.path("events");
    let missing = served.reference("missing");
    let pull = scratch.pull(&newest_skopeo(), &served.reference("v1"), &missing);
    let events_file = events.to_str().unwrap().to_owned();
    let run = pull
        .args([
            "oci:image",
            "--keep-going",
            "--json",
            "--events",
            &events_file,
        ])
        .run();
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(run.status.code(), Some(1), "{run}");
    let table = &tables["The report: `pull --json`"];
    let mut found = BTreeSet::new();
    check(table, &report, "", &mut found);
    let documented: BTreeSet<String> = table.keys().cloned().collect();
    assert_eq!(found, documented, "{report}");

    let common = &tables["The events: `pull --events FILE`, `pull --progress json`"];
    let mut kinds = BTreeSet::new();
    let lines = fs::read_to_string(events).unwrap();
    for line in lines.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let kind = event["event"].as_str().unwrap();
        let name = format!("`{kind}`");
        let heading = tables.keys().find(|heading| heading.contains(&name));
        let heading = heading.unwrap_or_else(|| panic!("{kind} is not documented"));
        let table = common.iter().chain(&tables[heading]);
        let table = table.map(|(field, kind)| (field.clone(), kind.clone()));
        check(&table.collect(), &event, "", &mut BTreeSet::new());
        kinds.insert(kind.to_owned());
    }
    // There is a `proxy_ended` only if a proxy ends before the pull does.
    for kind in [
        "started",
        "failed",
        "image_opened",
        "image_pulled",
        "image_failed",
        "proxy_started",
        "proxy_ready",
        "document_requested",
        "document_answered",
        "blob_queued",
        "blob_requested",
        "blob_opened",
        "blob_bytes",
        "blob_verified",
        "blob_retried",
    ] {
        assert!(kinds.contains(kind), "no {kind} in {kinds:?}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_inspected_image_has_the_documented_fields() {
    for image in [
        small_image(1).label("a", "b"),
        small_image(1).docker_schema2(),
    ] {
        let (served, _) = Served::image("v1", &image);
        let scratch = Scratch::new();
        let inspect = scratch.inspect(&newest_skopeo(), &served.reference("v1"));
        let report = check_output("An image: `inspect --json`", inspect, 0);
        // This is true for the Docker image, too.
        let media_type = report["layers"][0]["media_type"].as_str().unwrap();
        assert_eq!(media_type, "application/vnd.oci.image.layer.v1.tar+gzip");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn the_platforms_of_an_index_and_of_a_single_image_have_the_documented_fields() {
    let served = Served::start();
    let images = [small_image(1), small_image(2).platform("linux", "arm64")];
    write_index(served.folder.path(), "index", &images).unwrap();
    served.add("single", &small_image(1));
    for tag in ["index", "single"] {
        let scratch = Scratch::new();
        let inspect = scratch.inspect(&newest_skopeo(), &served.reference(tag));
        let inspect = inspect.args(["--platform", "all"]);
        let heading = "The platforms: `inspect --platform all --json`";
        let report = check_output(heading, inspect, 0);
        assert_eq!(report["is_index"], tag == "index");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn the_tags_of_a_repository_have_the_documented_fields() {
    let (served, _) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let reference = served.reference("v1");
    let (repository, _) = reference.rsplit_once(':').unwrap();
    let list_tags = scratch
        .longshore()
        .args(["list-tags", "--tls-verify=false"]);
    let skopeo = newest_skopeo();
    let list_tags = list_tags.args(["--skopeo", skopeo.path.to_str().unwrap(), repository]);
    check_output("The tags: `list-tags --json`", list_tags, 0);
}

/// The image is missing, which is a problem, and there are few open files, which is a note.
#[test]
#[ignore = "needs skopeo"]
fn the_diagnosis_has_the_documented_fields() {
    let (served, _) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let auth_file = scratch.path("auth.json");
    fs::write(&auth_file, "{}").unwrap();
    let (skopeo, missing) = (newest_skopeo(), served.reference("missing"));
    let doctor = scratch.longshore().args(["doctor", "--tls-verify=false"]);
    let doctor = doctor.args(["--skopeo", skopeo.path.to_str().unwrap(), &missing]);
    let doctor = doctor.args(["--authfile", auth_file.to_str().unwrap()]);
    let doctor = doctor.under("prlimit", ["--nofile=300:300"]);
    check_output("The diagnosis: `doctor --json`", doctor, 1);
}

#[test]
#[ignore = "needs skopeo"]
fn the_damage_of_a_layout_has_the_documented_fields() {
    let (served, image) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let pull = scratch.pull(
        &newest_skopeo(),
        &served.reference("v1"),
        &layout.tagged("v1"),
    );
    pull.run().succeeded();
    let [missing, longer, damaged] = &image.layers[..] else {
        panic!("it has three layers")
    };
    fs::remove_file(layout.blob(missing.digest())).unwrap();
    for (layer, other) in [(longer, vec![0]), (damaged, vec![0; size_of(damaged)])] {
        fs::write(layout.blob(layer.digest()), other).unwrap();
    }
    let heading = "The damage: `verify --json`";
    for arguments in [&["--diff-ids"][..], &["--repair"]] {
        let verify = scratch.longshore().args(["verify", &layout.tagged("v1")]);
        let report = check_output(heading, verify.args(arguments.iter().copied()), 1);
        assert_eq!(report["ok"], false);
        for problem in report["problems"].as_array().unwrap() {
            let kind = problem["kind"].as_str().unwrap();
            assert!(DOCUMENT.contains(&format!("- `{kind}`: ")), "{kind}");
        }
    }
}

fn size_of(descriptor: &Descriptor) -> usize {
    usize::try_from(descriptor.size()).unwrap()
}

#[test]
#[ignore = "needs skopeo"]
fn the_removed_blobs_have_the_documented_fields() {
    let (served, _) = Served::image("old", &small_image(1));
    served.add("new", &small_image(2));
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    for tag in ["old", "new"] {
        let reference = served.reference(tag);
        let pull = scratch.pull(&newest_skopeo(), &reference, &layout.tagged("v1"));
        pull.run().succeeded();
    }
    for dry_run in [true, false] {
        let prune = scratch.longshore().args(["prune", &layout.all()]);
        let prune = prune.args(dry_run.then_some("--dry-run"));
        let report = check_output("The removed blobs: `prune --json`", prune, 0);
        assert_eq!(report["dry_run"], dry_run);
        assert_eq!(report["removed"].as_array().unwrap().len(), 5);
    }
}

#[test]
#[ignore = "needs skopeo"]
fn the_report_of_a_pull_that_ends_early_says_what_was_done() {
    let (served, image) = Served::image("v1", &small_image(1));
    let stalled = &image.layers[2];
    served.faults(&[&format!("blob@{}:stall=half", stalled.digest())]);
    let scratch = Scratch::new();
    let list = scratch.path("images.txt");
    fs::write(&list, served.reference("v1")).unwrap();
    let from = format!("--from={}", list.display());
    for from in [None, Some(&*from)] {
        let one = from.is_none().then(|| served.reference("v1"));
        let pull = scratch
            .longshore()
            .args(["pull", "--tls-verify=false", "--json"]);
        let pull = pull.args(["--skopeo", newest_skopeo().path.to_str().unwrap()]);
        let pull = pull.args(["--deadline=3s"]).args(from).args(one.as_deref());
        let layout = if from.is_some() {
            "oci:list"
        } else {
            "oci:one"
        };
        let run = pull.arg(layout).run();
        assert_eq!(run.status.code(), Some(1), "{run}");
        let report: Value = serde_json::from_str(&run.stdout).unwrap();
        let error = report["error"].as_str().unwrap();
        assert!(error.contains("not done within"), "{error}");
        let all: u64 = image.layers.iter().map(Descriptor::size).sum();
        assert_eq!(report["bytes"], all, "{report}");
        assert_eq!(report["fetched_blobs"], 2, "{report}");
        assert_eq!(report["fetched_bytes"], all - stalled.size(), "{report}");
        assert!(report["proxies"].as_u64().unwrap() > 0, "{report}");
        assert_eq!(report["protocol"], "");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn wrong_usage_prints_no_report() {
    let (served, _) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let home = scratch.path("home");
    let folder = home.join(".config/containers");
    fs::create_dir_all(&folder).unwrap();
    let helper = "credential-helpers = [\"ecr-login\"]\n";
    fs::write(folder.join("registries.conf"), helper).unwrap();
    fs::write(scratch.path("creds"), "user:sesame\n").unwrap();
    fs::create_dir(scratch.path("full")).unwrap();
    fs::write(scratch.path("full/letter"), "dear").unwrap();
    let table = [
        (["--creds-file", "creds"], "oci:image"),
        (["--retries", "0"], "dir:full"),
    ];
    for (options, destination) in table {
        for more in ["--quiet", "--dry-run"] {
            let pull = scratch.pull(&newest_skopeo(), &served.reference("v1"), destination);
            let pull = pull.env("HOME", home.to_str().unwrap());
            let run = pull.args(options).args(["--json", more]).run();
            assert_eq!(run.stdout, "", "{run}");
            assert_eq!(run.status.code(), Some(2), "{run}");
            assert!(!run.stderr.is_empty(), "{run}");
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn each_image_of_an_index_names_the_reference_that_was_asked_for() {
    let served = Served::start();
    let images = [(1, "amd64"), (2, "arm64")];
    let images = images.map(|(seed, name)| small_image(seed).platform("linux", name));
    write_index(served.folder.path(), "multi", &images).unwrap();
    served.add("one", &small_image(3));
    let (multi, one) = (served.reference("multi"), served.reference("one"));
    let scratch = Scratch::new();
    for more in ["--quiet", "--dry-run"] {
        let pull = scratch.pull(&newest_skopeo(), &multi, &one);
        let report = pull.args(["oci:image", "--platform=all", more]).report();
        let images = report["images"].as_array().unwrap();
        let mut requested: Vec<&str> = images
            .iter()
            .map(|image| image["requested"].as_str().unwrap())
            .collect();
        requested.sort_unstable();
        assert_eq!(requested, [&*multi, &*multi, &*one], "{report}");
        for image in images.iter().filter(|image| image["requested"] == *multi) {
            assert!(
                image["image"].as_str().unwrap().contains("@sha256:"),
                "{image}"
            );
        }
    }
}
