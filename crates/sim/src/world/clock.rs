//! The clock of a world.

use std::time::Duration;

use sva_core::Clock;
use sva_sync::atomic::{AtomicU64, Ordering};

/// Time that passes when the schedule says so.
#[derive(Default)]
pub(super) struct ScheduleClock(AtomicU64);

impl ScheduleClock {
    pub(super) fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Clock for ScheduleClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}
