//! The session and its phase, as the world drives them. To test the rules, a machine can also do one thing wrong.

use super::super::{Queued, Session};
use super::caller::{Caller, Ticket, Want};
use super::rule::Rule;
use super::server::Fd;
use crate::protocol::{Call, Grant, Held, Packet, Phase, Refusal, Violation};

/// The deadline of every phase, on a clock that starts at 0.
pub(super) const UNTIL: u8 = 1;

/// The number of a caller of `finalize`.
pub(super) type Finalizer = u8;

/// The thing that a broken machine does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    AnswersTwice,
    AnswersAnotherCaller,
    DropsRefusals,
    SendsTwoAtOnce,
    SurvivesViolations,
    AnswersOnlyOneAtTheEnd,
    EndsBeforeAllIsAnswered,
    KeepsDescriptorsOfLeavers,
    KeepsDescriptorsOfViolations,
    ForgetsImagesOfLeavers,
    ForgetsPipesOfLeavers,
    FinishesWhatIsNotDrained,
    ReleasesTwice,
    ClosesWhatIsInUse,
    SendsRequestsBeforeReleases,
    SendsForLeavers,
    IgnoresTheTimeout,
    NeverSendsReleases,
    AcceptsAfterTheInbox,
    DoesNotAwaitBlobs,
    DoesNotAwaitDocuments,
    DoesNotSettle,
    DoesNotAwaitAnswers,
    AwaitsBlobsForEver,
    AwaitsAnswersForEver,
    AwaitsAnswersOfLeavers,
    KeepsItsOwnLease,
    SpinsWhileDraining,
    ForgetsTheFinalizer,
    ForgetsTheFinalizerOfAFailure,
    AnswersTheFinalizerTwice,
    ReplacesTheFinalizer,
}

impl Broken {
    /// All broken machines, each with the rule that it breaks.
    pub(super) const ALL: [(Self, Rule); 32] = [
        (Self::AnswersTwice, Rule::OneAnswer),
        (Self::AnswersAnotherCaller, Rule::OneAnswer),
        (Self::DropsRefusals, Rule::OneAnswer),
        (Self::SendsTwoAtOnce, Rule::OneAnswer),
        (Self::SurvivesViolations, Rule::ViolationEnds),
        (Self::AnswersOnlyOneAtTheEnd, Rule::OneAnswer),
        (Self::EndsBeforeAllIsAnswered, Rule::EndsInOrder),
        (Self::KeepsDescriptorsOfLeavers, Rule::NothingLost),
        (Self::KeepsDescriptorsOfViolations, Rule::NothingLost),
        (Self::ForgetsImagesOfLeavers, Rule::NothingLost),
        (Self::ForgetsPipesOfLeavers, Rule::NothingLost),
        (Self::FinishesWhatIsNotDrained, Rule::OnlyDrainedIsFinished),
        (Self::ReleasesTwice, Rule::ReleasedOnce),
        (Self::ClosesWhatIsInUse, Rule::ReleasedOnce),
        (Self::SendsRequestsBeforeReleases, Rule::ReleasesFirst),
        (Self::SendsForLeavers, Rule::LeaversAreNotSentFor),
        (Self::IgnoresTheTimeout, Rule::NoDeadlock),
        (Self::NeverSendsReleases, Rule::NoDeadlock),
        (Self::AcceptsAfterTheInbox, Rule::NothingAfterTheInbox),
        (Self::DoesNotAwaitBlobs, Rule::EndsInOrder),
        (Self::DoesNotAwaitDocuments, Rule::EndsInOrder),
        (Self::DoesNotSettle, Rule::EndsInOrder),
        (Self::DoesNotAwaitAnswers, Rule::EndsInOrder),
        (Self::AwaitsBlobsForEver, Rule::AlwaysEnds),
        (Self::AwaitsAnswersForEver, Rule::AlwaysEnds),
        (Self::AwaitsAnswersOfLeavers, Rule::AlwaysEnds),
        (Self::KeepsItsOwnLease, Rule::AlwaysEnds),
        (Self::SpinsWhileDraining, Rule::TimerMovesOn),
        (Self::ForgetsTheFinalizer, Rule::OneFinalizer),
        (Self::ForgetsTheFinalizerOfAFailure, Rule::OneFinalizer),
        (Self::AnswersTheFinalizerTwice, Rule::OneFinalizer),
        (Self::ReplacesTheFinalizer, Rule::OneFinalizer),
    ];
}

pub(super) type Answered = (Option<Ticket>, Result<Grant<Fd>, Refusal>);

#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) session: Session<Ticket>,
    pub(super) phase: Phase<u8, Finalizer>,
    /// Whether the actor still holds its own lease, which is cloned into each grant that needs one.
    pub(super) has_lease: bool,
    broken: Option<Broken>,
}

impl Machine {
    pub(super) fn new(session: Session<Ticket>, broken: Option<Broken>) -> Self {
        Self {
            session,
            phase: Phase::Serving,
            has_lease: true,
            broken,
        }
    }

    fn is(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    pub(super) fn ask(&mut self, call: &Call, ticket: Ticket) {
        self.session.ask(call, ticket).expect("accepted");
    }

    pub(super) fn queue_release(&mut self, call: &Call, ticket: Option<Ticket>) {
        let forgotten = match call {
            Call::CloseImage(_) => Broken::ForgetsImagesOfLeavers,
            _ => Broken::ForgetsPipesOfLeavers,
        };
        if ticket.is_none() && self.is(forgotten) {
            return;
        }
        self.session.queue_release(call, ticket);
        if self.is(Broken::ReleasesTwice) {
            self.session.queue_release(call, None);
        }
    }

    /// The call that releases this grant when its holder does not need it any more.
    pub(super) fn release(&self, mut held: Held) -> Option<Call> {
        if self.is(Broken::FinishesWhatIsNotDrained) {
            held.set_drained();
        }
        held.release()
    }

    /// Whether the machine closes an image while its caller holds it.
    pub(super) fn closes_early(&self) -> bool {
        self.is(Broken::ClosesWhatIsInUse)
    }

    pub(super) fn can_send(&mut self) -> bool {
        if self.is(Broken::NeverSendsReleases) && !self.session.releases.is_empty() {
            return false;
        }
        let awaited = self
            .session
            .in_flight
            .take_if(|_| self.broken == Some(Broken::SendsTwoAtOnce));
        let can = self.session.turn().is_some();
        if awaited.is_some() {
            self.session.in_flight = awaited;
        }
        can
    }

    pub(super) fn send(&mut self) -> Option<Vec<u8>> {
        let Self {
            session, broken, ..
        } = self;
        let mut delayed = Vec::new();
        match broken {
            Some(Broken::SendsTwoAtOnce) => session.in_flight = None,
            Some(Broken::SendsRequestsBeforeReleases) if !session.requests.is_empty() => {
                delayed.extend(session.releases.drain(..));
            }
            Some(Broken::SendsForLeavers) => {
                for ticket in session
                    .requests
                    .iter_mut()
                    .filter_map(|a| a.waiter.as_mut())
                {
                    ticket.gone = false;
                }
            }
            _ => {}
        }
        let packet = session.turn().map(|turn| {
            let packet = turn.packet().to_vec();
            turn.mark_sent();
            packet
        });
        session.releases.extend(delayed);
        packet
    }

    /// Matches a packet, and returns the answers with their callers. There is no answer if a broken machine ignores
    /// a violation.
    pub(super) fn receive(&mut self, packet: Packet<Fd>) -> Result<Vec<Answered>, Violation> {
        if self.is(Broken::KeepsDescriptorsOfViolations) && packet.truncated {
            packet.fds.iter().for_each(Fd::keep);
        }
        let (ticket, answer) = match self.session.receive(packet, |fd| fd.is_pipe) {
            Err(_) if self.is(Broken::SurvivesViolations) => return Ok(Vec::new()),
            received => received?,
        };
        let gone = ticket.is_some_and(|ticket| ticket.gone);
        if let Ok(grant) = &answer
            && gone
            && self.is(Broken::KeepsDescriptorsOfLeavers)
        {
            grant.pipes().for_each(Fd::keep);
        }
        Ok(match (self.broken, answer) {
            (Some(Broken::AnswersTwice), Err(refusal)) => {
                vec![(ticket, Err(refusal.clone())), (ticket, Err(refusal))]
            }
            (Some(Broken::DropsRefusals), Err(refusal)) => vec![(None, Err(refusal))],
            (Some(Broken::AnswersAnotherCaller), answer) => {
                let next = self
                    .session
                    .requests
                    .front_mut()
                    .and_then(|a| a.waiter.as_mut());
                let other = match (next, ticket) {
                    (Some(next), Some(ticket)) => Some(std::mem::replace(next, ticket)),
                    _ => ticket,
                };
                vec![(other, answer)]
            }
            (_, answer) => vec![(ticket, answer)],
        })
    }

    /// Steps the phase, as the actor does before each wait. Returns whether the connection has to end.
    pub(super) fn step(&mut self) -> bool {
        let is_idle = match self.broken {
            Some(Broken::EndsBeforeAllIsAnswered) => true,
            Some(Broken::AwaitsAnswersOfLeavers) => {
                self.session.in_flight.is_none() && self.session.is_idle()
            }
            _ => self.session.is_idle(),
        };
        self.phase.step(is_idle);
        if self.phase.awaits_blobs() {
            self.has_lease = self.is(Broken::KeepsItsOwnLease);
            if self.is(Broken::DoesNotAwaitBlobs) {
                self.phase.blobs_done();
                self.phase.step(is_idle);
            }
        }
        self.phase.is_finished()
    }

    /// Takes a finalizer. Returns the finalizer who is told at once that another one was first.
    pub(super) fn finalize(&mut self, finalizer: Finalizer) -> Option<Finalizer> {
        let replaces = self.is(Broken::ReplacesTheFinalizer);
        match &mut self.phase {
            Phase::Closing {
                finalizer: first, ..
            } if replaces => {
                *first = finalizer;
                None
            }
            phase => phase.finalize(UNTIL, finalizer).err(),
        }
    }

    pub(super) fn inbox_ended(&mut self) {
        self.phase.inbox_ended(UNTIL);
    }

    pub(super) fn accepts(&self) -> bool {
        self.phase.accepts() || (self.is(Broken::AcceptsAfterTheInbox) && !self.phase.is_finished())
    }

    /// Whether the last lease is gone, and the actor notices that in this phase.
    pub(super) fn last_lease_dropped(&self, callers: &[Caller]) -> bool {
        let has_lease = |caller: &Caller| {
            let awaited = !(caller.document.is_some() && self.is(Broken::DoesNotAwaitDocuments));
            caller.has_lease() && awaited
        };
        self.phase.awaits_blobs() && !self.has_lease && !callers.iter().any(has_lease)
    }

    pub(super) fn blobs_done(&mut self) {
        self.phase.blobs_done();
        if self.is(Broken::DoesNotSettle) {
            self.phase.step(true);
        }
    }

    /// Whether requests are still being answered, and there is a finalizer.
    fn drains_for_a_finalizer(&self) -> bool {
        matches!(
            &self.phase,
            Phase::Draining {
                finalizer: Some(_),
                ..
            }
        )
    }

    pub(super) fn deadline(&self) -> Option<u8> {
        match (self.broken, &self.phase) {
            (Some(Broken::AwaitsBlobsForEver), Phase::AwaitingBlobs { .. })
            | (Some(Broken::AwaitsAnswersForEver), Phase::Draining { .. }) => None,
            (Some(Broken::SpinsWhileDraining | Broken::DoesNotAwaitAnswers), _)
                if self.drains_for_a_finalizer() =>
            {
                Some(UNTIL)
            }
            (_, phase) => phase.deadline(),
        }
    }

    /// Handles the timer. Returns whether the phase has changed.
    pub(super) fn expire(&mut self) -> bool {
        if self.is(Broken::DoesNotAwaitAnswers) && self.drains_for_a_finalizer() {
            self.phase.step(true);
            return true;
        }
        self.phase.expire(UNTIL)
    }

    /// The finalizers who are told how the connection ended.
    pub(super) fn finalizers(&self, failed: bool) -> Vec<Finalizer> {
        let finalizer = self.phase.clone().into_finalizer();
        let count = match self.broken {
            Some(Broken::ForgetsTheFinalizer) => 0,
            Some(Broken::ForgetsTheFinalizerOfAFailure) if failed => 0,
            Some(Broken::AnswersTheFinalizerTwice) => 2,
            _ => 1,
        };
        finalizer.into_iter().cycle().take(count).collect()
    }

    pub(super) fn times_out(&self) -> bool {
        self.session.in_flight().is_some() && !self.is(Broken::IgnoresTheTimeout)
    }

    /// The waiting callers who are told that the connection has ended or failed.
    pub(super) fn drain(&mut self) -> Vec<Ticket> {
        let limit = if self.is(Broken::AnswersOnlyOneAtTheEnd) {
            1
        } else {
            usize::MAX
        };
        self.session.drain().take(limit).collect()
    }

    pub(super) fn queued(&self) -> impl Iterator<Item = &Queued<Ticket>> {
        self.session.releases.iter().chain(&self.session.requests)
    }

    /// The tickets of all waiting callers.
    pub(super) fn tickets(&self) -> impl Iterator<Item = Ticket> {
        let in_flight = self
            .session
            .in_flight
            .as_ref()
            .and_then(|(_, ticket)| *ticket);
        in_flight
            .into_iter()
            .chain(self.queued().filter_map(|queued| queued.waiter))
    }

    /// Takes note that this caller does not wait any more. The task that reads a manifest still waits.
    pub(super) fn leave(&mut self, caller: usize) {
        let Session {
            releases,
            requests,
            in_flight,
            ..
        } = &mut self.session;
        let queued = releases
            .iter_mut()
            .chain(requests)
            .filter_map(|queued| queued.waiter.as_mut());
        let in_flight = in_flight
            .iter_mut()
            .filter_map(|(_, ticket)| ticket.as_mut());
        for ticket in in_flight.chain(queued) {
            if ticket.caller == caller && ticket.want != Want::Document {
                ticket.gone = true;
            }
        }
    }
}
