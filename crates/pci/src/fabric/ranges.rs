//! Address ranges as bridges decode them.

use sva_core::AddrRange;

/// Bridge windows are programmed in units of 1 MiB (PCI-to-PCI bridge architecture 1.2, section
/// 3.2.5.8).
pub(crate) const WINDOW_UNIT: u64 = 1 << 20;

/// The first address of the upper window of a bridge.
pub(crate) const FOUR_GIB: u64 = 1 << 32;

/// The same addresses, sorted, in ranges that do not touch.
pub(crate) fn joined(mut ranges: Vec<AddrRange>) -> Vec<AddrRange> {
    ranges.sort_unstable();
    let mut joined: Vec<AddrRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.last().checked_add(1).is_none_or(|next| range.first() <= next) => {
                *last = AddrRange::inclusive(last.first(), last.last().max(range.last()))
                    .unwrap_or(*last);
            }
            _ => joined.push(range),
        }
    }
    joined
}
