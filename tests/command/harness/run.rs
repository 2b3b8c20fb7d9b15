//! One run of the command, from its arguments to what it leaves behind.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use test_support::process::with_default_signals;
use test_support::tools;

use super::layout::Layout;
use super::processes::{self, Finder, MARK, Process};
use super::{Skopeo, eventually};

/// A folder for everything that the runs of a test write.
#[derive(Debug)]
pub(crate) struct Scratch {
    folder: TempDir,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A layout to pull into, which does not exist yet.
    pub(crate) fn layout(&self, name: &str) -> Layout {
        Layout::new(self.path(name))
    }

    /// The command `longshore pull IMAGE DEST`, over plain HTTP.
    pub(crate) fn pull(&self, skopeo: &Skopeo, image: &str, dest: &str) -> Longshore {
        self.longshore()
            .args(["pull", "--tls-verify=false", "--skopeo"])
            .args([skopeo.path.to_str().unwrap(), image, dest])
    }

    /// The command `longshore inspect IMAGE`, over plain HTTP.
    pub(crate) fn inspect(&self, skopeo: &Skopeo, image: &str) -> Longshore {
        self.longshore()
            .args(["inspect", "--tls-verify=false", "--skopeo"])
            .args([skopeo.path.to_str().unwrap(), image])
    }

    /// The command without arguments, and with none of the user's settings.
    pub(crate) fn longshore(&self) -> Longshore {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let number = RUNS.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}-{number}", std::process::id());
        let folder = self.path(&format!("run-{number}"));
        let temporary = folder.join("tmp");
        fs::create_dir_all(&temporary).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
        command
            .env(MARK, &mark)
            .env("TMPDIR", &temporary)
            .env("HOME", folder.join("home"))
            .env("XDG_RUNTIME_DIR", folder.join("runtime"))
            .env_remove("REGISTRY_AUTH_FILE")
            .env_remove("RUST_LOG")
            .env_remove("LONGSHORE_SKOPEO")
            .env_remove("LONGSHORE_PROXIES")
            .env_remove("LONGSHORE_AUTHFILE")
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        Longshore {
            command,
            mark,
            folder,
            input: None,
            stdout: None,
            stderr: None,
        }
    }
}

/// A run that has not started.
#[derive(Debug)]
pub(crate) struct Longshore {
    command: Command,
    mark: String,
    folder: PathBuf,
    input: Option<String>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Longshore {
    pub(crate) fn arg(self, arg: &str) -> Self {
        self.args([arg])
    }

    pub(crate) fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn arg_os(mut self, arg: &OsStr) -> Self {
        self.command.arg(arg);
        self
    }

    /// Sends stdout there. [`Run::stdout`] is then empty.
    pub(crate) fn stdout_to(mut self, stdout: impl Into<OwnedFd>) -> Self {
        self.stdout = Some(stdout.into());
        self
    }

    /// Sends stderr there. [`Run::stderr`] is then empty.
    pub(crate) fn stderr_to(mut self, stderr: impl Into<OwnedFd>) -> Self {
        self.stderr = Some(stderr.into());
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts the command by this program, given as its name and its arguments. The program must become the
    /// command (`prlimit`, `setpriv`, a shell's `exec`).
    pub(crate) fn under<'a>(
        mut self,
        program: &str,
        args: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let mut command = Command::new(program);
        command.args(args);
        self.become_argument_of(command);
        self
    }

    /// Replaces our command by `command`, which gets our program and its arguments as further arguments, and our folder
    /// and environment.
    fn become_argument_of(&mut self, mut command: Command) {
        command.arg(self.command.get_program());
        self.become_arguments_of(command);
    }

    fn become_arguments_of(&mut self, mut command: Command) {
        command.args(self.command.get_args()).stdin(Stdio::null());
        if let Some(folder) = self.command.get_current_dir() {
            command.current_dir(folder);
        }
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        self.command = command;
    }

    /// Sets what the command reads from stdin, which stays open, as on a terminal.
    pub(crate) fn input(mut self, text: &str) -> Self {
        self.input = Some(text.to_owned());
        self
    }

    /// Has strace record these system calls of the command and of what it starts.
    pub(crate) fn traced(mut self, file: &Path, calls: &str) -> Self {
        let mut strace = Command::new(tools::system("strace"));
        strace
            .args(["-f", "-y", "-qq", "--seccomp-bpf", "-e"])
            .args([&format!("trace={calls}"), "-e", "signal=none", "-o"])
            .arg(file);
        self.become_argument_of(strace);
        self
    }

    #[track_caller]
    pub(crate) fn start(mut self) -> Running {
        let program = self.command.get_program().to_owned();
        self.become_arguments_of(with_default_signals(program));
        let Self {
            mut command,
            mark,
            folder,
            input,
            stdout,
            stderr,
        } = self;
        // These are files, because a pipe would have to be read while the command runs.
        let file = |name: &str| File::create(folder.join(name)).unwrap();
        command.stdout(file("stdout")).stderr(file("stderr"));
        if let Some(stdout) = stdout {
            command.stdout(stdout);
        }
        if let Some(stderr) = stderr {
            command.stderr(stderr);
        }
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut process = command.spawn().unwrap();
        let mut stdin = process.stdin.take();
        if let (Some(stdin), Some(input)) = (&mut stdin, input) {
            stdin.write_all(input.as_bytes()).unwrap();
        }
        Running {
            _stdin: stdin,
            what: format!("{command:?}"),
            process,
            finder: Finder::new(&mark),
            folder,
        }
    }

    /// Runs the command to its end, which it must reach by itself.
    #[track_caller]
    pub(crate) fn run(self) -> Run {
        self.start().end()
    }

    /// Runs the command with `--json`, which must succeed.
    #[track_caller]
    pub(crate) fn report(self) -> Value {
        self.arg("--json").run().report()
    }
}

/// A command that is running. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Running {
    what: String,
    process: Child,
    finder: Finder,
    folder: PathBuf,
    _stdin: Option<ChildStdin>,
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The process of the command, as others see it.
    pub(crate) fn process(&self) -> Process {
        let marked = self.finder.find();
        let pid = self.pid();
        marked.into_iter().find(|found| found.pid == pid).unwrap()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// The folder for temporary files and for the user's settings.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        processes::signal(self.pid(), signal);
    }

    /// All running processes of the command and of what it has started.
    pub(crate) fn processes(&self) -> Vec<Process> {
        self.finder.find()
    }

    /// Waits until at least one skopeo of the command runs.
    #[track_caller]
    pub(crate) fn proxies(&mut self) -> Vec<Process> {
        let mut found = Vec::new();
        self.wait_until("a skopeo of it runs", |run| {
            found = run.running_proxies();
            !found.is_empty()
        });
        found
    }

    /// The skopeos of the command that run now.
    pub(crate) fn running_proxies(&self) -> Vec<Process> {
        let mut found = self.finder.find();
        found.retain(Process::is_proxy);
        found
    }

    /// The text on stderr so far.
    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(self.folder.join("stderr")).unwrap()
    }

    /// Waits for something to happen while the command runs.
    #[track_caller]
    pub(crate) fn wait_until(&mut self, what: &str, mut happened: impl FnMut(&Self) -> bool) {
        eventually(what, || {
            if happened(self) {
                return true;
            }
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("ended too early, before {what}: {}", self.ended(status));
            }
            false
        });
    }

    /// Waits for the end. The command must then have left nothing.
    #[track_caller]
    pub(crate) fn end(self) -> Run {
        let run = self.end_with_staging();
        assert_eq!(run.staging, Vec::<PathBuf>::new(), "left by {run}");
        run
    }

    /// Waits for the end. No process of the command may be left, and no temporary file except for a
    /// staging folder.
    #[track_caller]
    pub(crate) fn end_with_staging(mut self) -> Run {
        let mut status = None;
        eventually(&format!("the end of {}", self.what), || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        let run = self.ended(status.unwrap());
        eventually(&format!("the end of all processes of {run}"), || {
            let mut left = self.finder.find();
            for agent in left.extract_if(.., |process| process.is_gpg_agent()) {
                // The process may have ended by now.
                let _ = kill(Pid::from_raw(agent.pid.cast_signed()), Signal::SIGKILL);
            }
            left.is_empty()
        });
        let temporary = fs::read_dir(self.folder.join("tmp")).unwrap();
        let temporary = temporary.map(|entry| entry.unwrap().path());
        assert_eq!(
            temporary.collect::<Vec<_>>(),
            Vec::<PathBuf>::new(),
            "left by {run}"
        );
        run
    }

    /// Waits for the end of the command alone.
    #[track_caller]
    pub(crate) fn end_without_checks(mut self) -> Run {
        let mut status = None;
        eventually(&format!("the end of {}", self.what), || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        self.ended(status.unwrap())
    }

    fn ended(&self, status: ExitStatus) -> Run {
        let text = |name: &str| {
            let bytes = fs::read(self.folder.join(name)).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let pid = self.pid();
        Run {
            what: self.what.clone(),
            status,
            stdout: text("stdout"),
            stderr: text("stderr"),
            staging: staging_folders(self.folder.parent().unwrap(), pid),
        }
    }
}

/// The staging folders of a process, in any layout.
fn staging_folders(scratch: &Path, pid: u32) -> Vec<PathBuf> {
    let prefix = format!(".longshore-{pid}-");
    let layouts = fs::read_dir(scratch).unwrap();
    layouts
        .filter_map(|layout| fs::read_dir(layout.ok()?.path()).ok())
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with(&prefix)
        })
        .collect()
}

impl Drop for Running {
    fn drop(&mut self) {
        // The process has ended, or a failing test leaves it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A run that has ended.
#[derive(Debug)]
pub(crate) struct Run {
    what: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    staging: Vec<PathBuf>,
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            what,
            status,
            stdout,
            stderr,
            ..
        } = self;
        write!(f, "{what}: {status}\n{stdout}{stderr}")
    }
}

impl Run {
    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }

    /// The object that the command prints with `--json`, on one line.
    #[track_caller]
    pub(crate) fn report(self) -> Value {
        let run = self.succeeded();
        let line = run.stdout.strip_suffix('\n');
        let line = line.filter(|line| !line.contains('\n'));
        let line = line.unwrap_or_else(|| panic!("not one line: {run}"));
        serde_json::from_str(line).unwrap()
    }

    /// Checks that the command ended with this exit code, and printed nothing on stdout. Returns the text
    /// on stderr.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!(self.status.code(), Some(code), "{self}");
        assert_eq!(self.stdout, "", "{self}");
        self.stderr
    }

    pub(crate) fn was_killed(&self) -> bool {
        self.status.signal() == Some(Signal::SIGKILL as i32)
    }

    #[track_caller]
    pub(crate) fn assert_killed(&self) {
        assert!(self.was_killed(), "{self}");
    }
}
