//! Records whether the current thread is inside a callback: a handler, a device model, a
//! transaction with the code that it runs (resolvers, peers, the drop of a value of which it had
//! the last reference), or the time between a pin and its unpin.
//!
//! An unbind inside a callback must not wait: the call that it would wait for may be the one that
//! it is made from.

use std::cell::Cell;
use std::marker::PhantomData;

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
    DEPTH.try_with(|depth| depth.get() > 0).unwrap_or(false)
}

/// Updates the nesting depth. Does nothing after the thread-local has been destroyed, where the
/// drop of another thread-local value may drop a bond: that thread is inside no callback that could
/// return.
#[inline]
fn update_depth(update: impl FnOnce(u32) -> u32) {
    let _ = DEPTH.try_with(|depth| depth.set(update(depth.get())));
}
