//! What a machine's source does not tell, and what in it cannot be: said below every answer, for the answers rest on it.

use sva_pci::groups::Grouping;
use sva_pci::machine::{Basis, Machine, PciFunction, Source};

/// One sentence each.
pub(super) fn lines(machine: &Machine, grouping: &Grouping) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let functions = machine.functions();
    let hidden = functions.iter().filter(|function| rests_on(function, Basis::CapabilitiesHidden)).count();
    if hidden > 0 {
        lines.push(format!(
            "the capabilities of {hidden} of {} functions could not be read, so ACS, PASID, ATS and PRI are not known there: read as root",
            functions.len()
        ));
    }
    let assumed =
        grouping.groups().iter().flat_map(|group| &group.reasons).filter(|reason| matches!(reason.source, Source::Assumed(_))).count();
    if assumed > 0 {
        lines.push(format!(
            "{assumed} {} by something that was assumed, not read; --explain BDF says what, and lspci -vvv -nn as root tells more",
            if assumed == 1 { "function is in its group" } else { "functions are in their groups" }
        ));
    }
    if machine.host().iommu_in_use.is_some_and(|fact| !fact.value) {
        lines.push("the kernel uses no IOMMU for these devices: these are the groups that it would make with one".to_owned());
    }
    lines.extend(machine.oddities().iter().map(ToString::to_string));
    lines
}

fn rests_on(function: &PciFunction, basis: Basis) -> bool {
    [function.express.source, function.acs.source, function.pasid.source].iter().any(|source| source.basis() == Some(basis))
}
