//! ACS of the fabric: the services as Linux counts them, so that paths and routing are those that
//! it takes the machine to have.

use sva_core::Bdf;
use sva_topology::AcsBits;
use sva_topology::groups::{Policy, acs_verdict};
use sva_topology::machine::{Machine, Source};

use super::note::Note;
use crate::acs::Acs;

/// ACS as the fabric is to have it, with the notes that belong to it. `function` is an index into
/// [`Machine::functions`]; `possible` are the services that the fabric takes there, `judged` those
/// of them that Linux is asked about.
pub(super) fn counted(
    machine: &Machine,
    function: usize,
    possible: AcsBits,
    judged: AcsBits,
    policy: Policy,
    notes: &mut Vec<Note>,
) -> Option<Acs> {
    let it = &machine.functions()[function];
    let bdf = it.bdf;
    let read = it.acs.value.map(|acs| Acs {
        implemented: acs.implemented.value & possible,
        enabled: acs.enabled.value & possible,
    });
    let mut acs = read.unwrap_or(Acs { implemented: AcsBits::NONE, enabled: AcsBits::NONE });
    let given = AcsBits::NAMED.into_iter().map(|(_, bit)| bit).filter(|bit| judged.contains(*bit));
    let given = given
        .filter(|bit| acs_verdict(machine, function, *bit, policy).given)
        .fold(AcsBits::NONE, |all, bit| all | bit);
    if acs.enabled.contains(AcsBits::EC) {
        acs.enabled = acs.enabled & !AcsBits::EC;
        notes.push(Note::EgressControl { bdf });
    }
    let more = given & !acs.enabled;
    if !more.is_empty() {
        notes.push(Note::AcsCounted { bdf, bits: more });
    }
    let less = acs.enabled & judged & !given;
    if !less.is_empty() {
        notes.push(Note::AcsNotCounted { bdf, bits: less });
    }
    acs.enabled = (acs.enabled | more) & !less;
    acs.implemented = acs.implemented | acs.enabled;
    (read.is_some() || !acs.implemented.is_empty()).then_some(acs)
}

/// Those of `functions` whose isolation rests on an assumption.
pub(super) fn assumed(machine: &Machine, functions: &[Bdf], policy: Policy) -> Vec<Bdf> {
    let assumed = |bdf: &&Bdf| {
        let verdict = machine
            .find(**bdf)
            .map(|function| acs_verdict(machine, function, AcsBits::ISOLATION, policy));
        verdict.is_some_and(|verdict| matches!(verdict.source, Source::Assumed(_)))
    };
    functions.iter().filter(assumed).copied().collect()
}
