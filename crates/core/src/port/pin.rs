//! Memory of a space in hand: what addresses mean, and slices that code of the device model works
//! on.
//!
//! What runs meanwhile is foreign code, so this is no section, for which others spin: the range is
//! said in a slot ([`PinSlot`](crate::iotlb::PinSlot)), at which a change of it, an unbind and a
//! removal leave word. A range that is kept is pinned in the section in which it is found; else by
//! the long way, past the gates.

use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;
use vm_memory::VolatileSlice;

use super::DmaPort;
use super::holder::Holder;
use super::lane::Learner;
use super::memo::Need;
use super::path::{Entered, mode_of};
use crate::ats::{Frame, Permissions};
use crate::callback::InCallback;
use crate::fault::{AccessMode, DmaError, FaultReason, OnAbsent};
use crate::ids::{Pasid, SpaceId};
use crate::iommu::inside::{Inside, Last};
use crate::iommu::parts::{Attachment, SpaceRecord};
use crate::iotlb::{Kept, Permits};
use crate::range::{AddrRange, Segment};
use crate::space::{AddressSpace, Run, StopCause, Stopped};

/// Times that absent pages are brought in before it is given up.
const ROUNDS: u32 = 1000;
impl DmaPort {
    /// Has `work` work on the memory of `piece` in place: slices that together are as long, in
    /// order, with a boundary wherever the memory is not contiguous. `mode.access` says whether it
    /// may be written to.
    ///
    /// A change of the space that takes the memory away waits for `work`, as do an unbind and a
    /// removal of the device; from inside `work` those are deferred, and a change does not wait for
    /// this thread's own. So it is to be short, and not to wait for another thread that may
    /// change the space.
    ///
    /// # Errors
    /// See [`DmaError`]; `work` has not run then. [`FaultReason::NotInPlace`] where there is no
    /// PASID, or the space, or a peer that decodes some of the addresses, cannot be accessed in
    /// place.
    pub fn with_memory<R>(
        &self,
        pasid: Option<Pasid>,
        piece: Segment,
        mode: AccessMode,
        work: impl FnOnce(&[VolatileSlice<'_>]) -> R,
    ) -> Result<R, DmaError> {
        let not_in_place =
            || self.path.fault(0, pasid, piece.address, mode.access, FaultReason::NotInPlace);
        let pin = self.pin(pasid.ok_or_else(not_in_place)?, piece, mode)?;
        let slices =
            pin.slices(Permissions::needed_by(mode.access).write).ok_or_else(not_in_place)?;
        Ok(work(&slices))
    }

    /// What the addresses of `piece` mean, held as long as the answer lives: for models that reach
    /// the memory of its frames by themselves. What the IOMMU keeps is used, and added to; absent
    /// pages are brought in. A port may have any number of them at a time.
    ///
    /// A change of the space that takes some of it away waits for the [`Pin`] to be dropped, as do
    /// an unbind and a removal of the device; on the thread that has it those are deferred, and
    /// a change does not wait for this thread's own. So it is not to be kept while waiting for
    /// another thread that may change the space.
    ///
    /// # Errors
    /// See [`DmaError`]. [`FaultReason::NotInPlace`] where the space, or a peer that decodes some
    /// of the addresses, cannot be accessed in place.
    #[inline]
    pub fn pin(&self, pasid: Pasid, piece: Segment, mode: AccessMode) -> Result<Pin<'_>, DmaError> {
        match self.pin_kept(pasid, piece, mode) {
            Some(pin) => Ok(pin),
            None => self.pin_the_long_way(pasid, piece, mode),
        }
    }

    /// Pins what is kept of all of the piece; `None` where that is not enough. The answer is two
    /// words, in registers.
    fn pin_kept(&self, pasid: Pasid, piece: Segment, mode: AccessMode) -> Option<Pin<'_>> {
        let range = piece.range()?;
        let mut pin = Pin::of(self);
        let holder = pin.holder_mut();
        holder.find(pasid)?;
        let (need, permits) = (Need::of(mode), Permissions::needed_by(mode.access));
        let (mut at, mut left) = (piece.address, piece.len);
        while left > 0 {
            let len = self.hit(pasid, at, usize::try_from(left).ok()?, need, |place| {
                holder.pin_part(
                    range,
                    Run {
                        range: AddrRange::new(at, place.len as u64)?,
                        frame: place.frame,
                        permits,
                    },
                )
            })?;
            // Wraps where it ends at the top, and nothing is left.
            at = at.wrapping_add(len);
            left -= len;
        }
        Some(pin)
    }

    #[cold]
    fn pin_the_long_way(
        &self,
        pasid: Pasid,
        piece: Segment,
        mode: AccessMode,
    ) -> Result<Pin<'_>, DmaError> {
        let mut pin = Pin::of(self);
        for _ in 0..ROUNDS {
            if self.try_pin(&mut pin, pasid, piece, mode)? {
                return Ok(pin);
            }
        }
        Err(self.path.fault(0, Some(pasid), piece.address, mode.access, FaultReason::NotPresent))
    }

    /// False where a page had to be brought in first.
    fn try_pin(
        &self,
        pin: &mut Pin<'_>,
        pasid: Pasid,
        piece: Segment,
        mode: AccessMode,
    ) -> Result<bool, DmaError> {
        let path = &self.path;
        let fault = |reason| Err(path.fault(0, Some(pasid), piece.address, mode.access, reason));
        let Some(_inside) = Inside::enter(&path.device.gate, &path.iommu, Last::Wake) else {
            return fault(path.device.why_shut());
        };
        if piece.wraps() {
            return fault(FaultReason::Wraps);
        }
        let isolation = path.device.isolation(path.iommu.topology());
        let is_upstream = |range: AddrRange| {
            isolation.upstream(range.first()).is_some_and(|gap| gap.covers(range))
        };
        if piece.range().is_some_and(|range| !is_upstream(range)) {
            return fault(FaultReason::NotInPlace);
        }
        // Not inside the entry's gate from here on: what is said to be in hand keeps the bond, and
        // an unbind that finds both would count one access twice. Nor is it to be said where
        // the gate has been shut by now: that unbind may have counted this as inside.
        let entry = Arc::clone(&path.enter_entry(pasid, piece.address, mode)?.entry);
        if entry.gate.is_shut() {
            return fault(path.not_bound(pasid));
        }
        let Some(kept) = &entry.record.kept else { return fault(FaultReason::NotInPlace) };
        let holder = pin.holder_mut();
        holder.know(&entry);
        if let Some(range) = piece.range() {
            holder.pin(range);
        }
        // After it is said what is in hand: who takes something away looks before, then that is
        // seen below; or after, and waits.
        kept.pins().add(&holder.slot);
        path.device.pins.add(&holder.slot);
        if path.device.gate.is_shut() {
            return fault(path.device.why_shut());
        }
        if entry.gate.is_shut() {
            return fault(path.not_bound(pasid));
        }
        let stopped = |stopped| path.stopped(stopped, Some(pasid), &[piece], mode.access);
        match find_runs(&entry, piece, mode) {
            Ok(runs) => {
                pin.holder_mut().runs = runs;
                Learner::of(self).learn(path, &entry, &[piece], Need::of(mode));
                Ok(true)
            }
            Err(Halt::Absent(address)) => {
                // What brings it in may change the space.
                pin.let_go();
                let Some(entered) = Entered::enter(&path.iommu, entry) else {
                    return fault(path.not_bound(pasid));
                };
                let outcome = entered.entry.record.space.resolve(address, mode);
                outcome
                    .map(|()| false)
                    .map_err(|cause| stopped(Stopped { done: address - piece.address, cause }))
            }
            Err(Halt::Stop(why)) => Err(stopped(why)),
            Err(Halt::NotInPlace) => fault(FaultReason::NotInPlace),
        }
    }
}

/// Addresses of a space whose meaning does not change as long as this lives; see [`DmaPort::pin`].
/// For the thread that made it.
#[must_use = "what it says holds as long as it lives"]
pub struct Pin<'a> {
    port: &'a DmaPort,
    /// There until the drop.
    holder: Option<Box<Holder>>,
    // The last to go: what is let go of is foreign code as well.
    _callback: InCallback,
}

impl<'a> Pin<'a> {
    /// Of nothing yet.
    #[inline]
    fn of(port: &'a DmaPort) -> Self {
        let callback = InCallback::enter();
        Self { port, holder: Some(port.idle.take(&port.path.device)), _callback: callback }
    }

    /// Which space it is.
    #[inline]
    pub fn space(&self) -> SpaceId {
        self.holder().space().expect("there is no pin without a bond")
    }

    /// What the addresses mean: parts of the piece in order, and all of it together; what they
    /// permit is what was asked for, and may be more. None where the piece is empty.
    #[inline]
    pub fn runs(&self) -> &[Run] {
        &self.holder().runs
    }

    /// The memory; `None` where the provider gives no slices of it.
    fn slices(&self, write: bool) -> Option<SmallVec<[VolatileSlice<'_>; 4]>> {
        let space = &*self.record().space;
        let slice =
            |run: &Run| space.memory(run.frame, usize::try_from(run.range.len()).ok()?, write);
        self.runs().iter().map(slice).collect()
    }

    #[inline]
    fn record(&self) -> &SpaceRecord {
        &self.holder().bond().expect("there is no pin without a bond").record
    }

    #[inline]
    fn holder(&self) -> &Holder {
        self.holder.as_ref().expect("there until the drop")
    }

    #[inline]
    fn holder_mut(&mut self) -> &mut Holder {
        self.holder.as_mut().expect("there until the drop")
    }

    /// Has nothing in hand any more.
    #[inline]
    fn let_go(&mut self) {
        let holder = self.holder_mut();
        holder.runs.clear();
        if holder.slot.unpin() {
            self.tell_waiters();
        }
    }

    #[cold]
    fn tell_waiters(&self) {
        self.port.path.iommu.let_go(&self.port.path.device, self.holder().slot.take_waiters());
    }
}

impl Drop for Pin<'_> {
    #[inline]
    fn drop(&mut self) {
        self.let_go();
        if let Some(holder) = self.holder.take() {
            self.port.idle.give_back(holder);
        }
    }
}

/// The runs of a piece that has been pinned: by what is kept, or by what the provider says now.
fn find_runs(entry: &Attachment, piece: Segment, mode: AccessMode) -> Result<Vec<Run>, Halt> {
    let kept = entry.record.kept.as_deref().ok_or(Halt::NotInPlace)?;
    let may_bring_in = mode_of(entry, mode).on_absent == OnAbsent::Resolve;
    let mut runs = Vec::new();
    let mut rest = piece.range();
    while let Some(range) = rest {
        let at = range.first();
        let stop = |cause| Err(Halt::Stop(Stopped { done: at - piece.address, cause }));
        let run = match run_at(kept, &*entry.record.space, at, mode) {
            Ok(Some(run)) if run.permits.permits(mode.access) => run,
            Ok(None) => return Err(Halt::NotInPlace),
            // It may be one that is to be copied before it is written to.
            Ok(Some(_)) | Err(StopCause::NotPresent) if may_bring_in => {
                return Err(Halt::Absent(at));
            }
            Ok(Some(_)) => return stop(StopCause::Denied),
            Err(cause) => return stop(cause),
        };
        let here = run
            .range
            .intersection(range)
            .filter(|here| here.first() == at)
            .ok_or(Halt::NotInPlace)?;
        let frame = run.frame.offset(at - run.range.first()).ok_or(Halt::NotInPlace)?;
        runs.push(Run { range: here, frame, permits: Permissions::needed_by(mode.access) });
        rest = here.last().checked_add(1).and_then(|next| AddrRange::inclusive(next, range.last()));
    }
    Ok(runs)
}

/// What an address that has been pinned means. What is kept of it holds: an invalidation has taken
/// it away before it asks for pins.
fn run_at(
    kept: &Kept,
    space: &dyn AddressSpace,
    address: u64,
    mode: AccessMode,
) -> Result<Option<Run>, StopCause> {
    if let Some(entry) = kept.find(address, Permits::of(mode.access), mode.privileged) {
        return Ok(Some(Run {
            range: entry.range(),
            frame: Frame(entry.frame),
            permits: entry.permits.into(),
        }));
    }
    // Before the provider is asked: a change that comes after makes the answer one that is not
    // entered (rule T3).
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

impl fmt::Debug for Pin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pin").field("space", &self.space()).field("runs", &self.runs()).finish()
    }
}
