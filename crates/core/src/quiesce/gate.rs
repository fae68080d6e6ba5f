//! A gate counts the accesses inside of it, and can be closed: how an unbind waits for the accesses
//! in flight.
//!
//! The state is one word: the top bit says closed, the next one paused, the others count those
//! inside. Once it is closed or paused nobody gets in, so the count reaches zero once: in the call
//! that closes or pauses it when nobody is inside, or in the [`Gate::leave`] of the last one.
//! Whoever makes that step is told so and finishes the work; nobody else is. Closing is final; a
//! pause ends by [`Gate::resume`].
//!
//! Rejected: counting up first and looking at the bit afterwards. A latecomer would then count down
//! again from a closed gate and could be told "drained" a second time.

use sva_sync::atomic::{AtomicUsize, Ordering};

const CLOSED: usize = 1 << (usize::BITS - 1);
const PAUSED: usize = CLOSED >> 1;
const SHUT: usize = CLOSED | PAUSED;

/// Counts accesses, and lets none in once it is shut.
pub(crate) struct Gate(AtomicUsize);

impl Gate {
    /// Open and empty.
    pub(crate) fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Paused and empty.
    pub(crate) fn paused() -> Self {
        Self(AtomicUsize::new(PAUSED))
    }

    /// Enters; false where the gate is shut. Each `true` is followed by one
    /// [`leave`](Self::leave).
    pub(crate) fn enter(&self) -> bool {
        let mut seen = self.0.load(Ordering::Relaxed);
        while seen & SHUT == 0 {
            // Acquire: what the access does next cannot move before it is counted.
            match self.0.compare_exchange_weak(seen, seen + 1, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Leaves; true for the last one out of a shut gate, who finishes the work.
    #[must_use = "the last one out of a shut gate finishes the work"]
    pub(crate) fn leave(&self) -> bool {
        // Release: the access is over before it is uncounted; acquire: the last one sees all that
        // the others did.
        let before = self.0.fetch_sub(1, Ordering::AcqRel);
        before & SHUT != 0 && before & !SHUT == 1
    }

    /// Counts an access that is known to be in flight, also where the gate is shut. Followed by one
    /// [`leave`](Self::leave).
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// Closes it for good, and answers how many are inside: where it is nobody, the one who closes
    /// finishes the work. `None` where it was closed before, which changes nothing.
    #[must_use = "if nobody is inside, the one who closes finishes the work"]
    pub(crate) fn close(&self) -> Option<usize> {
        let before = self.0.fetch_or(CLOSED, Ordering::AcqRel);
        (before & CLOSED == 0).then_some(before & !SHUT)
    }

    /// Lets nobody in until it is resumed. Answers how many are inside.
    pub(crate) fn pause(&self) -> usize {
        self.0.fetch_or(PAUSED, Ordering::AcqRel) & !SHUT
    }

    /// Ends a pause; a closed gate stays closed.
    pub(crate) fn resume(&self) {
        self.0.fetch_and(!PAUSED, Ordering::AcqRel);
    }

    /// Whether it has been closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Whether nobody gets in now.
    #[inline]
    pub(crate) fn is_shut(&self) -> bool {
        self.0.load(Ordering::Acquire) & SHUT != 0
    }

    /// Whether it is shut and nobody is inside.
    pub(crate) fn is_drained(&self) -> bool {
        let now = self.0.load(Ordering::Acquire);
        now & SHUT != 0 && now & !SHUT == 0
    }
}
