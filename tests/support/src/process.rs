//! Looks at processes, and ends them by their number.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::eventually;

/// The processes that `parent` has started and that are not reaped.
pub fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap();
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| parent_of(*pid) == Some(parent))
        .collect()
}

/// The only child of this process.
pub fn only_child() -> u32 {
    only_child_besides(0)
}

/// The only child of this process besides `other`.
pub fn only_child_besides(other: u32) -> u32 {
    let mut all = children(std::process::id());
    all.retain(|pid| *pid != other);
    assert_eq!(all.len(), 1, "{all:?}");
    all[0]
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The format is "pid (name) state ppid ...", and the name may contain anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// Whether the process runs: it exists, and is no zombie.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.starts_with(" Z"))
}

pub fn kill_now(pid: u32) {
    kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
}

pub async fn wait_until_gone(pid: u32) {
    eventually(|| !is_alive(pid)).await;
}

/// This test program, set up to run one of its own tests, which is otherwise ignored: the function `test` of
/// the module that [`module_path!`] names.
pub fn as_another_test(module: &str, test: &str) -> Command {
    let (_program, module) = module.split_once("::").unwrap();
    let mut command = with_default_signals(std::env::current_exe().unwrap());
    let test = format!("{module}::{test}");
    command.args(["--exact", &test, "--ignored", "--nocapture"]);
    command
}

/// A program that starts with the default disposition of every signal. The parent of the tests may ignore
/// some signals, and a child inherits that. A shell ignores `SIGINT` for programs in the background,
/// for example.
pub fn with_default_signals(program: impl AsRef<OsStr>) -> Command {
    // The path is absolute, because a test may have changed `$PATH`.
    let mut command = Command::new("/usr/bin/env");
    command.arg("--default-signal").arg(program);
    command
}

/// A registry that accepts connections and never answers, so that skopeo waits for ever. The caller must keep
/// the listener.
pub fn silent_registry() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, format!("docker://127.0.0.1:{port}/a/b:c"))
}
