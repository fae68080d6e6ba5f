//! Table, frames and changes together: accesses by address and by frame.

use std::collections::BTreeMap;

use sva_core::ats::Translation;
use sva_core::space::NoSuchFrame;
use sva_core::{Access, AddrRange, Frame, StopCause};

use super::frames::Frames;
use super::taken::Taken;
use crate::table::{Cursor, Halt, Table};

pub(crate) struct Memory {
    pub(crate) table: Table,
    pub(super) frames: Frames,
    /// The changes that are not over, by number, in the order in which they began.
    pub(super) changes: BTreeMap<u64, Taken>,
    pub(super) next_change: u64,
    /// The largest translation has 2^`largest` bytes.
    pub(crate) largest: u8,
}

impl Memory {
    /// Empty; translations are of 2^`largest` bytes at most.
    pub(crate) fn new(largest: u8) -> Self {
        let (table, frames, changes) = (Table::default(), Frames::default(), BTreeMap::new());
        Self { table, frames, changes, next_change: 0, largest }
    }

    pub(crate) fn read(
        &self,
        cursor: &mut Cursor<'_>,
        buf: &mut [u8],
        access: Access,
    ) -> Result<(), Halt> {
        while let Some((address, len)) = cursor.step() {
            let frame = self.check(address, access)?;
            let at = cursor.done as usize;
            self.frames.read(frame, &mut buf[at..at + len]);
            cursor.advance(len);
        }
        Ok(())
    }

    pub(crate) fn write(
        &mut self,
        cursor: &mut Cursor<'_>,
        data: &[u8],
        access: Access,
    ) -> Result<(), Halt> {
        while let Some((address, len)) = cursor.step() {
            let frame = self.check(address, access)?;
            let at = cursor.done as usize;
            self.frames.write(frame, &data[at..at + len]);
            cursor.advance(len);
        }
        Ok(())
    }

    /// The frame of `address`, if this access is permitted.
    pub(crate) fn check(&self, address: u64, access: Access) -> Result<u64, Halt> {
        self.table.check(address, access).map(|(_, mapping)| mapping.frame(address))
    }

    /// The largest translation of `address` that the table has.
    pub(crate) fn translate(
        &self,
        address: u64,
        privileged: bool,
    ) -> Result<Translation, StopCause> {
        self.table.translate(address, privileged, self.largest)
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
        !self.table.ended
            && (len == 0
                || AddrRange::new(frame.0, len as u64)
                    .is_some_and(|frames| self.frames.are_live(frames)))
    }

    /// Copies out, whatever protection and presence say; all of it is mapped.
    pub(crate) fn copy_out(&self, range: AddrRange, buf: &mut [u8]) {
        for (part, mapping) in self.table.parts(range) {
            let at = (part.first() - range.first()) as usize;
            self.frames.read(mapping.frame(part.first()), &mut buf[at..at + part.len() as usize]);
        }
    }

    /// Copies in, whatever protection and presence say; all of it is mapped.
    pub(crate) fn copy_in(&mut self, range: AddrRange, data: &[u8]) {
        for (part, mapping) in self.table.parts(range) {
            let at = (part.first() - range.first()) as usize;
            self.frames.write(mapping.frame(part.first()), &data[at..at + part.len() as usize]);
        }
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
