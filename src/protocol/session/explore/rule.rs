//! The rules that a connection has to obey.

/// A rule that has to hold in every state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Rule {
    /// Each accepted request is answered exactly once, and to its own caller.
    OneAnswer,
    /// Each descriptor is held by a caller or closed. Each image and pipe of the server is held by a caller, is being
    /// released, or, if it is a pipe, is left unfinished on purpose.
    NothingLost,
    /// An image or pipe is released only once, and only when no caller holds it any more.
    ReleasedOnce,
    /// `FinishPipe` is sent only for a pipe that is drained or filled from memory.
    OnlyDrainedIsFinished,
    /// No request is sent before a release that is queued.
    ReleasesFirst,
    /// No request is sent whose caller has left.
    LeaversAreNotSentFor,
    /// A violation of the protocol ends the connection.
    ViolationEnds,
    /// While a caller waits, a step is possible. If the server is stalled, that step is the timeout.
    NoDeadlock,
    /// No request is accepted after the inbox has ended.
    NothingAfterTheInbox,
    /// The connection ends in order only when all accepted requests are answered, and all blobs are finished or
    /// dropped. After the deadline, the connection ends although blobs are open or answers are missing. There is one
    /// exception: a connection with a finalizer waits for the answers to requests even after the deadline.
    EndsInOrder,
    /// After `finalize`, or when all handles and blobs are gone, the end can be reached without any move of a caller.
    /// With a finalizer, the end needs no answer to a request whose caller left, unless another call has to be sent
    /// after that request. Without handles, the end needs no answer at all.
    AlwaysEnds,
    /// A timer that fires changes the phase of the connection.
    TimerMovesOn,
    /// Each finalizer is told exactly once. The first one is told how the connection ended. The second one is told at
    /// once that another one was first.
    OneFinalizer,
}

impl Rule {
    pub(super) const ALL: [Self; 13] = [
        Self::OneAnswer,
        Self::NothingLost,
        Self::ReleasedOnce,
        Self::OnlyDrainedIsFinished,
        Self::ReleasesFirst,
        Self::LeaversAreNotSentFor,
        Self::ViolationEnds,
        Self::NoDeadlock,
        Self::NothingAfterTheInbox,
        Self::EndsInOrder,
        Self::AlwaysEnds,
        Self::TimerMovesOn,
        Self::OneFinalizer,
    ];
}

#[derive(Debug)]
pub(super) struct Offence {
    pub(super) rule: Rule,
    pub(super) what: String,
}

pub(super) type Checked = Result<(), Offence>;

pub(super) fn require(rule: Rule, holds: bool, what: impl FnOnce() -> String) -> Checked {
    if holds {
        Ok(())
    } else {
        let what = what();
        Err(Offence { rule, what })
    }
}
