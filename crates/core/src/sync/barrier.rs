//! An asymmetric barrier: next to nothing for those that access, a system call for those that wait
//! for them.
//!
//! Where one thread stores and then loads, and another stores, calls [`heavy`] and then loads,
//! [`light`] between the first one's store and load suffices for at least one of them to see what
//! the other has stored. The kernel's `membarrier` (private expedited) has every running thread of
//! the process pass a full barrier. Where there is none, both sides are full fences.

use std::sync::atomic::compiler_fence;

use super::atomic::{AtomicU8, Ordering, fence};

const UNKNOWN: u8 = 0;
const ASYMMETRIC: u8 = 1;
const SYMMETRIC: u8 = 2;

static KIND: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Between a store and a load of a thread that is to be cheap.
#[derive(Clone, Copy)]
pub(crate) struct Light {
    asymmetric: bool,
}

impl Light {
    /// Asks the kernel which kind there is, once for all. Who has the answer does not have to look
    /// for it again.
    pub(crate) fn new() -> Self {
        Self { asymmetric: prepare() == ASYMMETRIC }
    }

    #[inline(always)]
    pub(crate) fn pass(self) {
        if self.asymmetric {
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }
}

/// As [`Light::pass`], for those that have no answer at hand; as long as nobody has asked the
/// kernel, a full fence, which goes with both kinds.
#[inline]
pub(crate) fn light() {
    Light { asymmetric: KIND.load(Ordering::Relaxed) == ASYMMETRIC }.pass();
}

/// Between a store and a load of a thread that waits for those.
///
/// # Panics
/// The kernel offered `membarrier` once and refuses it now, as under a seccomp filter that was
/// installed in between: what is under way cannot be known any more.
pub(crate) fn heavy() {
    if prepare() == SYMMETRIC {
        return fence(Ordering::SeqCst);
    }
    // A child of fork may have to register again.
    let passed = kernel::pass() || kernel::register() && kernel::pass();
    assert!(
        passed,
        "the kernel refuses membarrier, which it offered before: permit it, or have it refused from the beginning"
    );
}

/// Asks the kernel, once, which kind it has, and answers it.
pub(crate) fn prepare() -> u8 {
    let known = KIND.load(Ordering::Relaxed);
    if known != UNKNOWN {
        return known;
    }
    let kind = if kernel::register() { ASYMMETRIC } else { SYMMETRIC };
    // The first answer counts: there is one kind for all.
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
