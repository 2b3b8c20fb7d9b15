//! The actor: the one task that owns the socket of a proxy.
//!
//! The actor takes requests from the inbox and releases from their own channel. It sends one call at a time, matches
//! the reply, and answers the caller. It never reads a blob's bytes. It waits only in its `select!`, so no caller and
//! no blob can hold it up.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::child::Child;
use super::held::{GuardMessage, HeldPipe, Lease, ReleaseGuard};
use super::image::{ConnectionId, OpenedImage};
use super::message::{Answer, Granted, Request};
use super::transport::Transport;
use crate::drain::pipe;
use crate::error::{ChildExit, Error, Result};
use crate::protocol::{
    Call, Grant, MAX_PACKET, Method, Packet, Phase, Pipe, Refusal, Rejected, Session, Turn, Waiter,
};
use crate::time::{deadline_after, is_long_past, sleep_until_opt};

/// How long the actor waits for the exit of the child after the child has closed the socket.
const EXIT_WAIT: Duration = Duration::from_secs(2);

/// The time that the end of a child may take beyond the shutdown timeout: from `SIGTERM` to `SIGKILL`, and until the
/// child is reaped.
const END_SLACK: Duration = Duration::from_secs(5);

/// A caller who waits for the answer to a call.
#[derive(Debug)]
struct Caller {
    reply: Reply,
    asked: Instant,
}

/// The channel to a caller.
#[derive(Debug)]
enum Reply {
    /// The channel to a caller who asked for something.
    Granted(oneshot::Sender<Answer>),
    /// The channel to a caller who released something.
    Released(oneshot::Sender<Result<()>>),
    /// The channel to a caller who finished a pipe early.
    FinishedEarly(oneshot::Sender<Result<()>>),
}

impl Waiter for Caller {
    fn is_gone(&self) -> bool {
        match &self.reply {
            Reply::Granted(reply) => reply.is_closed(),
            Reply::Released(reply) | Reply::FinishedEarly(reply) => reply.is_closed(),
        }
    }

    fn waits_for_blob(&self) -> bool {
        matches!(self.reply, Reply::FinishedEarly(_))
    }
}

impl Caller {
    fn of_request(reply: oneshot::Sender<Answer>, asked: Instant) -> Self {
        let reply = Reply::Granted(reply);
        Self { reply, asked }
    }

    fn of_release(reply: oneshot::Sender<Result<()>>) -> Self {
        let (reply, asked) = (Reply::Released(reply), Instant::now());
        Self { reply, asked }
    }

    fn of_early_finish(reply: oneshot::Sender<Result<()>>) -> Self {
        let (reply, asked) = (Reply::FinishedEarly(reply), Instant::now());
        Self { reply, asked }
    }

    /// Answers the caller. If the caller left, the answer is dropped, and its guards release what it grants.
    fn answer(self, answer: Answer) {
        let _ = match self.reply {
            Reply::Granted(reply) => reply.send(answer).is_ok(),
            Reply::Released(reply) | Reply::FinishedEarly(reply) => {
                reply.send(answer.map(drop)).is_ok()
            }
        };
    }
}

/// The reason why the connection failed.
enum Failure {
    /// The other end closed the socket.
    HungUp,
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// The parts and settings of an actor.
pub(crate) struct Setup {
    pub(crate) connection: ConnectionId,
    pub(crate) transport: Transport,
    pub(crate) inbox: mpsc::Receiver<Request>,
    pub(crate) child: Option<Child>,
    pub(crate) closed: watch::Sender<Option<Error>>,
    /// The time limit of a call. `None` means no limit.
    pub(crate) call_timeout: Option<Duration>,
    pub(crate) shutdown_timeout: Duration,
}

/// The timer of the call that is in flight or next to be sent.
struct CallTimer {
    /// The moment at which the turn of this call began. `None` if there is no such call.
    began: Option<Instant>,
    /// The time limit of a call. `None` means no limit.
    timeout: Option<Duration>,
}

impl CallTimer {
    /// The moment at which the call has taken too long. `None` means never. `is_turn` says whether a call is in flight
    /// or next to be sent.
    fn deadline(&mut self, is_turn: bool) -> Option<Instant> {
        if !is_turn {
            self.began = None;
            return None;
        }
        let began = *self.began.get_or_insert_with(Instant::now);
        Some(deadline_after(began, self.timeout?))
    }
}

pub(crate) struct Actor {
    connection: ConnectionId,
    transport: Transport,
    session: Session<Caller>,
    timer: CallTimer,
    phase: Phase<Instant, oneshot::Sender<Result<()>>>,
    inbox: mpsc::Receiver<Request>,
    guard_messages: mpsc::UnboundedReceiver<GuardMessage>,
    /// The sender of releases, cloned into each guard.
    release_tx: mpsc::UnboundedSender<GuardMessage>,
    /// The actor's own lease, cloned into each open blob and each document.
    lease: Option<Lease>,
    /// The channel of the leases. It carries no messages, and ends when the last lease is dropped.
    leases: mpsc::Receiver<Infallible>,
    child: Option<Child>,
    /// The reason why the connection closed, for handles and blobs.
    closed: watch::Sender<Option<Error>>,
    shutdown_timeout: Duration,
}

impl Actor {
    pub(crate) fn new(setup: Setup) -> Self {
        let Setup {
            connection,
            transport,
            inbox,
            child,
            closed,
            call_timeout,
            shutdown_timeout,
        } = setup;
        let (release_tx, guard_messages) = mpsc::unbounded_channel();
        let (lease, leases) = mpsc::channel(1);
        Self {
            connection,
            transport,
            session: Session::new(),
            timer: CallTimer {
                began: None,
                timeout: call_timeout,
            },
            phase: Phase::Serving,
            inbox,
            guard_messages,
            release_tx,
            lease: Some(lease),
            leases,
            child,
            closed,
            shutdown_timeout,
        }
    }

    pub(crate) async fn run(mut self) {
        match self.serve().await {
            Ok(()) => self.finish().await,
            Err(failure) => self.fail(failure).await,
        }
    }

    /// Serves requests until the connection has to end in order, or fails.
    async fn serve(&mut self) -> Result<(), Failure> {
        let mut buffer = vec![0; MAX_PACKET].into_boxed_slice();
        loop {
            // A lease is dropped only after its release was sent, so `guard_messages` already contains that release.
            let is_idle = self.session.is_idle() && self.guard_messages.is_empty();
            self.phase.step(is_idle);
            if self.phase.is_finished() {
                return Ok(());
            }
            if self.phase.awaits_blobs() {
                // Without the actor's own lease, the channel of leases can end.
                self.lease = None;
            }
            let awaits_reply =
                self.session.in_flight().is_some() && !self.session.awaits_end_of_blob();
            let turn = self.session.turn();
            let call_deadline = self.timer.deadline(awaits_reply || turn.is_some());
            let deadline = self.phase.deadline().into_iter().chain(call_deadline).min();
            tokio::select! {
                // Releases come before the next call, because they overtake queued requests. The socket comes before
                // the exit of the process, which may have answered before. Time comes last.
                biased;
                Some(message) = self.guard_messages.recv() => self.handle_guard_message(message)?,
                packet = self.transport.receive(&mut buffer) => self.handle_reply(packet)?,
                sent = send(&self.transport, turn.as_ref()), if turn.is_some() => {
                    sent.map_err(|_| Failure::HungUp)?;
                    if let Some(turn) = turn {
                        turn.mark_sent();
                    }
                }
                exit = exited(&mut self.child), if self.child.is_some() => {
                    return Err(Failure::Other(exit_error(exit)));
                }
                request = self.inbox.recv(), if self.phase.accepts() => self.handle_request(request),
                // The channel carries no messages, so the last lease is gone.
                _ = self.leases.recv(), if self.phase.awaits_blobs() => self.phase.blobs_done(),
                () = sleep_until_opt(deadline) => {
                    if !self.phase.expire(Instant::now()) {
                        self.expire_call(call_deadline)?;
                    }
                }
            }
        }
    }

    /// Returns an error if the call's time is up. If this process was stopped in this time, perhaps with the proxy, the
    /// call gets its whole time again.
    fn expire_call(&mut self, deadline: Option<Instant>) -> Result<(), Failure> {
        let now = Instant::now();
        match deadline {
            Some(deadline) if is_long_past(deadline) => self.timer.began = Some(now),
            Some(deadline) if deadline <= now => return Err(self.timed_out().into()),
            _ => {}
        }
        Ok(())
    }

    /// Takes a request. `None` means that the inbox has ended: there will be no more requests.
    fn handle_request(&mut self, request: Option<Request>) {
        let until = deadline_after(Instant::now(), self.shutdown_timeout);
        match request {
            Some(Request::Call { call, reply, asked }) => {
                self.queue_request(&call, Caller::of_request(reply, asked));
            }
            Some(Request::Finalize { reply }) => match self.phase.finalize(until, reply) {
                Ok(()) => self.inbox.close(),
                Err(second) => {
                    let _ = second.send(Err(Error::Closed));
                }
            },
            None => self.phase.inbox_ended(until),
        }
    }

    /// Takes a message of a guard: a release, an early finish, or a violation.
    fn handle_guard_message(&mut self, message: GuardMessage) -> Result<(), Failure> {
        match message {
            GuardMessage::Release { call, reply } => {
                self.session
                    .queue_release(&call, reply.map(Caller::of_release));
                Ok(())
            }
            GuardMessage::FinishEarly { call, reply } => {
                self.give_up();
                self.session
                    .queue_release(&call, Some(Caller::of_early_finish(reply)));
                Ok(())
            }
            GuardMessage::Violation(violation) => Err(Error::from(violation).into()),
        }
    }

    /// Accepts no more requests, because a call is to be sent that can block the connection. The connection ends when
    /// its last blob has ended. The error is one after which callers use another proxy.
    fn give_up(&mut self) {
        // This comes first: a caller who finds the inbox closed reads it.
        self.closed.send_replace(Some(Error::Disconnected));
        self.inbox.close();
        while let Ok(request) = self.inbox.try_recv() {
            request.refuse(&Error::Disconnected);
        }
        for caller in self.session.drain_requests() {
            caller.answer(Err(Error::Disconnected));
        }
        let until = deadline_after(Instant::now(), self.shutdown_timeout);
        self.phase.inbox_ended(until);
    }

    fn queue_request(&mut self, call: &Call, caller: Caller) {
        if let Err((rejected, caller)) = self.session.ask(call, caller) {
            caller.answer(Err(rejected.into()));
        }
    }

    fn handle_reply(&mut self, packet: io::Result<Option<Packet<OwnedFd>>>) -> Result<(), Failure> {
        let Ok(Some(packet)) = packet else {
            return Err(Failure::HungUp);
        };
        // The method has to be read first, because the session forgets it with the reply.
        let method = self.session.in_flight();
        let received = self.session.receive(packet, pipe::is_readable);
        let (caller, answer) = received.map_err(Error::from)?;
        if let (Some(begun), Some(caller)) = (self.timer.began.take(), &caller) {
            tracing::trace!(
                method = method.map(Method::name),
                queued_us = begun.duration_since(caller.asked).as_micros(),
                answered_us = begun.elapsed().as_micros(),
                "answered"
            );
        }
        let answer = match answer {
            Ok(grant) => self.guard(grant),
            Err(refusal) => Err(refused(method, refusal)),
        };
        match (caller, answer) {
            (Some(caller), answer) => caller.answer(answer),
            // Nobody waits for the answer to this release. The proxy has dropped the image or pipe even if it reports
            // an error.
            (None, Err(error)) => tracing::debug!(%error, "a release failed"),
            (None, Ok(_)) => {}
        }
        Ok(())
    }

    /// Puts a grant into its guards, so that it is released even if the answer does not reach the caller.
    fn guard(&self, grant: Grant<OwnedFd>) -> Answer {
        let held = |Pipe { data, held }| HeldPipe {
            data,
            guard: ReleaseGuard::new(held, self.release_tx.clone()),
        };
        // The actor drops its own lease when all requests are answered, or when the answer has taken too long. In the
        // second case, a connection that was given up has its own error, after which callers use another proxy.
        let closed = || self.closed.borrow().clone().unwrap_or(Error::Closed);
        let lease = || self.lease.clone().ok_or_else(closed);
        Ok(match grant {
            Grant::Done => Granted::Done,
            Grant::Version(version) => Granted::Version(version),
            Grant::Image(image) => Granted::Image(
                image.map(|id| OpenedImage::new(id, self.connection, self.release_tx.clone())),
            ),
            Grant::Manifest { digest, pipe } => Granted::Manifest {
                digest,
                pipe: held(pipe),
                lease: lease()?,
            },
            Grant::Document { pipe } => Granted::Document {
                pipe: held(pipe),
                lease: lease()?,
            },
            Grant::Blob { size, pipe } => Granted::Blob {
                size,
                pipe: held(pipe),
                lease: lease()?,
            },
            Grant::RawBlob { size, data, error } => Granted::RawBlob {
                size,
                data,
                error,
                lease: lease()?,
            },
            Grant::Layers(layers) => Granted::Layers(layers),
            Grant::Socket(socket) => Granted::Socket(socket),
        })
    }

    fn timed_out(&self) -> Error {
        let method = self.session.in_flight().map_or("a call", Method::name);
        Error::CallTimeout {
            tries: 1,
            method,
            after: self.timer.timeout.unwrap_or_default(),
        }
    }

    /// Shuts the proxy down after all requests are answered, and tells the finalizer how the proxy ended.
    async fn finish(self) {
        let is_blocked = self.session.awaits_end_of_blob();
        let Self {
            transport,
            phase,
            child,
            closed,
            shutdown_timeout,
            ..
        } = self;
        if is_blocked {
            // The blob of this call was dropped. The proxy may never answer, so it is not asked to exit.
            end_proxy(Some((transport, child)));
            closed.send_replace(Some(Error::Disconnected));
            if let Some(finalizer) = phase.into_finalizer() {
                let _ = finalizer.send(Err(Error::Disconnected));
            }
            return;
        }
        let shutdown = Call::Shutdown.encode();
        // The proxy may be gone, or may not read. The code below finds out how it ended.
        let _ = timeout(shutdown_timeout, transport.send(&shutdown)).await;
        let too_slow = |after| Error::CallTimeout {
            tries: 1,
            method: Method::Shutdown.name(),
            after,
        };
        let ended = if let Some(child) = child {
            drop(transport);
            let bound = shutdown_timeout.saturating_add(END_SLACK);
            match timeout(bound, child.end()).await {
                Ok(Some(exit)) if !exit.failed() => Ok(()),
                Ok(exit) => Err(exit_error(exit)),
                Err(_) => Err(too_slow(bound)),
            }
        } else {
            let mut buffer = [0; 1];
            // Any packet, or the end of the connection, counts as the answer, because nothing is held any more.
            let closed = timeout(shutdown_timeout, transport.receive(&mut buffer)).await;
            closed.map(drop).map_err(|_| too_slow(shutdown_timeout))
        };
        closed.send_replace(Some(Error::Closed));
        if let Some(finalizer) = phase.into_finalizer() {
            // The caller of `finalize` may have left.
            let _ = finalizer.send(ended);
        }
    }

    /// Answers all requests with the error of the connection: those that wait now, and those that come until the last
    /// handle is dropped.
    async fn fail(self, failure: Failure) {
        let Self {
            transport,
            mut session,
            phase,
            mut inbox,
            mut guard_messages,
            release_tx,
            lease,
            mut leases,
            mut child,
            closed,
            ..
        } = self;
        drop((release_tx, lease));
        let error = match failure {
            Failure::Other(error) => error,
            // This process did not start the proxy, so there is no exit status.
            Failure::HungUp if child.is_none() => Error::Disconnected,
            Failure::HungUp => match timeout(EXIT_WAIT, exited(&mut child)).await {
                Ok(exit) => exit_error(exit),
                Err(_) => Error::Disconnected,
            },
        };
        tracing::debug!(%error, "the connection failed");
        closed.send_replace(Some(error.clone()));
        if let Some(finalizer) = phase.into_finalizer() {
            let _ = finalizer.send(Err(error.clone()));
        }
        for caller in session.drain() {
            caller.answer(Err(error.clone()));
        }
        // A proxy that hangs in a call still sends its open blobs. It is ended when these are done.
        let mut sending = Some((transport, child));
        if !matches!(error, Error::CallTimeout { .. }) {
            end_proxy(sending.take());
        }
        let mut blobs_open = true;
        let mut inbox_open = true;
        while inbox_open || blobs_open {
            tokio::select! {
                request = inbox.recv(), if inbox_open => match request {
                    Some(request) => request.refuse(&error),
                    None => inbox_open = false,
                },
                Some(message) = guard_messages.recv() => match message {
                    GuardMessage::Release { reply: Some(reply), .. }
                    | GuardMessage::FinishEarly { reply, .. } => {
                        Caller::of_release(reply).answer(Err(error.clone()));
                    }
                    GuardMessage::Release { reply: None, .. } | GuardMessage::Violation(_) => {}
                },
                _ = leases.recv(), if blobs_open => {
                    blobs_open = false;
                    end_proxy(sending.take());
                }
            }
        }
    }
}

fn end_proxy(proxy: Option<(Transport, Option<Child>)>) {
    if let Some((transport, child)) = proxy {
        drop(transport);
        if let Some(child) = child {
            child.end_now();
        }
    }
}

async fn send(transport: &Transport, turn: Option<&Turn<'_, Caller>>) -> io::Result<()> {
    match turn {
        Some(turn) => transport.send(turn.packet()).await,
        None => std::future::pending().await,
    }
}

/// Waits for the exit of the child. Without a child, this waits for ever.
async fn exited(child: &mut Option<Child>) -> Option<Arc<ChildExit>> {
    match child {
        Some(child) => child.exited().await,
        None => std::future::pending().await,
    }
}

fn exit_error(exit: Option<Arc<ChildExit>>) -> Error {
    exit.map_or(Error::Disconnected, Error::ProxyExited)
}

fn refused(method: Option<Method>, refusal: Refusal) -> Error {
    Error::Refused {
        method: method.map_or("a call", Method::name),
        tries: 1,
        refusal,
    }
}

impl From<Rejected> for Error {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Unsupported { method, found } => Self::Unsupported {
                method: method.name(),
                required: method.since(),
                found,
            },
            Rejected::TooLarge { method, bytes } => Self::TooLarge {
                method: method.name(),
                bytes,
            },
        }
    }
}
