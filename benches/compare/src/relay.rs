//! Simulates distance: a relay in front of a registry that delays all bytes, has one limited link for all
//! connections, and has windows that grow like those of TCP.
//!
//! Each direction of a connection is read as far as its window allows. The bytes leave when the link is free,
//! and arrive half a round trip later. The acknowledgement takes the other half. The kernel's own loopback
//! connections are much faster than that, so they do not matter. Nothing is lost.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep_until};

/// The maximum number of bytes that is read at once. At 100 Mbit/s, it takes a millisecond, which is the
/// shortest sleep.
const CHUNK: usize = 12 << 10;
/// The first window in bytes: 10 segments of 1,448 bytes (RFC 6928).
const FIRST_WINDOW: usize = 14_480;
/// The largest window in bytes: half of the 6 MiB that Linux gives a receiver at most (`net.ipv4.tcp_rmem`).
const LARGEST_WINDOW: usize = 3 << 20;
/// After this idle time, a connection starts again with the first window. This is Linux's shortest
/// retransmission timeout; a round trip is added to it.
const IDLE_AFTER: Duration = Duration::from_millis(200);

/// Relays connections over a distance.
#[derive(Debug, Args)]
pub(crate) struct Relay {
    /// The address of the registry, or several addresses, which share the link
    #[arg(long, required = true)]
    to: Vec<SocketAddr>,
    #[command(flatten)]
    distance: Distance,
}

/// The distance of a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub(crate) struct Distance {
    /// A round trip, in milliseconds
    #[arg(long)]
    pub(crate) rtt: u32,
    /// The bandwidth of the link in each direction, in Mbit/s
    #[arg(long)]
    pub(crate) mbits: u32,
}

impl FromStr for Distance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once(':').and_then(|(rtt, mbits)| {
            let (rtt, mbits) = (rtt.parse().ok()?, mbits.parse().ok()?);
            (mbits > 0).then_some(Self { rtt, mbits })
        });
        parsed.ok_or_else(|| format!("{text:?} is not MS:MBITS, such as 30:1000"))
    }
}

impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms, {} Mbit/s", self.rtt, self.mbits)
    }
}

impl Distance {
    fn half(self) -> Duration {
        Duration::from_millis(self.rtt.into()) / 2
    }
}

/// One direction of the link. All connections share it.
#[derive(Debug)]
struct Link {
    bytes_per_second: f64,
    free_at: Cell<Instant>,
}

impl Link {
    fn new(distance: Distance) -> Rc<Self> {
        Rc::new(Self {
            bytes_per_second: f64::from(distance.mbits) * 125_000.0,
            free_at: Cell::new(Instant::now()),
        })
    }

    /// Puts this many bytes, which are ready at `ready`, on the link. Returns the time when the last one has left.
    fn leave(&self, ready: Instant, bytes: u32) -> Instant {
        let takes = Duration::from_secs_f64(f64::from(bytes) / self.bytes_per_second);
        let left = self.free_at.get().max(ready) + takes;
        self.free_at.set(left);
        left
    }
}

/// The congestion window of one direction of a connection. Nothing is lost, so the window doubles in each
/// round trip until it has its largest size.
#[derive(Debug)]
struct Window {
    size: usize,
    in_flight: usize,
    last_sent: Option<Instant>,
    rtt: Duration,
}

impl Window {
    fn new(rtt: Duration) -> Self {
        Self {
            size: FIRST_WINDOW,
            in_flight: 0,
            last_sent: None,
            rtt,
        }
    }

    /// How many bytes may be sent now.
    fn room(&self) -> usize {
        self.size.saturating_sub(self.in_flight)
    }

    fn send(&mut self, bytes: usize, now: Instant) {
        let quiet = self.last_sent.map(|last| now.duration_since(last));
        if self.in_flight == 0 && quiet.is_some_and(|quiet| quiet > IDLE_AFTER + self.rtt) {
            self.size = FIRST_WINDOW;
        }
        self.in_flight += bytes;
        self.last_sent = Some(now);
    }

    fn acknowledge(&mut self, bytes: usize) {
        // The window grows only while it limits the sender.
        if self.in_flight * 2 > self.size {
            self.size = (self.size + bytes).min(LARGEST_WINDOW);
        }
        self.in_flight = self.in_flight.saturating_sub(bytes);
    }
}

impl Relay {
    /// Serves until it is killed. Prints an address for each registry on stdout, one a line. Each has a host of its
    /// own, so that no client takes two for the same.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        LocalSet::new().block_on(&runtime, self.serve())
    }

    async fn serve(&self) -> anyhow::Result<()> {
        let links = (Link::new(self.distance), Link::new(self.distance));
        let mut serving = JoinSet::new();
        for (to, host) in self.to.iter().zip(1..) {
            let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, host), 0)).await?;
            println!("listening on {}", listener.local_addr()?);
            let links = (Rc::clone(&links.0), Rc::clone(&links.1));
            serving.spawn_local(accept_all(listener, *to, self.distance, links));
        }
        // None of them ends without an error.
        while let Some(ended) = serving.join_next().await {
            ended??;
        }
        Ok(())
    }
}

async fn accept_all(
    listener: TcpListener,
    to: SocketAddr,
    distance: Distance,
    (there, back): (Rc<Link>, Rc<Link>),
) -> anyhow::Result<()> {
    loop {
        let (client, _) = listener.accept().await.context("can't accept")?;
        let links = (Rc::clone(&there), Rc::clone(&back));
        tokio::task::spawn_local(async move {
            // The other side sees a failure as the end of the connection.
            let _ = connect(client, to, distance, links).await;
        });
    }
}

async fn connect(
    client: TcpStream,
    to: SocketAddr,
    distance: Distance,
    (there, back): (Rc<Link>, Rc<Link>),
) -> anyhow::Result<()> {
    let server = TcpStream::connect(to).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    // A client can send nothing before the answer to its SYN arrives.
    let connected = Instant::now() + distance.half() * 2;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let sending = carry(from_client, to_server, connected, distance, there);
    let receiving = carry(from_server, to_client, connected, distance, back);
    let (sent, received) = tokio::join!(sending, receiving);
    sent.and(received)
}

/// Relays one direction to its end.
async fn carry(
    mut from: OwnedReadHalf,
    to: OwnedWriteHalf,
    connected: Instant,
    distance: Distance,
    link: Rc<Link>,
) -> anyhow::Result<()> {
    let half = distance.half();
    let mut window = Window::new(half * 2);
    // Both channels are bounded by the window.
    let (under_way, arriving) = mpsc::unbounded_channel();
    let (acknowledge, mut acknowledged) = mpsc::unbounded_channel();
    let delivering = tokio::task::spawn_local(deliver(arriving, to, half, acknowledge));
    let mut acks: VecDeque<(Instant, usize)> = VecDeque::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let due = acks.front().map(|(at, _)| *at);
        let room = window.room().min(CHUNK);
        tokio::select! {
            biased;
            () = sleep_until(due.unwrap_or(connected)), if due.is_some() => {
                if let Some((_, bytes)) = acks.pop_front() {
                    window.acknowledge(bytes);
                }
            }
            Some(ack) = acknowledged.recv() => acks.push_back(ack),
            read = from.read(&mut buffer[..room]), if room > 0 => {
                let bytes = read?;
                if bytes == 0 {
                    break;
                }
                let ready = Instant::now().max(connected);
                window.send(bytes, ready);
                let arrives = link.leave(ready, u32::try_from(bytes)?) + half;
                if under_way.send((arrives, buffer[..bytes].to_vec())).is_err() {
                    break;
                }
            }
        }
    }
    drop(under_way);
    delivering.await?
}

async fn deliver(
    mut arriving: mpsc::UnboundedReceiver<(Instant, Vec<u8>)>,
    mut to: OwnedWriteHalf,
    half: Duration,
    acknowledge: mpsc::UnboundedSender<(Instant, usize)>,
) -> anyhow::Result<()> {
    while let Some((arrives, bytes)) = arriving.recv().await {
        sleep_until(arrives).await;
        to.write_all(&bytes).await?;
        // There may be no receiver after the end.
        let _ = acknowledge.send((Instant::now() + half, bytes.len()));
    }
    to.shutdown().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(30);

    #[test]
    fn a_window_doubles_each_round_trip_while_it_is_full() {
        let mut window = Window::new(RTT);
        let mut now = Instant::now();
        for doubled in 1..6 {
            let bytes = window.room();
            window.send(bytes, now);
            assert_eq!(window.room(), 0);
            now += RTT;
            // The bytes are acknowledged in pieces. Only pieces that come while the window is at least half
            // full make it grow.
            window.acknowledge(bytes);
            assert_eq!(window.size, FIRST_WINDOW << doubled);
        }
        for _ in 0..10 {
            let bytes = window.room();
            window.send(bytes, now);
            window.acknowledge(bytes);
        }
        assert_eq!(window.size, LARGEST_WINDOW);
    }

    #[test]
    fn a_window_that_is_not_used_does_not_grow() {
        let mut window = Window::new(RTT);
        window.send(100, Instant::now());
        window.acknowledge(100);
        assert_eq!(window.size, FIRST_WINDOW);
    }

    #[test]
    fn an_idle_connection_starts_again_with_a_small_window() {
        let mut window = Window::new(RTT);
        let now = Instant::now();
        window.send(FIRST_WINDOW, now);
        window.acknowledge(FIRST_WINDOW);
        window.send(1, now + RTT);
        window.acknowledge(1);
        assert_eq!(window.size, 2 * FIRST_WINDOW);
        window.send(1, now + Duration::from_secs(1));
        assert_eq!(window.size, FIRST_WINDOW);
    }

    #[test]
    fn a_link_carries_packets_in_order() {
        let link = Link::new(Distance { rtt: 30, mbits: 8 });
        let now = Instant::now() + RTT;
        let millis = |at: Instant| at.duration_since(now).as_millis();
        assert_eq!(millis(link.leave(now, 1000)), 1);
        assert_eq!(millis(link.leave(now, 2000)), 3);
        assert_eq!(millis(link.leave(now + RTT, 1000)), 31);
    }
}
