//! The page table of a space, and the walk of an access through it. Takes no lock.
//!
//! The table holds extents: contiguous pages with contiguous frames and the same protection.
//! Neighbours that belong to one extent are joined, since one translation may cover a whole extent.

use rangemap::RangeInclusiveMap;
use sva_core::ats::AlignedRange;
use sva_core::ats::Translation;
use sva_core::{Access, AddrRange, Frame, Segment, StopCause};

use crate::pages::PAGE;
use crate::protection::Protection;
use crate::ranges::{parts, range_of, shifted, span};

/// What an extent of addresses leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// What to add to an address to get its frame's number; wraps.
    pub(crate) shift: u64,
    pub(crate) protection: Protection,
    pub(crate) present: bool,
    /// The change that is about to give it other frames. Until then the provider's own copies use
    /// the present ones, and nobody may keep a translation of them.
    pub(crate) moving: Option<u64>,
}

impl Mapping {
    /// Present, with no change about to move it.
    pub(crate) fn new(shift: u64, protection: Protection) -> Self {
        Self { shift, protection, present: true, moving: None }
    }

    pub(crate) fn frame(self, address: u64) -> u64 {
        address.wrapping_add(self.shift)
    }

    pub(crate) fn frames(self, range: AddrRange) -> AddrRange {
        shifted(range, self.shift)
    }
}

/// Why a walk over the pieces halted.
pub(crate) enum Halt {
    /// This page is absent and is to be resolved; then the walk continues.
    Absent(AddrRange),
    /// The access stops here.
    Stop(StopCause),
}

/// Repeats `pass`, which continues where it halted, until it is done or stops. Brings in the absent
/// pages at which it halts.
pub(crate) fn resolving(
    mut pass: impl FnMut() -> Result<(), Halt>,
    bring_in: impl Fn(AddrRange) -> Result<(), StopCause>,
) -> Result<(), StopCause> {
    loop {
        match pass() {
            Ok(()) => return Ok(()),
            Err(Halt::Absent(page)) => bring_in(page)?,
            Err(Halt::Stop(cause)) => return Err(cause),
        }
    }
}

/// A position in a list of pieces.
pub(crate) struct Cursor<'a> {
    pieces: &'a [Segment],
    offset: u64,
    pub(crate) done: u64,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(pieces: &'a [Segment]) -> Self {
        Self { pieces, offset: 0, done: 0 }
    }

    /// The next address and how many bytes of its piece are left; `None` at the end.
    pub(crate) fn rest(&mut self) -> Option<(u64, u64)> {
        while let Some((piece, rest)) = self.pieces.split_first() {
            if self.offset < piece.len {
                return Some((piece.address.wrapping_add(self.offset), piece.len - self.offset));
            }
            (self.pieces, self.offset) = (rest, 0);
        }
        None
    }

    /// The next address and how many bytes of its piece share its page; `None` at the end.
    pub(crate) fn step(&mut self) -> Option<(u64, usize)> {
        self.rest().map(|(address, rest)| (address, rest.min(PAGE - address % PAGE) as usize))
    }

    pub(crate) fn advance(&mut self, len: usize) {
        self.offset += len as u64;
        self.done += len as u64;
    }
}

#[derive(Default)]
pub(crate) struct Table {
    extents: RangeInclusiveMap<u64, Mapping>,
    /// Set once, at the end of the space.
    pub(crate) ended: bool,
}

impl Table {
    pub(crate) fn insert(&mut self, range: AddrRange, mapping: Mapping) {
        self.extents.insert(span(range), mapping);
    }

    pub(crate) fn remove(&mut self, range: AddrRange) {
        self.extents.remove(span(range));
    }

    pub(crate) fn get(&self, address: u64) -> Option<&Mapping> {
        self.extents.get(&address)
    }

    /// The parts of its extents that lie in `range`.
    pub(crate) fn parts(&self, range: AddrRange) -> Vec<(AddrRange, Mapping)> {
        parts(&self.extents, range)
    }

    /// The extent of `address`, if this access is permitted there.
    pub(crate) fn check(&self, address: u64, access: Access) -> Result<(AddrRange, Mapping), Halt> {
        if self.ended {
            return Err(Halt::Stop(StopCause::Ended));
        }
        let Some((extent, mapping)) = self.extents.get_key_value(&address) else {
            return Err(Halt::Stop(StopCause::NotMapped));
        };
        if !mapping.protection.permits(access) {
            return Err(Halt::Stop(StopCause::Denied));
        }
        if !mapping.present {
            return Err(match access.is_present_only() {
                false => Halt::Absent(AlignedRange::page(address).range()),
                true => Halt::Stop(StopCause::NotPresent),
            });
        }
        Ok((range_of(extent), *mapping))
    }

    /// The extent of `address`, if a translation of it may be cached.
    pub(crate) fn extent(&self, address: u64) -> Result<(AddrRange, Mapping), StopCause> {
        if self.ended {
            return Err(StopCause::Ended);
        }
        let (extent, mapping) = self.extents.get_key_value(&address).ok_or(StopCause::NotMapped)?;
        if !mapping.present || mapping.moving.is_some() {
            return Err(StopCause::NotPresent);
        }
        Ok((range_of(extent), *mapping))
    }

    /// The largest translation of `address` that the table has, of 2^`largest` bytes at most.
    pub(crate) fn translate(
        &self,
        address: u64,
        privileged: bool,
        largest: u8,
    ) -> Result<Translation, StopCause> {
        let (extent, mapping) = self.extent(address)?;
        let permissions = mapping.protection.permissions(privileged);
        // Where the shift is a multiple of the size, the frame is as aligned as the address.
        let largest = largest.min(mapping.shift.trailing_zeros() as u8);
        let around = |bits: u8| AlignedRange::new(address >> bits << bits, bits);
        let range =
            (12..=largest).rev().filter_map(around).find(|range| extent.covers(range.range()));
        let range = range.unwrap_or(AlignedRange::page(address));
        let frame = (!permissions.is_empty()).then(|| Frame(mapping.frame(range.first())));
        Ok(Translation { range, frame, permissions, global: false })
    }

    /// Makes mapped pages present. No watcher needs to know: nothing is taken away.
    pub(crate) fn set_present(&mut self, range: AddrRange) {
        for (part, mapping) in self.parts(range) {
            self.insert(part, Mapping { present: true, ..mapping });
        }
    }

    /// Cancels the move of the page of `address`, if one is about to happen.
    pub(crate) fn settle(&mut self, address: u64) {
        for (part, mapping) in self.parts(AlignedRange::page(address).range()) {
            self.insert(part, Mapping { moving: None, ..mapping });
        }
    }

    /// Whether all of `range` is mapped, with whatever protection.
    pub(crate) fn covers(&self, range: AddrRange) -> bool {
        self.extents.gaps(&span(range)).next().is_none()
    }

    /// What is mapped in `windows`, in order; neighbours of one protection are one mapping.
    pub(crate) fn mapped_within(&self, windows: &[AddrRange]) -> Vec<AddrRange> {
        let mut mapped: Vec<(AddrRange, Protection)> = Vec::new();
        for (extent, mapping) in self.extents.iter() {
            let extent = range_of(extent);
            match mapped.last_mut() {
                Some((before, protection))
                    if before.last() + 1 == extent.first() && *protection == mapping.protection =>
                {
                    *before = range_of(&(before.first()..=extent.last()));
                }
                _ => mapped.push((extent, mapping.protection)),
            }
        }
        let mut found: Vec<_> = mapped
            .iter()
            .flat_map(|(region, _)| {
                windows.iter().filter_map(|window| region.intersection(*window))
            })
            .collect();
        found.sort_unstable();
        found
    }
}
