//! Starting proxies, as many as wanted, from one configuration.

use std::sync::Arc;

use super::options::Transport;
use crate::config::{ConnectionOptions, ImageProxyConfig, Template};
use crate::error::Result;
use crate::proxy::{ImageProxy, output};

#[derive(Debug)]
pub(super) struct Starter {
    template: Arc<Template>,
    connection: ConnectionOptions,
    has_policy: bool,
    private_cache: bool,
}

impl Starter {
    /// Blocks, if the configuration has something to be read.
    pub(super) fn new(config: ImageProxyConfig, private_cache: bool) -> Result<Self> {
        let connection = config.connection.clone();
        let has_policy = config.policy.is_some();
        let template = Arc::new(config.into_template()?);
        Ok(Self {
            template,
            connection,
            has_policy,
            private_cache,
        })
    }

    /// The manifest or index of this name, as it is at its source.
    pub(super) async fn inspect(&self, reference: &str) -> Result<Vec<u8>> {
        let patience = self.connection.call_timeout;
        let launch = self.template.launch_inspect(reference);
        output(
            launch,
            (!patience.is_zero()).then_some(patience),
            "index",
            self.connection.max_document_bytes,
        )
        .await
    }

    /// Start a proxy for images of this kind.
    pub(super) async fn start(&self, transport: Transport<'_>) -> Result<ImageProxy> {
        let template = Arc::clone(&self.template);
        // Elsewhere, what hides the cache could also hide a storage.
        let private = self.private_cache && matches!(transport, Transport::Registry { .. });
        ImageProxy::launch(
            move || Ok(template.launch(private)),
            self.connection.clone(),
            self.has_policy,
        )
        .await
    }
}
