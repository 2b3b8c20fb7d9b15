//! The examples work as they say.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::harness::{Scratch, Served, newest_skopeo, output_of, small_image};

/// An example that cargo has built beside the tests, with the newest skopeo in its `PATH`.
fn example(name: &str) -> Command {
    let skopeo = newest_skopeo().path;
    let folders = std::env::var_os("PATH").unwrap();
    let folders = std::env::split_paths(&folders);
    let path = std::iter::once(skopeo.parent().unwrap().to_owned()).chain(folders);
    let mut command = example_alone(name);
    command.env("PATH", std::env::join_paths(path).unwrap());
    command
}

/// An example that needs no skopeo.
fn example_alone(name: &str) -> Command {
    let command = PathBuf::from(env!("CARGO_BIN_EXE_longshore"));
    let program = command.parent().unwrap().join("examples").join(name);
    assert!(
        program.exists(),
        "{} is not built: use `cargo test`",
        program.display()
    );
    Command::new(program)
}

/// The lines that an example prints. It must succeed.
#[track_caller]
fn lines_of(example: &mut Command) -> Vec<String> {
    let printed = String::from_utf8(output_of(example)).unwrap();
    printed.lines().map(str::to_owned).collect()
}

#[test]
fn actor_closes_each_chapter_that_it_opened_and_sends_nothing_for_a_caller_who_left() {
    let lines = lines_of(&mut example_alone("actor"));
    // What the server was asked, and what it answered.
    let calls: Vec<(&str, &str)> = (lines.iter())
        .filter_map(|line| line.strip_prefix("    ")?.split_once(" -> "))
        .collect();
    let opened: Vec<&str> = (calls.iter())
        .filter_map(|(call, _)| call.strip_prefix("open "))
        .collect();
    // 4 is the one whose caller left before, 6 the one whose caller left after it was sent.
    assert_eq!(opened, ["1", "2", "3", "5", "6", "7"], "{lines:#?}");
    let mut open = Vec::new();
    for (call, answer) in &calls {
        match call.strip_prefix("close ") {
            Some(port) => open.retain(|opened| *opened != port),
            None => open.push(*answer),
        }
    }
    assert!(open.is_empty(), "{lines:#?}");
    let end = lines
        .iter()
        .any(|line| line == "    the client has gone, 0 chapters are open");
    assert!(end, "{lines:#?}");
    let words = lines.iter().any(|line| line == "They have 6000 words.");
    assert!(words, "{lines:#?}");
    let reason = "Three callers learned that the actor has ended, with: ";
    assert!(lines.last().unwrap().starts_with(reason), "{lines:#?}");
}

#[test]
#[ignore = "needs skopeo"]
fn embed_prints_a_checksum_for_each_layer() {
    let (served, image) = Served::image("v1", &small_image(1));
    let printed = output_of(example("embed").args([&served.reference("v1"), "insecure"]));
    let printed = String::from_utf8(printed).unwrap();
    let digests: Vec<_> = printed
        .lines()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let expected: Vec<_> = image
        .layers
        .iter()
        .map(|layer| layer.digest().to_string())
        .collect();
    assert_eq!(digests, expected);
}

#[test]
#[ignore = "needs skopeo"]
fn sink_puts_each_layer_into_a_file() {
    let (served, image) = Served::image("v1", &small_image(2));
    let scratch = Scratch::new();
    let folder = scratch.path("flat");
    let reference = served.reference("v1");
    output_of(example("sink").arg(reference).arg(&folder).arg("insecure"));
    for layer in &image.layers {
        let file = std::fs::metadata(folder.join(layer.digest().digest())).unwrap();
        assert_eq!(file.len(), layer.size());
    }
    assert!(folder.join("manifest.json").exists());
}

#[test]
#[cfg(feature = "decompress")]
#[ignore = "needs skopeo"]
fn list_files_lists_what_is_in_the_layers() {
    let (served, image) = Served::image("v1", &small_image(3));
    let printed = output_of(example("list_files").args([&served.reference("v1"), "insecure"]));
    let printed = String::from_utf8(printed).unwrap();
    assert_eq!(
        printed
            .lines()
            .filter(|line| line.starts_with("sha256:"))
            .count(),
        image.layers.len()
    );
    assert!(
        printed
            .lines()
            .filter(|line| line.starts_with("    "))
            .count()
            >= image.layers.len()
    );
}

/// A client that goes away is not tested here. `engine/handlers.rs` tests pulls that are dropped.
#[test]
#[ignore = "needs skopeo"]
fn async_server_pulls_for_its_clients() {
    let (served, image) = Served::image("v1", &small_image(4));
    let scratch = Scratch::new();
    let layout = scratch.layout("pulled");
    let mut program = example("async_server")
        .args(["127.0.0.1:0".as_ref(), layout.folder().as_os_str()])
        .arg("insecure")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(program.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let address = line.trim_end().strip_prefix("listening on ").unwrap();

    let ask = |image: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        let request =
            format!("GET /pull?image={image} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = ask(&served.reference("v1"));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    for layer in &image.layers {
        assert!(answer.contains(layer.digest().as_ref()), "{answer}");
        assert!(layout.has(layer.digest()), "{answer}");
    }
    let answer = ask(&served.reference("missing"));
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    program.kill().unwrap();
    program.wait().unwrap();
}
