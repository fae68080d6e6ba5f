//! Invalidations, by which a change of a space waits for the users of the old translation.

use std::fmt;
use std::sync::Arc;

use sva_sync::{Mutex, this_thread};

use crate::quiesce::{GracePeriod, InvalidationWait, PinnedRange, SpaceUsers, WaitQueue};
use crate::types::range::AddrRange;

/// An invalidation in progress, as
/// [`SpaceWatcher::invalidate`](crate::SpaceWatcher::invalidate) starts it.
///
/// When it is over, no access through the IOTLB, no pin and no device uses the old translation.
#[must_use = "the change of the space has to wait for it"]
pub struct Invalidation {
    /// Accesses through the IOTLB.
    accesses: GracePeriod,
    /// Pins and devices; `None` for most invalidations.
    long_lived: Option<Box<Mutex<LongLived>>>,
}

/// Users that may hold a translation for long: pins, and devices that cache translations.
#[derive(Default)]
struct LongLived {
    /// Ranges whose pins are searched when the accesses are over. An access in flight may still
    /// pin a range, so an earlier search could miss a pin.
    unsearched: Vec<PinSearch>,
    /// The waits for devices and for pins.
    waits: Vec<Arc<InvalidationWait>>,
}

/// A range whose pins are still to be found.
pub(crate) struct PinSearch {
    pub(crate) wait_queue: Arc<dyn WaitQueue>,
    pub(crate) users: Arc<SpaceUsers>,
    pub(crate) range: AddrRange,
}

impl Invalidation {
    /// An invalidation that is over: no translation was cached.
    pub fn none() -> Self {
        Self::new(GracePeriod::default(), None, None)
    }

    pub(crate) fn new(
        accesses: GracePeriod,
        pins: Option<PinSearch>,
        devices: Option<Arc<InvalidationWait>>,
    ) -> Self {
        let long_lived = (pins.is_some() || devices.is_some()).then(|| {
            Box::new(Mutex::new(LongLived {
                unsearched: pins.into_iter().collect(),
                waits: devices.into_iter().collect(),
            }))
        });
        Self { accesses, long_lived }
    }

    /// Joins two invalidations. Both then share one memory barrier, which makes the invalidation of
    /// many ranges cheaper.
    pub fn and(mut self, other: Self) -> Self {
        self.accesses.and(other.accesses);
        match (&mut self.long_lived, other.long_lived) {
            (Some(users), Some(more)) => users.get_mut().extend(more.into_inner()),
            (None, more) => self.long_lived = more,
            (Some(_), None) => {}
        }
        self
    }

    /// Whether nothing uses the old translation any more. Does not block.
    pub fn is_over(&self) -> bool {
        let Some(users) = &self.long_lived else { return self.accesses.is_over() };
        let mut users = users.lock();
        users.are_done() && self.accesses.is_over() && {
            users.search_pins();
            users.are_done()
        }
    }

    /// Blocks until [`is_over`](Self::is_over). A device that does not complete its invalidations
    /// in time is cut off if the system has a clock; without a clock the call blocks until the
    /// device completes them.
    ///
    /// The call does not wait for ranges that the calling thread has pinned.
    pub fn wait(self) {
        self.accesses.wait();
        let Some(users) = self.long_lived else { return };
        let mut users = users.into_inner();
        users.search_pins();
        users.waits.iter().for_each(|wait| wait.wait());
    }
}

impl LongLived {
    fn extend(&mut self, more: Self) {
        self.unsearched.extend(more.unsearched);
        self.waits.extend(more.waits);
    }

    /// Whether those that have been found use the old translation no more.
    fn are_done(&self) -> bool {
        self.waits.iter().all(|wait| wait.is_over())
    }

    /// Adds a wait for each pin of the ranges. The accesses by which ranges were pinned are over.
    /// Pins of the calling thread are left out: a wait for them would never end.
    fn search_pins(&mut self) {
        for PinSearch { wait_queue, users, range } in self.unsearched.drain(..) {
            let wait = InvalidationWait::new(wait_queue);
            let is_meant = |pinned: &PinnedRange| {
                pinned.is_of(users.owner())
                    && pinned.range.overlaps(range)
                    && pinned.thread != this_thread()
            };
            users.pins.add_waiters(is_meant, || wait.waiter());
            if wait.seal() {
                self.waits.push(wait);
            }
        }
    }
}

impl fmt::Debug for Invalidation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invalidation").field("is_over", &self.is_over()).finish()
    }
}
