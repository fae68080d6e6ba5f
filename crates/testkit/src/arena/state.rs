//! What the lock guards: the table, the free frames, and the changes under way. Each change as a
//! step from one state to the next.

use std::collections::BTreeMap;

use rangemap::RangeInclusiveMap;
use sva_core::AddrRange;

use super::memory::{Arena, Free, Piece};
use crate::protection::Protection;
use crate::ranges::{parts, shifted, span};
use crate::table::{Mapping, Table};

/// Bytes that are copied to other frames at a time, with the lock held.
const CHUNK: u64 = 1 << 21;

pub(super) struct State {
    pub(super) table: Table,
    pub(super) free: Free,
    changes: BTreeMap<u64, Taken>,
    /// For addresses of which a change that is not over took translations away: the last such
    /// change.
    last_change: RangeInclusiveMap<u64, u64>,
    next_change: u64,
}

/// What a change took away, kept until it is over.
pub(super) struct Taken {
    /// All addresses that were asked for.
    ranges: Vec<AddrRange>,
    /// Those of them of which a translation could have been kept.
    lost: Vec<AddrRange>,
    /// Frames that no address leads to any more.
    freed: Vec<AddrRange>,
    /// Frames that went to another address: until the change is over devices may use them by the
    /// old one, whatever becomes of the new one.
    moved: Vec<AddrRange>,
    /// New frames for the pages that are marked as moving.
    target: Vec<Piece>,
}

impl Taken {
    fn from(range: AddrRange) -> Self {
        Self {
            ranges: vec![range],
            lost: Vec::new(),
            freed: Vec::new(),
            moved: Vec::new(),
            target: Vec::new(),
        }
    }

    /// Notes that `range` has changed. Of an absent page no translation can have been kept.
    fn note(&mut self, range: AddrRange, mapping: Mapping) {
        self.lost.extend(mapping.present.then_some(range));
    }
}

impl State {
    pub(super) fn new(frames: AddrRange) -> Self {
        Self {
            table: Table::default(),
            free: Free::all(frames),
            changes: BTreeMap::new(),
            last_change: RangeInclusiveMap::new(),
            next_change: 0,
        }
    }

    pub(super) fn map(
        &mut self,
        range: AddrRange,
        protection: Protection,
        frames: &[Piece],
    ) -> Taken {
        let taken = self.unmap(range);
        for piece in frames {
            self.table.insert(piece.range, Mapping::new(piece.shift, protection));
        }
        taken
    }

    pub(super) fn unmap(&mut self, range: AddrRange) -> Taken {
        let mut taken = Taken::from(range);
        for (part, mapping) in self.table.parts(range) {
            taken.note(part, mapping);
            taken.freed.push(mapping.frames(part));
        }
        self.table.remove(range);
        taken
    }

    pub(super) fn protect(&mut self, range: AddrRange, protection: Protection) -> Taken {
        let mut taken = Taken::from(range);
        for (part, mapping) in self.table.parts(range) {
            if !protection.includes(mapping.protection) {
                taken.note(part, mapping);
            }
            self.table.insert(part, Mapping { protection, ..mapping });
        }
        taken
    }

    /// Moves what is at `from` to the addresses from `to` on; neither touches the other. A page
    /// that was about to get another frame keeps its own.
    pub(super) fn remap(&mut self, from: AddrRange, to: u64) -> Taken {
        let by = to.wrapping_sub(from.first());
        let mut taken = self.unmap(shifted(from, by));
        taken.ranges.push(from);
        for (part, mapping) in self.table.parts(from) {
            taken.note(part, mapping);
            taken.moved.push(mapping.frames(part));
            self.table.insert(
                shifted(part, by),
                Mapping { shift: mapping.shift.wrapping_sub(by), moving: None, ..mapping },
            );
        }
        self.table.remove(from);
        taken
    }

    /// Makes the present pages absent, and has them come back in `frames`. Those of them that are
    /// not needed are freed with the change.
    pub(super) fn absent(&mut self, range: AddrRange, frames: &[Piece]) -> Taken {
        let mut taken = Taken::from(range);
        for piece in frames {
            let mut unused = vec![piece.frames()];
            for (part, old) in
                self.table.parts(piece.range).into_iter().filter(|(_, mapping)| mapping.present)
            {
                taken.note(part, old);
                taken.freed.push(old.frames(part));
                let new = Mapping { shift: piece.shift, present: false, moving: None, ..old };
                self.table.insert(part, new);
                carve(&mut unused, new.frames(part));
            }
            taken.freed.extend(unused);
        }
        taken
    }

    /// Forbids to keep translations of the present pages, until [`move_chunk`](Self::move_chunk)
    /// has moved them to `target`.
    pub(super) fn replace(&mut self, range: AddrRange, target: Vec<Piece>) -> Taken {
        let mut taken = Taken::from(range);
        let moving = Some(self.next_change);
        for (part, mapping) in
            self.table.parts(range).into_iter().filter(|(_, mapping)| mapping.present)
        {
            taken.note(part, mapping);
            self.table.insert(part, Mapping { moving, ..mapping });
        }
        taken.target = target;
        taken
    }

    /// Records a change as under way. Returns its number, and the ranges that the watchers must
    /// invalidate.
    ///
    /// This includes ranges where an earlier change that is not over took something and this one
    /// found nothing: an unmap of what another thread is unmapping must not return while devices
    /// still write to it.
    pub(super) fn begin(&mut self, taken: Taken) -> (u64, Vec<AddrRange>) {
        let number = self.next_change;
        self.next_change += 1;
        for lost in &taken.lost {
            self.last_change.insert(span(*lost), number);
        }
        let to_invalidate = taken
            .ranges
            .iter()
            .copied()
            .filter(|range| self.last_change.overlaps(&span(*range)))
            .collect();
        self.changes.insert(number, taken);
        (number, to_invalidate)
    }

    /// Moves some pages of a change, whose old frames no device uses, into their new ones. Returns
    /// false if none are left.
    ///
    /// A page that was brought in meanwhile, or that another change has taken, is left where it is;
    /// so is one that devices may still use by an earlier address.
    pub(super) fn move_chunk(&mut self, number: u64, arena: &Arena) -> bool {
        self.settle_moved(number);
        let Some(taken) = self.changes.get_mut(&number) else { return false };
        let Some(piece) = taken.target.pop() else { return false };
        let len = piece.range.len().min(CHUNK);
        let here = AddrRange::new(piece.range.first(), len).expect("a piece has pages");
        if let Some(rest) = AddrRange::new(here.last().wrapping_add(1), piece.range.len() - len) {
            taken.target.push(Piece { range: rest, ..piece });
        }
        let mut unused = vec![shifted(here, piece.shift)];
        for (part, old) in
            self.table.parts(here).into_iter().filter(|(_, mapping)| mapping.moving == Some(number))
        {
            let new = Mapping { shift: piece.shift, moving: None, ..old };
            arena.own(old.frames(part)).copy_to_volatile_slice(arena.own(new.frames(part)));
            self.table.insert(part, new);
            taken.freed.push(old.frames(part));
            carve(&mut unused, new.frames(part));
        }
        taken.freed.extend(unused);
        true
    }

    /// Cancels the moves of pages that another change, which is not over, has brought to these
    /// addresses.
    fn settle_moved(&mut self, number: u64) {
        let Some(taken) = self.changes.get(&number) else { return };
        let about = taken.target.iter().flat_map(|piece| self.table.parts(piece.range));
        let in_use = about.filter(|(part, mapping)| {
            mapping.moving == Some(number) && self.is_moved(mapping.frames(*part))
        });
        for (part, mapping) in in_use.collect::<Vec<_>>() {
            self.table.insert(part, Mapping { moving: None, ..mapping });
        }
    }

    /// Whether some of these frames went to another address by a change that is not over.
    fn is_moved(&self, frames: AddrRange) -> bool {
        self.changes.values().any(|other| other.moved.iter().any(|moved| moved.overlaps(frames)))
    }

    /// What the change took, to be freed. What a change that is not over had moved before is left
    /// to that one to free.
    pub(super) fn take_freed(&mut self, number: u64) -> Vec<AddrRange> {
        let Some(taken) = self.changes.get_mut(&number) else { return Vec::new() };
        taken.moved.clear();
        let mut freed = std::mem::take(&mut taken.freed);
        for other in self.changes.values_mut() {
            let Taken { moved, freed: later, .. } = other;
            later.extend(
                freed.extract_if(.., |frames| moved.iter().any(|moved| moved.overlaps(*frames))),
            );
        }
        freed
    }

    /// The change is over: nobody uses what its addresses meant before it. That goes for what an
    /// earlier one took there too, since the watchers have invalidated it again.
    pub(super) fn finish(&mut self, number: u64) {
        let Some(over) = self.changes.remove(&number) else { return };
        for lost in over.lost {
            for (part, _) in
                parts(&self.last_change, lost).into_iter().filter(|(_, last)| *last == number)
            {
                self.last_change.remove(span(part));
            }
        }
    }

    pub(super) fn changes_under_way(&self) -> usize {
        self.changes.len()
    }
}

/// Removes `out` from the last of these ranges, which contains it. The calls come in order.
fn carve(ranges: &mut Vec<AddrRange>, out: AddrRange) {
    let Some(last) = ranges.pop() else { return };
    ranges.extend(AddrRange::new(last.first(), out.first() - last.first()));
    ranges.extend(AddrRange::new(out.last().wrapping_add(1), last.last() - out.last()));
}
