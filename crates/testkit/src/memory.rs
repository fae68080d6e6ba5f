//! The contents of a [`MemorySpace`](crate::MemorySpace): mapped regions and sparse pages. Knows no locks.

use std::collections::{BTreeMap, BTreeSet};

use sva_core::{Access, AccessMode, AddrRange, OnAbsent, Segment, StopCause};

use crate::space::{PAGE, Protection};

type Page = [u8; PAGE as usize];

#[derive(Default)]
pub(crate) struct Memory {
    /// First address -> last address (inclusive) and protection; page-aligned, without overlap.
    regions: BTreeMap<u64, (u64, Protection)>,
    /// Page number -> contents. A mapped page without an entry reads as zeros.
    pages: BTreeMap<u64, Box<Page>>,
    /// Page numbers that are mapped but not present.
    absent: BTreeSet<u64>,
    /// Set once, at the end of the space.
    pub(crate) ended: bool,
}

/// Why a walk over the pieces paused.
pub(crate) enum Halt {
    /// At this page number, which is absent and is to be resolved; then the walk goes on.
    Absent(u64),
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
    pub(crate) fn map(&mut self, range: AddrRange, protection: Protection) {
        self.unmap(range);
        self.regions.insert(range.first(), (range.last(), protection));
    }

    pub(crate) fn unmap(&mut self, range: AddrRange) {
        self.split_around(range);
        remove_all(&mut self.regions, range.first(), range.last());
        let (first, last) = pages_of(range);
        remove_all(&mut self.pages, first, last);
        self.absent.retain(|page| !(first..=last).contains(page));
    }

    pub(crate) fn protect(&mut self, range: AddrRange, protection: Protection) {
        self.split_around(range);
        for (_, region) in self.regions.range_mut(range.first()..=range.last()) {
            region.1 = protection;
        }
    }

    pub(crate) fn set_absent(&mut self, range: AddrRange) {
        let (first, last) = pages_of(range);
        for page in first..=last {
            if self.region_at(page * PAGE).is_some() {
                self.absent.insert(page);
            }
        }
    }

    pub(crate) fn set_present(&mut self, page: u64) {
        self.absent.remove(&page);
    }

    pub(crate) fn mapped(&self) -> impl Iterator<Item = AddrRange> + '_ {
        self.regions.iter().filter_map(|(&first, &(last, _))| AddrRange::inclusive(first, last))
    }

    pub(crate) fn read(&self, cursor: &mut Cursor<'_>, buf: &mut [u8], mode: AccessMode) -> Result<(), Halt> {
        while let Some((address, len)) = cursor.step() {
            self.check(address, mode)?;
            let at = cursor.done as usize;
            self.copy_out(address, &mut buf[at..at + len]);
            cursor.advance(len);
        }
        Ok(())
    }

    pub(crate) fn write(&mut self, cursor: &mut Cursor<'_>, data: &[u8], mode: AccessMode) -> Result<(), Halt> {
        while let Some((address, len)) = cursor.step() {
            self.check(address, mode)?;
            let at = cursor.done as usize;
            self.copy_in(address, &data[at..at + len]);
            cursor.advance(len);
        }
        Ok(())
    }

    /// Whether all of `range` is mapped, with whatever protection.
    pub(crate) fn covers(&self, range: AddrRange) -> bool {
        let mut next = range.first();
        while let Some((last, _)) = self.region_at(next) {
            if last >= range.last() {
                return true;
            }
            next = last + 1;
        }
        false
    }

    /// Copies from one page, whatever its protection and presence.
    pub(crate) fn copy_out(&self, address: u64, buf: &mut [u8]) {
        let at = (address % PAGE) as usize;
        match self.pages.get(&(address / PAGE)) {
            Some(page) => buf.copy_from_slice(&page[at..at + buf.len()]),
            None => buf.fill(0),
        }
    }

    /// Copies into one page, whatever its protection and presence.
    pub(crate) fn copy_in(&mut self, address: u64, data: &[u8]) {
        let at = (address % PAGE) as usize;
        let page = self.pages.entry(address / PAGE).or_insert_with(|| Box::new([0; PAGE as usize]));
        page[at..at + data.len()].copy_from_slice(data);
    }

    fn check(&self, address: u64, mode: AccessMode) -> Result<(), Halt> {
        if self.ended {
            return Err(Halt::Stop(StopCause::Ended));
        }
        let Some((_, protection)) = self.region_at(address) else {
            return Err(Halt::Stop(StopCause::NotMapped));
        };
        let granted = match mode.access {
            Access::Read => protection.read,
            Access::Write => protection.write,
            Access::Execute => protection.execute,
        };
        if !granted || protection.privileged && !mode.privileged {
            return Err(Halt::Stop(StopCause::Denied));
        }
        if self.absent.contains(&(address / PAGE)) {
            return Err(match mode.on_absent {
                OnAbsent::Resolve => Halt::Absent(address / PAGE),
                OnAbsent::Stop => Halt::Stop(StopCause::NotPresent),
            });
        }
        Ok(())
    }

    fn region_at(&self, address: u64) -> Option<(u64, Protection)> {
        let (_, &(last, protection)) = self.regions.range(..=address).next_back()?;
        (address <= last).then_some((last, protection))
    }

    /// Makes the edges of `range` edges of regions, so that whole regions can be changed or removed.
    fn split_around(&mut self, range: AddrRange) {
        self.split_at(range.first());
        if let Some(after) = range.last().checked_add(1) {
            self.split_at(after);
        }
    }

    fn split_at(&mut self, address: u64) {
        if let Some((&first, region)) = self.regions.range_mut(..address).next_back()
            && region.0 >= address
            && first < address
        {
            let upper = *region;
            region.0 = address - 1;
            self.regions.insert(address, upper);
        }
    }
}

fn pages_of(range: AddrRange) -> (u64, u64) {
    (range.first() / PAGE, range.last() / PAGE)
}

fn remove_all<V>(map: &mut BTreeMap<u64, V>, first: u64, last: u64) {
    while let Some((&key, _)) = map.range(first..=last).next() {
        map.remove(&key);
    }
}
