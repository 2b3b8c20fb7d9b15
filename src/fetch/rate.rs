//! The rate limit for all blobs of a fetch together, in bytes per second.

use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval};

/// How often bytes are added to the allowance.
const TICK: Duration = Duration::from_millis(20);

/// How many bytes a reader takes at a time. This is less than a pipe holds, so that many blobs share evenly.
const SLICE_BYTES: u32 = 16 * 1024;

/// An allowance of bytes, as permits of a semaphore. A task adds permits at each tick, and readers take them. The
/// permits of two ticks are kept, or those of one slice if that is more. Further unused permits are lost.
#[derive(Debug, Clone)]
pub(super) struct Limit {
    bytes: Arc<Semaphore>,
    _filler: Arc<Filler>,
}

#[derive(Debug)]
struct Filler(AbortHandle);

impl Drop for Filler {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Limit {
    /// Makes a limit, and starts the task that refills it. Must be called within a tokio runtime.
    pub(super) fn new(bytes_per_second: NonZeroU64) -> Self {
        let bytes = Arc::new(Semaphore::new(0));
        let filled = Arc::clone(&bytes);
        let task = tokio::spawn(async move {
            let mut ticks = interval(TICK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut credit = 0;
            loop {
                ticks.tick().await;
                // The credit is in billionths of a byte, so that low rates are exact.
                credit += u128::from(bytes_per_second.get()) * TICK.as_nanos();
                let due = usize::try_from(credit / 1_000_000_000).unwrap_or(usize::MAX);
                credit %= 1_000_000_000;
                let most = due.saturating_mul(2).max(SLICE_BYTES as usize);
                let room = most.saturating_sub(filled.available_permits());
                // The number must stay far below the maximum, because readers also add permits: they return unused
                // bytes.
                let most = Semaphore::MAX_PERMITS / 4;
                filled.add_permits(due.min(room).min(most));
            }
        });
        Self {
            bytes,
            _filler: Arc::new(Filler(task.abort_handle())),
        }
    }
}

type Taking =
    Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send + Sync>>;

/// The share of one reader.
#[derive(Default)]
pub(super) struct Share {
    limit: Option<Limit>,
    remaining: usize,
    taking: Option<Taking>,
}

impl std::fmt::Debug for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Share")
            .field("remaining", &self.remaining)
            .finish_non_exhaustive()
    }
}

impl Drop for Share {
    /// Adds the unused bytes of the slice to the allowance again, because most blobs end within a slice.
    fn drop(&mut self) {
        if let Some(limit) = &self.limit {
            limit.bytes.add_permits(self.remaining);
        }
    }
}

impl Share {
    pub(super) fn of(limit: Option<Limit>) -> Self {
        Self {
            limit,
            remaining: 0,
            taking: None,
        }
    }

    /// Waits until bytes may be read, and returns the maximum number.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        let Some(limit) = &self.limit else {
            return Poll::Ready(usize::MAX);
        };
        if self.remaining == 0 {
            let taking = self.taking.get_or_insert_with(|| {
                Box::pin(Arc::clone(&limit.bytes).acquire_many_owned(SLICE_BYTES))
            });
            // The semaphore is never closed.
            if let Ok(permit) = ready!(taking.as_mut().poll(cx)) {
                permit.forget();
            }
            self.taking = None;
            self.remaining = SLICE_BYTES as usize;
        }
        Poll::Ready(self.remaining)
    }

    pub(super) fn used(&mut self, bytes: usize) {
        self.remaining = self.remaining.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn small_blobs_return_the_unused_bytes_of_their_share() {
        let limit = Limit::new(NonZeroU64::new(1_000_000).expect("not zero"));
        let start = Instant::now();
        for _ in 0..1000 {
            let mut share = Share::of(Some(limit.clone()));
            assert!(poll_fn(|cx| share.poll(cx)).await >= 1000);
            share.used(1000);
        }
        let took = start.elapsed();
        assert!((0.95..1.1).contains(&took.as_secs_f64()), "{took:?}");
    }

    #[tokio::test]
    async fn the_refill_task_ends_with_the_last_clone() {
        let limit = Limit::new(NonZeroU64::new(1_000_000).expect("not zero"));
        let bytes = Arc::downgrade(&limit.bytes);
        let last = limit.clone();
        drop(limit);
        tokio::task::yield_now().await;
        assert!(bytes.upgrade().is_some());
        drop(last);
        tokio::task::yield_now().await;
        assert!(bytes.upgrade().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn two_readers_share_one_rate() {
        let limit = Limit::new(NonZeroU64::new(1_000_000).expect("not zero"));
        let read = |limit: Limit| async move {
            let mut share = Share::of(Some(limit));
            let mut left = 500_000;
            while left > 0 {
                let may = poll_fn(|cx| share.poll(cx)).await.min(left);
                share.used(may);
                left -= may;
            }
        };
        let start = Instant::now();
        tokio::join!(read(limit.clone()), read(limit));
        let took = start.elapsed();
        assert!((0.95..1.1).contains(&took.as_secs_f64()), "{took:?}");
    }
}
