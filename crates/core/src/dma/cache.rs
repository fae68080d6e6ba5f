//! What one port caches: table entries and translations, and the accesses that both serve
//! (docs/design/translation.md).

use std::cell::RefCell;
use std::sync::Arc;

use super::frame_slice::FrameSlice;
use super::master::BusMaster;
use super::pasid_cache::{CachedPasidEntry, PortReader};
use super::port::DmaPort;
use super::tlb::{Tlb, TlbEntry};
use crate::api::ats::Frame;
use crate::api::space::AddressSpace;
use crate::iotlb::SpaceIotlb;
use crate::table::PasidEntry;
use crate::types::access::Access;
use crate::types::ids::Pasid;
use crate::types::range::Segment;

/// Table entries that a port caches at once.
const ENTRIES: usize = 16;
/// Slots that say where the entry of a PASID is: a power of two, and some more than there are
/// entries.
const SLOTS: usize = 64;
/// Extents that are filled in after one walk.
const FILLS: usize = 1024;

/// Made when a port first accesses memory that can be accessed in place.
pub(super) struct PortCache {
    reader: PortReader,
    tlb: Tlb,
    /// One of each PASID; the oldest first.
    entries: Vec<CachedPasidEntry>,
    /// Where among them the entry is that was looked for last by a PASID with these lowest bits.
    /// Not in the TLB entry: the table entry is at hand before that is, and an access does not wait
    /// for both, one after the other.
    slots: [u8; SLOTS],
}

impl DmaPort {
    /// The frame that an address leads to through a cached translation that permits the access. It
    /// is found as an access finds it, and may be invalidated as soon as it is answered.
    ///
    /// For models that want to know what an access would cost, and for measuring. Asks no provider;
    /// `None` before the first access there.
    #[inline]
    pub fn cached_translation(&self, pasid: Pasid, address: u64, access: Access) -> Option<Frame> {
        let frame = move |_: &dyn AddressSpace, entry: &TlbEntry| Some(entry.frame(address));
        match self.first_level(pasid, address, 1, access, frame) {
            // The last thing that is done, so that the hit above has no register to save for it.
            None => self.second_level(pasid, address, access, frame),
            found => found,
        }
    }

    /// Has `op` access `len` bytes through the first-level TLB. `None`, with nothing done, where
    /// that does not translate all of them.
    ///
    /// `op` runs in a critical section: it is short and calls nobody.
    #[inline(always)]
    pub(super) fn first_level_slice<R>(
        &self,
        pasid: Pasid,
        address: u64,
        len: usize,
        access: Access,
        op: impl FnOnce(FrameSlice<'_>) -> Option<R>,
    ) -> Option<R> {
        self.first_level(pasid, address, len, access, |space, entry| {
            let is_write = access.is_write();
            op(FrameSlice { space, frame: entry.frame(address), len, is_write })
        })
    }

    /// Has `op` access the first bytes, up to `len`, as many as one entry of the IOTLB translates.
    /// That entry is filled into the first level. `None`, with nothing done, where the IOTLB has
    /// none.
    #[inline]
    pub(super) fn second_level_slice<R>(
        &self,
        pasid: Pasid,
        address: u64,
        len: usize,
        access: Access,
        op: impl FnOnce(FrameSlice<'_>) -> Option<R>,
    ) -> Option<R> {
        self.second_level(pasid, address, access, |space, entry| {
            let (len, is_write) = (entry.len_from(address, len), access.is_write());
            op(FrameSlice { space, frame: entry.frame(address), len, is_write })
        })
    }

    /// Has `op` access the first bytes, up to `len`, through either level. Each is probed once.
    #[inline]
    pub(super) fn cached_slice<R>(
        &self,
        pasid: Pasid,
        address: u64,
        len: usize,
        access: Access,
        mut op: impl FnMut(FrameSlice<'_>) -> Option<R>,
    ) -> Option<R> {
        self.first_level(pasid, address, 1, access, |space, entry| {
            let (len, is_write) = (entry.len_from(address, len), access.is_write());
            op(FrameSlice { space, frame: entry.frame(address), len, is_write })
        })
        .or_else(|| self.second_level_slice(pasid, address, len, access, op))
    }

    /// Probes the first level for a translation of `len` bytes.
    #[inline(always)]
    fn first_level<R>(
        &self,
        pasid: Pasid,
        address: u64,
        len: usize,
        access: Access,
        then: impl FnOnce(&dyn AddressSpace, &TlbEntry) -> Option<R>,
    ) -> Option<R> {
        // Not where this thread is in the middle of an access further up.
        if let Ok(cache) = self.cache.try_borrow_mut()
            && let Some(cache) = cache.as_deref()
            && let Some(entry) = cache.tlb.at(pasid, address)
            && let Some(cached) = cache.entry_by(pasid)
            && cached.pasid == pasid
            && entry.context() == cached.context
            && entry.serves(address, len, access)
            && let Some(_guard) = cache.reader.enter(cached)
        {
            return then(&*cached.space, entry);
        }
        None
    }

    /// Probes the IOTLB for a translation of one byte, and fills it into the first level.
    #[inline(never)]
    fn second_level<R>(
        &self,
        pasid: Pasid,
        address: u64,
        access: Access,
        then: impl FnOnce(&dyn AddressSpace, &TlbEntry) -> Option<R>,
    ) -> Option<R> {
        let mut cache = self.cache.try_borrow_mut().ok()?;
        let PortCache { reader, tlb, entries, slots } = &mut **cache.as_mut()?;
        if tlb.is_crowded() {
            tlb.grow();
        }
        let mut at = usize::from(slots[slot_of(pasid)]);
        if entries.get(at).is_none_or(|cached| cached.pasid != pasid) {
            at = entries.iter().position(|cached| cached.pasid == pasid)?;
            slots[slot_of(pasid)] = at as u8;
        }
        let cached = &mut entries[at];
        if !reader.revalidate(cached) {
            return None;
        }
        let _guard = reader.enter(cached)?;
        let found = cached.find(address, access, &reader.routing)?;
        let entry = tlb.replace(pasid, address, found.more)?;
        entry.set(found, access, cached.context);
        then(&*cached.space, entry)
    }
}

impl PortCache {
    /// Caches the table entry of a transfer that succeeded, and fills the IOTLB with what the
    /// provider says about its addresses. The first address of `pieces` has been looked for and
    /// not been found. Inside the gates of the transfer.
    pub(super) fn fill(
        cache: &RefCell<Option<Box<Self>>>,
        master: &BusMaster,
        entry: &Arc<PasidEntry>,
        pieces: &[Segment],
        access: Access,
    ) {
        let Some(iotlb) = &entry.record.iotlb else { return };
        Self::insert_entry(cache, master, entry);
        let mut left = FILLS;
        let mut is_missed = true;
        for piece in pieces {
            let mut rest = piece.range();
            while let Some(range) = rest.filter(|_| left > 0) {
                left -= 1;
                let known = if is_missed { None } else { iotlb.find(range.first(), access) };
                is_missed = false;
                let space = &*entry.record.space;
                let last = match known {
                    Some(entry) => entry.range().last(),
                    None => match fill_extent(iotlb, space, range.first(), access) {
                        Some(last) => last,
                        None => break,
                    },
                };
                rest = range.after_last(last);
            }
        }
    }

    /// Caches the table entry of a transfer that succeeded. Inside the gates of the transfer, or
    /// with some of its memory pinned.
    pub(super) fn insert_entry(
        cache: &RefCell<Option<Box<Self>>>,
        master: &BusMaster,
        entry: &Arc<PasidEntry>,
    ) {
        let Some(iotlb) = &entry.record.iotlb else { return };
        let Ok(mut cache) = cache.try_borrow_mut() else { return };
        let cache = cache.get_or_insert_with(|| Self::new(master));
        cache.insert(entry, iotlb);
        cache.reader.follow_bus(master, &mut cache.entries);
    }

    fn new(master: &BusMaster) -> Box<Self> {
        let reader = PortReader::new(master);
        Box::new(Self { reader, tlb: Tlb::new(), entries: Vec::new(), slots: [0; SLOTS] })
    }

    /// The table entry of a PASID, or another.
    #[inline(always)]
    fn entry_by(&self, pasid: Pasid) -> Option<&CachedPasidEntry> {
        self.entries.get(usize::from(self.slots[slot_of(pasid)]))
    }

    /// Caches a table entry.
    fn insert(&mut self, entry: &Arc<PasidEntry>, iotlb: &Arc<SpaceIotlb>) {
        let Self { reader, entries, .. } = self;
        if entries.iter().any(|cached| Arc::ptr_eq(&cached.entry, entry)) {
            return;
        }
        // In place of an earlier entry of the PASID, so that there is one of each; else of one that
        // is closed; else of the oldest.
        let same = entries.iter().position(|cached| cached.pasid == entry.record.tag.pasid);
        let closed =
            same.or_else(|| entries.iter().position(|cached| cached.entry.gate.is_closed()));
        if let Some(at) = closed.or((entries.len() == ENTRIES).then_some(0)) {
            let old = entries.remove(at);
            // Before the new one is registered: where the space has other bonds, both read the same
            // part of the IOTLB.
            reader.unregister(&old);
        }
        entries.push(CachedPasidEntry::new(entry, iotlb, reader));
    }
}

impl Drop for PortCache {
    fn drop(&mut self) {
        self.entries.iter().for_each(|cached| self.reader.unregister(cached));
    }
}

#[inline(always)]
fn slot_of(pasid: Pasid) -> usize {
    pasid.get() as usize % SLOTS
}

/// Asks the provider for the extent that holds `address`, fills it in, and answers its last
/// address.
fn fill_extent(
    iotlb: &SpaceIotlb,
    space: &dyn AddressSpace,
    address: u64,
    access: Access,
) -> Option<u64> {
    // Before the provider is asked: what it answers is not filled in where a change comes after.
    let seq = iotlb.users().invalidate_seq();
    let extent = space.extent(address, access.is_privileged()).ok()??;
    iotlb.fill(seq, &extent, address, access.is_privileged());
    Some(extent.range.last())
}
