//! Carries out faults: chooses the one that hits a request, and changes the reply.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::fault::{Fault, FaultKind, Point, Target};
use super::http::Request;
use super::layout::Role;
use super::pull::Endpoint;
use super::reply::{Ending, Framing, Reply};

/// The current faults, with the number of requests that each limited one has hit.
///
/// The first fault in the list that matches a request and is not used up hits it, alone. So
/// `blob:status=500*1` followed by `blob:cut=half*1` changes the first two requests for blobs, each in its
/// own way.
#[derive(Debug, Default)]
pub struct ActiveFaults {
    faults: Vec<ActiveFault>,
}

#[derive(Debug)]
struct ActiveFault {
    fault: Fault,
    hits: AtomicU32,
    /// The times of the last requests that a limited rate allowed.
    passed: Mutex<VecDeque<Instant>>,
}

impl ActiveFaults {
    /// Makes these faults the current ones.
    pub fn new(faults: Vec<Fault>) -> Self {
        let faults = faults.into_iter().map(|fault| ActiveFault {
            fault,
            hits: AtomicU32::new(0),
            passed: Mutex::default(),
        });
        Self {
            faults: faults.collect(),
        }
    }

    /// Whether the choice of a fault depends on the roles of a blob.
    pub fn need_roles(&self) -> bool {
        self.faults
            .iter()
            .any(|active| matches!(active.fault.target, Target::Layer(_) | Target::Config))
    }

    /// Chooses the fault that hits a request, if any does, and counts the hit.
    pub fn choose(
        &self,
        request: &Request,
        endpoint: &Endpoint,
        roles: &[Role],
    ) -> Option<&FaultKind> {
        self.faults
            .iter()
            .filter(|active| active.fault.target.matches(endpoint, roles))
            .filter(|active| !(request.is_head() && active.fault.kind.needs_body()))
            .find(|active| active.exceeds_rate() && active.claim())
            .map(|active| &active.fault.kind)
    }
}

impl ActiveFault {
    /// Counts a hit, if there are any left.
    fn claim(&self) -> bool {
        let Some(limit) = self.fault.times else {
            return true;
        };
        let next = |hits| (hits < limit).then_some(hits + 1);
        self.hits
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .is_ok()
    }

    /// Whether a request exceeds a limited rate. If the rate is not limited, every request does.
    fn exceeds_rate(&self) -> bool {
        let FaultKind::Rate { limit, .. } = self.fault.kind else {
            return true;
        };
        let now = Instant::now();
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        while passed
            .front()
            .is_some_and(|then| now - *then >= Duration::from_secs(1))
        {
            passed.pop_front();
        }
        if passed.len() >= limit {
            return true;
        }
        passed.push_back(now);
        false
    }
}

/// Applies a fault to the reply to a request.
pub fn apply_fault(reply: &mut Reply, kind: &FaultKind, request: &Request) {
    match *kind {
        FaultKind::Status { code, retry_after } => *reply = refusal(code, retry_after),
        FaultKind::Rate { retry_after, .. } => *reply = refusal(429, retry_after),
        FaultKind::RedirectLoop => {
            let nothing = Reply::new(307, Vec::new(), Vec::new().into());
            *reply = nothing.with_header("Location", request.path.clone());
        }
        FaultKind::HeadersNever => reply.delivery.headers_after = None,
        FaultKind::LateHeaders(delay) => reply.delivery.headers_after = Some(delay),
        FaultKind::Gap(gap) => reply.delivery.gap = Some((reply.body.len() / 2, gap)),
        FaultKind::Trickle(pause) => reply.delivery.pause = Some(pause),
        FaultKind::Stall(point) => stop(reply, point, Ending::Stall),
        FaultKind::Cut(point) => stop(reply, point, Ending::Close),
        FaultKind::Reset(point) => stop(reply, point, Ending::Reset),
        FaultKind::Corrupt(offset) => {
            reply.delivery.flipped = Some(offset.unwrap_or(reply.body.len() / 2));
        }
        FaultKind::Longer { by, chunked } => resize(reply, reply.body.len() + by, chunked),
        FaultKind::Shorter { by, chunked } => {
            resize(reply, reply.body.len().saturating_sub(by), chunked);
        }
        FaultKind::ContentLength(length) => reply.delivery.framing = Framing::Length(length),
        FaultKind::NotJson => {
            let page = b"<html><body>Please log in to this network.</body></html>\n";
            reply.body = page.to_vec().into();
            resize(reply, page.len() as u64, false);
            forget_digest(reply);
        }
        FaultKind::BigManifest(length) => {
            resize(reply, reply.body.len().max(length), false);
            reply.delivery.filler = b' ';
            forget_digest(reply);
        }
    }
}

/// An error with the closest code of the distribution specification.
fn refusal(status: u16, retry_after: Option<u64>) -> Reply {
    let code = match status {
        401 => "UNAUTHORIZED",
        403 => "DENIED",
        404 => "NAME_UNKNOWN",
        429 => "TOOMANYREQUESTS",
        _ => "UNKNOWN",
    };
    let reply = Reply::error(status, code, "a fault that the test asked for");
    match retry_after {
        Some(seconds) => reply.with_header("Retry-After", seconds.to_string()),
        None => reply,
    }
}

fn stop(reply: &mut Reply, point: Point, ending: Ending) {
    reply.delivery.stop = Some((point.in_body(reply.body.len()), ending));
}

fn resize(reply: &mut Reply, length: u64, chunked: bool) {
    reply.delivery.length = length;
    reply.delivery.framing = if chunked {
        Framing::Chunked
    } else {
        Framing::Length(length)
    };
}

/// Removes the header with the digest of the correct body.
fn forget_digest(reply: &mut Reply) {
    reply
        .headers
        .retain(|(name, _)| *name != "Docker-Content-Digest");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn active(texts: &[&str]) -> ActiveFaults {
        let faults = texts.iter().map(|text| text.parse());
        ActiveFaults::new(faults.collect::<Result<_, _>>().unwrap_or_default())
    }

    fn choose(faults: &ActiveFaults, method: &str) -> Option<FaultKind> {
        let request = Request::for_test(method, "/v2/image/blobs/sha256:aa");
        let endpoint = Endpoint::of(&request.path);
        faults.choose(&request, &endpoint, &[]).cloned()
    }

    #[test]
    fn the_first_fault_with_uses_left_applies() {
        let faults = active(&["ping:not-json", "blob:cut=half*2", "blob:stall=half*1"]);
        let hits: Vec<_> = (0..4).map(|_| choose(&faults, "GET")).collect();
        let cut = Some(FaultKind::Cut(Point::Half));
        let stall = Some(FaultKind::Stall(Point::Half));
        assert_eq!(hits, [cut.clone(), cut, stall, None]);
    }

    #[test]
    fn a_fault_of_the_body_does_not_apply_to_head_requests() {
        let faults = active(&["blob:cut=half*1", "blob:headers-never"]);
        assert_eq!(choose(&faults, "HEAD"), Some(FaultKind::HeadersNever));
        assert_eq!(choose(&faults, "GET"), Some(FaultKind::Cut(Point::Half)));
    }

    #[test]
    fn a_limited_rate_lets_some_requests_pass() {
        let faults = active(&["blob:rate=2"]);
        let hits: Vec<_> = (0..4).map(|_| choose(&faults, "GET").is_some()).collect();
        assert_eq!(hits, [false, false, true, true]);
    }
}
