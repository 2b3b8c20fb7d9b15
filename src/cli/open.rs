//! Opens a single image, to look at it.

use longshore::{FetchOptions, Fetcher, Image, ImageProxyConfig};

use super::warnings;

/// Returns a fetcher for calls that open no image.
pub(super) async fn fetcher(config: ImageProxyConfig) -> longshore::Result<Fetcher> {
    Fetcher::new(config, FetchOptions::default()).await
}

/// Opens an image, and warns if its signatures are not checked although the policy wants that.
pub(super) async fn image(
    config: ImageProxyConfig,
    options: FetchOptions,
    reference: &str,
) -> longshore::Result<(Fetcher, Image)> {
    let restricts = config.restricts_images();
    let fetcher = Fetcher::new(config, options.start_ahead(false)).await?;
    let image = fetcher.open(reference).await?;
    warnings::of_policy(restricts, image.policy_checked());
    Ok((fetcher, image))
}
