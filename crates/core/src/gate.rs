//! A gate that counts those inside and closes once: how an unbind waits for the accesses in flight.
//!
//! The state is one word: the top bit says closed, the others count those inside. Once closed nobody gets in, so the word reaches
//! "closed and empty" exactly once: in [`Gate::close`] when nobody is inside, or in the [`Gate::leave`] of the last one. Whoever makes that step is told
//! [`Outcome::Drained`] and finishes the work; nobody else is.
//!
//! Rejected: counting up first and looking at the bit afterwards. A latecomer would then count down again from a closed gate and could be told
//! "drained" a second time.

use crate::sync::atomic::{AtomicUsize, Ordering};

const CLOSED: usize = 1 << (usize::BITS - 1);

/// What a step at the gate came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The gate is closed and empty now, and this step made it so.
    Drained,
    /// Somebody is still inside, or the gate is open.
    Busy,
}

/// See the module.
pub(crate) struct Gate(AtomicUsize);

impl Gate {
    /// Open and empty.
    pub(crate) fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Goes in; false where the gate is closed. Each `true` is followed by one [`leave`](Self::leave).
    pub(crate) fn enter(&self) -> bool {
        let mut seen = self.0.load(Ordering::Relaxed);
        while seen & CLOSED == 0 {
            // Acquire: what the access does next cannot move before it is counted.
            match self.0.compare_exchange_weak(seen, seen + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Goes out.
    #[must_use = "the last one out of a closed gate finishes the work"]
    pub(crate) fn leave(&self) -> Outcome {
        // Release: the access is over before it is uncounted; acquire: the last one sees all that the others did.
        match self.0.fetch_sub(1, Ordering::AcqRel) {
            before if before == CLOSED | 1 => Outcome::Drained,
            _ => Outcome::Busy,
        }
    }

    /// Closes; a second call changes nothing and answers busy.
    #[must_use = "if nobody is inside, the one who closes finishes the work"]
    pub(crate) fn close(&self) -> Outcome {
        match self.0.fetch_or(CLOSED, Ordering::AcqRel) {
            0 => Outcome::Drained,
            _ => Outcome::Busy,
        }
    }

    /// Whether it has been closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Whether it is closed and nobody is inside.
    pub(crate) fn is_drained(&self) -> bool {
        self.0.load(Ordering::Acquire) == CLOSED
    }

    /// How many are inside now.
    pub(crate) fn inside(&self) -> usize {
        self.0.load(Ordering::Relaxed) & !CLOSED
    }
}
