//! What has to hold.

/// What holds in every state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Rule {
    /// Each accepted request is answered exactly once, and to its own caller.
    OneAnswer,
    /// Each descriptor is in somebody's hands or closed; each image and each
    /// pipe of the server is in somebody's hands, on its way back, or written
    /// off.
    NothingLost,
    /// What is given back is still there, and in nobody's hands any more.
    GivenBackOnce,
    /// `FinishPipe` only for a pipe that is drained or filled from memory.
    OnlyDrainedIsFinished,
    /// Nothing that asks goes out before something that gives back.
    ReturnsFirst,
    /// No request is sent whose caller has left.
    LeaversAreNotSentFor,
    /// After a violation of the protocol nothing goes on.
    ViolationEnds,
    /// As long as somebody waits, something can happen; if the server is
    /// stalled, a timeout.
    NoDeadlock,
    /// Nothing is accepted after the inbox has ended.
    NothingAfterTheInbox,
    /// The connection ends in order when all that was accepted is answered, and
    /// all blobs are done with. Once patience has run out, only answers to
    /// requests are still awaited, and only by a finalizer.
    EndsInOrder,
    /// After `finalize`, and when all handles and blobs are gone, an end can be
    /// reached without any move of a caller. A finalizer needs no answer to a
    /// request whose caller left, unless something else has to be sent after it.
    /// Without handles, no answer is needed at all.
    AlwaysEnds,
    /// A timer that fires moves the connection on.
    TimerMovesOn,
    /// Each finalizer is told exactly once: the first how the connection ended,
    /// and the second at once that another one was first.
    OneFinalizer,
}

impl Rule {
    pub(super) const ALL: [Self; 13] = [
        Self::OneAnswer,
        Self::NothingLost,
        Self::GivenBackOnce,
        Self::OnlyDrainedIsFinished,
        Self::ReturnsFirst,
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

pub(super) fn hold(rule: Rule, holds: bool, what: impl FnOnce() -> String) -> Checked {
    if holds {
        Ok(())
    } else {
        let what = what();
        Err(Offence { rule, what })
    }
}
