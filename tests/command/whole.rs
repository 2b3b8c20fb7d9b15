//! Archives and folders of one image appear when they are complete, and nothing else is left beside them.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use test_registry::image::write_index;

use crate::faults::machine::Disk;
use crate::harness::{
    ImageBuilder, Longshore, Running, Scratch, Served, Skopeo, assert_skopeo_accepts,
    newest_skopeo, script, skopeo_inspect, skopeos, small_image,
};

/// A folder of its own for destinations.
fn place(scratch: &Scratch) -> PathBuf {
    let place = scratch.path("place");
    fs::create_dir_all(&place).unwrap();
    place
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// A pull of several images with these tags.
fn pull_all(
    scratch: &Scratch,
    skopeo: &Skopeo,
    served: &Served,
    tags: &[&str],
    destination: &str,
) -> Longshore {
    let references: Vec<String> = tags.iter().map(|tag| served.reference(tag)).collect();
    scratch
        .longshore()
        .args(["pull", "--tls-verify=false", "--skopeo"])
        .arg(skopeo.path.to_str().unwrap())
        .args(references.iter().map(String::as_str))
        .arg(destination)
}

#[test]
#[ignore = "needs skopeo"]
fn skopeo_reads_an_archive_and_the_same_image_makes_the_same_bytes() {
    let (served, image) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let place = place(&scratch);
    let mut before: Option<Vec<u8>> = None;
    for skopeo in skopeos() {
        let file = place.join("image.tar");
        let archive = format!("oci-archive:{}", file.display());
        let tagged = format!("{archive}:v1");
        let report = scratch
            .pull(&skopeo, &served.reference("v1"), &tagged)
            .report();
        assert_eq!(report["destination"], tagged);
        assert_eq!(report["fetched_blobs"], 4);
        assert_eq!(names(&place), ["image.tar"]);
        for reference in [&archive, &tagged] {
            let found = skopeo_inspect(&skopeo, &[], reference);
            assert_eq!(found["Digest"], image.manifest_digest.to_string());
            assert_skopeo_accepts(&skopeo, reference);
        }
        let bytes = fs::read(&file).unwrap();
        assert!(before.is_none_or(|before| before == bytes));
        before = Some(bytes);
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(&file, private).unwrap();
    }
    let mode = fs::metadata(place.join("image.tar")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600, "the file was replaced");
}

#[test]
#[ignore = "needs skopeo"]
fn several_images_go_into_one_archive_in_any_order() {
    let served = Served::start();
    let images = [("a", 1), ("b", 2), ("c", 3)];
    let images = images.map(|(tag, seed)| (tag, served.add(tag, &small_image(seed))));
    let scratch = Scratch::new();
    let place = place(&scratch);
    let mut before: Option<Vec<u8>> = None;
    for (skopeo, tags) in skopeos()
        .iter()
        .zip([["a", "b", "c"], ["c", "b", "a"], ["b", "a", "c"]])
    {
        let file = place.join("images.tar");
        let archive = format!("oci-archive:{}", file.display());
        let destination = format!("{archive}:{{tag}}");
        pull_all(&scratch, skopeo, &served, &tags, &destination)
            .run()
            .succeeded();
        for (tag, image) in &images {
            let found = skopeo_inspect(skopeo, &[], &format!("{archive}:{tag}"));
            assert_eq!(found["Digest"], image.manifest_digest.to_string());
        }
        let bytes = fs::read(&file).unwrap();
        assert!(before.is_none_or(|before| before == bytes), "{tags:?}");
        before = Some(bytes);
        assert_eq!(names(&place), ["images.tar"]);
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_archive_has_an_index_with_all_its_images() {
    let served = Served::start();
    let images = [(1, "amd64"), (2, "arm64")];
    let images = images.map(|(seed, name)| small_image(seed).platform("linux", name));
    let index = write_index(served.folder.path(), "v1", &images).unwrap();
    let scratch = Scratch::new();
    for skopeo in skopeos() {
        scratch
            .pull(&skopeo, &served.reference("v1"), "oci-archive:all.tar:v1")
            .args(["--platform", "all"])
            .run()
            .succeeded();
        let archive = format!("oci-archive:{}:v1", scratch.path("all.tar").display());
        for (name, image) in ["amd64", "arm64"].iter().zip(&index.images) {
            let inspect = script(
                &scratch,
                &format!(
                    "exec {} --override-arch {name} \"$@\"",
                    skopeo.path.display()
                ),
            );
            let found = skopeo_inspect(&inspect, &[], &archive);
            assert_eq!(found["Architecture"], *name);
            let layers = found["Layers"].as_array().unwrap();
            assert_eq!(layers[0], image.layers[0].digest().to_string());
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_archive_of_a_list_contains_only_the_pulled_images() {
    let served = Served::start();
    served.add("good", &small_image(1));
    let bad = served.add("bad", &small_image(2));
    served.faults(&[&format!("blob@{}:status=404", bad.layers[2].digest())]);
    let scratch = Scratch::new();
    let skopeo = newest_skopeo();
    let pull = |tags: &[&str], destination: &str| {
        let pull = pull_all(&scratch, &skopeo, &served, tags, destination);
        pull.args(["--keep-going", "--retries", "0"]).run()
    };
    let run = pull(&["good", "bad"], "oci-archive:some.tar:{tag}");
    assert_eq!(run.status.code(), Some(1), "{run}");
    assert!(run.stderr.contains("1 of 2 images"), "{run}");
    pull(&["good"], "oci-archive:good.tar:{tag}").succeeded();
    let archive = |name: &str| fs::read(scratch.path(name)).unwrap();
    assert_eq!(archive("some.tar"), archive("good.tar"));

    let run = pull(&["bad"], "oci-archive:none.tar:{tag}");
    assert_eq!(run.status.code(), Some(1), "{run}");
    assert!(!scratch.path("none.tar").exists());

    // Yesterday's archive has all images, so it is not replaced by one that has fewer.
    fs::write(scratch.path("old.tar"), "old").unwrap();
    for tags in [&["good", "bad"][..], &["bad"]] {
        let run = pull(tags, "oci-archive:old.tar:{tag}");
        assert_eq!(run.status.code(), Some(1), "{run}");
        let message = run.stderr;
        let words = format!(
            "1 of {} images failed, so the file stays as it was",
            tags.len()
        );
        assert!(message.contains(&words), "{message}");
        assert!(message.contains(&served.reference("bad")), "{message}");
        assert_eq!(archive("old.tar"), b"old");
    }
    pull(&["good"], "oci-archive:old.tar:{tag}").succeeded();
    assert_eq!(archive("old.tar"), archive("good.tar"));
}

#[test]
#[ignore = "needs skopeo"]
fn a_folder_of_an_image_is_read_by_skopeo() {
    let (served, image) = Served::image("v1", &small_image(1));
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        let place = place(&scratch);
        fs::create_dir(place.join("empty")).unwrap();
        for name in ["new", "empty"] {
            let folder = place.join(name);
            let destination = format!("dir:{}", folder.display());
            let pull = scratch.pull(&skopeo, &served.reference("v1"), &destination);
            assert_eq!(pull.report()["destination"], destination);
            assert_eq!(
                names(&folder).len(),
                3 + 1 + 2,
                "layers, config, manifest, version"
            );
            let found = skopeo_inspect(&skopeo, &[], &destination);
            assert_eq!(found["Digest"], image.manifest_digest.to_string());
            assert_skopeo_accepts(&skopeo, &destination);
            let mode = fs::metadata(&folder).unwrap().permissions().mode();
            assert_eq!(mode & 0o755, 0o755, "others may read it");
        }
        assert_eq!(names(&place), ["empty", "new"]);
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_folder_that_is_replaced_stays_private() {
    let (served, _) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let place = place(&scratch);
    for mode in [0o700, 0o2770] {
        let folder = place.join(format!("{mode:o}"));
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
        let destination = format!("dir:{}", folder.display());
        let pull = scratch.pull(&newest_skopeo(), &served.reference("v1"), &destination);
        pull.run().succeeded();
        assert!(folder.join("version").exists());
        let found = fs::metadata(&folder).unwrap().permissions().mode();
        assert_eq!(found & 0o7777, mode, "{found:o}");
    }
}

#[test]
#[ignore = "needs skopeo"]
fn the_current_folder_is_not_replaced() {
    let (served, _) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let place = place(&scratch);
    symlink(".", scratch.path("link")).unwrap();
    let same = format!("dir:{}", place.display());
    for destination in [
        "dir:.",
        "dir:./",
        "dir:../place",
        "dir:../link/place",
        &same,
    ] {
        for options in [&[][..], &["--dry-run"]] {
            let pull = scratch.pull(&newest_skopeo(), &served.reference("v1"), destination);
            let pull = pull.args(options.iter().copied());
            let pull = pull.under("sh", ["-c", "cd place && exec \"$@\"", "sh"]);
            let message = pull.run().failed(2);
            assert!(
                message.contains("it is the current folder"),
                "{destination}: {message}"
            );
        }
    }
    assert_eq!(served.registry.requests().len(), 0);
    assert_eq!(names(&place), [""; 0]);
}

#[test]
#[ignore = "needs skopeo"]
fn a_docker_image_in_a_folder_or_an_archive_is_read_by_skopeo() {
    let (served, _) = Served::image("v1", &small_image(1).docker_schema2());
    for skopeo in skopeos() {
        let scratch = Scratch::new();
        for form in ["dir:", "oci-archive:"] {
            let destination = format!("{form}{}", scratch.path("image").display());
            let pull = scratch.pull(&skopeo, &served.reference("v1"), &destination);
            let stored = pull.report()["images"][0]["stored_digest"].clone();
            assert_eq!(skopeo_inspect(&skopeo, &[], &destination)["Digest"], stored);
            assert_skopeo_accepts(&skopeo, &destination);
            if form == "dir:" {
                fs::remove_dir_all(scratch.path("image")).unwrap();
            }
        }
    }
}

#[test]
#[ignore = "needs skopeo"]
fn an_unusable_path_is_found_before_any_request() {
    let (served, _) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let place = place(&scratch);
    fs::create_dir(place.join("full")).unwrap();
    fs::write(place.join("full/letter"), "dear").unwrap();
    fs::write(place.join("file"), "old").unwrap();
    let table = [
        ("dir:place/full", "the folder is not empty"),
        ("dir:place/file", "it is no folder"),
        ("dir:place/missing/new", "No such file"),
        ("oci-archive:place/full", "it is a folder"),
        ("oci-archive:place/missing/new", "No such file"),
        ("oci-archive:/dev/null", "no regular file"),
    ];
    for (destination, words) in table {
        for options in [&["--quiet"][..], &["--quiet", "--dry-run"]] {
            let pull = scratch.pull(&newest_skopeo(), &served.reference("v1"), destination);
            let message = pull.args(options.iter().copied()).run().failed(2);
            assert!(message.contains(words), "{destination}: {message}");
            assert!(
                message.contains(&format!("can't write {destination}: ")),
                "{message}"
            );
        }
    }
    // Nobody can create a folder there, not even root. A dry run does not try.
    let nowhere = "oci-archive:/sys/image.tar";
    let pull = scratch.pull(&newest_skopeo(), &served.reference("v1"), nowhere);
    let message = pull.arg("--quiet").run().failed(1);
    assert!(
        message.contains("can't write oci-archive:/sys/image.tar: "),
        "{message}"
    );
    assert_eq!(served.registry.requests().len(), 0);
    assert_eq!(names(&place), ["file", "full"]);
    assert_eq!(names(&place.join("full")), ["letter"]);
}

#[test]
#[ignore = "needs skopeo"]
fn a_dry_run_of_an_archive_or_a_folder_makes_nothing() {
    let (served, _) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let place = place(&scratch);
    for destination in ["oci-archive:place/a.tar:v1", "dir:place/image"] {
        let pull = scratch.pull(&newest_skopeo(), &served.reference("v1"), destination);
        let plan = pull.arg("--dry-run").report();
        assert_eq!(plan["blobs_to_fetch"], 4);
        assert_eq!(plan["present_layers"], 0);
        assert_eq!(names(&place), [""; 0]);
    }
}

#[test]
#[ignore = "needs skopeo"]
fn a_failed_pull_leaves_the_old_file() {
    let (served, image) = Served::image("v1", &small_image(1));
    served.faults(&[&format!("blob@{}:status=404", image.layers[2].digest())]);
    let scratch = Scratch::new();
    let place = place(&scratch);
    fs::write(place.join("image.tar"), "old").unwrap();
    fs::create_dir(place.join("image")).unwrap();
    for destination in ["oci-archive:place/image.tar", "dir:place/image"] {
        let pull = scratch.pull(&newest_skopeo(), &served.reference("v1"), destination);
        let message = pull.args(["--quiet", "--retries", "0"]).run().failed(1);
        assert!(message.contains("can't pull"), "{message}");
        assert_eq!(names(&place), ["image", "image.tar"]);
        assert_eq!(fs::read(place.join("image.tar")).unwrap(), b"old");
        assert_eq!(names(&place.join("image")), [""; 0]);
    }
}

/// Starts a pull that waits for a stalled layer, when others are stored.
fn stalled(scratch: &Scratch, served: &Served, place: &Path, destination: &str) -> Running {
    let pull = scratch.pull(&newest_skopeo(), &served.reference("v1"), destination);
    let mut pull = pull.start();
    let prefix = format!(".longshore-new-{}-", pull.pid());
    pull.wait_until("a layer is stored", |_| {
        let folders = names(place).into_iter();
        let mut folders = folders.filter(|name| name.starts_with(&prefix));
        folders.any(|name| {
            let blobs = place.join(name).join("layout/blobs/sha256");
            blobs.exists() && !names(&blobs).is_empty()
        })
    });
    pull
}

#[test]
#[ignore = "needs skopeo"]
fn a_signal_leaves_nothing_and_the_next_run_removes_leftovers_of_a_kill() {
    let (served, image) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let place = place(&scratch);
    let stall = format!("blob@{}:stall=half", image.layers[2].digest());
    for destination in ["oci-archive:place/image.tar", "dir:place/image"] {
        served.faults(&[&stall]);
        let pull = stalled(&scratch, &served, &place, destination);
        pull.signal(Signal::SIGINT);
        assert_eq!(pull.end().status.code(), Some(130));
        assert_eq!(names(&place), [""; 0]);

        let living = stalled(&scratch, &served, &place, destination);
        let killed = stalled(&scratch, &served, &place, destination);
        killed.signal(Signal::SIGKILL);
        killed.end_with_staging().assert_killed();
        assert_eq!(names(&place).len(), 2, "one is alive, one is left");
        served.faults(&[]);
        let other = format!("{destination}-other");
        let pull = scratch.pull(&newest_skopeo(), &served.reference("v1"), &other);
        pull.run().succeeded();
        let left = names(&place);
        let alive = format!(".longshore-new-{}-", living.pid());
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(left[0].starts_with(&alive), "{left:?}");
        living.signal(Signal::SIGTERM);
        assert_eq!(living.end().status.code(), Some(143));
        for name in names(&place) {
            let path = place.join(&name);
            assert!(name.ends_with("-other"), "{name}");
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
        }
    }
}

#[test]
#[ignore = "needs skopeo, root"]
fn a_full_disk_leaves_nothing_and_an_archive_needs_space_for_one_more_layer() {
    let image = (0..3).fold(ImageBuilder::new(), |image, layer| {
        image.layer_random(3_000_000, layer)
    });
    let (served, _) = Served::image("v1", &image);
    let scratch = Scratch::new();
    let place = place(&scratch);
    // With the first size, the layers do not fit. With the second, they fit, but the archive does not fit beside
    // them. With the third, the archive and one layer fit.
    for (size, is_enough) in [("6m", false), ("9500k", false), ("12500k", true)] {
        let _disk = Disk::mount(&place, &format!("size={size}"));
        let destination = "oci-archive:place/image.tar";
        let pull = scratch.pull(&newest_skopeo(), &served.reference("v1"), destination);
        let run = pull.arg("--quiet").run();
        if is_enough {
            run.succeeded();
            assert_eq!(names(&place), ["image.tar"]);
            continue;
        }
        let message = run.failed(1);
        assert!(message.contains("No space left"), "{size}: {message}");
        assert!(message.contains("free some space"), "{size}: {message}");
        assert_eq!(names(&place), [""; 0], "{size}");
    }
}

#[test]
#[ignore = "needs skopeo, root"]
fn a_mount_point_is_refused_as_a_destination() {
    let (served, _) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let refused = |destination: &str, advice: &str| {
        let pull = scratch.pull(&newest_skopeo(), &served.reference("v1"), destination);
        let message = pull.arg("--quiet").run().failed(2);
        assert!(message.contains("is a mount point"), "{message}");
        assert!(message.contains(advice), "{message}");
    };
    let place = place(&scratch);
    let disk = Disk::mount(&place, "size=1m");
    refused("dir:place", "name a folder in it");
    drop(disk);
    // A bind mount of the same file system.
    let _bound = Disk::bind(&place);
    refused("dir:place", "name a folder in it");
    let archive = scratch.path("image.tar");
    fs::write(&archive, "old").unwrap();
    let _bound = Disk::bind(&archive);
    refused("oci-archive:image.tar", "name another file");
    assert_eq!(fs::read(&archive).unwrap(), b"old");
}

#[test]
#[ignore = "needs skopeo, strace"]
fn an_archive_is_synced_before_it_gets_its_name() {
    let (served, _) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let place = place(&scratch);
    let trace = scratch.path("trace");
    let pull = scratch.pull(
        &newest_skopeo(),
        &served.reference("v1"),
        "oci-archive:place/a.tar",
    );
    pull.traced(&trace, "fsync,rename").run().succeeded();
    let trace = fs::read_to_string(trace).unwrap();
    let place = fs::canonicalize(place).unwrap();
    let line = |what: &str| {
        let found = trace.lines().position(|line| line.contains(what));
        found.unwrap_or_else(|| panic!("no {what}: {trace}"))
    };
    let synced = line("/made>)");
    let named = line(&format!("{}/a.tar\"", place.display()));
    let parent = line(&format!("<{}>)", place.display()));
    assert!(synced < named && named < parent, "{trace}");
}
