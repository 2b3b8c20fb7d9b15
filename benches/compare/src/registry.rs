//! The registries from which the images are pulled: processes on the loopback interface that end when they
//! are dropped.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::json;

use crate::relay::Distance;
use crate::tools::{Tools, stdout_of};
use crate::workload::{Image, Made};

/// How long a registry may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A registry to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The test registry, which delays the headers of every reply by this many milliseconds.
    Test { ttfb: u64 },
    /// `docker-registry`, which keeps its files in the work folder.
    Docker,
    /// `docker-registry` with TLS and a login, behind a [relay](crate::relay).
    Distant(Distance),
}

/// A running registry.
#[derive(Debug)]
pub(crate) struct Registry {
    process: Child,
    address: String,
    trust: Option<Trust>,
    /// The relay between the registry and the contestants.
    relay: Option<Box<Self>>,
}

/// What a contestant needs for a registry with TLS and a login: certificate and credentials.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    /// The certificate of the registry.
    certificate: PathBuf,
    /// A folder with a `config.json` in Docker's format.
    logins: PathBuf,
}

impl Trust {
    /// Makes this command use both. All contestants support these variables.
    pub(crate) fn apply_to(&self, command: &mut Command) {
        command
            .env("SSL_CERT_FILE", &self.certificate)
            .env("DOCKER_CONFIG", &self.logins)
            .env("REGISTRY_AUTH_FILE", self.logins.join("config.json"));
    }
}

impl Kind {
    /// Starts the registry, with the images in it.
    pub(crate) fn start(self, made: &Made, work: &Path, tools: &Tools) -> anyhow::Result<Registry> {
        match self {
            Self::Test { ttfb } => start_test(made, ttfb, tools),
            Self::Docker => start_docker(made, work, tools),
            Self::Distant(distance) => start_distant(made, distance, work, tools),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Test { ttfb } => write!(f, "{ttfb} ms"),
            Self::Docker => write!(f, "docker-registry"),
            Self::Distant(distance) => write!(f, "{distance}"),
        }
    }
}

impl Registry {
    /// The name of each image, as `HOST:PORT/REPOSITORY:TAG`.
    pub(crate) fn images(&self, made: &Made) -> Vec<String> {
        let name = |image: &Image| format!("{}/{}", self.address, image.name);
        made.images.iter().map(name).collect()
    }

    pub(crate) fn trust(&self) -> Option<&Trust> {
        self.trust.as_ref()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Neither can fail, except for a process that has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn start_test(made: &Made, ttfb: u64, tools: &Tools) -> anyhow::Result<Registry> {
    let mut command = Command::new(&tools.registry);
    command.arg("serve").arg(&made.layout);
    start_and_listen(command.args(["--ttfb", &ttfb.to_string()]))
}

/// Starts a program that prints the address at which it listens.
fn start_and_listen(command: &mut Command) -> anyhow::Result<Registry> {
    let process = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("can't start {}", command.get_program().display()))?;
    let mut registry = Registry {
        process,
        address: String::new(),
        trust: None,
        relay: None,
    };
    let stdout = registry.process.stdout.take();
    let mut line = String::new();
    BufReader::new(stdout.context("it has no standard output")?).read_line(&mut line)?;
    let address = line.trim().strip_prefix("listening on ");
    address
        .with_context(|| {
            format!(
                "{} doesn't say where it listens",
                command.get_program().display()
            )
        })?
        .clone_into(&mut registry.address);
    Ok(registry)
}

fn start_docker(made: &Made, work: &Path, tools: &Tools) -> anyhow::Result<Registry> {
    let folder = work.join("docker-registry");
    let registry = start_empty_docker(&folder, None)?;
    fill(&registry, made, tools)?;
    Ok(registry)
}

fn start_distant(
    made: &Made,
    distance: Distance,
    work: &Path,
    tools: &Tools,
) -> anyhow::Result<Registry> {
    let folder = work.join("distant-registry");
    let secrets = Secrets::make(work)?;
    let mut registry = start_empty_docker(&folder, Some(&secrets))?;
    // Logins are found by the address that a contestant sees.
    secrets.write_logins(&registry.address)?;
    registry.trust = Some(secrets.trust.clone());
    fill(&registry, made, tools)?;
    let mut relay = Command::new(std::env::current_exe()?);
    relay
        .args(["relay", "--to", &registry.address])
        .args(["--rtt", &distance.rtt.to_string()])
        .args(["--mbits", &distance.mbits.to_string()]);
    let relay = start_and_listen(&mut relay)?;
    secrets.write_logins(&relay.address)?;
    registry.address.clone_from(&relay.address);
    registry.relay = Some(Box::new(relay));
    Ok(registry)
}

/// The secrets of a registry that only this run uses.
#[derive(Debug)]
struct Secrets {
    trust: Trust,
    key: PathBuf,
    users: PathBuf,
}

/// The login, and docker-registry's form of it: the second part is bcrypt's.
const LOGIN: &str = "bench:distant";
const USERS: &str = "bench:$2y$05$abcdefghijklmnopqrstuu3rlr5vqdXBrRhF6x7FotVcCrn3R6jFu\n";

impl Secrets {
    fn make(work: &Path) -> anyhow::Result<Self> {
        let logins = work.join("logins");
        std::fs::create_dir_all(&logins)?;
        let secrets = Self {
            trust: Trust {
                certificate: work.join("certificate.pem"),
                logins,
            },
            key: work.join("key.pem"),
            users: work.join("users"),
        };
        std::fs::write(&secrets.users, USERS)?;
        stdout_of(
            Command::new("openssl")
                .args(["req", "-x509", "-nodes", "-newkey", "ec"])
                .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
                .args(["-subj", "/CN=localhost"])
                .args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout"])
                .arg(&secrets.key)
                .arg("-out")
                .arg(&secrets.trust.certificate)
                .stderr(Stdio::piped()),
        )
        .context("can't make a certificate")?;
        Ok(secrets)
    }

    fn write_logins(&self, address: &str) -> anyhow::Result<()> {
        let login = base64(LOGIN.as_bytes());
        let logins = json!({ "auths": { address: { "auth": login } } });
        std::fs::write(self.trust.logins.join("config.json"), logins.to_string())?;
        Ok(())
    }
}

/// Bytes in base64, padded.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let byte = |place: usize| u32::from(three.get(place).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place > three.len() {
                '='
            } else {
                digit.into()
            });
        }
    }
    text
}

/// Copies all images into the registry.
fn fill(registry: &Registry, made: &Made, tools: &Tools) -> anyhow::Result<()> {
    for image in registry.images(made) {
        let (_, tag) = image.rsplit_once(':').context("an image without a tag")?;
        let mut copy = Command::new(&tools.skopeo);
        copy.args(["--insecure-policy", "copy", "--quiet", "--all"]);
        match registry.trust() {
            Some(trust) => trust.apply_to(&mut copy),
            None => drop(copy.arg("--dest-tls-verify=false")),
        }
        copy.arg(format!("oci:{}:{tag}", made.layout.display()))
            .arg(format!("docker://{image}"));
        stdout_of(copy.stderr(Stdio::piped())).context("can't fill docker-registry")?;
    }
    Ok(())
}

fn start_empty_docker(folder: &Path, secrets: Option<&Secrets>) -> anyhow::Result<Registry> {
    // Another process may take the free port before it is used.
    for _ in 0..5 {
        if folder.exists() {
            std::fs::remove_dir_all(folder)?;
        }
        std::fs::create_dir_all(folder)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        // JSON is also valid YAML.
        let mut config = json!({
            "version": "0.1",
            "log": { "level": "error", "accesslog": { "disabled": true } },
            "storage": { "filesystem": { "rootdirectory": folder.join("data") } },
            "http": { "addr": address },
        });
        if let Some(secrets) = secrets {
            let certificate = &secrets.trust.certificate;
            config["http"]["tls"] = json!({ "certificate": certificate, "key": secrets.key });
            config["auth"]["htpasswd"] = json!({ "realm": "bench", "path": secrets.users });
        }
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
        let mut registry = Registry {
            process,
            address,
            trust: None,
            relay: None,
        };
        let deadline = Instant::now() + START_TIMEOUT;
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
    stream.set_read_timeout(Some(START_TIMEOUT))?;
    stream.write_all(b"GET /v2/ HTTP/1.0\r\n\r\n")?;
    let mut start = [0; 5];
    stream.read_exact(&mut start)?;
    Ok(&start == b"HTTP/")
}
