//! Being inside a gate, and what the last one out does.

use std::sync::Arc;

use super::fault_target::FaultTarget;
use super::iommu::Iommu;
use super::records::{DeviceRecord, PasidEntry};
use crate::api::fault::FaultReason;
use crate::quiesce::{Completion, Gate};

/// What the last one out of a shut gate does.
#[derive(Clone, Copy)]
pub(crate) enum OnDrain<'a> {
    /// Wakes whoever waits for the gate: that of a device, a mapping, a domain's attachment.
    WakeWaiters,
    /// Makes one step to the end of a table entry.
    StepEntry(&'a Arc<PasidEntry>),
    /// Completes what waited for the translated requests of a device.
    CompleteTranslatedDrain(&'a Arc<DeviceRecord>),
}

/// Inside a gate as long as this lives.
pub(crate) struct GateGuard<'a> {
    gate: &'a Gate,
    iommu: &'a Iommu,
    on_drain: OnDrain<'a>,
}

impl<'a> GateGuard<'a> {
    /// `None` where the gate is shut.
    pub(crate) fn enter(gate: &'a Gate, iommu: &'a Iommu, on_drain: OnDrain<'a>) -> Option<Self> {
        // Lazily: a guard that was never inside must not leave.
        gate.enter().then(|| Self { gate, iommu, on_drain })
    }

    /// For a gate that has been entered.
    pub(crate) fn from_entered(gate: &'a Gate, iommu: &'a Iommu, on_drain: OnDrain<'a>) -> Self {
        Self { gate, iommu, on_drain }
    }
}

impl Drop for GateGuard<'_> {
    fn drop(&mut self) {
        if self.gate.leave() {
            self.on_drain.run(self.iommu);
        }
    }
}

impl OnDrain<'_> {
    pub(crate) fn run(self, iommu: &Iommu) {
        match self {
            Self::WakeWaiters => iommu.wake_waiters(),
            Self::StepEntry(entry) => Arc::clone(entry).step(),
            Self::CompleteTranslatedDrain(device) => iommu.translated_requests_drained(device),
        }
    }
}

impl PasidEntry {
    /// Enters the gate of the entry, for as long as the guard lives.
    ///
    /// # Errors
    /// The entry is not present ([`FaultReason::NotBound`]), or its space has ended.
    pub(crate) fn enter<'a>(
        self: &'a Arc<Self>,
        iommu: &'a Iommu,
    ) -> Result<GateGuard<'a>, FaultReason> {
        let guard = GateGuard::enter(&self.gate, iommu, OnDrain::StepEntry(self));
        let guard = guard.ok_or(FaultReason::NotBound)?;
        self.refusal().map_or(Ok(guard), Err)
    }
}

impl FaultTarget {
    /// Leaves the gate that [`enter`](Self::enter) has entered.
    pub(crate) fn leave(&self, iommu: &Iommu) {
        match self {
            Self::Entry(entry) if entry.gate.leave() => OnDrain::StepEntry(entry).run(iommu),
            Self::Domain(attachment) if attachment.gate.leave() => OnDrain::WakeWaiters.run(iommu),
            _ => {}
        }
    }
}
