//! Describes the faults of the registry in plain words.

use std::time::Duration;

use test_registry::fault::{Fault, FaultKind, Point, Target};

/// The description of these faults, one after the other.
pub(crate) fn describe_all(faults: &[Fault]) -> String {
    let each: Vec<_> = faults.iter().map(describe).collect();
    each.join("; ")
}

fn describe(fault: &Fault) -> String {
    let target = match &fault.target {
        Target::Any => "every request".to_owned(),
        Target::Ping => "the ping".to_owned(),
        Target::Manifest => "the manifest".to_owned(),
        Target::Blob => "every blob".to_owned(),
        Target::Layer(_) => "a layer".to_owned(),
        Target::BlobDigest(digest) => format!("blob {digest}"),
        Target::Config => "the config".to_owned(),
    };
    let times = match fault.times {
        None => String::new(),
        Some(1) => ", once".to_owned(),
        Some(2) => ", twice".to_owned(),
        Some(times) => format!(", {times} times"),
    };
    format!("{target} {}{times}", what(&fault.kind))
}

fn what(kind: &FaultKind) -> String {
    let length = |chunked: &bool| match chunked {
        true => "without a `Content-Length`",
        false => "with a `Content-Length` that agrees",
    };
    match kind {
        FaultKind::Status { code, retry_after } => match retry_after {
            None => format!("is refused with {code}"),
            Some(seconds) => format!("is refused with {code} and `Retry-After: {seconds}`"),
        },
        FaultKind::Rate { limit, .. } => format!("comes {limit} times a second at most"),
        FaultKind::RedirectLoop => "is redirected to itself".to_owned(),
        FaultKind::HeadersNever => "is never answered".to_owned(),
        FaultKind::LateHeaders(after) => format!("is answered after {}", duration(*after)),
        FaultKind::Gap(gap) => format!("pauses for {} in the middle", duration(*gap)),
        FaultKind::Trickle(pause) => format!("comes byte by byte, one every {}", duration(*pause)),
        FaultKind::Stall(point) => format!("stalls {}", place(*point)),
        FaultKind::Cut(point) => format!("is cut {}", place(*point)),
        FaultKind::Reset(point) => format!("is reset {}", place(*point)),
        FaultKind::Corrupt(_) => "has a wrong byte".to_owned(),
        FaultKind::Longer { by, chunked } => {
            format!("has {by} byte too many, {}", length(chunked))
        }
        FaultKind::Shorter { by, chunked } => {
            format!("has {by} byte too few, {}", length(chunked))
        }
        FaultKind::ContentLength(length) => format!("has a wrong `Content-Length`, {length}"),
        FaultKind::NotJson => "is a web page".to_owned(),
        FaultKind::BigManifest(length) => format!("has {} MiB", length >> 20),
    }
}

fn duration(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms % 1000 == 0 => format!("{} s", ms / 1000),
        ms => format!("{ms} ms"),
    }
}

fn place(point: Point) -> String {
    match point {
        Point::Byte(0) => "before its first byte".to_owned(),
        Point::Byte(at) => format!("after {at} bytes"),
        Point::Half => "in the middle".to_owned(),
        Point::Last => "before its last byte".to_owned(),
    }
}
