//! The types that the engine and the scheduler exchange.

use std::time::{Duration, Instant};

use oci_spec::image::Digest;

use super::{BlobId, HostId, ImageId, KindId, UnitId};
use crate::fetch::retry::RetryPolicy;

/// A task for a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::fetch) enum Task {
    /// Open this image.
    Open(ImageId),
    /// Fetch the config of this image, which is open in the unit.
    Config(ImageId),
    /// Fetch this blob through the image `by`, which is open in the unit.
    Blob { blob: BlobId, by: ImageId },
}

/// An action that the engine must carry out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::fetch) enum Action<E> {
    /// Start a proxy of this kind.
    Start { unit: UnitId, kind: KindId },
    /// Give the unit this task.
    Give { unit: UnitId, task: Task },
    /// Take back the task that the unit has not begun, if there is one, and call
    /// [`Scheduler::recalled`](super::Scheduler::recalled).
    Recall { unit: UnitId },
    /// Let the unit finish its tasks, and then end it.
    Retire { unit: UnitId },
    /// End the unit at once.
    Abandon { unit: UnitId },
    /// Close this image in the unit, because nothing needs it any more.
    Close { unit: UnitId, image: ImageId },
    /// Everything that was wanted of the image has been fetched.
    Fetched(ImageId),
    /// The image failed with this error.
    Failed {
        image: ImageId,
        error: E,
        /// How often the failed task was tried; 0 if it was not tried for this image.
        tries: u32,
    },
    /// Report that no unit asks this registry for as long as `wait`, because it refused a call with this error.
    Paused {
        host: HostId,
        wait: Duration,
        error: E,
    },
    /// Report that the registry throttles, and that at most this many units ask it from now on.
    Throttled { host: HostId, units: usize },
}

/// Why a task failed, as far as it matters for what is done next.
#[derive(Debug, Clone)]
pub(in crate::fetch) enum FailureKind<E> {
    /// A retry would not change this error.
    Final(E),
    /// The image at the source differs from the one that was opened first.
    Changed(E),
    /// The proxy lost the transfer, so the task is retried at once. With `unusable`, this proxy can't be asked
    /// for anything else.
    Lost { error: E, unusable: bool },
    /// The bytes were wrong or incomplete. The task is retried after a wait.
    Broken(E),
    /// The registry refused the call, which began at `began`.
    Refused {
        error: E,
        began: Instant,
        why: RefusalReason,
    },
}

/// Why a registry refused a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::fetch) enum RefusalReason {
    /// The registry may answer later.
    Transient,
    /// The registry does not have the object.
    Missing,
    /// The registry does not accept the credentials, or wants some.
    Login,
    /// The registry limits the rate of requests. The proxy has retried the call several times itself.
    Throttled,
    /// Another reason, which a retry can't change.
    Final,
}

/// The scheduler's decision after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fetch) enum Next {
    /// The task is retried after `wait`; `failed` tries have failed so far.
    Retry { failed: u32, wait: Duration },
    /// The failure does not count as a try: the blob is fetched through another image or source, or another unit opens
    /// or has opened the image.
    Rerouted,
    /// The task is given up.
    GivenUp,
}

/// The settings that apply to all hosts.
#[derive(Debug, Clone, Hash)]
pub(in crate::fetch) struct Settings {
    pub(in crate::fetch) retry: RetryPolicy,
    /// How many proxies may be starting at the same time.
    pub(in crate::fetch) starts_at_a_time: u32,
    /// The maximum number of units of all hosts together.
    pub(in crate::fetch) units: usize,
    /// The maximum number of blobs in flight.
    pub(in crate::fetch) in_flight: usize,
    /// Whether several units open the same image before its list of blobs is known.
    pub(in crate::fetch) start_ahead: bool,
    /// Whether a rate limit slows down all transfers.
    pub(in crate::fetch) is_limited: bool,
}

/// A blob that an image names. `copy` distinguishes blobs of the same digest that are fetched separately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fetch) struct Wanted {
    pub(in crate::fetch) digest: Digest,
    pub(in crate::fetch) copy: usize,
    pub(in crate::fetch) size: u64,
}

/// The error with which a unit ended.
#[derive(Debug)]
pub(in crate::fetch) struct UnitError<E> {
    pub(in crate::fetch) error: E,
    /// Whether starting another proxy may succeed.
    pub(in crate::fetch) is_transient: bool,
}

impl<E> FailureKind<E> {
    pub(super) fn why(&self) -> Option<RefusalReason> {
        match self {
            Self::Refused { why, .. } => Some(*why),
            _ => None,
        }
    }

    /// When the call began, if a later call may be answered although this one was refused.
    pub(super) fn transient_since(&self) -> Option<Instant> {
        match self {
            Self::Refused {
                why: RefusalReason::Transient,
                began,
                ..
            } => Some(*began),
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
