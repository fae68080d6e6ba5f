//! What a change of a space waits for: that nothing uses any more what it takes away.

use std::fmt;
use std::sync::Arc;

use sva_sync::{Mutex, this_thread};

use crate::quiesce::{Change, GracePeriod, InvalidationHost, PinnedRange, SpaceUsers};
use crate::types::range::AddrRange;

/// An invalidation in progress; see [`SpaceWatcher::invalidate`](crate::SpaceWatcher::invalidate).
#[must_use = "the change of the space is over when this is"]
pub struct Invalidation {
    /// Accesses through the IOTLB.
    accesses: GracePeriod,
    /// Most invalidations have none of this.
    long_lived: Option<Box<Mutex<LongLived>>>,
}

/// Uses that may last: pins, and devices that keep translations.
#[derive(Default)]
struct LongLived {
    /// Ranges whose pins are looked for when the accesses are over: by then all are known.
    unsearched: Vec<PinSearch>,
    /// Changes that wait for devices and for pins.
    changes: Vec<Arc<Change>>,
}

/// A range that a pin may hold.
pub(crate) struct PinSearch {
    pub(crate) host: Arc<dyn InvalidationHost>,
    pub(crate) users: Arc<SpaceUsers>,
    pub(crate) range: AddrRange,
}

impl Invalidation {
    /// Nothing was cached.
    pub fn none() -> Self {
        Self::new(GracePeriod::default(), None, None)
    }

    pub(crate) fn new(
        accesses: GracePeriod,
        pins: Option<PinSearch>,
        devices: Option<Arc<Change>>,
    ) -> Self {
        let long_lived = (pins.is_some() || devices.is_some()).then(|| {
            Box::new(Mutex::new(LongLived {
                unsearched: pins.into_iter().collect(),
                changes: devices.into_iter().collect(),
            }))
        });
        Self { accesses, long_lived }
    }

    /// Joins this one and another one: one barrier will do for what both invalidate, and so for
    /// many pages at once.
    pub fn and(mut self, other: Self) -> Self {
        self.accesses.and(other.accesses);
        match (&mut self.long_lived, other.long_lived) {
            (Some(uses), Some(more)) => uses.get_mut().extend(more.into_inner()),
            (None, more) => self.long_lived = more,
            (Some(_), None) => {}
        }
        self
    }

    /// Whether nothing uses what was invalidated any more. Does not block.
    pub fn is_over(&self) -> bool {
        let Some(uses) = &self.long_lived else { return self.accesses.is_over() };
        let mut uses = uses.lock();
        uses.are_over() && self.accesses.is_over() && {
            uses.search_pins();
            uses.are_over()
        }
    }

    /// Blocks until [`is_over`](Self::is_over). A device that does not answer is cut off when its
    /// time is over, where the system has a clock; without one this waits for the device.
    ///
    /// A range that the calling thread has pinned itself is not waited for.
    pub fn wait(self) {
        self.accesses.wait();
        let Some(uses) = self.long_lived else { return };
        let mut uses = uses.into_inner();
        uses.search_pins();
        uses.changes.iter().for_each(|change| change.wait());
    }
}

impl LongLived {
    fn extend(&mut self, more: Self) {
        self.unsearched.extend(more.unsearched);
        self.changes.extend(more.changes);
    }

    fn are_over(&self) -> bool {
        self.changes.iter().all(|change| change.is_over())
    }

    /// Waits for pins from now on. The accesses by which ranges were pinned are over. What the
    /// calling thread has pinned itself is left out: to wait for that would be to wait for ever.
    fn search_pins(&mut self) {
        for PinSearch { host, users, range } in self.unsearched.drain(..) {
            let change = Change::new(host);
            let is_meant = |pinned: &PinnedRange| {
                pinned.is_of(users.owner())
                    && pinned.range.overlaps(range)
                    && pinned.thread != this_thread()
            };
            users.pins.add_waiters(is_meant, || change.waiter());
            if change.seal() {
                self.changes.push(change);
            }
        }
    }
}

impl fmt::Debug for Invalidation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invalidation").field("is_over", &self.is_over()).finish()
    }
}
