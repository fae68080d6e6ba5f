//! The latencies of faults: histograms of their phases, which each bond has from its first fault
//! on.

use std::time::Duration;

/// The number of buckets of each power of two: the resolution is an eighth.
const SUB_BUCKETS: u32 = 8;
/// The number of powers of two, from 1 ns to about 18 minutes.
const POWERS: u32 = 40;
const BUCKETS: usize = (SUB_BUCKETS * POWERS) as usize;

/// A histogram of durations with buckets of exponential width. Its quantiles are precise to an
/// eighth.
///
/// Rejected: `hdrhistogram`, which takes about 20 KiB at the same precision. There can be four
/// histograms for each of a million bonds.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram {
    buckets: Box<[u32; BUCKETS]>,
    count: u64,
    longest: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: Box::new([0; BUCKETS]), count: 0, longest: Duration::ZERO }
    }
}

impl Histogram {
    /// The bucket of a duration in nanoseconds.
    fn bucket(nanos: u64) -> usize {
        let nanos = nanos.max(1);
        let power = nanos.ilog2();
        // The three bits after the leading one select the bucket within the power of two.
        let sub_bucket =
            if power >= 3 { nanos >> (power - 3) & 7 } else { nanos << (3 - power) & 7 };
        ((power * SUB_BUCKETS) as usize + sub_bucket as usize).min(BUCKETS - 1)
    }

    /// The upper bound of a bucket (exclusive), in nanoseconds.
    fn upper_bound(bucket: usize) -> u64 {
        let (power, sub_bucket) = (bucket as u32 / SUB_BUCKETS, bucket as u32 % SUB_BUCKETS);
        let scale = u64::from(SUB_BUCKETS);
        (((1u64 << power) * (scale + u64::from(sub_bucket) + 1)) / scale).max(1)
    }

    /// Records a duration.
    pub fn record(&mut self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let count = &mut self.buckets[Self::bucket(nanos)];
        *count = count.saturating_add(1);
        self.count += 1;
        self.longest = self.longest.max(took);
    }

    /// The number of recorded durations.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest recorded duration, which is exact.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// The duration that a `share` (0.0..=1.0) of the recorded ones did not exceed, rounded up by
    /// at most an eighth; zero if none was recorded.
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = ((self.count as f64 * share.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, &count) in self.buckets.iter().enumerate() {
            seen += u64::from(count);
            if seen >= wanted {
                return Duration::from_nanos(Self::upper_bound(bucket)).min(self.longest);
            }
        }
        self.longest
    }

    /// Adds the durations of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (count, added) in self.buckets.iter_mut().zip(other.buckets.iter()) {
            *count = count.saturating_add(*added);
        }
        self.count += other.count;
        self.longest = self.longest.max(other.longest);
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} times, p50 {:?}, p99 {:?}, longest {:?}",
            self.count,
            self.quantile(0.5),
            self.quantile(0.99),
            self.longest
        )
    }
}

/// The latencies of the faults of a bond, by phase. `response` is the time that the device waits,
/// and includes `request` and `resolve`. All are empty if the system has no clock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FaultTimes {
    /// The time that a group is queued: from the sorting of its last request to the beginning of
    /// its resolution.
    pub request: Histogram,
    /// The resolution, by the provider or by the handler.
    pub resolve: Histogram,
    /// From the last request of a group to the receipt of its response by the device.
    pub response: Histogram,
    /// From the response to the success of the repeated access.
    pub retry: Histogram,
}

impl FaultTimes {
    /// Adds the latencies of another one.
    pub fn merge(&mut self, other: &Self) {
        self.request.merge(&other.request);
        self.resolve.merge(&other.resolve);
        self.response.merge(&other.response);
        self.retry.merge(&other.retry);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_precise_to_an_eighth() {
        let mut histogram = Histogram::default();
        for nanos in 1..=100_000u64 {
            histogram.record(Duration::from_nanos(nanos));
        }
        for share in [0.01, 0.25, 0.5, 0.9, 0.99] {
            let exact = 100_000.0 * share;
            let quantile = histogram.quantile(share).as_nanos() as f64;
            assert!(
                quantile >= exact * 0.99 && quantile <= exact * 1.13 + 1.0,
                "{share}: {quantile} for {exact}"
            );
        }
        assert_eq!(
            (histogram.quantile(1.0), histogram.count()),
            (Duration::from_nanos(100_000), 100_000)
        );
    }

    #[test]
    fn the_longest_and_the_shortest_have_a_bucket() {
        let mut histogram = Histogram::default();
        histogram.record(Duration::ZERO);
        histogram.record(Duration::MAX);
        assert_eq!((histogram.count(), histogram.longest()), (2, Duration::MAX));
        assert!(histogram.quantile(0.5) <= Duration::from_nanos(2));
        let mut other = Histogram::default();
        other.merge(&histogram);
        assert_eq!(other, histogram);
    }
}
