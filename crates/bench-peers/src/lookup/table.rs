//! Tables that readers do not write to: buckets with a sequence number and a few entries of three
//! words each; an address has two buckets.

use std::cell::Cell;
use std::hint::spin_loop;

use sva_sync::atomic::{AtomicU64, Ordering, fence};

use super::cache::{Lookup, Mapping, OWNER, PAGE};

/// The first page's address, with the number of further pages in its low bits; the distance from
/// there to its frame, with the permissions in its low bits.
type Words = [u64; 2];
const BELOW: u64 = PAGE - 1;

/// Two ways take 56 bytes, five take 128.
#[repr(align(64))]
struct Bucket<const WAYS: usize> {
    /// Odd while somebody writes.
    sequence: AtomicU64,
    /// Owner (0: nobody) and [`Words`].
    ways: [[AtomicU64; 3]; WAYS],
}

impl<const WAYS: usize> Bucket<WAYS> {
    fn empty() -> Self {
        Self { sequence: AtomicU64::new(0), ways: std::array::from_fn(|_| Default::default()) }
    }

    /// What one way says about an address; the answer counts only where the sequence has not moved.
    #[inline(always)]
    fn hit(&self, way: usize, owner: u64, address: u64) -> Option<u64> {
        let [of, pages, target] =
            self.ways[way].each_ref().map(|word| word.load(Ordering::Relaxed));
        let covered = (address / PAGE).wrapping_sub(pages / PAGE) <= pages & BELOW;
        (of == owner && covered).then(|| (target & !BELOW).wrapping_add(address))
    }

    /// One way in a straight line. Also nothing where somebody writes: the long way looks again.
    #[inline(always)]
    fn straight(&self, way: usize, owner: u64, address: u64) -> Option<u64> {
        let before = self.sequence.load(Ordering::Acquire);
        let found = self.hit(way, owner, address);
        fence(Ordering::Acquire);
        found
            .filter(|_| before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before)
    }

    #[inline(always)]
    fn scan(&self, owner: u64, address: u64) -> Option<u64> {
        loop {
            let before = self.sequence.load(Ordering::Acquire);
            let found = (0..WAYS).find_map(|way| self.hit(way, owner, address));
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before {
                return found;
            }
            spin_loop();
        }
    }

    fn words(&self, way: usize) -> Words {
        [self.ways[way][1].load(Ordering::Relaxed), self.ways[way][2].load(Ordering::Relaxed)]
    }

    fn free(&self, from: usize) -> Option<usize> {
        (0..WAYS)
            .map(|step| (from + step) % WAYS)
            .find(|way| self.ways[*way][0].load(Ordering::Relaxed) == 0)
    }

    /// There is one writer: the one who fills the table before it is measured.
    fn write(&self, way: usize, words: Words) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, value) in self.ways[way].iter().zip([OWNER, words[0], words[1]]) {
            word.store(value, Ordering::Relaxed);
        }
        self.sequence.store(sequence + 2, Ordering::Release);
    }
}

/// With `PREFERRED`, the hash names a way of the first bucket that is looked at first, in a
/// straight line; all else is a function of its own. Without, the ways are looked at in order.
pub(crate) struct Table<const WAYS: usize, const PREFERRED: bool> {
    buckets: Box<[Bucket<WAYS>]>,
    shift: u32,
}

impl<const WAYS: usize, const PREFERRED: bool> Table<WAYS, PREFERRED> {
    /// At most half full, and large enough for all of them.
    pub(crate) fn new(mappings: &[Mapping]) -> Self {
        let mut count = (mappings.len() * 2).div_ceil(WAYS).next_power_of_two().max(16);
        loop {
            let table = Self {
                buckets: (0..count).map(|_| Bucket::empty()).collect(),
                shift: 64 - count.trailing_zeros(),
            };
            let all_fit = mappings.iter().all(|mapping| {
                table.insert([mapping.page, mapping.frame.wrapping_sub(mapping.page) | 7], true)
            });
            if all_fit {
                return table;
            }
            count *= 2;
        }
    }

    /// Both buckets, and the way that is preferred in either. One multiplication: its high bits
    /// depend on all of the address.
    #[inline(always)]
    fn buckets_of(&self, address: u64) -> ([usize; 2], usize) {
        let hash = (OWNER.rotate_left(40) ^ (address / PAGE)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let first = hash >> self.shift;
        let second = first ^ ((hash >> 8 | 1) & (self.buckets.len() as u64 - 1));
        ([first as usize, second as usize], ((hash >> 24 & 0xff) as usize * WAYS) >> 8)
    }

    /// Into the first bucket with room; where there is none, one that lives there moves to its
    /// other bucket.
    fn insert(&self, words: Words, may_move: bool) -> bool {
        let (both, preferred) = self.buckets_of(words[0]);
        let room = || both.iter().find_map(|at| Some((*at, self.buckets[*at].free(preferred)?)));
        let movable = || {
            let mut all = both.iter().flat_map(|at| (0..WAYS).map(move |way| (*at, way)));
            all.find(|(at, way)| self.insert(self.buckets[*at].words(*way), false))
        };
        let place = room().or_else(|| if may_move { movable() } else { None });
        place.inspect(|(at, way)| self.buckets[*at].write(*way, words)).is_some()
    }

    #[inline(never)]
    fn find_elsewhere(&self, both: [usize; 2], address: u64) -> Option<u64> {
        both.iter().find_map(|at| self.buckets[*at].scan(OWNER, address))
    }
}

impl<const WAYS: usize, const PREFERRED: bool> Lookup for Table<WAYS, PREFERRED> {
    #[inline(always)]
    fn find(&self, address: u64) -> Option<u64> {
        let (both, preferred) = self.buckets_of(address);
        if PREFERRED {
            self.buckets[both[0]]
                .straight(preferred, OWNER, address)
                .or_else(|| self.find_elsewhere(both, address))
        } else {
            both.iter().find_map(|at| self.buckets[*at].scan(OWNER, address))
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Entry {
    page: u64,
    distance: u64,
    /// The sequence number of the space at which the translation was found; 0 for no entry.
    invalidate_seq: u64,
}

/// The first-level TLB of a port, in front of a table: an entry is found by the low bits of its
/// page, and is valid as long as the space's sequence number of invalidations is the same.
pub(crate) struct FirstLevel<L, const COUNT: usize> {
    entries: [Cell<Entry>; COUNT],
    invalidate_seq: AtomicU64,
    table: L,
}

impl<L: Lookup, const COUNT: usize> FirstLevel<L, COUNT> {
    /// Without entries.
    pub(crate) fn over(table: L) -> Self {
        Self {
            entries: std::array::from_fn(|_| Cell::default()),
            invalidate_seq: AtomicU64::new(1),
            table,
        }
    }
}

impl<L: Lookup, const COUNT: usize> Lookup for FirstLevel<L, COUNT> {
    #[inline(always)]
    fn find(&self, address: u64) -> Option<u64> {
        let invalidate_seq = self.invalidate_seq.load(Ordering::Acquire);
        let cell = &self.entries[(address / PAGE) as usize % COUNT];
        let entry = cell.get();
        if entry.page == address & !BELOW && entry.invalidate_seq == invalidate_seq {
            return Some(entry.distance.wrapping_add(address));
        }
        let found = self.table.find(address)?;
        cell.set(Entry {
            page: address & !BELOW,
            distance: found.wrapping_sub(address),
            invalidate_seq,
        });
        Some(found)
    }
}
