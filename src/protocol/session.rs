//! The state machine of a connection: it decides which call is sent next, and to whom a reply belongs.
//!
//! Replies have no request id, and come strictly in the order of the calls. One call is in flight at a time, so that a
//! release (`FinishPipe`, `CloseImage`) waits for at most one request. A release overtakes all requests in
//! the queue.

use std::collections::VecDeque;

use semver::Version;

use super::reply::interpret;
use super::{Call, Grant, MAX_PACKET, Method, Packet, Refusal, Violation, supports};

/// A caller who waits for an answer, and may stop waiting.
pub(crate) trait Waiter {
    /// Whether the caller does not wait for the answer any more.
    fn is_gone(&self) -> bool;

    /// Whether the answer comes only when a blob has ended that is still being sent.
    fn waits_for_blob(&self) -> bool {
        false
    }
}

/// The reason why a call was not queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// The proxy is too old for the method.
    Unsupported { method: Method, found: Version },
    /// The call does not fit into a packet.
    TooLarge { method: Method, bytes: usize },
}

/// A call that waits for its turn.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Queued<W> {
    method: Method,
    packet: Vec<u8>,
    waiter: Option<W>,
}

impl<W: Waiter> Queued<W> {
    /// Whether nobody waits for the answer.
    fn is_abandoned(&self) -> bool {
        self.waiter.as_ref().is_none_or(Waiter::is_gone)
    }
}

/// The session of a connection: its queues, and the call in flight.
///
/// The waiter is generic, and so is the descriptor in [`receive`](Self::receive), so that tests need no socket.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Session<W> {
    version: Option<Version>,
    /// The releases. They are sent first, whether or not a caller waits for the answer.
    releases: VecDeque<Queued<W>>,
    /// The requests. Each is sent only if its caller still waits for the answer.
    requests: VecDeque<Queued<W>>,
    in_flight: Option<(Method, Option<W>)>,
}

impl<W: Waiter> Session<W> {
    pub(crate) fn new() -> Self {
        Self {
            version: None,
            releases: VecDeque::new(),
            requests: VecDeque::new(),
            in_flight: None,
        }
    }

    /// Queues a request. The request is dropped unsent if its waiter is gone before its turn comes.
    ///
    /// The version is not checked before the reply to `Initialize`, because no handle exists before that reply.
    ///
    /// # Errors
    ///
    /// Returns the waiter, and the reason why the request was rejected.
    pub(crate) fn ask(&mut self, call: &Call, waiter: W) -> Result<(), (Rejected, W)> {
        let method = call.method();
        if let Some(found) = &self.version
            && !supports(found, method)
        {
            let found = found.clone();
            return Err((Rejected::Unsupported { method, found }, waiter));
        }
        let packet = call.encode();
        if packet.len() > MAX_PACKET {
            let bytes = packet.len();
            return Err((Rejected::TooLarge { method, bytes }, waiter));
        }
        // Callers may come and leave while a call is in flight. Their requests are removed whenever the queue has grown
        // to another power of two, so the queue stays shorter than twice the number of callers who wait, at little
        // cost.
        if self.requests.len().is_power_of_two() {
            self.requests.retain(|asked| !asked.is_abandoned());
        }
        self.requests.push_back(Queued {
            method,
            packet,
            waiter: Some(waiter),
        });
        Ok(())
    }

    /// Queues a release, which overtakes all requests.
    pub(crate) fn queue_release(&mut self, call: &Call, waiter: Option<W>) {
        self.releases.push_back(Queued {
            method: call.method(),
            packet: call.encode(),
            waiter,
        });
    }

    /// Returns the call that is to be sent next. Until it is sent, a release may overtake it, and its waiter may
    /// leave, so the turn must be determined again after each event.
    pub(crate) fn turn(&mut self) -> Option<Turn<'_, W>> {
        if self.in_flight.is_some() {
            return None;
        }
        while self.requests.front().is_some_and(Queued::is_abandoned) {
            self.requests.pop_front();
        }
        // An early `FinishPipe` is not sent if its blob was dropped. The pipe is not drained, so the call could block.
        let is_dropped = |release: &Queued<W>| {
            let waiter = release.waiter.as_ref();
            waiter.is_some_and(|waiter| waiter.waits_for_blob() && waiter.is_gone())
        };
        while self.releases.front().is_some_and(is_dropped) {
            self.releases.pop_front();
        }
        let queue = if self.releases.is_empty() {
            &mut self.requests
        } else {
            &mut self.releases
        };
        let in_flight = &mut self.in_flight;
        (!queue.is_empty()).then_some(Turn { queue, in_flight })
    }

    /// Matches a packet with the call in flight. Returns the waiter and the answer. After a violation, the connection
    /// can't be used any more.
    #[expect(clippy::type_complexity, reason = "an answer, and to whom it goes")]
    pub(crate) fn receive<F>(
        &mut self,
        packet: Packet<F>,
        is_pipe: impl Fn(&F) -> bool,
    ) -> Result<(Option<W>, Result<Grant<F>, Refusal>), Violation> {
        let method = match &self.in_flight {
            Some((method, _)) => *method,
            None => return Err(Violation::Unsolicited),
        };
        // On a violation, the waiter stays in flight, so that `drain` returns it.
        let answer = interpret(method, packet)?;
        match &answer {
            Ok(grant) if !grant.pipes().all(is_pipe) => return Err(Violation::NotAPipe),
            Ok(Grant::Version(version)) => self.version = Some(version.clone()),
            _ => {}
        }
        let waiter = self.in_flight.take().and_then(|(_, waiter)| waiter);
        Ok((waiter, answer))
    }

    /// The method of the call whose reply is awaited.
    pub(crate) fn in_flight(&self) -> Option<Method> {
        self.in_flight.as_ref().map(|(method, _)| *method)
    }

    /// Whether the call in flight is answered only when a blob has ended. Such a call has no time limit of its own.
    pub(crate) fn awaits_end_of_blob(&self) -> bool {
        let waiter = self
            .in_flight
            .as_ref()
            .and_then(|(_, waiter)| waiter.as_ref());
        waiter.is_some_and(Waiter::waits_for_blob)
    }

    /// Whether no release is queued, and no answer is awaited. The answer to a release without a waiter counts
    /// as awaited. An answer that comes only at the end of a blob does not, because the blob itself is awaited.
    pub(crate) fn is_idle(&self) -> bool {
        let has_left = |waiter: &Option<W>| waiter.as_ref().is_some_and(Waiter::is_gone);
        let awaited = self.in_flight.as_ref().map(|(_, waiter)| waiter);
        (awaited.is_none_or(has_left) || self.awaits_end_of_blob())
            && self.releases.is_empty()
            && self.requests.iter().all(|asked| has_left(&asked.waiter))
    }

    /// Removes the requests that are not sent, and returns their waiters.
    pub(crate) fn drain_requests(&mut self) -> impl Iterator<Item = W> {
        let requests = std::mem::take(&mut self.requests);
        requests.into_iter().filter_map(|queued| queued.waiter)
    }

    /// Removes and returns all waiters, when no reply will come any more.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = W> {
        let in_flight = self.in_flight.take().and_then(|(_, waiter)| waiter);
        let releases = std::mem::take(&mut self.releases);
        let requests = std::mem::take(&mut self.requests);
        let queued = releases.into_iter().chain(requests);
        in_flight
            .into_iter()
            .chain(queued.filter_map(|queued| queued.waiter))
    }
}

/// The call that is to be sent next.
#[derive(Debug)]
pub(crate) struct Turn<'s, W> {
    /// The queue whose first entry is the call.
    queue: &'s mut VecDeque<Queued<W>>,
    in_flight: &'s mut Option<(Method, Option<W>)>,
}

impl<W> Turn<'_, W> {
    /// The packet of the call.
    pub(crate) fn packet(&self) -> &[u8] {
        self.queue.front().map_or(&[], |queued| &queued.packet)
    }

    /// Takes note that the call is sent. The next reply belongs to this call.
    pub(crate) fn mark_sent(self) {
        let sent = self.queue.pop_front();
        *self.in_flight = sent.map(|queued| (queued.method, queued.waiter));
    }
}

#[cfg(test)]
mod explore;

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::{HashMap, HashSet};
    use std::rc::Rc;

    use super::*;
    use crate::protocol::{ImageId, PipeId};
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    struct Caller {
        number: usize,
        gone: Rc<Cell<bool>>,
        waits_for_blob: bool,
    }

    impl Caller {
        fn new(number: usize) -> Self {
            Self {
                number,
                gone: Rc::default(),
                waits_for_blob: false,
            }
        }

        fn early(number: usize) -> Self {
            Self {
                waits_for_blob: true,
                ..Self::new(number)
            }
        }
    }

    impl Waiter for Caller {
        fn is_gone(&self) -> bool {
            self.gone.get()
        }

        fn waits_for_blob(&self) -> bool {
            self.waits_for_blob
        }
    }

    fn open(reference: &str) -> Call {
        Call::OpenImage {
            reference: reference.into(),
        }
    }

    fn reply(json: &str) -> Packet<u32> {
        Packet {
            bytes: json.into(),
            fds: vec![],
            truncated: false,
            fds_lost: false,
        }
    }

    fn ready(version: &str) -> Session<Caller> {
        let mut session = Session::new();
        session
            .ask(&Call::Initialize, Caller::new(0))
            .expect("queued");
        sent(&mut session).expect("sent");
        let json = format!(r#"{{"success":true,"value":"{version}"}}"#);
        let (_, answer) = receive(&mut session, &json).expect("a version");
        answer.expect("no refusal");
        session
    }

    /// Sends the next call, if there is one, and returns its packet.
    fn send(session: &mut Session<Caller>) -> Option<Vec<u8>> {
        let turn = session.turn()?;
        let packet = turn.packet().to_vec();
        turn.mark_sent();
        Some(packet)
    }

    fn sent(session: &mut Session<Caller>) -> Option<Method> {
        send(session).and_then(|_| session.in_flight())
    }

    #[expect(clippy::type_complexity, reason = "as `Session::receive`")]
    fn receive(
        session: &mut Session<Caller>,
        json: &str,
    ) -> Result<(Option<Caller>, Result<Grant<u32>, Refusal>), Violation> {
        session.receive(reply(json), |_| true)
    }

    #[test]
    fn a_call_may_fill_a_packet() {
        let mut session = Session::new();
        let open = |bytes: usize| Call::OpenImage {
            reference: "x".repeat(bytes),
        };
        let fits = MAX_PACKET - open(0).encode().len();
        assert!(session.ask(&open(fits), Caller::new(0)).is_ok());
        let (rejected, _) = session
            .ask(&open(fits + 1), Caller::new(1))
            .expect_err("a byte too many");
        assert!(matches!(rejected, Rejected::TooLarge { bytes, .. } if bytes == MAX_PACKET + 1));
    }

    #[test]
    fn a_call_that_the_proxy_does_not_support_is_rejected() {
        let mut session = ready("0.2.3");
        let call = Call::GetLayerInfo(ImageId::new(1).expect("not zero"));
        let (rejected, _) = session.ask(&call, Caller::new(1)).expect_err("too old");
        assert_eq!(
            rejected,
            Rejected::Unsupported {
                method: Method::GetLayerInfo,
                found: Version::new(0, 2, 3)
            }
        );
        assert!(session.is_idle());
    }

    #[test]
    fn a_call_larger_than_a_packet_is_rejected() {
        let mut session = ready("0.2.8");
        let (rejected, _) = session
            .ask(&open(&"x".repeat(MAX_PACKET)), Caller::new(1))
            .expect_err("too large");
        assert!(matches!(
            rejected,
            Rejected::TooLarge {
                method: Method::OpenImage,
                ..
            }
        ));
        assert!(session.is_idle());
    }

    #[test]
    fn an_early_finish_pipe_is_not_awaited_and_not_sent_for_a_dropped_blob() {
        let mut session = ready("0.2.3");
        let finish = Call::FinishPipe(PipeId::new(3).expect("not zero"));
        session.queue_release(&finish, Some(Caller::early(1)));
        assert!(!session.awaits_end_of_blob() && !session.is_idle());
        assert_eq!(sent(&mut session), Some(Method::FinishPipe));
        assert!(session.awaits_end_of_blob() && session.is_idle());
        let dropped = Caller::early(2);
        session.queue_release(&finish, Some(dropped.clone()));
        dropped.gone.set(true);
        let json = r#"{"success":true,"value":null}"#;
        let (caller, _) = receive(&mut session, json).expect("no violation");
        assert_eq!(caller.map(|caller| caller.number), Some(1));
        assert_eq!(sent(&mut session), None);
        assert!(session.is_idle());
    }

    #[test]
    fn finish_pipe_overtakes_queued_blobs() {
        let mut session = ready("0.2.8");
        session.ask(&open("a"), Caller::new(1)).expect("queued");
        session.ask(&open("b"), Caller::new(2)).expect("queued");
        assert_eq!(sent(&mut session), Some(Method::OpenImage));
        session.queue_release(&Call::FinishPipe(PipeId::new(3).expect("not zero")), None);
        assert_eq!(sent(&mut session), None, "one call at a time");
        let image = receive(&mut session, r#"{"success":true,"value":1}"#);
        assert!(matches!(image, Ok((Some(_), Ok(Grant::Image(Some(_)))))));
        assert_eq!(sent(&mut session), Some(Method::FinishPipe));
        let done = receive(&mut session, r#"{"success":true}"#);
        assert_eq!(done.map(|(_, answer)| answer), Ok(Ok(Grant::Done)));
        assert_eq!(sent(&mut session), Some(Method::OpenImage));
    }

    #[test]
    fn the_request_of_a_caller_who_left_is_not_sent() {
        let mut session = ready("0.2.8");
        let leaves = Caller::new(1);
        session.ask(&open("a"), leaves.clone()).expect("queued");
        session.ask(&open("b"), Caller::new(2)).expect("queued");
        leaves.gone.set(true);
        let packet = send(&mut session).expect("the other one");
        assert!(String::from_utf8(packet).expect("text").contains("\"b\""));
    }

    #[test]
    fn requests_of_callers_who_left_do_not_pile_up_behind_a_call_in_flight() {
        let mut session = ready("0.2.8");
        session.ask(&open("a"), Caller::new(1)).expect("queued");
        sent(&mut session).expect("sent");
        for waiting in 1..=3 {
            let stays = Caller::new(1 + waiting);
            session.ask(&open("b"), stays).expect("queued");
            for _ in 0..1000 {
                let leaves = Caller::new(0);
                session.ask(&open("c"), leaves.clone()).expect("queued");
                leaves.gone.set(true);
                let queued = session.requests.len();
                assert!(queued <= 2 * waiting, "{queued} of {waiting}");
            }
        }
        let mut left: Vec<_> = session.drain().map(|caller| caller.number).collect();
        left.retain(|number| *number > 0);
        assert_eq!(left, [1, 2, 3, 4]);
    }

    #[test]
    fn a_reply_that_nobody_asked_for_is_a_violation() {
        let mut session = ready("0.2.8");
        let unsolicited = receive(&mut session, r#"{"success":true}"#).map(|_| ());
        assert_eq!(unsolicited, Err(Violation::Unsolicited));
    }

    #[test]
    fn after_a_violation_the_caller_is_still_answered() {
        let mut session = ready("0.2.8");
        session.ask(&open("a"), Caller::new(1)).expect("queued");
        sent(&mut session).expect("sent");
        receive(&mut session, "nonsense")
            .map(|_| ())
            .expect_err("a violation");
        assert_eq!(session.drain().map(|c| c.number).collect::<Vec<_>>(), [1]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Ask,
        Release,
        Leave(usize),
        Send,
        Reply(bool),
        Nonsense,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Ask),
            2 => Just(Step::Release),
            1 => any::<usize>().prop_map(Step::Leave),
            4 => Just(Step::Send),
            4 => any::<bool>().prop_map(Step::Reply),
            1 => Just(Step::Nonsense),
        ];
        proptest::collection::vec(step, 0..80)
    }

    proptest! {
        /// Checks invariant 1 for any sequence of events: each caller who stays gets exactly one answer, which belongs
        /// to its own call.
        #[test]
        fn each_request_gets_exactly_one_answer(steps in steps()) {
            let mut session = ready("0.2.8");
            let mut callers: Vec<Caller> = Vec::new();
            let mut images: HashMap<u64, usize> = HashMap::new();
            let mut answered: HashSet<usize> = HashSet::new();
            let mut flying: Option<u64> = None;
            for step in steps {
                match step {
                    Step::Ask => {
                        let caller = Caller::new(callers.len());
                        callers.push(caller.clone());
                        // The "reference" is the caller's number + 1, and so is the image.
                        session.ask(&open(&(caller.number + 1).to_string()), caller).expect("queued");
                    }
                    Step::Release => {
                        let caller = Caller::new(callers.len());
                        callers.push(caller.clone());
                        session.queue_release(&Call::FinishPipe(PipeId::new(1).expect("not zero")), Some(caller));
                    }
                    Step::Leave(any) if !callers.is_empty() => callers[any % callers.len()].gone.set(true),
                    Step::Send => if let Some(packet) = send(&mut session) {
                        let json: serde_json::Value = serde_json::from_slice(&packet).expect("JSON");
                        flying = json["args"][0].as_str().map(|n| n.parse().expect("a number"));
                    },
                    Step::Reply(success) if session.in_flight().is_some() => {
                        let json = serde_json::json!({"success": success, "value": flying});
                        let (waiter, answer) = receive(&mut session, &json.to_string()).expect("fits");
                        let waiter = waiter.expect("all have one here");
                        prop_assert!(answered.insert(waiter.number));
                        if let Ok(Grant::Image(Some(image))) = answer {
                            images.insert(image.get(), waiter.number);
                        }
                    }
                    Step::Nonsense => {
                        receive(&mut session, "{").map(|_| ()).expect_err("a violation");
                        break;
                    }
                    Step::Leave(_) | Step::Reply(_) => {}
                }
            }
            for waiter in session.drain() {
                prop_assert!(answered.insert(waiter.number));
            }
            for caller in &callers {
                prop_assert!(caller.gone.get() || answered.contains(&caller.number));
            }
            for (image, number) in images {
                prop_assert_eq!(image, number as u64 + 1);
            }
            prop_assert!(session.is_idle());
        }
    }
}
