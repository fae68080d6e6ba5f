//! Being inside a gate, and what the last one out does.

use std::sync::Arc;

use super::Iommu;
use super::parts::{Attachment, DeviceInner};
use crate::gate::Gate;
use crate::iotlb::{UnderWay, Waiter};

/// What to do where this was the last one in a gate that has been shut.
#[derive(Clone, Copy)]
pub(crate) enum Last<'a> {
    /// Wake who waits for it.
    Wake,
    /// One step less to the end of an attachment.
    Attachment(&'a Arc<Attachment>),
    /// No translated request of the device is under way any more.
    Quiet(&'a Arc<DeviceInner>),
}

/// Inside a gate as long as this lives.
pub(crate) struct Inside<'a> {
    gate: &'a Gate,
    iommu: &'a Iommu,
    last: Last<'a>,
}

impl<'a> Inside<'a> {
    /// `None` where the gate is shut.
    pub(crate) fn enter(gate: &'a Gate, iommu: &'a Iommu, last: Last<'a>) -> Option<Self> {
        // Lazily: a guard that was never inside must not leave.
        gate.enter().then(|| Self { gate, iommu, last })
    }

    /// For a gate that has been entered.
    pub(crate) fn entered(gate: &'a Gate, iommu: &'a Iommu, last: Last<'a>) -> Self {
        Self { gate, iommu, last }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if self.gate.leave() {
            self.iommu.last_left(self.last);
        }
    }
}

impl DeviceInner {
    /// Waits for accesses by what is kept; the gate, which has been shut, keeps them from beginning
    /// again. Counts in the gate whoever has memory in hand.
    pub(crate) fn await_hits(&self) {
        UnderWay::of_device(&self.readers).wait();
        self.pins.wait_for(
            |_| true,
            || {
                self.gate.count_in();
                Waiter::Gate
            },
        );
    }
}

impl Attachment {
    /// As [`DeviceInner::await_hits`], of one bond: whoever has memory in hand by it is one more
    /// step to its end. Answers how many those are.
    pub(crate) fn await_hits(self: &Arc<Self>) -> usize {
        let Some(kept) = &self.record.kept else { return 0 };
        UnderWay::of_space(kept, None).wait();
        kept.pins().wait_for(
            |held| held.is_of(self.record.tag.generation) && held.requester == self.requester.id,
            || {
                self.left.extend(1);
                Waiter::Unbind(Arc::clone(self))
            },
        )
    }
}

impl Iommu {
    /// Tells those who have waited for a pin of the device.
    #[cold]
    pub(crate) fn let_go(&self, device: &DeviceInner, waiters: Vec<Waiter>) {
        for waiter in waiters {
            match waiter {
                Waiter::Change(left) => {
                    if left.upgrade().is_some_and(|left| left.step()) {
                        self.gate_drained();
                    }
                }
                Waiter::Unbind(attachment) => self.attachment_step(&attachment),
                Waiter::Gate => {
                    if device.gate.leave() {
                        self.gate_drained();
                    }
                }
            }
        }
    }

    pub(crate) fn last_left(&self, last: Last<'_>) {
        match last {
            Last::Wake => self.gate_drained(),
            Last::Attachment(attachment) => self.attachment_step(attachment),
            Last::Quiet(device) => self.device_is_quiet(device),
        }
    }
}
