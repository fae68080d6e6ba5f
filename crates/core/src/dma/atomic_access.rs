//! Making the memory of an atomic operation accessible in place.

use super::master::BusMaster;
use super::walk::OnTranslated;
use crate::api::fault::{DmaError, FaultReason};
use crate::api::space::{AddressSpace, StopCause, Stopped};
use crate::quiesce::callback::InCallback;
use crate::types::access::{Access, Permissions};
use crate::types::ids::Pasid;
use crate::types::range::Segment;

impl BusMaster {
    /// Brings in what an atomic operation of `len` bytes needs, and has `on_translated` cache it;
    /// it can be tried again then.
    pub(super) fn prepare_atomic(
        &self,
        pasid: Pasid,
        address: u64,
        len: u64,
        on_translated: OnTranslated<'_>,
    ) -> Result<(), DmaError> {
        let access = Access::WRITE;
        let abort = |reason| Err(self.fault(0, Some(pasid), address, access, reason));
        let _callback = InCallback::enter();
        let Some(_inside) = self.enter_device() else {
            return abort(self.device.shut_reason());
        };
        let routing = self.device.current_routing(self.iommu.topology());
        if routing.undecoded_around(address).is_none() {
            // It would have to be routed to the peer, which has no way to answer it.
            return abort(FaultReason::NoAtomics);
        }
        self.with_entry(pasid, address, access, |entry| {
            if entry.record.iotlb.is_none() {
                return abort(FaultReason::NoAtomics);
            }
            let space = &*entry.record.space;
            let piece = [Segment { address, len }];
            let stopped =
                |cause| self.stopped(Stopped { done: 0, cause }, Some(pasid), &piece, access);
            match word_at(space, address, len as usize) {
                Ok(WordState::Atomic) => {
                    on_translated(entry, &piece);
                    Ok(())
                }
                Ok(WordState::NotInPlace) => abort(FaultReason::NoAtomics),
                Ok(WordState::Unreadable) => abort(FaultReason::Denied),
                Ok(WordState::NotWritable) if !entry.features.page_faults => {
                    abort(FaultReason::Denied)
                }
                // Absent, or to be copied before it is written to.
                Ok(WordState::NotWritable) => space.resolve(address, access).map_err(stopped),
                Err(StopCause::NotPresent) if entry.features.page_faults => {
                    space.resolve(address, access).map_err(stopped)
                }
                Err(cause) => Err(stopped(cause)),
            }
        })
    }
}

/// What an atomic operation finds at its address.
enum WordState {
    /// Memory in place that permits reading and writing.
    Atomic,
    /// Memory that cannot be accessed in place.
    NotInPlace,
    Unreadable,
    /// It may be one that is to be copied before it is written to.
    NotWritable,
}

fn word_at(space: &dyn AddressSpace, address: u64, len: usize) -> Result<WordState, StopCause> {
    let Some(extent) = space.extent(address, false)? else { return Ok(WordState::NotInPlace) };
    if !extent.permissions.contains(Permissions::READ) {
        return Ok(WordState::Unreadable);
    }
    if !extent.permissions.contains(Permissions::WRITE) {
        return Ok(WordState::NotWritable);
    }
    let offset = address.checked_sub(extent.range.first());
    let frame = offset.and_then(|offset| extent.frame.offset(offset));
    let is_in_place = frame.and_then(|frame| space.memory(frame, len, true)).is_some();
    Ok(if is_in_place { WordState::Atomic } else { WordState::NotInPlace })
}
