//! Being inside a gate, and what the last one out does.

use std::sync::Arc;

use super::Iommu;
use super::parts::{Attachment, DeviceInner};
use crate::gate::Gate;

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

impl Iommu {
    pub(crate) fn last_left(&self, last: Last<'_>) {
        match last {
            Last::Wake => self.gate_drained(),
            Last::Attachment(attachment) => self.attachment_step(attachment),
            Last::Quiet(device) => self.device_is_quiet(device),
        }
    }
}
