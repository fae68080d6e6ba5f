//! The table and what a space keeps in it, against a list that is searched from end to end.

use std::sync::Arc;

use proptest::prelude::*;

use super::{IotlbEntry, IotlbTable, SpaceIotlb};
use crate::api::ats::Frame;
use crate::api::space::Extent;
use crate::types::access::{Access, Permissions};
use crate::types::ids::Generation;
use crate::types::range::AddrRange;

const PAGE: u64 = 4096;

fn run(first: u64, pages: u64, frame: u64) -> Extent {
    let range = AddrRange::new(first, pages * PAGE).expect("pages are counted from 1");
    Extent { range, frame: Frame(frame), permissions: Permissions::READ_WRITE }
}

fn kept(table: &Arc<IotlbTable>, owner: u64) -> Arc<SpaceIotlb> {
    Arc::new(SpaceIotlb::new(table, Generation(owner)))
}

/// Where an address leads, by what is entered.
fn lookup(kept: &SpaceIotlb, address: u64) -> Option<u64> {
    let entry = kept.find(address, Access::READ)?;
    let range = entry.range();
    assert!(range.contains(address), "{address:#x} is not in {range}");
    Some(entry.frame + (address - range.first()))
}

fn fill(kept: &SpaceIotlb, run: &Extent, address: u64) {
    kept.fill(kept.users().invalidate_seq(), run, address, false);
}

#[test]
fn an_entry_says_what_its_run_says_about_each_of_its_addresses() {
    for pages in [1, 2, 4, 5, 16, 511, 512, 1000, 1 << 18, 3 << 18] {
        for first in [
            0,
            PAGE,
            0x7000_0000_3000,
            0x1_0000_0000 - 5 * PAGE,
            (u64::MAX - pages * PAGE + 1) & !(PAGE - 1),
        ] {
            let run = run(first, pages, 1 << 60);
            for address in [first, first + (pages / 2) * PAGE + 17, first + (pages * PAGE - 1)] {
                let table = Arc::new(IotlbTable::new(0));
                let kept = kept(&table, 1);
                fill(&kept, &run, address);
                assert_eq!(
                    lookup(&kept, address),
                    Some((1 << 60) + (address - first)),
                    "{pages} pages from {first:#x}, at {address:#x}"
                );
            }
        }
    }
}

// shows T4, T7: no more entries are made of a run than blocks, whose quarter it covers
#[test]
fn at_most_four_entries_are_found_by_one_block() {
    for quarter in [1, 4, 128, 1 << 16] {
        let pieces = (0..4).map(|n| run(n * 2 * quarter * PAGE, quarter, n << 50));
        let blocks: Vec<_> = pieces
            .filter_map(|run| IotlbEntry::of(&run, run.range.first()))
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
fn runs_that_are_not_made_of_whole_pages_are_not_entered() {
    let table = Arc::new(IotlbTable::new(0));
    let kept = kept(&table, 1);
    let odd = |first: u64, len: u64, frame: u64| Extent {
        range: AddrRange::new(first, len).expect("not empty"),
        frame: Frame(frame),
        permissions: Permissions::READ_WRITE,
    };
    for (run, address) in [
        (odd(0x1800, 0x800, 0), 0x1800),
        (odd(0x1000, 0x1800, 0), 0x2400),
        (odd(0x1000, 0x1000, 0x10), 0x1800),
    ] {
        fill(&kept, &run, address);
        assert_eq!(lookup(&kept, address), None);
    }
}

// regression 29: two owners at one address do not take each other's place; 30: a full table makes
// room for one entry at a time.
#[test]
fn a_full_table_gives_up_one_entry_for_one() {
    let table = Arc::new(IotlbTable::new(16 << 10));
    let [one, other] = [kept(&table, 1), kept(&table, 2)];
    let mut entries = 0;
    for n in 0..2_000u64 {
        for (kept, frames) in [(&one, 1u64 << 40), (&other, 2 << 40)] {
            fill(kept, &run(n * PAGE * 16, 1, frames + n * PAGE), n * PAGE * 16);
            assert_eq!(lookup(kept, n * PAGE * 16), Some(frames + n * PAGE));
            let now = table.usage().entries;
            assert!(now >= entries, "{} entries went for one", entries - now + 1);
            entries = now;
        }
    }
    let usage = table.usage();
    assert!(usage.entries > usage.capacity / 2 && usage.entries <= usage.capacity, "{usage:?}");
}

// shows T3
#[test]
fn a_run_that_was_asked_for_before_an_invalidation_is_not_entered_after_it() {
    let table = Arc::new(IotlbTable::new(0));
    let kept = kept(&table, 1);
    let before = kept.users().invalidate_seq();
    kept.invalidate(AddrRange::new(0x10_0000, PAGE).expect("not empty")).wait();
    kept.fill(before, &run(PAGE, 1, 0), PAGE, false);
    assert_eq!(lookup(&kept, PAGE), None);
}

// shows T7
#[test]
fn the_list_of_a_space_stays_as_long_as_what_it_has_in_the_table() {
    let table = Arc::new(IotlbTable::new(4 << 10));
    let [one, other] = [kept(&table, 1), kept(&table, 2)];
    for n in 0..10_000u64 {
        fill(
            if n % 10 == 0 { &one } else { &other },
            &run(n * PAGE * 16, 1, n * PAGE),
            n * PAGE * 16,
        );
    }
    let places = table.usage().capacity;
    assert!(
        one.indices() <= 2 * places + 64 && other.indices() <= 2 * places + 64,
        "{} and {}",
        one.indices(),
        other.indices()
    );
    other.remove_all();
    one.remove_all();
    assert_eq!(table.usage().entries, 0, "with its owner goes what is kept of it");
}

#[derive(Debug, Clone)]
enum Step {
    Fill { owner: usize, first: u64, pages: u64, at: u64 },
    Invalidate { owner: usize, first: u64, pages: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Around the limits of blocks of all sizes.
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
    // shows T4: what was invalidated is not found, by whatever run or block it was entered
    #[test]
    fn what_is_found_was_entered_and_not_invalidated_since(steps in steps(), bytes in 0usize..16 << 10) {
        let table = Arc::new(IotlbTable::new(bytes));
        let owners = [kept(&table, 1), kept(&table, 2)];
        let mut entered: Vec<(usize, AddrRange, u64)> = Vec::new();
        let mut probes = Vec::new();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Fill { owner, first, pages, at } => {
                    let run = run(first, pages, (n as u64 + 1) << 36);
                    fill(&owners[owner], &run, at);
                    prop_assert_eq!(lookup(&owners[owner], at).is_some(), true, "what was just entered is found");
                    entered.push((owner, run.range, run.frame.0));
                    probes.extend([first, at, first + (pages * PAGE - 1)]);
                }
                Step::Invalidate { owner, first, pages } => {
                    let range = AddrRange::new(first, pages * PAGE).expect("pages are counted from 1");
                    owners[owner].invalidate(range).wait();
                    // An entry goes whole: what is left of a run is what does not meet the range, page by page.
                    entered = entered.into_iter().flat_map(|(of, held, frame)| {
                        if of == owner { without(held, range).into_iter().map(|(part, by)| (of, part, frame + by)).collect() } else { vec![(of, held, frame)] }
                    }).collect();
                    probes.extend([first, first + (pages * PAGE - 1)]);
                }
            }
            for &address in &probes {
                for (at, owner) in owners.iter().enumerate() {
                    let Some(found) = lookup(owner, address) else { continue };
                    let known = entered.iter().any(|(of, held, frame)| *of == at && held.contains(address) && frame + (address - held.first()) == found);
                    prop_assert!(known, "{address:#x} of owner {at} leads to {found:#x}, which no run says any more");
                }
            }
        }
    }
}

/// What is left of a range, each with how far it is from the beginning.
fn without(held: AddrRange, gone: AddrRange) -> Vec<(AddrRange, u64)> {
    let before = gone
        .first()
        .checked_sub(1)
        .and_then(|last| AddrRange::inclusive(held.first(), held.last().min(last)));
    let after = gone
        .last()
        .checked_add(1)
        .and_then(|first| AddrRange::inclusive(held.first().max(first), held.last()));
    [before, after].into_iter().flatten().map(|part| (part, part.first() - held.first())).collect()
}
