//! The examples work as they say.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use test_registry::server::Options;
use test_support::sha256;

use crate::harness::{
    ImageBuilder, Layout, Scratch, Served, assert_skopeo_accepts, newest_skopeo, output_of, script,
    small_image,
};

/// The example once more, for the tests in its file.
#[allow(dead_code, reason = "nobody calls main")]
#[path = "../../examples/object_store.rs"]
mod object_store_sink;

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
fn actor_closes_all_opened_chapters_and_sends_nothing_for_dropped_callers() {
    let lines = lines_of(&mut example_alone("actor"));
    // What the server was asked, and what it answered.
    let calls: Vec<(&str, &str)> = (lines.iter())
        .filter_map(|line| line.strip_prefix("    ")?.split_once(" -> "))
        .collect();
    let opened: Vec<&str> = (calls.iter())
        .filter_map(|(call, _)| call.strip_prefix("open "))
        .collect();
    // The caller of chapter 4 left before its request was sent, and the caller of chapter 6 after that.
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
fn an_example_without_arguments_prints_its_usage() {
    for (name, usage) in [
        ("image_proxy", "usage: image_proxy IMAGE [insecure]"),
        ("many_images", "usage: many_images LIST FOLDER [insecure]"),
        ("object_store", "usage: object_store IMAGE URL [insecure]"),
        #[cfg(feature = "decompress")]
        (
            "ordered_import",
            "usage: ordered_import IMAGE FOLDER [insecure]",
        ),
        #[cfg(feature = "decompress")]
        (
            "parallel_import",
            "usage: parallel_import IMAGE FOLDER [insecure]",
        ),
    ] {
        let output = example_alone(name).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && message.contains(usage),
            "{message}"
        );
    }
}

#[test]
#[ignore = "needs skopeo"]
fn image_proxy_prints_what_each_call_returns() {
    let (served, image) = Served::image("v1", &small_image(5));
    let printed = lines_of(example("image_proxy").args([&served.reference("v1"), "insecure"]));
    let mut expected = vec![
        format!("protocol {}", newest_skopeo().protocol),
        format!("manifest {}", image.manifest_digest),
        "platform linux/amd64".to_owned(),
    ];
    let layers = (image.layers.iter())
        .map(|layer| format!("layer {} has {} bytes", layer.digest(), layer.size()));
    expected.extend(layers);
    assert_eq!(printed, expected);
}

#[test]
#[cfg(feature = "decompress")]
#[ignore = "needs skopeo"]
fn ordered_import_fetches_what_is_missing_in_the_order_of_the_layers() {
    let (served, image) = Served::image("v1", &small_image(6));
    let scratch = Scratch::new();
    let folder = scratch.path("store");
    let import = || {
        let mut example = example("ordered_import");
        example.arg(served.reference("v1")).arg(&folder);
        example.arg("insecure");
        example
    };
    // Nothing is left of a layer that is wrong, and those before it are there.
    served.faults(&["blob#1:corrupt"]);
    let output = import().output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("can't import layer 1"), "{message}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);

    served.faults(&[]);
    served.take_blob_gets();
    let printed = lines_of(&mut import());
    assert!(printed[0].ends_with(" is there"), "{printed:?}");
    let gets = served.take_blob_gets();
    assert!(!gets.contains(&image.layers[0].digest().to_string()));
    // The order of the layers is that of their sizes.
    let files: Vec<_> = (printed.iter())
        .map(|line| fs::read(line.split(' ').next().unwrap()).unwrap())
        .collect();
    assert_eq!(files.len(), image.layers.len());
    assert!(files.is_sorted_by_key(Vec::len), "{printed:?}");
    for (line, file) in printed.iter().zip(&files) {
        let name = format!("{}.tar", sha256(file).digest());
        assert!(line.contains(&name), "{printed:?}");
    }
    let printed = lines_of(&mut import());
    assert!(printed.iter().all(|line| line.ends_with(" is there")));
}

#[test]
#[cfg(feature = "decompress")]
#[ignore = "needs skopeo"]
fn parallel_import_stores_each_file_once_and_lists_each_layer() {
    let scratch = Scratch::new();
    let layer = |name: &str| {
        let folder = scratch.path(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("same"), "in both layers").unwrap();
        fs::write(folder.join(name), name).unwrap();
        folder
    };
    let (lower, upper) = (layer("lower"), layer("upper"));
    let image = ImageBuilder::new().layer_dir(lower).layer_dir(upper);
    let (served, image) = Served::image("v1", &image);
    let folder = scratch.path("store");
    let import = || {
        let mut example = example("parallel_import");
        example.arg(served.reference("v1")).arg(&folder);
        example.arg("insecure");
        example
    };
    let files = |part: &str| {
        let files = fs::read_dir(folder.join(part)).unwrap();
        let files = files.map(|file| file.unwrap().path());
        files.collect::<Vec<_>>()
    };
    // No listing is left of a layer that is wrong.
    served.faults(&[&format!("blob@{}:corrupt", image.layers[1].digest())]);
    assert!(!import().status().unwrap().success());
    assert!(files("layers").len() <= 1);

    served.faults(&[]);
    let printed = lines_of(&mut import());
    // In the order of the layers, whichever is done first.
    for (line, name) in printed.iter().zip(["lower", "upper"]) {
        let listing = fs::read_to_string(line.split(' ').next().unwrap()).unwrap();
        for (path, content) in [("same", "in both layers"), (name, name)] {
            let content = sha256(content.as_bytes());
            let file = |line: &str| line.starts_with(content.digest()) && line.contains(path);
            assert!(listing.lines().any(file), "{listing}");
        }
    }
    assert_eq!((printed.len(), files("layers").len()), (2, 2));
    assert_eq!(files("files").len(), 3);

    served.take_blob_gets();
    let printed = lines_of(&mut import());
    assert!(printed.iter().all(|line| line.ends_with(" is there")));
    let gets = served.take_blob_gets();
    let layers = image.layers.iter().map(|layer| layer.digest().to_string());
    assert!(!layers.into_iter().any(|layer| gets.contains(&layer)));
}

#[test]
#[ignore = "needs skopeo"]
fn many_images_prints_the_outcome_of_each() {
    let (served, first) = Served::image("v1", &small_image(7));
    let second = served.add("v2", &small_image(8));
    let scratch = Scratch::new();
    let (list, layout) = (scratch.path("list"), scratch.layout("mirror"));
    let [v1, missing, v2] = ["v1", "missing", "v2"].map(|tag| served.reference(tag));
    fs::write(
        &list,
        format!("# three images\n{v1}\n{missing}\n\n  {v2}\n"),
    )
    .unwrap();
    let mut example = example("many_images");
    let output = example.arg(list).arg(layout.folder()).arg("insecure");
    let output = output.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let printed = String::from_utf8(output.stdout).unwrap();
    for line in [
        format!("{v1}: {}, 3 layers", first.manifest_digest),
        format!("{v2}: {}, 3 layers", second.manifest_digest),
        format!("{missing}: failed: "),
    ] {
        let line = printed.lines().filter(|found| found.starts_with(&line));
        assert_eq!(line.count(), 1, "{printed}");
    }
    let end = printed.lines().last().unwrap();
    assert!(
        end.ends_with("in 8 blobs were fetched; failed images: 1"),
        "{printed}"
    );
    layout.assert_valid();
    assert_eq!(layout.tags().len(), 2);
}

#[test]
#[ignore = "needs skopeo"]
fn object_store_makes_blobs_visible_only_when_complete() {
    // The small layers are uploaded in one request each, and the large one in three parts.
    let image = small_image(9).layer_random(20_000_000, 90);
    let (served, image) = Served::image("v1", &image);
    let scratch = Scratch::new();
    let layout = scratch.layout("bucket");
    let url = format!("file://{}", layout.folder().display());
    let pull = || {
        let mut example = example("object_store");
        example.args([&served.reference("v1"), &url, "insecure"]);
        example
    };
    served.faults(&["blob#3:corrupt"]);
    let output = pull().output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    let large = image.layers[3].digest();
    assert!(
        message.contains(large.as_ref()) && message.contains(&url),
        "{message}"
    );
    assert!(!layout.exists() && !layout.has(large));
    for blob in fs::read_dir(layout.blob(large).parent().unwrap()).unwrap() {
        let blob = blob.unwrap();
        let digest = sha256(&fs::read(blob.path()).unwrap());
        assert_eq!(digest.digest(), blob.file_name(), "a part is left");
    }

    served.faults(&[]);
    lines_of(&mut pull());
    layout.assert_valid();
    assert_skopeo_accepts(&newest_skopeo(), &layout.all());

    let printed = lines_of(&mut pull());
    assert!(printed[0].ends_with("; 4 were there"), "{printed:?}");
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

/// The example `async_server`, which pulls into a layout. Dropping it ends it.
struct AsyncServer {
    child: Child,
    address: String,
}

impl AsyncServer {
    #[track_caller]
    fn start(layout: &Layout) -> Self {
        let mut child = example("async_server")
            .args(["127.0.0.1:0".as_ref(), layout.folder().as_os_str()])
            .arg("insecure")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on ").unwrap();
        Self {
            address: address.to_owned(),
            child,
        }
    }

    /// Has an image pulled, and returns the answer.
    #[track_caller]
    fn ask(&self, image: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let request =
            format!("GET /pull?image={image} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for AsyncServer {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A client that goes away is not tested here. `engine/handlers.rs` tests pulls that are dropped.
#[test]
#[ignore = "needs skopeo"]
fn async_server_pulls_for_its_clients() {
    let (served, image) = Served::image("v1", &small_image(4));
    let scratch = Scratch::new();
    let layout = scratch.layout("pulled");
    let program = AsyncServer::start(&layout);
    let answer = program.ask(&served.reference("v1"));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    for layer in &image.layers {
        assert!(answer.contains(layer.digest().as_ref()), "{answer}");
        assert!(layout.has(layer.digest()), "{answer}");
    }
    let answer = program.ask(&served.reference("missing"));
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}

/// With as many descriptors as a single pull may use, each pull gets a part of them.
#[test]
#[ignore = "needs skopeo"]
fn concurrent_pulls_of_a_server_share_its_descriptors() {
    const PULLS: u64 = 8;
    let served = Served::with(Options {
        ttfb: Duration::from_millis(30),
        ..Options::default()
    });
    let references: Vec<String> = (0..PULLS)
        .map(|pull| {
            let tag = format!("v{pull}");
            let layers = 0..24;
            let image = layers.fold(ImageBuilder::new(), |image, layer| {
                image.layer_random(20_000, 100 * pull + layer)
            });
            served.add(&tag, &image);
            served.reference(&tag)
        })
        .collect();
    let scratch = Scratch::new();
    let program = AsyncServer::start(&scratch.layout("pulled"));
    let pid = program.child.id().to_string();
    output_of(Command::new("prlimit").args(["--nofile=300:300", "--pid", &pid]));
    thread::scope(|scope| {
        for reference in &references {
            scope.spawn(|| {
                let answer = program.ask(reference);
                assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            });
        }
    });
}

#[test]
fn the_quickstart_refuses_an_old_skopeo_before_it_builds() {
    let scratch = Scratch::new();
    let quickstart = |skopeo: &str| {
        let program = script(&scratch, &format!("echo 'skopeo version {skopeo}'")).path;
        let folder = scratch.path(skopeo);
        fs::create_dir(&folder).unwrap();
        fs::rename(program, folder.join("skopeo")).unwrap();
        // The real cargo would build.
        let cargo = script(&scratch, "echo 'no cargo here'; exit 3").path;
        fs::rename(cargo, folder.join("cargo")).unwrap();
        let folders = std::env::var_os("PATH").unwrap();
        let path = std::iter::once(folder).chain(std::env::split_paths(&folders));
        let mut command = Command::new("sh");
        command.arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/examples/quickstart.sh"
        ));
        command.env("PATH", std::env::join_paths(path).unwrap());
        command.output().unwrap()
    };
    for old in ["1.4.1", "1.5.2-dev", "0.9.0"] {
        let run = quickstart(old);
        assert_eq!(run.status.code(), Some(1), "{run:?}");
        let message = String::from_utf8(run.stderr).unwrap();
        assert!(
            message.contains("skopeo 1.6 or newer is needed"),
            "{message}"
        );
        assert!(message.contains(&format!(" is {old}.")), "{message}");
        assert!(!String::from_utf8(run.stdout).unwrap().contains("building"));
    }
    for new in ["1.6.0", "1.10.0", "2.0.0-dev"] {
        let run = quickstart(new);
        assert_eq!(run.status.code(), Some(3), "{run:?}");
        assert!(String::from_utf8(run.stdout).unwrap().contains("building"));
    }
}
