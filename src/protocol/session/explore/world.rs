//! Three callers around a session, and all that they, the server and time can
//! do next.

use std::cell::Cell;
use std::rc::Rc;

use super::machine::{Answered, Broken, Machine, Ticket};
use super::rule::{Checked, Offence, Rule, hold};
use super::server::{Answer, Fd, Received, Server, packet};
use crate::protocol::{Call, Grant, Held, ImageId, Method, Packet, Refusal, Session};

pub(super) const CALLERS: usize = 3;

/// What a caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Want {
    Open,
    Manifest,
    /// The end of a manifest's pipe. A task of its own waits for it.
    Document,
    /// A blob by `GetRawBlob`.
    Raw,
    /// A blob by `GetBlob`.
    Piped,
    /// The verdict on such a blob.
    Finish,
    Close,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// A caller asks for something.
    Ask(usize, Want),
    /// A caller reads all of its blob.
    Drain(usize),
    /// A caller has its drained blob finished, and waits for the verdict.
    Finish(usize),
    /// A caller drops its blob.
    DropBlob(usize),
    /// A caller closes its image, and waits until that is done.
    Close(usize),
    /// A caller is dropped, with all that it has.
    Leave(usize),
    /// A packet goes out.
    Send,
    /// The server answers the call it has got.
    Reply(Answer),
    /// The server says something that nobody asked for.
    Unasked,
    /// The server is gone.
    Die,
    /// The server has stalled: it has not answered for too long.
    TimeOut,
    /// All callers are done: the connection ends.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Nothing,
    Waiting(Want),
    /// It closed its image, or could not open one.
    Done,
    Left,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blob {
    Raw,
    Piped(Held),
}

#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) doing: Doing,
    pub(super) image: Option<Held>,
    pub(super) blob: Option<Blob>,
    pub(super) had_manifest: bool,
    pub(super) had_blob: bool,
}

impl Caller {
    pub(super) fn is_over(&self) -> bool {
        matches!(self.doing, Doing::Done | Doing::Left)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Serving,
    /// The connection is of no use any more, and everybody was told.
    Failed,
    /// It ended in order.
    Ended,
}

#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) machine: Machine,
    pub(super) callers: [Caller; CALLERS],
    pub(super) server: Server,
    pub(super) phase: Phase,
    pub(super) can_send: bool,
}

impl World {
    /// Connected, and nobody has asked for anything.
    pub(super) fn new(broken: Option<Broken>) -> Self {
        let mut session = Session::new();
        session.version = Some(semver::Version::new(0, 2, 8));
        let caller = Caller {
            doing: Doing::Nothing,
            image: None,
            blob: None,
            had_manifest: false,
            had_blob: false,
        };
        Self {
            machine: Machine::new(session, broken),
            callers: [caller.clone(), caller.clone(), caller],
            server: Server::new(),
            phase: Phase::Serving,
            can_send: false,
        }
    }

    /// All that can happen now.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.phase != Phase::Serving {
            return steps;
        }
        for (c, caller) in self.callers.iter().enumerate() {
            if caller.is_over() {
                continue;
            }
            steps.push(Step::Leave(c));
            if caller.doing != Doing::Nothing {
                continue;
            }
            if caller.image.is_none() {
                steps.push(Step::Ask(c, Want::Open));
                continue;
            }
            match caller.blob {
                None if !caller.had_manifest => steps.push(Step::Ask(c, Want::Manifest)),
                None if !caller.had_blob => {
                    steps.push(Step::Ask(c, Want::Raw));
                    steps.push(Step::Ask(c, Want::Piped));
                }
                None => steps.push(Step::Close(c)),
                Some(Blob::Piped(held)) => {
                    steps.push(Step::DropBlob(c));
                    steps.push(match held {
                        Held::Pipe { drained: true, .. } => Step::Finish(c),
                        _ => Step::Drain(c),
                    });
                }
                Some(Blob::Raw) => steps.push(Step::DropBlob(c)),
            }
        }
        if self.can_send {
            steps.push(Step::Send);
        }
        if self.server.call.is_none() {
            steps.push(Step::Unasked);
        }
        steps.extend(self.server.answers().map(Step::Reply));
        if self.machine.times_out() {
            steps.push(Step::TimeOut);
        }
        if self.callers.iter().all(Caller::is_over) && self.machine.is_idle() {
            steps.push(Step::End);
        }
        steps.push(Step::Die);
        steps
    }

    /// Do it, and hold it against the rules that are about what happens.
    pub(super) fn take(&mut self, step: Step) -> Checked {
        match step {
            Step::Ask(c, want) => self.ask(c, want),
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
            Step::DropBlob(c) => self.drop_blob(c),
            Step::Close(c) => {
                if let Some(held) = self.callers[c].image.take() {
                    self.release(c, Want::Close, held);
                }
            }
            Step::Leave(c) => {
                self.machine.leave(c);
                self.callers[c].doing = Doing::Left;
                self.drop_blob(c);
                if let Some(held) = self.callers[c].image.take() {
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
            Step::End => {
                let told = self.machine.drain();
                hold(
                    Rule::OneAnswer,
                    told.iter().all(|ticket| ticket.gone),
                    || format!("the connection ends while {told:?} wait"),
                )?;
                self.phase = Phase::Ended;
            }
        }
        self.can_send = self.phase == Phase::Serving && self.machine.can_send();
        Ok(())
    }

    fn ask(&mut self, c: usize, want: Want) {
        let caller = &mut self.callers[c];
        caller.doing = Doing::Waiting(want);
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
        self.machine.ask(&call, ticket(c, want));
    }

    /// Give something back, and wait for the answer.
    fn release(&mut self, c: usize, want: Want, held: Held) {
        if let Some(call) = self.machine.release(held) {
            self.machine.give_back(&call, Some(ticket(c, want)));
            self.callers[c].doing = Doing::Waiting(want);
        }
    }

    /// What a guard does when it is dropped.
    fn drop_held(&mut self, held: Held) {
        if let Some(call) = self.machine.release(held) {
            self.machine.give_back(&call, None);
        } else if let Held::Pipe { id, .. } = held
            && let Some(pipe) = &mut self.server.pipes[id.get() as usize - 1]
        {
            pipe.written_off = true;
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
        if call.asks() {
            let waits = self.callers[call.caller].doing == Doing::Waiting(call.want);
            hold(Rule::LeaversAreNotSentFor, waits, text)?;
            let mut queued = self.machine.queued();
            let returns = [Method::CloseImage, Method::FinishPipe];
            let held = queued.any(|queued| returns.contains(&queued.method));
            hold(Rule::ReturnsFirst, !held, text)?;
        } else {
            let held = match call.method {
                Method::CloseImage => self.callers[call.caller].image.is_some(),
                _ => {
                    matches!(self.callers[call.caller].blob, Some(Blob::Piped(held)) if held_id(held) == call.id)
                }
            };
            hold(Rule::GivenBackOnce, !held, || {
                format!("{}, which is in use", text())
            })?;
            let can_block = !self.server.can_answer(call);
            hold(Rule::OnlyDrainedIsFinished, !can_block, text)?;
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
        hold(Rule::NothingLost, open == held, || {
            format!("{open} descriptors are open, {held} are in hands")
        })
    }

    /// A packet reaches the machine. If that breaks the protocol, the
    /// connection has failed, and nothing that came with it is open.
    fn receive(
        &mut self,
        packet: Packet<Fd>,
        open: &Rc<Cell<usize>>,
    ) -> Result<Vec<Answered>, Offence> {
        match self.machine.receive(packet) {
            Ok(answered) => Ok(answered),
            Err(violation) => {
                hold(Rule::NothingLost, open.get() == 0, || {
                    format!("descriptors are open after a violation: {violation}")
                })?;
                self.fail()?;
                Ok(Vec::new())
            }
        }
    }

    fn ends(&self) -> Checked {
        hold(Rule::ViolationEnds, self.phase == Phase::Failed, || {
            "the connection goes on after a violation".into()
        })
    }

    /// An answer comes out of the machine, and reaches whoever waits.
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
            // Nobody is there; the guards do what there is to do.
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
        hold(
            Rule::OneAnswer,
            (caller, want) == (call.caller, call.want),
            || format!("{caller} gets for {want:?} the answer to {call:?}"),
        )?;
        let left = self.callers[caller].doing == Doing::Left;
        let waits = self.callers[caller].doing == Doing::Waiting(want);
        hold(
            Rule::OneAnswer,
            waits || (left && want == Want::Document),
            || format!("{caller} gets an answer for {want:?} and does not wait for it"),
        )?;
        if left {
            return Ok(());
        }
        self.callers[caller].doing = match (want, &answer) {
            (Want::Open, Err(_)) | (Want::Close, _) => Doing::Done,
            _ => Doing::Nothing,
        };
        match answer {
            Ok(Grant::Image(Some(image))) => self.callers[caller].image = Some(Held::Image(image)),
            Ok(Grant::Manifest { pipe, .. }) => {
                held.push(pipe.data);
                self.release(caller, Want::Document, pipe.held);
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

    /// Everybody is told that the connection is of no use any more.
    fn fail(&mut self) -> Checked {
        self.phase = Phase::Failed;
        for Ticket { caller, want, gone } in self.machine.drain() {
            if gone || self.callers[caller].doing == Doing::Left {
                continue;
            }
            let waits = self.callers[caller].doing == Doing::Waiting(want);
            hold(Rule::OneAnswer, waits, || format!("{caller} is told twice"))?;
            self.callers[caller].doing = Doing::Done;
        }
        Ok(())
    }
}

pub(super) fn ticket(caller: usize, want: Want) -> Ticket {
    let gone = false;
    Ticket { caller, want, gone }
}

/// The server's number of what is held.
pub(super) fn held_id(held: Held) -> usize {
    match held {
        Held::Image(id) => id.get() as usize,
        Held::Pipe { id, .. } => id.get() as usize,
    }
}
