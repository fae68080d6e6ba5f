//! What differs between two machines, or between two ways of grouping one machine.
//!
//! Group numbers say nothing across two boots, so groups are compared as partitions: a function is
//! regrouped if, among the functions that both sides have, it shares its group with others.

use std::collections::BTreeMap;

use sva_core::Bdf;

use crate::acs::AcsBits;
use crate::groups::Grouping;
use crate::machine::{Machine, PciFunction, Source};
use crate::ready::{self, Verdict};

/// How many other members of a group are named; the rest is counted.
const NAMED: usize = 8;

/// The differences of two sides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Functions that only the second side has.
    pub added: Vec<Bdf>,
    /// Functions that only the first side has.
    pub removed: Vec<Bdf>,
    /// Functions whose vendor or device is another one on the second side.
    pub replaced: Vec<Bdf>,
    /// Functions that share their group with others on the second side than on the first.
    pub regrouped: Vec<Regrouped>,
    /// Functions whose ACS registers were read on both sides and differ.
    pub acs: Vec<AcsChange>,
    /// Devices whose verdict is another one on the second side.
    pub readiness: Vec<ReadinessChange>,
}

/// Functions that share a group on both sides, and share it with others on the second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Regrouped {
    /// The functions, in the order of their addresses.
    pub members: Vec<Bdf>,
    /// On the first side; none where no IOMMU translates them.
    pub before: Option<Membership>,
    /// On the second side.
    pub after: Option<Membership>,
}

/// The group that functions are in, and its other members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The group's number on its side.
    pub group: u32,
    /// How many others are in it.
    pub others: usize,
    /// The first of them, at most eight.
    pub some: Vec<Bdf>,
}

/// ACS registers that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcsChange {
    /// The function.
    pub function: Bdf,
    /// Implemented and enabled services on the first side; none without the capability.
    pub before: Option<(AcsBits, AcsBits)>,
    /// On the second side.
    pub after: Option<(AcsBits, AcsBits)>,
}

/// A verdict that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadinessChange {
    /// The device.
    pub function: Bdf,
    /// On the first side.
    pub before: Verdict,
    /// On the second side.
    pub after: Verdict,
}

/// A machine, and how it is grouped.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// Its groups.
    pub grouping: &'a Grouping,
}

impl Difference {
    /// Compares two sides, in time in proportion to their functions.
    pub fn between(before: Side<'_>, after: Side<'_>) -> Self {
        let only = |one: Side<'_>, other: Side<'_>| {
            let missing = |function: &&PciFunction| other.machine.find(function.bdf).is_none();
            one.machine.functions().iter().filter(missing).map(|function| function.bdf).collect()
        };
        let common: Vec<Pair> = before
            .machine
            .functions()
            .iter()
            .enumerate()
            .filter_map(|(index, _)| Pair::at(before, after, index))
            .collect();
        let functions = || {
            common.iter().map(|pair| {
                (&before.machine.functions()[pair.before], &after.machine.functions()[pair.after])
            })
        };
        Self {
            added: only(after, before),
            removed: only(before, after),
            replaced: functions().filter(|(a, b)| replaced(a, b)).map(|(a, _)| a.bdf).collect(),
            regrouped: regrouped(before, after, &common),
            acs: functions().filter_map(|(a, b)| acs_change(a, b)).collect(),
            readiness: readiness_changes(before, after),
        }
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A function that both sides have, as an index into each.
#[derive(Clone, Copy)]
struct Pair {
    before: usize,
    after: usize,
}

impl Pair {
    fn at(before: Side<'_>, after: Side<'_>, index: usize) -> Option<Self> {
        after
            .machine
            .find(before.machine.functions()[index].bdf)
            .map(|after| Self { before: index, after })
    }
}

fn replaced(before: &PciFunction, after: &PciFunction) -> bool {
    matches!((before.ids, after.ids), (Some(a), Some(b)) if a.value != b.value)
}

fn regrouped(before: Side<'_>, after: Side<'_>, common: &[Pair]) -> Vec<Regrouped> {
    // The functions of each group that both sides have, and the pieces that stay together.
    type Piece = (Option<u32>, Option<u32>);
    let mut old: BTreeMap<u32, Vec<Bdf>> = BTreeMap::new();
    let mut new: BTreeMap<u32, Vec<Bdf>> = BTreeMap::new();
    let mut pieces: BTreeMap<Piece, Vec<Bdf>> = BTreeMap::new();
    for pair in common {
        let bdf = before.machine.functions()[pair.before].bdf;
        let piece @ (from, to) = (before.grouping.of(pair.before), after.grouping.of(pair.after));
        from.into_iter().for_each(|group| old.entry(group).or_default().push(bdf));
        to.into_iter().for_each(|group| new.entry(group).or_default().push(bdf));
        pieces.entry(piece).or_default().push(bdf);
    }
    let size = |groups: &BTreeMap<u32, Vec<Bdf>>, group: Option<u32>| {
        group.and_then(|group| groups.get(&group)).map(Vec::len)
    };
    let moved = |(from, to): Piece, members: &[Bdf]| match (from, to) {
        (None, None) => false,
        _ => size(&old, from) != Some(members.len()) || size(&new, to) != Some(members.len()),
    };
    let membership = |groups: &BTreeMap<u32, Vec<Bdf>>, group: Option<u32>, members: &[Bdf]| {
        let (group, all) = group.and_then(|group| groups.get(&group).map(|all| (group, all)))?;
        // Both lists are in the order of addresses.
        let some = all
            .iter()
            .copied()
            .filter(|other| members.binary_search(other).is_err())
            .take(NAMED)
            .collect();
        Some(Membership { group, others: all.len() - members.len(), some })
    };
    let mut regrouped: Vec<Regrouped> = pieces
        .iter()
        .filter(|(piece, members)| moved(**piece, members))
        .map(|(&(from, to), members)| Regrouped {
            before: membership(&old, from, members),
            after: membership(&new, to, members),
            members: members.clone(),
        })
        .collect();
    regrouped.sort_by_key(|regrouped| regrouped.members.first().copied());
    regrouped
}

/// Compares the registers' values where both sides have read them: an assumption that differs is no
/// change of the machine.
fn acs_change(before: &PciFunction, after: &PciFunction) -> Option<AcsChange> {
    let known = |function: &PciFunction| {
        let source = function
            .acs
            .value
            .map_or(function.acs.source, |acs| acs.implemented.source.weaker(acs.enabled.source));
        let known = !matches!(source, Source::Assumed(_));
        known.then(|| function.acs.value.map(|acs| (acs.implemented.value, acs.enabled.value)))
    };
    let (before_acs, after_acs) = (known(before)?, known(after)?);
    (before_acs != after_acs).then_some(AcsChange {
        function: before.bdf,
        before: before_acs,
        after: after_acs,
    })
}

fn readiness_changes(before: Side<'_>, after: Side<'_>) -> Vec<ReadinessChange> {
    let verdicts = |side: Side<'_>| -> Vec<(Bdf, Verdict)> {
        let rows = ready::readiness(side.machine, side.grouping);
        rows.iter().map(|row| (side.machine.functions()[row.function].bdf, row.verdict())).collect()
    };
    let after = verdicts(after);
    let changed = |(function, before): (Bdf, Verdict)| {
        let after = after
            .binary_search_by_key(&function, |(bdf, _)| *bdf)
            .ok()
            .and_then(|at| after.get(at))
            .map(|(_, verdict)| *verdict)?;
        (before != after).then_some(ReadinessChange { function, before, after })
    };
    verdicts(before).into_iter().filter_map(changed).collect()
}
