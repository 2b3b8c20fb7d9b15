//! The duration of calls, from the library's `tracing` events.

use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::set_global_default;
use tracing::{Event, Metadata, Subscriber};

use super::times::Durations;

/// The durations of all calls to all proxies.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// The time in the actor's inbox and queue.
    pub(crate) queued: Durations,
    /// The time from the sending of a call to its answer.
    pub(crate) round_trip: Durations,
}

/// The record of the calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Noted(Arc<Mutex<Calls>>);

impl Noted {
    pub(crate) fn take(&self) -> Calls {
        mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Records the calls of this process from now on.
pub(crate) fn record() -> anyhow::Result<Noted> {
    let noted = Noted::default();
    set_global_default(Recorder(noted.clone()))?;
    Ok(noted)
}

#[derive(Debug)]
struct Recorder(Noted);

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.fields().field(QUEUED).is_some()
    }

    fn event(&self, event: &Event<'_>) {
        let mut call = Call::default();
        event.record(&mut call);
        let mut calls = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.queued.add(call.queued);
        calls.round_trip.add(call.answered);
    }

    // No spans are enabled.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

const QUEUED: &str = "queued_us";
const ANSWERED: &str = "answered_us";

#[derive(Default)]
struct Call {
    queued: Duration,
    answered: Duration,
}

impl Visit for Call {
    fn record_u128(&mut self, field: &Field, micros: u128) {
        let time = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        match field.name() {
            QUEUED => self.queued = time,
            ANSWERED => self.answered = time,
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}
