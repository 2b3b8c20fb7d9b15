//! How many proxies and blobs a fetch may have while other fetches run: fetches of one process share its file
//! descriptors, and fetches of one fetcher share a number of proxies.

mod descriptors;
mod proxies;
mod shared;

use self::descriptors::DescriptorClaim;
use self::proxies::ProxyClaim;
pub(super) use self::proxies::ProxyPool;

/// A number of proxies, and of blobs that are fetched at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowed {
    pub(super) proxies: usize,
    pub(super) blobs: usize,
}

/// What a fetch has claimed. Dropping it returns everything.
#[derive(Debug)]
pub(super) struct Claims {
    descriptors: DescriptorClaim,
    proxies: ProxyClaim,
    /// The maximum number of proxies of the fetch.
    most_proxies: usize,
}

impl Claims {
    /// Claims the least for a fetch that may have up to this many proxies and blobs.
    pub(super) fn of(pool: &ProxyPool, most: Allowed) -> Self {
        Self {
            descriptors: DescriptorClaim::for_blobs(most.blobs),
            proxies: ProxyClaim::of(pool, most.proxies),
            most_proxies: most.proxies,
        }
    }

    /// Wants `least` to `most` proxies for a host, besides those for other hosts. `least` are allowed in any case.
    pub(super) fn want_proxies(&mut self, least: usize, most: usize) {
        self.proxies.want(least, most);
        self.descriptors
            .want_proxies(least, most, self.most_proxies);
    }

    pub(super) fn want_blobs(&mut self, blobs: usize) {
        self.descriptors.want_blobs(blobs);
    }

    /// Claims more if not everything that is wanted could be claimed before.
    pub(super) fn grow(&mut self) {
        self.proxies.grow();
        self.descriptors.grow();
    }

    /// Returns what a fetch that only keeps this many proxies does not need.
    pub(super) fn shrink_to(&mut self, proxies: usize) {
        self.proxies.shrink_to(proxies);
        self.descriptors.shrink_to(proxies);
    }

    /// How many proxies and blobs the fetch may have: at least one of each.
    pub(super) fn allowed(&self) -> Allowed {
        let allowed = self.descriptors.allowed();
        Allowed {
            proxies: allowed.proxies.min(self.proxies.allowed()),
            ..allowed
        }
    }
}
