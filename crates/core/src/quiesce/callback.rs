//! Records whether the current thread is inside a callback: a handler, a device model, a
//! transaction with the code that it runs (resolvers, peers, the drop of a value of which it had
//! the last reference), or the time between a pin and its unpin.
//!
//! An unbind inside a callback must not wait: the call that it would wait for may be the one that
//! it is made from.

use std::cell::Cell;
use std::marker::PhantomData;

use sva_sync::{ThreadNumber, this_thread};

// Loom's macro does not accept a const block.
#[cfg(loom)]
sva_sync::thread_local!(static DEPTH: Cell<u32> = Cell::new(0));
#[cfg(not(loom))]
sva_sync::thread_local!(static DEPTH: Cell<u32> = const { Cell::new(0) });

/// Marks the current thread as inside a callback until it is dropped. Not `Send`.
pub(crate) struct InCallback(PhantomData<*const ()>);

impl InCallback {
    /// Enters a callback. Callbacks nest.
    #[inline]
    pub(crate) fn enter() -> Self {
        update_depth(|depth| depth + 1);
        Self(PhantomData)
    }
}

impl Drop for InCallback {
    #[inline]
    fn drop(&mut self) {
        update_depth(|depth| depth - 1);
    }
}

/// Whether the current thread is inside a callback.
pub(crate) fn inside() -> bool {
    let is_inside = || DEPTH.try_with(|depth| depth.get() > 0).unwrap_or(false);
    is_inside() && {
        #[cfg(not(loom))]
        forgotten::leave_those_of_this_thread();
        is_inside()
    }
}

/// Leaves a callback of `thread` whose [`InCallback`] was forgotten. Another thread than the
/// current one leaves it when it next asks whether it is [`inside`] a callback.
pub(crate) fn end_forgotten(thread: ThreadNumber) {
    if thread == this_thread() {
        update_depth(|depth| depth.saturating_sub(1));
    } else {
        #[cfg(not(loom))]
        forgotten::add(thread);
    }
}

/// The callbacks that other threads have forgotten to leave. Not under loom, whose models forget
/// nothing.
#[cfg(not(loom))]
mod forgotten {
    use sva_sync::atomic::{AtomicBool, Ordering};
    use sva_sync::{Mutex, ThreadNumber, this_thread};

    /// Whether there are any, so that a thread need not take the lock.
    static ARE_THERE: AtomicBool = AtomicBool::new(false);
    static OF: Mutex<Vec<ThreadNumber>> = Mutex::new(Vec::new());

    pub(super) fn add(thread: ThreadNumber) {
        let mut of = OF.lock();
        of.push(thread);
        ARE_THERE.store(true, Ordering::Release);
    }

    pub(super) fn leave_those_of_this_thread() {
        if !ARE_THERE.load(Ordering::Acquire) {
            return;
        }
        let this = this_thread();
        let mut of = OF.lock();
        let before = of.len();
        of.retain(|thread| *thread != this);
        let own = u32::try_from(before - of.len()).unwrap_or(u32::MAX);
        ARE_THERE.store(!of.is_empty(), Ordering::Release);
        drop(of);
        super::update_depth(|depth| depth.saturating_sub(own));
    }
}

/// Updates the nesting depth. Does nothing after the thread-local has been destroyed, where the
/// drop of another thread-local value may drop a bond: that thread is inside no callback that could
/// return.
#[inline]
fn update_depth(update: impl FnOnce(u32) -> u32) {
    let _ = DEPTH.try_with(|depth| depth.set(update(depth.get())));
}
