//! Maps from ranges of numbers, which are addresses or frames.

use std::ops::RangeInclusive;

use rangemap::RangeInclusiveMap;
use sva_core::AddrRange;

/// The parts of the map's ranges that lie in `range`.
pub(crate) fn parts<V: Copy + Eq>(
    map: &RangeInclusiveMap<u64, V>,
    range: AddrRange,
) -> Vec<(AddrRange, V)> {
    map.overlapping(span(range))
        .filter_map(|(key, value)| Some((range_of(key).intersection(range)?, *value)))
        .collect()
}

pub(crate) fn span(range: AddrRange) -> RangeInclusive<u64> {
    range.first()..=range.last()
}

pub(crate) fn range_of(key: &RangeInclusive<u64>) -> AddrRange {
    AddrRange::inclusive(*key.start(), *key.end()).expect("a map's ranges are in order")
}

/// The range `by` bytes further on. Its numbers may wrap; the range itself must not.
pub(crate) fn shifted(range: AddrRange, by: u64) -> AddrRange {
    AddrRange::new(range.first().wrapping_add(by), range.len())
        .expect("frames and addresses are moved as whole ranges")
}
