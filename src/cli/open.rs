//! Opens a single image, for `inspect`, `digest`, `blob` and `export`.

use longshore::{FetchOptions, Fetcher, Image, ImageProxyConfig};

use super::warnings;

/// A fetcher for one image, and whether the signature policy restricts images.
#[derive(Debug)]
pub(super) struct Opener {
    pub(super) fetcher: Fetcher,
    restricts: bool,
}

impl Opener {
    /// Makes an opener that starts no proxy before it is needed.
    pub(super) async fn new(
        config: ImageProxyConfig,
        options: FetchOptions,
    ) -> longshore::Result<Self> {
        let restricts = config.restricts_images();
        let fetcher = Fetcher::new(config, options.start_ahead(false)).await?;
        Ok(Self { fetcher, restricts })
    }

    /// Opens an image, and warns if its signatures are not checked although the policy wants that.
    pub(super) async fn open(&self, reference: &str) -> longshore::Result<Image> {
        let image = self.fetcher.open(reference).await?;
        warnings::of_policy(self.restricts, image.policy_checked());
        Ok(image)
    }
}
