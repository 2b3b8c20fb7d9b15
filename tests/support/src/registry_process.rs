//! A real `docker-registry` for one test, on a free port of the loopback interface.

use std::cell::Cell;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::tools;

/// How long the start of the registry may take.
const START: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct RegistryProcess {
    process: Child,
    address: String,
    folder: TempDir,
    seen: Cell<usize>,
}

impl RegistryProcess {
    /// Starts a registry that asks for no credentials.
    pub fn start() -> Self {
        Self::with(|_, _| ())
    }

    /// Starts a pull-through cache of another registry.
    pub fn cache_of(origin: &Self) -> Self {
        let address = format!("http://{}", origin.address);
        Self::with(|_, config| config["proxy"] = json!({ "remoteurl": address }))
    }

    /// Starts a registry that asks for a user and a password. They are given as a line of a password file, as
    /// `htpasswd -B` prints it.
    pub fn with_password(htpasswd: &str) -> Self {
        Self::with(|folder, config| {
            let file = folder.join("htpasswd");
            fs::write(&file, htpasswd).unwrap();
            config["auth"] = json!({ "htpasswd": { "realm": "test", "path": file } });
        })
    }

    /// Starts a registry after a change of its configuration. The change gets the folder of the registry.
    fn with(change: impl FnOnce(&Path, &mut Value)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut config = json!({
            "version": 0.1,
            "log": { "level": "info", "formatter": "json" },
            "storage": { "filesystem": { "rootdirectory": path("storage") } },
            "http": { "addr": "127.0.0.1:0", "secret": "of no use here" },
        });
        change(folder.path(), &mut config);
        // JSON is also valid YAML.
        fs::write(path("config.yml"), config.to_string()).unwrap();
        let process = Command::new(tools::system("docker-registry"))
            .arg("serve")
            .arg(path("config.yml"))
            .stdin(Stdio::null())
            .stdout(File::create(path("access.log")).unwrap())
            .stderr(File::create(path("log")).unwrap())
            .spawn()
            .unwrap();
        let mut registry = Self {
            process,
            address: String::new(),
            folder,
            seen: Cell::new(0),
        };
        registry.address = registry.wait_for_address();
        registry
    }

    /// The host and the port of the registry.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Stops the process, so that the registry answers nothing until it is continued.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The folder of the registry, which is removed with it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The reference of an image at this registry, for skopeo.
    pub fn reference(&self, name_and_tag: &str) -> String {
        format!("docker://{}/{name_and_tag}", self.address)
    }

    /// The digests of the blobs that were requested since the last call, in order.
    pub fn take_blob_gets(&self) -> Vec<String> {
        let log = self.access_log();
        let gets: Vec<_> = log.lines().filter_map(blob_get).collect();
        gets[self.seen.replace(gets.len())..].to_vec()
    }

    /// A line for each request so far: the time, the request, its outcome, and the program that made it.
    pub fn access_log(&self) -> String {
        fs::read_to_string(self.folder.path().join("access.log")).unwrap()
    }

    /// Whether a blob of this repository is stored, so that a cache need not ask its origin for it.
    pub fn has(&self, repository: &str, digest: &str) -> bool {
        let path = format!(
            "storage/docker/registry/v2/repositories/{repository}/_layers/{}/link",
            digest.replace(':', "/"),
        );
        let link = fs::read_to_string(self.folder.path().join(path));
        link.is_ok_and(|link| link == digest)
    }

    /// Waits until the registry logs the address at which it listens.
    fn wait_for_address(&mut self) -> String {
        let deadline = Instant::now() + START;
        loop {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap();
            let address = log.lines().find_map(|line| {
                let line: Value = serde_json::from_str(line).ok()?;
                let address = line["msg"].as_str()?.strip_prefix("listening on ")?;
                Some(address.to_owned())
            });
            if let Some(address) = address {
                return address;
            }
            let ended = self.process.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "docker-registry does not listen ({ended:?}): {log}"
            );
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The digest in a line of the access log, such as
/// `127.0.0.1 - - [date] "GET /v2/image/blobs/sha256:00 HTTP/1.1" 200 7 "" ""`.
fn blob_get(line: &str) -> Option<String> {
    let (_, request) = line.split_once("\"GET ")?;
    let (path, rest) = request.split_once(' ')?;
    let (_, digest) = path.split_once("/blobs/")?;
    // A request without credentials is refused and then repeated, so it does not count.
    (!rest.contains("\" 401 ")).then(|| digest.to_owned())
}

impl Drop for RegistryProcess {
    fn drop(&mut self) {
        // This can't fail: the process is ours and not reaped yet.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
