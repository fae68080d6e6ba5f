//! Waiting for a thread that is about to be done, and telling threads apart.

#[cfg(loom)]
use loom::thread;
#[cfg(not(loom))]
use std::thread;

use crate::atomic;

/// Waits for another thread that is about to be done: spins first, then sleeps.
#[derive(Debug, Default)]
pub struct Backoff {
    #[cfg(not(loom))]
    steps: crossbeam_utils::Backoff,
}

impl Backoff {
    /// Waits once: some spins, a yield, and from some ten calls on a sleep of 50 us.
    pub fn wait(&mut self) {
        #[cfg(loom)]
        thread::yield_now();
        #[cfg(not(loom))]
        if self.steps.is_completed() {
            // The other thread is not running: it was preempted in its critical section.
            thread::sleep(std::time::Duration::from_micros(50));
        } else {
            self.steps.snooze();
        }
    }
}

/// Identifies one of all threads that the process ever has; 0 is no thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadNumber(pub u64);

/// The number of the calling thread.
///
/// std's `Thread` handle is reference-counted with each call, and its `ThreadId` does not fit into
/// an atomic: hence numbers of our own.
#[inline]
pub fn this_thread() -> ThreadNumber {
    #[cfg(loom)]
    loom::thread_local!(static NUMBER: std::cell::Cell<u64> = std::cell::Cell::new(0));
    #[cfg(not(loom))]
    std::thread_local!(static NUMBER: std::cell::Cell<u64> = const { std::cell::Cell::new(0) });
    // Not loom's: numbers are only compared, so they add no state to a model.
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NUMBER.with(|number| {
        if number.get() == 0 {
            number.set(NEXT.fetch_add(1, atomic::Ordering::Relaxed));
        }
        ThreadNumber(number.get())
    })
}
