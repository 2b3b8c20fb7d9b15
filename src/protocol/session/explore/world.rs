//! A world: a machine with its callers and its server, and what each step does.

use std::cell::Cell;
use std::rc::Rc;

use super::caller::{Blob, CALLERS, Caller, CallerState, Ticket, Want};
use super::machine::{Answered, Broken, Finalizer, Machine};
use super::rule::{Checked, Offence, Rule, require};
use super::server::{Answer, Fd, Received, Server, packet};
use crate::protocol::{Call, Grant, Held, ImageId, Method, Packet, Refusal, Session};

/// The finalizers of the connection.
const FIRST: Finalizer = 1;
const SECOND: Finalizer = 2;

#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// A caller asks for something.
    Ask(usize, Want),
    /// A caller reads all of its blob.
    Drain(usize),
    /// A caller finishes its drained blob, and waits for the verdict.
    Finish(usize),
    /// A caller drops its blob.
    DropBlob(usize),
    /// A caller closes its image, and waits for the answer.
    Close(usize),
    /// A caller is dropped, with all that it holds.
    Leave(usize),
    /// The machine sends a packet.
    Send,
    /// The server answers the call that it has received.
    Reply(Answer),
    /// The server sends a reply that belongs to no call.
    Unasked,
    /// The server dies.
    Die,
    /// The call in flight times out, because the server has stalled.
    TimeOut,
    /// A caller drops its handle and its image, and keeps its blob.
    DropHandle(usize),
    /// A caller begins to read the manifest that it was granted.
    Read(usize),
    /// The first finalizer finalizes the connection.
    Finalize,
    /// The second finalizer finalizes the connection. Its request came before the inbox was closed.
    FinalizeAgain,
    /// The inbox is closed and empty, or all handles are gone.
    InboxEnds,
    /// The last lease is gone.
    BlobsDone,
    /// The deadline comes.
    Timer,
}

/// The kind of a world. One world with all steps would have millions of states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// A world of three callers, who read their grants at once. The connection ends when all of them are gone.
    Callers,
    /// A world with this number of callers, who may wait before they read, or keep a blob longer than their handle.
    /// The connection may be finalized at any moment.
    End { callers: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Open,
    /// The connection has failed, and all callers were told.
    Failed,
    /// The connection has ended in order.
    Ended,
}

/// The state of the inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inbox {
    Open,
    /// `finalize` has closed the inbox, which may still contain requests.
    Closed,
    Ended,
}

#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) scope: Scope,
    pub(super) machine: Machine,
    pub(super) callers: [Caller; CALLERS],
    pub(super) server: Server,
    pub(super) inbox: Inbox,
    pub(super) deadline_passed: bool,
    pub(super) status: Status,
    pub(super) can_send: bool,
}

impl World {
    /// Makes a world that is connected, before any request.
    pub(super) fn new(scope: Scope, broken: Option<Broken>) -> Self {
        let mut session = Session::new();
        session.version = Some(semver::Version::new(0, 2, 8));
        let count = match scope {
            Scope::Callers => CALLERS,
            Scope::End { callers } => callers,
        };
        let callers = std::array::from_fn(|c| {
            if c < count {
                Caller::new()
            } else {
                Caller::nobody()
            }
        });
        Self {
            scope,
            machine: Machine::new(session, broken),
            callers,
            server: Server::new(),
            inbox: Inbox::Open,
            deadline_passed: false,
            status: Status::Open,
            can_send: false,
        }
    }

    /// Whether a caller has an open blob, or a document that is not being read yet.
    pub(super) fn has_leases(&self) -> bool {
        self.callers.iter().any(Caller::has_lease)
    }

    pub(super) fn has_finalizer(&self) -> bool {
        self.machine.phase.clone().into_finalizer().is_some()
    }

    /// Takes a step, and checks it against the rules about steps.
    pub(super) fn take(&mut self, step: Step) -> Checked {
        match step {
            Step::Ask(c, want) => {
                require(
                    Rule::NothingAfterTheInbox,
                    self.inbox != Inbox::Ended,
                    || format!("{c} asks for {want:?}, and the inbox has ended"),
                )?;
                self.ask(c, want);
            }
            Step::Read(c) => {
                if let Some(held) = self.callers[c].document.take() {
                    self.release(c, Want::Document, held);
                }
            }
            Step::DropHandle(c) => {
                self.callers[c].has_handle = false;
                if let Some(held) = self.callers[c].image.take() {
                    self.drop_held(held);
                }
            }
            Step::Drain(c) => {
                if let Some(Blob::Piped(held)) = &mut self.callers[c].blob {
                    held.set_drained();
                    if let Held::Pipe { id, .. } = held
                        && let Some(pipe) = &mut self.server.pipes[id.get() as usize - 1]
                    {
                        pipe.drained = true;
                    }
                }
            }
            Step::Finish(c) => {
                if let Some(Blob::Piped(held)) = self.callers[c].blob.take() {
                    self.release(c, Want::Finish, held);
                }
            }
            Step::DropBlob(c) => {
                self.drop_blob(c);
                if !self.callers[c].has_handle {
                    self.callers[c].state = CallerState::Done;
                }
            }
            Step::Close(c) => {
                if let Some(held) = self.callers[c].image.take() {
                    self.release(c, Want::Close, held);
                }
            }
            Step::Leave(c) => {
                self.machine.leave(c);
                self.callers[c].state = CallerState::Left;
                self.drop_blob(c);
                let caller = &mut self.callers[c];
                let held = [caller.document.take(), caller.image.take()];
                for held in held.into_iter().flatten() {
                    self.drop_held(held);
                }
            }
            Step::Send => self.send()?,
            Step::Reply(answer) => self.reply(answer)?,
            Step::Unasked => {
                let open = Rc::default();
                let fds = Fd::many(1, true, &open);
                self.receive(packet(r#"{"success":true}"#.into(), fds), &open)?;
                return self.ends();
            }
            Step::Die | Step::TimeOut => self.fail()?,
            Step::Finalize => {
                let second = self.machine.finalize(FIRST);
                require(Rule::OneFinalizer, second.is_none(), || {
                    "the first finalizer is turned away".into()
                })?;
                self.inbox = Inbox::Closed;
            }
            Step::FinalizeAgain => {
                let second = self.machine.finalize(SECOND);
                require(Rule::OneFinalizer, second == Some(SECOND), || {
                    format!("{second:?} is told that another finalizer was first")
                })?;
            }
            Step::InboxEnds => {
                self.inbox = Inbox::Ended;
                self.machine.inbox_ended();
            }
            Step::BlobsDone => self.machine.blobs_done(),
            Step::Timer => {
                self.deadline_passed = true;
                require(Rule::TimerMovesOn, self.machine.expire(), || {
                    "the timer fires, and will fire again".into()
                })?;
            }
        }
        if self.status == Status::Open && self.machine.step() {
            self.end()?;
        }
        self.can_send = self.status == Status::Open && self.machine.can_send();
        Ok(())
    }

    fn ask(&mut self, c: usize, want: Want) {
        let caller = &mut self.callers[c];
        caller.state = CallerState::Waiting(want);
        let image = match caller.image {
            Some(Held::Image(image)) => image,
            _ => ImageId::new(u64::MAX).expect("not zero"),
        };
        let digest = || {
            format!("sha256:{}", "a".repeat(64))
                .parse()
                .expect("a digest")
        };
        let call = match want {
            Want::Open => Call::OpenImage {
                reference: c.to_string(),
            },
            Want::Manifest => {
                caller.had_manifest = true;
                Call::GetManifest(image)
            }
            Want::Raw => {
                caller.had_blob = true;
                let digest = digest();
                Call::GetRawBlob { image, digest }
            }
            _ => {
                caller.had_blob = true;
                let (digest, size) = (digest(), 1);
                Call::GetBlob {
                    image,
                    digest,
                    size,
                }
            }
        };
        self.machine.ask(&call, Ticket::new(c, want));
    }

    /// Releases a grant of this caller, who waits for the answer.
    fn release(&mut self, c: usize, want: Want, held: Held) {
        if let Some(call) = self.machine.release(held) {
            self.machine
                .queue_release(&call, Some(Ticket::new(c, want)));
            self.callers[c].state = CallerState::Waiting(want);
        }
    }

    /// Releases a grant as its guard does when the guard is dropped.
    fn drop_held(&mut self, held: Held) {
        if let Some(call) = self.machine.release(held) {
            self.machine.queue_release(&call, None);
        } else if let Held::Pipe { id, .. } = held
            && let Some(pipe) = &mut self.server.pipes[id.get() as usize - 1]
        {
            pipe.left_unfinished = true;
        }
    }

    fn drop_blob(&mut self, c: usize) {
        if let Some(Blob::Piped(held)) = self.callers[c].blob.take() {
            self.drop_held(held);
        }
    }

    fn send(&mut self) -> Checked {
        let Some(packet) = self.machine.send() else {
            return Ok(());
        };
        let call = self.server.understand(&packet)?;
        let text = || String::from_utf8_lossy(&packet).into_owned();
        if call.want.is_asked() {
            let waits = self.callers[call.caller].state == CallerState::Waiting(call.want);
            require(Rule::LeaversAreNotSentFor, waits, text)?;
            let mut queued = self.machine.queued();
            let releases = [Method::CloseImage, Method::FinishPipe];
            let held = queued.any(|queued| releases.contains(&queued.method));
            require(Rule::ReleasesFirst, !held, text)?;
        } else {
            let held = match call.method {
                Method::CloseImage => self.callers[call.caller].image.is_some(),
                _ => {
                    matches!(self.callers[call.caller].blob, Some(Blob::Piped(held)) if held_id(held) == call.id)
                }
            };
            require(Rule::ReleasedOnce, !held, || {
                format!("{}, which is in use", text())
            })?;
            let can_block = !self.server.can_answer(call);
            require(Rule::OnlyDrainedIsFinished, !can_block, text)?;
        }
        self.server.call = Some(call);
        Ok(())
    }

    fn reply(&mut self, answer: Answer) -> Checked {
        let Some(call) = self.server.call else {
            return Ok(());
        };
        let open = Rc::default();
        let packet = self.server.answer(call, answer, &open);
        let answered = self.receive(packet, &open)?;
        if !matches!(answer, Answer::Yes | Answer::No) {
            return self.ends();
        }
        let mut held = Vec::new();
        for (ticket, answer) in answered {
            self.deliver(call, ticket, answer, &mut held)?;
        }
        let (open, held) = (open.get(), held.len());
        require(Rule::NothingLost, open == held, || {
            format!("{open} descriptors are open, callers hold {held}")
        })
    }

    /// Passes a packet to the machine. If the packet is a violation, the connection fails, and the packet's
    /// descriptors must be closed.
    fn receive(
        &mut self,
        packet: Packet<Fd>,
        open: &Rc<Cell<usize>>,
    ) -> Result<Vec<Answered>, Offence> {
        match self.machine.receive(packet) {
            Ok(answered) => Ok(answered),
            Err(violation) => {
                require(Rule::NothingLost, open.get() == 0, || {
                    format!("descriptors are open after a violation: {violation}")
                })?;
                self.fail()?;
                Ok(Vec::new())
            }
        }
    }

    fn ends(&self) -> Checked {
        require(Rule::ViolationEnds, self.status == Status::Failed, || {
            "the connection goes on after a violation".into()
        })
    }

    /// Delivers an answer of the machine to its caller. The descriptors that the caller gets are added to `held`.
    fn deliver(
        &mut self,
        call: Received,
        ticket: Option<Ticket>,
        answer: Result<Grant<Fd>, Refusal>,
        held: &mut Vec<Fd>,
    ) -> Checked {
        let Some(Ticket {
            caller,
            want,
            gone: false,
        }) = ticket
        else {
            // The caller has left, so the guards release the grant.
            match answer {
                Ok(Grant::Image(Some(image))) => self.drop_held(Held::Image(image)),
                Ok(Grant::Manifest { pipe, .. } | Grant::Blob { pipe, .. }) => {
                    drop(pipe.data);
                    self.drop_held(pipe.held);
                }
                _ => {}
            }
            return Ok(());
        };
        require(
            Rule::OneAnswer,
            (caller, want) == (call.caller, call.want),
            || format!("{caller} gets for {want:?} the answer to {call:?}"),
        )?;
        let left = self.callers[caller].state == CallerState::Left;
        let waits = self.callers[caller].state == CallerState::Waiting(want);
        require(
            Rule::OneAnswer,
            waits || (left && want == Want::Document),
            || format!("{caller} gets an answer for {want:?} and does not wait for it"),
        )?;
        if left {
            return Ok(());
        }
        self.callers[caller].state = match (want, &answer) {
            (Want::Open, Err(_)) | (Want::Close, _) => CallerState::Done,
            (Want::Finish, _) if !self.callers[caller].has_handle => CallerState::Done,
            _ => CallerState::Nothing,
        };
        if let Ok(Grant::Manifest { .. } | Grant::Blob { .. } | Grant::RawBlob { .. }) = answer {
            require(Rule::EndsInOrder, self.machine.has_lease, || {
                format!("{caller} is granted {want:?}, and no lease is left")
            })?;
        }
        match answer {
            Ok(Grant::Image(Some(image))) => self.callers[caller].image = Some(Held::Image(image)),
            Ok(Grant::Manifest { pipe, .. }) => {
                held.push(pipe.data);
                match self.scope {
                    Scope::Callers => self.release(caller, Want::Document, pipe.held),
                    Scope::End { .. } => self.callers[caller].document = Some(pipe.held),
                }
            }
            Ok(Grant::Blob { pipe, .. }) => {
                held.push(pipe.data);
                self.callers[caller].blob = Some(Blob::Piped(pipe.held));
            }
            Ok(Grant::RawBlob { data, error, .. }) => {
                held.extend([data, error]);
                self.callers[caller].blob = Some(Blob::Raw);
            }
            _ => {}
        }
        if self.machine.closes_early()
            && let Some(image) = self.callers[caller].image
        {
            self.drop_held(image);
        }
        Ok(())
    }

    /// Fails the connection, and tells all callers.
    fn fail(&mut self) -> Checked {
        self.status = Status::Failed;
        self.answer_all().map(drop)
    }

    /// Ends the connection in order, and checks that it may end now.
    fn end(&mut self) -> Checked {
        self.status = Status::Ended;
        let has_leases = self.has_leases();
        let finalizes = self.has_finalizer();
        let waited = self.answer_all()?;
        let may_wait = |ticket: &Ticket| !(finalizes && ticket.want.is_asked());
        let in_order = if self.deadline_passed {
            waited.iter().all(may_wait)
        } else {
            waited.is_empty() && !has_leases
        };
        require(Rule::EndsInOrder, in_order, || {
            format!("the connection ends while {waited:?} wait, and blobs are open: {has_leases}")
        })
    }

    /// Tells all callers and finalizers that the connection has ended. Returns the callers who waited for an answer.
    fn answer_all(&mut self) -> Result<Vec<Ticket>, Offence> {
        let finalizers = self.machine.finalizers(self.status == Status::Failed);
        let expected: &[_] = if self.has_finalizer() { &[FIRST] } else { &[] };
        require(Rule::OneFinalizer, finalizers == expected, || {
            format!("{finalizers:?} are told of the end instead of {expected:?}")
        })?;
        let mut waited = self.machine.drain();
        waited.retain(|ticket| !ticket.gone);
        for Ticket { caller, want, .. } in &waited {
            if self.callers[*caller].state == CallerState::Left {
                continue;
            }
            let waits = self.callers[*caller].state == CallerState::Waiting(*want);
            require(Rule::OneAnswer, waits, || format!("{caller} is told twice"))?;
            self.callers[*caller].state = CallerState::Done;
        }
        Ok(waited)
    }
}

/// The server's number of an image or pipe.
pub(super) fn held_id(held: Held) -> usize {
    match held {
        Held::Image(id) => id.get() as usize,
        Held::Pipe { id, .. } => id.get() as usize,
    }
}
