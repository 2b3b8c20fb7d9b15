//! The registries that the images are pulled from: processes on the loopback interface that end
//! when they are dropped.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::json;

use crate::tools::{Tools, stdout_of};
use crate::workload::{Image, Made, TAG};

/// How long a registry may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// A registry to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Our own, which holds the headers of every reply back for so many milliseconds.
    Test { ttfb: u64 },
    /// `docker-registry`, which keeps its files in the work folder.
    Docker,
}

/// A running registry.
#[derive(Debug)]
pub(crate) struct Registry {
    process: Child,
    address: String,
}

impl Kind {
    /// Starts it with the image in it.
    pub(crate) fn start(self, made: &Made, work: &Path, tools: &Tools) -> anyhow::Result<Registry> {
        match self {
            Self::Test { ttfb } => start_test(made, ttfb, tools),
            Self::Docker => start_docker(made, work, tools),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Test { ttfb } => write!(f, "{ttfb} ms"),
            Self::Docker => write!(f, "docker-registry"),
        }
    }
}

impl Registry {
    /// `HOST:PORT/REPOSITORY:TAG` of each image.
    pub(crate) fn images(&self, made: &Made) -> Vec<String> {
        let name = |image: &Image| format!("{}/{}", self.address, image.name);
        made.images.iter().map(name).collect()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Neither can fail but for a process that is gone, as it should be.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn start_test(made: &Made, ttfb: u64, tools: &Tools) -> anyhow::Result<Registry> {
    let process = Command::new(&tools.registry)
        .arg("serve")
        .arg(&made.layout)
        .args(["--ttfb", &ttfb.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("can't start the test registry")?;
    let mut registry = Registry {
        process,
        address: String::new(),
    };
    let stdout = registry.process.stdout.take();
    let mut line = String::new();
    BufReader::new(stdout.context("the test registry has no standard output")?)
        .read_line(&mut line)?;
    let address = line.trim().strip_prefix("listening on ");
    address
        .context("the test registry doesn't say where it listens")?
        .clone_into(&mut registry.address);
    Ok(registry)
}

fn start_docker(made: &Made, work: &Path, tools: &Tools) -> anyhow::Result<Registry> {
    let folder = work.join("docker-registry");
    let registry = start_empty_docker(&folder)?;
    let [image] = registry.images(made).try_into().map_err(|_| {
        anyhow::anyhow!(
            "docker-registry is filled with single images only: leave it out for H1 to H4"
        )
    })?;
    stdout_of(
        Command::new(&tools.skopeo)
            .args(["--insecure-policy", "copy", "--quiet"])
            .arg("--dest-tls-verify=false")
            .arg(format!("oci:{}:{TAG}", made.layout.display()))
            .arg(format!("docker://{image}"))
            .stderr(Stdio::piped()),
    )
    .context("can't fill docker-registry")?;
    Ok(registry)
}

fn start_empty_docker(folder: &Path) -> anyhow::Result<Registry> {
    // Between finding a free port and using it, somebody else may take it.
    for _ in 0..5 {
        if folder.exists() {
            std::fs::remove_dir_all(folder)?;
        }
        std::fs::create_dir_all(folder)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        // Which is YAML, too.
        let config = json!({
            "version": "0.1",
            "log": { "level": "error", "accesslog": { "disabled": true } },
            "storage": { "filesystem": { "rootdirectory": folder.join("data") } },
            "http": { "addr": address },
        });
        let file = folder.join("config.yml");
        std::fs::write(&file, config.to_string())?;
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("can't start docker-registry")?;
        let mut registry = Registry { process, address };
        let deadline = Instant::now() + PATIENCE;
        while registry.process.try_wait()?.is_none() {
            if answers(&registry.address).unwrap_or(false) {
                return Ok(registry);
            }
            if Instant::now() > deadline {
                bail!("docker-registry doesn't answer");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    bail!("docker-registry ends as soon as it is started")
}

fn answers(address: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /v2/ HTTP/1.0\r\n\r\n")?;
    let mut start = [0; 5];
    stream.read_exact(&mut start)?;
    Ok(&start == b"HTTP/")
}
