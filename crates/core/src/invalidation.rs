//! What a change of a space waits for: that every device that kept a translation has forgotten it, or has been cut off.

use std::fmt;
use std::sync::Arc;

use crate::iommu::Iommu;
use crate::iotlb::UnderWay;
use crate::sync::atomic::{AtomicU32, Ordering};

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
        // Release: what was done before the step is seen by the one that makes the last; acquire: that one sees it.
        self.0.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Whether all steps have been made.
    pub(crate) fn is_over(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }
}

/// An invalidation that is under way; see [`SpaceWatcher::invalidate`](crate::SpaceWatcher::invalidate).
#[must_use = "the change of the space is over when this is"]
pub struct Invalidation {
    /// Accesses through what the IOMMU has kept.
    under_way: UnderWay,
    /// Devices that have kept something, and pins.
    devices: Vec<(Iommu, Arc<Countdown>)>,
}

impl Invalidation {
    /// Nobody kept anything.
    pub fn none() -> Self {
        Self { under_way: UnderWay::default(), devices: Vec::new() }
    }

    pub(crate) fn new(under_way: UnderWay, devices: Option<(Iommu, Arc<Countdown>)>) -> Self {
        Self { under_way, devices: devices.into_iter().collect() }
    }

    /// This one and another one: one barrier will do for what has been invalidated in both, and so for many pages at once.
    pub fn and(mut self, other: Self) -> Self {
        self.under_way.and(other.under_way);
        self.devices.extend(other.devices);
        self
    }

    /// Whether no device uses what was invalidated any more. Does not block.
    pub fn is_over(&self) -> bool {
        self.devices.iter().all(|(_, left)| left.is_over()) && self.under_way.is_over()
    }

    /// Blocks until [`is_over`](Self::is_over). A device that does not answer is cut off when its time is over, where the system has a clock; without one this waits for the
    /// device.
    pub fn wait(self) {
        self.under_way.wait();
        for (iommu, left) in &self.devices {
            iommu.wait_for_devices(left);
        }
    }
}

impl fmt::Debug for Invalidation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invalidation").field("is_over", &self.is_over()).finish()
    }
}
