//! Guards of gates, and the work of the last access that leaves a shut gate.

use std::sync::Arc;

use super::iommu::Iommu;
use super::records::{DeviceRecord, PasidEntry};
use crate::api::fault::FaultReason;
use crate::quiesce::Gate;

/// What the last access that leaves a shut gate does.
#[derive(Clone, Copy)]
pub(crate) enum OnDrain<'a> {
    /// Wakes the threads that wait for the gate of a device, a mapping or a domain attachment.
    WakeThreads,
    /// Makes a step of a PASID entry that is being closed.
    StepEntry(&'a Arc<PasidEntry>),
    /// Completes the invalidations that wait for the translated requests of a device.
    CompleteTranslatedDrain(&'a Arc<DeviceRecord>),
}

/// Keeps its owner inside a gate until it is dropped.
pub(crate) struct GateGuard<'a> {
    gate: &'a Gate,
    iommu: &'a Iommu,
    on_drain: OnDrain<'a>,
}

impl<'a> GateGuard<'a> {
    /// Enters the gate; returns `None` if it is shut.
    pub(crate) fn enter(gate: &'a Gate, iommu: &'a Iommu, on_drain: OnDrain<'a>) -> Option<Self> {
        // Not `then_some`: it would make a guard also where the gate is shut, and its drop leaves.
        gate.enter().then(|| Self { gate, iommu, on_drain })
    }

    /// Makes the guard of a gate that the caller has entered.
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
    /// The caller holds no lock: this takes the control lock, and a step may drop foreign values.
    pub(crate) fn run(self, iommu: &Iommu) {
        match self {
            Self::WakeThreads => iommu.wake_threads(),
            Self::StepEntry(entry) => entry.make_step(),
            Self::CompleteTranslatedDrain(device) => iommu.translated_requests_drained(device),
        }
    }
}

impl PasidEntry {
    /// Enters the gate of the entry until the guard is dropped.
    ///
    /// # Errors
    /// The entry is not present ([`FaultReason::NotBound`]), or its space has ended
    /// ([`FaultReason::SpaceEnded`]).
    pub(crate) fn enter<'a>(
        self: &'a Arc<Self>,
        iommu: &'a Iommu,
    ) -> Result<GateGuard<'a>, FaultReason> {
        let guard = GateGuard::enter(&self.gate, iommu, OnDrain::StepEntry(self));
        let guard = guard.ok_or(FaultReason::NotBound)?;
        self.abort_reason().map_or(Ok(guard), Err)
    }
}
