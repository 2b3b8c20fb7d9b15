//! The actor pattern alone: one task owns a socket, and all others send it messages. This example needs no skopeo.
//!
//! `cargo run --example actor` prints what happens.
//!
//! Use it where many tasks share something that does one thing at a time, such as a connection on which each request is
//! followed by its answer. A mutex around the socket is not enough in async code: a caller can be dropped at every
//! `await`. If that happens between its request and the answer, the mutex is free, and the next caller reads an answer
//! that is not its own. An actor is not dropped with its callers, so each call runs to its end.
//!
//! The other end of the socket is a server of books. Its answer to `open CHAPTER` is the number of a port, from which
//! the caller reads the chapter. The server keeps the chapter open until it gets `close PORT`.
//!
//! longshore's own actor, `src/proxy/actor.rs`, is this pattern with a timeout for each call, and with a state machine
//! that chooses the next request.

use std::collections::HashMap;
use std::io;

use anyhow::{Context, ensure};
use futures_util::FutureExt;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

// ---- What callers have: a handle, and what it opens ----

/// A handle to the actor: the sending end of its inbox. A clone is cheap.
#[derive(Clone)]
struct Library {
    inbox: mpsc::Sender<Request>,
}

/// A request, with the sender for its one answer.
struct Request {
    chapter: u32,
    reply: oneshot::Sender<Chapter>,
}

/// An open chapter. Dropping this value closes the chapter.
struct Chapter {
    port: u16,
    /// Sends the port to the actor when the chapter is dropped. The channel is unbounded, because `drop` cannot wait.
    /// The channel does not grow without bound, because at most one message follows each `open`.
    closing: mpsc::UnboundedSender<u16>,
}

impl Library {
    /// Opens a chapter. Returns `None` if the actor has ended.
    async fn open(&self, chapter: u32) -> Option<Chapter> {
        let (reply, answer) = oneshot::channel();
        // The inbox is bounded, so callers wait here while the actor is busy. A caller dropped here has asked for
        // nothing.
        self.inbox.send(Request { chapter, reply }).await.ok()?;
        // A caller dropped here drops `answer`, which the actor notices. An actor that ends drops `reply`, and this
        // function returns `None`.
        answer.await.ok()
    }
}

impl Chapter {
    /// Reads the chapter, and counts its words. The caller does this without the actor, so many chapters are read at
    /// the same time.
    async fn count_words(&self) -> io::Result<usize> {
        let mut text = String::new();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.read_to_string(&mut text).await?;
        Ok(text.split_whitespace().count())
    }
}

impl Drop for Chapter {
    fn drop(&mut self) {
        // This fails only if the actor has ended. Then the socket is closed, so nothing can be sent any more.
        let _ = self.closing.send(self.port);
    }
}

// ---- The actor ----

struct Actor {
    socket: BufReader<UnixStream>,
    inbox: mpsc::Receiver<Request>,
    closing: mpsc::UnboundedReceiver<u16>,
}

impl Actor {
    fn start(socket: UnixStream) -> (Library, JoinHandle<io::Result<()>>) {
        let socket = BufReader::new(socket);
        let (inbox_tx, inbox) = mpsc::channel(8);
        let (closing_tx, closing) = mpsc::unbounded_channel();
        let actor = Self {
            socket,
            inbox,
            closing,
        };
        let library = Library { inbox: inbox_tx };
        (library, tokio::spawn(actor.run(closing_tx)))
    }

    /// Runs until all handles and chapters are gone, or until the socket fails. `closing_tx` is cloned
    /// into each chapter.
    async fn run(mut self, closing_tx: mpsc::UnboundedSender<u16>) -> io::Result<()> {
        loop {
            // Only the wait for a message is cancelled by `select!`. The call that follows runs to its end.
            tokio::select! {
                biased; // Chapters are closed first.
                Some(port) = self.closing.recv() => drop(self.call("close", port).await?),
                request = self.inbox.recv() => match request {
                    // The caller left before its request was sent, so it is not sent.
                    Some(Request { reply, .. }) if reply.is_closed() => {}
                    Some(Request { chapter, reply }) => {
                        let port = self.call("open", chapter).await?;
                        let port = port.parse().map_err(io::Error::other)?;
                        // The chapter is in its guard before anybody gets it. If the caller has left, `send` returns
                        // the guard, which is dropped and closes the chapter. So nobody has to know whether the answer
                        // arrived.
                        let closing = closing_tx.clone();
                        let _ = reply.send(Chapter { port, closing });
                    }
                    None => break, // The last handle is gone.
                },
            }
        }
        // From here on, only chapters have a sender. The channel ends when the last of them is dropped.
        drop(closing_tx);
        while let Some(port) = self.closing.recv().await {
            self.call("close", port).await?;
        }
        Ok(())
    }

    /// Sends a request, and reads its answer.
    async fn call(&mut self, verb: &str, number: impl Into<u32>) -> io::Result<String> {
        let request = format!("{verb} {}\n", number.into());
        self.socket.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        match self.socket.read_line(&mut answer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(answer.trim_end().to_owned()),
        }
    }
}

// ---- The server, which knows nothing of actors ----

/// Serves one client, and prints each request with its answer. `open` always has the number of open chapters.
async fn serve(client: UnixStream, open: watch::Sender<usize>) -> io::Result<()> {
    let mut client = BufReader::new(client);
    let mut chapters = HashMap::new();
    let mut request = String::new();
    while client.read_line(&mut request).await? > 0 {
        let answer = match request.trim_end().split_once(' ') {
            Some(("open", chapter)) => {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                let port = listener.local_addr()?.port().to_string();
                let text = "word ".repeat(1000 * chapter.parse::<usize>().unwrap_or_default());
                let send =
                    async move { listener.accept().await?.0.write_all(text.as_bytes()).await };
                chapters.insert(port.clone(), tokio::spawn(send));
                port
            }
            Some(("close", port)) => match chapters.remove(port) {
                Some(sending) => {
                    sending.abort();
                    "closed".to_owned()
                }
                None => "it is not open".to_owned(),
            },
            _ => "unknown request".to_owned(),
        };
        println!("    {} -> {answer}", request.trim_end());
        open.send_replace(chapters.len());
        client.write_all(format!("{answer}\n").as_bytes()).await?;
        request.clear();
    }
    println!(
        "    the client has gone, {} chapters are open",
        chapters.len()
    );
    Ok(())
}

// ---- What happens ----

// One thread is used so that the lines are printed in the same order each time. The pattern does not need that.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    let (open_tx, mut open) = watch::channel(0);
    let server = tokio::spawn(serve(theirs, open_tx));
    let (library, actor) = Actor::start(ours);

    println!("Three workers: the calls go one after another, the chapters come at the same time.");
    let mut workers = JoinSet::new();
    for number in 1..=3 {
        let library = library.clone();
        workers.spawn(async move {
            let chapter = library.open(number).await.context("no actor")?;
            anyhow::Ok(chapter.count_words().await?)
        });
    }
    let mut words = 0;
    while let Some(counted) = workers.join_next().await {
        words += counted??;
    }
    open.wait_for(|open| *open == 0).await?;
    println!("They have {words} words.");

    println!("A caller leaves while its request for chapter 4 is in the inbox: it is not sent.");
    // The only poll puts the request into the inbox.
    ensure!(library.open(4).now_or_never().is_none());
    println!("The next caller asks for chapter 5.");
    drop(library.open(5).await);
    open.wait_for(|open| *open == 0).await?;

    println!("A caller leaves while the server is opening chapter 6: the chapter is closed.");
    tokio::select! {
        biased;
        opened = open.wait_for(|open| *open == 1) => drop(opened?),
        _ = library.open(6) => {}
    }
    open.wait_for(|open| *open == 0).await?;

    println!("The last handle is dropped: the actor ends when the last chapter is closed.");
    let chapter = library.open(7).await.context("no actor")?;
    drop(library);
    println!("Chapter 7 has {} words.", chapter.count_words().await?);
    drop(chapter);
    actor.await??;
    server.await??;

    println!("The server dies: no caller waits for ever, and the actor returns the reason.");
    let (ours, theirs) = UnixStream::pair()?;
    drop(theirs);
    let (library, actor) = Actor::start(ours);
    let (asked, queued) = tokio::join!(library.open(8), library.open(9));
    let later = library.open(10).await;
    ensure!(asked.is_none() && queued.is_none() && later.is_none());
    let reason = actor.await?.err().context("the actor did not notice")?;
    println!("Three callers learned that the actor has ended, with: {reason}.");
    Ok(())
}
