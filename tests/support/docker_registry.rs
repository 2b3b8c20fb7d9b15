//! A real registry on a loopback port.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use super::BOUND;
use super::image::TestImage;
use super::tools;

/// Who may enter a registry made by [`DockerRegistry::locked`].
pub(crate) const USER: &str = "somebody";
/// With this.
pub(crate) const PASSWORD: &str = "correct-horse-battery";
/// `htpasswd -nbB somebody correct-horse-battery`
const HTPASSWD: &str = "somebody:$2y$05$nTADvIhu5cVKCMKA5Fzj3unWtJRfPJCtcf7zz/PJbisoigcS/ABFu\n";

/// A running `docker-registry`, killed when dropped.
#[derive(Debug)]
pub(crate) struct DockerRegistry {
    process: Child,
    port: u16,
    folder: TempDir,
    locked: bool,
}

impl DockerRegistry {
    pub(crate) fn open() -> Self {
        Self::start(false)
    }

    /// One that asks for user name and password.
    pub(crate) fn locked() -> Self {
        Self::start(true)
    }

    fn start(locked: bool) -> Self {
        let program = tools::system("docker-registry");
        // Between finding a free port and using it, somebody else may take it.
        for _ in 0..10 {
            let folder = tempfile::tempdir().unwrap();
            let port = free_port();
            let config = configuration(folder.path(), port, locked);
            let mut process = Command::new(&program)
                .arg("serve")
                .arg(config)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let deadline = Instant::now() + BOUND;
            while process.try_wait().unwrap().is_none() {
                if answers(port) {
                    return Self {
                        process,
                        port,
                        folder,
                        locked,
                    };
                }
                assert!(Instant::now() < deadline, "docker-registry does not answer");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        panic!("docker-registry does not start");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Put an image there, and return skopeo's name for it.
    pub(crate) fn push(&self, image: &TestImage, name: &str) -> String {
        let layout = self.folder.path().join(format!("layout-{name}"));
        image.write_layout(&layout, "it");
        let reference = format!("docker://{}/{name}:latest", self.host());
        let mut copy = Command::new(tools::skopeo("0.2.8"));
        copy.args([
            "--insecure-policy",
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
        ]);
        if self.locked {
            copy.args(["--dest-creds", &format!("{USER}:{PASSWORD}")]);
        }
        copy.arg(format!("oci:{}:it", layout.display()));
        tools::succeed(copy.arg(&reference));
        reference
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// YAML is a superset of JSON.
fn configuration(folder: &Path, port: u16, locked: bool) -> std::path::PathBuf {
    let mut config = json!({
        "version": "0.1",
        "log": { "level": "error" },
        "storage": { "filesystem": { "rootdirectory": folder.join("data") } },
        "http": { "addr": format!("127.0.0.1:{port}") },
    });
    if locked {
        let users = folder.join("htpasswd");
        fs::write(&users, HTPASSWD).unwrap();
        config["auth"] = json!({ "htpasswd": { "realm": "tests", "path": users } });
    }
    let file = folder.join("config.yml");
    fs::write(&file, config.to_string()).unwrap();
    file
}

fn answers(port: u16) -> bool {
    let answer = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /v2/ HTTP/1.0\r\n\r\n")?;
        let mut start = [0; 5];
        stream.read_exact(&mut start)?;
        Ok(&start == b"HTTP/")
    };
    answer().unwrap_or(false)
}
