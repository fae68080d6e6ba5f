//! How long faults took: histograms of their parts, kept for each bond from its first fault on.

use std::time::Duration;

/// Buckets for each doubling: a value is told apart from one that is an eighth larger.
const PARTS: u32 = 8;
/// Doublings from 1 ns on: up to some 18 minutes.
const DOUBLINGS: u32 = 40;
const BUCKETS: usize = (PARTS * DOUBLINGS) as usize;

/// Counts durations in buckets that grow with them; knows quantiles to an eighth.
///
/// Rejected: `hdrhistogram`, some 20 KiB each at the same precision, where there can be four for
/// each of a million bonds.
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
    fn bucket(nanos: u64) -> usize {
        let nanos = nanos.max(1);
        let doubling = nanos.ilog2();
        // The bits after the leading one, as far as they tell parts of a doubling apart.
        let part =
            if doubling >= 3 { nanos >> (doubling - 3) & 7 } else { nanos << (3 - doubling) & 7 };
        ((doubling * PARTS) as usize + part as usize).min(BUCKETS - 1)
    }

    /// The smallest duration above a bucket, in nanoseconds.
    fn above(bucket: usize) -> u64 {
        let (doubling, part) = (bucket as u32 / PARTS, (bucket as u32 % PARTS) as u64);
        (((1u64 << doubling) * (u64::from(PARTS) + part + 1)) / u64::from(PARTS)).max(1)
    }

    /// Counts one.
    pub fn record(&mut self, took: Duration) {
        let slot =
            &mut self.buckets[Self::bucket(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX))];
        *slot = slot.saturating_add(1);
        self.count += 1;
        self.longest = self.longest.max(took);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest, exactly.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// The duration that `share` (0.0..=1.0) of them did not exceed, rounded up by at most an
    /// eighth; zero where none was counted.
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = ((self.count as f64 * share.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, &count) in self.buckets.iter().enumerate() {
            seen += u64::from(count);
            if seen >= wanted {
                return Duration::from_nanos(Self::above(bucket)).min(self.longest);
            }
        }
        self.longest
    }

    /// Adds what another counted.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets.iter()) {
            *mine = mine.saturating_add(*theirs);
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

/// The parts of a bond's faults. All empty where the system has no clock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FaultTimes {
    /// From a group being complete in the queue to the moment at which its resolving began.
    pub request: Histogram,
    /// Resolving: the provider, or the owner's handler.
    pub resolve: Histogram,
    /// From the device's last request of a group to the response that it took: the whole round
    /// trip.
    pub response: Histogram,
    /// From the response to the access that was tried again and succeeded.
    pub retry: Histogram,
}

impl FaultTimes {
    /// Adds what another counted.
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
    fn quantiles_are_right_to_an_eighth() {
        let mut histogram = Histogram::default();
        for nanos in 1..=100_000u64 {
            histogram.record(Duration::from_nanos(nanos));
        }
        for share in [0.01, 0.25, 0.5, 0.9, 0.99] {
            let exact = 100_000.0 * share;
            let told = histogram.quantile(share).as_nanos() as f64;
            assert!(
                told >= exact * 0.99 && told <= exact * 1.13 + 1.0,
                "{share}: {told} for {exact}"
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
