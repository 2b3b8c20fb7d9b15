//! A connection with an open image, on which blobs are fetched.

use std::io;
use std::time::Duration;

use longshore::oci_spec::image::Digest;
use longshore::{Blob, BlobError, ConnectionOptions, Error, ImageProxy, OpenedImage};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::peer::{Flow, Framing, Peer};
use super::within_bound;

/// The stall timeout, which is short for the tests that wait for it.
pub const STALL: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct OpenImageFixture {
    pub image: OpenedImage,
    pub proxy: ImageProxy,
    pub peer: Peer,
    pub framing: Framing,
}

impl OpenImageFixture {
    pub async fn new(framing: Framing) -> Self {
        Self::with(framing, ConnectionOptions::default()).await
    }

    pub async fn with_short_stall_timeout(framing: Framing) -> Self {
        Self::with(framing, ConnectionOptions::default().stall_timeout(STALL)).await
    }

    pub async fn with(framing: Framing, options: ConnectionOptions) -> Self {
        let (mut peer, proxy) = Peer::connected_with(framing.version(), options).await;
        let (image, ()) = tokio::join!(proxy.open_image("x:"), peer.opens(1));
        let image = image.unwrap();
        Self {
            image,
            proxy,
            peer,
            framing,
        }
    }

    /// Asks for a blob, and lets the peer grant it.
    pub async fn get(
        &mut self,
        digest: &Digest,
        size: u64,
        announced: i64,
    ) -> (longshore::Result<Blob>, Flow) {
        let Self {
            image,
            proxy,
            peer,
            framing,
        } = self;
        tokio::join!(
            within_bound(proxy.get_blob(image, digest, size)),
            Flow::grant(peer, *framing, digest, size, announced)
        )
    }

    /// Checks that nothing unexpected was sent, and that everything ends in order.
    pub async fn end(self) {
        let Self {
            image,
            proxy,
            mut peer,
            ..
        } = self;
        peer.check_idle(&proxy).await;
        peer.end_with(proxy, vec![image]).await;
    }
}

/// Reads to the end. Returns the library's error, if there is one.
pub async fn read_all(reader: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    match within_bound(reader.read_to_end(&mut bytes)).await {
        Ok(_) => Ok(bytes),
        Err(error) => Err(library_error(error)),
    }
}

/// The library's error inside the I/O error.
pub fn library_error(error: io::Error) -> Error {
    error.downcast().unwrap()
}

/// The error of the blob.
#[track_caller]
pub fn blob_error(error: Error) -> BlobError {
    match error {
        Error::Blob { source, .. } => source,
        other => panic!("not about a blob: {other:?}"),
    }
}
