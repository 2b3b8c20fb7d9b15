//! How many proxies and blobs the limit of open files leaves room for.

use std::fs;

use nix::sys::resource::{Resource, getrlimit};

/// The two pipes of a blob, the file it is written to, and one more for a
/// handler.
const PER_BLOB: u64 = 4;

/// A proxy's socket, pidfd, stderr and two ends of a control pipe, and what its start
/// takes for a moment.
const PER_PROXY: u64 = 8;

/// For all else, such as documents.
const RESERVED: u64 = 16;

/// What there is room for, one at least of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) proxies: usize,
    free: u64,
}

impl Room {
    /// Now, with what is open already.
    pub(super) fn now() -> Self {
        let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        Self::within(limit, open as u64)
    }

    fn within(limit: u64, open: u64) -> Self {
        let free = limit.saturating_sub(open.saturating_add(RESERVED));
        Self {
            // Half of it at most: proxies are there for blobs.
            proxies: at_least_one(free / 2 / PER_PROXY),
            free,
        }
    }

    /// Beside so many proxies.
    pub(super) fn blobs_beside(self, proxies: usize) -> usize {
        let taken = (proxies as u64).saturating_mul(PER_PROXY);
        at_least_one(self.free.saturating_sub(taken) / PER_BLOB)
    }
}

fn at_least_one(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_one_at_least_and_for_all_in_usual_limits() {
        let room = |limit, open| {
            let room = Room::within(limit, open);
            (room.proxies, room.blobs_beside(room.proxies))
        };
        assert_eq!(room(0, 10), (1, 1));
        assert_eq!(room(16, 10), (1, 1));
        assert_eq!(room(64, 12), (2, 5));
        assert_eq!(room(256, 20), (13, 29));
        let usual = Room::within(1024, 300);
        assert!(usual.proxies > 16);
        assert!(usual.blobs_beside(16) > crate::DEFAULT_WORKERS.get());
        assert!(Room::within(u64::MAX, 10).blobs_beside(16) > 1 << 30);
        assert!(Room::now().proxies >= 1);
    }
}
