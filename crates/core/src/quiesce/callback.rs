//! Knows whether this thread is inside a callback: a handler, a device model, or a transaction with
//! all that it runs (resolvers, peers, the drop of what it was the last to use).
//!
//! An unbind from there must not wait: what it would wait for may be the very call that it is
//! inside of.

use std::cell::Cell;
use std::marker::PhantomData;

// Loom's form takes no const block.
#[cfg(loom)]
sva_sync::thread_local!(static DEPTH: Cell<u32> = Cell::new(0));
#[cfg(not(loom))]
sva_sync::thread_local!(static DEPTH: Cell<u32> = const { Cell::new(0) });

/// This thread is inside a callback as long as this lives. Not `Send`.
pub(crate) struct InCallback(PhantomData<*const ()>);

impl InCallback {
    /// Enters a callback.
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

/// Does nothing on a thread that is past its end and drops a bond from another thread-local value:
/// it is inside no callback that could return.
#[inline]
fn change(by: impl FnOnce(u32) -> u32) {
    let _ = DEPTH.try_with(|depth| depth.set(by(depth.get())));
}
