//! Counts of invalidations.

/// Counts of the invalidations of a device, since the device was plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct InvalidationCounts {
    /// Invalidate requests sent, repetitions included.
    pub sent: u64,
    /// Invalidations that were merged into the request of another one, while all tags were in use.
    pub merged: u64,
    /// Times that a request was extended to all addresses of a PASID or of all PASIDs, since too
    /// many requests waited for a tag.
    pub widened: u64,
    /// Invalidations that the device completed.
    pub completed: u64,
    /// Times that a completion did not come within the time limit.
    pub timed_out: u64,
    /// Completions that match no invalidation in flight: late, duplicated or wrong.
    pub unexpected: u64,
    /// Invalidations that ended without a completion, since the device was blocked.
    pub canceled: u64,
}
