//! Fetches the config of one image, without its layers.

use std::sync::Arc;

use super::attempts::{bounded, retrying};
use super::documents::Documents;
use super::{Discard, Fetcher, Image, ImageContent, Sink, content, retry};
use crate::error::Result;
use crate::proxy::{ImageProxy, OpenedImage};

impl Fetcher {
    /// Returns manifest, config and layers of an open image. The config is fetched once for an [`Image`] and its clones.
    ///
    /// # Errors
    ///
    /// The error with which the fetch of the config failed; [`Error::Decode`](crate::Error::Decode);
    /// [`Error::Image`](crate::Error::Image); [`Error::DocumentsTooLarge`](crate::Error::DocumentsTooLarge).
    ///
    /// # Cancel safety
    ///
    /// Dropped early, the config is not fetched. Another call that waits for the same config then fetches it.
    pub async fn content(&self, image: &Image) -> Result<Arc<ImageContent>> {
        let ending = self.events.ending();
        let mut documents = Documents::within(self.options.max_documents_bytes);
        documents.add_manifest(image)?;
        documents.add_config(image)?;
        let fetch = || async {
            Box::pin(self.content_for(image, &Discard))
                .await
                .map(Arc::new)
        };
        // The call that fetches the config may have another deadline than this one.
        let fetched = image.same.content.get_or_try_init(fetch);
        let content = bounded(&self.options.retry, fetched).await?;
        ending.keep();
        Ok(Arc::clone(content))
    }

    async fn content_for(&self, image: &Image, sink: &impl Sink) -> Result<ImageContent> {
        let asked = (image.proxy(), image.opened());
        self.content_from(asked, image, sink).await
    }

    /// Asks this proxy, in which the image is open.
    async fn content_from(
        &self,
        (proxy, opened): (&ImageProxy, &OpenedImage),
        image: &Image,
        sink: &impl Sink,
    ) -> Result<ImageContent> {
        let manifest = &image.same.manifest;
        let reference = image.reference();
        retrying(&self.options.retry, reference, || async move {
            // Boxed, here and below, to keep the future of a pull small.
            let resolving = content::resolve(proxy, opened, reference, manifest, sink);
            match Box::pin(resolving).await {
                Err(error) if retry::is_proxy_failure(&error) => {
                    // The proxy is gone or hangs, so another one is started.
                    Box::pin(async {
                        let proxy = self.starter.start(image.same.place(), None).await?;
                        let opened = proxy.open_image(reference).await?;
                        image.same.compare(&proxy, &opened).await?;
                        content::resolve(&proxy, &opened, reference, manifest, sink).await
                    })
                    .await
                }
                other => other,
            }
        })
        .await
    }
}
