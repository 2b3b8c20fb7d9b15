//! The registries from which the images are pulled: processes on the loopback interface that end when they
//! are dropped.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::json;

use crate::relay::Distance;
use crate::tools::{Tools, stdout_of};
use crate::workload::{Image, Made};

/// How long a registry may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// The end of the name of a registry that redirects to another host for blobs.
pub(crate) const ELSEWHERE: &str = ", blobs elsewhere";

/// A registry to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The test registry, which delays the headers of every reply by this many milliseconds.
    Test { ttfb: u64 },
    /// `docker-registry`, which keeps its files in the work folder.
    Docker,
    /// `docker-registry` with TLS and a login, behind a [relay](crate::relay).
    Distant {
        distance: Distance,
        /// Whether it redirects to another host for blobs, which is behind the same relay.
        elsewhere: bool,
    },
}

/// A running registry.
#[derive(Debug)]
pub(crate) struct Registry {
    /// The process of the registry itself.
    _process: Helper,
    address: String,
    trust: Option<Trust>,
    /// The processes that it needs: the relay, and the host that has the blobs.
    _helpers: Vec<Helper>,
}

/// A process that ends when it is dropped.
#[derive(Debug)]
struct Helper(Child);

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
    pub(crate) fn give_to(&self, command: &mut Command) {
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
            Self::Distant {
                distance,
                elsewhere,
            } => start_distant(made, distance, elsewhere, work, tools),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Test { ttfb } => write!(f, "{ttfb} ms"),
            Self::Docker => write!(f, "docker-registry"),
            Self::Distant {
                distance,
                elsewhere,
            } => {
                let elsewhere = if *elsewhere { ELSEWHERE } else { "" };
                write!(f, "{distance}{elsewhere}")
            }
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

impl Drop for Helper {
    fn drop(&mut self) {
        // Neither can fail, except for a process that has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_test(made: &Made, ttfb: u64, tools: &Tools) -> anyhow::Result<Registry> {
    let mut command = Command::new(&tools.registry);
    command.arg("serve").arg(&made.layout);
    command.args(["--ttfb", &ttfb.to_string()]);
    let (process, addresses) = start_and_listen(&mut command, 1)?;
    Ok(Registry {
        _process: process,
        address: addresses.concat(),
        trust: None,
        _helpers: Vec::new(),
    })
}

/// Starts a program that prints the addresses at which it listens, one a line. Returns this many of them.
fn start_and_listen(
    command: &mut Command,
    addresses: usize,
) -> anyhow::Result<(Helper, Vec<String>)> {
    let process = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("can't start {}", command.get_program().display()))?;
    let mut helper = Helper(process);
    let stdout = helper.0.stdout.take();
    let mut lines = BufReader::new(stdout.context("it has no standard output")?).lines();
    let mut found = Vec::new();
    for _ in 0..addresses {
        let line = lines.next().transpose()?.unwrap_or_default();
        let address = line.trim().strip_prefix("listening on ");
        let address = address.with_context(|| {
            format!(
                "{} doesn't say where it listens",
                command.get_program().display()
            )
        })?;
        found.push(address.to_owned());
    }
    Ok((helper, found))
}

fn start_docker(made: &Made, work: &Path, tools: &Tools) -> anyhow::Result<Registry> {
    let folder = work.join("docker-registry");
    let registry = on_a_free_port(|port| start_empty_docker(&folder, port, None, None))?;
    fill(&registry, made, tools)?;
    Ok(registry)
}

fn start_distant(
    made: &Made,
    distance: Distance,
    elsewhere: bool,
    work: &Path,
    tools: &Tools,
) -> anyhow::Result<Registry> {
    let folder = work.join("distant-registry");
    let secrets = Secrets::make(work)?;
    let (mut registry, address) = on_a_free_port(|port| {
        let mut helpers = Vec::new();
        let mut behind = vec![port];
        if elsewhere {
            let (nginx, port) = on_a_free_port(|port| start_nginx(&folder, port, &secrets))?;
            helpers.push(nginx);
            behind.push(port);
        }
        // The registry must know where the relay listens, so the relay is started first.
        let (relay, addresses) = start_relay(&behind, distance)?;
        helpers.push(relay);
        let [address, blobs @ ..] = &addresses[..] else {
            bail!("the relay has no address");
        };
        let blobs = blobs.first().map(String::as_str);
        let registry = start_empty_docker(&folder, port, Some(&secrets), blobs)?;
        Ok(registry.map(|registry| {
            (
                Registry {
                    _helpers: helpers,
                    ..registry
                },
                address.clone(),
            )
        }))
    })?;
    // Logins are found by the address that a contestant sees.
    secrets.write_logins(&registry.address)?;
    registry.trust = Some(secrets.trust.clone());
    fill(&registry, made, tools)?;
    secrets.write_logins(&address)?;
    registry.address = address;
    Ok(registry)
}

/// Starts a relay in front of these ports of this machine. Returns its addresses, in the same order.
fn start_relay(behind: &[u16], distance: Distance) -> anyhow::Result<(Helper, Vec<String>)> {
    let mut relay = Command::new(std::env::current_exe()?);
    relay
        .arg("relay")
        .args(["--rtt", &distance.rtt.to_string()])
        .args(["--mbits", &distance.mbits.to_string()]);
    for port in behind {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
        relay.args(["--to", &to.to_string()]);
    }
    start_and_listen(&mut relay, behind.len())
}

/// Starts nginx, which has the blobs of a registry, as an object store has them. docker-registry redirects to the path
/// of a blob in its folder.
fn start_nginx(
    folder: &Path,
    port: u16,
    secrets: &Secrets,
) -> anyhow::Result<Option<(Helper, u16)>> {
    let place = folder.with_extension("nginx");
    std::fs::create_dir_all(&place)?;
    let file = place.join("nginx.conf");
    std::fs::write(&file, nginx_config(folder, &place, port, secrets))?;
    let process = Command::new("nginx")
        .arg("-p")
        .arg(&place)
        .arg("-c")
        .arg(&file)
        .args(["-e", "stderr"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("can't start nginx, which --elsewhere needs (in Debian: nginx-light)")?;
    let mut nginx = Helper(process);
    let address = format!("127.0.0.1:{port}");
    let is_there = wait_for(&mut nginx, "nginx", || TcpStream::connect(&address).is_ok())?;
    Ok(is_there.then_some((nginx, port)))
}

fn nginx_config(folder: &Path, place: &Path, port: u16, secrets: &Secrets) -> String {
    let (folder, place) = (folder.display(), place.display());
    let certificate = secrets.trust.certificate.display();
    let key = secrets.key.display();
    // One process, so that it ends when it is killed.
    format!(
        "daemon off;
master_process off;
pid {place}/pid;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {place}/body;
  proxy_temp_path {place}/proxy;
  fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi;
  scgi_temp_path {place}/scgi;
  default_type application/octet-stream;
  keepalive_requests 1000000;
  server {{
    listen 127.0.0.1:{port} ssl http2;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    root {folder}/data;
  }}
}}
"
    )
}

/// Starts something on a free port. Another process may take the port before it is used, so `start` may be called
/// several times. It returns `None` if the program ends at once.
fn on_a_free_port<T>(mut start: impl FnMut(u16) -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    for _ in 0..5 {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        if let Some(started) = start(port)? {
            return Ok(started);
        }
    }
    bail!("a registry, or nginx, ends as soon as it is started")
}

/// Waits until a program is ready. Returns false if it ends before that.
fn wait_for(helper: &mut Helper, name: &str, is_ready: impl Fn() -> bool) -> anyhow::Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    while helper.0.try_wait()?.is_none() {
        if is_ready() {
            return Ok(true);
        }
        if Instant::now() > deadline {
            bail!("{name} doesn't answer");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(false)
}

/// The secrets of a registry that only this run uses.
#[derive(Debug)]
struct Secrets {
    trust: Trust,
    key: PathBuf,
    users: PathBuf,
}

/// The login, and the line of docker-registry's password file for it, with the password hashed by bcrypt.
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
                .args([
                    "-addext",
                    "subjectAltName=IP:127.0.0.1,IP:127.0.0.2",
                    "-keyout",
                ])
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
            Some(trust) => trust.give_to(&mut copy),
            None => drop(copy.arg("--dest-tls-verify=false")),
        }
        copy.arg(format!("oci:{}:{tag}", made.layout.display()))
            .arg(format!("docker://{image}"));
        stdout_of(copy.stderr(Stdio::piped())).context("can't fill docker-registry")?;
    }
    Ok(())
}

/// Starts docker-registry on this port. It redirects to the host `blobs` for blobs, if there is one.
fn start_empty_docker(
    folder: &Path,
    port: u16,
    secrets: Option<&Secrets>,
    blobs: Option<&str>,
) -> anyhow::Result<Option<Registry>> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::create_dir_all(folder)?;
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
    if let Some(blobs) = blobs {
        let options = json!({ "baseurl": format!("https://{blobs}/") });
        config["middleware"]["storage"] = json!([{ "name": "redirect", "options": options }]);
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
    let mut process = Helper(process);
    let is_ready = || answers(&address).unwrap_or(false);
    let is_there = wait_for(&mut process, "docker-registry", is_ready)?;
    Ok(is_there.then_some(Registry {
        _process: process,
        address,
        trust: None,
        _helpers: Vec::new(),
    }))
}

fn answers(address: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /v2/ HTTP/1.0\r\n\r\n")?;
    let mut start = [0; 5];
    stream.read_exact(&mut start)?;
    Ok(&start == b"HTTP/")
}
