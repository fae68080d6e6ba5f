//! Memory of a space in hand: slices that code of the device model works on.
//!
//! Not by the short way: what runs meanwhile is foreign code. It is inside the gates, which unbind and removal wait for, and the range is pinned, which a change of it waits for.

use std::sync::Arc;

use smallvec::SmallVec;
use vm_memory::VolatileSlice;

use super::DmaPort;
use super::path::{Path, mode_of};
use crate::ats::Permissions;
use crate::callback::InCallback;
use crate::fault::{AccessMode, DmaError, FaultReason, OnAbsent};
use crate::ids::Pasid;
use crate::iommu::Iommu;
use crate::iommu::inside::{Inside, Last};
use crate::iommu::parts::Attachment;
use crate::iotlb::Kept;
use crate::range::{AddrRange, Segment};
use crate::space::{AddressSpace, StopCause, Stopped};

/// Times that absent pages are brought in before it is given up.
const ROUNDS: u32 = 1000;

impl DmaPort {
    /// Has `work` work on the memory of `piece` in place: slices that together are as long, in order, with a boundary wherever the memory is not contiguous. `mode.access` says whether it may be written to.
    ///
    /// A change of the space that takes the memory away waits for `work`, as do an unbind and a removal of the device; from inside `work` those are deferred, and a change does not wait for this thread's own.
    /// So it is to be short, and not to wait for another thread that may change the space.
    ///
    /// # Errors
    /// See [`DmaError`]; `work` has not run then. [`FaultReason::NotInPlace`] where there is no PASID, or the space, or a peer that decodes some of the addresses, cannot be accessed in place.
    pub fn with_memory<R>(
        &self,
        pasid: Option<Pasid>,
        piece: Segment,
        mode: AccessMode,
        work: impl FnOnce(&[VolatileSlice<'_>]) -> R,
    ) -> Result<R, DmaError> {
        let mut work = Some(work);
        for _ in 0..ROUNDS {
            if let Some(done) = self.path.with_memory(pasid, piece, mode, &mut work)? {
                return Ok(done);
            }
        }
        Err(self.path.fault(0, pasid, piece.address, mode.access, FaultReason::NotPresent))
    }
}

impl Path {
    /// `None` where a page had to be brought in first.
    fn with_memory<R>(
        &self,
        pasid: Option<Pasid>,
        piece: Segment,
        mode: AccessMode,
        work: &mut Option<impl FnOnce(&[VolatileSlice<'_>]) -> R>,
    ) -> Result<Option<R>, DmaError> {
        let abort = |reason| Err(self.fault(0, pasid, piece.address, mode.access, reason));
        let _callback = InCallback::enter();
        let Some(_inside) = Inside::enter(&self.device.gate, &self.iommu, Last::Wake) else { return abort(self.device.why_shut()) };
        let Some(pasid) = pasid else { return abort(FaultReason::NotInPlace) };
        if piece.wraps() {
            return abort(FaultReason::Wraps);
        }
        let isolation = self.device.isolation(self.iommu.topology());
        let is_upstream = |range: AddrRange| isolation.upstream(range.first()).is_some_and(|gap| gap.covers(range));
        if piece.range().is_some_and(|range| !is_upstream(range)) {
            return abort(FaultReason::NotInPlace);
        }
        self.by_entry(pasid, piece.address, mode, |entry| {
            let Some(kept) = &entry.record.kept else { return abort(FaultReason::NotInPlace) };
            let pinned = Pinned::new(&self.iommu, kept, piece);
            match slices(entry, piece, mode) {
                Ok(slices) => Ok(work.take().map(|work| work(&slices))),
                Err(Halt::Absent(address)) => {
                    // Unpinned: what brings it in may change the space.
                    drop(pinned);
                    entry
                        .record
                        .space
                        .resolve(address, mode)
                        .map(|()| None)
                        .map_err(|cause| self.stopped(Stopped { done: address - piece.address, cause }, Some(pasid), &[piece], mode.access))
                }
                Err(Halt::Stop(stopped)) => Err(self.stopped(stopped, Some(pasid), &[piece], mode.access)),
                Err(Halt::NotInPlace) => abort(FaultReason::NotInPlace),
            }
        })
    }
}

enum Halt {
    Absent(u64),
    NotInPlace,
    Stop(Stopped),
}

/// The memory of a piece, by what the provider says now.
fn slices(entry: &Attachment, piece: Segment, mode: AccessMode) -> Result<SmallVec<[VolatileSlice<'_>; 4]>, Halt> {
    let (space, need): (&dyn AddressSpace, _) = (&*entry.record.space, Permissions::needed_by(mode.access));
    let mut slices = SmallVec::new();
    let mut rest = piece.range();
    while let Some(range) = rest {
        let at = range.first();
        let stop = |cause| Err(Halt::Stop(Stopped { done: at - piece.address, cause }));
        let may_bring_in = mode_of(entry, mode).on_absent == OnAbsent::Resolve;
        let run = match space.run(at, mode.privileged) {
            Ok(Some(run)) if run.permits.covers(need) => run,
            Ok(None) => return Err(Halt::NotInPlace),
            // It may be one that is to be copied before it is written to.
            Ok(Some(_)) | Err(StopCause::NotPresent) if may_bring_in => return Err(Halt::Absent(at)),
            Ok(Some(_)) => return stop(StopCause::Denied),
            Err(cause) => return stop(cause),
        };
        let last = run.range.last().min(range.last());
        let memory = run.frame.offset(at - run.range.first()).and_then(|frame| {
            let len = usize::try_from(last - at).ok()?.checked_add(1)?;
            space.memory(frame, len, need.write)
        });
        slices.push(memory.ok_or(Halt::NotInPlace)?);
        rest = last.checked_add(1).and_then(|next| AddrRange::inclusive(next, range.last()));
    }
    Ok(slices)
}

/// A range that is pinned as long as this lives.
struct Pinned<'a> {
    iommu: &'a Iommu,
    kept: &'a Arc<Kept>,
    number: Option<usize>,
}

impl<'a> Pinned<'a> {
    fn new(iommu: &'a Iommu, kept: &'a Arc<Kept>, piece: Segment) -> Self {
        Self { iommu, kept, number: piece.range().map(|range| kept.pin(range)) }
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        let waiting = self.number.map(|number| self.kept.unpin(number)).unwrap_or_default();
        if waiting.into_iter().filter(|left| left.step()).count() > 0 {
            self.iommu.gate_drained();
        }
    }
}
