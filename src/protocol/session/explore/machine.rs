//! The session as the world drives it; and, for the sake of the rules, ones
//! that do one thing wrong.

use super::super::{Queued, Session, Waiter};
use super::rule::Rule;
use super::server::Fd;
use super::world::Want;
use crate::protocol::{Call, Grant, Held, Packet, Refusal, Violation};

/// Somebody who waits for the answer to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) caller: usize,
    pub(super) want: Want,
    pub(super) gone: bool,
}

impl Waiter for Ticket {
    fn is_gone(&self) -> bool {
        self.gone
    }
}

/// What a broken machine does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    AnswersTwice,
    AnswersAnotherCaller,
    SwallowsRefusals,
    SendsTwoAtOnce,
    SurvivesViolations,
    TellsOnlyOneOfTheEnd,
    EndsBeforeAllIsAnswered,
    KeepsDescriptorsOfLeavers,
    KeepsDescriptorsOfViolations,
    ForgetsImagesOfLeavers,
    ForgetsPipesOfLeavers,
    FinishesWhatIsNotDrained,
    PaysTwice,
    ClosesWhatIsInUse,
    LetsQueuedGoFirst,
    SendsForLeavers,
    IgnoresTheTimeout,
    NeverSendsReturns,
}

impl Broken {
    /// Each, with the rule that it breaks.
    pub(super) const ALL: [(Self, Rule); 18] = [
        (Self::AnswersTwice, Rule::OneAnswer),
        (Self::AnswersAnotherCaller, Rule::OneAnswer),
        (Self::SwallowsRefusals, Rule::OneAnswer),
        (Self::SendsTwoAtOnce, Rule::OneAnswer),
        (Self::SurvivesViolations, Rule::ViolationEnds),
        (Self::TellsOnlyOneOfTheEnd, Rule::OneAnswer),
        (Self::EndsBeforeAllIsAnswered, Rule::OneAnswer),
        (Self::KeepsDescriptorsOfLeavers, Rule::NothingLost),
        (Self::KeepsDescriptorsOfViolations, Rule::NothingLost),
        (Self::ForgetsImagesOfLeavers, Rule::NothingLost),
        (Self::ForgetsPipesOfLeavers, Rule::NothingLost),
        (Self::FinishesWhatIsNotDrained, Rule::OnlyDrainedIsFinished),
        (Self::PaysTwice, Rule::GivenBackOnce),
        (Self::ClosesWhatIsInUse, Rule::GivenBackOnce),
        (Self::LetsQueuedGoFirst, Rule::ReturnsFirst),
        (Self::SendsForLeavers, Rule::LeaversAreNotSentFor),
        (Self::IgnoresTheTimeout, Rule::NoDeadlock),
        (Self::NeverSendsReturns, Rule::NoDeadlock),
    ];
}

pub(super) type Answered = (Option<Ticket>, Result<Grant<Fd>, Refusal>);

#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) session: Session<Ticket>,
    broken: Option<Broken>,
}

impl Machine {
    pub(super) fn new(session: Session<Ticket>, broken: Option<Broken>) -> Self {
        Self { session, broken }
    }

    fn is(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    pub(super) fn ask(&mut self, call: &Call, ticket: Ticket) {
        self.session.ask(call, ticket).expect("accepted");
    }

    pub(super) fn give_back(&mut self, call: &Call, ticket: Option<Ticket>) {
        let forgotten = match call {
            Call::CloseImage(_) => Broken::ForgetsImagesOfLeavers,
            _ => Broken::ForgetsPipesOfLeavers,
        };
        if ticket.is_none() && self.is(forgotten) {
            return;
        }
        self.session.give_back(call, ticket);
        if self.is(Broken::PaysTwice) {
            self.session.give_back(call, None);
        }
    }

    /// The call that releases this, when the one who has it is done.
    pub(super) fn release(&self, mut held: Held) -> Option<Call> {
        if self.is(Broken::FinishesWhatIsNotDrained) {
            held.set_drained();
        }
        held.release()
    }

    /// Whether an image is closed as soon as something of it is granted.
    pub(super) fn closes_early(&self) -> bool {
        self.is(Broken::ClosesWhatIsInUse)
    }

    pub(super) fn can_send(&mut self) -> bool {
        if self.is(Broken::NeverSendsReturns) && !self.session.returns.is_empty() {
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
        let Self { session, broken } = self;
        let mut held_up = Vec::new();
        match broken {
            Some(Broken::SendsTwoAtOnce) => session.in_flight = None,
            Some(Broken::LetsQueuedGoFirst) if !session.asks.is_empty() => {
                held_up.extend(session.returns.drain(..));
            }
            Some(Broken::SendsForLeavers) => {
                for ticket in session.asks.iter_mut().filter_map(|a| a.waiter.as_mut()) {
                    ticket.gone = false;
                }
            }
            _ => {}
        }
        let packet = session.turn().map(|turn| {
            let packet = turn.packet().to_vec();
            turn.sent();
            packet
        });
        session.returns.extend(held_up);
        packet
    }

    /// Whose answer this is. None, if the machine overlooks a violation.
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
            (Some(Broken::SwallowsRefusals), Err(refusal)) => vec![(None, Err(refusal))],
            (Some(Broken::AnswersAnotherCaller), answer) => {
                let next = self
                    .session
                    .asks
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

    pub(super) fn is_idle(&self) -> bool {
        self.session.is_idle() || self.is(Broken::EndsBeforeAllIsAnswered)
    }

    pub(super) fn times_out(&self) -> bool {
        self.session.in_flight().is_some() && !self.is(Broken::IgnoresTheTimeout)
    }

    /// Those who are told that the connection has failed.
    pub(super) fn drain(&mut self) -> Vec<Ticket> {
        let few = if self.is(Broken::TellsOnlyOneOfTheEnd) {
            1
        } else {
            usize::MAX
        };
        self.session.drain().take(few).collect()
    }

    pub(super) fn queued(&self) -> impl Iterator<Item = &Queued<Ticket>> {
        self.session.returns.iter().chain(&self.session.asks)
    }

    /// All who wait.
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

    /// This caller does not wait any more. What reads a manifest is a task of
    /// its own, which does.
    pub(super) fn leave(&mut self, caller: usize) {
        let Session {
            returns,
            asks,
            in_flight,
            ..
        } = &mut self.session;
        let queued = returns
            .iter_mut()
            .chain(asks)
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
