//! What a machine's source does not tell, and what in it cannot be: said below every answer, for
//! the answers rest on it.

use sva_topology::groups::{Grouping, Policy};
use sva_topology::machine::{Basis, Machine, PciFunction, Source};
use sva_topology::read::LogMatch;

/// What is odd about a kernel log that was given for its groups.
pub(super) fn of_log(matched: &LogMatch) -> Option<String> {
    let LogMatch { placed, named, missing } = matched;
    if matched.is_of_another_machine() {
        return Some(format!(
            "{missing} of the {named} functions that the kernel log names are not here: it seems \
             to be of another machine, and then what it says of groups and IOMMUs does not hold"
        ));
    }
    (*placed == 0).then(|| {
        "the kernel log puts none of these functions into a group: it is of another machine, does \
         not begin at boot, or its kernel used no IOMMU"
            .to_owned()
    })
}

/// One sentence each.
pub(super) fn lines(machine: &Machine, grouping: &Grouping) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let functions = machine.functions();
    let hidden =
        functions.iter().filter(|function| rests_on(function, Basis::CapabilitiesHidden)).count();
    if hidden > 0 {
        lines.push(format!(
            "the capabilities of {hidden} of {} functions could not be read, so ACS, PASID, ATS \
             and PRI are not known there: read as root",
            functions.len()
        ));
    }
    let assumed: Vec<usize> =
        (0..functions.len()).filter(|index| is_guess(machine, grouping, *index)).collect();
    if !assumed.is_empty() {
        lines.push(format!(
            "{} by something that was assumed, not read: {}; --explain BDF says what, and \
             lspci -vvv -nn as root tells more",
            if assumed.len() == 1 {
                "1 function is in its group".to_owned()
            } else {
                format!("{} functions are in their groups", assumed.len())
            },
            first(machine, &assumed)
        ));
    }
    let host = machine.host();
    if host.iommu_in_use.is_some_and(|fact| !fact.value) {
        lines.push(
            "the kernel uses no IOMMU for these devices: these are the groups that it would make \
             with one"
                .to_owned(),
        );
    }
    let overridden =
        host.options.iter().flatten().any(|option| option.starts_with("pcie_acs_override"));
    if overridden && grouping.policy() != Policy::Override {
        lines.push(
            "the kernel was given pcie_acs_override: if it has that patch, --policy override is \
             nearer to its groups"
                .to_owned(),
        );
    }
    lines.extend(machine.anomalies().iter().map(ToString::to_string));
    lines
}

/// Whether a function's group, or that it is alone in one, rests on something that was assumed.
/// That a device has one function where a listing shows one is no guess worth a note.
fn is_guess(machine: &Machine, grouping: &Grouping, index: usize) -> bool {
    let guess =
        |source: Source| matches!(source, Source::Assumed(basis) if basis != Basis::NoSiblings);
    match grouping.reason(index) {
        Some(reason) => guess(reason.source),
        None if grouping.of(index).is_none() => false,
        None => std::iter::once(index)
            .chain(machine.bridges_above(index))
            .any(|hop| guess(grouping.verdict(machine, hop).source)),
    }
}

/// The first of some functions, given as indexes.
fn first(machine: &Machine, functions: &[usize]) -> String {
    const MOST: usize = 4;
    let named = functions.iter().take(MOST).filter_map(|index| machine.functions().get(*index));
    let names: Vec<String> = named.map(|function| function.bdf.to_string()).collect();
    let more = if functions.len() > MOST { ", ..." } else { "" };
    names.join(", ") + more
}

fn rests_on(function: &PciFunction, basis: Basis) -> bool {
    [function.express.source, function.acs.source, function.pasid.source]
        .iter()
        .any(|source| source.basis() == Some(basis))
}
