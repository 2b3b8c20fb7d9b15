//! Something that several fetches share.

use std::sync::atomic::{AtomicU64, Ordering};

/// How much of something is taken.
#[derive(Debug, Default)]
pub(super) struct Shared(AtomicU64);

impl Shared {
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub(super) fn taken(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes this much, even if there is not enough.
    pub(super) fn take(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Takes up to this much of what is left of `all`, but only a [`share`]. Returns how much was taken.
    pub(super) fn take_share(&self, most: u64, all: u64) -> u64 {
        let amount = |taken| most.min(share(all, taken));
        let take = |taken| Some(taken + amount(taken)).filter(|_| amount(taken) > 0);
        let before = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        before.map_or(0, amount)
    }

    pub(super) fn give_back(&self, amount: u64) {
        self.0.fetch_sub(amount, Ordering::Relaxed);
    }
}

/// How much one fetch may take at once: half of what is left, after half of all is left to new fetches. So several
/// fetches that begin together all get some, and the rest when others end.
pub(super) fn share(all: u64, taken: u64) -> u64 {
    (all / 2).saturating_sub(taken).div_ceil(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_is_left_to_others_and_the_rest_is_shared() {
        let shared = Shared::new();
        assert_eq!(shared.take_share(100, 64), 16);
        assert_eq!(shared.take_share(100, 64), 8);
        assert_eq!(shared.take_share(3, 64), 3);
        assert_eq!(shared.taken(), 27);
        let rest: u64 = (0..10).map(|_| shared.take_share(100, 64)).sum();
        assert_eq!(rest, 5);
        // The least that a fetch needs is given in any case.
        shared.take(1);
        assert_eq!(shared.take_share(100, 64), 0);
        shared.give_back(33);
        assert_eq!(shared.taken(), 0);
    }
}
