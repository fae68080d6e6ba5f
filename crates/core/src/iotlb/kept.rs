//! What is kept of one space: its generation, where its entries are, and who uses them.

use std::sync::Arc;

use super::entry::{Block, Entry, Key, Packed, Permits, Size};
use super::pins::Pins;
use super::section::{Readers, Slot, UnderWay};
use super::table::{Place, Table};
use crate::ids::Generation;
use crate::range::AddrRange;
use crate::space::Run;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// See the module.
pub(crate) struct Kept {
    table: Arc<Table>,
    owner: Generation,
    /// Counts invalidations, and the end of the space.
    generation: AtomicU64,
    /// Sizes of blocks that something has been entered under, of either privilege.
    sizes: [AtomicU8; 2],
    fills: Mutex<Fills>,
    readers: Readers,
    pins: Pins,
}

/// Where entries have been made. Who has the lock fills, or invalidates (rule T3).
struct Fills {
    /// One for each entry, and some that have been overwritten since.
    places: Vec<Place>,
    /// At this length those are thrown out.
    compact_at: usize,
}

const COMPACT_FROM: usize = 64;

impl Kept {
    /// Nothing yet, of this owner of a PASID.
    pub(crate) fn new(table: &Arc<Table>, owner: Generation) -> Self {
        Self {
            table: Arc::clone(table),
            owner,
            generation: AtomicU64::new(0),
            sizes: Default::default(),
            fills: Mutex::new(Fills { places: Vec::new(), compact_at: COMPACT_FROM }),
            readers: Readers::default(),
            pins: Pins::default(),
        }
    }

    /// Whose it is.
    #[inline]
    pub(crate) fn owner(&self) -> Generation {
        self.owner
    }

    /// What has been found since may still hold, and what was found before may not.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The ports that read what is kept.
    pub(crate) fn readers(&self) -> &Readers {
        &self.readers
    }

    /// What is entered for an address, where it permits what is needed. In a section.
    #[inline(always)]
    pub(crate) fn find(&self, address: u64, need: Permits, privileged: bool) -> Option<Entry> {
        let (key, sizes) = (Key::new(self.owner, privileged), self.sizes(privileged));
        // No iterator: its state would go through memory.
        let mut left = sizes;
        while let Some(size) = Size::smallest_of(left) {
            if let Some(entry) = self.table.glance(key, address, need, Block::of(address, size)) {
                return Some(entry);
            }
            left &= !size.bit();
        }
        self.search(key, address, need, sizes).entry()
    }

    // Out of line, and what it answers in registers.
    #[inline(never)]
    fn search(&self, key: Key, address: u64, need: Permits, sizes: u8) -> Packed {
        let of_size = |size: Size| {
            if sizes & size.bit() != 0 {
                self.table.find(key, address, need, Block::of(address, size))
            } else {
                Packed::NONE
            }
        };
        Size::all().map(of_size).find(|found| found.is_some()).unwrap_or(Packed::NONE)
    }

    /// Enters a run that the provider has named after the generation was read, unless that has
    /// moved on since.
    pub(crate) fn fill(&self, generation: u64, run: &Run, address: u64, privileged: bool) {
        let Some((entry, block)) = Entry::of(run, address) else { return };
        let mut fills = self.fills.lock();
        if self.generation() != generation {
            return;
        }
        self.sizes[usize::from(privileged)].fetch_or(block.size.bit(), Ordering::Relaxed);
        let place = self.table.insert(Key::new(self.owner, privileged), address, &entry, block);
        fills.places.push(place);
        if fills.places.len() >= fills.compact_at {
            self.compact(&mut fills);
        }
    }

    fn compact(&self, fills: &mut Fills) {
        fills.places.sort_unstable();
        fills.places.dedup();
        self.table.remove_at(self.keys(), &mut fills.places, |_| false);
        fills.compact_at = (fills.places.len() * 2).max(COMPACT_FROM);
    }

    /// Nothing that was kept of `range` is found any more; answers who may still be using it.
    pub(crate) fn invalidate(self: &Arc<Self>, range: AddrRange) -> UnderWay {
        let mut fills = self.fills.lock();
        let goes = |entry: &Entry| entry.range().overlaps(range);
        let used = |privileged| {
            let sizes = self.sizes(privileged);
            Size::all()
                .filter(move |size| sizes & size.bit() != 0)
                .map(move |size| Block::meeting(range, size))
        };
        let blocks =
            used(false).chain(used(true)).fold(0u64, |sum, (_, count)| sum.saturating_add(count));
        if blocks > fills.places.len() as u64 {
            self.table.remove_at(self.keys(), &mut fills.places, goes);
        } else {
            for privileged in [false, true] {
                let key = Key::new(self.owner, privileged);
                used(privileged)
                    .flat_map(|(blocks, _)| blocks)
                    .for_each(|block| self.table.remove(key, block, goes));
            }
        }
        // After the removal: who sees the new generation finds nothing of the old state, and
        // remembers nothing of it under the new number. Before the lock is released: a fill comes
        // before the removal, or sees the new generation (rule T3).
        let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
        drop(fills);
        UnderWay::of_space(self, Some(generation))
    }

    /// Takes all out, in proportion to what there is (rule T7). The last bond of the owner has
    /// gone, and no owner comes twice: nobody would find it, but it would take the place of others.
    pub(crate) fn forget(&self) {
        let places = std::mem::take(&mut self.fills.lock().places);
        self.table.remove_at(self.keys(), &mut { places }, |_| true);
    }

    /// Has invalidations from now on wait for a port; answers the generation up to which they do.
    /// Not in a section.
    pub(crate) fn register(&self, slot: &Arc<Slot>) -> u64 {
        let generation = self.generation();
        self.readers.add(slot, generation);
        generation
    }

    /// Those who may have some of its memory in hand.
    pub(crate) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// How many places it has on its list: each entry, and some that have been overwritten since.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.fills.lock().places.len()
    }

    #[inline(always)]
    fn sizes(&self, privileged: bool) -> u8 {
        self.sizes[usize::from(privileged)].load(Ordering::Relaxed)
    }

    fn keys(&self) -> [Key; 2] {
        [Key::new(self.owner, false), Key::new(self.owner, true)]
    }
}
