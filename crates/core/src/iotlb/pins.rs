//! Ranges of a space whose memory somebody has in hand: a change of such a range waits for them, as it does for a device that has kept a translation.

use std::sync::{Arc, Weak};

use slab::Slab;

use crate::invalidation::Countdown;
use crate::range::AddrRange;
use crate::sync::{Mutex, ThreadId, this_thread};

#[derive(Default)]
pub(super) struct Pins(Mutex<Slab<Pin>>);

struct Pin {
    range: AddrRange,
    thread: ThreadId,
    /// Changes; those that nobody waits for any more cost nothing.
    waiting: Vec<Weak<Countdown>>,
}

impl Pins {
    /// From now on a change of the range waits. What the range means is asked after this.
    pub(super) fn pin(&self, range: AddrRange) -> usize {
        self.0.lock().insert(Pin { range, thread: this_thread(), waiting: Vec::new() })
    }

    /// Answers who waits for this.
    pub(super) fn unpin(&self, number: usize) -> Vec<Arc<Countdown>> {
        let waiting = self.0.lock().remove(number).waiting;
        waiting.iter().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Has `left`, which is not over, wait for each pin of other threads that meets the range. What a thread itself has in hand while it makes a change is its own affair: to
    /// wait for that would be to wait for ever.
    pub(super) fn add_waiter(&self, range: AddrRange, left: &Arc<Countdown>) {
        let mut pins = self.0.lock();
        for (_, pin) in pins.iter_mut().filter(|(_, pin)| pin.range.overlaps(range) && pin.thread != this_thread()) {
            if pin.waiting.len() == pin.waiting.capacity() {
                pin.waiting.retain(|left| left.strong_count() > 0);
            }
            left.extend(1);
            pin.waiting.push(Arc::downgrade(left));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    // shows S2: what a pin keeps is bounded by those that wait for it
    #[test]
    fn changes_that_nobody_waits_for_leave_nothing_at_a_pin() {
        let (pins, range) = (Arc::new(Pins::default()), AddrRange::new(0x1000, 0x1000).expect("a page"));
        let number = pins.pin(range);
        let elsewhere = Arc::clone(&pins);
        let waits = std::thread::spawn(move || {
            (0..10_000).for_each(|_| elsewhere.add_waiter(range, &Arc::new(Countdown::new(1))));
            let waits = Arc::new(Countdown::new(1));
            elsewhere.add_waiter(range, &waits);
            waits
        });
        let waits = waits.join().expect("no panic");
        assert!(pins.0.lock()[number].waiting.capacity() < 64);
        assert_eq!(pins.unpin(number).len(), 1);
        drop(waits);
    }
}
