//! What a change of a space waits for: that every device that kept a translation has forgotten it,
//! or has been cut off.

use std::fmt;
use std::sync::Arc;

use crate::iommu::Iommu;
use crate::iotlb::{Held, Kept, UnderWay, Waiter};
use crate::range::AddrRange;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Mutex, this_thread};

/// Counts down once to zero; whoever makes the last step is told so.
pub(crate) struct Countdown(AtomicU32);

impl Countdown {
    /// From `steps` on.
    pub(crate) fn new(steps: u32) -> Self {
        Self(AtomicU32::new(steps))
    }

    /// More steps, before the last one is made.
    pub(crate) fn extend(&self, steps: u32) {
        self.0.fetch_add(steps, Ordering::Relaxed);
    }

    /// One step; true for the last.
    #[must_use = "the last one does what comes after"]
    pub(crate) fn step(&self) -> bool {
        // Release: what was done before the step is seen by the one that makes the last; acquire:
        // that one sees it.
        self.0.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Whether all steps have been made.
    pub(crate) fn is_over(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }
}

/// An invalidation that is under way; see
/// [`SpaceWatcher::invalidate`](crate::SpaceWatcher::invalidate).
#[must_use = "the change of the space is over when this is"]
pub struct Invalidation {
    /// Accesses through what the IOMMU has kept.
    under_way: UnderWay,
    /// Most have none.
    others: Option<Box<Mutex<Others>>>,
}

/// What may last.
#[derive(Default)]
struct Others {
    /// Where nobody has looked yet for those who have memory in hand: they are known when the
    /// accesses are over.
    unseen: Vec<Unseen>,
    /// Devices that have kept something, and pins.
    left: Vec<(Iommu, Arc<Countdown>)>,
}

/// A range that somebody may have in hand.
pub(crate) struct Unseen {
    pub(crate) iommu: Iommu,
    pub(crate) kept: Arc<Kept>,
    pub(crate) range: AddrRange,
}

impl Invalidation {
    /// Nobody kept anything.
    pub fn none() -> Self {
        Self::new(UnderWay::default(), None, None)
    }

    pub(crate) fn new(
        under_way: UnderWay,
        unseen: Option<Unseen>,
        devices: Option<(Iommu, Arc<Countdown>)>,
    ) -> Self {
        let others = (unseen.is_some() || devices.is_some()).then(|| {
            Box::new(Mutex::new(Others {
                unseen: unseen.into_iter().collect(),
                left: devices.into_iter().collect(),
            }))
        });
        Self { under_way, others }
    }

    /// This one and another one: one barrier will do for what has been invalidated in both, and so
    /// for many pages at once.
    pub fn and(mut self, other: Self) -> Self {
        self.under_way.and(other.under_way);
        match (&mut self.others, other.others) {
            (Some(others), Some(more)) => others.get_mut().extend(more.into_inner()),
            (None, more) => self.others = more,
            (Some(_), None) => {}
        }
        self
    }

    /// Whether no device uses what was invalidated any more. Does not block.
    pub fn is_over(&self) -> bool {
        let Some(others) = &self.others else { return self.under_way.is_over() };
        let mut others = others.lock();
        others.are_over() && self.under_way.is_over() && {
            others.look();
            others.are_over()
        }
    }

    /// Blocks until [`is_over`](Self::is_over). A device that does not answer is cut off when its
    /// time is over, where the system has a clock; without one this waits for the device.
    pub fn wait(self) {
        self.under_way.wait();
        let Some(others) = self.others else { return };
        let mut others = others.into_inner();
        others.look();
        for (iommu, left) in &others.left {
            iommu.wait_for_devices(left);
        }
    }
}

impl Others {
    fn extend(&mut self, more: Self) {
        self.unseen.extend(more.unseen);
        self.left.extend(more.left);
    }

    fn are_over(&self) -> bool {
        self.left.iter().all(|(_, left)| left.is_over())
    }

    /// Waits from now on for those who have memory in hand. The accesses are over by which they
    /// came to it. What the thread that waits has in hand itself is its own affair: to wait for
    /// that would be to wait for ever.
    fn look(&mut self) {
        for Unseen { iommu, kept, range } in self.unseen.drain(..) {
            let left = Arc::new(Countdown::new(1));
            let meets = |held: &Held| {
                held.is_of(kept.owner())
                    && held.range.overlaps(range)
                    && held.thread != this_thread()
            };
            let found = kept.pins().wait_for(meets, || {
                left.extend(1);
                Waiter::Change(Arc::downgrade(&left))
            });
            // Ours, so that it is not over before all have been found.
            let _ = left.step();
            if found > 0 {
                self.left.push((iommu, left));
            }
        }
    }
}

impl fmt::Debug for Invalidation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invalidation").field("is_over", &self.is_over()).finish()
    }
}
