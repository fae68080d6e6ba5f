//! A bus master: one device as the issuer of transactions.

use std::sync::Arc;

use super::buffer::Buffer;
use crate::api::event::Event;
use crate::api::fault::{DmaCause, DmaError, Fault, FaultReason};
use crate::api::space::{StopCause, Stopped};
use crate::api::topology::PeerWindow;
use crate::table::{Device, DeviceRecord, GateGuard, Iommu, OnDrain, PasidEntry};
use crate::types::access::Access;
use crate::types::ids::{Bdf, Pasid, PasidTag};
use crate::types::range::{AddrRange, Segment};

/// A device, and the owner that its transactions may reach. Any number of threads may share it.
#[derive(Clone)]
pub(super) struct BusMaster {
    pub(super) iommu: Iommu,
    pub(super) device: Arc<DeviceRecord>,
    /// If set, transactions with the PASID of this owner reach this owner and no later one.
    pub(super) owner: Option<PasidTag>,
}

impl BusMaster {
    pub(super) fn new(device: &Device) -> Self {
        let (iommu, device) = (device.iommu().clone(), Arc::clone(device.record()));
        Self { iommu, device, owner: None }
    }

    pub(super) fn for_owner(&self, tag: PasidTag) -> Self {
        Self { owner: Some(tag), ..self.clone() }
    }

    pub(super) fn bdf(&self) -> Bdf {
        self.device.bdf()
    }

    /// The current owner of a PASID at this device.
    pub(super) fn owner_of(&self, pasid: Pasid) -> Option<PasidTag> {
        let entry = self.device.requester.entry(pasid)?;
        (!entry.gate.is_closed()).then_some(entry.record.tag)
    }

    /// The owner that this bus master is for, if `pasid` was its PASID and has a later owner now.
    /// `None` while the owner is being unbound: its entry is still in the table, with a closed
    /// gate.
    pub(super) fn replaced_owner(&self, pasid: Pasid) -> Option<PasidTag> {
        let entry = self.device.requester.entry(pasid)?;
        self.owner.filter(|_| self.is_other_owner(&entry))
    }

    /// Whether an entry belongs to an owner that this bus master must not reach: a later owner of
    /// the same PASID.
    pub(super) fn is_other_owner(&self, entry: &PasidEntry) -> bool {
        let tag = entry.record.tag;
        self.owner.is_some_and(|owner| owner.pasid == tag.pasid && owner != tag)
    }

    /// The PASID entry of a PASID, unless it belongs to an owner that this bus master must not
    /// reach.
    pub(super) fn entry(&self, pasid: Pasid) -> Option<Arc<PasidEntry>> {
        self.device.requester.entry(pasid).filter(|entry| !self.is_other_owner(entry))
    }

    /// Enters the gate of a PASID entry. If the entry is not present any more and this bus master
    /// is for an owner of its PASID, the transaction is counted as stale.
    pub(super) fn enter_entry<'a>(
        &'a self,
        entry: &'a Arc<PasidEntry>,
    ) -> Result<GateGuard<'a>, FaultReason> {
        entry.enter(&self.iommu).map_err(|reason| match reason {
            FaultReason::NotBound => self.not_bound(entry.record.tag.pasid),
            other => other,
        })
    }

    /// The fault of a PASID that has no present entry for this bus master: it has none, or one of a
    /// later owner, or one whose gate is closed. If this bus master is for an owner of the PASID,
    /// which is gone or is being unbound, the transaction is counted as stale.
    pub(super) fn not_bound(&self, pasid: Pasid) -> FaultReason {
        if let Some(tag) = self.owner.filter(|owner| owner.pasid == pasid) {
            self.iommu.count_stale(&self.device, tag);
        }
        FaultReason::NotBound
    }

    /// Enters the gate of the device; returns `None` if it is shut.
    pub(super) fn enter_device(&self) -> Option<GateGuard<'_>> {
        GateGuard::enter(&self.device.gate, &self.iommu, OnDrain::WakeThreads)
    }

    /// Accesses a peer that decodes the address: the transaction does not reach the IOMMU. Logs it
    /// as misrouted.
    pub(super) fn access_peer(
        &self,
        pasid: Option<Pasid>,
        window: &PeerWindow,
        address: u64,
        buffer: Buffer<'_>,
        access: Access,
        done: u64,
    ) -> Result<(), DmaError> {
        let device = self.bdf();
        let PeerWindow { decoder, claimed, .. } = *window;
        if let Some(range) = AddrRange::new(address, buffer.len() as u64) {
            self.iommu.log(Event::Misrouted { device, pasid, range, decoder, claimed });
        }
        let topology = self.iommu.topology();
        match buffer {
            Buffer::Into(buf) => topology.read_peer(device, window, address, buf, access.kind()),
            Buffer::From(data) => topology.write_peer(device, window, address, data),
        }
        .map_err(|aborted| {
            self.fault(done, pasid, address, access, FaultReason::PeerAbort(aborted.0))
        })
    }

    /// Calls `then` inside the gate of the PASID entry, if the entry grants such an access.
    pub(super) fn with_entry<R>(
        &self,
        pasid: Pasid,
        start: u64,
        access: Access,
        then: impl FnOnce(&Arc<PasidEntry>) -> Result<R, DmaError>,
    ) -> Result<R, DmaError> {
        let abort = |reason| Err(self.fault(0, Some(pasid), start, access, reason));
        if !self.device.can_issue(pasid) {
            return abort(FaultReason::CannotIssuePasid);
        }
        let Some(entry) = self.entry(pasid) else { return abort(self.not_bound(pasid)) };
        let _inside = match self.enter_entry(&entry) {
            Ok(inside) => inside,
            Err(reason) => return abort(reason),
        };
        if !entry.grants(access) {
            return abort(FaultReason::NotGranted);
        }
        then(&entry)
    }

    /// Converts a provider's stop into the device's error: a fault at the address where the
    /// provider stopped, or a host failure. Either is logged.
    pub(super) fn stop_error(
        &self,
        stopped: Stopped,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        access: Access,
    ) -> DmaError {
        let Stopped { done, cause } = stopped;
        let reason = match cause {
            StopCause::NotMapped => FaultReason::NotMapped,
            StopCause::NotPresent => FaultReason::NotPresent,
            StopCause::Denied => FaultReason::Denied,
            StopCause::Ended => FaultReason::SpaceEnded,
            StopCause::Host(failure) => {
                let errno = failure.source.raw_os_error();
                let (device, call) = (self.bdf(), failure.call);
                self.iommu.log(Event::HostFailure { device, call, errno });
                return DmaError { done, cause: DmaCause::Host(failure) };
            }
        };
        self.fault(done, pasid, address_after(pieces, done), access, reason)
    }

    /// Makes a fault and logs it.
    pub(super) fn fault(
        &self,
        done: u64,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
        reason: FaultReason,
    ) -> DmaError {
        let error = self.unlogged_fault(done, pasid, address, access, reason);
        if let DmaCause::Fault(fault) = error.cause {
            self.iommu.log(Event::Fault(fault));
        }
        error
    }

    /// Makes a fault that has been logged before, such as a refused page request.
    pub(super) fn unlogged_fault(
        &self,
        done: u64,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
        reason: FaultReason,
    ) -> DmaError {
        let fault = Fault { device: self.bdf(), pasid, address, access: access.kind(), reason };
        DmaError { done, cause: DmaCause::Fault(fault) }
    }
}

/// The address of the byte that follows the first `done` bytes of the pieces.
fn address_after(pieces: &[Segment], done: u64) -> u64 {
    let mut left = done;
    let mut last = 0;
    for piece in pieces {
        if left < piece.len {
            return piece.address + left;
        }
        left -= piece.len;
        last = piece.address.wrapping_add(piece.len);
    }
    last
}
