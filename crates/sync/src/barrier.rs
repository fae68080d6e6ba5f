//! An asymmetric barrier: the frequent side pays almost nothing, the rare side a system call.
//!
//! One thread stores and then loads, with [`light`] in between. Another thread stores, calls
//! [`heavy`] and then loads. At least one of the two sees what the other has stored. The kernel's
//! `membarrier` (private expedited) makes every running thread of the process pass a full barrier.
//! On a system without it both sides are full fences.

use std::sync::atomic::compiler_fence;

use crate::atomic::{AtomicU8, Ordering, fence};

const UNKNOWN: u8 = 0;
const ASYMMETRIC: u8 = 1;
const SYMMETRIC: u8 = 2;

static KIND: AtomicU8 = AtomicU8::new(UNKNOWN);

/// The frequent side of the barrier, for a caller that keeps it at hand.
#[derive(Debug, Clone, Copy)]
pub struct Light {
    asymmetric: bool,
}

impl Light {
    /// Asks the kernel, once in a process, which kind of barrier it has.
    #[expect(clippy::new_without_default, reason = "it asks the kernel")]
    pub fn new() -> Self {
        Self { asymmetric: kind() == ASYMMETRIC }
    }

    /// Orders the stores before it and the loads after it, as seen by a thread that calls
    /// [`heavy`].
    #[inline(always)]
    pub fn pass(self) {
        if self.asymmetric {
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }
}

/// As [`Light::pass`], for a caller without a [`Light`]. It is a full fence until the kernel has
/// been asked, which is right with both kinds.
#[inline]
pub fn light() {
    Light { asymmetric: KIND.load(Ordering::Relaxed) == ASYMMETRIC }.pass();
}

/// The rare side of the barrier: some 0.4 us where no other thread of the process runs, and an
/// interrupt on each processor that runs one.
///
/// # Panics
/// The kernel offered `membarrier` before and refuses it now, as under a seccomp filter that was
/// installed in between: accesses in flight could no longer be detected.
pub fn heavy() {
    if kind() == SYMMETRIC {
        return fence(Ordering::SeqCst);
    }
    // A child of fork may have to register again.
    let passed = kernel::pass() || kernel::register() && kernel::pass();
    assert!(
        passed,
        "the kernel refuses membarrier, which it offered before: permit it, or have it refused \
         from the beginning"
    );
}

/// Asks the kernel, once, which kind of barrier it has.
///
/// Where other threads run the kernel takes some milliseconds for this, so it is worth doing early.
pub fn prepare() {
    kind();
}

fn kind() -> u8 {
    let known = KIND.load(Ordering::Relaxed);
    if known != UNKNOWN {
        return known;
    }
    let kind = if kernel::register() { ASYMMETRIC } else { SYMMETRIC };
    // The first answer counts: all threads use one kind.
    KIND.compare_exchange(UNKNOWN, kind, Ordering::Relaxed, Ordering::Relaxed)
        .map_or_else(|first| first, |_| kind)
}

#[cfg(all(target_os = "linux", not(miri)))]
mod kernel {
    use rustix::thread::{MembarrierCommand, membarrier};

    pub(super) fn register() -> bool {
        membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
    }

    pub(super) fn pass() -> bool {
        membarrier(MembarrierCommand::PrivateExpedited).is_ok()
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
mod kernel {
    pub(super) fn register() -> bool {
        false
    }

    pub(super) fn pass() -> bool {
        false
    }
}
