//! The only source of locks and atomics, so that model checking sees all of them.
//!
//! Under `--cfg loom` the same names are loom's. `Arc` is std's in both: no ordering here rests on
//! a reference count. A lock that a panicking thread held is not poisoned: every critical section
//! of this crate leaves its data consistent at each step that can panic.
#![expect(clippy::disallowed_types, reason = "this is the shim")]

use std::fmt;

#[cfg(loom)]
use loom::sync as imp;
#[cfg(not(loom))]
use std::sync as imp;

pub use imp::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};

/// Atomic types and orderings. The types are wrapped, so that a lint can tell them from std's.
pub mod atomic {
    #[cfg(loom)]
    use loom::sync::atomic as imp;
    #[cfg(not(loom))]
    use std::sync::atomic as imp;

    pub use imp::{Ordering, fence};

    macro_rules! wrap {
        ($($(#[$doc:meta])* $name:ident($value:ty) { $($method:ident($($arg:ident: $kind:ty),*) -> $result:ty;)* })*) => {$(
            $(#[$doc])*
            #[derive(Debug, Default)]
            pub struct $name(imp::$name);

            impl $name {
                /// Wraps `value`.
                #[cfg(not(loom))]
                pub const fn new(value: $value) -> Self {
                    Self(imp::$name::new(value))
                }

                /// Wraps `value`.
                #[cfg(loom)]
                pub fn new(value: $value) -> Self {
                    Self(imp::$name::new(value))
                }

                $(
                    /// As the method of std's type with this name.
                    // Without the attribute other crates call a function, which then finds out at run time which ordering it was given.
                    #[inline]
                    pub fn $method(&self, $($arg: $kind),*) -> $result {
                        self.0.$method($($arg),*)
                    }
                )*
            }
        )*};
    }

    macro_rules! wrap_integer {
        ($($(#[$doc:meta])* $name:ident($value:ty))*) => {
            wrap! {$(
                $(#[$doc])*
                $name($value) {
                    load(order: Ordering) -> $value;
                    store(value: $value, order: Ordering) -> ();
                    swap(value: $value, order: Ordering) -> $value;
                    fetch_add(value: $value, order: Ordering) -> $value;
                    fetch_sub(value: $value, order: Ordering) -> $value;
                    fetch_or(value: $value, order: Ordering) -> $value;
                    fetch_and(value: $value, order: Ordering) -> $value;
                    compare_exchange(current: $value, new: $value, success: Ordering, failure: Ordering) -> Result<$value, $value>;
                    compare_exchange_weak(current: $value, new: $value, success: Ordering, failure: Ordering) -> Result<$value, $value>;
                }
            )*}
        };
    }

    wrap! {
        /// An atomic flag.
        AtomicBool(bool) {
            load(order: Ordering) -> bool;
            store(value: bool, order: Ordering) -> ();
            swap(value: bool, order: Ordering) -> bool;
            compare_exchange(current: bool, new: bool, success: Ordering, failure: Ordering) -> Result<bool, bool>;
        }
    }

    wrap_integer! {
        /// An atomic byte.
        AtomicU8(u8)
        /// An atomic 32-bit number.
        AtomicU32(u32)
        /// An atomic 64-bit number.
        AtomicU64(u64)
        /// An atomic number of the word's size.
        AtomicUsize(usize)
    }
}

#[cfg(not(loom))]
pub(crate) mod barrier;

/// Loom knows fences and no kernel.
#[cfg(loom)]
pub(crate) mod barrier {
    use super::atomic::{Ordering, fence};

    #[derive(Clone, Copy)]
    pub(crate) struct Light;

    impl Light {
        pub(crate) fn new() -> Self {
            Self
        }

        pub(crate) fn pass(self) {
            fence(Ordering::SeqCst);
        }
    }

    pub(crate) fn light() {
        fence(Ordering::SeqCst);
    }

    pub(crate) fn heavy() {
        fence(Ordering::SeqCst);
    }

    pub(crate) fn prepare() {}
}

/// Waits for another thread that is about to be done: spins, then gives the processor away.
#[derive(Default)]
pub(crate) struct Backoff {
    #[cfg(not(loom))]
    steps: crossbeam_utils::Backoff,
}

impl Backoff {
    pub(crate) fn wait(&mut self) {
        #[cfg(loom)]
        thread::yield_now();
        #[cfg(not(loom))]
        if self.steps.is_completed() {
            // It is not running: its processor has been taken from it in the middle.
            thread::sleep(std::time::Duration::from_micros(50));
        } else {
            self.steps.snooze();
        }
    }
}

#[cfg(loom)]
use loom::thread;
#[cfg(not(loom))]
use std::thread;

/// Which thread this is, of all that the process ever has; 0 is none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ThreadNumber(pub(crate) u64);

/// Which thread this is. A number of ours, since std's handle is counted each time that it is asked
/// for, and its number cannot be kept in an atomic.
#[inline]
pub(crate) fn this_thread() -> ThreadNumber {
    #[cfg(loom)]
    loom::thread_local!(static NUMBER: std::cell::Cell<u64> = std::cell::Cell::new(0));
    #[cfg(not(loom))]
    std::thread_local!(static NUMBER: std::cell::Cell<u64> = const { std::cell::Cell::new(0) });
    // No state of a model: numbers are only compared.
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NUMBER.with(|number| {
        if number.get() == 0 {
            number.set(NEXT.fetch_add(1, atomic::Ordering::Relaxed));
        }
        ThreadNumber(number.get())
    })
}

#[cfg(loom)]
pub(crate) use loom::thread_local;
#[cfg(not(loom))]
pub(crate) use std::thread_local;

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

    /// Blocks until the lock is had.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        match self.0.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// What it protects, which nobody else has. Does not block.
    pub fn get_mut(&mut self) -> &mut T {
        match self.0.get_mut() {
            Ok(value) => value,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// What it has protected. Does not block.
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

    /// Blocks until the lock is had for reading.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        match self.0.read() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// Blocks until the lock is had for writing.
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
    /// Nobody waits yet.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self(imp::Condvar::new())
    }

    /// Nobody waits yet.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self(imp::Condvar::new())
    }

    /// Gives the lock up, waits for a notification (or none: check the condition again), takes the
    /// lock again.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        match self.0.wait(guard) {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// As [`wait`](Self::wait), for at most `limit`; the flag says whether the time ran out.
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

    /// Wakes all that wait.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Wakes one that waits.
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
