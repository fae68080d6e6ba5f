//! Pins: ranges of spaces that somebody has in hand, and how a change of such a range, an unbind
//! and a removal wait for them.
//!
//! Unlike a section a pin lasts as long as foreign code likes, so nobody spins for it: whoever has
//! to wait leaves word at the slot, and the holder looks for that when it lets go. A pin that
//! nobody waits for costs its holder plain stores and loads; whoever waits pays for the barrier
//! (docs/design/translation.md, "Pins").

use std::sync::{Arc, Weak};

use smallvec::SmallVec;

use crate::ids::{Generation, RequesterId};
use crate::invalidation::Countdown;
use crate::iommu::parts::Attachment;
use crate::range::AddrRange;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, ThreadNumber, barrier};

/// Bits of a slot's word that count pins, so that one can be told from the next of the same owner.
const COUNT_BITS: u32 = 16;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// Says which range of whose memory one holder has in hand. It has one writer, and a line of its
/// own.
#[repr(align(128))]
pub(crate) struct PinSlot {
    /// The owner and the number of the pin; 0: nothing is in hand.
    word: AtomicU64,
    first: AtomicU64,
    last: AtomicU64,
    thread: AtomicU64,
    /// Somebody may have left word. Written with `waiting` locked.
    awaited: AtomicBool,
    requester: RequesterId,
    waiting: Mutex<Vec<Waiter>>,
}

/// Who waits for a pin.
pub(crate) enum Waiter {
    /// A change of the space; one that nobody waits for any more is none.
    Change(Weak<Countdown>),
    /// One of the last steps of an attachment.
    Unbind(Arc<Attachment>),
    /// The gate of the holder's device, in which it is counted.
    Gate,
}

/// What a slot said at one moment.
pub(crate) struct Held {
    word: u64,
    pub(crate) range: AddrRange,
    pub(crate) thread: ThreadNumber,
    pub(crate) requester: RequesterId,
}

impl Held {
    pub(crate) fn is_of(&self, owner: Generation) -> bool {
        self.word >> COUNT_BITS == owner.0
    }
}

impl PinSlot {
    /// Nothing in hand, of a device that issues as this requester.
    pub(crate) fn new(requester: RequesterId) -> Self {
        Self {
            word: AtomicU64::new(0),
            first: AtomicU64::new(0),
            last: AtomicU64::new(0),
            thread: AtomicU64::new(0),
            awaited: AtomicBool::new(false),
            requester,
            waiting: Mutex::default(),
        }
    }

    /// Has a range in hand, from the moment on at which others see it: in a section, or where the
    /// lists that the slot is on are locked after this. Of `number` the lowest 16 bits are used.
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

    /// Has nothing in hand any more. Answers whether there may be [waiters](Self::take_waiters).
    #[inline]
    #[must_use = "somebody may wait"]
    pub(crate) fn unpin(&self) -> bool {
        // Release: what was accessed was accessed before.
        self.word.store(0, Ordering::Release);
        barrier::light();
        // Either the barrier of the one that waits was before this, then what it has left is seen
        // here; or the store was before that barrier, then it sees the store and does not wait.
        self.awaited.load(Ordering::Acquire)
    }

    /// Those who have one less to wait for.
    #[cold]
    pub(crate) fn take_waiters(&self) -> Vec<Waiter> {
        let mut waiting = self.waiting.lock();
        self.awaited.store(false, Ordering::Relaxed);
        std::mem::take(&mut waiting)
    }

    /// What is in hand now. One that is let go while this looks is none, and so is one that comes
    /// meanwhile: that one has seen what has been taken away.
    fn held(&self) -> Option<Held> {
        let word = self.word.load(Ordering::Acquire);
        let (first, last) = (self.first.load(Ordering::Acquire), self.last.load(Ordering::Acquire));
        let thread = ThreadNumber(self.thread.load(Ordering::Acquire));
        if word == 0 || self.word.load(Ordering::Acquire) != word {
            return None;
        }
        Some(Held {
            word,
            range: AddrRange::inclusive(first, last)?,
            thread,
            requester: self.requester,
        })
    }

    /// Has somebody wait for what is in hand, where it still is.
    fn wait_for(&self, held: &Held, waiter: &impl Fn() -> Waiter) -> bool {
        let mut waiting = self.waiting.lock();
        self.awaited.store(true, Ordering::Relaxed);
        barrier::heavy();
        if self.word.load(Ordering::Acquire) != held.word {
            self.awaited.store(!waiting.is_empty(), Ordering::Relaxed);
            return false;
        }
        if waiting.len() == waiting.capacity() {
            waiting.retain(
                |waiter| !matches!(waiter, Waiter::Change(left) if left.strong_count() == 0),
            );
        }
        waiting.push(waiter());
        true
    }
}

/// The slots of those who may have memory in hand: by one device, or of one space.
#[derive(Default)]
pub(crate) struct Pins(Mutex<Vec<Arc<PinSlot>>>);

impl Pins {
    /// From now on this slot is looked at. Whoever does not find it there has taken away before,
    /// and the holder, which looks after this, sees it.
    pub(crate) fn add(&self, slot: &Arc<PinSlot>) {
        let mut slots = self.0.lock();
        if !slots.iter().any(|held| Arc::ptr_eq(held, slot)) {
            slots.push(Arc::clone(slot));
        }
    }

    /// The holder is gone, or has forgotten the space.
    pub(crate) fn remove(&self, slot: &Arc<PinSlot>) {
        self.0.lock().retain(|held| !Arc::ptr_eq(held, slot));
    }

    /// Whether nobody can have anything in hand.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Has a waiter wait for each pin that is meant; answers for how many. What is taken away has
    /// been before this, and the sections that saw it are over. The waiters are made for pins that
    /// are there until they have been made.
    pub(crate) fn wait_for(
        &self,
        is_meant: impl Fn(&Held) -> bool,
        waiter: impl Fn() -> Waiter,
    ) -> usize {
        self.now()
            .iter()
            .filter(|slot| {
                slot.held().is_some_and(|held| is_meant(&held) && slot.wait_for(&held, &waiter))
            })
            .count()
    }

    fn now(&self) -> SmallVec<[Arc<PinSlot>; 2]> {
        self.0.lock().iter().cloned().collect()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::ids::Bdf;
    use crate::sync::this_thread;

    // shows U1
    #[test]
    fn a_pin_is_of_its_owner_however_many_there_have_been() {
        let slot = PinSlot::new(RequesterId(Bdf::new(0, 1, 0, 0).expect("a function")));
        let range = AddrRange::new(0x1000, 0x1000).expect("a page");
        for number in [1, COUNT, COUNT + 1, COUNT + 2, u64::MAX] {
            slot.pin(Generation(6), number, range, this_thread());
            let held = slot.held().expect("in hand");
            assert!(held.is_of(Generation(6)), "pin {number:#x} is of another");
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
        let (pins, range) = (Pins::default(), AddrRange::new(0x1000, 0x1000).expect("a page"));
        pins.add(&slot);
        slot.pin(Generation(7), 1, range, this_thread());
        let wait = || {
            let left = Arc::new(Countdown::new(1));
            let found = pins.wait_for(
                |held| held.is_of(Generation(7)),
                || Waiter::Change(Arc::downgrade(&left)),
            );
            assert_eq!(found, 1);
            left
        };
        (0..10_000).for_each(|_| drop(wait()));
        let waits = wait();
        assert!(slot.waiting.lock().capacity() < 64);
        assert!(slot.unpin());
        let alive =
            |waiter: &Waiter| matches!(waiter, Waiter::Change(left) if left.strong_count() > 0);
        assert_eq!(slot.take_waiters().iter().filter(|waiter| alive(waiter)).count(), 1);
        drop(waits);
        assert!(!slot.unpin(), "who comes next finds nothing of it");
    }
}
