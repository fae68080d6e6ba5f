//! Pins: ranges of spaces that code of a device model holds, and how a change of such a range, an
//! unbind and a removal wait for them.
//!
//! A pin lasts as long as foreign code likes, so nobody spins for it: whoever has to wait leaves a
//! completion at the slot, and the holder looks for that when it unpins. A pin that nobody waits
//! for costs its holder plain stores and loads; whoever waits pays for the barrier
//! (docs/design/translation.md, "Pins").

use std::sync::Arc;

use smallvec::SmallVec;
use sva_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use sva_sync::{Mutex, ThreadNumber, barrier};

use super::Waiter;
use crate::types::ids::{Generation, RequesterId};
use crate::types::range::AddrRange;

/// Bits of a slot's word that count pins, so that one is told from the next of the same owner.
const COUNT_BITS: u32 = 16;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// Says which range of whose memory is pinned. It has one writer, and a cache line of its own.
#[repr(align(128))]
pub(crate) struct PinSlot {
    /// The owner and the number of the pin; 0: nothing is pinned.
    word: AtomicU64,
    first: AtomicU64,
    last: AtomicU64,
    thread: AtomicU64,
    /// Whether `waiting` may hold something. Written with `waiting` locked.
    is_awaited: AtomicBool,
    requester: RequesterId,
    waiting: Mutex<Vec<Waiter>>,
}

/// What a slot said at one moment.
pub(crate) struct PinnedRange {
    word: u64,
    pub(crate) range: AddrRange,
    pub(crate) thread: ThreadNumber,
    pub(crate) requester: RequesterId,
}

impl PinnedRange {
    pub(crate) fn is_of(&self, owner: Generation) -> bool {
        self.word >> COUNT_BITS == owner.0
    }
}

impl PinSlot {
    /// Nothing is pinned, by a device that issues requests as this requester.
    pub(crate) fn new(requester: RequesterId) -> Self {
        Self {
            word: AtomicU64::new(0),
            first: AtomicU64::new(0),
            last: AtomicU64::new(0),
            thread: AtomicU64::new(0),
            is_awaited: AtomicBool::new(false),
            requester,
            waiting: Mutex::default(),
        }
    }

    /// Pins a range. Others see it at the latest when the critical section in which this is called
    /// is over, or when the lists that the slot is on are locked after this. The lowest 16 bits of
    /// `number` are used.
    #[inline]
    pub(crate) fn pin(
        &self,
        owner: Generation,
        number: u64,
        range: AddrRange,
        thread: ThreadNumber,
    ) {
        // Release, each: who reads one of these and then the word again sees that an earlier pin is
        // over.
        self.first.store(range.first(), Ordering::Release);
        self.last.store(range.last(), Ordering::Release);
        self.thread.store(thread.0, Ordering::Release);
        // Generations count binds: 2^48 are not reached.
        self.word.store(owner.0 << COUNT_BITS | number & COUNT, Ordering::Release);
    }

    /// Unpins. Answers whether there may be [waiters](Self::take_waiters).
    #[inline]
    #[must_use = "somebody may wait"]
    pub(crate) fn unpin(&self) -> bool {
        // Release: the accesses are over before this is seen.
        self.word.store(0, Ordering::Release);
        barrier::light();
        // Either the waiter's barrier came before this: then its flag is seen here. Or the store
        // came before that barrier: then the waiter sees the store and does not wait.
        self.is_awaited.load(Ordering::Acquire)
    }

    /// Takes those that have one part less to wait for.
    #[cold]
    pub(crate) fn take_waiters(&self) -> Vec<Waiter> {
        let mut waiting = self.waiting.lock();
        self.is_awaited.store(false, Ordering::Relaxed);
        std::mem::take(&mut waiting)
    }

    /// What is pinned now. One that is unpinned during the look counts as none, and so does one
    /// that is pinned during it: that one has seen what has been taken away.
    fn pinned(&self) -> Option<PinnedRange> {
        let word = self.word.load(Ordering::Acquire);
        let (first, last) = (self.first.load(Ordering::Acquire), self.last.load(Ordering::Acquire));
        let thread = ThreadNumber(self.thread.load(Ordering::Acquire));
        if word == 0 || self.word.load(Ordering::Acquire) != word {
            return None;
        }
        Some(PinnedRange {
            word,
            range: AddrRange::inclusive(first, last)?,
            thread,
            requester: self.requester,
        })
    }

    /// Leaves a waiter for what is pinned, where it still is.
    fn leave_waiter(&self, pinned: &PinnedRange, waiter: &impl Fn() -> Waiter) -> bool {
        let mut waiting = self.waiting.lock();
        self.is_awaited.store(true, Ordering::Relaxed);
        barrier::heavy();
        if self.word.load(Ordering::Acquire) != pinned.word {
            self.is_awaited.store(!waiting.is_empty(), Ordering::Relaxed);
            return false;
        }
        if waiting.len() == waiting.capacity() {
            waiting.retain(|waiter| waiter.strong_count() > 0);
        }
        waiting.push(waiter());
        true
    }
}

/// The slots in which memory may be pinned: by one device, or of one space.
#[derive(Default)]
pub(crate) struct PinSlots(Mutex<Vec<Arc<PinSlot>>>);

impl PinSlots {
    /// Adds a slot. Whoever does not find it has taken away before, and the holder, which looks
    /// after this, sees that.
    pub(crate) fn add(&self, slot: &Arc<PinSlot>) {
        let mut slots = self.0.lock();
        if !slots.iter().any(|known| Arc::ptr_eq(known, slot)) {
            slots.push(Arc::clone(slot));
        }
    }

    /// Removes a slot: its holder is gone, or has forgotten the space.
    pub(crate) fn remove(&self, slot: &Arc<PinSlot>) {
        self.0.lock().retain(|known| !Arc::ptr_eq(known, slot));
    }

    /// Whether nothing can be pinned.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Leaves a waiter at each pin that is meant; answers at how many. What is taken away has been
    /// taken before this, and the critical sections that saw it are over. A waiter is made only for
    /// a pin that is there until it has been made.
    pub(crate) fn leave_waiters(
        &self,
        is_meant: impl Fn(&PinnedRange) -> bool,
        waiter: impl Fn() -> Waiter,
    ) -> usize {
        let slots: SmallVec<[Arc<PinSlot>; 2]> = self.0.lock().iter().cloned().collect();
        let leave = |slot: &&Arc<PinSlot>| {
            slot.pinned()
                .is_some_and(|pinned| is_meant(&pinned) && slot.leave_waiter(&pinned, &waiter))
        };
        slots.iter().filter(leave).count()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::quiesce::Completion;
    use crate::types::ids::Bdf;
    use sva_sync::this_thread;

    // shows U1
    #[test]
    fn a_pin_is_of_its_owner_however_many_there_have_been() {
        let slot = PinSlot::new(RequesterId(Bdf::new(0, 1, 0, 0).expect("a function")));
        let range = AddrRange::new(0x1000, 0x1000).expect("a page");
        for number in [1, COUNT, COUNT + 1, COUNT + 2, u64::MAX] {
            slot.pin(Generation(6), number, range, this_thread());
            let pinned = slot.pinned().expect("pinned");
            assert!(pinned.is_of(Generation(6)), "pin {number:#x} is of another");
            assert_eq!(
                slot.word.load(Ordering::Relaxed) & COUNT,
                number & COUNT,
                "told from the next"
            );
        }
    }

    // shows S2: what is left at a pin is bounded by those that wait for it
    #[test]
    fn changes_that_nobody_waits_for_leave_nothing_at_a_pin() {
        let slot = Arc::new(PinSlot::new(RequesterId(Bdf::new(0, 1, 0, 0).expect("a function"))));
        let (pins, range) = (PinSlots::default(), AddrRange::new(0x1000, 0x1000).expect("a page"));
        pins.add(&slot);
        slot.pin(Generation(7), 1, range, this_thread());
        struct Counted;
        impl Completion for Counted {
            fn step(self: Arc<Self>) {}
        }
        let wait = || {
            let change = Arc::new(Counted);
            let found = pins.leave_waiters(
                |pinned| pinned.is_of(Generation(7)),
                || Arc::downgrade(&change) as Waiter,
            );
            assert_eq!(found, 1);
            change
        };
        (0..10_000).for_each(|_| drop(wait()));
        let waits = wait();
        assert!(slot.waiting.lock().capacity() < 64);
        assert!(slot.unpin());
        let alive = |waiter: &&Waiter| waiter.strong_count() > 0;
        assert_eq!(slot.take_waiters().iter().filter(alive).count(), 1);
        drop(waits);
        assert!(!slot.unpin(), "who comes next finds nothing of it");
    }
}
