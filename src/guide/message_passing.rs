//! How one task owns a socket that many tasks use, without a lock.
//!
//! After this guide you can build such a task (an *actor*) for a protocol of your own, and you know which mistakes it
//! excludes. The code is that of this crate, in excerpts. The first two programs stand alone: they need neither skopeo nor
//! this crate.
//!
//! # The problem
//!
//! skopeo's proxy has one socket. A client sends a request as one packet, and the reply is one packet. Three facts make the
//! socket hard to share:
//!
//! - **Replies have no request id.** They come in the order of the requests. A client that miscounts once gets wrong
//!   replies from then on.
//! - **A caller can leave.** In async Rust, a future can be dropped at every `await`: a timeout, a `select!`, a client that
//!   hung up. Nobody asks the future first.
//! - **Some replies grant a resource.** A reply can contain an image that is open in the proxy, or the read end of a
//!   pipe. The caller that gets it must release it.
//!
//! # What goes wrong with a mutex
//!
//! The obvious way is a mutex around the socket: lock, send, receive, unlock. No two callers use the socket at the same time.
//! It is still wrong. A caller that is dropped between its request and its reply unlocks the mutex, and leaves its reply in
//! the socket. The next caller takes it for its own:
//!
//! ```
//! use std::io;
//! use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex};
//! use tokio::sync::Mutex;
//!
//! async fn ask(socket: &Mutex<BufReader<DuplexStream>>, question: &str) -> io::Result<String> {
//!     let mut socket = socket.lock().await;
//!     socket.write_all(format!("{question}\n").as_bytes()).await?;
//!     let mut answer = String::new();
//!     socket.read_line(&mut answer).await?; // A caller that is dropped here leaves its answer behind.
//!     Ok(answer.trim_end().to_owned())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> io::Result<()> {
//! let (client, server) = duplex(1024);
//! let socket = Mutex::new(BufReader::new(client));
//! let mut server = BufReader::new(server);
//! let mut question = String::new();
//!
//! // The first caller asks. It is dropped when the server has got the question.
//! tokio::select! {
//!     _ = ask(&socket, "one") => unreachable!("the server has not answered"),
//!     read = server.read_line(&mut question) => { read?; }
//! }
//! server.write_all(format!("answer to {question}").as_bytes()).await?;
//!
//! // The second caller asks something else, and gets the answer to the first question.
//! assert_eq!(ask(&socket, "two").await?, "answer to one");
//! # Ok(()) }
//! ```
//!
//! No compiler and no lint finds this. The types are right, and the mutex does what it promises. All answers from here on are
//! off by one: with this crate's protocol, a caller would read another layer than the one that it asked for.
//!
//! A mutex has two more problems here. Whoever waits for a reply holds the lock, so a release (which should go first)
//! waits behind all other callers. And `Drop` can't wait for an async lock, so a caller that is dropped can't release
//! what it holds.
//!
//! # The same with an actor
//!
//! A task owns the socket. Nobody else can touch it, so nobody can leave it in a wrong state. Callers send the task an
//! envelope, which contains the question and a [`oneshot`] for the answer. The task reads every reply, whether
//! or not the caller still waits:
//!
//! ```
//! use std::io;
//! use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex};
//! use tokio::sync::{mpsc, oneshot};
//!
//! struct Request {
//!     question: String,
//!     reply: oneshot::Sender<String>,
//! }
//!
//! async fn actor(mut socket: BufReader<DuplexStream>, mut inbox: mpsc::Receiver<Request>) -> io::Result<()> {
//!     while let Some(Request { question, reply }) = inbox.recv().await {
//!         if reply.is_closed() {
//!             continue; // The caller left before its turn, so nothing is sent.
//!         }
//!         socket.write_all(format!("{question}\n").as_bytes()).await?;
//!         let mut answer = String::new();
//!         socket.read_line(&mut answer).await?;
//!         // If the caller has left meanwhile, its answer is dropped here, and is nobody else's.
//!         let _ = reply.send(answer.trim_end().to_owned());
//!     }
//!     Ok(())
//! }
//!
//! async fn ask(inbox: &mpsc::Sender<Request>, question: &str) -> Option<String> {
//!     let (reply, answer) = oneshot::channel();
//!     let question = question.to_owned();
//!     inbox.send(Request { question, reply }).await.ok()?;
//!     answer.await.ok() // A caller that is dropped here drops the receiving end of its own oneshot, and nothing else.
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> io::Result<()> {
//! let (client, server) = duplex(1024);
//! let (inbox, requests) = mpsc::channel(64);
//! tokio::spawn(actor(BufReader::new(client), requests));
//! let mut server = BufReader::new(server);
//! let mut question = String::new();
//!
//! // The first caller asks. It is dropped when the server has got the question, as before.
//! tokio::select! {
//!     _ = ask(&inbox, "one") => unreachable!("the server has not answered"),
//!     read = server.read_line(&mut question) => { read?; }
//! }
//! server.write_all(format!("answer to {question}").as_bytes()).await?;
//!
//! // The second caller gets its own answer.
//! let answering = async {
//!     question.clear();
//!     server.read_line(&mut question).await?;
//!     server.write_all(format!("answer to {question}").as_bytes()).await
//! };
//! let (answer, answered) = tokio::join!(ask(&inbox, "two"), answering);
//! answered?;
//! assert_eq!(answer.as_deref(), Some("answer to two"));
//! # Ok(()) }
//! ```
//!
//! This is the whole pattern. The rest of this guide is what a real protocol adds to it: answers that grant a resource,
//! calls that overtake others, timeouts, a proxy that dies, and an orderly end.
//!
//! [`oneshot`]: https://docs.rs/tokio/latest/tokio/sync/oneshot/index.html
//!
//! # Step 1: the envelope
//!
//! A request is a message with its return address. From `src/proxy/message.rs`:
//!
//! ```text
//! pub(crate) enum Request {
//!     /// One call on the wire.
//!     Call {
//!         call: Call,
//!         reply: oneshot::Sender<Answer>,
//!         /// The moment of the request, for the log.
//!         asked: Instant,
//!     },
//!     /// A request to end the proxy after all accepted requests are answered.
//!     Finalize { reply: oneshot::Sender<Result<()>> },
//! }
//! ```
//!
//! [`ImageProxy`](crate::ImageProxy) is a handle: the sending end of the inbox, and little else. It can be cloned,
//! because it owns no socket. All its calls, except `close_image` and `finalize`, go through one function. From
//! `src/proxy/message.rs`:
//!
//! ```text
//!     let (reply, answer) = oneshot::channel();
//!     let asked = Instant::now();
//!     inbox
//!         .send(Request::Call { call, reply, asked })
//!         .await
//!         .map_err(|_| close_reason(closed))?;
//!     answer.await.unwrap_or_else(|_| Err(close_reason(closed)))
//! ```
//!
//! The oneshot does three things without a further message:
//!
//! - It carries one answer, to one caller. No number has to be matched, and no map of waiting callers has to be kept.
//! - Its sender tells the actor whether the caller still waits (`is_closed`).
//! - If the actor ends without an answer, the sender is dropped, and the caller learns it at once. No caller waits for ever.
//!
//! The inbox is bounded (64 requests). The actor empties it into a queue of its own at once. That queue is bounded by the
//! number of callers, because each of them waits for one answer at a time, and because the requests of callers who left are
//! removed from it whenever it has doubled.
//!
//! # Step 2: the loop
//!
//! The actor waits in one place, for whatever comes first. From `src/proxy/actor.rs`:
//!
//! ```text
//!             tokio::select! {
//!                 // Releases come before the next call, because they overtake queued requests. The socket comes before
//!                 // the exit of the process, which may have answered before. Time comes last.
//!                 biased;
//!                 Some(message) = self.guard_messages.recv() => self.handle_guard_message(message)?,
//!                 packet = self.transport.receive(&mut buffer) => self.handle_reply(packet)?,
//!                 sent = send(&self.transport, turn.as_ref()), if turn.is_some() => {
//!                     sent.map_err(|_| Failure::HungUp)?;
//!                     if let Some(turn) = turn {
//!                         turn.mark_sent();
//!                     }
//!                 }
//!                 exit = exited(&mut self.child), if self.child.is_some() => {
//!                     return Err(Failure::Other(exit_error(exit)));
//!                 }
//!                 request = self.inbox.recv(), if self.phase.accepts() => self.handle_request(request),
//! // ...
//!             }
//! ```
//!
//! Each branch is an event, and each handler is a plain function that does not wait. So nothing can hold the actor up: no
//! caller, no blob, no full channel. It never reads the bytes of a blob, which come through a pipe that the caller reads.
//!
//! The branches that lose are dropped, and the loop begins anew. That is allowed only if a dropped branch has done
//! nothing. So `send` and `receive` guarantee that. From `src/proxy/transport.rs`:
//!
//! ```text
//!     /// # Cancel safety
//!     ///
//!     /// If the future is dropped before it is ready, the packet is not sent.
//!     pub(crate) async fn send(&self, packet: &[u8]) -> io::Result<()> {
//! // ...
//!     /// # Cancel safety
//!     ///
//!     /// If the future is dropped before it is ready, no packet is lost.
//!     pub(crate) async fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Packet<OwnedFd>>> {
//! ```
//!
//! The socket makes that easy: it is a `SOCK_SEQPACKET` socket, on which a packet is sent whole or not at all. On a
//! byte stream, a part of a message may have been sent or received. Keep that part in the actor, not in the future.
//!
//! # Step 3: the decisions, without I/O
//!
//! Which call is sent next, and to which caller does a reply belong? The loop does not know. It asks a state machine,
//! `Session`, which has no socket, no clock and no tasks. The waiting caller is a type parameter. From
//! `src/protocol/session.rs`:
//!
//! ```text
//! pub(crate) struct Session<W> {
//!     version: Option<Version>,
//!     /// The releases. They are sent first, whether or not a caller waits for the answer.
//!     releases: VecDeque<Queued<W>>,
//!     /// The requests. Each is sent only if its caller still waits for the answer.
//!     requests: VecDeque<Queued<W>>,
//!     in_flight: Option<(Method, Option<W>)>,
//! }
//! ```
//!
//! `turn` returns the next call, and borrows the session until the call is sent or the loop begins anew. From
//! `src/protocol/session.rs`:
//!
//! ```text
//!         if self.in_flight.is_some() {
//!             return None;
//!         }
//!         while self.requests.front().is_some_and(Queued::is_abandoned) {
//!             self.requests.pop_front();
//!         }
//! ```
//!
//! One call is in flight at a time. More would save a wake-up for each call. But a release would then wait behind them, and a
//! release has to be quick: the proxy keeps a pipe open until it is released.
//!
//! A second machine, `Phase`, decides how a connection ends: which requests are still answered, what is waited for, and until
//! when. Its clock is a type parameter, too. In a test, an instant is a `u8`.
//!
//! # Step 4: an answer that nobody may lose
//!
//! The reply to `OpenImage` is an image that is open in the proxy. If the caller has left, somebody must close it. The actor
//! does not find out whether the caller is there: it puts the grant into a guard first, and sends the guard. From
//! `src/proxy/actor.rs`:
//!
//! ```text
//!     /// Answers the caller. If the caller left, the answer is dropped, and its guards release what it grants.
//!     fn answer(self, answer: Answer) {
//!         let _ = match self.reply {
//!             Reply::Granted(reply) => reply.send(answer).is_ok(),
//!             Reply::Released(reply) | Reply::FinishedEarly(reply) => {
//!                 reply.send(answer.map(drop)).is_ok()
//!             }
//!         };
//!     }
//! ```
//!
//! A guard that is dropped sends a message to the actor. The guard is dropped by the caller, or by the oneshot if the
//! oneshot still contains the guard. From `src/proxy/held.rs`:
//!
//! ```text
//! impl Drop for ReleaseGuard {
//!     fn drop(&mut self) {
//!         self.send_release(None);
//!     }
//! }
//! ```
//!
//! `Drop` can't wait, so this channel has no bound of its own. Its length is bounded by the number of grants, because
//! each grant is released once. A guard that is dropped sends only a call that can't block. So a blob's pipe that is
//! not drained is not finished, because `FinishPipe` would block the connection until the pipe is drained. The pipe of
//! a document is finished, because its read end is closed first.
//!
//! # How cancellation works
//!
//! A caller can be dropped in four places. None of them needs code of its own:
//!
//! | the caller is dropped while | what happens |
//! | --- | --- |
//! | it waits for room in the inbox | the request does not reach the inbox |
//! | its request waits in the queue | `turn` or a later request finds the oneshot closed, and removes the request unsent |
//! | its call is in flight | the reply comes, is matched, and is dropped with its guard, which releases what it grants |
//! | its answer is in the oneshot | the same, one moment later |
//!
//! This is what *Cancel safety* means in the documentation of each method. So `tokio::time::timeout` around any call
//! of this crate is safe, and the connection stays good.
//!
//! # When the connection fails
//!
//! The connection ends if a call has no answer within the call timeout, if the proxy dies, or if a reply makes no
//! sense. The actor then publishes the reason through a `watch` channel, answers everybody in the queue with the same
//! error, and goes on to answer later requests with this error. A caller that finds the actor gone reads the reason
//! from the channel (`close_reason` in step 1). After a reply that can't be matched, no later reply can be trusted, so
//! there is no attempt to go on.
//!
//! # How it is tested
//!
//! `Session` and `Phase` are pure, so a test can simulate the world around them: three callers who may leave at any
//! moment, and a server that answers, refuses, stalls, lies or dies. The test tries every step from every state, on the
//! real machines, and checks each state against rules such as *each caller who stays gets exactly one answer, to its
//! own question*, and *what is granted is released once*. There are 138,207 states with 1,202,605 transitions. With two
//! callers whose connection is finalized or loses its handles at any time, there are 38,035 more.
//!
//! The test also explores 32 variants of the machines that have one mistake each, and finds each mistake.
//!
//! What remains outside of the machines is thin: the `select!`, the socket, the guards. Tests with a scripted proxy and with
//! real skopeos cover it. One of them drops the future of every method at every `await`, and counts what stays open.
//!
//! The figures are those of `ARCHITECTURE.md`, section *Invariants*, which names the test of each rule. The exploration is
//! `src/protocol/session/explore/`; `cargo test --lib explore` runs it.
//!
//! # The same idea once more: the scheduler
//!
//! A pull has many proxies, and more to decide: which proxies are started, which image is opened where, what is
//! tried again and when, and when to stop. All of it is in one more pure machine, the `Scheduler`. It gets reports, with the
//! time, and returns actions. From `src/fetch/scheduler/message.rs`:
//!
//! ```text
//! pub(in crate::fetch) enum Action<E> {
//!     /// Start a proxy of this kind.
//!     Start { unit: UnitId, kind: KindId },
//!     /// Give the unit this task.
//!     Give { unit: UnitId, task: Task },
//! // ...
//!     /// Let the unit finish its tasks, and then end it.
//!     Retire { unit: UnitId },
//! ```
//!
//! The engine around it is an actor as well. It owns the scheduler, takes reports of the proxies from a channel, and carries
//! out the actions. It never waits for a proxy. Since the scheduler does nothing itself, tests can do with it what no
//! network allows:
//!
//! - explore every state of small worlds in which proxies and registries fail in every way and order: about 200,000
//!   states (`src/fetch/scheduler/explore.rs`);
//! - run it in virtual time on 105 models of machines and networks, and compare its choice with the best fixed number of
//!   proxies (`src/fetch/scheduler/simulate.rs`; the result is in `docs/decisions.md`, *How many proxies*).
//!
//! # Summary
//!
//! 1. One task owns the resource. Handles own a channel.
//! 2. The return address travels with the request.
//! 3. The task waits in one place. Its handlers do not wait.
//! 4. A grant is in a guard before it is sent to anybody.
//! 5. Decisions are in a machine without I/O, whose states a test can enumerate.
//!
//! The files: [`message.rs`](../../../src/longshore/proxy/message.rs.html),
//! [`actor.rs`](../../../src/longshore/proxy/actor.rs.html), [`transport.rs`](../../../src/longshore/proxy/transport.rs.html),
//! [`held.rs`](../../../src/longshore/proxy/held.rs.html), [`session.rs`](../../../src/longshore/protocol/session.rs.html),
//! [`phase.rs`](../../../src/longshore/protocol/phase.rs.html).
