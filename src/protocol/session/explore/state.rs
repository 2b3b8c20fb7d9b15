//! The check of a state against the rules, and the signature by which states are distinguished.

use super::caller::{Blob, CallerState, Ticket};
use super::rule::{Checked, Rule, require};
use super::server::parse;
use super::world::{Status, World, held_id};
use crate::protocol::{Held, Method, Phase};

impl World {
    /// Checks the state against the rules about states.
    pub(super) fn check(&self) -> Checked {
        let mut somebody_waits = false;
        for (c, caller) in self.callers.iter().enumerate() {
            let CallerState::Waiting(want) = caller.state else {
                continue;
            };
            somebody_waits = true;
            let will_be_answered = self
                .machine
                .tickets()
                .filter(|t| *t == Ticket::new(c, want))
                .count();
            require(Rule::OneAnswer, will_be_answered == 1, || {
                format!("{c} waits for {want:?} and gets {will_be_answered} answers")
            })?;
        }
        if self.status != Status::Open {
            return Ok(());
        }
        for (id, owner) in self.server.images.iter().enumerate() {
            let Some(owner) = *owner else { continue };
            let image = self.callers[owner].image;
            let held = image.is_some_and(|image| held_id(image) == id + 1);
            self.is_owned_once(held, Method::CloseImage, id + 1)?;
        }
        for (id, pipe) in self.server.pipes.iter().enumerate() {
            let Some(pipe) = *pipe else { continue };
            let owner = &self.callers[pipe.owner];
            let held = if pipe.memory {
                owner.document.is_some_and(|held| held_id(held) == id + 1)
            } else {
                matches!(owner.blob, Some(Blob::Piped(held)) if held_id(held) == id + 1)
            };
            self.is_owned_once(held || pipe.left_unfinished, Method::FinishPipe, id + 1)?;
        }
        let call = self.server.call;
        let answerable = call.is_some_and(|call| self.server.can_answer(call));
        // The server may answer or stall. Both must lead to another state.
        let can_step = self.can_send || (answerable && self.machine.times_out());
        require(Rule::NoDeadlock, !somebody_waits || can_step, || {
            "somebody waits, and nothing can happen".into()
        })
    }

    /// Checks that an image or pipe has exactly one owner: a caller who holds it, or the call that releases it.
    fn is_owned_once(&self, held: bool, method: Method, id: usize) -> Checked {
        let queued = self
            .machine
            .queued()
            .filter(|queued| queued.method == method);
        let queued = queued.filter(|queued| parse(&queued.packet).1 == id);
        let call = self.server.call;
        let under_way = call.is_some_and(|call| call.method == method && call.id == id);
        let owners = usize::from(held) + usize::from(under_way) + queued.count();
        require(Rule::NothingLost, owners > 0, || {
            format!("the server has image or pipe {id} open, and nobody will send {method}")
        })?;
        require(Rule::ReleasedOnce, owners == 1, || {
            format!("{method} {id} is held {owners} times")
        })
    }
}

impl World {
    /// The signature of this state. Two states with the same signature have the same future.
    ///
    /// The callers are interchangeable, and the server's numbers follow from their owners. So the signature consists
    /// of what each caller holds and has queued, with the places in the queue. These parts are sorted.
    pub(super) fn signature(&self) -> Vec<u8> {
        if self.status != Status::Open {
            // No step is possible after the end.
            return vec![self.status as u8];
        }
        let mut parts = [0, 1, 2].map(|c| self.part(c));
        let in_flight = self.machine.session.in_flight.as_ref();
        if let (Some(call), Some((_, ticket))) = (self.server.call, in_flight) {
            parts[call.caller].extend([0, call.want as u8, waiting(*ticket)]);
        }
        for (place, queued) in self.machine.queued().enumerate() {
            let of = |ticket: Ticket| (ticket.caller, ticket.want);
            let of_call = || {
                self.server
                    .understand(&queued.packet)
                    .ok()
                    .map(|call| (call.caller, call.want))
            };
            if let Some((caller, want)) = queued.waiter.map(of).or_else(of_call) {
                parts[caller].extend([1 + place as u8, want as u8, waiting(queued.waiter)]);
            }
        }
        parts.sort_unstable();
        let mut signature = parts.join(&u8::MAX);
        signature.extend(self.end_part());
        signature
    }

    /// The part of the signature about the end of the connection.
    fn end_part(&self) -> [u8; 5] {
        let (phase, finalizer) = match &self.machine.phase {
            Phase::Serving => (0, false),
            Phase::Closing { .. } => (1, true),
            Phase::Draining { finalizer, .. } => (2, finalizer.is_some()),
            Phase::AwaitingBlobs { finalizer, .. } => (3, finalizer.is_some()),
            Phase::Settling { finalizer, .. } => (4, finalizer.is_some()),
            Phase::Finished { finalizer } => (5, finalizer.is_some()),
        };
        [
            phase,
            u8::from(finalizer),
            u8::from(self.machine.has_lease),
            self.inbox as u8,
            u8::from(self.deadline_passed),
        ]
    }

    fn part(&self, c: usize) -> Vec<u8> {
        let caller = &self.callers[c];
        let mut part = Vec::with_capacity(16);
        part.extend(match caller.state {
            CallerState::Nothing => [0, 0],
            CallerState::Waiting(want) => [1, want as u8],
            CallerState::Done => [2, 0],
            CallerState::Left => [3, 0],
        });
        part.push(match caller.blob {
            None => 0,
            Some(Blob::Raw) => 1,
            Some(Blob::Piped(Held::Pipe { drained: true, .. })) => 2,
            Some(Blob::Piped(_)) => 3,
        });
        part.push(u8::from(caller.image.is_some()));
        part.push(u8::from(caller.has_handle));
        part.push(u8::from(caller.document.is_some()));
        part.push(u8::from(caller.had_manifest));
        part.push(u8::from(caller.had_blob));
        part.push(u8::from(self.server.images.contains(&Some(c))));
        for memory in [true, false] {
            let mut pipes = self.server.pipes.iter().flatten();
            let pipe = pipes.find(|pipe| pipe.owner == c && pipe.memory == memory);
            part.push(match pipe {
                None => 0,
                Some(pipe) if pipe.left_unfinished => 1,
                Some(pipe) if pipe.drained => 2,
                Some(_) => 3,
            });
        }
        part
    }
}

fn waiting(ticket: Option<Ticket>) -> u8 {
    match ticket {
        None => 0,
        Some(Ticket { gone: false, .. }) => 1,
        Some(Ticket { gone: true, .. }) => 2,
    }
}
