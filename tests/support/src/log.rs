//! Everything that the library logs in this process, as text.

use std::fmt::{self, Write as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

static TEXT: Mutex<String> = Mutex::new(String::new());

struct Recorder(AtomicU64);

/// Records everything from now on, at every level, on every thread.
pub fn record_all() {
    // Another test of this binary may have been first.
    let _ = tracing::subscriber::set_global_default(Recorder(AtomicU64::new(1)));
}

/// The log so far.
pub fn recorded() -> String {
    TEXT.lock().unwrap().clone()
}

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

fn note(kind: &str, name: &str, fields: impl FnOnce(&mut Fields)) {
    let mut line = Fields(format!("{kind} {name}"));
    fields(&mut line);
    line.0.push('\n');
    TEXT.lock().unwrap().push_str(&line.0);
}

impl Subscriber for Recorder {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        note("span", span.metadata().name(), |fields| span.record(fields));
        Id::from_u64(self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        note("record", "", |fields| values.record(fields));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        note("event", event.metadata().name(), |fields| {
            event.record(fields);
        });
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
