//! What a reference names at its source, without opening an image.

use super::super::SourceDocument;
use super::super::attempts::retrying;
use super::super::index::inspect;
use super::Fetcher;
use crate::error::Result;

impl Fetcher {
    /// Fetches the manifest or the index that a reference names, byte for byte. Of an index, no image is chosen.
    ///
    /// No image is opened, so the signature policy is not checked: [`open`](Self::open) and
    /// [`open_index`](Self::open_index) do that.
    ///
    /// ```no_run
    /// # async fn example(fetcher: longshore::Fetcher) -> longshore::Result<()> {
    /// let source = fetcher.fetch_source("docker://quay.io/fedora/fedora:latest").await?;
    /// println!("{}", source.digest());
    /// for entry in source.entries()?.into_iter().flatten() {
    ///     println!("{:?}: {}", entry.platform(), entry.digest());
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Refused`](crate::Error::Refused), after the tries that the [`RetryPolicy`](crate::RetryPolicy) allows;
    /// [`Error::Blob`](crate::Error::Blob) if it was asked for by a digest that it does not have;
    /// [`Error::DocumentTooLarge`](crate::Error::DocumentTooLarge); [`Error::Image`](crate::Error::Image) if this fetcher
    /// is [over](Self::over) given proxies.
    ///
    /// # Cancel safety
    ///
    /// Dropped early, whatever was started is ended.
    pub async fn fetch_source(&self, reference: &str) -> Result<SourceDocument> {
        let fetch = || inspect(&self.starter, reference);
        let raw = retrying(&self.options.retry, reference, fetch).await?;
        Ok(SourceDocument::new(reference, raw))
    }
}
