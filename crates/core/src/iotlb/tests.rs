//! The table and the part of it of each space, against a reference that is a plain list.

use std::sync::Arc;

use proptest::prelude::*;

use super::{IotlbEntry, IotlbTable, SpaceIotlb};
use crate::api::ats::Frame;
use crate::api::space::Extent;
use crate::types::access::{Access, Permissions};
use crate::types::ids::Generation;
use crate::types::range::AddrRange;

const PAGE: u64 = 4096;

fn extent(first: u64, pages: u64, frame: u64) -> Extent {
    let range = AddrRange::new(first, pages * PAGE).expect("pages are counted from 1");
    Extent { range, frame: Frame(frame), permissions: Permissions::READ_WRITE }
}

fn space_iotlb(table: &Arc<IotlbTable>, owner: u64) -> Arc<SpaceIotlb> {
    Arc::new(SpaceIotlb::new(table, Generation(owner)))
}

/// The frame address that the cache has for an address.
fn lookup(space: &SpaceIotlb, address: u64) -> Option<u64> {
    let entry = space.find(address, Access::READ)?;
    let range = entry.range();
    assert!(range.contains(address), "{address:#x} is not in {range}");
    Some(entry.frame + (address - range.first()))
}

fn fill(space: &SpaceIotlb, extent: &Extent, address: u64) {
    space.fill(space.users().invalidate_seq(), extent, address, false);
}

#[test]
fn an_entry_translates_each_address_as_its_extent_does() {
    for pages in [1, 2, 4, 5, 16, 511, 512, 1000, 1 << 18, 3 << 18] {
        for first in [
            0,
            PAGE,
            0x7000_0000_3000,
            0x1_0000_0000 - 5 * PAGE,
            (u64::MAX - pages * PAGE + 1) & !(PAGE - 1),
        ] {
            let extent = extent(first, pages, 1 << 60);
            for address in [first, first + (pages / 2) * PAGE + 17, first + (pages * PAGE - 1)] {
                let table = Arc::new(IotlbTable::new(0));
                let space = space_iotlb(&table, 1);
                fill(&space, &extent, address);
                assert_eq!(
                    lookup(&space, address),
                    Some((1 << 60) + (address - first)),
                    "{pages} pages from {first:#x}, at {address:#x}"
                );
            }
        }
    }
}

// shows T4, T7: an extent has one entry for each block of which it covers a quarter
#[test]
fn at_most_four_entries_are_hashed_by_one_block() {
    for quarter in [1, 4, 128, 1 << 16] {
        let pieces = (0..4).map(|n| extent(n * 2 * quarter * PAGE, quarter, n << 50));
        let blocks: Vec<_> = pieces
            .filter_map(|extent| IotlbEntry::of(&extent, extent.range.first()))
            .map(|(_, block)| block)
            .collect();
        assert_eq!(blocks.len(), 4);
        assert!(
            blocks
                .iter()
                .all(|block| block.range().is_some_and(|range| quarter * PAGE >= range.len() / 4))
        );
    }
}

#[test]
fn extents_that_do_not_consist_of_whole_pages_are_not_inserted() {
    let table = Arc::new(IotlbTable::new(0));
    let space = space_iotlb(&table, 1);
    let odd = |first: u64, len: u64, frame: u64| Extent {
        range: AddrRange::new(first, len).expect("not empty"),
        frame: Frame(frame),
        permissions: Permissions::READ_WRITE,
    };
    for (extent, address) in [
        (odd(0x1800, 0x800, 0), 0x1800),
        (odd(0x1000, 0x1800, 0), 0x2400),
        (odd(0x1000, 0x1000, 0x10), 0x1800),
    ] {
        fill(&space, &extent, address);
        assert_eq!(lookup(&space, address), None);
    }
}

// regression 29: two owners at one address do not evict each other's entries; 30: an insertion into
// a full table evicts one entry.
#[test]
fn an_insertion_into_a_full_table_evicts_one_entry() {
    let table = Arc::new(IotlbTable::new(16 << 10));
    let [one, other] = [space_iotlb(&table, 1), space_iotlb(&table, 2)];
    let mut entries = 0;
    for n in 0..2_000u64 {
        for (space, frames) in [(&one, 1u64 << 40), (&other, 2 << 40)] {
            fill(space, &extent(n * PAGE * 16, 1, frames + n * PAGE), n * PAGE * 16);
            assert_eq!(lookup(space, n * PAGE * 16), Some(frames + n * PAGE));
            let now = table.usage().entries;
            assert!(now >= entries, "{} entries were evicted for one", entries - now + 1);
            entries = now;
        }
    }
    let usage = table.usage();
    assert!(usage.entries > usage.capacity / 2 && usage.entries <= usage.capacity, "{usage:?}");
}

// shows T3
#[test]
fn an_extent_that_was_obtained_before_an_invalidation_is_not_inserted_after_it() {
    let table = Arc::new(IotlbTable::new(0));
    let space = space_iotlb(&table, 1);
    let before = space.users().invalidate_seq();
    space.invalidate(AddrRange::new(0x10_0000, PAGE).expect("not empty")).wait();
    space.fill(before, &extent(PAGE, 1, 0), PAGE, false);
    assert_eq!(lookup(&space, PAGE), None);
}

// shows T7
#[test]
fn the_list_of_indices_of_a_space_is_bounded_by_its_entries_in_the_table() {
    let table = Arc::new(IotlbTable::new(4 << 10));
    let [one, other] = [space_iotlb(&table, 1), space_iotlb(&table, 2)];
    for n in 0..10_000u64 {
        fill(
            if n % 10 == 0 { &one } else { &other },
            &extent(n * PAGE * 16, 1, n * PAGE),
            n * PAGE * 16,
        );
    }
    let capacity = table.usage().capacity;
    assert!(
        one.indices() <= 2 * capacity + 64 && other.indices() <= 2 * capacity + 64,
        "{} and {}",
        one.indices(),
        other.indices()
    );
    other.remove_all();
    one.remove_all();
    assert_eq!(table.usage().entries, 0, "no entry outlives its owner");
}

#[derive(Debug, Clone)]
enum Step {
    Fill { owner: usize, first: u64, pages: u64, at: u64 },
    Invalidate { owner: usize, first: u64, pages: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Around the boundaries of blocks of all sizes.
    let base = prop_oneof![Just(0u64), Just(1 << 21), Just((1 << 30) - (1 << 21)), Just(1 << 30)];
    let first = (base, 0u64..64).prop_map(|(base, page)| base + page * PAGE);
    let pages = prop_oneof![1u64..6, 1u64..20, Just(512), Just(1024), Just(1 << 18)];
    let owner = 0usize..2;
    let fill = (owner.clone(), first.clone(), pages.clone(), any::<u64>()).prop_map(
        |(owner, first, pages, at)| Step::Fill {
            owner,
            first,
            pages,
            at: first + at % (pages * PAGE),
        },
    );
    let invalidate = (owner, first, pages).prop_map(|(owner, first, pages)| Step::Invalidate {
        owner,
        first,
        pages,
    });
    prop::collection::vec(prop_oneof![3 => fill, 1 => invalidate], 1..80)
}

proptest! {
    // shows T4: an invalidated translation is not found, whatever extent or block it came from
    #[test]
    fn a_translation_that_is_found_was_inserted_and_not_invalidated_since(
        steps in steps(),
        bytes in 0usize..16 << 10,
    ) {
        let table = Arc::new(IotlbTable::new(bytes));
        let owners = [space_iotlb(&table, 1), space_iotlb(&table, 2)];
        let mut reference = Reference::default();
        let mut probes = Vec::new();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Fill { owner, first, pages, at } => {
                    let extent = extent(first, pages, (n as u64 + 1) << 36);
                    fill(&owners[owner], &extent, at);
                    prop_assert!(lookup(&owners[owner], at).is_some(), "the new entry is found");
                    reference.0.push((owner, extent.range, extent.frame.0));
                    probes.extend([first, at, first + (pages * PAGE - 1)]);
                }
                Step::Invalidate { owner, first, pages } => {
                    let range = AddrRange::new(first, pages * PAGE).expect("not empty");
                    owners[owner].invalidate(range).wait();
                    reference.invalidate(owner, range);
                    probes.extend([first, first + (pages * PAGE - 1)]);
                }
            }
            for &address in &probes {
                for (n, owner) in owners.iter().enumerate() {
                    let Some(found) = lookup(owner, address) else { continue };
                    prop_assert!(
                        reference.translates(n, address, found),
                        "{address:#x} of owner {n} is translated to stale {found:#x}"
                    );
                }
            }
        }
    }
}

/// The extents that were inserted and not invalidated since: owner, addresses, frame of the first.
#[derive(Default)]
struct Reference(Vec<(usize, AddrRange, u64)>);

impl Reference {
    /// Removes the range from the extents of an owner. The cache may remove more: it removes whole
    /// entries.
    fn invalidate(&mut self, owner: usize, range: AddrRange) {
        let extents = std::mem::take(&mut self.0).into_iter();
        self.0 = extents
            .flat_map(|(of, extent, frame)| {
                let rest = if of == owner { difference(extent, range) } else { vec![(extent, 0)] };
                rest.into_iter().map(move |(part, offset)| (of, part, frame + offset))
            })
            .collect();
    }

    fn translates(&self, owner: usize, address: u64, frame: u64) -> bool {
        self.0.iter().any(|(of, extent, first)| {
            *of == owner && extent.contains(address) && first + (address - extent.first()) == frame
        })
    }
}

/// The parts of `range` outside `removed`, each with its offset in `range`.
fn difference(range: AddrRange, removed: AddrRange) -> Vec<(AddrRange, u64)> {
    let before = removed
        .first()
        .checked_sub(1)
        .and_then(|last| AddrRange::inclusive(range.first(), range.last().min(last)));
    let after = removed
        .last()
        .checked_add(1)
        .and_then(|first| AddrRange::inclusive(range.first().max(first), range.last()));
    let parts = [before, after].into_iter().flatten();
    parts.map(|part| (part, part.first() - range.first())).collect()
}
