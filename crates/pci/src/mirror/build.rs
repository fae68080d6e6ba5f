//! A mirror, made in three steps: who is in it, its addresses, its groups.

use std::collections::{BTreeMap, BTreeSet};

use sva_core::Bdf;
use sva_core::Topology;
use sva_topology::groups::Grouping;
use sva_topology::machine::Machine;

use super::note::Note;
use super::{memory, walk};
use crate::fabric::{Fabric, FabricSpec, SpecError, limit};

/// A fabric, and in what it differs from the machine that it mirrors.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// The fabric.
    pub spec: FabricSpec,
    /// What differs.
    pub notes: Vec<Note>,
}

/// Why a machine has no mirror.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MirrorError {
    /// No function of it can be in a fabric.
    #[error(
        "none of the {functions} functions can be in a fabric; give a dump with endpoints below \
         their bridges, such as a whole `lspci -vvv`"
    )]
    Nothing {
        /// How many functions the machine has.
        functions: usize,
    },
    /// The machine as read is no fabric, also after what could be repaired.
    #[error("as read this machine is no fabric: {0}")]
    Spec(#[from] SpecError),
}

/// Makes a fabric of `machine`, grouped as `grouping` says.
///
/// # Errors
/// Nothing is left, or what is left contradicts itself (buses that do not nest) or passes the
/// bounds of a fabric.
pub fn mirror(machine: &Machine, grouping: &Grouping) -> Result<Mirror, MirrorError> {
    let (mut spec, mut notes) = walk::walk(machine, grouping.policy());
    if spec.functions.is_empty() {
        return Err(MirrorError::Nothing { functions: machine.functions().len() });
    }
    within_limits(&spec)?;
    memory::program(machine, &mut spec, &mut notes);
    let wanted = wanted(machine, grouping, &spec, &mut notes);
    declare(&mut spec, &wanted, machine, grouping, &mut notes)?;
    Ok(Mirror { spec, notes })
}

/// Asked before anything that takes more than linear time.
fn within_limits(spec: &FabricSpec) -> Result<(), SpecError> {
    let counts = [
        ("host bridges", spec.host_bridges.len(), limit::HOST_BRIDGES),
        ("ports", spec.ports.len(), limit::PORTS),
        ("functions", spec.functions.len(), limit::FUNCTIONS),
    ];
    match counts.into_iter().find(|(_, count, limit)| count > limit) {
        Some((what, count, limit)) => Err(SpecError::TooMany { what, count, limit }),
        None => Ok(()),
    }
}

/// The machine's groups among the functions of `spec`; one that is in none is alone.
fn wanted(
    machine: &Machine,
    grouping: &Grouping,
    spec: &FabricSpec,
    notes: &mut Vec<Note>,
) -> Vec<BTreeSet<Bdf>> {
    let mut groups: BTreeMap<u32, BTreeSet<Bdf>> = BTreeMap::new();
    let mut alone = Vec::new();
    for bdf in spec.functions.iter().map(|function| function.bdf) {
        match machine.find(bdf).and_then(|function| grouping.of(function)) {
            Some(group) => drop(groups.entry(group).or_default().insert(bdf)),
            None => alone.push(bdf),
        }
    }
    let wanted =
        groups.into_values().chain(alone.iter().map(|bdf| BTreeSet::from([*bdf]))).collect();
    if !alone.is_empty() {
        notes.push(Note::Untranslated { functions: alone });
    }
    wanted
}

/// Declares the groups that the rules of the fabric do not give. A port at which the rules join
/// what is below is in the group of that in all policies, so no group that the rules do give meets
/// a declared one.
fn declare(
    spec: &mut FabricSpec,
    wanted: &[BTreeSet<Bdf>],
    machine: &Machine,
    grouping: &Grouping,
    notes: &mut Vec<Note>,
) -> Result<(), SpecError> {
    let by_rules = by_key(&Fabric::new(spec.clone())?);
    let differing: Vec<&BTreeSet<Bdf>> =
        wanted.iter().filter(|group| !by_rules.contains(*group)).collect();
    for functions in &differing {
        notes.push(Note::Declared { functions: functions.iter().copied().collect() });
    }
    spec.groups =
        differing.iter().map(|functions| with_ports(functions, spec, machine, grouping)).collect();
    Ok(())
}

fn by_key(fabric: &Fabric) -> BTreeSet<BTreeSet<Bdf>> {
    let mut groups: BTreeMap<_, BTreeSet<Bdf>> = BTreeMap::new();
    for device in fabric.devices() {
        groups.entry(fabric.group(device.bdf)).or_default().insert(device.bdf);
    }
    groups.into_values().collect()
}

/// `functions` and the ports of their group, so that what is plugged below these joins it.
fn with_ports(
    functions: &BTreeSet<Bdf>,
    spec: &FabricSpec,
    machine: &Machine,
    grouping: &Grouping,
) -> Vec<Bdf> {
    let group = |bdf: Bdf| machine.find(bdf).and_then(|function| grouping.of(function));
    let of = functions.first().and_then(|bdf| group(*bdf));
    let ports =
        spec.ports.iter().map(|port| port.bdf).filter(|port| of.is_some() && group(*port) == of);
    let mut members: Vec<Bdf> = functions.iter().copied().chain(ports).collect();
    members.sort_unstable();
    members
}
