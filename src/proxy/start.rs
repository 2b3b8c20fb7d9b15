//! How a proxy is started, and connected to its actor.

use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tracing::instrument;

use super::actor::{Actor, Setup};
use super::child::Child;
use super::image::ConnectionId;
use super::message::{Granted, INBOX_MESSAGES, ask};
use super::transport::Transport;
use super::{ImageProxy, Shared, unexpected_grant};
use crate::config::{ConnectionOptions, ImageProxyConfig, Launch, Policy};
use crate::error::{Error, Result};
use crate::protocol::{CHECKS_POLICY_SINCE, Call, first_skopeo, is_compatible, skopeo_of};
use crate::time::timeout;

impl ImageProxy {
    /// Starts `skopeo` from the `PATH`, with the default configuration.
    ///
    /// # Errors
    ///
    /// The errors of [`new_with_config`](Self::new_with_config).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, the process is ended.
    pub async fn new() -> Result<Self> {
        Self::new_with_config(ImageProxyConfig::default()).await
    }

    /// Starts a proxy with this configuration.
    ///
    /// One thread for each proxy starts the process, supervises it and reaps it. The process is killed when this
    /// process exits. The proxy belongs to the tokio runtime in which this function is called.
    ///
    /// # Errors
    ///
    /// - [`Error::Config`] if the options can't be used; no proxy was started.
    /// - [`Error::Spawn`] if the program can't be started.
    /// - [`Error::Io`] if the credentials or another file of the configuration can't be read, or if the system provides
    ///   no socket, thread or memory file.
    /// - [`Error::ProxyExited`] if the process exits at once, with the end of its stderr.
    /// - [`Error::Disconnected`] if the process closes the connection and does not exit within 2 s.
    /// - [`Error::Incompatible`] if the proxy speaks another version of the protocol; [`Error::Protocol`] if its answer
    ///   does not follow the protocol.
    /// - [`Error::CallTimeout`] if the start or the first call takes longer than the
    ///   [`call_timeout`](ConnectionOptions#structfield.call_timeout).
    /// - [`Error::Unsupported`] if the configuration has a [`policy`](ImageProxyConfig#structfield.policy) or
    ///   [requires](ImageProxyConfig#structfield.require_policy) one, and this proxy checks none.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, the process is ended.
    #[instrument(level = "debug", skip_all)]
    pub async fn new_with_config(config: ImageProxyConfig) -> Result<Self> {
        config.validate()?;
        let options = config.connection.clone();
        let policy = config.policy_in_force();
        let launch = move || config.into_launch();
        let proxy = Self::launch(launch, options, policy.required).await?;
        proxy.warn_if_policy_unchecked(policy).await;
        Ok(proxy)
    }

    /// Starts a proxy. `launch` makes its command, and may block. With `requires_policy`, a proxy that checks no
    /// signature policy is an error.
    pub(crate) async fn launch(
        launch: impl FnOnce() -> Result<Launch> + Send + 'static,
        options: ConnectionOptions,
        requires_policy: bool,
    ) -> Result<Self> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(|errno| Error::io("can't make a socket pair")(errno.into()))?;
        let start = Child::start(launch, Stdio::from(theirs), Stdio::null());
        let child = match options.call_limit() {
            None => start.await?,
            Some(after) => timeout(after, start)
                .await
                .map_err(|_| Error::CallTimeout {
                    tries: 1,
                    method: "starting skopeo",
                    after,
                })??,
        };
        let proxy = Self::start_actor(ours, Some(child), options).await?;
        let found = proxy.protocol_version();
        if requires_policy && *found < CHECKS_POLICY_SINCE {
            return Err(Error::Unsupported {
                method: "checking a signature policy",
                required: CHECKS_POLICY_SINCE,
                found: found.clone(),
            });
        }
        Ok(proxy)
    }

    /// Logs a warning if this proxy checks no policy, and the policy in force may refuse images.
    pub(crate) async fn warn_if_policy_unchecked(&self, policy: Policy) {
        if self.checks_policy() {
            return;
        }
        let asked = tokio::task::spawn_blocking(move || policy.restricts_images());
        if asked.await.unwrap_or(true) {
            let found = self.protocol_version();
            tracing::warn!(
                "the signature policy is not checked: that needs skopeo {}; this is {}",
                first_skopeo(&CHECKS_POLICY_SINCE),
                skopeo_of(found)
            );
        }
    }

    /// Connects to a proxy that another program started, over this `SOCK_SEQPACKET` socket. This is for privilege
    /// separation and for tests.
    ///
    /// # Errors
    ///
    /// - [`Error::Io`] if the descriptor is not such a socket.
    /// - [`Error::Disconnected`] if the proxy closes the socket.
    /// - [`Error::Incompatible`] if the proxy speaks another version of the protocol; [`Error::Protocol`] if its answer
    ///   does not follow the protocol.
    /// - [`Error::CallTimeout`] if the proxy does not answer the first call within the
    ///   [`call_timeout`](ConnectionOptions#structfield.call_timeout).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, the socket is closed.
    pub async fn connect(socket: OwnedFd, options: ConnectionOptions) -> Result<Self> {
        Self::start_actor(socket, None, options).await
    }

    async fn start_actor(
        socket: OwnedFd,
        child: Option<Child>,
        options: ConnectionOptions,
    ) -> Result<Self> {
        let transport =
            Transport::new(socket).map_err(Error::io("can't use the proxy's socket"))?;
        let connection = ConnectionId::next();
        let (inbox, requests) = mpsc::channel(INBOX_MESSAGES);
        let (closed_tx, closed) = watch::channel(None);
        let actor = Actor::new(Setup {
            connection,
            transport,
            inbox: requests,
            child,
            closed: closed_tx,
            call_timeout: options.call_limit(),
            shutdown_timeout: options.shutdown_timeout,
        });
        tokio::spawn(actor.run());
        let version = match ask(&inbox, &closed, Call::Initialize).await {
            Ok(Granted::Version(version)) => version,
            Ok(other) => return Err(unexpected_grant(&other)),
            Err(Error::ProxyExited(exit)) => {
                let exit = exit.before_first_answer();
                return Err(Error::ProxyExited(Arc::new(exit)));
            }
            Err(error) => return Err(error),
        };
        if !is_compatible(&version) {
            return Err(Error::Incompatible { found: version });
        }
        tracing::debug!(%version, "the proxy is ready");
        Ok(Self {
            inbox,
            is_expendable: false,
            shared: Arc::new(Shared {
                connection,
                version,
                options,
                closed,
                runtime: Handle::current(),
                users: Arc::default(),
            }),
        })
    }
}
