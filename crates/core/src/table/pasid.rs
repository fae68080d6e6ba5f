//! The PASID allocator: 20 bits, cyclic, with a generation for each allocation.
//!
//! A tree of bitmaps. A bit of level 0 says that a PASID is allocated; a bit of level n+1 says that
//! a word of level n is full. The search for the next free PASID touches one or two words per level
//! (four levels for 20 bits), however many are allocated. Each width has a cursor of its own, so
//! that a narrow device that cycles through its few PASIDs does not shorten the cycle of wider
//! devices. The later a PASID is used again, the less likely is a late transaction of an earlier
//! owner to carry a PASID that is in use.

use crate::types::ids::{Generation, Pasid, PasidTag, PasidWidth};

const BITS: u32 = u64::BITS;

/// The error of [`PasidAllocator::allocate`]: no PASID of the width is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted {
    /// The width that was asked for, in bits, or the allocator's own width if that is narrower.
    pub width: PasidWidth,
    /// The number of allocated PASIDs of all widths.
    pub in_use: u32,
}

/// Allocates PASIDs cyclically, each with a generation that is never used again. Values of 1 and
/// above are allocated; 0 is reserved.
#[derive(Debug)]
pub struct PasidAllocator {
    width: PasidWidth,
    levels: Vec<Vec<u64>>,
    /// The PASID at which the next search begins, by width in bits.
    cursors: [u32; PasidWidth::MAX.bits() as usize + 1],
    in_use: u32,
    next_generation: u64,
}

impl PasidAllocator {
    /// Makes an allocator of the PASIDs 1 to `width.last()`, both inclusive.
    pub fn new(width: PasidWidth) -> Self {
        let mut levels = Vec::new();
        let mut bits = width.last() + 1;
        loop {
            let words = bits.div_ceil(BITS);
            let mut level = vec![0; words as usize];
            if !bits.is_multiple_of(BITS) {
                // The bits past the last PASID are never free.
                level[words as usize - 1] = u64::MAX << (bits % BITS);
            }
            levels.push(level);
            if words == 1 {
                break;
            }
            bits = words;
        }
        let mut made = Self {
            width,
            levels,
            cursors: [1; PasidWidth::MAX.bits() as usize + 1],
            in_use: 0,
            next_generation: 1,
        };
        made.mark(0, true);
        made
    }

    /// The width of the allocator.
    pub fn width(&self) -> PasidWidth {
        self.width
    }

    /// The number of allocated PASIDs.
    pub fn in_use(&self) -> u32 {
        self.in_use
    }

    /// Allocates the next free PASID that fits `width`, or the allocator's own width if that is
    /// narrower. The search begins after the PASID of this width that was allocated last, and wraps
    /// at the end.
    ///
    /// # Errors
    /// [`Exhausted`] if all PASIDs of the width are allocated.
    pub fn allocate(&mut self, width: PasidWidth) -> Result<PasidTag, Exhausted> {
        let width = width.min(self.width);
        let last = width.last();
        let cursor = &self.cursors[usize::from(width.bits())];
        let found = self
            .next_free(0, *cursor)
            .filter(|&n| n <= last)
            .or_else(|| self.next_free(0, 1).filter(|&n| n <= last))
            .and_then(Pasid::new)
            .ok_or(Exhausted { width, in_use: self.in_use })?;
        self.mark(found.get(), true);
        self.in_use += 1;
        self.cursors[usize::from(width.bits())] =
            if found.get() == last { 1 } else { found.get() + 1 };
        let generation = Generation(self.next_generation);
        self.next_generation += 1;
        Ok(PasidTag { pasid: found, generation })
    }

    /// Releases a PASID.
    ///
    /// # Panics
    /// If the PASID is not allocated. That is a bug in the caller, since only an owner can release
    /// it.
    pub fn release(&mut self, tag: PasidTag) {
        assert!(self.is_taken(tag.pasid), "PASID {} is not allocated", tag.pasid);
        self.mark(tag.pasid.get(), false);
        self.in_use -= 1;
    }

    /// Whether a PASID is allocated, or does not fit the allocator's width.
    pub fn is_taken(&self, pasid: Pasid) -> bool {
        !pasid.fits(self.width)
            || self.levels[0][(pasid.get() / BITS) as usize] & 1 << (pasid.get() % BITS) != 0
    }

    /// The index of the first clear bit of `level` at or after `from`.
    fn next_free(&self, level: usize, from: u32) -> Option<u32> {
        let words = self.levels.get(level)?;
        let word = from / BITS;
        let free = !words.get(word as usize)? & u64::MAX << (from % BITS);
        if free != 0 {
            return Some(word * BITS + free.trailing_zeros());
        }
        let word = self.next_free(level + 1, word + 1)?;
        Some(word * BITS + (!words[word as usize]).trailing_zeros())
    }

    /// Sets or clears a bit of level 0, and the bits of the levels above that depend on it.
    fn mark(&mut self, bit: u32, taken: bool) {
        let mut bit = bit;
        for level in &mut self.levels {
            let word = &mut level[(bit / BITS) as usize];
            let was_full = *word == u64::MAX;
            if taken {
                *word |= 1 << (bit % BITS);
            } else {
                *word &= !(1 << (bit % BITS));
            }
            if was_full == (*word == u64::MAX) {
                return;
            }
            bit /= BITS;
        }
    }
}
