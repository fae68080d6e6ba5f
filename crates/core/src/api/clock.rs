//! The clock trait: the core has no time of its own.

use std::time::Duration;

/// A monotonic clock, by which the core measures latencies and finds overdue messages.
///
/// The core reads it often, from any thread. An implementation neither blocks nor calls the core.
pub trait Clock: Send + Sync {
    /// The time since a fixed moment. It never decreases.
    fn now(&self) -> Duration;
}
