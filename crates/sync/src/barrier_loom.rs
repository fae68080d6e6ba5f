//! The asymmetric barrier under loom, which knows fences and no kernel: both sides are full fences.

use crate::atomic::{Ordering, fence};

/// The frequent side's barrier; see the other implementation.
#[derive(Debug, Clone, Copy)]
pub struct Light;

impl Light {
    /// Makes one.
    #[expect(clippy::new_without_default, reason = "as the other implementation")]
    pub fn new() -> Self {
        Self
    }

    /// Passes it.
    pub fn pass(self) {
        fence(Ordering::SeqCst);
    }
}

/// Passes the frequent side's barrier.
pub fn light() {
    fence(Ordering::SeqCst);
}

/// Passes the rare side's barrier.
pub fn heavy() {
    fence(Ordering::SeqCst);
}

/// Does nothing.
pub fn prepare() {}
