//! The memory of an arena: one mapping of this process, and which pages of it are free.

use rangemap::RangeInclusiveSet;
use sva_core::{AddrRange, Frame};
use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

use crate::pages::PAGE;
use crate::ranges::{range_of, shifted, span};

/// The number of the first frame: above every address that a bus has.
pub(super) const FRAMES: u64 = 1 << 60;

/// A frame is as aligned as its address, up to 2^`ALIGNED` bytes, if there is room for that.
const ALIGNED: u8 = 21;

/// What freed pages are filled with by an arena that poisons.
const POISON: u8 = 0xd6;

/// Private anonymous memory: a page that was never touched costs nothing.
pub(super) struct Arena(MmapRegion<()>);

impl Arena {
    /// # Panics
    /// `bytes` is 0 or no whole number of pages, or the system does not have as much.
    pub(super) fn new(bytes: u64) -> Self {
        assert!(
            bytes > 0 && bytes.is_multiple_of(PAGE),
            "an arena of {bytes:#x} bytes is not made of pages of {PAGE} bytes"
        );
        let region = usize::try_from(bytes).ok().and_then(|bytes| MmapRegion::new(bytes).ok());
        Self(region.unwrap_or_else(|| panic!("the system has no {bytes:#x} bytes for an arena")))
    }

    /// All of its frames.
    pub(super) fn frames(&self) -> AddrRange {
        AddrRange::new(FRAMES, self.0.size() as u64).expect("not empty, and it is in this process")
    }

    /// `None` where a part of it is outside.
    #[inline]
    pub(super) fn slice(&self, frame: Frame, len: usize) -> Option<VolatileSlice<'_>> {
        let offset = usize::try_from(frame.0.checked_sub(FRAMES)?).ok()?;
        self.0.get_slice(offset, len).ok()
    }

    /// As [`slice`](Self::slice), for frames that came from here.
    pub(super) fn own(&self, frames: AddrRange) -> VolatileSlice<'_> {
        self.slice(Frame(frames.first()), frames.len() as usize)
            .expect("frames of extents are inside")
    }

    pub(super) fn zero(&self, frames: AddrRange) {
        self.fill(frames, 0);
    }

    pub(super) fn poison(&self, frames: AddrRange) {
        self.fill(frames, POISON);
    }

    /// The first frame of a page among these that is not as [`poison`](Self::poison) left it.
    pub(super) fn disturbed(&self, frames: AddrRange) -> Option<Frame> {
        let mut page = [0; PAGE as usize];
        (frames.first()..=frames.last()).step_by(PAGE as usize).map(Frame).find(|frame| {
            self.own(AddrRange::new(frame.0, PAGE).expect("a page")).copy_to(&mut page);
            page != [POISON; PAGE as usize]
        })
    }

    fn fill(&self, frames: AddrRange, byte: u8) {
        let page = [byte; PAGE as usize];
        for first in (frames.first()..=frames.last()).step_by(PAGE as usize) {
            self.own(AddrRange::new(first, PAGE).expect("a page")).copy_from(&page);
        }
    }
}

/// Which frames are free.
pub(super) struct Free {
    free: RangeInclusiveSet<u64>,
    /// Those that were in use at some time. The others are zeros, as the system gave them.
    used: RangeInclusiveSet<u64>,
}

/// Frames for a part of a range.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) range: AddrRange,
    /// What to add to an address to get its frame's number.
    pub(super) shift: u64,
}

impl Piece {
    pub(super) fn frames(self) -> AddrRange {
        shifted(self.range, self.shift)
    }
}

/// The alignment that serves a range of this length: a translation is not longer than the range.
fn alignment(range: AddrRange) -> u8 {
    ALIGNED.min(range.len().ilog2() as u8)
}

impl Free {
    pub(super) fn all(frames: AddrRange) -> Self {
        Self { free: [span(frames)].into_iter().collect(), used: RangeInclusiveSet::new() }
    }

    /// Takes frames for `range`: in one piece that is as aligned as the address, else in one piece,
    /// else in as few as possible.
    ///
    /// Also returns which of them were in use before, so that they are not zeros.
    ///
    /// # Panics
    /// Fewer frames are free.
    pub(super) fn take(&mut self, range: AddrRange) -> (Vec<Piece>, Vec<AddrRange>) {
        let pieces = match self.fit(range, alignment(range)).or_else(|| self.fit(range, 12)) {
            Some(first) => vec![Piece { range, shift: first.wrapping_sub(range.first()) }],
            None => self.in_pieces(range),
        };
        let mut used = Vec::new();
        for frames in pieces.iter().map(|piece| piece.frames()) {
            self.free.remove(span(frames));
            used.extend(
                self.used
                    .overlapping(span(frames))
                    .filter_map(|key| range_of(key).intersection(frames)),
            );
            self.used.insert(span(frames));
        }
        (pieces, used)
    }

    /// The lowest free frames that are congruent to the range modulo 2^`bits`.
    fn fit(&self, range: AddrRange, bits: u8) -> Option<u64> {
        self.free.iter().find_map(|free| {
            let skipped = range.first().wrapping_sub(*free.start()) & ((1 << bits) - 1);
            let first = free.start() + skipped;
            (first + (range.len() - 1) <= *free.end()).then_some(first)
        })
    }

    fn in_pieces(&self, range: AddrRange) -> Vec<Piece> {
        let mut free: Vec<_> = self.free.iter().map(range_of).collect();
        free.sort_by_key(|frames| std::cmp::Reverse(frames.len()));
        let mut rest = Some(range);
        let mut pieces = Vec::new();
        for frames in free {
            let Some(left) = rest else { break };
            let here = AddrRange::new(left.first(), left.len().min(frames.len()))
                .expect("both have a page");
            pieces.push(Piece { range: here, shift: frames.first().wrapping_sub(here.first()) });
            rest = AddrRange::inclusive(here.last().wrapping_add(1), left.last())
                .filter(|_| here.last() < left.last());
        }
        assert!(rest.is_none(), "the arena has no {:#x} bytes left: make it larger", range.len());
        pieces
    }

    pub(super) fn give_back(&mut self, frames: AddrRange) {
        self.free.insert(span(frames));
    }

    /// Whether all of them exist and none is free.
    pub(super) fn are_taken(&self, frames: AddrRange) -> bool {
        self.used.gaps(&span(frames)).next().is_none() && !self.free.overlaps(&span(frames))
    }

    /// Bytes that are free.
    pub(super) fn len(&self) -> u64 {
        self.free.iter().map(|frames| range_of(frames).len()).sum()
    }

    /// Those that were in use and are free now.
    pub(super) fn freed(&self) -> Vec<AddrRange> {
        self.free.intersection(&self.used).map(|frames| range_of(&frames)).collect()
    }
}
