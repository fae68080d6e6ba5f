//! The guards. Those that can wait for the accesses in flight implement [`Wait`] too.

use std::hint::spin_loop;
use std::io;
use std::sync::atomic::compiler_fence;

use arc_swap::ArcSwap;
use crossbeam_utils::CachePadded;
use sva_bench::system::{membarrier, register_membarrier};
use sva_sync::RwLock;
use sva_sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use super::access::{AccessGuard, Wait};

#[derive(Default)]
pub(crate) struct Nothing;

impl AccessGuard for Nothing {
    #[inline(always)]
    fn during(&self, _reader: usize, _number: u64, mut access: impl FnMut()) {
        access();
    }
}

/// A slot for each reader, which only that reader writes, and a count of revocations that all
/// readers read. With `FENCE` the reader executes a fence between the two. Without it the waiting
/// thread has the kernel execute one on all processors that run this process.
#[derive(Default)]
pub(crate) struct Slots<const FENCE: bool> {
    slots: [CachePadded<AtomicU64>; 2],
    revocations: CachePadded<AtomicU64>,
}

impl Slots<false> {
    /// Once, before anybody waits.
    pub(crate) fn register() -> io::Result<()> {
        register_membarrier()
    }
}

impl<const FENCE: bool> AccessGuard for Slots<FENCE> {
    #[inline(always)]
    fn during(&self, reader: usize, number: u64, mut access: impl FnMut()) {
        let slot = &self.slots[reader];
        slot.store(number << 1 | 1, Ordering::Relaxed);
        if FENCE {
            fence(Ordering::SeqCst);
        } else {
            compiler_fence(Ordering::SeqCst);
        }
        // A port compares it with that of what it has found; here all of them are right.
        if self.revocations.load(Ordering::Acquire) != u64::MAX {
            access();
        }
        slot.store(0, Ordering::Release);
    }
}

impl<const FENCE: bool> Wait for Slots<FENCE> {
    fn wait(&self) {
        self.revocations.fetch_add(1, Ordering::AcqRel);
        if FENCE || membarrier().is_err() {
            fence(Ordering::SeqCst);
        }
        for slot in &self.slots {
            let begun = slot.load(Ordering::Acquire);
            while begun != 0 && slot.load(Ordering::Acquire) == begun {
                spin_loop();
            }
        }
    }
}

/// A count of readers, with a bit that keeps them out.
#[derive(Default)]
pub(crate) struct Counted(CachePadded<AtomicUsize>);

const SHUT: usize = 1 << (usize::BITS - 1);

impl AccessGuard for Counted {
    #[inline(always)]
    fn during(&self, _reader: usize, _number: u64, mut access: impl FnMut()) {
        while self.0.fetch_add(1, Ordering::Acquire) & SHUT != 0 {
            self.0.fetch_sub(1, Ordering::Release);
            spin_loop();
        }
        access();
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl Wait for Counted {
    fn wait(&self) {
        self.0.fetch_or(SHUT, Ordering::AcqRel);
        while self.0.load(Ordering::Acquire) != SHUT {
            spin_loop();
        }
        self.0.fetch_and(!SHUT, Ordering::AcqRel);
    }
}

#[derive(Default)]
pub(crate) struct Locked(RwLock<u64>);

impl AccessGuard for Locked {
    #[inline(always)]
    fn during(&self, _reader: usize, _number: u64, mut access: impl FnMut()) {
        let _held = self.0.read();
        access();
    }
}

impl Wait for Locked {
    fn wait(&self) {
        *self.0.write() += 1;
    }
}

/// Its collector defers what is to be freed; nobody can wait for it.
#[derive(Default)]
pub(crate) struct Epoch;

impl AccessGuard for Epoch {
    #[inline(always)]
    fn during(&self, _reader: usize, _number: u64, mut access: impl FnMut()) {
        let _pinned = crossbeam_epoch::pin();
        access();
    }
}

/// A writer can only learn that nobody holds the old value by looking at its count.
#[derive(Default)]
pub(crate) struct Swapped(ArcSwap<u64>);

impl AccessGuard for Swapped {
    #[inline(always)]
    fn during(&self, _reader: usize, _number: u64, mut access: impl FnMut()) {
        let _held = self.0.load();
        access();
    }
}

/// Looks afterwards whether something has changed, and does it again: a write could not be taken
/// back, and what is read may be gone.
#[derive(Default)]
pub(crate) struct Validated(CachePadded<AtomicU64>);

impl AccessGuard for Validated {
    #[inline(always)]
    fn during(&self, _reader: usize, _number: u64, mut access: impl FnMut()) {
        loop {
            let before = self.0.load(Ordering::Acquire);
            access();
            fence(Ordering::Acquire);
            if self.0.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}
