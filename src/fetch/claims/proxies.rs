//! The proxies of a fetch. All fetches of one fetcher share a number of them.

use std::sync::Arc;

use super::shared::Shared;

/// How many times as many proxies as one fetch may have all fetches together have, apart from one for each. Half of
/// them are for fetches that begin later.
const FETCHES: u64 = 2;

/// The proxies of all fetches of one fetcher together.
#[derive(Debug, Clone, Default)]
pub(in crate::fetch) struct ProxyPool(Arc<Shared>);

/// The number of proxies that a fetch has claimed. Dropping it returns them.
#[derive(Debug)]
pub(super) struct ProxyClaim {
    pool: ProxyPool,
    /// The maximum number of proxies of the fetch.
    most: u64,
    wanted: u64,
    held: u64,
}

impl ProxyClaim {
    /// Claims one proxy for a fetch that may have up to `most`.
    pub(super) fn of(pool: &ProxyPool, most: usize) -> Self {
        pool.0.take(1);
        Self {
            pool: pool.clone(),
            most: most as u64,
            wanted: 0,
            held: 1,
        }
    }

    /// Wants `least` to `most` proxies for a host, besides those for other hosts. `least` are claimed in any case.
    pub(super) fn want(&mut self, least: usize, most: usize) {
        self.wanted = self.wanted.saturating_add(most as u64).min(self.most);
        let missing = (least as u64).saturating_sub(self.held);
        self.pool.0.take(missing);
        self.held += missing;
    }

    /// Claims more if not everything that is wanted could be claimed before.
    pub(super) fn grow(&mut self) {
        let missing = self.wanted.saturating_sub(self.held);
        if missing > 0 {
            let all = self.most.saturating_mul(FETCHES);
            self.held += self.pool.0.take_share(missing, all);
        }
    }

    /// Returns all but this many proxies, and at least one is kept. [`grow`](Self::grow) claims them again.
    pub(super) fn shrink_to(&mut self, proxies: usize) {
        let returned = self.held.saturating_sub((proxies as u64).max(1));
        self.held -= returned;
        self.pool.0.give_back(returned);
    }

    pub(super) fn allowed(&self) -> usize {
        usize::try_from(self.held).unwrap_or(usize::MAX)
    }
}

impl Drop for ProxyClaim {
    fn drop(&mut self) {
        self.pool.0.give_back(self.held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_fetch_gets_all_that_it_wants_and_many_share() {
        let pool = ProxyPool::default();
        let claim = || {
            let mut claim = ProxyClaim::of(&pool, 32);
            claim.want(1, 16);
            claim.grow();
            claim
        };
        let first = claim();
        assert_eq!(first.allowed(), 16);
        let mut others: Vec<ProxyClaim> = (0..30).map(|_| claim()).collect();
        let all = || pool.0.taken();
        assert!((32..=32 + 31).contains(&all()), "{}", all());
        assert!(others.iter().all(|claim| claim.allowed() >= 1));
        drop(first);
        others.truncate(1);
        let mut last = others.remove(0);
        for _ in 0..10 {
            last.grow();
        }
        assert_eq!((last.allowed(), all()), (16, 16));
        last.shrink_to(3);
        assert_eq!((last.allowed(), all()), (3, 3));
        drop(last);
        assert_eq!(all(), 0);
    }

    #[test]
    fn a_fixed_number_is_claimed_in_any_case() {
        let pool = ProxyPool::default();
        let mut fixed: Vec<ProxyClaim> = (0..3).map(|_| ProxyClaim::of(&pool, 8)).collect();
        for claim in &mut fixed {
            claim.want(8, 8);
            claim.grow();
            assert_eq!(claim.allowed(), 8);
        }
        assert_eq!(pool.0.taken(), 24);
    }

    #[test]
    fn several_hosts_get_proxies_each_up_to_the_maximum() {
        let pool = ProxyPool::default();
        let mut claim = ProxyClaim::of(&pool, 32);
        for _ in 0..3 {
            claim.want(1, 16);
        }
        for _ in 0..10 {
            claim.grow();
        }
        assert_eq!(claim.allowed(), 32);
    }
}
