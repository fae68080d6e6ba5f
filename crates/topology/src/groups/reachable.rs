//! Groups as the proposed rework makes them (the series "Fix incorrect iommu_groups with PCIe ACS",
//! version 3 of September 2025; not merged as of 7.3).
//!
//! ACS says where requests that *leave* a function may go, so isolation belongs to buses: one
//! downstream port of a switch that turns requests back opens the whole bus inside the switch. The
//! first bus on the way down that does not isolate makes a group of all that is below it. Inside a
//! device, functions reach each other where one of them has ACS and does not isolate; a device
//! without any ACS capability is taken to have no inner paths.

use std::fmt;

use super::alias;
use super::alias::{Devfns, RequesterThrough};
use super::rules::{Outcome, Rules, State};
use super::step::{Because, Step, StepKind, Trace};
use crate::machine::{Basis, Bus, ExpressKind, Source};

/// How far a bus isolates what is on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// What goes up from here goes on up.
    Isolated,
    /// The bus inside a switch: a downstream port turns requests back to its siblings.
    SwitchPorts,
    /// Functions on the bus reach each other and the bridge or port above.
    WithBridge,
    /// A conventional bus whose bridge has no memory of its own to reach.
    ConventionalBus,
    /// A conventional bus, with its bridge.
    ConventionalWithBridge,
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Isolated => "what goes up from its bus goes on up",
            Self::SwitchPorts => "a downstream port of its switch turns requests back to the others",
            Self::WithBridge => "its bus lets requests reach the functions on it and the port above",
            Self::ConventionalBus => "it sits on a conventional bus, where every function hears every other",
            Self::ConventionalWithBridge => "it sits on a conventional bus, where every function hears every other and the bridge",
        })
    }
}

/// How far `bus` isolates (pci_bus_isolated).
pub(super) fn isolation(rules: &Rules<'_>, bus: &Bus) -> Isolation {
    let Some(bridge) = bus.bridge else { return Isolation::Isolated };
    let it = &rules.machine.functions()[bridge];
    let Some(express) = it.express.value else {
        return if alias::disguised(rules.machine, bridge) {
            conventional(rules, bridge)
        } else {
            Isolation::ConventionalWithBridge
        };
    };
    match express.kind {
        ExpressKind::RootPort if it.acs.value.is_some() && !rules.verdicts[bridge].given => {
            Isolation::WithBridge
        }
        ExpressKind::RootPort | ExpressKind::Downstream => Isolation::Isolated,
        ExpressKind::Upstream => inside_switch(rules, bus),
        ExpressKind::PcieToPci => conventional(rules, bridge),
        _ => Isolation::ConventionalWithBridge,
    }
}

fn conventional(rules: &Rules<'_>, bridge: usize) -> Isolation {
    if rules.machine.functions()[bridge].bars.is_empty() {
        Isolation::ConventionalBus
    } else {
        Isolation::ConventionalWithBridge
    }
}

/// The first port that does not isolate decides. Whether it lets requests reach the upstream port's
/// memory is said by ACS Enhanced, which few devices have; Linux takes it that a port with ACS does
/// not, and one without may.
fn inside_switch(rules: &Rules<'_>, bus: &Bus) -> Isolation {
    for &port in &bus.functions {
        let it = &rules.machine.functions()[port];
        let downstream =
            it.express.value.is_some_and(|express| express.kind == ExpressKind::Downstream);
        if !downstream || rules.alias(port).is_some() {
            return Isolation::WithBridge;
        }
        if !rules.verdicts[port].given {
            return if it.acs.value.is_some() {
                Isolation::SwitchPorts
            } else {
                Isolation::WithBridge
            };
        }
    }
    Isolation::Isolated
}

pub(super) fn decide(
    rules: &Rules<'_>,
    state: &State,
    function: usize,
    trace: &mut impl Trace,
) -> Outcome {
    let now = state.rank[function];
    let issuer = rules.issuer(function);
    if issuer != function {
        let joins = state.group(issuer, now).map(|_| (issuer, Because::IssuedBy));
        return Outcome { joins, source: Source::Inferred(Basis::Position), spreads: false };
    }
    if rules.through(function) == RequesterThrough::Translated {
        return Outcome::found(Source::Read);
    }
    // A virtual function counts as on its physical function's bus.
    let physical = rules.machine.functions()[function].physical_function;
    let place =
        physical.and_then(|physical| rules.machine.find(physical.value)).unwrap_or(function);
    if trace.keeps() {
        note_buses(rules, place, trace);
    }
    let above =
        rules.machine.bridges_above(place).find(|bridge| state.group(*bridge, now).is_some());
    let source = above.map_or(Source::Read, |bridge| rules.verdicts[bridge].source);
    if let Some(bridge) = above
        && state.group(bridge, now).is_some_and(|group| state.spreads(group, now))
    {
        return Outcome::join(bridge, Because::GroupSpreads, source);
    }
    let isolation = rules.isolation_of_bus(rules.machine.bus_of(place).number);
    match (isolation, above) {
        (Isolation::WithBridge | Isolation::ConventionalWithBridge, Some(bridge)) => Outcome {
            joins: Some((bridge, Because::BusNotIsolated { isolation })),
            source,
            spreads: true,
        },
        (Isolation::SwitchPorts | Isolation::ConventionalBus, _) => {
            let mut bus = rules.machine.bus_of(function).functions.iter().copied();
            let first = bus.find(|other| state.group(*other, now).is_some());
            Outcome {
                joins: first.map(|other| (other, Because::SharedBus { isolation })),
                source,
                spreads: true,
            }
        }
        _ => inside_device(rules, state, now, function),
    }
}

fn note_buses(rules: &Rules<'_>, place: usize, trace: &mut impl Trace) {
    for at in std::iter::once(place).chain(rules.machine.bridges_above(place)) {
        let bus = rules.machine.bus_of(at);
        let source = bus.bridge.map_or(Source::Read, |bridge| rules.verdicts[bridge].source);
        if bus.parent.is_none() {
            trace.note(|| Step { at, kind: StepKind::RootBus, source: Source::Read });
        } else {
            trace.note(|| Step {
                at,
                kind: StepKind::Bus(rules.isolation_of_bus(bus.number)),
                source,
            });
        }
    }
    let verdict = rules.verdicts[place];
    trace.note(|| Step { at: place, kind: StepKind::Function(verdict), source: verdict.source });
}

/// The functions of the bus that share requester IDs with `function` or reach it inside the device,
/// through any number of others: if there are any, all are one group.
fn inside_device(rules: &Rules<'_>, state: &State, now: usize, function: usize) -> Outcome {
    let mut seen = Devfns::default();
    seen.insert(rules.devfn(function));
    let mut open = vec![function];
    let mut set = Vec::new();
    while let Some(at) = open.pop() {
        let aliases =
            rules.aliasing_with(at).map(|(other, quirk)| (other, Because::Alias { quirk }));
        let device = rules
            .machine
            .slot_of(at)
            .filter(|other| reach_each_other(rules, at, *other))
            .map(|other| (other, Because::Reachable));
        for (other, because) in aliases.chain(device) {
            if !seen.insert(rules.devfn(other)) {
                open.push(other);
                set.push((other, because));
            }
        }
    }
    let first = set
        .iter()
        .filter(|(other, _)| state.group(*other, now).is_some())
        .min_by_key(|(other, _)| *other);
    let source = rules.alone_source(function);
    let source = first.map_or(source, |(other, _)| source.weaker(rules.verdicts[*other].source));
    Outcome { joins: first.copied(), source, spreads: !set.is_empty() }
}

/// Whether two functions of one slot reach each other inside the device (pci_mfds_are_same_group).
fn reach_each_other(rules: &Rules<'_>, a: usize, b: usize) -> bool {
    let functions = rules.machine.functions();
    let (fa, fb) = (&functions[a], &functions[b]);
    if a == b || fa.physical_function.is_some() || fb.physical_function.is_some() {
        return false;
    }
    if fa.multifunction.value != fb.multifunction.value {
        return true;
    }
    let open = |function: usize| {
        functions[function].acs.value.is_some() && !rules.verdicts[function].given
    };
    fa.multifunction.value && (open(a) || open(b))
}
