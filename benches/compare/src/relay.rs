//! A distance: a relay in front of a registry that delays what passes, has one limited link for all connections, and
//! windows that grow as those of TCP do.
//!
//! Each direction of a connection is read as far as its window allows. What was read leaves when the link is free,
//! and arrives half a round trip later; the acknowledgement takes the other half. The kernel's own connections
//! on loopback are much faster than that, and have no part in it. Nothing is lost on the way.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until};

/// The most that is read at once, in bytes: at 100 Mbit/s it takes a millisecond, as long as the shortest sleep.
const CHUNK: usize = 12 << 10;
/// The first window: 10 segments of 1,448 bytes (RFC 6928).
const FIRST_WINDOW: usize = 14_480;
/// The largest window: half of the 6 MiB that Linux gives a receiver at most (`net.ipv4.tcp_rmem`).
const LARGEST_WINDOW: usize = 3 << 20;
/// A connection that was quiet for this long begins with the first window again (Linux's shortest retransmission
/// timeout, to which a round trip is added).
const QUIET: Duration = Duration::from_millis(200);

/// Relays connections over a distance.
#[derive(Debug, Args)]
pub(crate) struct Relay {
    /// Where the registry is
    #[arg(long)]
    to: SocketAddr,
    #[command(flatten)]
    distance: Distance,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub(crate) struct Distance {
    /// A round trip, in milliseconds
    #[arg(long)]
    pub(crate) rtt: u32,
    /// What the link carries in each direction, in Mbit/s
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

/// One direction of the link, which all connections share.
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

    /// When so many bytes, which are ready at `ready`, have left.
    fn leave(&self, ready: Instant, bytes: u32) -> Instant {
        let takes = Duration::from_secs_f64(f64::from(bytes) / self.bytes_per_second);
        let left = self.free_at.get().max(ready) + takes;
        self.free_at.set(left);
        left
    }
}

/// The congestion window of one direction of a connection. Nothing is lost, so it doubles each round trip until it
/// is as large as it may be.
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
        if self.in_flight == 0 && quiet.is_some_and(|quiet| quiet > QUIET + self.rtt) {
            self.size = FIRST_WINDOW;
        }
        self.in_flight += bytes;
        self.last_sent = Some(now);
    }

    fn acknowledge(&mut self, bytes: usize) {
        // It grows only while it is what holds the sender back.
        if self.in_flight * 2 > self.size {
            self.size = (self.size + bytes).min(LARGEST_WINDOW);
        }
        self.in_flight = self.in_flight.saturating_sub(bytes);
    }
}

impl Relay {
    /// Serves until it is killed. Says where it listens on the first line of its standard output.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        LocalSet::new().block_on(&runtime, self.serve())
    }

    async fn serve(&self) -> anyhow::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("listening on {}", listener.local_addr()?);
        let (there, back) = (Link::new(self.distance), Link::new(self.distance));
        loop {
            let (client, _) = listener.accept().await.context("can't accept")?;
            let links = (Rc::clone(&there), Rc::clone(&back));
            let (to, distance) = (self.to, self.distance);
            tokio::task::spawn_local(async move {
                // What goes wrong on one side is seen by the other one as the end.
                let _ = connect(client, to, distance, links).await;
            });
        }
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
    // Before it can send anything, a client waits for the answer to its SYN.
    let connected = Instant::now() + distance.half() * 2;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let sending = carry(from_client, to_server, connected, distance, there);
    let receiving = carry(from_server, to_client, connected, distance, back);
    let (sent, received) = tokio::join!(sending, receiving);
    sent.and(received)
}

/// Carries one direction to its end.
async fn carry(
    mut from: OwnedReadHalf,
    to: OwnedWriteHalf,
    connected: Instant,
    distance: Distance,
    link: Rc<Link>,
) -> anyhow::Result<()> {
    let half = distance.half();
    let mut window = Window::new(half * 2);
    // Both are bounded by the window.
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
        // Nobody listens after the end.
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
            // Acknowledged in pieces, of which only those count that come while it is at least half full.
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
    fn a_quiet_connection_begins_anew() {
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
    fn a_link_carries_one_thing_after_another() {
        let link = Link::new(Distance { rtt: 30, mbits: 8 });
        let now = Instant::now() + RTT;
        let millis = |at: Instant| at.duration_since(now).as_millis();
        assert_eq!(millis(link.leave(now, 1000)), 1);
        assert_eq!(millis(link.leave(now, 2000)), 3);
        assert_eq!(millis(link.leave(now + RTT, 1000)), 31);
    }
}
