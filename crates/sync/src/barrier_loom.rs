//! The asymmetric barrier under loom, which models fences but no `membarrier`: both sides are
//! sequentially consistent fences.

use crate::atomic::{Ordering, fence};

/// The frequent side of the barrier.
#[derive(Debug, Clone, Copy)]
pub struct Light;

impl Light {
    /// Makes one.
    #[expect(clippy::new_without_default, reason = "as the other implementation")]
    pub fn new() -> Self {
        Self
    }

    /// Orders earlier stores before later loads, as seen by a thread that calls [`heavy`].
    pub fn pass(self) {
        fence(Ordering::SeqCst);
    }
}

/// Does what [`Light::pass`] does.
pub fn light() {
    fence(Ordering::SeqCst);
}

/// Executes the rare side of the barrier.
pub fn heavy() {
    fence(Ordering::SeqCst);
}

/// Does nothing: there is no kernel to ask.
pub fn prepare() {}
