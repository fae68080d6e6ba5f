//! The part of the IOTLB that belongs to one space: where its entries are, and who uses them.

use std::sync::Arc;

use sva_sync::Mutex;
use sva_sync::atomic::{AtomicU8, Ordering};

use super::entry::{Block, BlockSize, IotlbEntry, PackedEntry, TlbTag};
use super::table::{EntryIndex, IotlbTable};
use crate::api::space::Extent;
use crate::quiesce::{GracePeriod, SpaceUsers};
use crate::types::access::Access;
use crate::types::ids::Generation;
use crate::types::range::AddrRange;

/// The cached translations of one space.
pub(crate) struct SpaceIotlb {
    table: Arc<IotlbTable>,
    owner: Generation,
    /// Sizes of blocks that something has been inserted under, for user and privileged accesses.
    sizes: [AtomicU8; 2],
    fills: Mutex<Fills>,
    users: Arc<SpaceUsers>,
}

/// Where entries have been inserted. Whoever has the lock fills, or invalidates.
struct Fills {
    /// One for each entry, and some that have been overwritten since.
    indices: Vec<EntryIndex>,
    /// At this length those are thrown out.
    compact_at: usize,
}

const COMPACT_FROM: usize = 64;

impl SpaceIotlb {
    /// Nothing yet, of this owner of a PASID.
    pub(crate) fn new(table: &Arc<IotlbTable>, owner: Generation) -> Self {
        Self {
            table: Arc::clone(table),
            owner,
            sizes: Default::default(),
            fills: Mutex::new(Fills { indices: Vec::new(), compact_at: COMPACT_FROM }),
            users: SpaceUsers::new(owner),
        }
    }

    /// Who uses the cached translations.
    #[inline]
    pub(crate) fn users(&self) -> &Arc<SpaceUsers> {
        &self.users
    }

    /// The entry for an address that permits the access. In a critical section.
    #[inline(always)]
    pub(crate) fn find(&self, address: u64, access: Access) -> Option<IotlbEntry> {
        let tag = TlbTag::new(self.owner, access.is_privileged());
        let sizes = self.sizes(access.is_privileged());
        // No iterator: its state would go through memory.
        let mut left = sizes;
        while let Some(size) = BlockSize::smallest_of(left) {
            if let Some(entry) =
                self.table.probe_first(tag, address, access.needs(), Block::of(address, size))
            {
                return Some(entry);
            }
            left &= !size.bit();
        }
        self.search(tag, address, access, sizes).entry()
    }

    // Out of line, and with an answer that travels in registers.
    #[inline(never)]
    fn search(&self, tag: TlbTag, address: u64, access: Access, sizes: u8) -> PackedEntry {
        let of_size = |size: BlockSize| {
            if sizes & size.bit() != 0 {
                self.table.probe_all(tag, address, access.needs(), Block::of(address, size))
            } else {
                PackedEntry::NONE
            }
        };
        let mut found = BlockSize::all().map(of_size);
        found.find(|found| found.is_some()).unwrap_or(PackedEntry::NONE)
    }

    /// Inserts an extent that the provider has named after the sequence number `seq` was read,
    /// unless an invalidation has come since.
    pub(crate) fn fill(&self, seq: u64, extent: &Extent, address: u64, privileged: bool) {
        let Some((entry, block)) = IotlbEntry::of(extent, address) else { return };
        let mut fills = self.fills.lock();
        if self.users.invalidate_seq() != seq {
            return;
        }
        self.sizes[usize::from(privileged)].fetch_or(block.size.bit(), Ordering::Relaxed);
        let tag = TlbTag::new(self.owner, privileged);
        fills.indices.push(self.table.insert(tag, address, &entry, block));
        if fills.indices.len() >= fills.compact_at {
            self.compact(&mut fills);
        }
    }

    fn compact(&self, fills: &mut Fills) {
        fills.indices.sort_unstable();
        fills.indices.dedup();
        self.table.remove_at(self.tags(), &mut fills.indices, |_| false);
        fills.compact_at = (fills.indices.len() * 2).max(COMPACT_FROM);
    }

    /// Removes all entries that meet `range`; answers what to wait for until nothing uses them.
    pub(crate) fn invalidate(&self, range: AddrRange) -> GracePeriod {
        let mut fills = self.fills.lock();
        let goes = |entry: &IotlbEntry| entry.range().overlaps(range);
        let used = |privileged| {
            let sizes = self.sizes(privileged);
            BlockSize::all()
                .filter(move |size| sizes & size.bit() != 0)
                .map(move |size| Block::meeting(range, size))
        };
        let blocks =
            used(false).chain(used(true)).fold(0u64, |sum, (_, count)| sum.saturating_add(count));
        if blocks > fills.indices.len() as u64 {
            self.table.remove_at(self.tags(), &mut fills.indices, goes);
        } else {
            for privileged in [false, true] {
                let tag = TlbTag::new(self.owner, privileged);
                used(privileged)
                    .flat_map(|(blocks, _)| blocks)
                    .for_each(|block| self.table.remove(tag, block, goes));
            }
        }
        // After the removal: who sees the new number finds nothing of the old state, and caches
        // nothing of it under the new number. Before the lock is released: a fill comes before the
        // removal, or sees the new number.
        let seq = self.users.invalidated();
        drop(fills);
        GracePeriod::of_space(&self.users, Some(seq))
    }

    /// Removes all entries, at a cost in proportion to how many there are. The last bond of the
    /// owner has gone, and no owner comes twice: nobody would find them, but they would take the
    /// place of others.
    pub(crate) fn remove_all(&self) {
        let indices = std::mem::take(&mut self.fills.lock().indices);
        self.table.remove_at(self.tags(), &mut { indices }, |_| true);
    }

    /// How many indices it has on its list: each entry, and some that have been overwritten since.
    #[cfg(test)]
    pub(super) fn indices(&self) -> usize {
        self.fills.lock().indices.len()
    }

    #[inline(always)]
    fn sizes(&self, privileged: bool) -> u8 {
        self.sizes[usize::from(privileged)].load(Ordering::Relaxed)
    }

    fn tags(&self) -> [TlbTag; 2] {
        [TlbTag::new(self.owner, false), TlbTag::new(self.owner, true)]
    }
}
