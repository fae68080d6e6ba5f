//! How the memory of an atomic operation is made accessible in place.

use super::master::BusMaster;
use super::walk::OnTranslated;
use crate::api::fault::{DmaError, FaultReason};
use crate::api::space::{AddressSpace, StopCause, Stopped};
use crate::quiesce::callback::InCallback;
use crate::types::access::{Access, Permissions};
use crate::types::ids::Pasid;
use crate::types::range::Segment;

impl BusMaster {
    /// Makes the memory of an atomic operation of `len` bytes present and writable. Calls
    /// `on_translated` to cache the translation if the memory was accessible already. Afterwards
    /// the operation can be tried again.
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
            // The operation would be routed to the peer, and
            // [`Topology`](crate::api::topology::Topology) has no call for it.
            return abort(FaultReason::NoAtomics);
        }
        self.with_entry(pasid, address, access, |entry| {
            if entry.record.iotlb.is_none() {
                return abort(FaultReason::NoAtomics);
            }
            let space = &*entry.record.space;
            let piece = [Segment { address, len }];
            let stopped =
                |cause| self.stop_error(Stopped { done: 0, cause }, Some(pasid), &piece, access);
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
                // The page may be absent, or may have to be copied before it is written.
                Ok(WordState::NotWritable) => space.resolve(address, access).map_err(stopped),
                Err(StopCause::NotPresent) if entry.features.page_faults => {
                    space.resolve(address, access).map_err(stopped)
                }
                Err(cause) => Err(stopped(cause)),
            }
        })
    }
}

/// The state of the memory at the address of an atomic operation.
enum WordState {
    /// Memory in place that permits reading and writing.
    Atomic,
    /// Memory that cannot be accessed in place.
    NotInPlace,
    Unreadable,
    /// Not writable now. The page may have to be copied first.
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
    let is_in_place = frame
        .and_then(|frame| space.memory(frame, len, true))
        .is_some_and(|memory| memory.len() == len);
    Ok(if is_in_place { WordState::Atomic } else { WordState::NotInPlace })
}
