//! The bytes that arrived over time, in bounded memory.

use std::time::Duration;

/// The highest number of buckets. When more are needed, neighbours are merged in pairs.
const MAX_BUCKETS: usize = 2048;

/// The width of a bucket at the beginning. 2,048 of them are 10 s.
const FIRST_WIDTH: Duration = Duration::from_millis(5);

/// Counts of bytes in buckets of equal width. The width doubles whenever the buckets do not suffice.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Throughput {
    width: Duration,
    buckets: Vec<u64>,
}

impl Throughput {
    pub(super) fn new() -> Self {
        Self {
            width: FIRST_WIDTH,
            buckets: Vec::new(),
        }
    }

    /// Counts bytes that arrived at this time.
    pub(super) fn add(&mut self, at: Duration, bytes: u64) {
        let mut index = self.index(at);
        while index >= MAX_BUCKETS {
            self.widen();
            index = self.index(at);
        }
        if index >= self.buckets.len() {
            self.buckets.resize(index + 1, 0);
        }
        self.buckets[index] = self.buckets[index].saturating_add(bytes);
    }

    fn index(&self, at: Duration) -> usize {
        usize::try_from(at.as_nanos() / self.width.as_nanos()).unwrap_or(usize::MAX)
    }

    fn widen(&mut self) {
        let pairs = self.buckets.chunks(2);
        self.buckets = pairs
            .map(|pair| {
                pair.iter()
                    .fold(0, |sum: u64, bytes| sum.saturating_add(*bytes))
            })
            .collect();
        self.width = self.width.saturating_mul(2);
    }

    /// The rates in bytes per second over equal parts of this duration, at most `most` of them, and the width
    /// of a part. The last part may end later.
    pub(super) fn rates(&self, duration: Duration, most: usize) -> (Duration, Vec<f64>) {
        let filled = (self.index(duration) + 1).max(self.buckets.len());
        let together = filled.div_ceil(most.max(1)).max(1);
        let factor = u32::try_from(together).unwrap_or(u32::MAX);
        let width = self.width.saturating_mul(factor);
        let part = |number: usize| {
            let buckets = self.buckets.iter().skip(number * together).take(together);
            let bytes = buckets.fold(0, |sum: u64, bytes| sum.saturating_add(*bytes));
            #[expect(clippy::cast_precision_loss, reason = "drawn as a height")]
            let bytes = bytes as f64;
            bytes / width.as_secs_f64()
        };
        (width, (0..filled.div_ceil(together)).map(part).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn bytes_are_counted_where_they_arrive() {
        let mut throughput = Throughput::new();
        for (at, bytes) in [(0, 10), (4, 10), (5, 30), (14, 50)] {
            throughput.add(ms(at), bytes);
        }
        assert_eq!(
            throughput.rates(ms(14), 100),
            (ms(5), vec![4000.0, 6000.0, 10000.0])
        );
        assert_eq!(throughput.rates(ms(14), 2), (ms(10), vec![5000.0, 5000.0]));
        assert_eq!(throughput.rates(ms(14), 0), (ms(15), vec![100.0 / 0.015]));
        assert_eq!(Throughput::new().rates(ms(14), 9), (ms(5), vec![0.0; 3]));
        let (width, rates) = throughput.rates(ms(100), 100);
        assert_eq!((width, rates.len(), rates[3]), (ms(5), 21, 0.0));
    }

    #[test]
    fn a_long_pull_has_wider_buckets_and_no_more_of_them() {
        let mut throughput = Throughput::new();
        for at in 0..100_000 {
            throughput.add(ms(10 * at), 7);
        }
        assert!(throughput.buckets.len() <= MAX_BUCKETS);
        assert_eq!(throughput.buckets.iter().sum::<u64>(), 700_000);
        throughput.add(Duration::MAX, 1);
        assert!(throughput.buckets.len() <= MAX_BUCKETS);
        assert_eq!(throughput.buckets.iter().sum::<u64>(), 700_001);
    }
}
