//! What one port caches: PASID entries and translations (docs/design/translation.md).

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

/// Table entries that a port caches at once.
const MAX_ENTRIES: usize = 16;
/// Slots that say where the entry of a PASID is: a power of two, and some more than there are
/// entries.
const HINTS: usize = 64;
/// Extents that are filled in after one walk.
const MAX_FILLS: usize = 1024;

/// Made when a port first accesses memory that can be accessed in place.
pub(super) struct PortCache {
    pub(super) reader: PortReader,
    pub(super) tlb: Tlb,
    /// One of each PASID; the oldest first.
    pub(super) entries: Vec<CachedPasidEntry>,
    /// Where among them the entry is that was looked for last by a PASID with these lowest bits.
    /// Not in the TLB entry: the table entry is at hand before that is, and an access does not wait
    /// for both, one after the other.
    pub(super) hints: [u8; HINTS],
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
        let mut left = MAX_FILLS;
        let mut is_known_miss = true;
        for piece in pieces {
            let mut rest = piece.range();
            while let Some(range) = rest.filter(|_| left > 0) {
                left -= 1;
                let known = if is_known_miss { None } else { iotlb.find(range.first(), access) };
                is_known_miss = false;
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
        cache.reader.update_routing(master, &mut cache.entries);
    }

    fn new(master: &BusMaster) -> Box<Self> {
        let reader = PortReader::new(master);
        Box::new(Self { reader, tlb: Tlb::new(), entries: Vec::new(), hints: [0; HINTS] })
    }

    /// The table entry of a PASID, or another.
    #[inline(always)]
    pub(super) fn hinted_entry(&self, pasid: Pasid) -> Option<&CachedPasidEntry> {
        self.entries.get(usize::from(self.hints[hint_index(pasid)]))
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
        if let Some(at) = closed.or((entries.len() == MAX_ENTRIES).then_some(0)) {
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
pub(super) fn hint_index(pasid: Pasid) -> usize {
    pasid.get() as usize % HINTS
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
