//! The methods of [`Fetcher`] that read a source without opening an image.

use serde::Deserialize;

use super::super::SourceDocument;
use super::super::attempts::with_retries;
use super::super::index::inspect;
use super::Fetcher;
use crate::error::{ConfigError, Error, Result};
use crate::reference::is_repository;
use crate::words::printable;

impl Fetcher {
    /// Fetches the manifest or the index that a reference names, byte for byte. If the reference names an index, the
    /// index itself is returned, and no platform is chosen.
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
    /// [`Error::Refused`] if the source refuses the document, after the retries that the
    /// [`RetryPolicy`](crate::RetryPolicy) allows; [`Error::Spawn`], [`Error::ProxyExited`] or [`Error::CallTimeout`]
    /// if skopeo can't be started, fails without a reason, or takes too long; [`Error::Blob`] if the reference contains
    /// a digest and the document has another one; [`Error::DocumentTooLarge`] if the document is larger than
    /// [`max_document_bytes`](crate::ConnectionOptions#structfield.max_document_bytes); [`Error::DeadlineExceeded`]
    /// after the [deadline](crate::RetryPolicy#structfield.deadline); [`Error::Image`] if this fetcher is
    /// [over](Self::over) given proxies.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, the skopeo process that it started is ended.
    pub async fn fetch_source(&self, reference: &str) -> Result<SourceDocument> {
        let fetch = || inspect(&self.starter, reference);
        let raw = with_retries(&self.options.retry, reference, fetch).await?;
        Ok(SourceDocument::new(reference, raw))
    }

    /// Lists the tags of a repository, such as `docker://quay.io/fedora/fedora`, in the order in which the registry
    /// lists them.
    ///
    /// ```no_run
    /// # async fn example(fetcher: longshore::Fetcher) -> longshore::Result<()> {
    /// for tag in fetcher.list_tags("docker://quay.io/fedora/fedora").await? {
    ///     println!("{tag}");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the reference is not a `docker://` one, or has a tag or a digest; [`Error::Refused`] if the
    /// registry refuses the list, after the retries that the [`RetryPolicy`](crate::RetryPolicy) allows;
    /// [`Error::Spawn`], [`Error::ProxyExited`] or [`Error::CallTimeout`] if skopeo can't be started, fails without a
    /// reason, or takes too long; [`Error::DeadlineExceeded`] after the
    /// [deadline](crate::RetryPolicy#structfield.deadline); [`Error::DocumentTooLarge`] if the list is larger than
    /// [`max_documents_bytes`](crate::FetchOptions#structfield.max_documents_bytes); [`Error::Decode`] if the list
    /// can't be parsed; [`Error::Image`] if this fetcher is [over](Self::over) given proxies.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, the skopeo process that it started is ended.
    pub async fn list_tags(&self, repository: &str) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Listed {
            #[serde(rename = "Tags")]
            tags: Option<Vec<String>>,
        }
        if !is_repository(repository) {
            let repository = printable(repository);
            return Err(Error::from(ConfigError::Invalid {
                option: "repository",
                reason: format!(
                    "{repository} must have the form docker://HOST/NAME, with no tag and no digest"
                ),
            }));
        }
        let limit = self.options.max_documents_bytes;
        let fetch = || self.starter.list_tags(repository, limit);
        let printed = with_retries(&self.options.retry, repository, fetch).await?;
        let listed: Listed =
            serde_json::from_slice(&printed).map_err(Error::decode("list of tags"))?;
        let tags = listed.tags.into_iter().flatten();
        Ok(tags.map(|tag| printable(&tag)).collect())
    }

    /// Whether there may be credentials for the registry of this image: the configuration has some, an auth file
    /// mentions the registry, or skopeo asks a helper program, whose answer is unknown here. With this result, a caller
    /// can tell whether a registry has refused credentials or wants some. `false` for an image that is not at a
    /// registry. For a fetcher [over](Self::over) given proxies, whose credentials are unknown, the result is `true`
    /// for each image at a registry.
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed, even if the future is dropped early.
    pub async fn may_have_credentials(&self, reference: &str) -> bool {
        self.starter.may_have_login(reference).await
    }
}
