//! The steps that are possible in a world.

use super::caller::{Blob, Caller, CallerState, Want};
use super::server::Answer;
use super::world::{Inbox, Scope, Status, Step, World};
use crate::protocol::Held;

impl World {
    /// All steps that are possible now.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.status != Status::Open {
            return steps;
        }
        let accepts = self.machine.accepts();
        let finalizes = self.scope != Scope::Callers;
        for (c, caller) in self.callers.iter().enumerate() {
            if caller.is_done() {
                continue;
            }
            steps.push(Step::Leave(c));
            if caller.state != CallerState::Nothing {
                continue;
            }
            if caller.document.is_some() {
                steps.push(Step::Read(c));
                continue;
            }
            if finalizes && caller.has_handle && caller.blob.is_some() {
                steps.push(Step::DropHandle(c));
            }
            match caller.blob {
                None if caller.image.is_none() => {
                    if accepts {
                        steps.push(Step::Ask(c, Want::Open));
                    }
                }
                None if accepts && !caller.had_manifest => {
                    steps.push(Step::Ask(c, Want::Manifest));
                }
                None if accepts && !caller.had_blob => {
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
        steps.push(Step::Die);
        steps.extend(self.steps_to_the_end());
        steps
    }

    /// The possible steps toward the end. The finalizer has a handle of its own, and drops it when all other handles
    /// are gone.
    fn steps_to_the_end(&self) -> impl Iterator<Item = Step> {
        let nobody_asks = !self.callers.iter().any(Caller::keeps_the_inbox_open);
        let ends = self.inbox == Inbox::Closed || (self.inbox == Inbox::Open && nobody_asks);
        let steps = [
            (
                self.scope != Scope::Callers && self.inbox == Inbox::Open,
                Step::Finalize,
            ),
            (self.inbox == Inbox::Closed, Step::FinalizeAgain),
            (ends, Step::InboxEnds),
            (
                self.machine.last_lease_dropped(&self.callers),
                Step::BlobsDone,
            ),
            (self.machine.deadline().is_some(), Step::Timer),
        ];
        let possible = steps.into_iter().filter(|(possible, _)| *possible);
        possible.map(|(_, step)| step)
    }

    /// Whether the connection has to end without any move of a caller.
    pub(super) fn has_to_end(&self) -> bool {
        let nobody_is_left = self.inbox == Inbox::Ended && !self.has_leases();
        self.status == Status::Open && (self.has_finalizer() || nobody_is_left)
    }

    /// Whether this step can lead to the end without any move of a caller.
    pub(super) fn leads_to_the_end(&self, step: Step) -> bool {
        match step {
            Step::Send | Step::InboxEnds | Step::BlobsDone | Step::Timer => true,
            Step::Reply(Answer::Yes | Answer::No) => {
                let session = &self.machine.session;
                let waiter = session.in_flight.as_ref().and_then(|(_, waiter)| *waiter);
                let is_needed = waiter.is_none_or(|ticket| !ticket.gone)
                    || self.machine.tickets().any(|ticket| !ticket.gone)
                    || !session.releases.is_empty();
                self.has_finalizer() && is_needed
            }
            _ => false,
        }
    }
}
