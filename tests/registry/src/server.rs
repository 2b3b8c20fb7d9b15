//! The registry as a server: it listens, answers, logs the requests, and stops when it is dropped.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::auth::Auth;
use super::fault::Fault;
use super::http::{Request, read_request};
use super::inject::{ActiveFaults, apply_fault};
use super::layout::Layout;
use super::pull::{self, Endpoint};
use super::reply::{Connection, Reply};

/// How long the registry waits after it could not accept a connection. The most likely reason is a lack of
/// file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// How a registry behaves. The default is a correct registry on a free port of the loopback interface.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address to listen at.
    pub listen: SocketAddr,
    /// How long the headers of every reply are held back.
    pub ttfb: Duration,
    /// The maximum number of bytes per second of each reply's body.
    pub bandwidth: Option<u64>,
    /// The faults in force from the start.
    pub faults: Vec<Fault>,
    /// The credentials to ask for.
    pub auth: Auth,
    /// Whether to print each request to the standard error.
    pub print_requests: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            ttfb: Duration::ZERO,
            bandwidth: None,
            faults: Vec::new(),
            auth: Auth::default(),
            print_requests: false,
        }
    }
}

/// A request in a registry's log.
#[derive(Clone, Debug)]
pub struct RequestLog {
    /// `GET`, `HEAD` or `POST`.
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The status of the answer. `None` if a fault withholds the answer.
    pub status: Option<u16>,
    /// The time at which the request was complete.
    pub when: Instant,
}

/// A registry that runs until it is dropped.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    service: Arc<Service>,
    accepting: JoinHandle<()>,
}

impl Registry {
    /// Starts a registry on the current Tokio runtime. It serves the images of an OCI image
    /// layout under any repository name.
    ///
    /// # Errors
    ///
    /// If the registry can't listen at the address.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn start(layout: impl Into<PathBuf>, options: Options) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(options.listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let service = Arc::new(Service {
            address,
            layout: Layout::new(layout),
            faults: Mutex::new(Arc::new(ActiveFaults::new(options.faults.clone()))),
            log: Mutex::default(),
            options,
        });
        let accepting = accept(TcpListener::from_std(listener)?, Arc::clone(&service));
        Ok(Self {
            address,
            service,
            accepting: tokio::spawn(accepting),
        })
    }

    /// Returns the address at which the registry listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Returns the reference of one of the images, for skopeo: `docker://127.0.0.1:PORT/image:TAG`.
    pub fn reference(&self, tag: &str) -> String {
        format!("docker://{}/image:{tag}", self.address)
    }

    /// Replaces the current faults, and resets their counts.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        *lock(&self.service.faults) = Arc::new(ActiveFaults::new(faults));
    }

    /// The requests read so far, in order.
    pub fn requests(&self) -> Vec<RequestLog> {
        lock(&self.service.log).clone()
    }

    /// Returns how often a blob has been requested, successfully or not.
    pub fn blob_gets(&self, digest: impl AsRef<str>) -> usize {
        let blob = Endpoint::Blob(digest.as_ref().to_owned());
        self.count_gets(|endpoint| *endpoint == blob)
    }

    /// Returns how often any manifest or index has been requested, successfully or not.
    pub fn manifest_gets(&self) -> usize {
        self.count_gets(|endpoint| matches!(endpoint, Endpoint::Manifest(_)))
    }

    fn count_gets(&self, wanted: impl Fn(&Endpoint) -> bool) -> usize {
        lock(&self.service.log)
            .iter()
            .filter(|request| request.method == "GET" && wanted(&Endpoint::of(&request.path)))
            .count()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // The task owns the listener and the tasks of the connections, so they end with it.
        self.accepting.abort();
    }
}

/// Accepts connections for ever.
async fn accept(listener: TcpListener, service: Arc<Service>) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(serve(stream, Arc::clone(&service)));
            }
            Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Serves one connection to its end. A client that leaves is no error of the registry. A client that sends
/// nonsense, such as TLS, gets an answer that says so, and its connection is closed.
async fn serve(stream: TcpStream, service: Arc<Service>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = Connection::new(stream);
    loop {
        let request = match read_request(&mut connection).await {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(error) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    let reply = Reply::error(400, "UNSUPPORTED", &error.to_string());
                    reply.send(&mut connection, false, None).await?;
                }
                return Err(error);
            }
        };
        let reply = service.answer(&request).await;
        let bandwidth = service.options.bandwidth;
        let reusable = reply
            .send(&mut connection, request.is_head(), bandwidth)
            .await?;
        if !(reusable && request.keep_alive) {
            return Ok(());
        }
    }
}

/// The state that the connections share.
#[derive(Debug)]
struct Service {
    address: SocketAddr,
    layout: Layout,
    faults: Mutex<Arc<ActiveFaults>>,
    log: Mutex<Vec<RequestLog>>,
    options: Options,
}

impl Service {
    /// The reply to a request, including faults.
    async fn answer(&self, request: &Request) -> Reply {
        let when = Instant::now();
        let reply = self.faulty_answer(request).await;
        let mut reply = reply.unwrap_or_else(|error| {
            let message = format!("the layout cannot be read: {error}");
            Reply::error(500, "UNKNOWN", &message)
        });
        if let Some(delay) = &mut reply.delivery.headers_after {
            *delay += self.options.ttfb;
        }
        self.record(request, &reply, when);
        reply
    }

    async fn faulty_answer(&self, request: &Request) -> io::Result<Reply> {
        let endpoint = Endpoint::of(&request.path);
        let mut reply = self.correct_answer(request, &endpoint).await?;
        let faults = Arc::clone(&lock(&self.faults));
        let roles = match &endpoint {
            Endpoint::Blob(digest) if faults.need_roles() => self.layout.roles(digest).await?,
            _ => Vec::new(),
        };
        if let Some(kind) = faults.choose(request, &endpoint, &roles) {
            apply_fault(&mut reply, kind, request);
        }
        Ok(reply)
    }

    async fn correct_answer(&self, request: &Request, endpoint: &Endpoint) -> io::Result<Reply> {
        let auth = &self.options.auth;
        match (request.method.as_str(), endpoint) {
            ("GET" | "POST", Endpoint::Token) => return Ok(auth.token(request)),
            ("GET" | "HEAD", _) => {}
            _ => return Ok(Reply::error(405, "UNSUPPORTED", "this registry only reads")),
        }
        if let Some(refusal) = auth.refusal(request, self.address) {
            return Ok(refusal);
        }
        match endpoint {
            Endpoint::Ping => Ok(pull::ping()),
            Endpoint::Manifest(reference) => pull::manifest(&self.layout, reference).await,
            Endpoint::Blob(digest) => {
                pull::blob(&self.layout, digest, request.header("range")).await
            }
            Endpoint::Tags(name) => pull::tags(&self.layout, name).await,
            Endpoint::Token | Endpoint::Unknown => Ok(Reply::error(
                404,
                "UNSUPPORTED",
                "there is no such endpoint",
            )),
        }
    }

    fn record(&self, request: &Request, reply: &Reply, when: Instant) {
        let status = reply.delivery.headers_after.map(|_| reply.status);
        if self.options.print_requests {
            let status = status.map_or("-".to_owned(), |status| status.to_string());
            eprintln!("{} {} {status}", request.method, request.path);
        }
        lock(&self.log).push(RequestLog {
            method: request.method.clone(),
            path: request.path.clone(),
            status,
            when,
        });
    }
}

/// Locks a mutex, even if a task that held it has panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
