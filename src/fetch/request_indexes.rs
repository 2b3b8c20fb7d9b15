//! Fetches the indexes for requests for all platforms. Each index is fetched by a `skopeo inspect` process.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::index::FetchedIndex;
use super::request::ImageRequest;
use super::retry::RetryPolicy;
use super::starter::Starter;
use crate::error::{Error, Result, join_error};
use crate::protocol::RefusalKind;
use crate::reference::Place;

/// How many indexes are fetched from one registry at the same time.
const MAX_AT_REGISTRY: usize = 4;

/// How many indexes are fetched at the same time, each by a process.
const MAX_AT_A_TIME: usize = 16;

/// How many indexes in a row must be refused, each with all its retries, before the registry is taken to be
/// the cause.
const REFUSALS_TO_STOP: u32 = 2;

/// How long no index is fetched from a registry that has refused [`REFUSALS_TO_STOP`] indexes.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// The number of a request, the request, and its index. The index is `None` if the reference names a single image.
pub(super) type FetchedForRequest = (usize, ImageRequest, Result<Option<FetchedIndex>>);

#[derive(Debug)]
pub(super) struct RequestIndexes {
    starter: Arc<Starter>,
    policy: RetryPolicy,
    waiting: VecDeque<(usize, ImageRequest)>,
    fetching: JoinSet<FetchedForRequest>,
    /// How many indexes are being fetched from each registry. The empty name stands for everything else.
    fetching_from: HashMap<String, usize>,
    /// The refusals of each registry.
    refusals: HashMap<String, Refusal>,
}

/// The refusals of one registry.
#[derive(Debug)]
struct Refusal {
    error: Error,
    /// How many indexes were refused in a row.
    indexes: u32,
    /// No index is asked for before this time. `None` means never again.
    until: Option<Instant>,
}

impl RequestIndexes {
    pub(super) fn new(starter: Arc<Starter>, policy: RetryPolicy) -> Self {
        Self {
            starter,
            policy,
            waiting: VecDeque::new(),
            fetching: JoinSet::new(),
            fetching_from: HashMap::new(),
            refusals: HashMap::new(),
        }
    }

    pub(super) fn add(&mut self, number: usize, request: ImageRequest) {
        self.waiting.push_back((number, request));
    }

    /// How many indexes are waiting or being fetched.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.fetching.len()
    }

    /// Starts to fetch the next indexes; from each registry only one at a time until it is known to answer. A registry
    /// that does not answer holds up no other one. Returns the requests that were refused without asking, because their
    /// registry has refused other indexes, or because `refusal` returned an error for them.
    pub(super) fn ask(
        &mut self,
        mut refusal: impl FnMut(&str) -> Option<Error>,
    ) -> Vec<FetchedForRequest> {
        let mut refused = Vec::new();
        for (number, request) in std::mem::take(&mut self.waiting) {
            let known = self.refusal(&request.reference);
            if let Some(error) = known.or_else(|| refusal(&request.reference)) {
                refused.push((number, request, Err(error)));
                continue;
            }
            let has_answered = self.starter.has_answered(&request.reference);
            let most = if has_answered { MAX_AT_REGISTRY } else { 1 };
            let registry = registry_of(&request.reference);
            let from_there = self.fetching_from.get(registry).copied().unwrap_or(0);
            if from_there >= most || self.fetching.len() >= MAX_AT_A_TIME {
                self.waiting.push_back((number, request));
                continue;
            }
            let registry = registry.to_owned();
            self.fetching_from.insert(registry, from_there + 1);
            let (starter, policy) = (Arc::clone(&self.starter), self.policy.clone());
            self.fetching.spawn(async move {
                let listed = FetchedIndex::fetch(&starter, &policy, &request.reference).await;
                (number, request, listed)
            });
        }
        refused
    }

    /// Waits for the next result. `None` if no index is being fetched.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped early, no result is lost.
    pub(super) async fn next(&mut self) -> Option<Result<FetchedForRequest>> {
        let asked = self.fetching.join_next().await?;
        if let Ok((_, request, _)) = &asked {
            let registry = registry_of(&request.reference);
            if let Some(from_there) = self.fetching_from.get_mut(registry) {
                *from_there -= 1;
                if *from_there == 0 {
                    self.fetching_from.remove(registry);
                }
            }
        }
        match &asked {
            Ok((_, request, Err(error))) => self.record_refusal(&request.reference, error),
            Ok((_, request, Ok(_))) => {
                if let Place::Registry { host } = Place::of(&request.reference) {
                    self.refusals.remove(host);
                }
            }
            Err(_) => {}
        }
        Some(asked.map_err(join_error))
    }

    fn refusal(&self, reference: &str) -> Option<Error> {
        let Place::Registry { host } = Place::of(reference) else {
            return None;
        };
        let refusal = self.refusals.get(host)?;
        let lasts = refusal.until.is_none_or(|until| Instant::now() < until);
        (lasts && refusal.indexes >= REFUSALS_TO_STOP).then(|| refusal.error.clone())
    }

    /// Counts a refusal that concerns the registry. Refused credentials would be refused for other indexes, too, and
    /// a registry may lock an account after a few tries. Without this count, a registry with an outage would be asked
    /// with all retries for each index.
    fn record_refusal(&mut self, reference: &str, error: &Error) {
        let place = Place::of(reference);
        let Place::Registry { host } = place else {
            return;
        };
        let is_login = error.kind() == Some(RefusalKind::Unauthorized)
            && !self.starter.has_answered(reference);
        let concerns_registry = matches!(
            error.kind(),
            Some(RefusalKind::Throttled | RefusalKind::Unavailable | RefusalKind::Unreachable)
        );
        let has_hung = matches!(error, Error::CallTimeout { .. });
        if !is_login && !concerns_registry && !has_hung {
            return;
        }
        let known = self.refusals.get(host).map_or(0, |refusal| refusal.indexes);
        let refusal = Refusal {
            error: error.clone(),
            indexes: if is_login {
                REFUSALS_TO_STOP
            } else {
                known + 1
            },
            until: (!is_login).then(|| Instant::now() + REFUSED_FOR),
        };
        self.refusals.insert(host.to_owned(), refusal);
    }
}

/// The host of a registry. Empty for all other transports.
fn registry_of(reference: &str) -> &str {
    match Place::of(reference) {
        Place::Registry { host } => host,
        _ => "",
    }
}
