//! What this machine may deny: disk space, descriptors, pipe buffers, folders, a steady clock.

use std::fs;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::cell::{Cell, Guard};
use crate::harness::{ImageBuilder, Longshore, Run, Running, Served};
use test_support::process::as_another_test;
use test_support::tools;

/// A small file system, or a bind mount. Dropping it unmounts it.
pub(crate) struct Disk(PathBuf);

impl Disk {
    #[track_caller]
    pub(crate) fn mount(folder: &Path, options: &str) -> Self {
        fs::create_dir_all(folder).unwrap();
        Self::with(folder, &["-t", "tmpfs", "-o", options, "tmpfs"])
    }

    /// Mounts a file or a folder at its own path.
    #[track_caller]
    pub(crate) fn bind(path: &Path) -> Self {
        Self::with(path, &["--bind", path.to_str().unwrap()])
    }

    #[track_caller]
    fn with(path: &Path, arguments: &[&str]) -> Self {
        let mut mount = Command::new("mount");
        let output = mount.args(arguments).arg(path).output().unwrap();
        assert!(
            output.status.success(),
            "these tests mount disks, which takes root with CAP_SYS_ADMIN: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Self(path.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        if !std::thread::panicking() {
            assert!(unmounted.unwrap().success());
        }
    }
}

/// An image of 3 MB.
pub(crate) fn larger_image(served: &Served) {
    let image = (0..3).fold(ImageBuilder::new(), |image, layer| {
        image.layer_random(1_000_000, 40 + layer)
    });
    served.add("v1", &image);
    served.add("small", &crate::harness::small_image(5));
}

/// The disk has space for one of the images, but not for both.
pub(crate) fn full_disk(cell: &Cell, pull: Longshore) -> (Longshore, Guard) {
    let disk = Disk::mount(cell.layout.folder(), "size=1m");
    let small = cell.served.reference("small");
    cell.scratch
        .pull(&cell.skopeo, &small, &cell.layout.tagged("small"))
        .run()
        .succeeded();
    (pull, Box::new(disk))
}

pub(crate) fn first_image_is_intact(cell: &Cell, run: &Run) {
    assert!(cell.layout.tags().keys().eq(["small"]));
    // 3 MB do not fit on a disk of 1 MiB.
    let advice = run.stderr.lines().last().unwrap();
    let missing = advice
        .trim()
        .strip_prefix("3.0 MB are still to be written, and ");
    let missing = missing.unwrap_or_else(|| panic!("{run}"));
    assert!(missing.contains(" kB are free; free 2."), "{run}");
    assert!(advice.ends_with("it goes on where it stopped"), "{run}");
}

/// No file may have more than 512 KiB.
pub(crate) fn small_files(_: &Cell, pull: Longshore) -> (Longshore, Guard) {
    // The signal is ignored, because it would end the command like any program.
    let script = r#"trap "" XFSZ; ulimit -f 1024; exec "$@""#;
    (pull.under("sh", ["-c", script, "sh"]), Box::new(()))
}

pub(crate) fn read_only_layout(cell: &Cell, pull: Longshore) -> (Longshore, Guard) {
    (
        pull,
        Box::new(Disk::mount(cell.layout.folder(), "ro,size=1m")),
    )
}

pub(crate) fn layout_is_a_file(cell: &Cell, pull: Longshore) -> (Longshore, Guard) {
    fs::write(cell.layout.folder(), "").unwrap();
    (pull, Box::new(()))
}

/// The folder for temporary files is on another file system than the layout.
pub(crate) fn two_file_systems(cell: &Cell, pull: Longshore) -> (Longshore, Guard) {
    let temporary = cell.scratch.path("elsewhere");
    let disk = Disk::mount(&temporary, "size=1m");
    (
        pull.env("TMPDIR", temporary.to_str().unwrap()),
        Box::new(disk),
    )
}

pub(crate) fn no_temporary_folder(_: &Cell, pull: Longshore) -> (Longshore, Guard) {
    (pull.env("TMPDIR", "/dev/null/tmp"), Box::new(()))
}

/// Neither home nor caches are writable. (During a pull, skopeo never sees root's cache.)
pub(crate) fn no_cache(cell: &Cell, pull: Longshore) -> (Longshore, Guard) {
    let home = cell.scratch.path("home");
    let disk = Disk::mount(&home, "ro,size=1m");
    let home = home.to_str().unwrap();
    let variables = ["HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"];
    let pull = variables
        .into_iter()
        .fold(pull, |pull, name| pull.env(name, home));
    (pull, Box::new(disk))
}

pub(crate) fn forty_layers(served: &Served) {
    let image = (0..40).fold(ImageBuilder::new(), |image, layer| {
        image.layer_random(20_000, 70 + layer)
    });
    served.add("v1", &image);
}

pub(crate) fn few_descriptors(_: &Cell, pull: Longshore) -> (Longshore, Guard) {
    (
        pull.under("prlimit", ["--nofile=64:64", "--"]),
        Box::new(()),
    )
}

/// Runs the command as an ordinary user who already has so many pipe pages that pipes can't be made larger,
/// and new ones get two pages (pipe(7), `pipe-user-pages-soft`). The pages count for each user, so the user
/// must be one that nobody else is. Programs and folders here belong to root, so the user may
/// access everything.
const LIKE_AN_ORDINARY_USER: [&str; 7] = [
    "--reuid=54321",
    "--regid=54321",
    "--clear-groups",
    "--inh-caps=-all,+dac_override",
    "--ambient-caps=-all,+dac_override",
    "--no-new-privs",
    "--",
];

pub(crate) fn no_pipe_pages(_: &Cell, pull: Longshore) -> (Longshore, Guard) {
    // One process serves all pulls. It ends when its stdin is closed, so with this process.
    static HOG: OnceLock<Child> = OnceLock::new();
    HOG.get_or_init(|| {
        let hog = as_another_test(module_path!(), "helper_takes_all_pipe_pages");
        let mut command = Command::new("setpriv");
        command
            .args(LIKE_AN_ORDINARY_USER)
            .arg(hog.get_program())
            .args(hog.get_args())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut hog = command.spawn().unwrap();
        let lines = BufReader::new(hog.stdout.take().unwrap()).lines();
        let ready = |line: String| line.ends_with("READY");
        assert!(
            lines.map_while(Result::ok).any(ready),
            "{command:?} failed: it takes root with CAP_SETUID, and setpriv"
        );
        hog
    });
    let pull = pull.under("setpriv", LIKE_AN_ORDINARY_USER);
    (pull, Box::new(()))
}

pub(crate) fn pipes_keep_their_size(_: &Cell, run: &Run) {
    let kept = "the pipe keeps its size";
    assert!(run.stderr.contains(kept), "{run}");
}

/// Takes all pipe pages of the user that [`LIKE_AN_ORDINARY_USER`] sets.
#[test]
#[ignore = "it is started, and ended, by another test"]
fn helper_takes_all_pipe_pages() {
    let mut pipes = Vec::new();
    let refused = loop {
        let pipe: (PipeReader, PipeWriter) = std::io::pipe().unwrap();
        let largest = fcntl(&pipe.0, FcntlArg::F_SETPIPE_SZ(1 << 20));
        pipes.push(pipe);
        if let Err(errno) = largest {
            break errno;
        }
    };
    assert_eq!(refused, Errno::EPERM);
    println!("READY");
    // This waits until the process of the other test ends, and with it the reader of our stdout.
    std::io::stdin().read_line(&mut String::new()).unwrap();
    std::process::exit(0);
}

/// A file determines the wall clock of the command, through the preloaded library of faketime. skopeo is started
/// without that library: Go does not ask the C library for the time, and the private skopeos have another C library,
/// under which that of faketime would not load.
pub(crate) fn with_faketime(cell: &Cell, _: Longshore) -> (Longshore, Guard) {
    // The library is built once, because two builds at the same time disturb each other.
    static LIBRARY: OnceLock<String> = OnceLock::new();
    fs::write(clock(cell), "+0\n").unwrap();
    let mut skopeo = cell.skopeo.clone();
    let real = skopeo.path.to_str().unwrap().to_owned();
    skopeo.path = cell.scratch.path("skopeo");
    let script = format!("#!/bin/sh\nunset LD_PRELOAD\nexec {real} \"$@\"\n");
    fs::write(&skopeo.path, script).unwrap();
    fs::set_permissions(&skopeo.path, fs::Permissions::from_mode(0o755)).unwrap();
    let library = LIBRARY.get_or_init(|| {
        let mut faketime = Command::new(tools::system("faketime"));
        let library = tools::output_of(faketime.args(["-f", "+0", "printenv", "LD_PRELOAD"]));
        String::from_utf8(library).unwrap()
    });
    let layout = cell.layout.tagged("v1");
    let pull = cell
        .scratch
        .pull(&skopeo, &cell.reference, &layout)
        .arg("--json")
        .env("LD_PRELOAD", library.trim())
        .env("FAKETIME_TIMESTAMP_FILE", clock(cell).to_str().unwrap())
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("FAKETIME_DONT_RESET", "1");
    (pull, Box::new(FaketimeMemory))
}

/// Dropping it removes the shared memory that faketime has left for processes that have ended.
struct FaketimeMemory;

impl Drop for FaketimeMemory {
    fn drop(&mut self) {
        for entry in fs::read_dir("/dev/shm").unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let pid = ["faketime_shm_", "sem.faketime_sem_"]
                .iter()
                .find_map(|prefix| name.strip_prefix(prefix));
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                // Another test may have removed it.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn clock(cell: &Cell) -> PathBuf {
    cell.scratch.path("clock")
}

fn set_clock(cell: &Cell, offset: &str) {
    let new = cell.scratch.path("new-clock");
    fs::write(&new, format!("{offset}\n")).unwrap();
    fs::rename(new, clock(cell)).unwrap();
}

/// The clock jumps forward by more than a year.
pub(crate) fn clock_jumps_forward(cell: &Cell, running: &mut Running) {
    jump(cell, running, "+400d");
}

pub(crate) fn clock_jumps_back(cell: &Cell, running: &mut Running) {
    jump(cell, running, "-400d");
}

/// The clock jumps while the command waits for a blob that has stalled.
fn jump(cell: &Cell, running: &mut Running, offset: &str) {
    let stalled = cell.image.layers[1].digest();
    running.wait_until("the blob is asked for", |_| {
        cell.served.registry.blob_gets(stalled) > 0
    });
    set_clock(cell, offset);
}

/// The log line about the retry has another year, so the clock did jump.
pub(crate) fn clock_has_jumped(_: &Cell, run: &Run) {
    let year = |line: &str| line.get(..4)?.parse::<u32>().ok();
    let again = run.stderr.lines().find(|line| line.contains("will retry"));
    let logged = again
        .and_then(year)
        .unwrap_or_else(|| panic!("no year: {run}"));
    let output = Command::new("date").arg("+%Y").output().unwrap();
    let now = year(&String::from_utf8_lossy(&output.stdout)).unwrap();
    assert_ne!(logged, now, "{run}");
}

/// Writes this file, and passes its name with this option.
fn with_file(cell: &Cell, pull: Longshore, option: &str, text: &str) -> (Longshore, Guard) {
    let file = cell.scratch.path("given.json");
    fs::write(&file, text).unwrap();
    (pull.args([option, file.to_str().unwrap()]), Box::new(()))
}

pub(crate) fn broken_policy(cell: &Cell, pull: Longshore) -> (Longshore, Guard) {
    with_file(cell, pull, "--policy", "{\"default\": [")
}

pub(crate) fn broken_auth_file(cell: &Cell, pull: Longshore) -> (Longshore, Guard) {
    with_file(cell, pull, "--authfile", "{\"auths\":")
}

/// The auth file is a pipe that is written once.
pub(crate) fn auth_file_is_a_pipe(cell: &Cell, pull: Longshore) -> (Longshore, Guard) {
    let pipe = cell.scratch.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let writer = pipe.clone();
    std::thread::spawn(move || fs::write(writer, "{}"));
    (
        pull.args(["--authfile", pipe.to_str().unwrap()]),
        Box::new(()),
    )
}

/// stderr is `/dev/full`.
pub(crate) fn stderr_is_full(_: &Cell, pull: Longshore) -> (Longshore, Guard) {
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    (pull.stderr_to(full), Box::new(()))
}
