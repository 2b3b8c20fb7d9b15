//! A model of the server, as far as the session can see the server.

use std::cell::Cell;
use std::rc::Rc;

use serde::Deserialize;
use serde_json::Value;

use super::caller::{CALLERS, Want};
use super::rule::{Offence, Rule};
use crate::protocol::{Method, Packet};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Yes,
    No,
    // The following answers are violations of the protocol.
    NoWithDescriptor,
    OneDescriptorTooMany,
    OneDescriptorTooFew,
    NotAPipe,
    NoPipeId,
    Truncated,
    DescriptorsLost,
    Nonsense,
}

impl Answer {
    const ALL: [Self; 10] = [
        Self::Yes,
        Self::No,
        Self::NoWithDescriptor,
        Self::OneDescriptorTooMany,
        Self::OneDescriptorTooFew,
        Self::NotAPipe,
        Self::NoPipeId,
        Self::Truncated,
        Self::DescriptorsLost,
        Self::Nonsense,
    ];

    /// Whether this answer is possible for the call.
    fn is_possible(self, call: Received) -> bool {
        let (fds, piped) = call.shape();
        match self {
            Self::OneDescriptorTooFew | Self::NotAPipe => fds > 0,
            Self::NoPipeId => piped,
            _ => true,
        }
    }
}

/// A descriptor in a packet.
#[derive(Debug)]
pub(super) struct Fd {
    pub(super) is_pipe: bool,
    /// The number of open descriptors of the same packet.
    open: Rc<Cell<usize>>,
}

impl Fd {
    pub(super) fn many(count: usize, is_pipe: bool, open: &Rc<Cell<usize>>) -> Vec<Self> {
        let new = || {
            open.set(open.get() + 1);
            let open = Rc::clone(open);
            Self { is_pipe, open }
        };
        std::iter::repeat_with(new).take(count).collect()
    }

    /// Leaks a copy of the descriptor.
    pub(super) fn keep(&self) {
        self.open.set(self.open.get() + 1);
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
    }
}

/// A pipe whose write end the server keeps open.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerPipe {
    pub(super) owner: usize,
    /// Whether the pipe is filled from memory, for a manifest.
    pub(super) memory: bool,
    pub(super) drained: bool,
    /// Whether the read end was closed early, so that the pipe will never be finished.
    pub(super) left_unfinished: bool,
}

/// A call that the server has received.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received {
    pub(super) method: Method,
    pub(super) caller: usize,
    pub(super) want: Want,
    /// The number of the image or pipe. For `OpenImage`, this is the caller's number.
    pub(super) id: usize,
}

impl Received {
    /// The number of descriptors in a successful reply, and whether the reply has a pipe id.
    pub(super) fn shape(self) -> (usize, bool) {
        match self.want {
            Want::Open | Want::Document | Want::Finish | Want::Close => (0, false),
            Want::Manifest | Want::Piped => (1, true),
            Want::Raw => (2, false),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Server {
    /// The owner of each open image, by the id of the image minus one. Ids are reused at once.
    pub(super) images: [Option<usize>; CALLERS],
    pub(super) pipes: [Option<ServerPipe>; 2 * CALLERS],
    pub(super) call: Option<Received>,
}

impl Server {
    pub(super) fn new() -> Self {
        Self {
            images: [None; CALLERS],
            pipes: [None; 2 * CALLERS],
            call: None,
        }
    }

    /// Parses a packet. A release of an image or pipe that does not exist is an offence.
    pub(super) fn understand(&self, packet: &[u8]) -> Result<Received, Offence> {
        let (method, argument) = parse(packet);
        let unknown = || Offence {
            rule: Rule::ReleasedOnce,
            what: format!("{method} of an image or pipe that does not exist"),
        };
        let id = argument;
        let image = || self.images[id - 1].ok_or_else(unknown);
        let (caller, want) = match method {
            Method::OpenImage => (argument, Want::Open),
            Method::GetManifest => (image()?, Want::Manifest),
            Method::GetRawBlob => (image()?, Want::Raw),
            Method::GetBlob => (image()?, Want::Piped),
            Method::CloseImage => (image()?, Want::Close),
            Method::FinishPipe => {
                let pipe = self.pipes[id - 1].ok_or_else(unknown)?;
                let want = if pipe.memory {
                    Want::Document
                } else {
                    Want::Finish
                };
                (pipe.owner, want)
            }
            other => unreachable!("nobody calls {other}"),
        };
        Ok(Received {
            method,
            caller,
            want,
            id,
        })
    }

    /// Whether the server can answer this call. `FinishPipe` waits until the pipe is drained or its read end is
    /// closed. A pipe that is filled from memory is being drained by a task, or was closed.
    pub(super) fn can_answer(&self, call: Received) -> bool {
        call.method != Method::FinishPipe
            || self.pipes[call.id - 1].is_none_or(|pipe| pipe.memory || pipe.drained)
    }

    /// The possible answers to the call that the server has received.
    pub(super) fn answers(&self) -> impl Iterator<Item = Answer> {
        let call = self.call.filter(|call| self.can_answer(*call));
        let answers = Answer::ALL.into_iter();
        answers.filter(move |answer| call.is_some_and(|call| answer.is_possible(call)))
    }

    /// Answers the call. `open` counts the descriptors in the reply.
    pub(super) fn answer(
        &mut self,
        call: Received,
        answer: Answer,
        open: &Rc<Cell<usize>>,
    ) -> Packet<Fd> {
        self.call = None;
        // The image or pipe is gone even if the server refuses the release.
        match call.method {
            Method::CloseImage => self.images[call.id - 1] = None,
            Method::FinishPipe => self.pipes[call.id - 1] = None,
            _ => {}
        }
        let (mut fds, mut text) = if matches!(answer, Answer::No | Answer::NoWithDescriptor) {
            (0, r#"{"success":false,"error":"no"}"#.to_owned())
        } else {
            let (fds, piped) = call.shape();
            let value = self.grant(call);
            let pipe = if piped && answer != Answer::NoPipeId {
                self.pipe(call)
            } else {
                0
            };
            (
                fds,
                format!(r#"{{"success":true,"value":{value},"pipeid":{pipe}}}"#),
            )
        };
        match answer {
            Answer::NoWithDescriptor | Answer::OneDescriptorTooMany => fds += 1,
            Answer::OneDescriptorTooFew => fds -= 1,
            Answer::Nonsense => text.truncate(7),
            _ => {}
        }
        Packet {
            truncated: answer == Answer::Truncated,
            fds_lost: answer == Answer::DescriptorsLost,
            ..packet(text, Fd::many(fds, answer != Answer::NotAPipe, open))
        }
    }

    /// The value of a successful reply.
    fn grant(&mut self, call: Received) -> String {
        match call.want {
            Want::Open => put(&mut self.images, call.caller).to_string(),
            Want::Manifest => r#""other:m""#.to_owned(),
            Want::Raw | Want::Piped => "1".to_owned(),
            Want::Document | Want::Finish | Want::Close => "null".to_owned(),
        }
    }

    /// Makes a pipe, and returns its number.
    fn pipe(&mut self, call: Received) -> usize {
        let pipe = ServerPipe {
            owner: call.caller,
            memory: call.want == Want::Manifest,
            drained: false,
            left_unfinished: false,
        };
        put(&mut self.pipes, pipe)
    }
}

/// Puts a value into the first free place, and returns the id of the place. Ids start at 1.
fn put<T>(places: &mut [Option<T>], new: T) -> usize {
    let free = places.iter().position(Option::is_none).expect("room");
    places[free] = Some(new);
    free + 1
}

pub(super) fn packet(text: String, fds: Vec<Fd>) -> Packet<Fd> {
    Packet {
        bytes: text.into_bytes(),
        fds,
        truncated: false,
        fds_lost: false,
    }
}

/// Parses the method and the first argument of a packet. The argument is a number, or the text of a number.
pub(super) fn parse(packet: &[u8]) -> (Method, usize) {
    #[derive(Deserialize)]
    struct Wire<'a> {
        method: &'a str,
        args: Vec<Value>,
    }
    let Wire { method, args } = serde_json::from_slice(packet).expect("a call");
    let mut methods = Method::ALL.iter().copied();
    let method = methods.find(|known| known.name() == method);
    let number = args[0].as_u64().map(|number| number as usize);
    let number = number.or_else(|| args[0].as_str()?.parse().ok());
    (method.expect("a method"), number.expect("an argument"))
}
