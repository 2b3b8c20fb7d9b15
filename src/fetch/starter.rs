//! Starting proxies, as many as wanted, from one configuration.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::options::Transport;
use crate::config::{ConnectionOptions, ImageProxyConfig, Launch, Platform, Policy, Template};
use crate::error::Result;
use crate::proxy::{ImageProxy, output};

/// How long a further proxy of a registry may go on with the call that it is at,
/// once nobody waits for it. It has nothing to clean up, unless a policy has it ask
/// gpg, and each request to a registry that throttles is taken from those who still
/// work.
const FURTHER_SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Starter {
    template: Arc<Template>,
    connection: ConnectionOptions,
    policy: Policy,
    may_ask_gpg: bool,
    private_cache: bool,
    /// The registries at which an image could be opened, and with what login there is.
    proved: watch::Sender<BTreeSet<String>>,
}

impl Starter {
    /// Blocks, if the configuration has something to be read.
    pub(super) fn new(config: ImageProxyConfig, private_cache: bool) -> Result<Self> {
        let connection = config.connection.clone();
        let policy = config.policy_in_force();
        let may_ask_gpg = policy.may_ask_gpg();
        let template = Arc::new(config.into_template()?);
        Ok(Self {
            template,
            connection,
            policy,
            may_ask_gpg,
            private_cache,
            proved: watch::Sender::default(),
        })
    }

    /// The most bytes that one document may have.
    pub(super) fn max_document_bytes(&self) -> u64 {
        self.connection.max_document_bytes
    }

    /// Whether there may be credentials for this image's registry.
    pub(super) async fn may_have_login(&self, reference: &str) -> bool {
        let Transport::Registry { host } = Transport::of(reference) else {
            return false;
        };
        let (template, host) = (Arc::clone(&self.template), host.to_owned());
        let asked = tokio::task::spawn_blocking(move || template.logins.may_have(&host));
        asked.await.unwrap_or(true)
    }

    /// Whether anything could be fetched from this image's registry, if it is at one.
    pub(super) fn is_proved(&self, reference: &str) -> bool {
        match Transport::of(reference) {
            Transport::Registry { host } => self.proved.borrow().contains(host),
            _ => true,
        }
    }

    /// Something could be fetched from this image's registry.
    pub(super) fn proved(&self, reference: &str) {
        if let Transport::Registry { host } = Transport::of(reference) {
            self.proved
                .send_if_modified(|proved| proved.insert(host.to_owned()));
        }
    }

    /// The manifest or index of this name, as it is at its source.
    pub(super) async fn inspect(&self, reference: &str) -> Result<Vec<u8>> {
        let patience = self.connection.call_limit();
        let launch = self.template.launch_inspect(reference);
        let inspected = output(
            launch,
            patience,
            ("skopeo inspect", "index"),
            self.connection.max_document_bytes,
        )
        .await;
        if inspected.is_ok() {
            self.proved(reference);
        }
        inspected
    }

    /// Start one more proxy for images that another one has opened already. When it
    /// is not needed any more, it does not go on asking the registry for long.
    pub(super) async fn start_further(
        &self,
        transport: Transport<'_>,
        platform: Option<&Platform>,
    ) -> Result<ImageProxy> {
        let mut connection = self.connection.clone();
        if !self.may_ask_gpg && matches!(transport, Transport::Registry { .. }) {
            let timeout = connection.shutdown_timeout.min(FURTHER_SHUTDOWN_TIMEOUT);
            connection.shutdown_timeout = timeout;
        }
        self.launch(transport, platform, connection).await
    }

    /// Start a proxy for images of this kind.
    pub(super) async fn start(
        &self,
        transport: Transport<'_>,
        platform: Option<&Platform>,
    ) -> Result<ImageProxy> {
        let connection = self.connection.clone();
        let proxy = self.launch(transport, platform, connection).await?;
        proxy.warn_of_unchecked(self.policy.clone()).await;
        Ok(proxy)
    }

    async fn launch(
        &self,
        transport: Transport<'_>,
        platform: Option<&Platform>,
        connection: ConnectionOptions,
    ) -> Result<ImageProxy> {
        let template = Arc::clone(&self.template);
        // Elsewhere, what hides the cache could also hide a storage.
        let private = self.private_cache && matches!(transport, Transport::Registry { .. });
        let shutdown_timeout = connection.shutdown_timeout;
        let platform = platform.cloned();
        let launch = move || {
            Ok(Launch {
                shutdown_timeout,
                ..template.launch(private, platform.as_ref())
            })
        };
        ImageProxy::launch(launch, connection, self.policy.demanded).await
    }
}
