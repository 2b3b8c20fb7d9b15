//! stdout, stderr and signals: a reader that is slow, or has closed its end, breaks nothing and holds
//! up nothing.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, PipeReader, Write, pipe};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

use crate::harness::{Layout, Scratch, Served, newest_skopeo, skopeos, small_image};

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// A full pipe, and its reader.
fn full_pipe() -> (PipeReader, std::os::fd::OwnedFd) {
    let (reader, mut writer) = pipe().unwrap();
    let flags = OFlag::from_bits_retain(fcntl(&writer, FcntlArg::F_GETFL).unwrap());
    fcntl(&writer, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(flags)).unwrap();
    (reader, writer.into())
}

/// A pipe whose reader has closed its end.
fn unread_pipe() -> std::os::fd::OwnedFd {
    pipe().unwrap().1.into()
}

fn complete(layout: &Layout) {
    layout.assert_valid();
    assert_eq!(layout.entries().len(), 1);
}

#[test]
#[ignore = "needs skopeo"]
fn a_full_stdout_is_reported_and_the_image_is_stored() {
    let (served, _) = Served::image("v1", &small_image(1));
    let image = served.reference("v1");
    for skopeo in skopeos() {
        for json in [&["--json"][..], &[]] {
            let scratch = Scratch::new();
            let layout = scratch.layout("image");
            let pull = scratch.pull(&skopeo, &image, &layout.tagged("v1"));
            let pull = pull.args(json.iter().copied()).stdout_to(full());
            let message = pull.run().failed(1);
            let expected =
                "longshore: the pull is complete, but this failed: can't write to stdout: ";
            assert!(message.contains(expected), "{message}");
            complete(&layout);
            let inspect = scratch.inspect(&skopeo, &image).args(json.iter().copied());
            let message = inspect.stdout_to(full()).run().failed(1);
            assert!(
                message.starts_with("longshore: can't write to stdout: No space"),
                "{message}"
            );
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_closed_stdout_is_no_failure() {
    let (served, _) = Served::image("v1", &small_image(1));
    let image = served.reference("v1");
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let skopeo = newest_skopeo();
    let pull = scratch.pull(&skopeo, &image, &layout.tagged("v1"));
    let run = pull.stdout_to(unread_pipe()).run();
    assert_eq!(run.status.code(), Some(0), "{run}");
    complete(&layout);
    let run = scratch
        .inspect(&skopeo, &image)
        .stdout_to(unread_pipe())
        .run();
    assert_eq!(run.status.code(), Some(0), "{run}");
    assert_eq!(run.stderr, "");
}

#[test]
#[ignore = "needs skopeo"]
fn a_full_or_unread_stderr_does_not_stop_a_pull() {
    let (served, _) = Served::image("v1", &small_image(1));
    let image = served.reference("v1");
    for skopeo in skopeos() {
        for stderr in [full().into(), unread_pipe()] {
            let scratch = Scratch::new();
            let layout = scratch.layout("image");
            let pull = scratch.pull(&skopeo, &image, &layout.tagged("v1"));
            let run = pull.arg("--verbose").stderr_to(stderr).run();
            assert_eq!(run.status.code(), Some(0), "{run}");
            complete(&layout);
        }
    }
    // A failure stays the same failure, too.
    let scratch = Scratch::new();
    for stderr in [full().into(), unread_pipe()] {
        let pull = scratch.pull(&newest_skopeo(), "oci:nowhere:v1", "oci:image");
        let run = pull.stderr_to(stderr).run();
        assert_eq!(run.status.code(), Some(1), "{run}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_signal_ends_a_pull_whose_output_is_not_read() {
    let (served, written) = Served::image("v1", &small_image(1));
    let layer = written.layers[1].digest().to_string();
    served.faults(&["blob#1:headers-never"]);
    let image = served.reference("v1");
    for (signal, code) in [
        (Signal::SIGINT, 130),
        (Signal::SIGTERM, 143),
        (Signal::SIGHUP, 129),
    ] {
        let scratch = Scratch::new();
        let (_reader, stderr) = full_pipe();
        let pull = scratch.pull(&newest_skopeo(), &image, "oci:image");
        let mut pull = pull.arg("--verbose").stderr_to(stderr).start();
        pull.wait_until("the layer is asked for", |_| {
            served.take_blob_gets().contains(&layer)
        });
        pull.signal(signal);
        let run = pull.end();
        assert_eq!(run.status.code(), Some(code), "{run}");
    }
}

/// Reads a line that follows what [`full_pipe`] has written.
fn read_line(reader: PipeReader) -> String {
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).unwrap();
    line.trim_start_matches('x').to_owned()
}

#[test]
#[ignore = "needs skopeo"]
fn a_signal_ends_a_pull_whose_last_event_is_not_read() {
    let (served, _) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let events = scratch.path("events");
    nix::unistd::mkfifo(&events, Mode::S_IRWXU).unwrap();
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true);
    let options = options.custom_flags(OFlag::O_NONBLOCK.bits());
    let mut fifo = options.open(&events).unwrap();
    let (reader, stdout) = full_pipe();
    let image = served.reference("v1");
    let pull = scratch.pull(&newest_skopeo(), &image, &layout.tagged("v1"));
    let pull = pull.args(["--json", "--events", events.to_str().unwrap()]);
    let mut pull = pull.stdout_to(stdout).start();
    pull.wait_until("the image is there", |_| {
        layout.exists() && layout.entries().len() == 1
    });
    while fifo.write(b"x").is_ok() {}
    // The report comes before the last event.
    let report = read_line(reader);
    assert!(report.starts_with('{'), "{report}");
    pull.signal(Signal::SIGINT);
    let run = pull.end();
    assert_eq!(run.status.code(), Some(130), "{run}");
}

/// `nohup` and a shell's `trap '' INT` ignore signals in this way.
#[test]
#[ignore = "needs skopeo"]
fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    let (served, _) = Served::image("v1", &small_image(1));
    served.faults(&["blob#1:ttfb=2s*1"]);
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let ignoring = r#"trap '' INT TERM HUP; exec "$0" "$@""#;
    let pull = scratch.pull(
        &newest_skopeo(),
        &served.reference("v1"),
        &layout.tagged("v1"),
    );
    let mut pull = pull.under("sh", ["-c", ignoring]).start();
    pull.proxies();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        pull.signal(signal);
    }
    pull.end().succeeded();
    complete(&layout);
}

#[test]
#[ignore = "needs skopeo"]
fn events_that_can_not_be_written_are_reported_and_the_image_is_stored() {
    let (served, _) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let layout = scratch.layout("image");
    let pull = scratch.pull(
        &newest_skopeo(),
        &served.reference("v1"),
        &layout.tagged("v1"),
    );
    let message = pull
        .args(["--events", "/dev/full", "--quiet"])
        .run()
        .failed(1);
    let expected = "longshore: the pull is complete, but this failed: can't write events into /dev/full: No space";
    assert!(message.starts_with(expected), "{message}");
    complete(&layout);
}

#[test]
#[ignore = "needs skopeo"]
fn a_folder_can_have_any_name() {
    let (served, _) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let skopeo = newest_skopeo();
    let pull = scratch
        .longshore()
        .args(["pull", "--tls-verify=false", "--skopeo"]);
    let pull = pull.args([skopeo.path.to_str().unwrap(), &served.reference("v1")]);
    pull.arg_os(OsStr::from_bytes(b"oci:a\xffb c:v1"))
        .run()
        .succeeded();
    let layout = Layout::new(scratch.path("").join(OsStr::from_bytes(b"a\xffb c")));
    assert!(layout.folder().join("index.json").exists());
}
