//! `longshore blob` fetches one blob, to stdout or into a file that is there only if the blob is right.

use std::fs::{self, File, OpenOptions};
use std::io::{PipeReader, Read, pipe};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use longshore::oci_spec::image::Digest;
use nix::sys::signal::Signal;

use crate::harness::{
    ImageBuilder, Layout, Longshore, Scratch, Served, Skopeo, newest_skopeo, skopeo_copy, skopeos,
    small_image,
};
use test_registry::image::Written;
use test_support::sha256;

fn blob(scratch: &Scratch, skopeo: &Skopeo, image: &str, digest: &Digest) -> Longshore {
    let command = scratch.longshore();
    let command = command.args(["blob", "--tls-verify=false", "--skopeo"]);
    command.args([skopeo.path.to_str().unwrap(), image, digest.as_ref()])
}

/// An image with one layer that is larger than a pipe.
fn large() -> (Served, Written) {
    Served::image("v1", &ImageBuilder::new().layer_random(3_000_000, 1))
}

/// The bytes of a blob at the registry.
fn stored(served: &Served, digest: &Digest) -> Vec<u8> {
    let layout = Layout::new(served.folder.path().to_owned());
    fs::read(layout.blob(digest.as_ref())).unwrap()
}

/// Runs the command with its stdout in a file, and returns its bytes.
#[track_caller]
fn stdout_of(scratch: &Scratch, blob: Longshore) -> Vec<u8> {
    let path = scratch.path("stdout");
    let run = blob.stdout_to(File::create(&path).unwrap()).run();
    assert_eq!(run.succeeded().stderr, "");
    fs::read(path).unwrap()
}

/// The names in a folder that a run may have left there.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

#[test]
#[ignore = "needs skopeo"]
fn layers_configs_and_blobs_of_other_images_are_written_to_stdout() {
    let (served, image) = large();
    let other = served.add("v2", &small_image(2).docker_schema2());
    let empty = served.add("v3", &small_image(3).layer_blob("x/empty", ""));
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        for digest in [
            image.layers[0].digest(),
            &image.config_digest,
            other.layers[1].digest(),
            &other.config_digest,
            empty.layers[3].digest(),
        ] {
            let blob = blob(&scratch, &skopeo, &served.reference("v1"), digest);
            let printed = stdout_of(&scratch, blob);
            assert!(printed == stored(&served, digest), "{digest}");
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_blob_is_written_into_a_file() {
    let (served, image) = large();
    let digest = image.layers[0].digest();
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let folder = scratch.path("folder");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("old"), "old").unwrap();
        symlink("old", folder.join("link")).unwrap();
        for (name, written) in [("new", "new"), ("old", "old"), ("link", "old")] {
            let path = folder.join(name);
            let blob = blob(&scratch, &skopeo, &served.reference("v1"), digest);
            let run = blob.args(["-o", path.to_str().unwrap()]).run().succeeded();
            assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
            let written = folder.join(written);
            assert!(fs::read(&written).unwrap() == stored(&served, digest));
            let mode = fs::metadata(&written).unwrap().permissions().mode();
            assert_eq!(mode & 0o444, 0o444, "{mode:o}");
            fs::write(&written, "old").unwrap();
        }
        assert!(folder.join("link").is_symlink());
        assert_eq!(names(&folder).len(), 3);
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_wrong_blob_fails_and_leaves_no_file() {
    let (served, image) = large();
    let digest = image.layers[0].digest();
    served.faults(&["blob#0:corrupt=1000000"]);
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let folder = scratch.path("folder");
        fs::create_dir(&folder).unwrap();
        let path = folder.join("file");
        let blob = || {
            let blob = blob(&scratch, &skopeo, &served.reference("v1"), digest);
            blob.args(["--retries", "1"])
        };
        let to_file = blob().args(["-o", path.to_str().unwrap()]);
        let message = to_file.run().failed(1);
        assert!(
            message.contains("corrupt: its bytes have digest"),
            "{message}"
        );
        assert!(message.contains(digest.as_ref()), "{message}");
        assert_eq!(names(&folder), Vec::<String>::new());
        let stdout = File::create(scratch.path("stdout")).unwrap();
        let message = blob().stdout_to(stdout).run().failed(1);
        assert!(
            message.contains("corrupt: its bytes have digest"),
            "{message}"
        );
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_broken_transfer_to_stdout_continues_where_it_stopped() {
    let (served, image) = large();
    let digest = image.layers[0].digest();
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let path = scratch.path("file");
        for to_file in [true, false] {
            served.faults(&["blob#0:cut=half*2"]);
            served.take_blob_gets();
            let blob = blob(&scratch, &skopeo, &served.reference("v1"), digest);
            // An old skopeo says nothing when the registry breaks off.
            let blob = blob.args(["--stall-timeout", "1"]);
            let written = if to_file {
                let blob = blob.args(["-o", path.to_str().unwrap()]);
                blob.run().succeeded();
                fs::read(&path).unwrap()
            } else {
                stdout_of(&scratch, blob)
            };
            assert!(written == stored(&served, digest), "{to_file}");
            assert!(served.take_blob_gets().len() > 1);
        }
    }
}

/// The first try prints a wrong byte, and the second one notices.
#[test]
#[ignore = "needs skopeo"]
fn a_wrong_byte_on_stdout_is_a_failure() {
    let (served, image) = large();
    let digest = image.layers[0].digest();
    served.faults(&["blob#0:corrupt=1000*1"]);
    let scratch = Scratch::new();
    let blob = blob(&scratch, &newest_skopeo(), &served.reference("v1"), digest);
    let stdout = File::create(scratch.path("stdout")).unwrap();
    let message = blob.stdout_to(stdout).run().failed(1);
    assert!(message.contains("are not those of the blob"), "{message}");
}

#[test]
#[ignore = "needs skopeo"]
fn a_signal_leaves_no_file() {
    let (served, image) = large();
    let digest = image.layers[0].digest();
    served.faults(&["blob#0:stall=half"]);
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let scratch = Scratch::new();
        let folder = scratch.path("folder");
        fs::create_dir(&folder).unwrap();
        let path = folder.join("file");
        let blob = blob(&scratch, &newest_skopeo(), &served.reference("v1"), digest);
        let mut blob = blob.args(["-o", path.to_str().unwrap()]).start();
        blob.wait_until("some bytes are written", |_| {
            let mut files = fs::read_dir(&folder).unwrap();
            files.any(|file| file.unwrap().metadata().is_ok_and(|file| file.len() > 0))
        });
        blob.signal(signal);
        let run = blob.end();
        assert_eq!(run.status.code(), Some(code), "{run}");
        assert_eq!(names(&folder), Vec::<String>::new());
    }
}

fn read_some(mut reader: PipeReader) -> PipeReader {
    reader.read_exact(&mut [0; 1000]).unwrap();
    reader
}

#[test]
#[ignore = "needs skopeo"]
fn a_closed_stdout_is_no_failure_and_a_full_disk_is_one() {
    let (served, image) = large();
    let digest = image.layers[0].digest();
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let blob = || blob(&scratch, &skopeo, &served.reference("v1"), digest);
        let (reader, writer) = pipe().unwrap();
        let running = blob().stdout_to(writer).start();
        drop(read_some(reader));
        let run = running.end();
        assert_eq!(run.status.code(), Some(0), "{run}");
        assert_eq!(run.stderr, "");
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let message = blob().stdout_to(full).run().failed(1);
        let expected = "longshore: can't write to stdout: No space";
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_signal_ends_a_blob_whose_stdout_is_not_read() {
    let (served, image) = large();
    let digest = image.layers[0].digest();
    let scratch = Scratch::new();
    let blob = blob(&scratch, &newest_skopeo(), &served.reference("v1"), digest);
    let (reader, writer) = pipe().unwrap();
    let running = blob.stdout_to(writer).start();
    // The pipe is full, or will be.
    let _reader = read_some(reader);
    running.signal(Signal::SIGTERM);
    let run = running.end();
    assert_eq!(run.status.code(), Some(143), "{run}");
}

#[test]
#[ignore = "needs skopeo"]
fn a_missing_blob_is_reported() {
    let (served, _) = large();
    let digest = sha256(b"nothing");
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let path = scratch.path("file");
        let image = served.reference("v1");
        let blob = blob(&scratch, &skopeo, &image, &digest);
        let message = blob.args(["-o", path.to_str().unwrap()]).run().failed(1);
        let start = format!("longshore: can't fetch a blob of {image}: ");
        assert!(message.starts_with(&start), "{message}");
        assert!(message.contains(digest.as_ref()), "{message}");
        assert!(!path.exists());
    }
}

#[test]
#[ignore = "needs skopeo"]
fn blobs_are_fetched_from_folders_and_archives() {
    let (served, image) = Served::image("v1", &small_image(4));
    let here = format!("oci:{}:v1", served.folder.path().display());
    let scratch = Scratch::new();
    let archive = format!("oci-archive:{}:v1", scratch.path("image.tar").display());
    skopeo_copy(&newest_skopeo(), &here, &archive);
    for skopeo in skopeos() {
        for reference in [&here, &archive] {
            for digest in [image.layers[1].digest(), &image.config_digest] {
                let blob = blob(&scratch, &skopeo, reference, digest);
                assert!(stdout_of(&scratch, blob) == stored(&served, digest));
            }
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn unusable_output_files_are_wrong_usage() {
    let scratch = Scratch::new();
    let digest = sha256(b"x");
    let reference = "docker://127.0.0.1:1/a/b";
    for (path, words) in [
        (scratch.path("missing/file"), "No such file"),
        (scratch.path(""), "is a folder"),
        ("/dev/null".into(), "no regular file"),
    ] {
        let blob = blob(&scratch, &newest_skopeo(), reference, &digest);
        let message = blob.args(["-o", path.to_str().unwrap()]).run().failed(2);
        assert!(message.contains(words), "{message}");
    }
}
