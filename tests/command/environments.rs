//! Unusual environments of the command: ignored signals, pauses, wrappers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use test_registry::image::write_index;
use test_registry::server::Options;
use test_support::process::{is_alive, kill_now};

use crate::harness::{
    Scratch, Served, Skopeo, newest_skopeo, processes, script, skopeos, small_image,
};

/// If a program ignores SIGCHLD, the kernel reaps its children, and their exit status is unknown.
#[test]
#[ignore = "needs skopeo"]
fn children_with_an_unknown_status_have_not_failed() {
    for skopeo in skopeos() {
        let served = Served::start();
        let images = [
            small_image(1).platform("linux", "amd64"),
            small_image(2).platform("linux", "arm64"),
        ];
        write_index(served.folder.path(), "v1", &images).unwrap();
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        // This also starts programs for the index and for skopeo's version.
        let report = scratch
            .pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"))
            .args(["--platform", "all"])
            .arg("--json")
            .under("sh", ["-c", r#"trap "" CHLD; exec "$@""#, "sh"])
            .run()
            .report();
        assert!(report["skopeo"].is_string(), "{report}");
        layout.assert_valid();
    }
}

/// After Ctrl-Z, a debugger or a paused container, nothing has stalled.
#[test]
#[ignore = "needs skopeo"]
fn a_pause_longer_than_the_stall_timeout_is_no_stall() {
    const STALL: Duration = Duration::from_secs(2);
    for skopeo in skopeos() {
        let slow = Options {
            bandwidth: Some(20_000),
            ..Options::default()
        };
        let served = Served::with(slow);
        served.add("v1", &small_image(1));
        let scratch = Scratch::new();
        let layout = scratch.layout("image");
        let mut pull = scratch
            .pull(&skopeo, &served.reference("v1"), &layout.tagged("v1"))
            .args([
                "--stall-timeout",
                "2s",
                "--call-timeout",
                "2s",
                "--proxies",
                "1",
            ])
            .arg("--json")
            .start();
        pull.wait_until("a blob comes", |_| layout.is_written_to(1));
        let all = pull.processes();
        let signal_all = |signal| {
            for process in &all {
                // The skopeo that was asked for its version may have ended meanwhile.
                processes::signal_if_there(process.pid, signal);
            }
        };
        signal_all(Signal::SIGSTOP);
        let begun = Instant::now();
        while begun.elapsed() < STALL * 2 {
            std::thread::sleep(Duration::from_millis(50));
        }
        signal_all(Signal::SIGCONT);
        let report = pull.end().report();
        assert_eq!(report["retries"], 0, "{}: {report}", skopeo.protocol);
        assert_eq!(report["proxies"], 1, "{}: {report}", skopeo.protocol);
    }
}

/// A wrapper dies with the command, but a process that it has started, and that is stopped, would not.
#[test]
#[ignore = "needs skopeo"]
fn processes_of_a_wrapper_end_with_the_command() {
    let scratch = Scratch::new();
    let path = scratch.path("wrapper");
    let real = newest_skopeo();
    let script = format!(
        "#!/bin/sh\n{} \"$@\" <&0 &\nkill -STOP $!\nwait\n",
        real.path.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let wrapper = Skopeo { path, ..real };
    let mut pull = scratch
        .pull(&wrapper, "docker://127.0.0.1:1/a", "oci:image:v1")
        .start();
    // These are the command, the wrapper, and the process that the wrapper has started.
    pull.wait_until("the wrapper has started something", |pull| {
        pull.processes().len() >= 3
    });
    pull.signal(Signal::SIGINT);
    // The command must have left nothing.
    pull.end().failed(130);
}

/// A shell that becomes the command by `exec` leaves its children to it.
#[test]
#[ignore = "needs skopeo"]
fn children_from_before_exec_are_not_ended() {
    let (served, _) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    // Each child has a process group of its own, like the children of the command.
    let script = r#"set -m; sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >pid; exec "$@""#;
    let run = scratch
        .pull(&newest_skopeo(), &served.reference("v1"), "oci:image:v1")
        .under("bash", ["-c", script, "bash"])
        .start()
        .end_without_checks()
        .succeeded();
    let pid: u32 = fs::read_to_string(scratch.path("pid"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(is_alive(pid), "{run}");
    kill_now(pid);
}

/// A proxy of root's sees what the host mounts and unmounts while the proxy runs: the namespace of the proxy follows
/// the host's (`master:`, `proc_pid_mountinfo(5)`). The mounts in that namespace are not visible outside.
#[test]
#[ignore = "needs skopeo, root"]
fn the_mount_namespace_of_a_proxy_follows_the_hosts() {
    let (served, _) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let real = newest_skopeo();
    let seen = scratch.path("mounts");
    let skopeo = script(
        &scratch,
        &format!(
            "cat /proc/self/mountinfo > {}; exec {} \"$@\"",
            seen.display(),
            real.path.display()
        ),
    );
    let pull = scratch.pull(&skopeo, &served.reference("v1"), "oci:image:v1");
    let shared = ["--mount", "--propagation", "shared"];
    pull.args(["--proxies", "1"])
        .under("unshare", shared)
        .run()
        .succeeded();
    let mounts = fs::read_to_string(seen).unwrap();
    let mount_at = |place: &str| {
        let mut lines = mounts.lines();
        lines
            .find(|line| line.split(' ').nth(4) == Some(place))
            .unwrap_or_default()
    };
    assert!(mount_at("/").contains(" master:"), "{mounts}");
    let cache = mount_at("/var/lib/containers/cache");
    assert!(cache.contains(" - tmpfs none ro"), "{cache}");
}
