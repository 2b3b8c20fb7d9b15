//! The file descriptors of a fetch: how many proxies and blobs the limit of open files (`RLIMIT_NOFILE`) allows. All
//! fetches of this process share the limit.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::resource::{Resource, getrlimit};

use super::Allowed;
use super::shared::Shared;

/// The descriptors of one blob: two pipes, the file that it is written to, and one more for a handler.
const PER_BLOB: u64 = 4;

/// The descriptors of one proxy: its socket, pidfd, stderr, the two ends of a control socket, and what its
/// start needs for a moment.
const PER_PROXY: u64 = 8;

/// The descriptors of one fetch for everything else, such as a document, and the folder and the lock of a layout.
const PER_FETCH: u64 = 8;

/// The descriptors that no fetch claims.
const RESERVED: u64 = 16;

/// What every fetch claims, even if that is more than there is: for one proxy and one blob.
const LEAST: u64 = PER_FETCH + PER_PROXY + PER_BLOB;

/// The descriptors that all fetches of this process have claimed.
static CLAIMED: Shared = Shared::new();

/// The descriptors of this process that belong to no fetch, when they were last counted.
static OTHERS: AtomicU64 = AtomicU64::new(0);

/// The descriptors that a fetch has claimed. Dropping it returns them.
#[derive(Debug)]
pub(super) struct DescriptorClaim {
    wanted: Allowed,
    /// How many proxies the fetch has in any case.
    least_proxies: usize,
    held: u64,
}

impl DescriptorClaim {
    /// Claims the least that a fetch needs. The fetch wants up to this many blobs at the same time.
    pub(super) fn for_blobs(blobs: usize) -> Self {
        count_others();
        CLAIMED.take(LEAST);
        Self {
            wanted: Allowed { proxies: 0, blobs },
            least_proxies: 1,
            held: LEAST,
        }
    }

    /// Wants `least` to `most` proxies for a host, besides those for other hosts, but not more than `of_all` together.
    /// `least` are allowed even if there are not enough descriptors.
    pub(super) fn want_proxies(&mut self, least: usize, most: usize, of_all: usize) {
        self.least_proxies = self.least_proxies.max(least);
        self.wanted.proxies = self.wanted.proxies.saturating_add(most).min(of_all);
    }

    pub(super) fn want_blobs(&mut self, blobs: usize) {
        self.wanted.blobs = blobs;
    }

    /// Claims more if not everything that is wanted could be claimed before.
    pub(super) fn grow(&mut self) {
        let missing = needed(self.wanted).saturating_sub(self.held);
        if missing == 0 {
            return;
        }
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        let for_fetches = limit.saturating_sub(OTHERS.load(Ordering::Relaxed) + RESERVED);
        self.held += CLAIMED.take_share(missing, for_fetches);
    }

    /// Returns what a fetch that only keeps this many proxies does not need. [`grow`](Self::grow) claims it again.
    pub(super) fn shrink_to(&mut self, proxies: usize) {
        let kept = LEAST.max(PER_FETCH + PER_PROXY * proxies as u64);
        let returned = self.held.saturating_sub(kept);
        self.held -= returned;
        CLAIMED.give_back(returned);
    }

    /// How many proxies and blobs the claimed descriptors allow: at least one of each. If there are not enough for all,
    /// proxies get at most half, because they are useless without blobs.
    pub(super) fn allowed(&self) -> Allowed {
        allowed(self.held, self.wanted, self.least_proxies)
    }
}

impl Drop for DescriptorClaim {
    fn drop(&mut self) {
        CLAIMED.give_back(self.held);
    }
}

/// Counts the open descriptors that belong to no fetch. They can be counted exactly only while nothing is claimed.
fn count_others() {
    let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64;
    match CLAIMED.taken() {
        0 => OTHERS.store(open, Ordering::Relaxed),
        claimed => {
            OTHERS.fetch_max(open.saturating_sub(claimed), Ordering::Relaxed);
        }
    }
}

fn needed(wanted: Allowed) -> u64 {
    let proxies = PER_PROXY.saturating_mul(wanted.proxies as u64);
    let blobs = PER_BLOB.saturating_mul(wanted.blobs as u64);
    PER_FETCH.saturating_add(proxies).saturating_add(blobs)
}

fn allowed(held: u64, wanted: Allowed, least_proxies: usize) -> Allowed {
    let held = held.saturating_sub(PER_FETCH);
    let at_most = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let proxies = wanted.proxies.min(at_most(held / 2 / PER_PROXY));
    let proxies = proxies.max(least_proxies).max(1);
    let for_blobs = held.saturating_sub(PER_PROXY.saturating_mul(proxies as u64));
    Allowed {
        proxies,
        blobs: wanted.blobs.min(at_most(for_blobs / PER_BLOB)).max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Allowed = Allowed {
        proxies: 16,
        blobs: 32,
    };

    #[test]
    fn what_is_needed_allows_what_is_wanted() {
        assert_eq!(allowed(needed(WANTED), WANTED, 1), WANTED);
        assert_eq!(allowed(u64::MAX, WANTED, 1), WANTED);
        let few = Allowed {
            proxies: 1,
            blobs: 1,
        };
        assert_eq!(needed(few), LEAST);
        assert_eq!(allowed(LEAST, WANTED, 1), few);
        assert_eq!(allowed(0, WANTED, 1), few);
        let half = Allowed {
            proxies: 5,
            blobs: 13,
        };
        assert_eq!(allowed(100, WANTED, 1), half);
        let fixed = Allowed {
            proxies: 16,
            blobs: 1,
        };
        assert_eq!(allowed(100, WANTED, 16), fixed);
    }

    /// The claims of fetches that begin one after the other, and then grow in turn.
    fn claims(limit: u64, fetches: usize) -> Vec<u64> {
        let shared = Shared::new();
        let mut claims = vec![];
        let grow = |claim: &mut u64| {
            let missing = needed(WANTED) - *claim;
            *claim += shared.take_share(missing, limit - RESERVED);
        };
        for _ in 0..fetches {
            shared.take(LEAST);
            claims.push(LEAST);
            claims.last_mut().into_iter().for_each(grow);
        }
        for _ in 0..20 {
            claims.iter_mut().for_each(grow);
        }
        claims
    }

    #[test]
    fn the_usual_limit_suffices_for_one_fetch_and_is_shared_by_several() {
        assert_eq!(claims(1024, 1), [needed(WANTED)]);
        for fetches in 2..=25 {
            let claims = claims(1024, fetches);
            let all = claims.iter().sum::<u64>();
            assert!(all <= 1024 - RESERVED, "{fetches}: {claims:?}");
            assert!(claims.iter().all(|claim| *claim >= LEAST), "{claims:?}");
        }
        assert!(
            claims(1_000_000, 100)
                .iter()
                .all(|claim| *claim == needed(WANTED))
        );
    }

    #[test]
    fn a_kept_fetch_returns_what_it_does_not_need() {
        let mut claim = DescriptorClaim::for_blobs(WANTED.blobs);
        claim.want_proxies(1, WANTED.proxies, WANTED.proxies);
        claim.grow();
        let held = claim.held;
        claim.shrink_to(2);
        assert_eq!(claim.held, held.min(PER_FETCH + 2 * PER_PROXY));
        claim.shrink_to(0);
        assert_eq!(claim.held, LEAST);
    }
}
