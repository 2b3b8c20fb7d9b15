//! A skopeo that is missing, too old, another program, or dies. The command reports which one and what
//! happened, and does not wait for ever.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;

use crate::harness::processes;
use crate::harness::{
    ImageBuilder, Layout, Running, Scratch, Served, newest_skopeo, script, skopeos, small_image,
};
use test_registry::image::Written;

/// The error of a pull with this script, which fails with code 1.
#[track_caller]
fn message_of(lines: &str) -> String {
    let scratch = Scratch::new();
    let skopeo = script(&scratch, lines);
    let message = scratch
        .pull(&skopeo, "oci:somewhere:v1", "oci:image:v1")
        .run()
        .failed(1);
    assert!(message.starts_with("longshore: can't pull oci:somewhere:v1: "));
    assert!(message.lines().count() <= 2, "{message}");
    assert!(!scratch.path("image").exists());
    message
}

#[test]
#[ignore = "needs skopeo"]
fn a_missing_skopeo_is_reported_with_advice() {
    let scratch = Scratch::new();
    let message = scratch
        .longshore()
        .args(["pull", "--skopeo", "/nowhere/skopeo"])
        .args(["oci:somewhere:v1", "oci:image"])
        .run()
        .failed(1);
    assert!(message.contains("can't start /nowhere/skopeo"), "{message}");
    assert!(message.contains("install skopeo"), "{message}");

    let message = scratch
        .longshore()
        .env("PATH", "/nowhere")
        .args(["inspect", "oci:somewhere:v1"])
        .run()
        .failed(1);
    assert!(message.contains("can't start skopeo"), "{message}");
    assert!(message.contains("--skopeo PATH"), "{message}");
}

#[test]
fn a_file_that_is_no_program_is_reported() {
    let scratch = Scratch::new();
    let skopeo = script(&scratch, "exit");
    fs::set_permissions(&skopeo.path, fs::Permissions::from_mode(0o644)).unwrap();
    let message = scratch
        .pull(&skopeo, "oci:somewhere:v1", "oci:image")
        .run()
        .failed(1);
    assert!(message.contains("can't start"), "{message}");
    assert!(message.contains("ermission"), "{message}");
}

#[test]
fn a_skopeo_without_a_proxy_is_reported_with_its_message() {
    let message = message_of("echo 'unknown command \"experimental-image-proxy\"' >&2; exit 125");
    assert!(message.contains("exit status: 125"), "{message}");
    assert!(message.contains("unknown command"), "{message}");
    assert!(message.contains("use skopeo 1.6 or later"), "{message}");
}

#[test]
fn a_program_that_exits_without_a_message_is_reported() {
    for (lines, words) in [
        ("exit 0", "exit status: 0"),
        ("exit 3", "exit status: 3"),
        ("kill -SEGV $$", "signal: 11"),
        ("exec 0<&-; exit 4", "exit status: 4"),
    ] {
        let message = message_of(lines);
        assert!(message.contains(words), "{lines}: {message}");
        let exits_by_itself = words.starts_with("exit");
        let is_advised = message.contains("is this a skopeo? --skopeo PATH");
        assert_eq!(is_advised, exits_by_itself, "{lines}: {message}");
    }
}

#[test]
#[ignore = "starts a registry"]
fn a_program_that_is_no_skopeo_is_started_once_for_each_command() {
    let (served, image) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let skopeo = script(&scratch, "[ \"$1\" = --version ] || echo >>starts; exit 1");
    let (image, digest) = (served.reference("v1"), image.layers[0].digest().to_string());
    let repository = image.trim_end_matches(":v1");
    let commands: [&[&str]; 6] = [
        &["pull", &image, "oci:image"],
        &["inspect", &image],
        &["digest", &image],
        &["list-tags", repository],
        &["blob", &image, &digest],
        &["export", &image, "x.tar"],
    ];
    for command in commands {
        let run = scratch.longshore().args(command.iter().copied());
        let run = run.args([
            "--tls-verify=false",
            "--skopeo",
            skopeo.path.to_str().unwrap(),
        ]);
        let message = run.run().failed(1);
        assert!(
            message.contains("is this a skopeo?"),
            "{command:?}: {message}"
        );
        let starts = fs::read_to_string(scratch.path("starts")).unwrap();
        assert_eq!(starts, "\n", "{command:?}");
        fs::remove_file(scratch.path("starts")).unwrap();
    }
}

#[test]
fn the_last_message_of_a_skopeo_cant_control_the_terminal() {
    let message = message_of(r"printf 'first\n\033[2J\007bad\n' >&2; exit 1");
    assert!(message.contains("bad"), "{message}");
    let control = message.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(control, None, "{message:?}");
}

/// A script that waits for the first request, and answers it with this packet.
fn answering(packet: &str) -> String {
    format!("dd bs=65536 count=1 of=/dev/null 2>/dev/null; printf '%s' '{packet}' >&0; exec cat")
}

#[test]
fn an_unsupported_protocol_is_reported_with_advice() {
    let table = [
        ("0.1.0", "use a newer skopeo"),
        ("0.2.1", "use a newer skopeo"),
        ("0.3.0", "use an older skopeo"),
        ("1.0.0", "use an older skopeo"),
    ];
    for (version, advice) in table {
        let packet = format!(r#"{{"success":true,"value":"{version}","pipeid":0,"error":""}}"#);
        let message = message_of(&answering(&packet));
        assert!(message.contains(version), "{message}");
        assert!(message.contains(advice), "{message}");
    }
}

#[test]
fn a_program_with_another_protocol_is_reported() {
    for packet in [
        "hello",
        "{}",
        r#"{"success":true,"value":7,"pipeid":0,"error":""}"#,
    ] {
        message_of(&answering(packet));
    }
}

#[test]
fn a_program_that_ignores_signals_can_be_interrupted() {
    let scratch = Scratch::new();
    let started = scratch.path("started");
    let lines = format!(
        "trap '' TERM; echo > {}; exec sleep 1000",
        started.display()
    );
    let mut pull = scratch
        .pull(&script(&scratch, &lines), "oci:somewhere:v1", "oci:image")
        .start();
    pull.wait_until("the program runs", |_| started.exists());
    pull.signal(Signal::SIGINT);
    let message = pull.end().failed(130);
    let expected = "longshore: interrupted: ending skopeo and removing incomplete files (Ctrl-C again ends it at once); complete layers stay for the next pull\n";
    assert_eq!(message, expected);
}

/// The command waits for a skopeo that may have to remove its temporary folder.
#[test]
fn a_second_signal_ends_the_command_at_once_and_names_leftovers() {
    let scratch = Scratch::new();
    let started = scratch.path("started");
    let lines = format!(
        "trap '' TERM; echo > {}; exec sleep 1000",
        started.display()
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut pull = scratch
            .pull(
                &script(&scratch, &lines),
                "oci-archive:somewhere",
                "oci:image",
            )
            .start();
        pull.wait_until("the program runs", |_| started.exists());
        pull.signal(signal);
        pull.wait_until("the signal is told", |pull| {
            pull.stderr().contains("ending skopeo")
        });
        pull.signal(Signal::SIGINT);
        let message = pull.end().failed(130);
        let last = message.lines().last().unwrap();
        let expected = "longshore: ended at once; incomplete files may be left in image (the next pull removes these files); \
                        skopeo's temporary files may be left in /var/tmp, or in the folder that TMPDIR names (/tmp without it)";
        assert_eq!(last, expected, "{message}");
        fs::remove_file(&started).unwrap();
    }
}

/// An image whose last layer is the largest one, and the digest of that layer.
fn image_with_large_layer() -> (Served, Written, String) {
    let image = small_image(1).layer_random(2_000_000, 11);
    let (served, image) = Served::image("v1", &image);
    let last_layer = image.layers.last().unwrap().digest().to_string();
    (served, image, last_layer)
}

/// Waits until only that layer is in flight.
#[track_caller]
fn wait_for_last_layer(pull: &mut Running, image: &Written, layout: &Layout) {
    pull.wait_until("only one layer is on its way", |_| {
        let [others @ .., _] = &image.layers[..] else {
            return false;
        };
        others.iter().all(|layer| layout.has(layer.digest())) && layout.is_written_to(500_000)
    });
}

#[track_caller]
fn kill_all_proxies(pull: &mut Running) {
    for proxy in pull.proxies() {
        // Another proxy that was not needed may have ended meanwhile.
        processes::signal_if_there(proxy.pid, Signal::SIGKILL);
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_skopeo_killed_during_a_blob_is_reported_with_the_blob() {
    let (served, image, last_layer) = image_with_large_layer();
    for skopeo in skopeos() {
        served.faults(&[&format!("blob@{last_layer}:stall=half")]);
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let pull = || scratch.pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"));
        let mut running = pull().args(["--retries", "0"]).start();
        wait_for_last_layer(&mut running, &image, &layout);
        kill_all_proxies(&mut running);
        let message = running.end().failed(1);
        let last: Vec<_> = message.lines().rev().take(2).collect();
        assert!(last[1].contains("can't pull docker://"), "{message}");
        assert!(last[1].contains(&format!("blob {last_layer}")), "{message}");
        assert!(last[1].contains("signal: 9"), "{message}");
        assert!(last[0].contains("try again"), "{message}");
        layout.assert_valid();
        assert_eq!(layout.unexpected_entries(), [""; 0]);

        served.faults(&[]);
        assert_eq!(pull().report()["reused_blobs"], image.layers.len() - 1);
        layout.assert_valid();
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_skopeo_killed_during_a_pull_is_replaced() {
    let (served, image, last_layer) = image_with_large_layer();
    for skopeo in skopeos() {
        served.faults(&[&format!("blob@{last_layer}:stall=half")]);
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let pull = scratch.pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"));
        let mut running = pull.arg("--json").start();
        wait_for_last_layer(&mut running, &image, &layout);
        served.faults(&[]);
        kill_all_proxies(&mut running);
        let report = running.end().report();
        assert_eq!(report["fetched_blobs"], image.layers.len() + 1);
        assert!(report["retries"].as_u64() > Some(0), "{report}");
        layout.assert_valid();
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_skopeo_killed_while_it_waits_for_the_registry_is_reported() {
    let (served, _) = Served::image("v1", &ImageBuilder::new());
    served.faults(&["manifest:headers-never"]);
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let before = served.registry.manifest_gets();
        let mut pull = scratch
            .pull(&skopeo, &served.reference("v1"), "oci:image")
            .args(["--retries", "0"])
            .start();
        pull.wait_until("it waits for the manifest", |_| {
            served.registry.manifest_gets() > before
        });
        kill_all_proxies(&mut pull);
        let message = pull.end().failed(1);
        assert!(message.contains("signal: 9"), "{message}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn the_report_omits_an_unknown_skopeo_version() {
    let (served, _) = Served::image("v1", &small_image(2));
    let scratch = Scratch::new();
    let real = newest_skopeo().path;
    let lines = format!(
        "[ \"$1\" != --version ] || exit 0; exec {} \"$@\"",
        real.display()
    );
    let report = scratch
        .pull(
            &script(&scratch, &lines),
            &served.reference("v1"),
            "oci:image",
        )
        .report();
    assert!(report["skopeo"].is_null(), "{report}");
}
