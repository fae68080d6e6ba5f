//! The locks, atomics and thread-locals of sva, in one place so that a model checker sees all of
//! them.
//!
//! Under `--cfg loom` the same names are loom's types. `Arc` is std's in both cases: no ordering
//! depends on a reference count. A lock is not poisoned when a thread panics with it held: every
//! critical section of sva leaves its data consistent at each step that can panic.
//!
//! ```
//! use sva_sync::Mutex;
//! use sva_sync::atomic::{AtomicU64, Ordering};
//!
//! let (total, list) = (AtomicU64::new(0), Mutex::new(Vec::new()));
//! std::thread::scope(|scope| {
//!     for n in 1..=4 {
//!         let (total, list) = (&total, &list);
//!         scope.spawn(move || {
//!             total.fetch_add(n, Ordering::Relaxed);
//!             list.lock().push(n);
//!         });
//!     }
//! });
//! assert_eq!((total.load(Ordering::Relaxed), list.lock().len()), (10, 4));
//! ```
#![forbid(unsafe_code)]
#![expect(clippy::disallowed_types, reason = "this crate wraps those types")]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod atomic;
#[cfg_attr(loom, path = "barrier_loom.rs")]
pub mod barrier;
mod thread;

use std::fmt;

#[cfg(loom)]
use loom::sync as imp;
#[cfg(not(loom))]
use std::sync as imp;

pub use imp::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};
#[cfg(loom)]
pub use loom::thread_local;
#[cfg(not(loom))]
pub use std::thread_local;
pub use thread::{Backoff, ThreadNumber, this_thread};

/// A mutex without poison.
pub struct Mutex<T>(imp::Mutex<T>);

impl<T> Mutex<T> {
    /// Wraps `value`.
    #[cfg(not(loom))]
    pub const fn new(value: T) -> Self {
        Self(imp::Mutex::new(value))
    }

    /// Wraps `value`.
    #[cfg(loom)]
    pub fn new(value: T) -> Self {
        Self(imp::Mutex::new(value))
    }

    /// Acquires the lock; blocks until it is free.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        match self.0.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// The protected value. Does not block: the exclusive reference rules out other users.
    pub fn get_mut(&mut self) -> &mut T {
        match self.0.get_mut() {
            Ok(value) => value,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// Consumes the lock and returns the protected value. Does not block.
    pub fn into_inner(self) -> T {
        match self.0.into_inner() {
            Ok(value) => value,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mutex(..)")
    }
}

/// A readers-writer lock without poison.
pub struct RwLock<T>(imp::RwLock<T>);

impl<T> RwLock<T> {
    /// Wraps `value`.
    #[cfg(not(loom))]
    pub const fn new(value: T) -> Self {
        Self(imp::RwLock::new(value))
    }

    /// Wraps `value`.
    #[cfg(loom)]
    pub fn new(value: T) -> Self {
        Self(imp::RwLock::new(value))
    }

    /// Acquires the lock for reading; blocks while it is locked for writing.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        match self.0.read() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// Acquires the lock for writing; blocks while it is locked for reading or writing.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        match self.0.write() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

impl<T: Default> Default for RwLock<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RwLock(..)")
    }
}

/// A condition variable for [`Mutex`].
pub struct Condvar(imp::Condvar);

impl Condvar {
    /// Makes a condition variable that no thread waits on.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self(imp::Condvar::new())
    }

    /// Makes a condition variable that no thread waits on.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self(imp::Condvar::new())
    }

    /// Releases the lock, blocks until a notification, and acquires the lock again. It may return
    /// without a notification: check the condition again.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        match self.0.wait(guard) {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// Does what [`wait`](Self::wait) does, for at most `limit`. The flag is true if the limit has
    /// passed.
    #[cfg(not(loom))]
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        limit: std::time::Duration,
    ) -> (MutexGuard<'a, T>, bool) {
        match self.0.wait_timeout(guard, limit) {
            Ok((guard, result)) => (guard, result.timed_out()),
            Err(poisoned) => {
                let (guard, result) = poisoned.into_inner();
                (guard, result.timed_out())
            }
        }
    }

    /// Wakes all waiting threads.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Wakes one waiting thread.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }
}

impl Default for Condvar {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Condvar")
    }
}
