//! Images that are open in the proxy, and their layers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oci_spec::image::{Digest, MediaType};
use serde::de::Error as _;
use tokio::sync::{mpsc, watch};

use crate::error::{Error, Result};

/// The channel for images that their owners have dropped without closing them. The proxy holds them open until it ends.
pub(crate) type Dropped = mpsc::UnboundedSender<Arc<longshore::OpenedImage>>;

/// An image that is open in the proxy.
///
/// It stays open until [`close_image`](crate::ImageProxy::close_image) closes it or the proxy ends. Dropping this value
/// closes nothing.
pub struct OpenedImage {
    id: u64,
    /// `None` once the image is closed. The channel is used as a cell, so that `close_image` can empty it
    /// through a reference.
    image: watch::Sender<Option<Arc<longshore::OpenedImage>>>,
    dropped: Dropped,
}

impl OpenedImage {
    pub(crate) fn new(image: longshore::OpenedImage, dropped: Dropped) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            image: watch::Sender::new(Some(Arc::new(image))),
            dropped,
        }
    }

    /// The image for a call of this method, if it has not been closed.
    pub(crate) fn get(&self, method: &str) -> Result<Arc<longshore::OpenedImage>> {
        let image = self.image.borrow().clone();
        image.ok_or_else(|| closed(method))
    }

    /// Takes the image out, to close it.
    pub(crate) fn take(&self, method: &str) -> Result<Arc<longshore::OpenedImage>> {
        let image = self.image.send_replace(None);
        image.ok_or_else(|| closed(method))
    }
}

fn closed(method: &str) -> Error {
    Error::failed(method, "the image has been closed".to_owned(), false)
}

impl Drop for OpenedImage {
    fn drop(&mut self) {
        if let Some(image) = self.image.send_replace(None) {
            // If the proxy has gone, nothing is open any more.
            let _ = self.dropped.send(image);
        }
    }
}

impl fmt::Debug for OpenedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OpenedImage").field(&self.id).finish()
    }
}

/// Each opening of an image is equal to itself only.
impl PartialEq for OpenedImage {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for OpenedImage {}

/// A layer as the proxy sends it: the digest and size by which [`get_blob`](crate::ImageProxy::get_blob) fetches it.
///
/// It differs from the manifest's layer where the transport stores layers in another form: `containers-storage:` stores
/// them uncompressed.
#[derive(Debug, serde::Deserialize)]
pub struct ConvertedLayerInfo {
    /// The digest of the bytes that the proxy sends. For an uncompressed layer, this is the `diff_id` in
    /// the image config.
    pub digest: Digest,
    /// The number of bytes that the proxy sends.
    pub size: u64,
    /// The media type of these bytes.
    pub media_type: MediaType,
}

impl ConvertedLayerInfo {
    pub(crate) fn new(layer: longshore::LayerInfo) -> Result<Self> {
        let Some(size) = layer.size else {
            let text = format!(
                "the transport does not know the size of layer {}",
                layer.digest
            );
            return Err(Error::SerDe(serde_json::Error::custom(text)));
        };
        Ok(Self {
            digest: layer.digest,
            size,
            media_type: layer.media_type,
        })
    }
}
