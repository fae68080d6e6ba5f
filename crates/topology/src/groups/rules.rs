//! What all policies share: the order of decisions, what is known of each function, who is in which
//! group so far.

use std::collections::BTreeSet;

use super::acs::{AcsVerdict, acs_verdict};
use super::alias::{self, AliasQuirk, Devfns, RequesterThrough};
use super::reachable::{self, Isolation};
use super::step::{Because, Step, StepKind, Trace, Untranslated};
use super::{Policy, linux};
use crate::acs::AcsBits;
use crate::machine::{Class, Machine, Source};

/// Who is in which group, and since when. Linux decides function by function and never comes back
/// to one; a decision sees what earlier ones made.
///
/// Kept so that any decision can be taken again as it was: a view at `now` shows what was decided
/// before.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// When each function is decided, 0..n.
    pub(super) rank: Vec<usize>,
    /// The group of each function.
    pub(super) of: Vec<Option<u32>>,
    /// For each group the rank of the decision from which on everything below its members belongs
    /// to it.
    pub(super) spreads: Vec<Option<usize>>,
}

impl State {
    pub(super) fn new(rank: Vec<usize>) -> Self {
        Self { of: vec![None; rank.len()], spreads: Vec::new(), rank }
    }

    /// The group of `function` as the decision of rank `now` sees it.
    pub(super) fn group(&self, function: usize, now: usize) -> Option<u32> {
        self.of[function].filter(|_| self.rank[function] < now)
    }

    /// Whether all that is below the members of `group` belongs to it, as the decision of rank
    /// `now` sees it.
    pub(super) fn spreads(&self, group: u32, now: usize) -> bool {
        self.spreads[group as usize].is_some_and(|since| since < now)
    }
}

/// A decision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    /// Whose group the function joins, and why; `None` for a new group.
    pub(super) joins: Option<(usize, Because)>,
    /// The weakest fact that the decision rests on.
    pub(super) source: Source,
    /// Whether everything below the members of the group belongs to it from now on.
    pub(super) spreads: bool,
}

impl Outcome {
    pub(super) fn join(with: usize, because: Because, source: Source) -> Self {
        Self { joins: Some((with, because)), source, spreads: false }
    }

    pub(super) fn found(source: Source) -> Self {
        Self { joins: None, source, spreads: false }
    }
}

/// The machine with what the rules ask of it again and again.
pub(super) struct Rules<'m> {
    pub(super) machine: &'m Machine,
    pub(super) policy: Policy,
    /// For SV, RR, CR and UF.
    pub(super) verdicts: Vec<AcsVerdict>,
    /// The nearest function that does not isolate on the way from each function, itself included,
    /// to the root.
    pub(super) blocked: Vec<Option<usize>>,
    /// The weakest fact that `blocked` rests on.
    pub(super) path_source: Vec<Source>,
    aliases: Vec<Option<(&'static AliasQuirk, Devfns)>>,
    /// Buses with a function that has aliases: few machines have one.
    aliasing: BTreeSet<(u32, u8)>,
    vmd: Vec<(u32, usize)>,
    kernel_made_groups: bool,
    pub(super) isolation: Vec<Isolation>,
}

impl<'m> Rules<'m> {
    pub(super) fn new(machine: &'m Machine, policy: Policy) -> Self {
        let functions = machine.functions();
        let verdicts: Vec<AcsVerdict> = (0..functions.len())
            .map(|index| acs_verdict(machine, index, AcsBits::ISOLATION, policy))
            .collect();
        let mut blocked: Vec<Option<usize>> = Vec::with_capacity(functions.len());
        let mut path_source: Vec<Source> = Vec::with_capacity(functions.len());
        for (index, verdict) in verdicts.iter().enumerate() {
            // Bridges are on lower buses than what is below them, so they come first.
            let above = machine.bridges_above(index).next().filter(|_| verdict.given);
            blocked.push(if verdict.given {
                above.and_then(|bridge| blocked[bridge])
            } else {
                Some(index)
            });
            path_source.push(
                above.map_or(verdict.source, |bridge| verdict.source.weaker(path_source[bridge])),
            );
        }
        let aliases: Vec<_> = functions.iter().map(alias::aliases).collect();
        let aliasing = functions.iter().zip(&aliases).filter(|(_, alias)| alias.is_some());
        let mut rules = Self {
            machine,
            policy,
            verdicts,
            blocked,
            path_source,
            aliasing: aliasing
                .map(|(function, _)| (function.bdf.segment(), function.bdf.bus()))
                .collect(),
            aliases,
            vmd: alias::vmd_domains(machine),
            kernel_made_groups: functions
                .iter()
                .any(|function| matches!(function.kernel_group, Some(Some(_)))),
            isolation: Vec::new(),
        };
        if policy == Policy::ReachableSet {
            rules.isolation =
                machine.buses().iter().map(|bus| reachable::isolation(&rules, bus)).collect();
        }
        rules
    }

    /// When each function is decided: in the order of addresses, virtual functions last, for
    /// drivers make them.
    ///
    /// Linux goes depth first, a bus's functions before what is below its bridges. A decision looks
    /// at functions of its own bus and of buses above only, and both orders have those before
    /// it in the same order. (A VMD domain's functions come after all segments that firmware
    /// numbers, in both.)
    pub(super) fn ranks(&self) -> Vec<usize> {
        let virtual_function =
            |index: &usize| self.machine.functions()[*index].physical_function.is_some();
        let mut order: Vec<usize> = (0..self.verdicts.len()).collect();
        order.sort_by_key(|index| (virtual_function(index), *index));
        let mut ranks = vec![0; order.len()];
        order.into_iter().enumerate().for_each(|(rank, index)| ranks[index] = rank);
        ranks
    }

    /// Takes the decision of one function.
    pub(super) fn decide(&self, state: &State, function: usize, trace: &mut impl Trace) -> Outcome {
        let outcome = match self.policy {
            Policy::Linux | Policy::Override => linux::decide(self, state, function, trace),
            Policy::ReachableSet => reachable::decide(self, state, function, trace),
        };
        trace.note(|| match outcome.joins {
            Some((with, because)) => Step {
                at: function,
                kind: StepKind::Joined { with, because },
                source: outcome.source,
            },
            None => Step { at: function, kind: StepKind::Founded, source: outcome.source },
        });
        outcome
    }

    /// Whether it is known that no IOMMU translates the function.
    pub(super) fn untranslated(&self, function: usize) -> Option<Untranslated> {
        let it = &self.machine.functions()[function];
        if it.class.is_some_and(|class| class.value.code() == Class::IOMMU) {
            return Some(Untranslated::IsIommu);
        }
        (self.kernel_made_groups && it.kernel_group == Some(None))
            .then_some(Untranslated::KernelHasNone)
    }

    /// The weakest fact that a group of its own rests on: the way up, and in a device with several
    /// functions the function itself.
    pub(super) fn alone_source(&self, function: usize) -> Source {
        let above = self
            .machine
            .bridges_above(function)
            .next()
            .map_or(Source::Read, |bridge| self.path_source[bridge]);
        above.weaker(self.verdicts[function].source)
    }

    /// The function whose requester ID the requests of `function` carry from the start
    /// (pci_real_dma_dev).
    pub(super) fn issuer(&self, function: usize) -> usize {
        let segment = self.machine.functions()[function].bdf.segment();
        self.vmd
            .binary_search_by_key(&segment, |(segment, _)| *segment)
            .map_or(function, |at| self.vmd[at].1)
    }

    pub(super) fn through(&self, bridge: usize) -> RequesterThrough {
        alias::through(self.machine, bridge)
    }

    /// The quirk by which a function's requests carry numbers of other functions.
    pub(super) fn alias(&self, function: usize) -> Option<&'static AliasQuirk> {
        self.aliases[function].map(|(quirk, _)| quirk)
    }

    /// The functions of the bus of `function` that share requester IDs with it, with the quirk, in
    /// the order of their addresses.
    pub(super) fn aliasing_with(
        &self,
        function: usize,
    ) -> impl Iterator<Item = (usize, &'static AliasQuirk)> {
        let bus = self.machine.bus_of(function);
        let candidates: &[usize] =
            if self.aliasing.contains(&bus.number) { &bus.functions } else { &[] };
        candidates
            .iter()
            .copied()
            .filter(move |other| *other != function)
            .filter_map(move |other| Some((other, self.shared_ids(function, other)?)))
    }

    fn shared_ids(&self, a: usize, b: usize) -> Option<&'static AliasQuirk> {
        let claims = |from: usize, to: usize| {
            self.aliases[from].filter(|(_, set)| set.contains(self.devfn(to)))
        };
        claims(a, b).or_else(|| claims(b, a)).map(|(quirk, _)| quirk)
    }

    pub(super) fn devfn(&self, function: usize) -> u8 {
        let bdf = self.machine.functions()[function].bdf;
        bdf.device() << 3 | bdf.function()
    }

    /// How far the bus that the function sits on isolates.
    pub(super) fn isolation_of_bus(&self, number: (u32, u8)) -> Isolation {
        let at = self.machine.buses().binary_search_by_key(&number, |bus| bus.number);
        at.ok().and_then(|at| self.isolation.get(at)).copied().unwrap_or(Isolation::Isolated)
    }
}
