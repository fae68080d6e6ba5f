//! Knows whether this thread is inside a callback: a handler, a device model, or a transaction with
//! all that it runs (resolvers, peers, the drop of what it was the last to use).
//!
//! An unbind from there must not wait (rule U3): what it would wait for may be the very call that
//! it is inside of.

use std::cell::Cell;
use std::marker::PhantomData;

// Loom's form takes no const block.
#[cfg(loom)]
crate::sync::thread_local!(static DEPTH: Cell<u32> = Cell::new(0));
#[cfg(not(loom))]
crate::sync::thread_local!(static DEPTH: Cell<u32> = const { Cell::new(0) });

/// This thread is inside a callback as long as this lives. Not `Send`.
pub(crate) struct InCallback(PhantomData<*const ()>);

impl InCallback {
    /// Enters.
    #[inline]
    pub(crate) fn enter() -> Self {
        change(|depth| depth + 1);
        Self(PhantomData)
    }
}

impl Drop for InCallback {
    #[inline]
    fn drop(&mut self) {
        change(|depth| depth - 1);
    }
}

/// Whether this thread is inside a callback.
pub(crate) fn inside() -> bool {
    DEPTH.try_with(|depth| depth.get() > 0).unwrap_or(false)
}

/// A thread that is past its end, dropping a bond from another thread-local value, is inside no
/// callback that could return.
#[inline]
fn change(by: impl FnOnce(u32) -> u32) {
    let _ = DEPTH.try_with(|depth| depth.set(by(depth.get())));
}
