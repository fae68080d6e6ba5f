//! The gate in front of an anchor: who is inside uses its number, and it is not reaped before all
//! have left.
//!
//! One word: the highest bit says closed, the rest counts who is inside. After it has been closed
//! the count only falls, so it reaches zero once, and whoever sees that (the closer, or the last to
//! leave) is told to let the number go.

use sva_core::sync::atomic::{AtomicU64, Ordering};

const CLOSED: u64 = 1 << 63;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Gate(AtomicU64);

impl Gate {
    /// Goes in, unless closed. Each success is to be followed by one [`leave`](Self::leave).
    pub(crate) fn enter(&self) -> bool {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            if word & CLOSED != 0 {
                return false;
            }
            match self.0.compare_exchange_weak(word, word + 1, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
    }

    /// Goes out; true where this was the last one to leave a closed gate.
    #[must_use]
    pub(crate) fn leave(&self) -> bool {
        self.0.fetch_sub(1, Ordering::AcqRel) == CLOSED | 1
    }

    /// Lets nobody in from now on; true where it was open and nobody is inside.
    #[must_use]
    pub(crate) fn close(&self) -> bool {
        self.0.fetch_or(CLOSED, Ordering::AcqRel) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::Gate;

    #[test]
    fn a_closed_gate_lets_nobody_in_and_says_once_that_it_is_empty() {
        let gate = Gate::default();
        assert!(gate.enter() && gate.enter());
        assert!(!gate.close(), "two are inside");
        assert!(!gate.enter());
        assert!(!gate.leave());
        assert!(gate.leave(), "the last one out");
        assert!(!gate.close(), "said already");
        assert!(Gate::default().close(), "nobody inside");
    }
}
