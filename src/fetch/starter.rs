//! Starts proxies from one configuration, or returns proxies that somebody else has started.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::sync::watch;

use super::claims::ProxyPool;
use crate::config::{ConnectionOptions, ImageProxyConfig, Launch, Platform, Policy, Template};
use crate::error::{Error, Result};
use crate::proxy::{ImageProxy, output};
use crate::reference::Place;

/// How long a further proxy for a registry may take to exit after it is no longer needed. If a registry
/// throttles, each request of this proxy delays those of the others. A proxy has nothing to clean up, unless
/// the policy runs gpg.
const FURTHER_SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Starter {
    origin: Origin,
    connection: ConnectionOptions,
    /// The registries from which something was fetched. Their credentials, if any, are right.
    answered: watch::Sender<BTreeSet<String>>,
    proxy_pool: ProxyPool,
}

/// The origin of the proxies.
#[derive(Debug)]
enum Origin {
    /// The starter starts the proxies from this configuration.
    Config {
        template: Arc<Template>,
        policy: Policy,
        may_ask_gpg: bool,
        private_cache: bool,
    },
    /// Somebody else has started the proxies.
    Connected {
        proxies: Vec<ImageProxy>,
        /// How often a proxy was taken.
        uses: AtomicUsize,
    },
}

impl Starter {
    /// Makes a starter from this configuration. Blocks while it reads files of the configuration.
    pub(super) fn new(config: ImageProxyConfig, private_cache: bool) -> Result<Self> {
        let connection = config.connection.clone();
        let policy = config.policy_in_force();
        let may_ask_gpg = policy.may_ask_gpg();
        let template = Arc::new(config.into_template()?);
        Ok(Self {
            origin: Origin::Config {
                template,
                policy,
                may_ask_gpg,
                private_cache,
            },
            connection,
            answered: watch::Sender::default(),
            proxy_pool: ProxyPool::default(),
        })
    }

    /// Makes a starter that returns these proxies in turn, and starts none.
    pub(super) fn connected(proxies: Vec<ImageProxy>) -> Self {
        let options = proxies.first().map(|proxy| proxy.options().clone());
        Self {
            origin: Origin::Connected {
                proxies,
                uses: AtomicUsize::new(0),
            },
            connection: options.unwrap_or_default(),
            answered: watch::Sender::default(),
            proxy_pool: ProxyPool::default(),
        }
    }

    /// The proxies of all fetches together.
    pub(super) fn proxy_pool(&self) -> &ProxyPool {
        &self.proxy_pool
    }

    /// The maximum size of one document, in bytes.
    pub(super) fn max_document_bytes(&self) -> u64 {
        self.connection.max_document_bytes
    }

    /// Whether there may be credentials for the registry of this image.
    pub(super) async fn may_have_login(&self, reference: &str) -> bool {
        let Place::Registry { host } = Place::of(reference) else {
            return false;
        };
        let Origin::Config { template, .. } = &self.origin else {
            return true;
        };
        let (template, host) = (Arc::clone(template), host.to_owned());
        let asked =
            tokio::task::spawn_blocking(move || template.credential_sources.may_have(&host));
        asked.await.unwrap_or(true)
    }

    /// Whether something was fetched from the registry of this image before. Always true if the image is not
    /// at a registry.
    pub(super) fn has_answered(&self, reference: &str) -> bool {
        match Place::of(reference) {
            Place::Registry { host } => self.answered.borrow().contains(host),
            _ => true,
        }
    }

    /// Records that something was fetched from the registry of this image.
    pub(super) fn record_answer(&self, reference: &str) {
        if let Place::Registry { host } = Place::of(reference) {
            self.answered
                .send_if_modified(|answered| answered.insert(host.to_owned()));
        }
    }

    /// Fetches the manifest or index that this reference names, unchanged, with `skopeo inspect`.
    pub(super) async fn inspect(&self, reference: &str) -> Result<Vec<u8>> {
        let template = self.template()?;
        let launch = template.launch_inspect(reference);
        let what = ("skopeo inspect", "index");
        let limit = self.connection.max_document_bytes;
        self.output(launch, reference, what, limit).await
    }

    /// Fetches the tags of a repository as JSON of at most `limit` bytes, with `skopeo list-tags`.
    pub(super) async fn list_tags(&self, repository: &str, limit: u64) -> Result<Vec<u8>> {
        let template = self.template()?;
        let launch = template.launch_list_tags(repository);
        let what = ("skopeo list-tags", "list of tags");
        self.output(launch, repository, what, limit).await
    }

    fn template(&self) -> Result<&Template> {
        match &self.origin {
            Origin::Config { template, .. } => Ok(template),
            Origin::Connected { .. } => {
                let reason =
                    "a fetcher over given proxies can't start the skopeo that this call needs";
                Err(Error::image(reason))
            }
        }
    }

    async fn output(
        &self,
        launch: Launch,
        reference: &str,
        what: (&'static str, &'static str),
        limit: u64,
    ) -> Result<Vec<u8>> {
        let call_limit = self.connection.call_limit();
        let label = format!("{}: ", what.0);
        let launch = Launch { label, ..launch };
        let printed = output(launch, call_limit, what, limit).await;
        if printed.is_ok() {
            self.record_answer(reference);
        }
        printed
    }

    /// Starts one more proxy beside the first one. The new proxy exits soon after it is no longer needed. `number` is
    /// that of the new proxy in the events, and `proxies` is the number of all proxies, the new one included.
    pub(super) async fn start_further(
        &self,
        (number, proxies): (usize, usize),
        place: Place<'_>,
        platform: Option<&Platform>,
    ) -> Result<ImageProxy> {
        let mut connection = self.connection.clone();
        let may_ask_gpg = matches!(
            self.origin,
            Origin::Config {
                may_ask_gpg: true,
                ..
            }
        );
        if !may_ask_gpg && matches!(place, Place::Registry { .. }) {
            let timeout = connection.shutdown_timeout.min(FURTHER_SHUTDOWN_TIMEOUT);
            connection.shutdown_timeout = timeout;
        }
        self.launch(Some(number), place, platform, connection, proxies)
            .await
    }

    /// Starts a proxy for images at this place, for this platform or else for the configured one. `number` is that of
    /// the proxy in the events, if it has one.
    pub(super) async fn start(
        &self,
        number: Option<usize>,
        place: Place<'_>,
        platform: Option<&Platform>,
    ) -> Result<ImageProxy> {
        let connection = self.connection.clone();
        let proxy = self.launch(number, place, platform, connection, 1).await?;
        if let Origin::Config { policy, .. } = &self.origin {
            proxy.warn_if_policy_unchecked(policy.clone()).await;
        }
        Ok(proxy)
    }

    async fn launch(
        &self,
        number: Option<usize>,
        place: Place<'_>,
        platform: Option<&Platform>,
        connection: ConnectionOptions,
        proxies: usize,
    ) -> Result<ImageProxy> {
        match &self.origin {
            Origin::Config {
                template,
                policy,
                private_cache,
                ..
            } => {
                let template = Arc::clone(template);
                // The namespace that hides the cache could also hide the storage of an image that is not at a registry.
                let private = *private_cache && matches!(place, Place::Registry { .. });
                let shutdown_timeout = connection.shutdown_timeout;
                let platform = platform.cloned();
                let label = number.map(|number| format!("proxy {number}: "));
                let label = label.unwrap_or_default();
                let processors = available_parallelism().map_or(1, NonZeroUsize::get);
                let processors = share_of_processors(proxies, processors);
                let launch = move || {
                    let mut launch = Launch {
                        label,
                        shutdown_timeout,
                        ..template.launch(private, platform.as_ref())
                    };
                    if let Some(most) = processors {
                        launch.limit_processors(most);
                    }
                    Ok(launch)
                };
                let proxy = ImageProxy::launch(launch, connection, policy.required).await?;
                // A program that embeds this library never gets a proxy that a fetcher started.
                Ok(proxy.expendable())
            }
            Origin::Connected { .. } if platform.is_some() => {
                let reason = "a fetcher over given proxies can't choose the platform of an image";
                Err(Error::image(reason))
            }
            Origin::Connected { proxies, uses } => next_open_proxy(proxies, uses),
        }
    }
}

/// How many processors the newest of `proxies` may use at a time: twice its share, because not all proxies work all the
/// time. `None` means all of them. A Go program keeps memory for each processor that it may use.
fn share_of_processors(proxies: usize, processors: usize) -> Option<usize> {
    let share = (2 * processors).div_ceil(proxies);
    (share < processors).then_some(share)
}

/// The next of these proxies, in turn, that has not ended.
///
/// # Errors
///
/// The error with which a proxy ended, if all of them have ended.
fn next_open_proxy(proxies: &[ImageProxy], uses: &AtomicUsize) -> Result<ImageProxy> {
    let first = uses.fetch_add(1, Ordering::Relaxed);
    let in_turn = proxies.iter().cycle().skip(first % proxies.len().max(1));
    let mut ended = Error::Closed;
    for proxy in in_turn.take(proxies.len()) {
        match proxy.close_error() {
            None => return Ok(proxy.clone()),
            Some(error) => ended = error,
        }
    }
    Err(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_beside_others_may_use_twice_its_share_of_the_processors() {
        let table = [
            (1, 1, None),
            (1, 16, None),
            (2, 3, None),
            (2, 4, Some(1)),
            (2, 16, Some(1)),
            (64, 2, None),
            (64, 3, Some(43)),
            (64, 16, Some(8)),
        ];
        for (processors, proxies, share) in table {
            let found = share_of_processors(proxies, processors);
            assert_eq!(found, share, "{proxies} on {processors}");
        }
    }
}
