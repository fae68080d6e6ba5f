//! An asymmetric memory barrier: the frequent side pays almost nothing, the rare side pays a system
//! call.
//!
//! One thread stores, passes [`light`], and loads. Another thread stores, passes [`heavy`], and
//! loads. At least one of the two loads sees the store of the other thread, as with a sequentially
//! consistent fence on both sides. The rare side uses the kernel's `membarrier` (private
//! expedited), which executes a full barrier on every running thread of the process. On a system
//! without `membarrier` both sides are sequentially consistent fences.

use std::sync::atomic::compiler_fence;

use crate::atomic::{AtomicU8, Ordering, fence};

const UNKNOWN: u8 = 0;
const ASYMMETRIC: u8 = 1;
const SYMMETRIC: u8 = 2;

static KIND: AtomicU8 = AtomicU8::new(UNKNOWN);

/// The frequent side of the barrier, for a caller that stores it: it saves the load of the kind of
/// barrier at each use.
#[derive(Debug, Clone, Copy)]
pub struct Light {
    asymmetric: bool,
}

impl Light {
    /// Makes one. The first call of a process asks the kernel which kind of barrier it has; see
    /// [`prepare`].
    #[expect(clippy::new_without_default, reason = "it asks the kernel")]
    pub fn new() -> Self {
        Self { asymmetric: kind() == ASYMMETRIC }
    }

    /// Orders earlier stores before later loads, as seen by a thread that calls [`heavy`].
    #[inline(always)]
    pub fn pass(self) {
        if self.asymmetric {
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }
}

/// Does what [`Light::pass`] does, for a caller without a [`Light`].
///
/// Before the kernel has been asked it is a full fence, which is correct with both kinds of
/// barrier.
#[inline]
pub fn light() {
    Light { asymmetric: KIND.load(Ordering::Relaxed) == ASYMMETRIC }.pass();
}

/// Executes the rare side of the barrier.
///
/// It takes about 0.4 us where no other thread of the process runs, and interrupts each processor
/// that runs one.
///
/// # Panics
/// If the kernel offered `membarrier` before and refuses it now, as under a seccomp filter that was
/// installed in between. Accesses in flight could no longer be detected.
pub fn heavy() {
    if kind() == SYMMETRIC {
        return fence(Ordering::SeqCst);
    }
    // A child of fork may need to register again.
    let passed = kernel::pass() || kernel::register() && kernel::pass();
    assert!(
        passed,
        "the kernel refuses membarrier, which it offered before: permit it, or have it refused \
         from the beginning"
    );
}

/// Asks the kernel, once per process, which kind of barrier it has.
///
/// With other threads running this takes some milliseconds, so it is worth calling early.
pub fn prepare() {
    kind();
}

fn kind() -> u8 {
    let known = KIND.load(Ordering::Relaxed);
    if known != UNKNOWN {
        return known;
    }
    let kind = if kernel::register() { ASYMMETRIC } else { SYMMETRIC };
    // The first stored kind wins, so that all threads use the same one.
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
