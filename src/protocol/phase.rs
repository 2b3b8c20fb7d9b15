//! The phases of a connection, from serving to the end in order.
//!
//! A connection ends when `finalize` is called, or when its last handle is dropped. Requests that were accepted before
//! are answered first. After that, open blobs are awaited.

/// The phase of a connection, stepped by its actor before each wait.
///
/// `I` is an instant of any clock. `F` is the finalizer: the caller of `finalize`, who is told how the proxy ended.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) enum Phase<I, F> {
    /// Requests are accepted.
    Serving,
    /// `finalize` was called, and the inbox is closed. Requests that are already in the inbox are still accepted.
    Closing { until: I, finalizer: F },
    /// The inbox has ended. Requests that were accepted are being answered.
    Draining { until: I, finalizer: Option<F> },
    /// No further blob is granted. Blobs that are open may be read to their end.
    AwaitingBlobs { until: I, finalizer: Option<F> },
    /// The last blob is finished or dropped. Releases that were sent until now are being answered.
    Settling { until: I, finalizer: Option<F> },
    /// The proxy has to be told to end.
    Finished { finalizer: Option<F> },
}

impl<I: Copy + Ord, F> Phase<I, F> {
    /// Closes the inbox for this finalizer, who waits for open blobs until the moment `until`.
    ///
    /// # Errors
    ///
    /// Returns the finalizer if another one was first.
    pub(crate) fn finalize(&mut self, until: I, finalizer: F) -> Result<(), F> {
        if !matches!(self, Self::Serving) {
            return Err(finalizer);
        }
        *self = Self::Closing { until, finalizer };
        Ok(())
    }

    /// Takes note that the inbox has ended: there will be no more requests. Without a finalizer, all handles are gone
    /// or the connection is given up, and unanswered requests are awaited until the moment `until`.
    pub(crate) fn inbox_ended(&mut self, until: I) {
        self.change(|phase| match phase {
            Self::Serving => Self::Draining {
                until,
                finalizer: None,
            },
            Self::Closing { until, finalizer } => Self::Draining {
                until,
                finalizer: Some(finalizer),
            },
            later => later,
        });
    }

    /// Moves to the next phase if all requests and releases are answered.
    pub(crate) fn step(&mut self, is_idle: bool) {
        self.change(|phase| match phase {
            Self::Draining { until, finalizer } if is_idle => {
                Self::AwaitingBlobs { until, finalizer }
            }
            Self::Settling { finalizer, .. } if is_idle => Self::Finished { finalizer },
            other => other,
        });
    }

    /// Takes note that the last open blob is finished or dropped.
    pub(crate) fn blobs_done(&mut self) {
        self.change(|phase| match phase {
            Self::AwaitingBlobs { until, finalizer } => Self::Settling { until, finalizer },
            other => other,
        });
    }

    /// The moment at which [`expire`](Self::expire) is due. `None` means never.
    ///
    /// | awaited | with a finalizer | without one |
    /// | --- | --- | --- |
    /// | answers to requests | without a deadline; each call has its time limit | until this moment |
    /// | open blobs | until this moment | while a caller holds one |
    /// | answers to the last releases | until this moment | until this moment |
    pub(crate) fn deadline(&self) -> Option<I> {
        match self {
            Self::Draining {
                until,
                finalizer: None,
            }
            | Self::AwaitingBlobs {
                until,
                finalizer: Some(_),
            }
            | Self::Settling { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// Moves to the next phase if the deadline has come. Returns whether it has come.
    pub(crate) fn expire(&mut self, now: I) -> bool {
        let due = self.deadline().is_some_and(|deadline| deadline <= now);
        if due {
            self.change(|phase| match phase {
                Self::Draining { until, finalizer } => Self::AwaitingBlobs { until, finalizer },
                Self::AwaitingBlobs { finalizer, .. } | Self::Settling { finalizer, .. } => {
                    Self::Finished { finalizer }
                }
                other => other,
            });
        }
        due
    }

    /// Whether requests are read from the inbox.
    pub(crate) fn accepts(&self) -> bool {
        matches!(self, Self::Serving | Self::Closing { .. })
    }

    /// Whether open blobs are awaited. No further blob is granted in this phase.
    pub(crate) fn awaits_blobs(&self) -> bool {
        matches!(self, Self::AwaitingBlobs { .. })
    }

    /// Whether the proxy has to be told to end.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(self, Self::Finished { .. })
    }

    /// Returns the finalizer, who is told how the connection ended. The connection may have ended in any phase.
    pub(crate) fn into_finalizer(self) -> Option<F> {
        match self {
            Self::Serving => None,
            Self::Closing { finalizer, .. } => Some(finalizer),
            Self::Draining { finalizer, .. }
            | Self::AwaitingBlobs { finalizer, .. }
            | Self::Settling { finalizer, .. }
            | Self::Finished { finalizer } => finalizer,
        }
    }

    fn change(&mut self, to: impl FnOnce(Self) -> Self) {
        *self = to(std::mem::replace(self, Self::Serving));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The deadline in these tests.
    const UNTIL: u8 = 10;

    type Tested = Phase<u8, &'static str>;

    /// An event that can change the phase.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        Finalize(&'static str),
        InboxEnded,
        Step { is_idle: bool },
        BlobsDone,
        Expire(u8),
    }

    use Event::{BlobsDone, Expire, Finalize, InboxEnded};

    const IDLE: Event = Event::Step { is_idle: true };
    const BUSY: Event = Event::Step { is_idle: false };

    /// Returns the name of the phase after these events, and its deadline.
    fn after(events: &[Event]) -> (&'static str, Option<u8>) {
        let mut phase = Tested::Serving;
        for event in events {
            match *event {
                Finalize(who) => drop(phase.finalize(UNTIL, who)),
                InboxEnded => phase.inbox_ended(UNTIL),
                Event::Step { is_idle } => phase.step(is_idle),
                BlobsDone => phase.blobs_done(),
                Expire(now) => drop(phase.expire(now)),
            }
        }
        let name = match &phase {
            Phase::Serving => "serving",
            Phase::Closing { .. } => "closing",
            Phase::Draining { .. } => "draining",
            Phase::AwaitingBlobs { .. } => "awaiting blobs",
            Phase::Settling { .. } => "settling",
            Phase::Finished { .. } => "finished",
        };
        assert_eq!(phase.accepts(), matches!(name, "serving" | "closing"));
        assert_eq!(phase.awaits_blobs(), name == "awaiting blobs");
        assert_eq!(phase.is_finished(), name == "finished");
        let deadline = phase.deadline();
        let first = events.iter().find_map(|event| match event {
            Finalize(who) => Some(*who),
            _ => None,
        });
        assert_eq!(phase.into_finalizer(), first, "{events:?}");
        (name, deadline)
    }

    #[test]
    fn each_event_leads_to_the_expected_phase() {
        let a = Finalize("a");
        let table: &[(&[Event], &str, Option<u8>)] = &[
            // Only the end of the inbox ends the serving.
            (&[], "serving", None),
            (&[IDLE, BlobsDone, Expire(UNTIL)], "serving", None),
            // After `finalize`, the inbox is read to its end, without a deadline.
            (&[a], "closing", None),
            (&[a, IDLE, BlobsDone, Expire(UNTIL)], "closing", None),
            (&[a, Finalize("b")], "closing", None),
            // A finalizer waits for all answers, and for blobs until the deadline.
            (&[a, InboxEnded], "draining", None),
            (
                &[a, InboxEnded, BUSY, BlobsDone, Expire(UNTIL)],
                "draining",
                None,
            ),
            (&[a, InboxEnded, IDLE], "awaiting blobs", Some(UNTIL)),
            (&[a, InboxEnded, IDLE, BUSY], "awaiting blobs", Some(UNTIL)),
            (
                &[a, InboxEnded, IDLE, Expire(UNTIL - 1)],
                "awaiting blobs",
                Some(UNTIL),
            ),
            (&[a, InboxEnded, IDLE, Expire(UNTIL)], "finished", None),
            (&[a, InboxEnded, IDLE, BlobsDone], "settling", Some(UNTIL)),
            (
                &[a, InboxEnded, IDLE, BlobsDone, BUSY],
                "settling",
                Some(UNTIL),
            ),
            (&[a, InboxEnded, IDLE, BlobsDone, IDLE], "finished", None),
            (
                &[a, InboxEnded, IDLE, BlobsDone, Expire(UNTIL)],
                "finished",
                None,
            ),
            // Without handles, answers are awaited until the deadline, and blobs without a deadline.
            (&[InboxEnded], "draining", Some(UNTIL)),
            (
                &[InboxEnded, BUSY, BlobsDone, Expire(UNTIL - 1)],
                "draining",
                Some(UNTIL),
            ),
            (&[InboxEnded, Expire(UNTIL)], "awaiting blobs", None),
            (&[InboxEnded, IDLE], "awaiting blobs", None),
            (&[InboxEnded, IDLE, Expire(UNTIL)], "awaiting blobs", None),
            (
                &[InboxEnded, IDLE, BlobsDone, BUSY],
                "settling",
                Some(UNTIL),
            ),
            (&[InboxEnded, IDLE, BlobsDone, IDLE], "finished", None),
            (
                &[InboxEnded, IDLE, BlobsDone, Expire(UNTIL)],
                "finished",
                None,
            ),
            // No event leads out of the last phase.
            (
                &[
                    InboxEnded, IDLE, BlobsDone, IDLE, InboxEnded, BUSY, BlobsDone,
                ],
                "finished",
                None,
            ),
        ];
        for (events, name, deadline) in table {
            assert_eq!(after(events), (*name, *deadline), "{events:?}");
        }
    }

    #[test]
    fn a_second_finalizer_is_returned_in_every_phase() {
        let mut phase = Tested::Serving;
        assert_eq!(phase.finalize(UNTIL, "a"), Ok(()));
        let events: [fn(&mut Tested); 5] = [
            |_| (),
            |phase| phase.inbox_ended(UNTIL),
            |phase| phase.step(true),
            Phase::blobs_done,
            |phase| phase.step(true),
        ];
        for event in events {
            event(&mut phase);
            assert_eq!(phase.finalize(UNTIL, "b"), Err("b"), "{phase:?}");
        }
        assert_eq!(phase.into_finalizer(), Some("a"));
    }

    #[test]
    fn a_deadline_that_has_come_always_moves_the_phase_on() {
        for finalizers in [0, 1] {
            let mut phase = Tested::Serving;
            if finalizers == 1 {
                phase.finalize(UNTIL, "a").expect("the first");
            }
            phase.inbox_ended(UNTIL);
            phase.step(finalizers == 1);
            assert!(phase.expire(UNTIL));
            assert!(!phase.expire(u8::MAX), "{phase:?}");
        }
    }
}
