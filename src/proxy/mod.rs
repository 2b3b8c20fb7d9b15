//! The client of one proxy: its public handle, [`ImageProxy`], and the modules behind it.

mod actor;
mod blob;
mod child;
mod held;
mod image;
mod message;
mod metadata;
mod output;
mod runtime_check;
mod start;
mod stderr_tail;
mod transport;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use oci_spec::image::{Descriptor, Digest, ImageConfiguration, ImageManifest};
use semver::Version;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::instrument;

pub(crate) use self::blob::QuietWatch;
pub use self::blob::{Blob, BlobDriver, BlobReader, RawBlob};
pub use self::image::OpenedImage;
pub(crate) use self::output::output;

use self::blob::{Source, TimeLimits};
use self::held::{HeldPipe, Lease};
use self::image::ConnectionId;
use self::message::{Granted, Request, ask, close_reason};
use crate::config::ConnectionOptions;
use crate::drain::verify::Verifier;
use crate::error::{BlobError, Error, Result};
use crate::protocol::{CHECKS_POLICY_SINCE, Call, ImageId, LayerInfo, Method, Violation, supports};
use crate::reference::ImageReference;

/// The largest size of a blob that the protocol's JSON carries exactly, in bytes: 2^53 − 1.
const MAX_SIZE: u64 = (1 << 53) - 1;

/// A handle to a running image proxy.
///
/// The handle is cheap to clone, and can be used from many tasks and threads at once. One task owns the connection,
/// and sends the calls one after another, in the order of the requests; calls that close an image or finish a blob come
/// before the requests that wait. Blobs do not use that connection: each has a
/// pipe of its own, and all pipes can be read at the same time.
///
/// ```no_run
/// # async fn example() -> longshore::Result<()> {
/// use longshore::{ImageProxy, ImageProxyConfig};
///
/// let proxy = ImageProxy::new_with_config(ImageProxyConfig::default()).await?;
/// let image = proxy.open_image("docker://quay.io/fedora/fedora:latest").await?;
/// let (digest, manifest) = proxy.fetch_manifest(&image).await?;
/// println!("{digest} has {} layers", manifest.layers().len());
/// proxy.close_image(image).await?;
/// proxy.finalize().await?;
/// # Ok(()) }
/// ```
///
/// When the last handle and the last [`Blob`] are dropped, the proxy is shut down in the background.
/// [`finalize`](Self::finalize) shuts the proxy down and returns how it ended.
///
/// # Cancel safety
///
/// Each method's future may be dropped at any time. A call that is not yet sent is then not sent. A call that is
/// already sent runs to its end in the proxy, and the image or pipe that it grants is released. Before protocol 0.2.8,
/// the proxy keeps one descriptor of a blob that was dropped early, until the proxy exits.
#[derive(Debug, Clone)]
pub struct ImageProxy {
    inbox: mpsc::Sender<Request>,
    shared: Arc<Shared>,
    /// Whether the connection may be given up for a blob, because no code outside of this library has this handle.
    is_expendable: bool,
}

#[derive(Debug)]
struct Shared {
    connection: ConnectionId,
    version: Version,
    options: ConnectionOptions,
    closed: watch::Receiver<Option<Error>>,
    /// The runtime in which the actor runs.
    runtime: Handle,
    /// Cloned for each unit that uses the proxy.
    users: Arc<()>,
}

impl ImageProxy {
    /// Allows that the connection is given up for a blob: see [`Blob::watch_quiet`].
    pub(crate) fn expendable(self) -> Self {
        Self {
            is_expendable: true,
            ..self
        }
    }

    pub(crate) fn is_expendable(&self) -> bool {
        self.is_expendable
    }

    /// Counts one more user, until the returned value is dropped.
    pub(crate) fn count_user(&self) -> Arc<()> {
        Arc::clone(&self.shared.users)
    }

    /// Whether several users are counted. Two pulls of one image can have the same proxy.
    pub(crate) fn has_several_users(&self) -> bool {
        // One is the proxy itself.
        Arc::strong_count(&self.shared.users) > 2
    }

    /// Whether this proxy is new enough to check the signature policy: from protocol 0.2.6 on (skopeo 1.13). With
    /// [`insecure_policy`](crate::ImageProxyConfig#structfield.insecure_policy), such a proxy still accepts every
    /// image. An older proxy accepts any image, whatever the system's policy says.
    #[must_use]
    pub fn checks_policy(&self) -> bool {
        *self.protocol_version() >= CHECKS_POLICY_SINCE
    }

    /// The version of the protocol that the proxy speaks.
    #[must_use]
    pub fn protocol_version(&self) -> &Version {
        &self.shared.version
    }

    /// The limits and timeouts of this connection.
    #[must_use]
    pub fn options(&self) -> &ConnectionOptions {
        &self.shared.options
    }

    /// Opens an image by its skopeo reference, such as `docker://quay.io/fedora/fedora:latest` or `oci:DIR:TAG`.
    /// skopeo 1.13 and later check the signature policy in this call.
    ///
    /// # Errors
    ///
    /// - [`Error::Refused`] with the reason of the registry or the policy.
    /// - [`Error::TooLarge`] if the reference does not fit into a packet.
    /// - The errors of every call: [`Error::ProxyExited`], [`Error::Disconnected`], [`Error::Protocol`],
    ///   [`Error::CallTimeout`], [`Error::RuntimeIdle`] and [`Error::Closed`].
    #[instrument(level = "debug", skip(self))]
    pub async fn open_image(&self, reference: &str) -> Result<OpenedImage> {
        match self
            .ask(Call::OpenImage {
                reference: reference.into(),
            })
            .await?
        {
            Granted::Image(Some(image)) => Ok(image),
            other => Err(unexpected_grant(&other)),
        }
    }

    /// Opens an image by an [`ImageReference`]. Everything else is as with [`open_image`](Self::open_image).
    ///
    /// # Errors
    ///
    /// The errors of [`open_image`](Self::open_image).
    pub async fn open_image_ref(&self, reference: &ImageReference) -> Result<OpenedImage> {
        self.open_image(&reference.to_string()).await
    }

    /// Opens an image, or returns `None` if the image does not exist. The proxy decides whether the image exists. For a
    /// tag that is missing in an `oci:` layout, this method returns an error with skopeo 1.18, and `None` with
    /// skopeo 1.22.
    ///
    /// # Errors
    ///
    /// The errors of [`open_image`](Self::open_image), and [`Error::Unsupported`] before protocol 0.2.4.
    #[instrument(level = "debug", skip(self))]
    pub async fn open_image_optional(&self, reference: &str) -> Result<Option<OpenedImage>> {
        match self
            .ask(Call::OpenImageOptional {
                reference: reference.into(),
            })
            .await?
        {
            Granted::Image(image) => Ok(image),
            other => Err(unexpected_grant(&other)),
        }
    }

    /// Closes an image, and waits until the proxy has closed it. Dropping an [`OpenedImage`] closes the image in
    /// the background.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignImage`], [`Error::Refused`], and the errors of every call (see
    /// [`open_image`](Self::open_image)). Even then, the image is closed, or its proxy is gone.
    ///
    /// # Cancel safety
    ///
    /// The image is closed even if the future is dropped before the answer.
    pub async fn close_image(&self, image: OpenedImage) -> Result<()> {
        image.id_on(self.shared.connection)?;
        runtime_check::answer_or_idle(&self.shared.runtime, image.close()).await
    }

    /// Fetches the image's manifest, parsed as an OCI image manifest, and the digest of the original manifest. This is
    /// [`fetch_manifest_raw_oci`](Self::fetch_manifest_raw_oci) with a parser.
    ///
    /// # Errors
    ///
    /// The errors of [`fetch_manifest_raw_oci`](Self::fetch_manifest_raw_oci), and [`Error::Decode`].
    pub async fn fetch_manifest(&self, image: &OpenedImage) -> Result<(Digest, ImageManifest)> {
        let (digest, raw) = self.fetch_manifest_raw_oci(image).await?;
        let manifest = serde_json::from_slice(&raw).map_err(Error::decode("manifest"))?;
        Ok((digest, manifest))
    }

    /// Fetches the bytes of the image's manifest, and the digest of the original manifest. The proxy converts a Docker
    /// schema 2 manifest to an OCI image manifest. The digest is then not the hash of the bytes.
    ///
    /// If the reference names an index, the manifest and its digest are those of the chosen platform.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] (for example for Docker schema 1), [`Error::DocumentTooLarge`], [`Error::ForeignImage`], and
    /// the errors of every call (see [`open_image`](Self::open_image)).
    pub async fn fetch_manifest_raw_oci(&self, image: &OpenedImage) -> Result<(Digest, Vec<u8>)> {
        match self.ask(Call::GetManifest(self.id_of(image)?)).await? {
            Granted::Manifest {
                digest,
                pipe,
                lease,
            } => Ok((digest, self.read(pipe, lease, "manifest").await?)),
            other => Err(unexpected_grant(&other)),
        }
    }

    /// Fetches the image config, parsed. This is [`fetch_config_raw`](Self::fetch_config_raw) with a parser.
    ///
    /// # Errors
    ///
    /// The errors of [`fetch_config_raw`](Self::fetch_config_raw), and [`Error::Decode`].
    pub async fn fetch_config(&self, image: &OpenedImage) -> Result<ImageConfiguration> {
        let raw = self.fetch_config_raw(image).await?;
        serde_json::from_slice(&raw).map_err(Error::decode("image config"))
    }

    /// Fetches the bytes of the image config, which the proxy serializes again in the OCI format. The bytes can differ
    /// from the blob that the manifest names, even for an OCI image. [`get_descriptor`](Self::get_descriptor) fetches
    /// that blob.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`], [`Error::DocumentTooLarge`], [`Error::ForeignImage`], and the errors of every call
    /// (see [`open_image`](Self::open_image)).
    pub async fn fetch_config_raw(&self, image: &OpenedImage) -> Result<Vec<u8>> {
        self.document(Call::GetFullConfig(self.id_of(image)?), "image config")
            .await
    }

    /// Fetches the bytes of the `config` part of the image config (the protocol's old method `GetConfig`).
    /// [`fetch_config`](Self::fetch_config) returns the whole config.
    ///
    /// # Errors
    ///
    /// The errors of [`fetch_config_raw`](Self::fetch_config_raw).
    pub async fn fetch_runtime_config_raw(&self, image: &OpenedImage) -> Result<Vec<u8>> {
        self.document(Call::GetConfig(self.id_of(image)?), "image config")
            .await
    }

    /// Fetches the list of the layers that the proxy can send, in order. The list is needed for `containers-storage:`,
    /// whose layers are not those of the manifest. `None` from a skopeo before 1.11 (protocol 0.2.5), which has no
    /// such list.
    ///
    /// From protocol 0.2.7 on, the list comes through a pipe, and its limit is
    /// [`max_document_bytes`](ConnectionOptions#structfield.max_document_bytes). With an older proxy, the list must fit
    /// into one packet. A list of about 200 layers or more does not fit, and the connection then fails.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`], [`Error::DocumentTooLarge`], [`Error::Decode`], [`Error::ForeignImage`], and the errors of
    /// every call (see [`open_image`](Self::open_image)).
    pub async fn get_layer_info(&self, image: &OpenedImage) -> Result<Option<Vec<LayerInfo>>> {
        let image = self.id_of(image)?;
        if self.supports_method(Method::GetLayerInfoPiped) {
            let call = Call::GetLayerInfoPiped(image);
            let raw = self.document(call, "layer info").await?;
            return serde_json::from_slice(&raw)
                .map(Some)
                .map_err(Error::decode("layer info"));
        }
        if !self.supports_method(Method::GetLayerInfo) {
            return Ok(None);
        }
        match self.ask(Call::GetLayerInfo(image)).await? {
            Granted::Layers(layers) => Ok(Some(layers)),
            other => Err(unexpected_grant(&other)),
        }
    }

    /// Fetches a blob, and checks its size (in bytes) and digest. See [`Blob`] for how to read it.
    ///
    /// The proxy starts the blob's HTTP request within this call. The call is `GetRawBlob` where the proxy supports it
    /// (protocol 0.2.8), and `GetBlob` otherwise.
    ///
    /// # Errors
    ///
    /// - [`Error::Blob`] if the registry refuses the blob or announces another size, or if the digest's algorithm is
    ///   unknown. The errors of every call (see [`open_image`](Self::open_image)) are in [`BlobError::Connection`].
    /// - [`Error::ForeignImage`] if another proxy has opened the image.
    #[instrument(level = "debug", skip(self, image))]
    pub async fn get_blob(&self, image: &OpenedImage, digest: &Digest, size: u64) -> Result<Blob> {
        let image = self.id_of(image)?;
        let wrong = Error::blob(digest);
        let verifier = Verifier::new(digest).ok_or_else(|| wrong(BlobError::UnknownAlgorithm))?;
        if size > MAX_SIZE {
            return Err(wrong(BlobError::ImpossibleSize(size)));
        }
        let raw = self.supports_method(Method::GetRawBlob);
        let call = if raw {
            Call::GetRawBlob {
                image,
                digest: digest.clone(),
            }
        } else {
            Call::GetBlob {
                image,
                digest: digest.clone(),
                size,
            }
        };
        let opened = self.open_blob(call, digest, Some((size, verifier))).await?;
        let blob = Blob::new(opened);
        match blob.announced() {
            Some(announced) if announced != size => {
                Err(wrong(BlobError::WrongSize { announced, size }))
            }
            _ => Ok(blob),
        }
    }

    /// Fetches the blob that a descriptor names: [`get_blob`](Self::get_blob) with the descriptor's digest and size.
    ///
    /// # Errors
    ///
    /// The errors of [`get_blob`](Self::get_blob).
    pub async fn get_descriptor(
        &self,
        image: &OpenedImage,
        descriptor: &Descriptor,
    ) -> Result<Blob> {
        self.get_blob(image, descriptor.digest(), descriptor.size())
            .await
    }

    /// Fetches a blob **without any check** of its digest. The size is only compared with the size that the registry
    /// announced, if it announced one. This is for callers that check both themselves, or that do not know the size.
    /// See [`RawBlob`] for how to read the blob.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] before protocol 0.2.8 (see [`supports_get_raw_blob`](Self::supports_get_raw_blob)), and
    /// otherwise the errors of [`get_blob`](Self::get_blob), without those about the size and about the algorithm of
    /// the digest.
    #[instrument(level = "debug", skip(self, image))]
    pub async fn get_raw_blob(&self, image: &OpenedImage, digest: &Digest) -> Result<RawBlob> {
        let call = Call::GetRawBlob {
            image: self.id_of(image)?,
            digest: digest.clone(),
        };
        self.open_blob(call, digest, None).await.map(RawBlob::new)
    }

    /// Opens a varlink socket of the proxy for this image (protocol 0.2.9). This library does not speak the protocol of
    /// that socket, and returns the socket as it is. The socket does not keep the proxy running: keep a handle of the
    /// proxy, and the image, while you use the socket.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] before protocol 0.2.9, [`Error::Refused`], [`Error::ForeignImage`], and the errors of
    /// every call (see [`open_image`](Self::open_image)).
    pub async fn open_varlink_socket(&self, image: &OpenedImage) -> Result<OwnedFd> {
        match self
            .ask(Call::OpenVarlinkSocket(self.id_of(image)?))
            .await?
        {
            Granted::Socket(socket) => Ok(socket),
            other => Err(unexpected_grant(&other)),
        }
    }

    /// Shuts the proxy down, and returns how it ended.
    ///
    /// 1. Requests that any handle made before are answered, each within the
    ///    [call timeout](ConnectionOptions#structfield.call_timeout). Other handles get [`Error::Closed`] from now on.
    /// 2. Open blobs may be read to their end, until the [shutdown
    ///    timeout](ConnectionOptions#structfield.shutdown_timeout) has passed since this call.
    /// 3. The proxy is told to exit. If this library started it, and it has not exited after another shutdown timeout,
    ///    it gets `SIGTERM` and, 2 s later, `SIGKILL`.
    ///
    /// # Errors
    ///
    /// - [`Error::ProxyExited`] if the process exited with a status other than 0, or was killed.
    /// - [`Error::CallTimeout`] if the proxy did not end in time.
    /// - [`Error::Closed`] if another handle called `finalize` first.
    /// - [`Error::RuntimeIdle`] if the runtime in which the proxy was made does not run.
    /// - The error with which the connection failed before.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before the request is accepted, this is the same as dropping the handle. After that,
    /// the shutdown continues without its caller.
    pub async fn finalize(self) -> Result<()> {
        let (reply, ended) = oneshot::channel();
        let Self { inbox, shared, .. } = self;
        let ending = async {
            let request = Request::Finalize { reply };
            inbox
                .send(request)
                .await
                .map_err(|_| close_reason(&shared.closed))?;
            // This handle must not keep the inbox open.
            drop(inbox);
            ended
                .await
                .unwrap_or_else(|_| Err(close_reason(&shared.closed)))
        };
        runtime_check::answer_or_idle(&shared.runtime, ending).await
    }

    /// Waits until the connection has failed or ended, and returns the error that every later call gets.
    ///
    /// # Cancel safety
    ///
    /// The future only observes the connection. Dropping it changes nothing.
    pub async fn failed(&self) -> Error {
        let mut closed = self.shared.closed.clone();
        let error = closed.wait_for(Option::is_some).await;
        error
            .ok()
            .and_then(|error| error.clone())
            .unwrap_or(Error::Closed)
    }

    /// The error with which the connection has failed or ended. `None` if the connection is open.
    pub(crate) fn close_error(&self) -> Option<Error> {
        self.shared.closed.borrow().clone()
    }

    /// Whether the proxy supports [`get_raw_blob`](Self::get_raw_blob): from protocol 0.2.8 on (skopeo 1.19). Such a
    /// proxy also ends the transfer of a blob that is dropped early.
    #[must_use]
    pub fn supports_get_raw_blob(&self) -> bool {
        self.supports_method(Method::GetRawBlob)
    }

    /// Whether the proxy supports [`open_image_optional`](Self::open_image_optional): from protocol 0.2.4 on.
    #[must_use]
    pub fn supports_open_image_optional(&self) -> bool {
        self.supports_method(Method::OpenImageOptional)
    }

    /// Whether the proxy supports [`get_layer_info`](Self::get_layer_info): from protocol 0.2.5 on (skopeo 1.11).
    #[must_use]
    pub fn supports_get_layer_info(&self) -> bool {
        self.supports_method(Method::GetLayerInfo)
    }

    /// Whether the proxy supports [`open_varlink_socket`](Self::open_varlink_socket): from protocol 0.2.9 on.
    #[must_use]
    pub fn supports_open_varlink_socket(&self) -> bool {
        self.supports_method(Method::OpenVarlinkSocket)
    }

    fn supports_method(&self, method: Method) -> bool {
        supports(&self.shared.version, method)
    }

    fn id_of(&self, image: &OpenedImage) -> Result<ImageId> {
        image.id_on(self.shared.connection)
    }

    async fn ask(&self, call: Call) -> Result<Granted> {
        let answer = ask(&self.inbox, &self.shared.closed, call);
        runtime_check::answer_or_idle(&self.shared.runtime, answer).await
    }

    async fn document(&self, call: Call, what: &'static str) -> Result<Vec<u8>> {
        match self.ask(call).await? {
            Granted::Document { pipe, lease } => self.read(pipe, lease, what).await,
            other => Err(unexpected_grant(&other)),
        }
    }

    async fn read(&self, pipe: HeldPipe, lease: Lease, what: &'static str) -> Result<Vec<u8>> {
        let limit = self.shared.options.max_document_bytes;
        metadata::read(pipe, lease, what, limit).await
    }

    async fn open_blob(
        &self,
        call: Call,
        digest: &Digest,
        check: Option<(u64, Verifier)>,
    ) -> Result<blob::Opened> {
        let (announced, source, lease) = match self.ask(call).await {
            Ok(Granted::RawBlob {
                size,
                data,
                error,
                lease,
            }) => (size, Source::raw(data, error)?, lease),
            Ok(Granted::Blob { size, pipe, lease }) => (size, Source::piped(pipe)?, lease),
            Ok(other) => return Err(unexpected_grant(&other)),
            Err(Error::Refused { refusal, .. }) => {
                return Err(Error::blob(digest)(BlobError::Refused(refusal)));
            }
            Err(error) if error.is_closed() => {
                return Err(Error::blob(digest)(BlobError::Connection(Box::new(error))));
            }
            Err(error) => return Err(error),
        };
        let (size, verifier) = check.unzip();
        Ok(blob::Opened {
            digest: digest.clone(),
            size,
            announced,
            source,
            verifier,
            limits: TimeLimits {
                stall_timeout: self.shared.options.stall_limit(),
                least_rate: self.shared.options.least_rate,
            },
            closed: self.shared.closed.clone(),
            lease,
        })
    }
}

/// Returns the error of a grant that does not fit its call. The session rejects such a grant, so this error can't
/// occur. It is here so that this code has no panic.
fn unexpected_grant(granted: &Granted) -> Error {
    let reason = format!("something else was granted: {granted:?}");
    let method = "a call";
    Violation::Value { method, reason }.into()
}
