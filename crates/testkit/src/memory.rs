//! What a [`MemorySpace`](crate::MemorySpace) is made of: a table that leads from addresses to frames, the frames, and the changes under way. Knows no locks.
//!
//! The table holds runs of pages that are alike and have contiguous frames, and joins neighbours that are: what one run holds, one translation may cover.

mod audit;
mod change;
mod frames;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use rangemap::RangeInclusiveMap;
use sva_core::ats::AlignedRange;
use sva_core::{AccessMode, AddrRange, Frame, NoSuchFrame, OnAbsent, Segment, StopCause, Translation};

use crate::space::{PAGE, Protection};
pub use audit::{Stale, StaleBecause};
pub(crate) use change::Taken;
use frames::Frames;

/// What a run of addresses means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mapping {
    /// What to add to an address to get its frame's number; wraps.
    shift: u64,
    protection: Protection,
    present: bool,
}

impl Mapping {
    fn frame(self, address: u64) -> u64 {
        address.wrapping_add(self.shift)
    }

    fn frames(self, range: AddrRange) -> AddrRange {
        shifted(range, self.shift)
    }
}

pub(crate) struct Memory {
    table: RangeInclusiveMap<u64, Mapping>,
    frames: Frames,
    /// Those that are not over, by number: the first to begin is the first here.
    changes: BTreeMap<u64, Taken>,
    next_change: u64,
    /// The largest translation is of 2^this bytes.
    pub(crate) largest: u8,
    /// Set once, at the end of the space.
    pub(crate) ended: bool,
}

/// Why a walk over the pieces paused.
pub(crate) enum Halt {
    /// At this page, which is absent and is to be resolved; then the walk goes on.
    Absent(AddrRange),
    /// For good.
    Stop(StopCause),
}

/// A position in a list of pieces that moves on in steps that cross no page boundary.
pub(crate) struct Cursor<'a> {
    pieces: &'a [Segment],
    offset: u64,
    pub(crate) done: u64,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(pieces: &'a [Segment]) -> Self {
        Self { pieces, offset: 0, done: 0 }
    }

    /// The next address and how many bytes of its piece share its page; `None` at the end.
    fn step(&mut self) -> Option<(u64, usize)> {
        while let Some((piece, rest)) = self.pieces.split_first() {
            if self.offset < piece.len {
                let address = piece.address.wrapping_add(self.offset);
                let in_page = PAGE - address % PAGE;
                return Some((address, in_page.min(piece.len - self.offset) as usize));
            }
            (self.pieces, self.offset) = (rest, 0);
        }
        None
    }

    fn advance(&mut self, len: usize) {
        self.offset += len as u64;
        self.done += len as u64;
    }
}

impl Memory {
    /// Empty; translations are of 2^`largest` bytes at most.
    pub(crate) fn new(largest: u8) -> Self {
        let (table, frames, changes) = (RangeInclusiveMap::new(), Frames::default(), BTreeMap::new());
        Self { table, frames, changes, next_change: 0, largest, ended: false }
    }

    pub(crate) fn read(&self, cursor: &mut Cursor<'_>, buf: &mut [u8], mode: AccessMode) -> Result<(), Halt> {
        while let Some((address, len)) = cursor.step() {
            let frame = self.check(address, mode)?;
            let at = cursor.done as usize;
            self.frames.read(frame, &mut buf[at..at + len]);
            cursor.advance(len);
        }
        Ok(())
    }

    pub(crate) fn write(&mut self, cursor: &mut Cursor<'_>, data: &[u8], mode: AccessMode) -> Result<(), Halt> {
        while let Some((address, len)) = cursor.step() {
            let frame = self.check(address, mode)?;
            let at = cursor.done as usize;
            self.frames.write(frame, &data[at..at + len]);
            cursor.advance(len);
        }
        Ok(())
    }

    /// The frame of `address`, if this access is permitted.
    pub(crate) fn check(&self, address: u64, mode: AccessMode) -> Result<u64, Halt> {
        if self.ended {
            return Err(Halt::Stop(StopCause::Ended));
        }
        let Some(mapping) = self.table.get(&address) else {
            return Err(Halt::Stop(StopCause::NotMapped));
        };
        if !mapping.protection.permits(mode) {
            return Err(Halt::Stop(StopCause::Denied));
        }
        if !mapping.present {
            return Err(match mode.on_absent {
                OnAbsent::Resolve => Halt::Absent(AlignedRange::page(address).range()),
                OnAbsent::Stop => Halt::Stop(StopCause::NotPresent),
            });
        }
        Ok(mapping.frame(address))
    }

    /// The largest translation of `address` that the table has.
    pub(crate) fn translate(&self, address: u64, privileged: bool) -> Result<Translation, StopCause> {
        if self.ended {
            return Err(StopCause::Ended);
        }
        let (run, mapping) = self.table.get_key_value(&address).ok_or(StopCause::NotMapped)?;
        if !mapping.present {
            return Err(StopCause::NotPresent);
        }
        let permits = mapping.protection.permissions(privileged);
        // Where the shift is a multiple of the size, the frame is as aligned as the address.
        let largest = self.largest.min(mapping.shift.trailing_zeros() as u8);
        let around = |bits: u8| AlignedRange::new(address >> bits << bits, bits);
        let fits = |range: &AlignedRange| run.contains(&range.first()) && run.contains(&range.last());
        let range = (12..=largest).rev().filter_map(around).find(fits).unwrap_or(AlignedRange::page(address));
        let frame = (!permits.is_none()).then(|| Frame(mapping.frame(range.first())));
        Ok(Translation { range, frame, permits, global: false })
    }

    pub(crate) fn read_frame(&self, frame: Frame, buf: &mut [u8]) -> Result<(), NoSuchFrame> {
        if self.has(frame, buf.len()) {
            self.frames.read(frame.0, buf);
            return Ok(());
        }
        Err(NoSuchFrame(frame))
    }

    pub(crate) fn write_frame(&mut self, frame: Frame, data: &[u8]) -> Result<(), NoSuchFrame> {
        if self.has(frame, data.len()) {
            self.frames.write(frame.0, data);
            return Ok(());
        }
        Err(NoSuchFrame(frame))
    }

    fn has(&self, frame: Frame, len: usize) -> bool {
        !self.ended && (len == 0 || AddrRange::new(frame.0, len as u64).is_some_and(|frames| self.frames.are_live(frames)))
    }

    /// Copies out, whatever protection and presence say; all of it is mapped.
    pub(crate) fn copy_out(&self, range: AddrRange, buf: &mut [u8]) {
        for (part, mapping) in parts(&self.table, range) {
            let at = (part.first() - range.first()) as usize;
            self.frames.read(mapping.frame(part.first()), &mut buf[at..at + part.len() as usize]);
        }
    }

    /// Copies in, whatever protection and presence say; all of it is mapped.
    pub(crate) fn copy_in(&mut self, range: AddrRange, data: &[u8]) {
        for (part, mapping) in parts(&self.table, range) {
            let at = (part.first() - range.first()) as usize;
            self.frames.write(mapping.frame(part.first()), &data[at..at + part.len() as usize]);
        }
    }

    /// Whether all of `range` is mapped, with whatever protection.
    pub(crate) fn covers(&self, range: AddrRange) -> bool {
        self.table.gaps(&span(range)).next().is_none()
    }

    /// What is mapped, in order; neighbours of one protection are one mapping.
    pub(crate) fn mapped(&self) -> Vec<AddrRange> {
        let mut mapped: Vec<(AddrRange, Protection)> = Vec::new();
        for (run, mapping) in self.table.iter() {
            let run = range_of(run);
            match mapped.last_mut() {
                Some((before, protection)) if before.last() + 1 == run.first() && *protection == mapping.protection => {
                    *before = range_of(&(before.first()..=run.last()));
                }
                _ => mapped.push((run, mapping.protection)),
            }
        }
        mapped.into_iter().map(|(range, _)| range).collect()
    }

    /// How many frames are in use, in pages.
    pub(crate) fn frames(&self) -> u64 {
        self.frames.count()
    }

    /// How many pages have been written to and not freed.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn stored(&self) -> usize {
        self.frames.stored()
    }
}

/// What of the map's ranges lies in `range`.
fn parts<V: Copy + Eq>(map: &RangeInclusiveMap<u64, V>, range: AddrRange) -> Vec<(AddrRange, V)> {
    map.overlapping(span(range)).filter_map(|(run, value)| Some((range_of(run).intersection(range)?, *value))).collect()
}

fn span(range: AddrRange) -> RangeInclusive<u64> {
    range.first()..=range.last()
}

fn range_of(run: &RangeInclusive<u64>) -> AddrRange {
    AddrRange::inclusive(*run.start(), *run.end()).expect("a map's ranges are in order")
}

/// The range `by` bytes further on; the numbers wrap, the range does not.
fn shifted(range: AddrRange, by: u64) -> AddrRange {
    AddrRange::new(range.first().wrapping_add(by), range.len()).expect("frames and addresses are moved as whole ranges")
}
