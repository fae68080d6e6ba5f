//! Pinned memory of a space: translations that hold until they are unpinned, and slices of memory
//! for the code of a device model.
//!
//! Foreign code runs while memory is pinned. So a pin is not a critical section, for whose end
//! other threads spin. The pin publishes its range in a [`PinSlot`](crate::quiesce::PinSlot), and a
//! change of the range, an unbind or a removal adds a waiter to that slot. A range that cached
//! translations serve is pinned inside the critical section in which each translation is found. Any
//! other range is pinned by a walk through the gates.

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
use crate::quiesce::step_all;
use crate::table::{PasidEntry, SpaceRecord};
use crate::types::access::Access;
use crate::types::ids::{Pasid, SpaceId};
use crate::types::range::{AddrRange, Segment};

/// How often pages that are not present are resolved before a pin fails.
const MAX_RESOLVES: u32 = 1000;

impl DmaPort {
    /// Calls `work` on the memory of `piece` in place, as slices in order. Their total length is
    /// that of the piece, and they are split wherever the memory is not contiguous. `access` must
    /// include writing if `work` writes.
    ///
    /// A change of the space that takes the memory away, an unbind and a removal of the device wait
    /// until `work` returns. An unbind or removal from inside `work` is deferred, and a change from
    /// inside `work` does not wait for pins of the same thread. So `work` should be short, and must
    /// not wait for another thread that may change the space. The call may block while pages are
    /// resolved.
    ///
    /// # Errors
    /// See [`DmaError`]; `work` was not called. [`FaultReason::NotInPlace`] if there is no PASID,
    /// if the space cannot be accessed in place, or if a peer decodes some of the addresses.
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

    /// Pins the addresses of `piece` until the returned [`Pin`] is dropped, for device models that
    /// access the frames by their own means. Cached translations are used and inserted, and pages
    /// that are not present are resolved, for which the call may block. A port may have any number
    /// of pins at a time.
    ///
    /// A change of the space that takes part of the memory away, an unbind and a removal of the
    /// device wait until the pin is dropped. On the thread that has the pin an unbind or removal is
    /// deferred, and a change does not wait for pins of the same thread. So the thread must not
    /// hold a pin while it waits for another thread that may change the space.
    ///
    /// # Errors
    /// See [`DmaError`]. [`FaultReason::NotInPlace`] if the space cannot be accessed in place, or
    /// if a peer decodes some of the addresses.
    #[inline]
    pub fn pin(&self, pasid: Pasid, piece: Segment, access: Access) -> Result<Pin<'_>, DmaError> {
        match self.pin_cached(pasid, piece, access) {
            Some(pin) => Ok(pin),
            None => self.pin_walk(pasid, piece, access),
        }
    }

    /// Pins the piece through cached translations. Returns `None` if they do not serve all of it.
    /// The returned pin is two words, which fit in registers.
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
            // Wraps if the piece ends at the last address; `left` is 0 then.
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

    /// Pins the piece by a walk. Returns false if a page had to be resolved, so that the caller is
    /// to try again.
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
        // The gate of the entry is left here: the pin keeps the bond alive, and an unbind that
        // found both the access and the pin would count one access twice. If the gate has been shut
        // since, nothing may be pinned, because the unbind may have counted this access already.
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
        // Added after the range is pinned. An unbind, a removal, a reset or a cut-off shuts a gate
        // first and then searches these lists. If it searched before this, the checks below see the
        // shut gate. If it searches after this, it waits for the pin. For an invalidation see
        // `extent_at`.
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
            Err(PinFailure::NotPresent(address)) => {
                self.resolve_unpinned(pin, &entry, piece, address, access).map(|()| false)
            }
            Err(PinFailure::Stopped(why)) => {
                Err(master.stop_error(why, Some(pasid), &[piece], access))
            }
            Err(PinFailure::NotInPlace) => fault(FaultReason::NotInPlace),
        }
    }

    /// Resolves the page of `address`. Nothing is pinned meanwhile, since the provider may change
    /// the space to do so.
    fn resolve_unpinned(
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
            master.stop_error(stopped, Some(pasid), &[piece], access)
        })
    }
}

/// A range of addresses of a space whose translations do not change while this lives; see
/// [`DmaPort::pin`]. It stays on the thread that made it.
///
/// A pin that is forgotten ([`std::mem::forget`]) lasts until its port is dropped. A thread that
/// has waited a second for pins logs [`Event::PinOutstanding`](crate::Event::PinOutstanding).
#[must_use = "the range is pinned only while this lives"]
pub struct Pin<'a> {
    port: &'a DmaPort,
    /// Always set, except during the drop.
    record: Option<Box<PinRecord>>,
    // Dropped last, since dropping the record runs foreign code too.
    _callback: InCallback,
}

impl<'a> Pin<'a> {
    /// Makes a pin of no range, with a record from the pool.
    #[inline]
    fn empty(port: &'a DmaPort) -> Self {
        let callback = InCallback::enter();
        Self { port, record: Some(port.pin_pool.take(&port.master.device)), _callback: callback }
    }

    /// The space whose memory is pinned.
    #[inline]
    pub fn space(&self) -> SpaceId {
        self.record().space().expect("a pin has a PASID entry")
    }

    /// The extents of the piece, in order and without gaps. Their permissions are those of the
    /// access; the space may permit more. Empty if the piece is empty.
    #[inline]
    pub fn extents(&self) -> &[Extent] {
        &self.record().extents
    }

    /// The memory as slices; `None` if the provider gives no slices of it.
    fn slices(&self, is_write: bool) -> Option<SmallVec<[VolatileSlice<'_>; 4]>> {
        let space = &*self.space_record().space;
        let slice = |extent: &Extent| {
            let len = usize::try_from(extent.range.len()).ok()?;
            let memory = space.memory(extent.frame, len, is_write);
            memory.filter(|memory| memory.len() == len)
        };
        self.extents().iter().map(slice).collect()
    }

    #[inline]
    fn space_record(&self) -> &SpaceRecord {
        &self.record().entry().expect("a pin has a PASID entry").record
    }

    #[inline]
    fn record(&self) -> &PinRecord {
        self.record.as_ref().expect("set until the drop")
    }

    #[inline]
    fn record_mut(&mut self) -> &mut PinRecord {
        self.record.as_mut().expect("set until the drop")
    }

    /// Unpins the range, and makes a step of each waiter.
    #[inline]
    fn unpin(&mut self) {
        let record = self.record_mut();
        record.extents.clear();
        if record.slot.unpin() {
            self.step_waiters();
        }
    }

    #[cold]
    fn step_waiters(&self) {
        step_all(self.record().slot.take_waiters());
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

/// Why the extents of a piece cannot be determined.
enum PinFailure {
    /// The page of this address must be resolved first.
    NotPresent(u64),
    NotInPlace,
    Stopped(Stopped),
}

/// Determines the extents of a piece that has been pinned: from the IOTLB, or from the provider.
fn find_extents(
    entry: &PasidEntry,
    iotlb: &SpaceIotlb,
    piece: Segment,
    access: Access,
) -> Result<Vec<Extent>, PinFailure> {
    let may_resolve = !entry.effective_access(access).is_present_only();
    let mut extents = Vec::new();
    let mut rest = piece.range();
    while let Some(range) = rest {
        let at = range.first();
        let stop = |cause| Err(PinFailure::Stopped(Stopped { done: at - piece.address, cause }));
        let extent = match extent_at(iotlb, &*entry.record.space, at, access) {
            Ok(Some(extent)) if extent.permissions.permit(access) => extent,
            Ok(None) => return Err(PinFailure::NotInPlace),
            // The page may have to be copied before it is written.
            Ok(Some(_)) | Err(StopCause::NotPresent) if may_resolve => {
                return Err(PinFailure::NotPresent(at));
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

/// The extent at an address that has been pinned. A translation that is still in the IOTLB is
/// current: an invalidation removes it before it searches for pins.
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
    // Read before the provider is asked, so that an extent that an invalidation has overtaken is
    // not inserted.
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
