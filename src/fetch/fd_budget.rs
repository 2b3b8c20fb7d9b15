//! The file-descriptor budget: how many proxies and blobs the limit of open files (`RLIMIT_NOFILE`) allows.

use std::fs;

use nix::sys::resource::{Resource, getrlimit};

/// The descriptors of one blob: two pipes, the file that it is written to, and one more for a handler.
const PER_BLOB: u64 = 4;

/// The descriptors of one proxy: its socket, pidfd, stderr, the two ends of a control socket, and what its
/// start needs for a moment.
const PER_PROXY: u64 = 8;

/// The descriptors for everything else, such as documents.
const RESERVED: u64 = 16;

/// The file-descriptor budget. It allows at least one proxy and one blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FdBudget {
    pub(super) proxies: usize,
    free: u64,
}

impl FdBudget {
    /// The budget of this process, less what is open already.
    pub(super) fn now() -> Self {
        let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        Self::within(limit, open as u64)
    }

    fn within(limit: u64, open: u64) -> Self {
        let free = limit.saturating_sub(open.saturating_add(RESERVED));
        Self {
            // Proxies get at most half of the budget, because they are useless without blobs.
            proxies: at_least_one(free / 2 / PER_PROXY),
            free,
        }
    }

    /// How many blobs may be in flight while there are this many proxies.
    pub(super) fn blobs_with(self, proxies: usize) -> usize {
        let used = (proxies as u64).saturating_mul(PER_PROXY);
        at_least_one(self.free.saturating_sub(used) / PER_BLOB)
    }
}

fn at_least_one(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_allows_at_least_one_and_usual_limits_suffice() {
        let budget = |limit, open| {
            let budget = FdBudget::within(limit, open);
            (budget.proxies, budget.blobs_with(budget.proxies))
        };
        assert_eq!(budget(0, 10), (1, 1));
        assert_eq!(budget(16, 10), (1, 1));
        assert_eq!(budget(64, 12), (2, 5));
        assert_eq!(budget(256, 20), (13, 29));
        let usual = FdBudget::within(1024, 300);
        assert!(usual.proxies > 16);
        assert!(usual.blobs_with(16) > crate::DEFAULT_WORKERS.get());
        assert!(FdBudget::within(u64::MAX, 10).blobs_with(16) > 1 << 30);
        assert!(FdBudget::now().proxies >= 1);
    }
}
