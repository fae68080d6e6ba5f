//! What one port caches: PASID entries, and translations in its first-level TLB
//! (docs/design/translation.md).

use std::cell::RefCell;
use std::sync::Arc;

use super::master::BusMaster;
use super::pasid_cache::{CachedPasidEntry, PortReader};
use super::tlb::Tlb;
use crate::api::space::AddressSpace;
use crate::iotlb::SpaceIotlb;
use crate::table::PasidEntry;
use crate::types::access::Access;
use crate::types::ids::Pasid;
use crate::types::range::Segment;

/// The most PASID entries that a port caches.
const MAX_ENTRIES: usize = 16;
/// The number of hints: a power of two, and larger than the number of entries, so that few PASIDs
/// in use share a hint.
const HINTS: usize = 64;
/// The most extents that are inserted into the IOTLB after one walk.
const MAX_FILLS: usize = 1024;

/// The caches of a port. Made when the port first accesses memory that can be accessed in place.
pub(super) struct PortCache {
    pub(super) reader: PortReader,
    pub(super) tlb: Tlb,
    /// At most one for each PASID, the oldest first.
    pub(super) entries: Vec<CachedPasidEntry>,
    /// For each value of the lowest bits of a PASID, the index in `entries` of the entry that was
    /// last looked up with it. The index is not kept in the TLB entry: an access would have to wait
    /// for its load of the TLB entry before it could load the PASID entry.
    pub(super) hints: [u8; HINTS],
}

impl PortCache {
    /// Caches the PASID entry of a transfer that succeeded, and inserts into the IOTLB the extents
    /// that the provider names for the addresses of the transfer.
    ///
    /// Precondition: the caller has probed both levels for the first byte of the transfer, and both
    /// have missed. The first byte of `pieces` is therefore not probed again here. After an access
    /// to a peer in the same transfer it is another byte; if the IOTLB has an entry for it, the
    /// provider is asked once more, and the entry is overwritten. The caller is inside the gates of
    /// the transfer.
    pub(super) fn cache_transfer(
        cache: &RefCell<Option<Box<Self>>>,
        master: &BusMaster,
        entry: &Arc<PasidEntry>,
        pieces: &[Segment],
        access: Access,
    ) {
        let Some(iotlb) = &entry.record.iotlb else { return };
        Self::insert_entry(cache, master, entry);
        fill_iotlb(iotlb, &*entry.record.space, pieces, access);
    }

    /// Caches the PASID entry of a transfer that succeeded. The caller is inside the gates of the
    /// transfer, or has pinned some of its memory.
    pub(super) fn insert_entry(
        cache: &RefCell<Option<Box<Self>>>,
        master: &BusMaster,
        entry: &Arc<PasidEntry>,
    ) {
        let Some(iotlb) = &entry.record.iotlb else { return };
        let Ok(mut cache) = cache.try_borrow_mut() else { return };
        let cache = cache.get_or_insert_with(|| Self::new(master));
        cache.insert(entry, iotlb);
        cache.reader.update_routing(master, &mut cache.entries);
    }

    fn new(master: &BusMaster) -> Box<Self> {
        let reader = PortReader::new(master);
        Box::new(Self { reader, tlb: Tlb::new(), entries: Vec::new(), hints: [0; HINTS] })
    }

    /// The entry that the hint for a PASID points to. It may be of another PASID, or not exist.
    #[inline(always)]
    pub(super) fn hinted_entry(&self, pasid: Pasid) -> Option<&CachedPasidEntry> {
        self.entries.get(usize::from(self.hints[hint_index(pasid)]))
    }

    /// Caches a PASID entry.
    fn insert(&mut self, entry: &Arc<PasidEntry>, iotlb: &Arc<SpaceIotlb>) {
        let Self { reader, entries, .. } = self;
        if entries.iter().any(|cached| Arc::ptr_eq(&cached.entry, entry)) {
            return;
        }
        let cached = entries.iter().map(|cached| (cached.pasid, &*cached.entry));
        if let Some(at) = replaced_by(entry, cached, MAX_ENTRIES) {
            let old = entries.remove(at);
            // Unregister before the new entry registers: if the space has another bond, both
            // entries register the same slot with the same part of the IOTLB.
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

/// The index of the cached entry that a new one replaces, if any: an earlier entry of the same
/// PASID, so that there is one for each. Otherwise one whose gate is closed. Otherwise, if there
/// are `capacity` entries, the oldest, which is the first.
pub(super) fn replaced_by<'a>(
    new: &PasidEntry,
    cached: impl ExactSizeIterator<Item = (Pasid, &'a PasidEntry)> + Clone,
    capacity: usize,
) -> Option<usize> {
    let is_full = cached.len() == capacity;
    let same = cached.clone().position(|(pasid, _)| pasid == new.record.tag.pasid);
    same.or_else(|| cached.clone().position(|(_, entry)| entry.gate.is_closed()))
        .or(is_full.then_some(0))
}

#[inline(always)]
pub(super) fn hint_index(pasid: Pasid) -> usize {
    pasid.get() as usize % HINTS
}

/// Inserts the extents that the provider names for the addresses of `pieces` into the IOTLB, up to
/// [`MAX_FILLS`]. Asks for the first address without a look-up in the IOTLB, which mostly has no
/// entry for it.
fn fill_iotlb(iotlb: &SpaceIotlb, space: &dyn AddressSpace, pieces: &[Segment], access: Access) {
    let mut left = MAX_FILLS;
    for piece in pieces {
        let mut rest = piece.range();
        while let Some(range) = rest.filter(|_| left > 0) {
            let is_first = left == MAX_FILLS;
            left -= 1;
            let known = if is_first { None } else { iotlb.find(range.first(), access) };
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

/// Inserts the extent that the provider names for `address` into the IOTLB, and returns the last
/// address of that extent.
fn fill_extent(
    iotlb: &SpaceIotlb,
    space: &dyn AddressSpace,
    address: u64,
    access: Access,
) -> Option<u64> {
    // Read before the provider is asked, so that an extent that an invalidation has overtaken is
    // not inserted.
    let seq = iotlb.users().invalidate_seq();
    let extent = space.extent(address, access.is_privileged()).ok()??;
    iotlb.fill(seq, &extent, address, access.is_privileged());
    Some(extent.range.last())
}
