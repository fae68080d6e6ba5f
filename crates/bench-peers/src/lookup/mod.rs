//! Look-ups of translations: vm-memory's cache behind a lock is the baseline, beside it tables of
//! other crates and the tables that were considered for our own.
//!
//! Every subject holds the same pages, at random addresses, and is asked for the same addresses in
//! the same order. *Independent*: the processor may begin a look-up before the one before has been
//! answered. *Dependent*: it may not, since the next address contains the last answer.

mod cache;
mod peers;
mod port;
mod table;

use std::collections::BTreeSet;
use std::error::Error;
use std::hint::black_box;

use fastrand::Rng;
use sva_bench::processor::Allowed;
use sva_bench::row::{Goal, Rows};

use crate::turns::{Figures, Turn, beside_the_first};
use cache::{Lookup, Mapping, PAGE};
use table::{FirstLevel, Table};

/// The table that was chosen is to be ten times as fast.
const GOAL: Goal = Goal::RatioAtMost(0.1);

/// What is measured beside the baseline.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Tables that could have been chosen.
    Tables,
    /// A port of sva.
    Port,
}

/// Adds the rows of all sizes.
pub(crate) fn run(what: What, figures: Figures, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let allowed = Allowed::now()?;
    sva_bench::processor::run_on(allowed.processors().last().ok_or("no processor")?)?;
    for ranges in [1, 16, 1_024, 65_536] {
        let mappings = mappings(ranges);
        let mut rng = Rng::with_seed(7);
        let accesses = if ranges > 1_024 { 1 << 17 } else { 1 << 13 };
        let addresses: Vec<u64> = (0..accesses)
            .map(|_| mappings[rng.usize(..ranges)].page + rng.u64(0..PAGE / 8) * 8)
            .collect();
        measure::<false>(what, figures, "independent", &mappings, &addresses, rows)?;
        measure::<true>(what, figures, "dependent", &mappings, &addresses, rows)?;
    }
    Ok(allowed.restore()?)
}

/// Pages at random addresses of 48 bits, in random order.
fn mappings(count: usize) -> Vec<Mapping> {
    let mut rng = Rng::with_seed(5);
    let mut pages = BTreeSet::new();
    while pages.len() < count {
        pages.insert(rng.u64(..1 << 36) * PAGE);
    }
    let mut mappings: Vec<Mapping> = pages
        .into_iter()
        .zip(0..)
        .map(|(page, number)| Mapping { page, frame: number * PAGE })
        .collect();
    rng.shuffle(&mut mappings);
    mappings
}

fn measure<const DEPENDENT: bool>(
    what: What,
    figures: Figures,
    order: &str,
    mappings: &[Mapping],
    addresses: &[u64],
    rows: &mut Rows,
) -> Result<(), Box<dyn Error>> {
    let mut subjects = subjects::<DEPENDENT>(what, mappings, addresses)?;
    let expected = subjects.iter().map(|subject| subject.sum).collect::<BTreeSet<_>>();
    if expected.len() != 1 {
        return Err("the tables do not agree about where the addresses lead".into());
    }
    let mut turns: Vec<Turn<'_>> = subjects
        .iter_mut()
        .map(|subject| std::mem::replace(&mut subject.turn, Box::new(|| 0)))
        .collect();
    let each = beside_the_first(figures, &mut turns);
    for (subject, (value, baseline)) in subjects.iter().zip(each) {
        let case = format!("{} ranges, {order}: {}", mappings.len(), subject.name);
        rows.add(case, "ns", value, baseline, subject.goal);
    }
    Ok(())
}

struct Subject<'a> {
    name: &'static str,
    goal: Goal,
    /// Of all answers: the same for all subjects.
    sum: u64,
    turn: Turn<'a>,
}

/// The baseline, and then the others.
fn subjects<'a, const DEPENDENT: bool>(
    what: What,
    mappings: &[Mapping],
    addresses: &'a [u64],
) -> Result<Vec<Subject<'a>>, Box<dyn Error>> {
    fn subject<'a, const DEPENDENT: bool>(
        name: &'static str,
        goal: Goal,
        lookup: impl Lookup + 'a,
        addresses: &'a [u64],
    ) -> Subject<'a> {
        let sum = walk::<DEPENDENT>(&lookup, addresses);
        let turn = Box::new(move || {
            black_box(walk::<DEPENDENT>(&lookup, black_box(addresses)));
            addresses.len()
        });
        Subject { name, goal, sum, turn }
    }
    macro_rules! subjects {
        ($($name:literal, $goal:expr, $lookup:expr;)*) => {
            vec![$(subject::<DEPENDENT>($name, $goal, $lookup, addresses)),*]
        };
    }
    if what == What::Port {
        let goal = if mappings.len() > 1 { GOAL } else { Goal::None };
        return Ok(subjects! {
            "vm-memory Iotlb in RwLock", Goal::None, peers::LockedIotlb::new(mappings)?;
            "a port's look-up", goal, port::PortLookup::new(mappings)?;
        });
    }
    Ok(subjects! {
        "vm-memory Iotlb in RwLock", Goal::None, peers::LockedIotlb::new(mappings)?;
        "64 slots, then 5 ways", GOAL, FirstLevel::<_, 64>::over(Table::<5, true>::new(mappings));
        "last range, then 5 ways", Goal::None,
            FirstLevel::<_, 1>::over(Table::<5, true>::new(mappings));
        "5 ways, preferred first", Goal::None, Table::<5, true>::new(mappings);
        "5 ways, in order", Goal::None, Table::<5, false>::new(mappings);
        "2 ways, preferred first", Goal::None, Table::<2, true>::new(mappings);
        "RwLock of a hash map", Goal::None, peers::LockedMap::new(mappings);
        "dashmap", Goal::None, peers::Sharded::new(mappings);
        "papaya", Goal::None, peers::Guarded::new(mappings);
        "scc HashIndex", Goal::None, peers::Indexed::new(mappings);
        "arc-swap of a BTreeMap", Goal::None, peers::SwappedTree::new(mappings);
    })
}

/// Looks all of them up. A parameter of the type and no argument: as an argument it becomes a
/// conditional move, on which the independent ones would depend as well.
fn walk<const DEPENDENT: bool>(lookup: &impl Lookup, addresses: &[u64]) -> u64 {
    let (mut sum, mut found) = (0u64, 0);
    for address in addresses {
        // Answers are below 2^63: this adds nothing, which the processor does not know.
        let address = if DEPENDENT { address + (found >> 63) } else { *address };
        found = lookup.find(address).unwrap_or_default();
        sum = sum.wrapping_add(found);
    }
    sum
}
