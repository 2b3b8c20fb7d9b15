//! The picture as trace events in Chrome's format, which <https://ui.perfetto.dev> opens. Each proxy is a
//! process of the trace, and each of its lanes a thread.

use std::time::Duration;

use serde_json::{Value, json};

use super::names::{of_span, without_transport};
use super::picture::{Outcome, Phase, Picture, Proxy, Span, What};
use super::text;

/// The process of the trace that has the throughput, and is shown first.
const WHOLE: usize = 0;

/// The highest number of parts of the throughput.
const PARTS: usize = 1000;

/// Makes the JSON document of a picture.
pub(super) fn trace(picture: &Picture) -> Value {
    let mut events = vec![name_of(WHOLE, None, "pull")];
    let (width, rates) = picture.throughput.rates(picture.totals.duration, PARTS);
    for (part, rate) in (0_u32..).zip(rates) {
        let at = micros(width.saturating_mul(part));
        events.push(json!({
            "ph": "C", "name": "throughput", "pid": WHOLE, "ts": at,
            "args": { "bytes per second": rate },
        }));
    }
    for proxy in &picture.proxies {
        push_proxy(&mut events, proxy, picture.totals.duration);
    }
    for span in &picture.spans {
        push_span(&mut events, span);
    }
    json!({
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "title": text::title(picture),
            "totals": text::totals(picture),
            "failure": text::failure(picture),
            "left out": text::left_out(picture),
        },
    })
}

fn push_proxy(events: &mut Vec<Value>, proxy: &Proxy, end: Duration) {
    let pid = pid(proxy.number);
    events.push(name_of(pid, None, &format!("proxy {}", proxy.number)));
    events.push(json!({
        "ph": "M", "name": "process_sort_index", "pid": pid, "args": { "sort_index": pid },
    }));
    events.push(name_of(pid, Some(0), "process"));
    for lane in 0..proxy.lanes {
        events.push(name_of(pid, Some(tid(lane)), &format!("lane {lane}")));
    }
    let end = proxy.end.unwrap_or(end);
    let args = json!({ "ended": proxy.reason });
    events.push(slice("proxy", (pid, 0), (proxy.begin, end), &args));
    let starts_until = proxy.asked.unwrap_or(end);
    let args = json!({});
    events.push(slice("start", (pid, 0), (proxy.begin, starts_until), &args));
}

fn push_span(events: &mut Vec<Value>, span: &Span) {
    let Some(lane) = span.lane else {
        return;
    };
    let place = (pid(span.proxy), tid(lane));
    let mut args = json!({
        "image": without_transport(&span.image),
        "bytes": span.read,
        "try": span.failed_before + 1,
    });
    match &span.what {
        What::Layer { digest, size, .. } => {
            args["digest"] = json!(**digest);
            args["size"] = json!(size);
        }
        What::Several { count, failed } => {
            args["tries"] = json!(count);
            args["failed"] = json!(failed);
        }
        What::Manifest | What::Config => {}
    }
    match &span.outcome {
        Outcome::Done => {}
        Outcome::Unfinished => args["unfinished"] = json!(true),
        Outcome::Failed {
            reason,
            retry_after,
        } => {
            args["failed"] = json!(reason);
            args["retried_after_ms"] = json!(retry_after.map(|wait| wait.as_millis()));
        }
    }
    let name = of_span(span, true);
    events.push(slice(&name, place, (span.begin, span.end), &args));
    for (phase, begin, end) in span.phases() {
        let name = match phase {
            Phase::Wait => "wait",
            Phase::Receive => "receive",
            Phase::Stall => "stall",
            Phase::Store => "verify and store",
            // The slice of the span shows this already.
            Phase::Document | Phase::Several => continue,
        };
        events.push(slice(name, place, (begin, end), &json!({})));
    }
}

fn slice(
    name: &str,
    (pid, tid): (usize, usize),
    (begin, end): (Duration, Duration),
    args: &Value,
) -> Value {
    let length = micros(end) - micros(begin);
    json!({
        "ph": "X", "name": name, "pid": pid, "tid": tid, "ts": micros(begin), "dur": length, "args": args,
    })
}

/// The name of a process of the trace, or of one of its threads.
fn name_of(pid: usize, tid: Option<usize>, name: &str) -> Value {
    let what = match tid {
        Some(_) => "thread_name",
        None => "process_name",
    };
    json!({ "ph": "M", "name": what, "pid": pid, "tid": tid.unwrap_or(0), "args": { "name": name } })
}

fn pid(proxy: usize) -> usize {
    proxy.saturating_add(1)
}

fn tid(lane: usize) -> usize {
    lane + 1
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
