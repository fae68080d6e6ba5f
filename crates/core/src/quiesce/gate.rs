//! Gates: a gate counts the accesses in flight and can be shut, so that an unbind can wait for
//! them.
//!
//! The state is one word: the top bit is set if the gate is closed, the next bit if it is paused,
//! and the other bits count the accesses inside. A gate that is closed or paused (shut) admits no
//! access, so its count reaches zero once: in the call that shuts the gate if no access is inside,
//! or in the [`Gate::leave`] of the last access. That call alone reports it, and its caller
//! continues the work. Closing is final; a pause ends with [`Gate::resume`]. Pauses do not nest:
//! the callers order them by a lock of their own.
//!
//! [`Gate::enter_unchecked`] is an exception: it counts pins at the shut gate of a device. That
//! gate can reach zero, and report it, several times. Its report only wakes threads, which test
//! [`Gate::is_drained`]. A gate whose report makes a step, as that of a PASID entry, must not be
//! entered in this way.
//!
//! Rejected: incrementing the count first and testing the bits afterwards. An access that came too
//! late would decrement the count of a closed gate again, and "drained" could be reported twice.

use sva_sync::atomic::{AtomicUsize, Ordering};

const CLOSED: usize = 1 << (usize::BITS - 1);
const PAUSED: usize = CLOSED >> 1;
const SHUT: usize = CLOSED | PAUSED;

/// Counts accesses in flight, and admits none while it is shut.
pub(crate) struct Gate(AtomicUsize);

impl Gate {
    /// Makes an open gate with no access inside.
    pub(crate) fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Makes a paused gate with no access inside.
    pub(crate) fn paused() -> Self {
        Self(AtomicUsize::new(PAUSED))
    }

    /// Enters the gate; returns false if it is shut. Each `true` must be followed by one
    /// [`leave`](Self::leave).
    #[must_use = "an access that has entered must leave"]
    pub(crate) fn enter(&self) -> bool {
        let mut seen = self.0.load(Ordering::Relaxed);
        while seen & SHUT == 0 {
            // Acquire: the access cannot be reordered before it is counted.
            match self.0.compare_exchange_weak(seen, seen + 1, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Leaves the gate; returns true for the last access that leaves a shut gate. Its caller
    /// continues the work of the thread that shut the gate.
    #[must_use = "the last access that leaves a shut gate continues the work"]
    pub(crate) fn leave(&self) -> bool {
        // Release: the access is over before the count is decremented. Acquire: the last access
        // sees everything that the others did.
        let before = self.0.fetch_sub(1, Ordering::AcqRel);
        before & SHUT != 0 && before & !SHUT == 1
    }

    /// Counts an access that is known to be in flight, whether or not the gate is shut. Must be
    /// followed by one [`leave`](Self::leave).
    pub(crate) fn enter_unchecked(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// Closes the gate for good and returns how many accesses are inside. If none are, the caller
    /// continues the work itself. Returns `None`, and changes nothing, if the gate was closed
    /// before.
    #[must_use = "if no access is inside, the caller continues the work"]
    pub(crate) fn close(&self) -> Option<usize> {
        let before = self.0.fetch_or(CLOSED, Ordering::AcqRel);
        (before & CLOSED == 0).then_some(before & !SHUT)
    }

    /// Admits no access until [`resume`](Self::resume). Returns how many accesses are inside.
    pub(crate) fn pause(&self) -> usize {
        self.0.fetch_or(PAUSED, Ordering::AcqRel) & !SHUT
    }

    /// Ends a pause; a closed gate stays closed.
    pub(crate) fn resume(&self) {
        self.0.fetch_and(!PAUSED, Ordering::AcqRel);
    }

    /// Whether the gate has been closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Whether the gate is closed or paused, so that it admits no access.
    #[inline]
    pub(crate) fn is_shut(&self) -> bool {
        self.0.load(Ordering::Acquire) & SHUT != 0
    }

    /// Whether the gate is shut and no access is inside.
    pub(crate) fn is_drained(&self) -> bool {
        let now = self.0.load(Ordering::Acquire);
        now & SHUT != 0 && now & !SHUT == 0
    }
}
