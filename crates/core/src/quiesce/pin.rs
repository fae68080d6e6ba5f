//! Pins: ranges of spaces that a device model accesses in place, and the waiters
//! (invalidations, unbinds and removals) that wait for them.
//!
//! The device model decides how long a pin lasts, so no thread spins for one: a thread that needs
//! to wait adds a waiter to the slot, and the unpinning thread takes it from there. A pin that
//! nothing waits for costs plain stores and loads; the waiting thread pays for the barrier
//! (docs/design/translation.md, "Pins").

use std::sync::Arc;

use smallvec::SmallVec;
use sva_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use sva_sync::{Mutex, ThreadNumber, barrier};

use super::{WeakWaiter, step_all};
use crate::types::ids::{Generation, RequesterId};
use crate::types::range::AddrRange;

/// The number of bits of a slot's word that count pins. They distinguish a pin from the next one of
/// the same owner.
const COUNT_BITS: u32 = 16;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// Publishes the range that is pinned and the owner of its memory. It has one writer, and is
/// aligned to two cache lines, which the processor prefetches in pairs.
#[repr(align(128))]
pub(crate) struct PinSlot {
    /// The owner and the number of the pin; 0 if nothing is pinned.
    word: AtomicU64,
    first: AtomicU64,
    last: AtomicU64,
    thread: AtomicU64,
    /// Whether `waiters` may be non-empty. Written with `waiters` locked.
    is_awaited: AtomicBool,
    /// The port of the slot is gone, so that it pins nothing any more.
    is_abandoned: AtomicBool,
    requester: RequesterId,
    waiters: Mutex<Vec<WeakWaiter>>,
}

/// The pin of a slot at one moment.
pub(crate) struct PinnedRange {
    word: u64,
    pub(crate) range: AddrRange,
    pub(crate) thread: ThreadNumber,
    pub(crate) requester: RequesterId,
}

impl PinnedRange {
    /// Whether the pinned memory is that of `owner`.
    pub(crate) fn is_of(&self, owner: Generation) -> bool {
        self.word >> COUNT_BITS == owner.0
    }
}

impl PinSlot {
    /// Makes an empty slot for a device that issues requests as `requester`.
    pub(crate) fn new(requester: RequesterId) -> Self {
        Self {
            word: AtomicU64::new(0),
            first: AtomicU64::new(0),
            last: AtomicU64::new(0),
            thread: AtomicU64::new(0),
            is_awaited: AtomicBool::new(false),
            is_abandoned: AtomicBool::new(false),
            requester,
            waiters: Mutex::default(),
        }
    }

    /// Sets the thread that makes the next pins. Nothing is pinned.
    #[inline]
    pub(crate) fn set_thread(&self, thread: ThreadNumber) {
        // Release: a thread that reads this sees that the earlier pin has ended.
        self.thread.store(thread.0, Ordering::Release);
    }

    /// The thread that made the last pin.
    pub(crate) fn thread(&self) -> ThreadNumber {
        ThreadNumber(self.thread.load(Ordering::Acquire))
    }

    /// Pins a range. Other threads see the pin at the latest when the critical section in which
    /// this is called has ended, or when they lock a list on which the pinning thread has called
    /// [`PinSlots::add`] after this call. The lowest 16 bits of `number` distinguish this pin from
    /// the previous one.
    #[inline]
    pub(crate) fn pin(&self, owner: Generation, number: u64, range: AddrRange) {
        // Release, each: a thread that reads one of these values and then the word again sees that
        // the earlier pin has ended.
        self.first.store(range.first(), Ordering::Release);
        self.last.store(range.last(), Ordering::Release);
        // Generations count allocations of PASIDs, of which there are fewer than 2^48.
        self.word.store(owner.0 << COUNT_BITS | number & COUNT, Ordering::Release);
    }

    /// Ends the pin. Returns whether there may be [waiters](Self::take_waiters).
    #[inline]
    #[must_use = "there may be waiters to make steps of"]
    pub(crate) fn unpin(&self) -> bool {
        // Release: the accesses are over before the store is seen.
        self.word.store(0, Ordering::Release);
        barrier::light();
        // If the barrier of the waiting thread precedes this load, its flag is seen here. Otherwise
        // the store above precedes that barrier: the waiting thread sees it and does not wait.
        self.is_awaited.load(Ordering::Acquire)
    }

    /// Ends a pin that was forgotten, whose port is being dropped, and takes the slot from all
    /// lists.
    #[cold]
    pub(crate) fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::Relaxed);
        if self.unpin() {
            step_all(self.take_waiters());
        }
    }

    /// Takes the waiters, of each of which the unpinning thread makes a step.
    #[cold]
    pub(crate) fn take_waiters(&self) -> Vec<WeakWaiter> {
        let mut waiters = self.waiters.lock();
        self.is_awaited.store(false, Ordering::Relaxed);
        std::mem::take(&mut waiters)
    }

    /// The current pin; `None` if there is none, or if it changes during the call. If it changes,
    /// the earlier pin has ended, and the later one begins after the revocation that the caller
    /// waits for: its thread sees the revocation before it uses the memory.
    fn pinned(&self) -> Option<PinnedRange> {
        let word = self.word.load(Ordering::Acquire);
        let (first, last) = (self.first.load(Ordering::Acquire), self.last.load(Ordering::Acquire));
        let thread = self.thread();
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

    /// Adds a waiter to `pinned`; returns false if that pin has ended.
    fn add_waiter(&self, pinned: &PinnedRange, waiter: &impl Fn() -> WeakWaiter) -> bool {
        let mut waiters = self.waiters.lock();
        self.is_awaited.store(true, Ordering::Relaxed);
        barrier::heavy();
        if self.word.load(Ordering::Acquire) != pinned.word {
            self.is_awaited.store(!waiters.is_empty(), Ordering::Relaxed);
            return false;
        }
        // Dropped waiters are removed before the list grows, which bounds it.
        if waiters.len() == waiters.capacity() {
            waiters.retain(|waiter| waiter.strong_count() > 0);
        }
        waiters.push(waiter());
        true
    }
}

/// The slots through which a device may pin memory, or through which memory of a space may be
/// pinned.
#[derive(Default)]
pub(crate) struct PinSlots(Mutex<Vec<Arc<PinSlot>>>);

impl PinSlots {
    /// Adds a slot, unless it is on the list. Takes the lock in either case, since the lock orders
    /// the pin and the searches of the list: a search before this call is of a revocation that the
    /// pinning thread sees when it validates afterwards, and a later search sees the pin.
    pub(crate) fn add(&self, slot: &Arc<PinSlot>) {
        let mut slots = self.0.lock();
        slots.retain(|listed| !listed.is_abandoned.load(Ordering::Relaxed));
        if !slots.iter().any(|listed| Arc::ptr_eq(listed, slot)) {
            slots.push(Arc::clone(slot));
        }
    }

    /// Removes a slot that is being dropped or does not pin memory of the space any more.
    pub(crate) fn remove(&self, slot: &Arc<PinSlot>) {
        self.0.lock().retain(|listed| !Arc::ptr_eq(listed, slot));
    }

    /// The pinned ranges of `owner` now, each with the requester ID of its device.
    pub(crate) fn pinned_of(&self, owner: Generation) -> Vec<(RequesterId, AddrRange)> {
        let slots = self.0.lock();
        let pinned = slots.iter().filter_map(|slot| slot.pinned());
        pinned
            .filter(|pinned| pinned.is_of(owner))
            .map(|pinned| (pinned.requester, pinned.range))
            .collect()
    }

    /// Whether there is no slot, so that no memory can be pinned.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Adds a waiter to each pin that `selects` selects, and returns the number of them. The
    /// revocation precedes this call, and the critical sections that did not see it have ended.
    /// `waiter` is called only for a pin that has not ended by then.
    pub(crate) fn add_waiters(
        &self,
        selects: impl Fn(&PinnedRange) -> bool,
        waiter: impl Fn() -> WeakWaiter,
    ) -> usize {
        let slots: SmallVec<[Arc<PinSlot>; 2]> = self.0.lock().iter().cloned().collect();
        let add = |slot: &&Arc<PinSlot>| {
            slot.pinned()
                .is_some_and(|pinned| selects(&pinned) && slot.add_waiter(&pinned, &waiter))
        };
        slots.iter().filter(add).count()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::quiesce::Waiter;
    use crate::types::ids::Bdf;

    // shows U1
    #[test]
    fn a_pin_names_its_owner_whatever_its_number() {
        let slot = PinSlot::new(RequesterId(Bdf::new(0, 1, 0, 0).expect("a function")));
        let range = AddrRange::new(0x1000, 0x1000).expect("a page");
        for number in [1, COUNT, COUNT + 1, COUNT + 2, u64::MAX] {
            slot.pin(Generation(6), number, range);
            let pinned = slot.pinned().expect("pinned");
            assert!(pinned.is_of(Generation(6)), "pin {number:#x} names another owner");
            assert_eq!(
                slot.word.load(Ordering::Relaxed) & COUNT,
                number & COUNT,
                "the number distinguishes it from the next pin"
            );
        }
    }

    // shows S2: the list of a pin is bounded by the number of its live waiters
    #[test]
    fn the_waiters_of_dropped_changes_do_not_accumulate_at_a_pin() {
        let slot = Arc::new(PinSlot::new(RequesterId(Bdf::new(0, 1, 0, 0).expect("a function"))));
        let (pins, range) = (PinSlots::default(), AddrRange::new(0x1000, 0x1000).expect("a page"));
        pins.add(&slot);
        slot.pin(Generation(7), 1, range);
        struct NoOp;
        impl Waiter for NoOp {
            fn step(self: Arc<Self>) {}
        }
        let start_wait = || {
            let change = Arc::new(NoOp);
            let found = pins.add_waiters(
                |pinned| pinned.is_of(Generation(7)),
                || Arc::downgrade(&change) as WeakWaiter,
            );
            assert_eq!(found, 1);
            change
        };
        (0..10_000).for_each(|_| drop(start_wait()));
        let waiting = start_wait();
        assert!(slot.waiters.lock().capacity() < 64);
        assert!(slot.unpin());
        let is_alive = |waiter: &&WeakWaiter| waiter.strong_count() > 0;
        assert_eq!(slot.take_waiters().iter().filter(is_alive).count(), 1);
        drop(waiting);
        assert!(!slot.unpin(), "the next pin has no waiter");
    }
}
