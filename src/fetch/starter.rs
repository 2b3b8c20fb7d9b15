//! Starting proxies, as many as wanted, from one configuration.

use std::sync::Arc;

use super::options::Transport;
use crate::config::{ConnectionOptions, ImageProxyConfig, Template};
use crate::error::Result;
use crate::proxy::ImageProxy;

#[derive(Debug)]
pub(super) struct Starter {
    template: Arc<Template>,
    connection: ConnectionOptions,
    private_cache: bool,
}

impl Starter {
    /// Blocks, if the configuration has something to be read.
    pub(super) fn new(config: ImageProxyConfig, private_cache: bool) -> Result<Self> {
        let connection = config.connection.clone();
        let template = Arc::new(config.into_template()?);
        Ok(Self {
            template,
            connection,
            private_cache,
        })
    }

    /// Start a proxy for images of this kind.
    pub(super) async fn start(&self, transport: Transport<'_>) -> Result<ImageProxy> {
        let template = Arc::clone(&self.template);
        // Elsewhere, what hides the cache could also hide a storage.
        let private = self.private_cache && matches!(transport, Transport::Registry { .. });
        ImageProxy::launch(
            move || Ok(template.launch(private)),
            self.connection.clone(),
        )
        .await
    }
}
