//! The proxy, call by call.

use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use futures_core::future::BoxFuture;
use oci_spec::image::{Descriptor, Digest, ImageConfiguration, ImageManifest};
use semver::Version;
use tokio::io::AsyncBufRead;
use tokio::sync::mpsc;

use crate::blob::{self, BlobStream, BlobStreamSource};
use crate::config::ImageProxyConfig;
use crate::error::{Error, GetBlobError, OPEN_VARLINK_SOCKET, Result};
use crate::image::{ConvertedLayerInfo, Dropped, OpenedImage};
use crate::transport::ImageReference;

/// A running skopeo that fetches images. Its calls can be made from several tasks at a time; the proxy answers them one
/// after another. The bytes of each blob come through a pipe of their own, so several blobs arrive at the same time.
///
/// A future of these calls may be dropped at any time: what it asked for is closed. With a skopeo before 1.19, the
/// proxy keeps one descriptor of a blob that was dropped early, until the proxy exits.
pub struct ImageProxy {
    proxy: longshore::ImageProxy,
    dropped: Dropped,
    /// Holds the images that were dropped without being closed. Nobody receives them.
    _still_open: mpsc::UnboundedReceiver<Arc<longshore::OpenedImage>>,
}

impl fmt::Debug for ImageProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageProxy").finish()
    }
}

/// Speaks to a proxy of longshore, so that a program can use both interfaces while it moves from one to the other.
impl From<longshore::ImageProxy> for ImageProxy {
    fn from(proxy: longshore::ImageProxy) -> Self {
        let (dropped, still_open) = mpsc::unbounded_channel();
        Self {
            proxy,
            dropped,
            _still_open: still_open,
        }
    }
}

/// The error of the call with this name in the protocol.
fn of(method: &'static str) -> impl Fn(longshore::Error) -> Error {
    move |error| Error::of_call(method, &error)
}

impl ImageProxy {
    /// Starts `skopeo` from the `PATH`, with its defaults.
    ///
    /// # Errors
    ///
    /// The errors of [`new_with_config`](Self::new_with_config).
    pub async fn new() -> Result<Self> {
        Self::new_with_config(ImageProxyConfig::default()).await
    }

    /// Starts a proxy with this configuration. The proxy ends at the latest when this process ends.
    ///
    /// # Errors
    ///
    /// [`Error::Configuration`] if options exclude each other, [`Error::SkopeoSpawnError`] if there is no skopeo,
    /// [`Error::ProxyTooOld`] if the proxy does not speak protocol 0.2.3 or a later 0.2 (skopeo 1.6 to 1.22),
    /// [`Error::Other`] with skopeo's stderr if it exits.
    pub async fn new_with_config(config: ImageProxyConfig) -> Result<Self> {
        let proxy = longshore::ImageProxy::new_with_config(config.into()).await;
        proxy.map(Self::from).map_err(of("Initialize"))
    }

    /// The version of the protocol that the proxy speaks.
    #[must_use]
    pub fn protocol_version(&self) -> &Version {
        self.proxy.protocol_version()
    }

    /// Whether the proxy has [`get_raw_blob`](Self::get_raw_blob): since protocol 0.2.8 (skopeo 1.19).
    #[must_use]
    pub fn supports_get_raw_blob(&self) -> bool {
        self.proxy.supports_get_raw_blob()
    }

    /// Whether the proxy has [`open_varlink_socket`](Self::open_varlink_socket): since protocol 0.2.9.
    #[must_use]
    pub fn supports_open_varlink_socket(&self) -> bool {
        self.proxy.supports_open_varlink_socket()
    }

    /// Opens an image by its skopeo reference, such as `docker://quay.io/fedora/fedora:latest`. skopeo checks the
    /// signature policy here (since 1.13).
    ///
    /// # Errors
    ///
    /// [`Error::RequestInitiationFailure`] or [`Error::RetryableRequestFailure`] with the reason of the registry
    /// or of skopeo.
    pub async fn open_image(&self, imgref: &str) -> Result<OpenedImage> {
        let image = self.proxy.open_image(imgref).await;
        image
            .map(|image| self.opened(image))
            .map_err(of("OpenImage"))
    }

    /// Opens the image of this reference.
    ///
    /// # Errors
    ///
    /// The errors of [`open_image`](Self::open_image).
    pub async fn open_image_ref(&self, imgref: &ImageReference) -> Result<OpenedImage> {
        self.open_image(&imgref.to_string()).await
    }

    /// Opens an image by its skopeo reference. `None` if skopeo reports that there is no
    /// such image.
    ///
    /// # Errors
    ///
    /// The errors of [`open_image`](Self::open_image); [`Error::RequestInitiationFailure`] before protocol 0.2.4.
    pub async fn open_image_optional(&self, imgref: &str) -> Result<Option<OpenedImage>> {
        let image = self.proxy.open_image_optional(imgref).await;
        let image = image.map_err(of("OpenImageOptional"))?;
        Ok(image.map(|image| self.opened(image)))
    }

    /// Opens the image of this reference. `None` if there is no such image.
    ///
    /// # Errors
    ///
    /// The errors of [`open_image_optional`](Self::open_image_optional).
    pub async fn open_image_optional_ref(
        &self,
        imgref: &ImageReference,
    ) -> Result<Option<OpenedImage>> {
        self.open_image_optional(&imgref.to_string()).await
    }

    fn opened(&self, image: longshore::OpenedImage) -> OpenedImage {
        OpenedImage::new(image, self.dropped.clone())
    }

    /// Closes an image. Every later call with it is an error. If another call with this image waits for its answer, the
    /// image is closed after that, in the background.
    ///
    /// # Errors
    ///
    /// [`Error::RequestInitiationFailure`] if the image is closed already.
    pub async fn close_image(&self, img: &OpenedImage) -> Result<()> {
        match Arc::into_inner(img.take("CloseImage")?) {
            Some(image) => {
                let closed = self.proxy.close_image(image).await;
                closed.map_err(of("CloseImage"))
            }
            None => Ok(()),
        }
    }

    /// Fetches the digest and the bytes of the image's manifest. A Docker schema 2 manifest is converted to an
    /// OCI image manifest. The digest is that of the original.
    ///
    /// # Errors
    ///
    /// [`Error::RequestInitiationFailure`] or [`Error::RetryableRequestFailure`] with skopeo's reason; [`Error::Other`]
    /// if the document is larger than [`connection.max_document_bytes`](ImageProxyConfig#structfield.connection).
    pub async fn fetch_manifest_raw_oci(&self, img: &OpenedImage) -> Result<(String, Vec<u8>)> {
        let fetched = self
            .proxy
            .fetch_manifest_raw_oci(&*img.get("GetManifest")?)
            .await;
        let (digest, raw) = fetched.map_err(of("GetManifest"))?;
        Ok((digest.to_string(), raw))
    }

    /// Fetches the digest and the manifest like [`fetch_manifest_raw_oci`](Self::fetch_manifest_raw_oci),
    /// and parses it.
    ///
    /// # Errors
    ///
    /// The errors of [`fetch_manifest_raw_oci`](Self::fetch_manifest_raw_oci), and [`Error::SerDe`].
    pub async fn fetch_manifest(&self, img: &OpenedImage) -> Result<(String, ImageManifest)> {
        let (digest, raw) = self.fetch_manifest_raw_oci(img).await?;
        Ok((digest, serde_json::from_slice(&raw)?))
    }

    /// Fetches the bytes of the image config in the OCI form that skopeo writes. They can differ from the blob that the
    /// manifest names.
    ///
    /// # Errors
    ///
    /// The errors of [`fetch_manifest_raw_oci`](Self::fetch_manifest_raw_oci).
    pub async fn fetch_config_raw(&self, img: &OpenedImage) -> Result<Vec<u8>> {
        let fetched = self
            .proxy
            .fetch_config_raw(&*img.get("GetFullConfig")?)
            .await;
        fetched.map_err(of("GetFullConfig"))
    }

    /// Fetches the image config like [`fetch_config_raw`](Self::fetch_config_raw), and parses it.
    ///
    /// # Errors
    ///
    /// The errors of [`fetch_config_raw`](Self::fetch_config_raw), and [`Error::SerDe`].
    pub async fn fetch_config(&self, img: &OpenedImage) -> Result<ImageConfiguration> {
        let raw = self.fetch_config_raw(img).await?;
        Ok(serde_json::from_slice(&raw)?)
    }

    /// Fetches a blob. Returns a reader of its bytes and the *driver*, a future that returns the verdict.
    ///
    /// Await both together, or the driver after the reader. The reader ends where the bytes end, also if they are wrong
    /// or too few. The driver says whether all bytes came and have this size and digest. A reader that is dropped with
    /// more than 64 KiB to come makes the driver fail with a text that ends in `broken pipe`.
    ///
    /// # Errors
    ///
    /// [`Error::RequestInitiationFailure`] or [`Error::RetryableRequestFailure`] with the registry's reason. The method
    /// is `GetBlob` if this function returns the error, and `FinishPipe` if the driver does. [`Error::Other`] if the
    /// digest's algorithm is not known.
    pub async fn get_blob(
        &self,
        img: &OpenedImage,
        digest: &Digest,
        size: u64,
    ) -> Result<(
        impl AsyncBufRead + Send + Unpin + use<>,
        impl Future<Output = Result<()>> + Unpin + use<'_>,
    )> {
        let blob = self
            .proxy
            .get_blob(&*img.get("GetBlob")?, digest, size)
            .await;
        let blob = blob.map_err(of("GetBlob"))?;
        let (reader, verdict) = blob::split(blob, size);
        let driver: BoxFuture<'_, Result<()>> = Box::pin(blob::driver_of_get_blob(verdict));
        Ok((reader, driver))
    }

    /// Fetches the blob of this descriptor: [`get_blob`](Self::get_blob) with its digest and size.
    ///
    /// # Errors
    ///
    /// The errors of [`get_blob`](Self::get_blob).
    pub async fn get_descriptor(
        &self,
        img: &OpenedImage,
        descriptor: &Descriptor,
    ) -> Result<(
        impl AsyncBufRead + Send + Unpin + use<>,
        impl Future<Output = Result<()>> + Unpin + use<'_>,
    )> {
        self.get_blob(img, descriptor.digest(), descriptor.size())
            .await
    }

    /// Fetches a blob **without any check**. The call has the call timeout of
    /// [`connection`](ImageProxyConfig::connection); the bytes have no timeout. Returns three values: the size (`None`
    /// if the registry announced none), the pipe with the bytes, and a future that returns the error that the proxy
    /// reports. Read the pipe while the future is awaited.
    ///
    /// # Errors
    ///
    /// The errors of [`get_blob`](Self::get_blob), with the method `GetRawBlob`. A proxy before protocol 0.2.8 is also
    /// an error ([`supports_get_raw_blob`](Self::supports_get_raw_blob)).
    pub async fn get_raw_blob(
        &self,
        img: &OpenedImage,
        digest: &Digest,
    ) -> Result<(
        Option<u64>,
        tokio::fs::File,
        impl Future<Output = std::result::Result<(), GetBlobError>> + Unpin + use<'_>,
    )> {
        let blob = self
            .proxy
            .get_raw_blob(&*img.get("GetRawBlob")?, digest)
            .await;
        let blob = blob.map_err(of("GetRawBlob"))?;
        let size = blob.announced();
        let (pipe, ended) = blob.into_pipe().map_err(of("GetRawBlob"))?;
        let error: BoxFuture<'_, _> = Box::pin(async move {
            match ended.await {
                Ok(()) => Ok(()),
                Err(error) => GetBlobError::of(&error),
            }
        });
        Ok((size, tokio::fs::File::from_std(File::from(pipe)), error))
    }

    /// Fetches a blob as a stream. This crate verifies the bytes, whatever version of the protocol
    /// the proxy speaks. The driver of the stream says whether the
    /// bytes have this size and digest. If the reader was dropped with more than 64 KiB to come, the driver is `Ok`
    /// with `GetRawBlob`, and an error with `GetBlob`, as in the other crate.
    ///
    /// # Errors
    ///
    /// The errors of [`get_blob`](Self::get_blob). If the proxy has `GetRawBlob`, the error is [`Error::Other`] for a
    /// wrong size or digest, and the driver returns [`Error::BlobError`] for an error that the proxy reports.
    pub async fn get_blob_stream<'a>(
        &'a self,
        img: &OpenedImage,
        digest: &Digest,
        expected_size: u64,
    ) -> Result<BlobStream<'a>> {
        let raw = self.supports_get_raw_blob();
        let (source, method) = if raw {
            (BlobStreamSource::GetRawBlob, "GetRawBlob")
        } else {
            (BlobStreamSource::GetBlob, "GetBlob")
        };
        let image = img.get(method)?;
        let blob = self.proxy.get_blob(&image, digest, expected_size).await;
        let blob = blob.map_err(|error| {
            let wrong = raw.then(|| blob::of_stream(digest, &error)).flatten();
            wrong.unwrap_or_else(|| Error::of_call(method, &error))
        })?;
        let (reader, verdict) = blob::split(blob, expected_size);
        let driver: BoxFuture<'a, Result<()>> = if raw {
            Box::pin(blob::driver_of_stream(verdict, digest.clone()))
        } else {
            Box::pin(blob::driver_of_get_blob(verdict))
        };
        Ok(BlobStream::new(source, expected_size, reader, driver))
    }

    /// Fetches the list of the layers that the proxy can send, in order. `None` before protocol 0.2.5 (skopeo 1.11).
    /// The list is needed for `containers-storage:`, whose layers are not those of the manifest.
    ///
    /// # Errors
    ///
    /// [`Error::SerDe`] if the transport does not know the size of a layer, and the errors of
    /// [`fetch_manifest_raw_oci`](Self::fetch_manifest_raw_oci).
    pub async fn get_layer_info(
        &self,
        img: &OpenedImage,
    ) -> Result<Option<Vec<ConvertedLayerInfo>>> {
        let layers = self.proxy.get_layer_info(&*img.get("GetLayerInfo")?).await;
        let layers = layers.map_err(of("GetLayerInfo"))?;
        let convert = |layers: Vec<_>| layers.into_iter().map(ConvertedLayerInfo::new).collect();
        layers.map(convert).transpose()
    }

    /// Opens a connected socket to the proxy that speaks the varlink interface `org.composefs.Oci` for this image. It
    /// can be used as long as the proxy and the image are open.
    ///
    /// # Errors
    ///
    /// [`Error::ProxyTooOld`] before protocol 0.2.9
    /// ([`supports_open_varlink_socket`](Self::supports_open_varlink_socket)).
    pub async fn open_varlink_socket(&self, img: &OpenedImage) -> Result<OwnedFd> {
        let socket = self
            .proxy
            .open_varlink_socket(&*img.get(OPEN_VARLINK_SOCKET)?)
            .await;
        socket.map_err(of(OPEN_VARLINK_SOCKET))
    }

    /// Ends the proxy, and returns whether it ended well. Images that are still open are closed with it.
    ///
    /// # Errors
    ///
    /// [`Error::RequestReturned`] with the exit status and the end of stderr if the proxy failed.
    pub async fn finalize(self) -> Result<()> {
        let ended = self.proxy.finalize().await;
        ended.map_err(|error| Error::of_finalize(&error))
    }
}
