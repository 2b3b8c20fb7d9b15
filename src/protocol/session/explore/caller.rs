//! The callers of the connection: what each of them holds and waits for.

use super::super::Waiter;
use crate::protocol::Held;

pub(super) const CALLERS: usize = 3;

/// The thing that a caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Want {
    Open,
    Manifest,
    /// The end of a manifest's pipe. A separate task waits for that end.
    Document,
    /// A blob by `GetRawBlob`.
    Raw,
    /// A blob by `GetBlob`.
    Piped,
    /// The verdict on a blob by `GetBlob`.
    Finish,
    Close,
}

impl Want {
    /// Whether this is a request through the inbox, and not a release.
    pub(super) fn is_asked(self) -> bool {
        !matches!(self, Self::Document | Self::Finish | Self::Close)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallerState {
    Nothing,
    Waiting(Want),
    /// The caller closed its image, could not open one, or has neither a handle nor a blob any more.
    Done,
    Left,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blob {
    Raw,
    Piped(Held),
}

#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) state: CallerState,
    /// Whether the caller can ask for something.
    pub(super) has_handle: bool,
    pub(super) image: Option<Held>,
    /// The pipe of a granted manifest that is not being read yet.
    pub(super) document: Option<Held>,
    pub(super) blob: Option<Blob>,
    pub(super) had_manifest: bool,
    pub(super) had_blob: bool,
}

impl Caller {
    pub(super) fn new() -> Self {
        Self {
            state: CallerState::Nothing,
            has_handle: true,
            image: None,
            document: None,
            blob: None,
            had_manifest: false,
            had_blob: false,
        }
    }

    /// Makes a caller who never exists, in a world of fewer callers.
    pub(super) fn nobody() -> Self {
        Self {
            state: CallerState::Left,
            ..Self::new()
        }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, CallerState::Done | CallerState::Left)
    }

    pub(super) fn keeps_the_inbox_open(&self) -> bool {
        self.has_handle && !self.is_done()
    }

    /// Whether the end of the connection has to wait for this caller's blob or document.
    pub(super) fn has_lease(&self) -> bool {
        self.blob.is_some()
            || self.document.is_some()
            || self.state == CallerState::Waiting(Want::Finish)
    }
}

/// A caller who waits for the answer to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) caller: usize,
    pub(super) want: Want,
    pub(super) gone: bool,
}

impl Ticket {
    pub(super) fn new(caller: usize, want: Want) -> Self {
        let gone = false;
        Self { caller, want, gone }
    }
}

impl Waiter for Ticket {
    fn is_gone(&self) -> bool {
        self.gone
    }
}
