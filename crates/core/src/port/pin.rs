//! Memory of a space in hand: what addresses mean, and slices that code of the device model works on.
//!
//! Not by the short way: what runs meanwhile is foreign code. It is inside the gates, which unbind and removal wait for, and the range is pinned, which a change of it waits for.

use std::fmt;

use smallvec::SmallVec;
use vm_memory::VolatileSlice;

use super::path::{Entered, Path, mode_of};
use super::{Device, DmaPort};
use crate::ats::{Frame, Permissions};
use crate::callback::InCallback;
use crate::fault::{AccessMode, DmaError, FaultReason, OnAbsent};
use crate::ids::{Pasid, SpaceId};
use crate::iommu::inside::{Inside, Last};
use crate::iommu::parts::Attachment;
use crate::iotlb::{Kept, Permits};
use crate::range::{AddrRange, Segment};
use crate::space::{AddressSpace, Run, StopCause, Stopped};

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
        let pin = self.path.pin(pasid, piece, mode)?;
        let slices = pin.slices(Permissions::needed_by(mode.access).write);
        let slices = slices.ok_or_else(|| self.path.fault(0, pasid, piece.address, mode.access, FaultReason::NotInPlace))?;
        Ok(work(&slices))
    }
}

impl Device {
    /// What the addresses of `piece` mean, held as long as the answer lives: for models that reach the memory of its frames by themselves, and for any number of threads. Absent pages are
    /// brought in; what the IOMMU keeps is used, and added to.
    ///
    /// A change of the space that takes some of it away waits for the [`Pin`] to be dropped, as do an unbind and a removal of the device; on the thread that has it those are deferred, and
    /// a change does not wait for this thread's own. So it is not to be kept while waiting for another thread that may change the space.
    ///
    /// # Errors
    /// See [`DmaError`]. [`FaultReason::NotInPlace`] where the space, or a peer that decodes some of the addresses, cannot be accessed in place.
    pub fn pin(&self, pasid: Pasid, piece: Segment, mode: AccessMode) -> Result<Pin<'_>, DmaError> {
        self.path.pin(Some(pasid), piece, mode)
    }
}

/// Addresses of a space whose meaning does not change as long as this lives; see [`Device::pin`]. For the thread that made it.
#[must_use = "what it says holds as long as it lives"]
pub struct Pin<'a> {
    runs: SmallVec<[Run; 1]>,
    pinned: Pinned<'a>,
    _inside: Inside<'a>,
    // The last to go: what the others let go of is foreign code as well.
    _callback: InCallback,
}

impl Path {
    fn pin(&self, pasid: Option<Pasid>, piece: Segment, mode: AccessMode) -> Result<Pin<'_>, DmaError> {
        for _ in 0..ROUNDS {
            if let Some(pin) = self.try_pin(pasid, piece, mode)? {
                return Ok(pin);
            }
        }
        Err(self.fault(0, pasid, piece.address, mode.access, FaultReason::NotPresent))
    }

    /// `None` where a page had to be brought in first.
    fn try_pin(&self, pasid: Option<Pasid>, piece: Segment, mode: AccessMode) -> Result<Option<Pin<'_>>, DmaError> {
        let fault = |reason| self.fault(0, pasid, piece.address, mode.access, reason);
        let callback = InCallback::enter();
        let Some(inside) = Inside::enter(&self.device.gate, &self.iommu, Last::Wake) else { return Err(fault(self.device.why_shut())) };
        let Some(pasid) = pasid else { return Err(fault(FaultReason::NotInPlace)) };
        if piece.wraps() {
            return Err(fault(FaultReason::Wraps));
        }
        let isolation = self.device.isolation(self.iommu.topology());
        let is_upstream = |range: AddrRange| isolation.upstream(range.first()).is_some_and(|gap| gap.covers(range));
        if piece.range().is_some_and(|range| !is_upstream(range)) {
            return Err(fault(FaultReason::NotInPlace));
        }
        let mut pinned = Pinned::new(self.enter_entry(pasid, piece.address, mode)?, piece);
        let stopped = |stopped| self.stopped(stopped, Some(pasid), &[piece], mode.access);
        match find_runs(&pinned.entered.entry, piece, mode) {
            Ok(runs) => Ok(Some(Pin { runs, pinned, _inside: inside, _callback: callback })),
            Err(Halt::Absent(address)) => {
                // What brings it in may change the space.
                pinned.unpin();
                let outcome = pinned.entered.entry.record.space.resolve(address, mode);
                outcome.map(|()| None).map_err(|cause| stopped(Stopped { done: address - piece.address, cause }))
            }
            Err(Halt::Stop(why)) => Err(stopped(why)),
            Err(Halt::NotInPlace) => Err(fault(FaultReason::NotInPlace)),
        }
    }
}

impl Pin<'_> {
    /// Which space it is.
    pub fn space(&self) -> SpaceId {
        self.pinned.entered.entry.record.id
    }

    /// What the addresses mean: parts of the piece in order, and all of it together. None where the piece is empty.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The memory; `None` where the provider gives no slices of it.
    fn slices(&self, write: bool) -> Option<SmallVec<[VolatileSlice<'_>; 4]>> {
        let slice = |run: &Run| self.pinned.entered.entry.record.space.memory(run.frame, usize::try_from(run.range.len()).ok()?, write);
        self.runs.iter().map(slice).collect()
    }
}

/// The runs of a piece that has been pinned: by what is kept, or by what the provider says now.
fn find_runs(entry: &Attachment, piece: Segment, mode: AccessMode) -> Result<SmallVec<[Run; 1]>, Halt> {
    let kept = entry.record.kept.as_deref().ok_or(Halt::NotInPlace)?;
    let may_bring_in = mode_of(entry, mode).on_absent == OnAbsent::Resolve;
    let mut runs = SmallVec::new();
    let mut rest = piece.range();
    while let Some(range) = rest {
        let at = range.first();
        let stop = |cause| Err(Halt::Stop(Stopped { done: at - piece.address, cause }));
        let run = match run_at(kept, &*entry.record.space, at, mode) {
            Ok(Some(run)) if run.permits.permits(mode.access) => run,
            Ok(None) => return Err(Halt::NotInPlace),
            // It may be one that is to be copied before it is written to.
            Ok(Some(_)) | Err(StopCause::NotPresent) if may_bring_in => return Err(Halt::Absent(at)),
            Ok(Some(_)) => return stop(StopCause::Denied),
            Err(cause) => return stop(cause),
        };
        let here = run.range.intersection(range).filter(|here| here.first() == at).ok_or(Halt::NotInPlace)?;
        let frame = run.frame.offset(at - run.range.first()).ok_or(Halt::NotInPlace)?;
        runs.push(Run { range: here, frame, ..run });
        rest = here.last().checked_add(1).and_then(|next| AddrRange::inclusive(next, range.last()));
    }
    Ok(runs)
}

/// What an address that has been pinned means. What is kept of it holds: an invalidation has taken it away before it asks for pins.
fn run_at(kept: &Kept, space: &dyn AddressSpace, address: u64, mode: AccessMode) -> Result<Option<Run>, StopCause> {
    if let Some(entry) = kept.find(address, Permits::of(mode.access), mode.privileged) {
        return Ok(Some(Run { range: entry.range(), frame: Frame(entry.frame), permits: entry.permits.into() }));
    }
    // Before the provider is asked: a change that comes after makes the answer one that is not entered (rule T3).
    let generation = kept.generation();
    let run = space.run(address, mode.privileged)?;
    if let Some(run) = run.as_ref().filter(|run| run.range.contains(address)) {
        kept.fill(generation, run, address, mode.privileged);
    }
    Ok(run)
}

enum Halt {
    Absent(u64),
    NotInPlace,
    Stop(Stopped),
}

/// Inside the gate of a table entry, with a range pinned where the space is one in place.
struct Pinned<'a> {
    entered: Entered<'a>,
    number: Option<usize>,
}

impl<'a> Pinned<'a> {
    fn new(entered: Entered<'a>, piece: Segment) -> Self {
        let kept = entered.entry.record.kept.as_ref();
        let number = kept.zip(piece.range()).map(|(kept, range)| kept.pin(range));
        Self { entered, number }
    }

    fn unpin(&mut self) {
        let kept = self.entered.entry.record.kept.as_ref();
        let Some((kept, number)) = kept.zip(self.number.take()) else { return };
        if kept.unpin(number).into_iter().filter(|left| left.step()).count() > 0 {
            self.entered.iommu.gate_drained();
        }
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        self.unpin();
    }
}

impl fmt::Debug for Pin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pin").field("space", &self.space()).field("runs", &self.runs).finish()
    }
}
