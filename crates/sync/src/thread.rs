//! Back-off for spinning threads, and numbers that identify threads.

#[cfg(loom)]
use loom::thread;
#[cfg(not(loom))]
use std::thread;

use crate::atomic;

/// Back-off for a thread that waits for another one to finish a short critical section: it spins
/// first, then yields, then sleeps.
#[derive(Debug, Default)]
pub struct Backoff {
    #[cfg(not(loom))]
    steps: crossbeam_utils::Backoff,
}

impl Backoff {
    /// Waits once. The first calls spin, later ones yield, and after about ten calls each one
    /// sleeps for 50 us.
    pub fn wait(&mut self) {
        #[cfg(loom)]
        thread::yield_now();
        #[cfg(not(loom))]
        if self.steps.is_completed() {
            // The other thread is probably preempted in its critical section.
            thread::sleep(std::time::Duration::from_micros(50));
        } else {
            self.steps.snooze();
        }
    }
}

/// Identifies a thread of this process. Numbers start at 1 and are not reused; 0 stands for no
/// thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadNumber(pub u64);

/// The number of the calling thread.
///
/// Rejected: std's `Thread` handle, whose reference count changes at each call, and std's
/// `ThreadId`, which does not fit into an atomic.
#[inline]
pub fn this_thread() -> ThreadNumber {
    #[cfg(loom)]
    loom::thread_local!(static NUMBER: std::cell::Cell<u64> = std::cell::Cell::new(0));
    #[cfg(not(loom))]
    std::thread_local!(static NUMBER: std::cell::Cell<u64> = const { std::cell::Cell::new(0) });
    // std's type also under loom: numbers are only compared, and must not add states to a model.
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NUMBER.with(|number| {
        if number.get() == 0 {
            number.set(NEXT.fetch_add(1, atomic::Ordering::Relaxed));
        }
        ThreadNumber(number.get())
    })
}
