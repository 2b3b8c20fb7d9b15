//! `longshore doctor` says whether pulls can work, and what is to be done if not.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{
    Longshore, Scratch, Served, Skopeo, newest_skopeo, script, skopeos, small_image,
};

fn doctor(scratch: &Scratch, skopeo: &Skopeo) -> Longshore {
    let doctor = scratch.longshore().arg("doctor");
    doctor.args(["--skopeo", skopeo.path.to_str().unwrap()])
}

/// The report of a run that ends with code 1, and what the command says on stderr.
#[track_caller]
fn failing_report(doctor: Longshore) -> (Value, String) {
    let run = doctor.arg("--json").run();
    assert_eq!(run.status.code(), Some(1), "{run}");
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["ok"], false);
    (report, run.stderr)
}

/// Gives the run this policy of the user, in a home of its own.
fn with_policy(scratch: &Scratch, doctor: Longshore, policy: &str) -> Longshore {
    let home = scratch.path("home-with-policy");
    let folder = home.join(".config/containers");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("policy.json"), policy).unwrap();
    doctor.env("HOME", home.to_str().unwrap())
}

const REJECT: &str = r#"{"default": [{"type": "reject"}]}"#;

#[test]
#[ignore = "needs skopeo"]
fn a_working_machine_is_described_without_an_image() {
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let report = doctor(&scratch, &skopeo).report();
        assert_eq!(report["ok"], true);
        assert_eq!(report["skopeo"]["path"], json!(skopeo.path));
        assert!(report["skopeo"]["version"].is_string(), "{report}");
        assert_eq!(report["skopeo"]["image"], Value::Null);
        let proxy = &report["skopeo"]["proxy"];
        assert_eq!(proxy["protocol"], skopeo.protocol);
        assert_eq!(proxy["checks_policy"], skopeo.protocol != "0.2.3");
        assert_eq!(proxy["raw_blobs"], skopeo.protocol == "0.2.8");
        assert_eq!(report["policy_checked"], skopeo.protocol != "0.2.3");
        assert!(report["limits"]["open_files"].is_number(), "{report}");
        assert_eq!(report["problems"], json!([]));
        let run = doctor(&scratch, &skopeo).run().succeeded();
        assert_eq!(run.stderr, "");
        let shown = format!("protocol {}", skopeo.protocol);
        assert!(run.stdout.contains(&shown), "{run}");
        assert!(run.stdout.ends_with("Pulls can work.\n"), "{run}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_image_is_opened_and_its_calls_are_timed() {
    let (served, image) = Served::image("v1", &small_image(1));
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let reference = served.reference("v1");
        let doctor = || doctor(&scratch, &skopeo).args(["--tls-verify=false", &reference]);
        let report = doctor().report();
        let opened = &report["skopeo"]["image"];
        assert_eq!(opened["digest"], json!(image.manifest_digest));
        let calls = opened["calls"].as_array().unwrap();
        assert!(calls.iter().all(|call| call["ms"].is_u64()), "{report}");
        let names: Vec<_> = calls
            .iter()
            .map(|call| call["call"].as_str().unwrap())
            .collect();
        let expected = [
            "start",
            "open",
            "manifest",
            "config",
            "first byte of a layer",
            "close",
            "end",
        ];
        assert_eq!(names, expected);
        let run = doctor().run().succeeded();
        assert!(run.stdout.contains(image.manifest_digest.as_ref()), "{run}");
        assert!(run.stdout.contains(" ms  manifest"), "{run}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_image_that_can_not_be_opened_is_a_problem() {
    let (served, _) = Served::image("v1", &small_image(1));
    let reference = served.reference("v2");
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let doctor = doctor(&scratch, &skopeo).args(["--tls-verify=false", &reference]);
        let (report, message) = failing_report(doctor);
        let problem = &report["problems"][0];
        let what = problem["what"].as_str().unwrap();
        assert!(
            what.starts_with(&format!("can't open {reference}: ")),
            "{what}"
        );
        assert!(problem["advice"].is_string(), "{report}");
        assert!(message.contains("1 problem"), "{message}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn without_skopeo_the_advice_is_to_install_it() {
    let scratch = Scratch::new();
    let doctor = || scratch.longshore().arg("doctor").env("PATH", "/nowhere");
    let (report, _) = failing_report(doctor());
    assert_eq!(report["skopeo"]["path"], Value::Null);
    let run = doctor().run();
    assert!(run.stdout.contains("install skopeo"), "{run}");
    assert!(run.stdout.ends_with("Pulls can't work.\n"), "{run}");
}

#[test]
#[ignore = "needs skopeo"]
fn a_skopeo_without_a_proxy_is_a_problem() {
    let scratch = Scratch::new();
    let lines = r#"case "$*" in
        --version) echo "skopeo version 1.2.0" ;;
        *) echo "unknown command" >&2; exit 1 ;;
    esac"#;
    let (report, _) = failing_report(doctor(&scratch, &script(&scratch, lines)));
    assert_eq!(report["skopeo"]["version"], "1.2.0");
    assert_eq!(report["skopeo"]["proxy"], Value::Null);
    let what = report["problems"][0]["what"].as_str().unwrap();
    assert!(what.contains("can't start a proxy"), "{what}");
    assert!(what.contains("unknown command"), "{what}");
}

#[test]
#[ignore = "needs skopeo"]
fn the_report_says_whether_a_policy_is_checked() {
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let is_old = skopeo.protocol == "0.2.3";
        let report = with_policy(&scratch, doctor(&scratch, &skopeo), REJECT).report();
        let file = report["policy"]["file"].as_str().unwrap();
        assert!(file.ends_with("home-with-policy/.config/containers/policy.json"));
        assert_eq!(report["policy"]["restricts_images"], true);
        assert_eq!(report["policy_checked"], !is_old);
        let notes = report["notes"].as_array().unwrap();
        assert_eq!(notes.len(), usize::from(is_old), "{report}");
        let demanding = with_policy(&scratch, doctor(&scratch, &skopeo), REJECT);
        let demanding = demanding.arg("--require-policy");
        if is_old {
            let (report, _) = failing_report(demanding);
            let what = report["problems"][0]["what"].as_str().unwrap();
            assert!(what.contains("a signature policy needs"), "{what}");
        } else {
            demanding.run().succeeded();
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_missing_policy_is_a_problem_if_skopeo_checks_policies() {
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let doctor = doctor(&scratch, &skopeo).args(["--policy", "/nowhere"]);
        let (report, _) = failing_report(doctor);
        let what = report["problems"].to_string();
        assert!(what.contains("signature policy"), "{what}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn auth_files_are_named_and_never_shown() {
    let scratch = Scratch::new();
    let path = scratch.path("auth.json");
    fs::write(&path, r#"{"auths": {"a.b": {"auth": "c2VjcmV0LXdvcmQ="}}}"#).unwrap();
    let name = path.to_str().unwrap();
    let doctor = || doctor(&scratch, &newest_skopeo()).args(["--authfile", name]);
    let report = doctor().report();
    assert_eq!(
        report["auth_files"],
        json!([{ "path": name, "exists": true, "is_unreadable": false }])
    );
    for run in [doctor().arg("--json").run(), doctor().run()] {
        assert!(!run.stdout.contains("c2VjcmV0"), "{run}");
    }
    let unused = doctor().run().succeeded();
    assert!(unused.stdout.contains(name), "{unused}");
    let message = scratch.longshore().args(["doctor", "--creds", "u:p"]).run();
    let message = message.failed(2);
    assert!(message.contains("name an image"), "{message}");
}

#[test]
#[ignore = "needs skopeo"]
fn a_settings_file_that_skopeo_can_not_use_is_a_problem() {
    let scratch = Scratch::new();
    fs::write(scratch.path("oops"), "oops").unwrap();
    fs::write(scratch.path("empty"), "{}").unwrap();
    fs::write(
        scratch.path("p.json"),
        r#"{"default": [{"type": "reject"}]}"#,
    )
    .unwrap();
    let table = [
        (
            ["--policy", "oops"],
            Some("correct oops; containers-policy.json(5)"),
        ),
        (
            ["--policy", "empty"],
            Some("correct empty; containers-policy.json(5)"),
        ),
        (["--policy", "p.json"], None),
        (
            ["--authfile", "oops"],
            Some("correct oops; containers-auth.json(5)"),
        ),
        (["--authfile", "empty"], None),
    ];
    for skopeo in skopeos().iter().filter(|skopeo| skopeo.protocol != "0.2.3") {
        let is_wrong = |doctor: Longshore, advice: &str| {
            let (report, message) = failing_report(doctor);
            let found = report["problems"][0]["advice"].as_str().unwrap_or_default();
            assert!(found.starts_with(advice), "{report}");
            assert!(message.contains("1 problem"), "{message}");
        };
        for (options, expected) in table {
            let doctor = doctor(&scratch, skopeo).args(options);
            match expected {
                Some(advice) => is_wrong(doctor, advice),
                None => drop(doctor.run().succeeded()),
            }
        }
        let home = scratch.path("home-with-registries");
        let folder = home.join(".config/containers");
        fs::create_dir_all(&folder).unwrap();
        fs::write(
            folder.join("registries.conf"),
            "unqualified-search-registries = [",
        )
        .unwrap();
        let doctor = doctor(&scratch, skopeo).env("HOME", home.to_str().unwrap());
        is_wrong(
            doctor,
            &format!("correct {}/registries.conf; ", folder.display()),
        );
    }
}
