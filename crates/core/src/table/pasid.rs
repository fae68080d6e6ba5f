//! The PASID allocator: 20 bits, cyclic, a generation for each life of a number.
//!
//! A tree of bitmaps: a bit of level 0 says that a PASID is taken, a bit of level n+1 that a word
//! of level n is full. Finding the next free number touches a word or two a level (four levels for
//! 20 bits), however full the space is. Each width has a cursor of its own: a narrow device that
//! goes round its few numbers does not make the wide ones be used again sooner (rule U5 rests on
//! late reuse).

use crate::types::ids::{Generation, Pasid, PasidTag, PasidWidth};

const BITS: u32 = u64::BITS;

/// No number of this width is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted {
    /// The width that was asked for, or the allocator's own where that is narrower.
    pub width: PasidWidth,
    /// Numbers taken, of all widths.
    pub in_use: u32,
}

/// See the module.
#[derive(Debug)]
pub struct PasidAllocator {
    width: PasidWidth,
    levels: Vec<Vec<u64>>,
    /// Where the next search begins, by width in bits.
    cursors: [u32; PasidWidth::MAX.bits() as usize + 1],
    in_use: u32,
    next_generation: u64,
}

impl PasidAllocator {
    /// An allocator of the numbers 1..=last of `width`.
    pub fn new(width: PasidWidth) -> Self {
        let mut levels = Vec::new();
        let mut bits = width.last() + 1;
        loop {
            let words = bits.div_ceil(BITS);
            let mut level = vec![0; words as usize];
            if !bits.is_multiple_of(BITS) {
                // What lies past the end can never be had.
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

    /// The allocator's own width.
    pub fn width(&self) -> PasidWidth {
        self.width
    }

    /// Numbers taken.
    pub fn in_use(&self) -> u32 {
        self.in_use
    }

    /// Takes the next free number that fits `width`, going round.
    ///
    /// # Errors
    /// [`Exhausted`] where all are taken.
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

    /// Gives a number back.
    ///
    /// # Panics
    /// The number is not taken: a bug in the caller, since only an owner can give it back.
    pub fn release(&mut self, tag: PasidTag) {
        assert!(self.is_taken(tag.pasid), "PASID {} released twice", tag.pasid);
        self.mark(tag.pasid.get(), false);
        self.in_use -= 1;
    }

    /// Whether a number is taken, or is past the allocator's width.
    pub fn is_taken(&self, pasid: Pasid) -> bool {
        !pasid.fits(self.width)
            || self.levels[0][(pasid.get() / BITS) as usize] & 1 << (pasid.get() % BITS) != 0
    }

    /// The first clear bit of `level` at or above `from`.
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

    /// Sets or clears a bit of level 0 and what follows from it above.
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
