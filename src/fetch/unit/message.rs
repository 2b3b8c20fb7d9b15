//! The messages between the engine and its units: the work, and the reports.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::super::content::ImageContent;
use super::super::end::{AtWork, EndWatch};
use super::super::event::Events;
use super::super::handler::{Handler, Job};
use super::super::image::ImageData;
use super::super::rate::Limit;
use super::super::scheduler::{ImageId, Task, UnitId};
use crate::config::Platform;
use crate::error::Error;
use crate::proxy::{ImageProxy, OpenedImage};

/// The handler, limits and events of a fetch.
pub(in crate::fetch) struct FetchContext {
    pub(in crate::fetch) handler: Box<dyn Handler>,
    pub(in crate::fetch) limit: Option<Limit>,
    pub(in crate::fetch) events: Events,
    pub(in crate::fetch) end: EndWatch,
    /// The engine waits until all tasks have dropped this context.
    pub(in crate::fetch) _at_work: AtWork,
}

/// A task of the scheduler, with what the unit needs to do it.
pub(in crate::fetch) struct Work {
    pub(in crate::fetch) task: Task,
    pub(in crate::fetch) data: TaskData,
}

/// The data that a unit needs to do a task.
pub(in crate::fetch) enum TaskData {
    /// Open an image. If `known` is given, the opened image is compared with `known`, unless the image is
    /// at a registry.
    Open {
        reference: Arc<str>,
        known: Option<Arc<ImageData>>,
        /// The number of the image in the events.
        number: usize,
        events: Events,
    },
    /// Fetch the config of an image, and make the content of the image from it.
    Config {
        image: Arc<ImageData>,
        /// The number of the image in the events.
        number: usize,
        opened: Arc<OpenedImage>,
        context: Arc<FetchContext>,
    },
    /// Fetch a blob through an image that is open.
    Blob {
        job: Box<Job>,
        opened: Arc<OpenedImage>,
        context: Arc<FetchContext>,
    },
}

/// A report of a unit to the engine.
pub(in crate::fetch) enum Report {
    /// The proxy has started. The start took as long as `started`.
    Ready {
        unit: UnitId,
        proxy: ImageProxy,
        started: Duration,
    },
    /// An image is open.
    Opened {
        unit: UnitId,
        image: ImageId,
        opened: Arc<OpenedImage>,
        known: Arc<ImageData>,
        took: Duration,
    },
    /// The config of an image has been fetched.
    Configured {
        unit: UnitId,
        image: ImageId,
        content: Arc<ImageContent>,
    },
    /// The call for a blob was answered, and its bytes begin to arrive.
    Answered {
        unit: UnitId,
        task: Task,
        took: Duration,
    },
    /// No byte of a blob has come for a while, and the pipe does not tell whether the transfer broke off.
    Quiet { unit: UnitId, task: Task },
    /// A blob is done. `fetched` is false if the sink had it already.
    Done {
        unit: UnitId,
        task: Task,
        fetched: bool,
    },
    /// A task failed.
    Failed {
        unit: UnitId,
        task: Task,
        failure: Failure,
        /// The channel that tells the unit that it may send the next call. The engine drops the sender when the
        /// scheduler has taken note of the failure.
        recorded: Option<oneshot::Sender<()>>,
    },
}

impl Report {
    pub(in crate::fetch) fn unit(&self) -> UnitId {
        match self {
            Self::Ready { unit, .. }
            | Self::Opened { unit, .. }
            | Self::Configured { unit, .. }
            | Self::Answered { unit, .. }
            | Self::Quiet { unit, .. }
            | Self::Done { unit, .. }
            | Self::Failed { unit, .. } => *unit,
        }
    }
}

/// The reason why a task failed.
pub(in crate::fetch) enum Failure {
    /// The transfer failed, or the bytes were wrong.
    Fetching(Error),
    /// The call, which began at `began`, was refused.
    Refused { error: Error, began: Instant },
    /// The proxy has not answered the call, so no other call can be sent to it.
    Unanswered(Error),
    /// The handler failed for a reason of its own.
    Handling(Error),
}

impl Failure {
    /// The error because of which the proxy is lost, if the proxy is lost.
    pub(super) fn proxy_lost(&self) -> Option<Error> {
        match self {
            Self::Fetching(error) if error.is_closed() => Some(error.clone()),
            _ => None,
        }
    }
}

/// A kind of proxies. A proxy of one kind can't open the images of another kind.
#[derive(Debug)]
pub(in crate::fetch) struct Kind {
    /// A reference whose transport the proxies are started for.
    pub(in crate::fetch) example: Arc<str>,
    /// The platform that the proxies choose from indexes. `None` means the configured one.
    pub(in crate::fetch) platform: Option<Platform>,
}

/// The proxy that a unit starts with.
pub(in crate::fetch) enum ProxyOrigin {
    /// A proxy that is running already.
    Running(ImageProxy),
    /// A new proxy for images of this kind. `proxies` is the number of all proxies, the new one included.
    New { kind: Arc<Kind>, proxies: usize },
}
