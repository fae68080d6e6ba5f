//! What all policies ask of a machine: the order of decisions, and what is known of each function.

use std::collections::BTreeSet;

use super::acs::{AcsVerdict, acs_verdict};
use super::alias::{self, AliasQuirk, BridgeRequesterId, DevfnSet};
use super::isolation::{self, Isolation};
use super::policy::Policy;
use super::step::Untranslated;
use crate::acs::AcsBits;
use crate::machine::{Class, Machine, Source};

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
    aliases: Vec<Option<(&'static AliasQuirk, DevfnSet)>>,
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
            let aliased = |function: usize| rules.aliases[function].is_some();
            let of = |bus| isolation::of_bus(machine, &rules.verdicts, aliased, bus);
            rules.isolation = machine.buses().iter().map(of).collect();
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

    pub(super) fn bridge_requester_id(&self, bridge: usize) -> BridgeRequesterId {
        alias::bridge_requester_id(self.machine, bridge)
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
