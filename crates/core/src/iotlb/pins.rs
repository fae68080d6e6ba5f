//! Ranges of a space whose memory somebody has in hand: a change of such a range waits for them, as it does for a device that has kept a translation.

use std::sync::Arc;

use slab::Slab;

use crate::invalidation::Countdown;
use crate::range::AddrRange;
use crate::sync::{Mutex, ThreadId, this_thread};

#[derive(Default)]
pub(super) struct Pins(Mutex<Slab<Pin>>);

struct Pin {
    range: AddrRange,
    thread: ThreadId,
    waiting: Vec<Arc<Countdown>>,
}

impl Pins {
    /// From now on a change of the range waits. What the range means is asked after this.
    pub(super) fn pin(&self, range: AddrRange) -> usize {
        self.0.lock().insert(Pin { range, thread: this_thread(), waiting: Vec::new() })
    }

    /// Answers who waits for this.
    pub(super) fn unpin(&self, number: usize) -> Vec<Arc<Countdown>> {
        self.0.lock().remove(number).waiting
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Has `left`, which is not over, wait for each pin of other threads that meets the range. What a thread itself has in hand while it makes a change is its own affair: to
    /// wait for that would be to wait for ever.
    pub(super) fn add_waiter(&self, range: AddrRange, left: &Arc<Countdown>) {
        let mut pins = self.0.lock();
        for (_, pin) in pins.iter_mut().filter(|(_, pin)| pin.range.overlaps(range) && pin.thread != this_thread()) {
            left.extend(1);
            pin.waiting.push(Arc::clone(left));
        }
    }
}
