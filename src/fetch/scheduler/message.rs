//! What the engine tells the scheduler, and what that has it do.

use std::time::{Duration, Instant};

use oci_spec::image::Digest;

use super::{BlobId, ImageId, KindId, UnitId};
use crate::fetch::retry::RetryPolicy;

/// What a unit is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::fetch) enum Task {
    /// Open this image.
    Open(ImageId),
    /// Fetch the config of this image, which is open there.
    Config(ImageId),
    /// Fetch this blob by this image, which is open there.
    Blob { blob: BlobId, by: ImageId },
}

/// What the engine is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fetch) enum Action<E> {
    /// Start a proxy of this kind.
    Start { unit: UnitId, kind: KindId },
    /// Have the unit do this.
    Give { unit: UnitId, task: Task },
    /// Take back the task that the unit has not begun, if it has not: see [`Scheduler::recalled`].
    Recall { unit: UnitId },
    /// Have the unit end what it is at, and then end.
    Retire { unit: UnitId },
    /// End the unit at once.
    Abandon { unit: UnitId },
    /// Close this image there: nobody needs it any more.
    Close { unit: UnitId, image: ImageId },
    /// All that was wanted of the image is there.
    Fetched(ImageId),
    /// The image failed with this error.
    Failed {
        image: ImageId,
        error: E,
        /// How often what failed was tried; 0 if it was not tried for this image.
        tries: u32,
    },
}

/// Why a task failed.
#[derive(Debug, Clone)]
pub(in crate::fetch) enum Setback<E> {
    /// No repetition changes it.
    Final(E),
    /// The image is no longer what it was.
    Changed(E),
    /// The proxy lost it: it is repeated at once. `sick`: this proxy can't be asked for more.
    Lost { error: E, sick: bool },
    /// What came was wrong: it is repeated after a wait.
    Broken(E),
    /// The registry refused the call that began then.
    Refused {
        error: E,
        began: Instant,
        why: Refused,
    },
}

/// Why a registry refused a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fetch) enum Refused {
    /// It may answer later.
    MayPass,
    /// It does not have it.
    Missing,
    /// It does not know who asks.
    Login,
    /// It wants to be asked less, and has been asked several times by the proxy itself.
    Throttled,
    /// For a reason that does not pass.
    ForGood,
}

/// What comes after a setback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fetch) enum Next {
    /// It is tried again after this wait; so many tries have failed.
    Again { failed: u32, wait: Duration },
    /// It is asked for in another way, which counts as the same try.
    Otherwise,
    /// It is given up.
    GivenUp,
}

/// What holds for all hosts.
#[derive(Debug, Clone)]
pub(in crate::fetch) struct Settings {
    pub(in crate::fetch) retry: RetryPolicy,
    /// How many proxies are started at a time.
    pub(in crate::fetch) processors: u32,
    /// The most units of all hosts together.
    pub(in crate::fetch) units: usize,
    /// The most blobs in flight.
    pub(in crate::fetch) in_flight: usize,
    /// Open an image by several units before it is known what there is to fetch.
    pub(in crate::fetch) start_ahead: bool,
    /// A limit of the rate makes all transfers slow.
    pub(in crate::fetch) is_limited: bool,
}

/// A blob that an image names. Only `copy` tells those apart that have the same digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fetch) struct Wanted {
    pub(in crate::fetch) digest: Digest,
    pub(in crate::fetch) copy: usize,
    pub(in crate::fetch) size: u64,
}

/// The error with which a unit ended.
#[derive(Debug)]
pub(in crate::fetch) struct Lost<E> {
    pub(in crate::fetch) error: E,
    /// Whether another start may work.
    pub(in crate::fetch) may_pass: bool,
}

impl<E> Setback<E> {
    pub(super) fn why(&self) -> Option<Refused> {
        match self {
            Self::Refused { why, .. } => Some(*why),
            _ => None,
        }
    }

    pub(in crate::fetch) fn error(&self) -> &E {
        match self {
            Self::Final(error)
            | Self::Changed(error)
            | Self::Broken(error)
            | Self::Lost { error, .. }
            | Self::Refused { error, .. } => error,
        }
    }

    pub(super) fn into_error(self) -> E {
        match self {
            Self::Final(error)
            | Self::Changed(error)
            | Self::Broken(error)
            | Self::Lost { error, .. }
            | Self::Refused { error, .. } => error,
        }
    }
}
