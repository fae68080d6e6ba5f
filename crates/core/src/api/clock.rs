//! Time, which the core does not have by itself.

use std::time::Duration;

/// Tells the time; the core measures with it and finds what is overdue. Read often, from any
/// thread: it neither blocks nor calls back.
pub trait Clock: Send + Sync {
    /// The time since a moment that does not change. Never goes back.
    fn now(&self) -> Duration;
}
