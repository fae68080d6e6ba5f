//! Groups as Linux makes them (drivers/iommu/iommu.c, pci_device_group).
//!
//! A function starts at itself. (1) Where another function issues its requests, or bridges on the
//! way take ownership of them, it continues from there: the group of the first of these that has
//! one is its own. (2) From there it climbs while the way from the bridge above to the root does
//! not isolate; it joins the first bridge that has a group. (3) At the point that it reached it
//! looks for groups of functions that share requester IDs on that bus, and (4) of functions of the
//! same device where neither side is isolated, in both cases through any number of intermediate
//! functions. Otherwise it founds a group.

use super::alias::{BridgeRequesterId, DevfnSet};
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
    let mut at = function;
    if let Some(decision) = requester(rules, state, now, &mut at, trace) {
        return decision;
    }
    if let Some(decision) = climb(rules, state, now, &mut at, trace) {
        return decision;
    }
    let verdict = rules.verdicts[at];
    trace.record(|| Step { at, kind: StepKind::Function(verdict), source: verdict.source });
    let mut search = Search { rules, state, now, seen: DevfnSet::default() };
    let found = search.by_alias(at, at).or_else(|| search.by_function(at));
    match found {
        Some((with, rule, source)) => Decision::join(with, rule, source),
        None => Decision::found(rules.alone_source(at)),
    }
}

/// Step 1: who issues the requests, as the IOMMU sees it.
fn requester(
    rules: &Rules<'_>,
    state: &State,
    now: usize,
    at: &mut usize,
    trace: &mut impl Trace,
) -> Option<Decision> {
    let issuer = rules.issuer(*at);
    if issuer != *at {
        *at = issuer;
        if state.group(issuer, now).is_some() {
            // Which VMD function a domain belongs to follows from the order of both.
            return Some(Decision::join(
                issuer,
                JoinRule::IssuedBy,
                Source::Inferred(Basis::Position),
            ));
        }
    }
    if let Some(quirk) = rules.alias(*at) {
        let source = rules.machine.functions()[*at].ids.map_or(Source::Read, |ids| ids.source);
        trace.record(|| Step { at: *at, kind: StepKind::Aliases(quirk), source });
    }
    for bridge in rules.machine.bridges_above(*at) {
        let requester_id = rules.bridge_requester_id(bridge);
        let source = rules.machine.functions()[bridge].express.source;
        if requester_id != BridgeRequesterId::Preserved {
            trace.record(|| Step {
                at: bridge,
                kind: StepKind::BridgeRequesterId(requester_id),
                source,
            });
        }
        match requester_id {
            BridgeRequesterId::Preserved => {}
            BridgeRequesterId::Translated => break,
            BridgeRequesterId::SecondaryBus | BridgeRequesterId::Bridge => {
                *at = bridge;
                if state.group(bridge, now).is_some() {
                    return Some(Decision::join(
                        bridge,
                        JoinRule::BridgeTakesOwnership { requester_id },
                        source,
                    ));
                }
            }
        }
    }
    None
}

/// Step 2: up to where the way to the root isolates.
fn climb(
    rules: &Rules<'_>,
    state: &State,
    now: usize,
    at: &mut usize,
    trace: &mut impl Trace,
) -> Option<Decision> {
    if trace.is_recording() {
        record_path(rules, *at, trace);
    }
    for bridge in rules.machine.bridges_above(*at) {
        let port = rules.blocked[bridge]?;
        *at = bridge;
        if state.group(bridge, now).is_some() {
            return Some(Decision::join(
                bridge,
                JoinRule::PathNotIsolated { port },
                rules.verdicts[port].source,
            ));
        }
    }
    None
}

/// One step for each hop from `at` up to the first that does not isolate, or to the root.
fn record_path(rules: &Rules<'_>, at: usize, trace: &mut impl Trace) {
    for bridge in rules.machine.bridges_above(at) {
        let verdict = rules.verdicts[bridge];
        trace.record(|| Step { at: bridge, kind: StepKind::Hop(verdict), source: verdict.source });
        if !verdict.given {
            return;
        }
    }
    if rules.machine.bus_of(at).parent.is_none() {
        trace.record(|| Step { at, kind: StepKind::RootBus, source: Source::Read });
    }
}

/// Steps 3 and 4: a walk over one bus along shared requester IDs and devices that do not isolate,
/// to the first function that has a group.
struct Search<'r, 'm> {
    rules: &'r Rules<'m>,
    state: &'r State,
    now: usize,
    seen: DevfnSet,
}

type Found = Option<(usize, JoinRule, Source)>;

impl Search<'_, '_> {
    /// The group of `at`, or of a function that shares requester IDs with it. `from` is where the
    /// walk comes from.
    fn by_alias(&mut self, from: usize, at: usize) -> Found {
        if self.seen.insert(self.rules.devfn(at)) {
            return None;
        }
        if self.state.group(at, self.now).is_some() {
            return Some((at, self.why(from, at), self.source(from, at)));
        }
        let rules = self.rules;
        // The depth of this walk is bounded by `seen`: 256 functions.
        rules
            .aliasing_with(at)
            .find_map(|(other, _)| self.by_alias(at, other).or_else(|| self.by_function(other)))
    }

    /// The group of a function of the same device, where neither it nor `at` is isolated.
    fn by_function(&mut self, at: usize) -> Found {
        let rules = self.rules;
        let open = |function: usize| !rules.verdicts[function].given;
        if !rules.machine.functions()[at].multifunction.value || !open(at) {
            return None;
        }
        rules
            .machine
            .slot_of(at)
            .filter(|other| *other != at && open(*other))
            .find_map(|other| self.by_alias(at, other))
    }

    fn why(&self, from: usize, at: usize) -> JoinRule {
        match self.rules.aliasing_with(from).find(|(other, _)| *other == at) {
            Some((_, quirk)) => JoinRule::Alias { quirk },
            None => JoinRule::Multifunction,
        }
    }

    fn source(&self, from: usize, at: usize) -> Source {
        self.rules.verdicts[from].source.weaker(self.rules.verdicts[at].source)
    }
}
