//! What each change does to the table and the frames.

use rangemap::RangeInclusiveSet;
use sva_core::AddrRange;

use super::frames::fresh;
use super::state::Memory;
use super::taken::Taken;
use crate::protection::Protection;
use crate::ranges::{range_of, shifted, span};
use crate::table::Mapping;

impl Memory {
    pub(crate) fn map(&mut self, range: AddrRange, protection: Protection) -> Taken {
        let taken = self.unmap(range);
        let shift = fresh(range, self.largest).wrapping_sub(range.first());
        let mapping = Mapping::new(shift, protection);
        self.frames.create(mapping.frames(range));
        self.table.insert(range, mapping);
        taken
    }

    pub(crate) fn unmap(&mut self, range: AddrRange) -> Taken {
        let mut taken = Taken::from(range);
        for (part, mapping) in self.table.parts(range) {
            taken.note(part, mapping);
            taken.frames.insert(span(mapping.frames(part)));
        }
        self.table.remove(range);
        taken
    }

    pub(crate) fn protect(&mut self, range: AddrRange, protection: Protection) -> Taken {
        let mut taken = Taken::from(range);
        for (part, mapping) in self.table.parts(range) {
            if !protection.includes(mapping.protection) {
                taken.note(part, mapping);
            }
            self.table.insert(part, Mapping { protection, ..mapping });
        }
        taken
    }

    /// Moves what is at `from` to the addresses from `to` on; neither touches the other.
    pub(crate) fn remap(&mut self, from: AddrRange, to: u64) -> Taken {
        let by = to.wrapping_sub(from.first());
        let mut taken = self.unmap(shifted(from, by));
        taken.ranges.push(from);
        for (part, mapping) in self.table.parts(from) {
            taken.note(part, mapping);
            self.table.insert(
                shifted(part, by),
                Mapping { shift: mapping.shift.wrapping_sub(by), ..mapping },
            );
        }
        self.table.remove(from);
        taken
    }

    /// Gives the present pages new frames with the same contents; `present` says whether they stay
    /// present.
    pub(crate) fn renew(&mut self, range: AddrRange, present: bool) -> Taken {
        let mut taken = Taken::from(range);
        let shift = fresh(range, self.largest).wrapping_sub(range.first());
        for (part, old) in
            self.table.parts(range).into_iter().filter(|(_, mapping)| mapping.present)
        {
            let new = Mapping { shift, present, ..old };
            self.frames.alias(old.frames(part), new.frames(part).first());
            self.table.insert(part, new);
            taken.note(part, old);
            taken.frames.insert(span(old.frames(part)));
        }
        taken
    }

    /// Records a change as under way. Returns its number, and the ranges that the watchers must
    /// invalidate.
    ///
    /// This includes ranges where an earlier change that is not over took something and this one
    /// found nothing: a change that makes a page read-only, as another one is just doing, must not
    /// return while devices still write to it.
    pub(crate) fn begin(&mut self, taken: Taken) -> (u64, Vec<AddrRange>) {
        let must_invalidate = |range: &AddrRange| {
            let earlier = self.changes.values().any(|change| change.old.overlaps(&span(*range)));
            earlier || taken.old.overlaps(&span(*range))
        };
        let to_invalidate = taken.ranges.iter().copied().filter(must_invalidate).collect();
        let number = self.next_change;
        self.next_change += 1;
        self.changes.insert(number, taken);
        (number, to_invalidate)
    }

    /// Ends a change: no device uses the old translations of its ranges any more, which this change
    /// or an earlier one took. Its frames are freed, except those that an earlier change, which is
    /// not over, has moved: devices may still use them by the address before that move. The last
    /// such change frees them.
    pub(crate) fn finish(&mut self, change: u64) {
        let Some(mut over) = self.changes.remove(&change) else { return };
        for (_, earlier) in self.changes.range_mut(..change).rev() {
            over.ranges.iter().for_each(|range| earlier.old.remove(span(*range)));
            earlier.keep_in_use(&mut over.frames);
        }
        self.release(over.frames);
    }

    fn release(&mut self, frames: RangeInclusiveSet<u64>) {
        frames.iter().for_each(|key| self.frames.release(range_of(key)));
    }

    /// How many changes are under way.
    pub(crate) fn changes_under_way(&self) -> usize {
        self.changes.len()
    }
}
