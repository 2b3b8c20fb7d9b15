//! The images that the proxy holds open for us.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::held::{GuardMessage, ReleaseGuard};
use crate::error::{Error, Result};
use crate::protocol::{Held, ImageId};

/// The number of a connection, unique in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionId(u64);

impl ConnectionId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// An image that is open in the proxy.
///
/// Dropping the image closes it in the background. [`ImageProxy::close_image`](crate::ImageProxy::close_image) closes
/// it and returns whether that succeeded. An open image does not keep the proxy running.
#[derive(Debug)]
pub struct OpenedImage {
    id: ImageId,
    connection: ConnectionId,
    /// The guard that closes the image.
    guard: ReleaseGuard,
}

impl OpenedImage {
    pub(crate) fn new(
        id: ImageId,
        connection: ConnectionId,
        release_tx: mpsc::UnboundedSender<GuardMessage>,
    ) -> Self {
        Self {
            id,
            connection,
            guard: ReleaseGuard::new(Held::Image(id), release_tx),
        }
    }

    /// The id of the image. Returns [`Error::ForeignImage`] if the image belongs to another connection.
    pub(crate) fn id_on(&self, connection: ConnectionId) -> Result<ImageId> {
        if self.connection == connection {
            Ok(self.id)
        } else {
            Err(Error::ForeignImage)
        }
    }

    /// Whether the image is open in this proxy, and not in another one.
    pub(crate) fn is_open_in(&self, proxy: &super::ImageProxy) -> bool {
        self.id_on(proxy.shared.connection).is_ok()
    }

    /// Closes the image. The future returns whether that succeeded, and need not be awaited.
    pub(crate) fn close(mut self) -> impl Future<Output = Result<()>> + Send + use<> {
        self.guard.release()
    }
}
