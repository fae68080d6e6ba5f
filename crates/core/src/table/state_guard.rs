//! The guard of the control lock.

use std::ops::{Deref, DerefMut};
#[cfg(not(loom))]
use std::time::Duration;

use sva_sync::{Condvar, Mutex, MutexGuard};

use super::state::State;

/// Holds the control lock until it is dropped.
///
/// With debug assertions, a thread that takes the lock a second time panics instead of waiting for
/// itself: foreign code was called with the lock held, and has called the IOMMU.
pub(crate) struct StateGuard<'a> {
    state: MutexGuard<'a, State>,
    held: Held,
}

impl<'a> StateGuard<'a> {
    pub(super) fn lock(state: &'a Mutex<State>) -> Self {
        let held = Held::begin();
        Self { state: state.lock(), held }
    }

    /// Releases the lock, waits for `changed`, and takes the lock again.
    #[cfg(loom)]
    pub(super) fn wait(self, changed: &Condvar) -> Self {
        let Self { state, held } = self;
        Self { state: changed.wait(state), held }
    }

    /// Releases the lock, waits for `changed`, at most so long, and takes the lock again. Returns
    /// whether the time has passed.
    #[cfg(not(loom))]
    pub(super) fn wait_timeout(self, changed: &Condvar, limit: Duration) -> (Self, bool) {
        let Self { state, held } = self;
        let (state, timed_out) = changed.wait_timeout(state, limit);
        (Self { state, held }, timed_out)
    }
}

impl Deref for StateGuard<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for StateGuard<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

/// The current thread holds the control lock of an IOMMU. Nothing without debug assertions.
struct Held;

#[cfg(all(debug_assertions, not(loom)))]
mod check {
    use std::cell::Cell;

    use super::Held;

    thread_local!(static IS_HELD: Cell<bool> = const { Cell::new(false) });

    impl Held {
        /// # Panics
        /// The thread holds the control lock.
        pub(super) fn begin() -> Self {
            assert!(
                !IS_HELD.replace(true),
                "this thread holds the control lock and calls the IOMMU again: a method of an \
                 address space, a bus, a device model or a clock was called with the lock held, \
                 or a value of one was dropped"
            );
            Self
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            IS_HELD.set(false);
        }
    }
}

#[cfg(not(all(debug_assertions, not(loom))))]
impl Held {
    fn begin() -> Self {
        Self
    }
}

#[cfg(all(test, debug_assertions, not(loom)))]
mod tests {
    use super::*;
    use crate::table::PasidAllocator;
    use crate::types::ids::PasidWidth;

    fn state() -> Mutex<State> {
        Mutex::new(State::new(PasidAllocator::new(PasidWidth::MAX), 0))
    }

    #[test]
    #[should_panic(expected = "holds the control lock and calls the IOMMU again")]
    fn a_thread_that_takes_the_control_lock_twice_is_told_instead_of_waiting_for_itself() {
        let state = state();
        let _held = StateGuard::lock(&state);
        StateGuard::lock(&state);
    }

    #[test]
    fn the_control_lock_can_be_taken_again_after_its_release() {
        let state = state();
        (0..2).for_each(|_| drop(StateGuard::lock(&state)));
    }
}
