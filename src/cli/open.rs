//! Opens a single image, for `inspect`, `digest`, `blob` and `export`.

use std::time::Duration;

use longshore::{FetchOptions, Fetcher, Image, ImageProxyConfig};
use tokio::time::{Instant, interval_at};

use super::format::seconds;
use super::say::say;
use super::warnings;

/// How often a wait for an answer is reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

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
        let image = reporting_silence(self.fetcher.open(reference)).await?;
        warnings::of_policy(self.restricts, image.policy_checked());
        Ok(image)
    }
}

/// Waits for the answer of a registry, and says how long there has been none. A pull reports this in its progress.
pub(super) fn reporting_silence<T>(answer: impl Future<Output = T>) -> impl Future<Output = T> {
    // Boxed, because the future is large.
    let mut answer = Box::pin(answer);
    async move {
        let begun = Instant::now();
        let mut reports = interval_at(begun + REPORT_INTERVAL, REPORT_INTERVAL);
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return answer,
                now = reports.tick() => {
                    let time = seconds(now.saturating_duration_since(begun));
                    say(format!("  no answer for {time}"));
                }
            }
        }
    }
}
