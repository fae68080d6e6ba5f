//! Counts of page requests.

/// Counts of the page requests of all devices of an IOMMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PageQueueCounts {
    /// Page requests received.
    pub requests: u64,
    /// Stop markers received.
    pub stop_markers: u64,
    /// Groups that became complete.
    pub groups: u64,
    /// Groups answered with Success.
    pub succeeded: u64,
    /// Groups answered with Invalid Request.
    pub invalid: u64,
    /// Groups answered with Response Failure.
    pub failed: u64,
    /// Times that the queue overflowed.
    pub overflows: u64,
    /// Page requests and stop markers lost to an overflow, or since their device had as many in the
    /// queue as it is allowed.
    pub lost: u64,
    /// Requests of partial groups that were discarded.
    pub discarded: u64,
    /// Page requests and stop markers dropped since their device was removed, reset or not enabled;
    /// page requests also after a response failure.
    pub dropped: u64,
    /// Groups that were not answered, since their device had been removed or reset.
    pub unanswerable: u64,
    /// Answers to groups that had been answered, drained or dropped before.
    pub late_answers: u64,
}
