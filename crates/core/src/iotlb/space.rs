//! The part of the IOTLB that belongs to one space: the indices of its entries, and the readers and
//! pins that use them.

use std::sync::Arc;

use sva_sync::Mutex;
use sva_sync::atomic::{AtomicU32, Ordering};

use super::entry::{Block, BlockSize, BlockSizes, IotlbEntry, IotlbTag, PackedEntry};
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
    /// The [`BlockSizes`] by which entries have been hashed, for user and for privileged accesses.
    sizes: [AtomicU32; 2],
    inserted: Mutex<InsertedIndices>,
    users: Arc<SpaceUsers>,
}

/// The indices at which entries have been inserted. Its lock serialises fills and invalidations.
struct InsertedIndices {
    /// The index of each entry, and stale indices of entries that have been overwritten.
    indices: Vec<EntryIndex>,
    /// The length at which stale indices are removed.
    compact_at: usize,
}

/// The smallest length at which stale indices are removed.
const MIN_COMPACT_AT: usize = 64;

impl SpaceIotlb {
    /// Makes an empty cache for the space of this owner of a PASID.
    pub(crate) fn new(table: &Arc<IotlbTable>, owner: Generation) -> Self {
        Self {
            table: Arc::clone(table),
            owner,
            sizes: Default::default(),
            inserted: Mutex::new(InsertedIndices {
                indices: Vec::new(),
                compact_at: MIN_COMPACT_AT,
            }),
            users: SpaceUsers::new(owner),
        }
    }

    /// The readers and pins that use the cached translations.
    #[inline]
    pub(crate) fn users(&self) -> &Arc<SpaceUsers> {
        &self.users
    }

    /// Finds the entry that translates an address and permits the access. It may be invalidated at
    /// once: only who is in a read-side critical section, or has pinned the address before, may
    /// access memory by it.
    #[inline(always)]
    pub(crate) fn find(&self, address: u64, access: Access) -> Option<IotlbEntry> {
        let tag = IotlbTag::new(self.owner, access.is_privileged());
        let sizes = self.sizes(access.is_privileged());
        // Rejected: an iterator, whose state goes through memory.
        let mut remaining = sizes;
        while let Some(size) = remaining.take_smallest() {
            if let Some(entry) =
                self.table.probe_first(tag, address, access.needs(), Block::of(address, size))
            {
                return Some(entry);
            }
        }
        self.probe_all(tag, address, access, sizes).entry()
    }

    /// Probes all slots in which the entry can be. Out of line, and with a result that is returned
    /// in registers.
    #[inline(never)]
    fn probe_all(
        &self,
        tag: IotlbTag,
        address: u64,
        access: Access,
        sizes: BlockSizes,
    ) -> PackedEntry {
        let of_size = |size: BlockSize| {
            if sizes.contains(size) {
                self.table.probe_all(tag, address, access.needs(), Block::of(address, size))
            } else {
                PackedEntry::NONE
            }
        };
        let mut found = BlockSize::ALL.into_iter().map(of_size);
        found.find(|found| found.is_some()).unwrap_or(PackedEntry::NONE)
    }

    /// Inserts the part of `extent` around `address`, unless there has been an invalidation since
    /// sequence number `seq`. The caller has read that number before it obtained the extent from
    /// the provider.
    pub(crate) fn fill(&self, seq: u64, extent: &Extent, address: u64, privileged: bool) {
        let Some((entry, block)) = IotlbEntry::of(extent, address) else { return };
        let mut inserted = self.inserted.lock();
        if self.users.invalidate_seq() != seq {
            return;
        }
        self.sizes[usize::from(privileged)]
            .fetch_or(BlockSizes::of(block.size).0, Ordering::Relaxed);
        let tag = IotlbTag::new(self.owner, privileged);
        inserted.indices.push(self.table.insert(tag, address, &entry, block));
        if inserted.indices.len() >= inserted.compact_at {
            self.compact(&mut inserted);
        }
    }

    /// Removes stale indices.
    fn compact(&self, inserted: &mut InsertedIndices) {
        inserted.indices.sort_unstable();
        inserted.indices.dedup();
        self.table.retain_live(self.tags(), &mut inserted.indices);
        inserted.compact_at = (inserted.indices.len() * 2).max(MIN_COMPACT_AT);
    }

    /// Removes all entries that overlap `range`. Returns a grace period that ends when no access
    /// uses them.
    ///
    /// It probes the blocks of the range, or the indices of the space if those are fewer.
    pub(crate) fn invalidate(&self, range: AddrRange) -> GracePeriod {
        let mut inserted = self.inserted.lock();
        let overlaps = |entry: &IotlbEntry| entry.overlaps(range);
        let blocks = |privileged| {
            let sizes = self.sizes(privileged);
            BlockSize::ALL
                .into_iter()
                .filter(move |size| sizes.contains(*size))
                .map(move |size| Block::overlapping(range, size))
        };
        let count = blocks(false)
            .chain(blocks(true))
            .fold(0u64, |sum, (_, count)| sum.saturating_add(count));
        if count > inserted.indices.len() as u64 {
            self.table.remove_at(self.tags(), &mut inserted.indices, overlaps);
        } else {
            for privileged in [false, true] {
                let tag = IotlbTag::new(self.owner, privileged);
                blocks(privileged)
                    .flat_map(|(blocks, _)| blocks)
                    .for_each(|block| self.table.remove(tag, block, overlaps));
            }
        }
        // After the removal: a thread that reads the new number finds no entry of the old state,
        // and caches none under the new number. Before the lock is released: a fill precedes the
        // removal, or sees the new number.
        let seq = self.users.advance_invalidate_seq();
        drop(inserted);
        GracePeriod::of_space(&self.users, Some(seq))
    }

    /// Removes all entries, in time proportional to their number. To be called when the last bond
    /// of the owner has ended. Generations are not reused, so no look-up would find the entries,
    /// but they would occupy slots.
    pub(crate) fn remove_all(&self) {
        let indices = std::mem::take(&mut self.inserted.lock().indices);
        self.table.remove_at(self.tags(), &mut { indices }, |_| true);
    }

    /// The number of indices, stale ones included.
    #[cfg(test)]
    pub(super) fn indices(&self) -> usize {
        self.inserted.lock().indices.len()
    }

    #[inline(always)]
    fn sizes(&self, privileged: bool) -> BlockSizes {
        BlockSizes(self.sizes[usize::from(privileged)].load(Ordering::Relaxed))
    }

    fn tags(&self) -> [IotlbTag; 2] {
        [IotlbTag::new(self.owner, false), IotlbTag::new(self.owner, true)]
    }
}
