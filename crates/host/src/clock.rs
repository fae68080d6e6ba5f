//! The clock of this machine.

use std::time::{Duration, Instant};

use sva_core::Clock;

/// This machine's monotonic clock, for [`Iommu::with_clock`](sva_core::Iommu::with_clock): counts
/// from the moment at which it was made, and stands still while the machine sleeps.
#[derive(Debug, Clone, Copy)]
pub struct MonotonicClock(Instant);

impl MonotonicClock {
    /// At zero.
    pub fn new() -> Self {
        Self(Instant::now())
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}
