//! Counts of what happened to invalidations.

/// What happened, since the device was plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct InvalidationCounts {
    /// Messages sent, repetitions included.
    pub sent: u64,
    /// Invalidations that went into the message of another one, while all tags were in use.
    pub joined: u64,
    /// Times that a message came to name all of a PASID or of the device, because too many were
    /// waiting.
    pub widened: u64,
    /// Invalidations that the device completed.
    pub completed: u64,
    /// Times that a completion did not come in time.
    pub timed_out: u64,
    /// Completions that fit no invalidation in flight: late, doubled or wrong.
    pub unexpected: u64,
    /// Invalidations that were over because the device was blocked.
    pub canceled: u64,
}
