//! Groups as the proposed rework makes them (the series "Fix incorrect iommu_groups with PCIe ACS",
//! version 3 of September 2025; not merged as of 7.3).
//!
//! ACS says where requests that *leave* a function may go, so isolation belongs to buses: one
//! downstream port of a switch that turns requests back opens the whole bus inside the switch. The
//! first bus on the way down that does not isolate makes a group of all that is below it. Inside a
//! device, functions reach each other where one of them has ACS and does not isolate; a device
//! without any ACS capability is taken to have no inner paths.

use super::alias::{BridgeRequesterId, DevfnSet};
use super::isolation::Isolation;
use super::rules::Rules;
use super::state::{Decision, State};
use super::step::{JoinRule, Step, StepKind, Trace};
use crate::machine::{Basis, Source};

pub(super) fn decide(
    rules: &Rules<'_>,
    state: &State,
    function: usize,
    trace: &mut impl Trace,
) -> Decision {
    let now = state.rank[function];
    let issuer = rules.issuer(function);
    if issuer != function {
        let joins = state.group(issuer, now).map(|_| (issuer, JoinRule::IssuedBy));
        return Decision { joins, source: Source::Inferred(Basis::Position), whole_subtree: false };
    }
    if rules.bridge_requester_id(function) == BridgeRequesterId::Translated {
        return Decision::found(Source::Read);
    }
    // A virtual function counts as on its physical function's bus.
    let physical = rules.machine.functions()[function].physical_function;
    let place =
        physical.and_then(|physical| rules.machine.find(physical.value)).unwrap_or(function);
    if trace.is_recording() {
        record_buses(rules, place, trace);
    }
    let above =
        rules.machine.bridges_above(place).find(|bridge| state.group(*bridge, now).is_some());
    let source = above.map_or(Source::Read, |bridge| rules.verdicts[bridge].source);
    if let Some(bridge) = above
        && state.group(bridge, now).is_some_and(|group| state.has_whole_subtree(group, now))
    {
        return Decision::join(bridge, JoinRule::WholeSubtree, source);
    }
    let isolation = rules.isolation_of_bus(rules.machine.bus_of(place).number);
    match (isolation, above) {
        (Isolation::WithBridge | Isolation::ConventionalWithBridge, Some(bridge)) => Decision {
            joins: Some((bridge, JoinRule::BusNotIsolated { isolation })),
            source,
            whole_subtree: true,
        },
        (Isolation::SwitchPorts | Isolation::ConventionalBus, _) => {
            let mut bus = rules.machine.bus_of(function).functions.iter().copied();
            let first = bus.find(|other| state.group(*other, now).is_some());
            Decision {
                joins: first.map(|other| (other, JoinRule::SharedBus { isolation })),
                source,
                whole_subtree: true,
            }
        }
        _ => inside_device(rules, state, now, function),
    }
}

fn record_buses(rules: &Rules<'_>, place: usize, trace: &mut impl Trace) {
    for at in std::iter::once(place).chain(rules.machine.bridges_above(place)) {
        let bus = rules.machine.bus_of(at);
        let source = bus.bridge.map_or(Source::Read, |bridge| rules.verdicts[bridge].source);
        if bus.parent.is_none() {
            trace.record(|| Step { at, kind: StepKind::RootBus, source: Source::Read });
        } else {
            trace.record(|| Step {
                at,
                kind: StepKind::Bus(rules.isolation_of_bus(bus.number)),
                source,
            });
        }
    }
    let verdict = rules.verdicts[place];
    trace.record(|| Step { at: place, kind: StepKind::Function(verdict), source: verdict.source });
}

/// The functions of the bus that share requester IDs with `function` or reach it inside the device,
/// through any number of others: if there are any, all are one group.
fn inside_device(rules: &Rules<'_>, state: &State, now: usize, function: usize) -> Decision {
    let mut seen = DevfnSet::default();
    seen.insert(rules.devfn(function));
    let mut open = vec![function];
    let mut set = Vec::new();
    while let Some(at) = open.pop() {
        let aliases =
            rules.aliasing_with(at).map(|(other, quirk)| (other, JoinRule::Alias { quirk }));
        let device = rules
            .machine
            .slot_of(at)
            .filter(|other| reach_each_other(rules, at, *other))
            .map(|other| (other, JoinRule::Reachable));
        for (other, rule) in aliases.chain(device) {
            if !seen.insert(rules.devfn(other)) {
                open.push(other);
                set.push((other, rule));
            }
        }
    }
    let first = set
        .iter()
        .filter(|(other, _)| state.group(*other, now).is_some())
        .min_by_key(|(other, _)| *other);
    let source = rules.alone_source(function);
    let source = first.map_or(source, |(other, _)| source.weaker(rules.verdicts[*other].source));
    Decision { joins: first.copied(), source, whole_subtree: !set.is_empty() }
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
