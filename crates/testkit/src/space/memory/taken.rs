//! What a change took away.

use rangemap::{RangeInclusiveMap, RangeInclusiveSet};
use sva_core::AddrRange;

use crate::ranges::{range_of, span};
use crate::table::Mapping;

/// What a change took away, kept until it is over.
pub(crate) struct Taken {
    /// All addresses that were asked for.
    pub(super) ranges: Vec<AddrRange>,
    /// Address -> its mapping before, if a translation of it could have been kept.
    pub(super) old: RangeInclusiveMap<u64, Mapping>,
    /// Frames that no address leads to any more, and that this change is to free.
    pub(super) frames: RangeInclusiveSet<u64>,
}

impl Taken {
    /// Nothing yet.
    pub(super) fn from(range: AddrRange) -> Self {
        Self {
            ranges: vec![range],
            old: RangeInclusiveMap::new(),
            frames: RangeInclusiveSet::new(),
        }
    }

    /// Notes that `range` has changed. Of an absent page no translation can have been kept.
    pub(super) fn note(&mut self, range: AddrRange, mapping: Mapping) {
        if mapping.present {
            self.old.insert(span(range), mapping);
        }
    }

    /// Takes over those of a later change's frames that devices may still use by an address that
    /// led to them before this change.
    pub(super) fn keep_in_use(&mut self, frames: &mut RangeInclusiveSet<u64>) {
        for (key, mapping) in self.old.iter() {
            let used = mapping.frames(range_of(key));
            let kept: Vec<_> = frames
                .overlapping(span(used))
                .filter_map(|key| range_of(key).intersection(used))
                .collect();
            kept.into_iter().for_each(|kept| self.frames.insert(span(kept)));
            frames.remove(span(used));
        }
    }
}
