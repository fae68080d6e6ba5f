//! What each function is in PCI Express, where its capability was not shown.
//!
//! The likeliest by place and class: a bridge on a root bus is a root port, unless it decodes
//! subtractively as the conventional bridges of old chipsets do; below an express port sits an
//! endpoint or, if it is a bridge, the upstream port of a switch, unless all below it is
//! conventional; below an upstream port sit downstream ports; below a bridge to conventional PCI
//! everything is conventional. On a root bus anything else counts as conventional: Intel's
//! integrated devices mostly are (not their wireless ones), and AMD's mostly show that they have no
//! capabilities at all.

use std::collections::HashMap;

use sva_core::Bdf;

use super::absent::{absent, gap};
use super::identity::Identity;
use crate::machine::{Basis, Class, ExpressKind, Fact, FunctionReading, Header, ListState};

/// What a function is in PCI Express: none in conventional PCI.
pub(super) type Kind = Fact<Option<ExpressKind>>;

/// The kind of each function, in the order of `functions`.
pub(super) fn kinds(
    functions: &[FunctionReading],
    known: &[Identity],
    physical: &[Option<Fact<Bdf>>],
) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = functions.iter().map(read).collect();
    if functions
        .iter()
        .all(|function| function.express.is_some() || function.capabilities == ListState::Complete)
    {
        return kinds;
    }
    let tree = Tree::of(functions, known);
    for index in top_down(functions) {
        let function = &functions[index];
        if function.express.is_some() || function.capabilities == ListState::Complete {
            continue;
        }
        let above = tree.above(function.bdf).map(|bridge| kinds[bridge].value);
        let kind = if physical[index].is_some() {
            Some(ExpressKind::Endpoint)
        } else {
            tree.likeliest(index, known, functions, above)
        };
        let basis = if function.capabilities == ListState::Hidden {
            Basis::Position
        } else {
            gap(function.capabilities)
        };
        kinds[index] = Fact::assumed(kind, basis);
    }
    kinds
}

fn read(function: &FunctionReading) -> Kind {
    match function.express {
        Some(express) => Fact::read(Some(ExpressKind::from_bits(express.kind))),
        None => absent(function.capabilities),
    }
}

/// All functions, those on lower buses first: a bridge is always on a lower bus than what is below
/// it.
fn top_down(functions: &[FunctionReading]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..functions.len()).collect();
    order.sort_by_key(|index| functions[*index].bdf);
    order
}

/// Which bridge is above which bus, as far as the readings make sense.
struct Tree {
    bridges: HashMap<(u32, u8), usize>,
    below: HashMap<(u32, u8), Vec<usize>>,
}

impl Tree {
    fn of(functions: &[FunctionReading], known: &[Identity]) -> Self {
        let mut tree = Self { bridges: HashMap::new(), below: HashMap::new() };
        for (index, (function, known)) in functions.iter().zip(known).enumerate() {
            tree.below.entry((function.bdf.segment(), function.bdf.bus())).or_default().push(index);
            if let Header::Bridge(bridge) | Header::CardBus(bridge) = &known.header.value
                && bridge.secondary > function.bdf.bus()
            {
                tree.bridges.entry((function.bdf.segment(), bridge.secondary)).or_insert(index);
            }
        }
        tree
    }

    fn above(&self, bdf: Bdf) -> Option<usize> {
        self.bridges.get(&(bdf.segment(), bdf.bus())).copied()
    }

    fn likeliest(
        &self,
        index: usize,
        known: &[Identity],
        functions: &[FunctionReading],
        above: Option<Option<ExpressKind>>,
    ) -> Option<ExpressKind> {
        let me = &known[index];
        let bridge = me.has_buses_below();
        match above {
            // A conventional bus.
            Some(None | Some(ExpressKind::PcieToPci)) => None,
            Some(Some(ExpressKind::Upstream)) if bridge => Some(ExpressKind::Downstream),
            Some(Some(_)) if bridge && self.leads_to_express(index, known, functions) => {
                Some(ExpressKind::Upstream)
            }
            Some(Some(_)) if bridge => Some(ExpressKind::PcieToPci),
            Some(Some(_)) => Some(ExpressKind::Endpoint),
            // The text begins below a root port.
            None if bridge && self.has_slots_below(index, known, functions) => {
                Some(ExpressKind::Upstream)
            }
            None if bridge && !me.conventional_by_class() => Some(ExpressKind::RootPort),
            None if me.is_wireless_of_intel() => Some(ExpressKind::IntegratedEndpoint),
            None => None,
        }
    }

    /// Whether there are several bridges below, not all in slot 0: below a root port there is no
    /// other slot.
    fn has_slots_below(
        &self,
        index: usize,
        known: &[Identity],
        functions: &[FunctionReading],
    ) -> bool {
        let below = self.children(index, known, functions);
        below.iter().any(|child| functions[*child].bdf.device() > 0)
            && self.leads_to_express(index, known, functions)
    }

    fn children(
        &self,
        index: usize,
        known: &[Identity],
        functions: &[FunctionReading],
    ) -> &[usize] {
        let Header::Bridge(bridge) = &known[index].header.value else { return &[] };
        self.below
            .get(&(functions[index].bdf.segment(), bridge.secondary))
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// Whether a bridge below an express port is a switch: all that is directly below it are
    /// bridges, or it is empty and calls itself a switch.
    fn leads_to_express(
        &self,
        index: usize,
        known: &[Identity],
        functions: &[FunctionReading],
    ) -> bool {
        let (me, below) = (&known[index], self.children(index, known, functions));
        if below.is_empty() {
            return !me.name.contains("to PCI Bridge") && !me.name.contains("PCI-X");
        }
        below.iter().all(|child| known[*child].code() == Some(Class::PCI_BRIDGE))
    }
}

impl Identity {
    /// Intel's chipsets have their wireless function on the root bus, and other than its neighbours
    /// it is an integrated endpoint.
    fn is_wireless_of_intel(&self) -> bool {
        self.code() == Some(0x0280) && self.ids.is_some_and(|ids| ids.value.vendor == 0x8086)
    }

    /// A conventional PCI-to-PCI bridge by what it says of itself.
    fn conventional_by_class(&self) -> bool {
        let subtractive = self.class.is_some_and(|class| {
            class.value.code() == Class::PCI_BRIDGE && class.value.0 & 0xff == 1
        });
        let card_bus = matches!(self.header.value, Header::CardBus(_));
        subtractive || card_bus || (self.name.contains("82801") && self.name.contains("PCI Bridge"))
    }
}
