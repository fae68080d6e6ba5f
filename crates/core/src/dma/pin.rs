//! Pinned memory of a space: what addresses mean, and slices that code of a device model works on.
//!
//! Foreign code runs while memory is pinned, so a pin is no critical section, for which others
//! spin: the range is said in a [`PinSlot`](crate::quiesce::PinSlot), at which a change of it, an
//! unbind and a removal leave a completion. A range that is cached is pinned in the critical section
//! in which it is found; any other by a walk, past the gates.

use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;
use vm_memory::VolatileSlice;

use super::cache::PortCache;
use super::pin_pool::PinRecord;
use super::port::DmaPort;
use crate::api::ats::Frame;
use crate::api::fault::{DmaError, FaultReason};
use crate::api::space::{AddressSpace, Extent, StopCause, Stopped};
use crate::iotlb::SpaceIotlb;
use crate::quiesce::callback::InCallback;
use crate::quiesce::complete;
use crate::table::{PasidEntry, SpaceRecord};
use crate::types::access::Access;
use crate::types::ids::{Pasid, SpaceId};
use crate::types::range::{AddrRange, Segment};

/// Times that absent pages are brought in before it is given up.
const MAX_RESOLVES: u32 = 1000;

impl DmaPort {
    /// Has `work` work on the memory of `piece` in place: slices that together are as long, in
    /// order, with a boundary wherever the memory is not contiguous. `access` says whether it may be
    /// written to.
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
        access: Access,
        work: impl FnOnce(&[VolatileSlice<'_>]) -> R,
    ) -> Result<R, DmaError> {
        let not_in_place =
            || self.master.fault(0, pasid, piece.address, access, FaultReason::NotInPlace);
        let pin = self.pin(pasid.ok_or_else(not_in_place)?, piece, access)?;
        let slices = pin.slices(access.is_write()).ok_or_else(not_in_place)?;
        Ok(work(&slices))
    }

    /// Pins the addresses of `piece` as long as the answer lives: for models that reach the memory
    /// of its frames by themselves. Cached translations are used, and added to; absent pages are
    /// brought in. A port may have any number of pins at a time.
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
    pub fn pin(&self, pasid: Pasid, piece: Segment, access: Access) -> Result<Pin<'_>, DmaError> {
        match self.pin_cached(pasid, piece, access) {
            Some(pin) => Ok(pin),
            None => self.pin_walk(pasid, piece, access),
        }
    }

    /// Pins all of the piece through cached translations; `None` where they do not serve all of it.
    /// The answer is two words, in registers.
    fn pin_cached(&self, pasid: Pasid, piece: Segment, access: Access) -> Option<Pin<'_>> {
        let range = piece.range()?;
        let mut pin = Pin::empty(self);
        let record = pin.record_mut();
        record.select(pasid)?;
        let permissions = access.needs();
        let (mut at, mut left) = (piece.address, piece.len);
        while left > 0 {
            let most = usize::try_from(left).ok()?;
            let len = self.cached_slice(pasid, at, most, access, |slice| {
                let part = AddrRange::new(at, slice.len as u64)?;
                record.pin_part(range, Extent { range: part, frame: slice.frame, permissions })
            })?;
            // Wraps where it ends at the top, and nothing is left.
            at = at.wrapping_add(len);
            left -= len;
        }
        Some(pin)
    }

    #[cold]
    fn pin_walk(&self, pasid: Pasid, piece: Segment, access: Access) -> Result<Pin<'_>, DmaError> {
        let mut pin = Pin::empty(self);
        for _ in 0..MAX_RESOLVES {
            if self.try_pin(&mut pin, pasid, piece, access)? {
                return Ok(pin);
            }
        }
        let reason = FaultReason::NotPresent;
        Err(self.master.fault(0, Some(pasid), piece.address, access, reason))
    }

    /// False where a page had to be brought in first.
    fn try_pin(
        &self,
        pin: &mut Pin<'_>,
        pasid: Pasid,
        piece: Segment,
        access: Access,
    ) -> Result<bool, DmaError> {
        let master = &self.master;
        let fault = |reason| Err(master.fault(0, Some(pasid), piece.address, access, reason));
        let Some(_inside) = master.enter_device() else {
            return fault(master.device.shut_reason());
        };
        if piece.wraps() {
            return fault(FaultReason::Wraps);
        }
        let routing = master.device.current_routing(master.iommu.topology());
        let reaches_iommu = |range: AddrRange| {
            routing.undecoded_around(range.first()).is_some_and(|gap| gap.covers(range))
        };
        if piece.range().is_some_and(|range| !reaches_iommu(range)) {
            return fault(FaultReason::NotInPlace);
        }
        // Not inside the entry's gate from here on: the pin keeps the bond, and an unbind that finds
        // both would count one access twice. Nor is it to be pinned where the gate has been shut by
        // now: that unbind may have counted this as inside.
        let entry =
            master.with_entry(pasid, piece.address, access, |entry| Ok(Arc::clone(entry)))?;
        if entry.gate.is_shut() {
            return fault(master.not_bound(pasid));
        }
        let Some(iotlb) = &entry.record.iotlb else { return fault(FaultReason::NotInPlace) };
        let record = pin.record_mut();
        record.insert(&entry);
        if let Some(range) = piece.range() {
            record.pin(range);
        }
        // After it is pinned: who takes something away looks at the lists before, and then that is
        // seen below; or after, and waits.
        iotlb.users().pins.add(&record.slot);
        master.device.pins.add(&record.slot);
        if master.device.gate.is_shut() {
            return fault(master.device.shut_reason());
        }
        if entry.gate.is_shut() {
            return fault(master.not_bound(pasid));
        }
        match find_extents(&entry, iotlb, piece, access) {
            Ok(extents) => {
                pin.record_mut().extents = extents;
                PortCache::insert_entry(&self.cache, master, &entry);
                Ok(true)
            }
            Err(PinFailure::Absent(address)) => {
                self.bring_in(pin, &entry, piece, address, access).map(|()| false)
            }
            Err(PinFailure::Stopped(why)) => {
                Err(master.stopped(why, Some(pasid), &[piece], access))
            }
            Err(PinFailure::NotInPlace) => fault(FaultReason::NotInPlace),
        }
    }

    /// Brings in the page of `address`, with nothing pinned: what brings it in may change the
    /// space.
    fn bring_in(
        &self,
        pin: &mut Pin<'_>,
        entry: &Arc<PasidEntry>,
        piece: Segment,
        address: u64,
        access: Access,
    ) -> Result<(), DmaError> {
        pin.unpin();
        let (master, pasid) = (&self.master, entry.record.tag.pasid);
        let _inside = master
            .enter_entry(entry)
            .map_err(|reason| master.fault(0, Some(pasid), piece.address, access, reason))?;
        entry.record.space.resolve(address, access).map_err(|cause| {
            let stopped = Stopped { done: address - piece.address, cause };
            master.stopped(stopped, Some(pasid), &[piece], access)
        })
    }
}

/// Addresses of a space whose meaning does not change as long as this lives; see [`DmaPort::pin`].
/// For the thread that made it.
#[must_use = "what it says holds as long as it lives"]
pub struct Pin<'a> {
    port: &'a DmaPort,
    /// There until the drop.
    record: Option<Box<PinRecord>>,
    // The last to go: what the drop lets go of is foreign code as well.
    _callback: InCallback,
}

impl<'a> Pin<'a> {
    /// Pins nothing yet.
    #[inline]
    fn empty(port: &'a DmaPort) -> Self {
        let callback = InCallback::enter();
        Self { port, record: Some(port.pin_pool.take(&port.master.device)), _callback: callback }
    }

    /// The space.
    #[inline]
    pub fn space(&self) -> SpaceId {
        self.record().space().expect("there is no pin without a table entry")
    }

    /// What the addresses mean: parts of the piece in order, and all of it together. Their
    /// permissions are those that were asked for; the space may permit more. None where the piece is
    /// empty.
    #[inline]
    pub fn extents(&self) -> &[Extent] {
        &self.record().extents
    }

    /// The memory; `None` where the provider gives no slices of it.
    fn slices(&self, is_write: bool) -> Option<SmallVec<[VolatileSlice<'_>; 4]>> {
        let space = &*self.space_record().space;
        let slice = |extent: &Extent| {
            space.memory(extent.frame, usize::try_from(extent.range.len()).ok()?, is_write)
        };
        self.extents().iter().map(slice).collect()
    }

    #[inline]
    fn space_record(&self) -> &SpaceRecord {
        &self.record().entry().expect("there is no pin without a table entry").record
    }

    #[inline]
    fn record(&self) -> &PinRecord {
        self.record.as_ref().expect("there until the drop")
    }

    #[inline]
    fn record_mut(&mut self) -> &mut PinRecord {
        self.record.as_mut().expect("there until the drop")
    }

    /// Pins nothing any more, and makes a step of those that have waited.
    #[inline]
    fn unpin(&mut self) {
        let record = self.record_mut();
        record.extents.clear();
        if record.slot.unpin() {
            self.complete_waiters();
        }
    }

    #[cold]
    fn complete_waiters(&self) {
        complete(self.record().slot.take_waiters());
    }
}

impl Drop for Pin<'_> {
    #[inline]
    fn drop(&mut self) {
        self.unpin();
        if let Some(record) = self.record.take() {
            self.port.pin_pool.give_back(record);
        }
    }
}

/// Why the extents of a piece cannot be found.
enum PinFailure {
    /// The page of this address is to be brought in first.
    Absent(u64),
    NotInPlace,
    Stopped(Stopped),
}

/// The extents of a piece that has been pinned: cached, or as the provider says now.
fn find_extents(
    entry: &PasidEntry,
    iotlb: &SpaceIotlb,
    piece: Segment,
    access: Access,
) -> Result<Vec<Extent>, PinFailure> {
    let may_bring_in = !entry.effective_access(access).is_present_only();
    let mut extents = Vec::new();
    let mut rest = piece.range();
    while let Some(range) = rest {
        let at = range.first();
        let stop = |cause| Err(PinFailure::Stopped(Stopped { done: at - piece.address, cause }));
        let extent = match extent_at(iotlb, &*entry.record.space, at, access) {
            Ok(Some(extent)) if extent.permissions.permit(access) => extent,
            Ok(None) => return Err(PinFailure::NotInPlace),
            // It may be one that is to be copied before it is written to.
            Ok(Some(_)) | Err(StopCause::NotPresent) if may_bring_in => {
                return Err(PinFailure::Absent(at));
            }
            Ok(Some(_)) => return stop(StopCause::Denied),
            Err(cause) => return stop(cause),
        };
        let here = extent.range.intersection(range).filter(|here| here.first() == at);
        let here = here.ok_or(PinFailure::NotInPlace)?;
        let offset = at - extent.range.first();
        let frame = extent.frame.offset(offset).ok_or(PinFailure::NotInPlace)?;
        extents.push(Extent { range: here, frame, permissions: access.needs() });
        rest = range.after_last(here.last());
    }
    Ok(extents)
}

/// What an address that has been pinned means. A cached translation of it holds: an invalidation
/// has removed it before it looks for pins.
fn extent_at(
    iotlb: &SpaceIotlb,
    space: &dyn AddressSpace,
    address: u64,
    access: Access,
) -> Result<Option<Extent>, StopCause> {
    if let Some(entry) = iotlb.find(address, access) {
        return Ok(Some(Extent {
            range: entry.range(),
            frame: Frame(entry.frame),
            permissions: entry.permissions,
        }));
    }
    // Before the provider is asked: what it answers is not filled in where a change comes after.
    let seq = iotlb.users().invalidate_seq();
    let extent = space.extent(address, access.is_privileged())?;
    if let Some(extent) = extent.as_ref().filter(|extent| extent.range.contains(address)) {
        iotlb.fill(seq, extent, address, access.is_privileged());
    }
    Ok(extent)
}

impl fmt::Debug for Pin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pin")
            .field("space", &self.space())
            .field("extents", &self.extents())
            .finish()
    }
}
