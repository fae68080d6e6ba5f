//! A [`Machine`]: the functions linked to their buses and bridges.

use std::collections::{BTreeMap, btree_map};

use sva_core::Bdf;

use super::anomaly::Anomaly;
use super::function::{Bridge, PciFunction};
use super::host::Host;

/// A machine: its functions, linked to the buses they sit on. Immutable.
#[derive(Debug, Clone)]
pub struct Machine {
    functions: Vec<PciFunction>,
    buses: Vec<Bus>,
    bus_of: Vec<usize>,
    host: Host,
    anomalies: Vec<Anomaly>,
}

/// One bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bus {
    /// Segment and number.
    pub number: (u32, u8),
    /// The bridge above it, as an index into [`Machine::functions`]; none for root buses and for
    /// the virtual buses of SR-IOV.
    pub bridge: Option<usize>,
    /// The bus above, as an index into [`Machine::buses`]; none for root buses.
    pub parent: Option<usize>,
    /// The functions on it: indexes into [`Machine::functions`], in the order of their addresses.
    pub functions: Vec<usize>,
}

impl Machine {
    /// Links `functions`, in any order.
    pub fn new(functions: Vec<PciFunction>, host: Host) -> Self {
        let mut anomalies = Vec::new();
        let mut by_bdf = BTreeMap::new();
        for function in functions {
            match by_bdf.entry(function.bdf) {
                btree_map::Entry::Vacant(place) => drop(place.insert(function)),
                btree_map::Entry::Occupied(_) => anomalies.push(Anomaly::Twice(function.bdf)),
            }
        }
        let functions: Vec<PciFunction> = by_bdf.into_values().collect();
        let (buses, bus_of) = link(&functions, &mut anomalies);
        Self { functions, buses, bus_of, host, anomalies }
    }

    /// The functions in the order of their addresses.
    pub fn functions(&self) -> &[PciFunction] {
        &self.functions
    }

    /// Where in [`functions`](Self::functions) the function at `bdf` is.
    pub fn find(&self, bdf: Bdf) -> Option<usize> {
        self.functions.binary_search_by_key(&bdf, |function| function.bdf).ok()
    }

    /// The function at `bdf`.
    pub fn get(&self, bdf: Bdf) -> Option<&PciFunction> {
        self.find(bdf).map(|index| &self.functions[index])
    }

    /// The buses in the order of segment and number.
    pub fn buses(&self) -> &[Bus] {
        &self.buses
    }

    /// The bus that a function sits on. `function` is an index into [`functions`](Self::functions).
    pub fn bus_of(&self, function: usize) -> &Bus {
        &self.buses[self.bus_of[function]]
    }

    /// The bus above `bus`.
    pub fn parent_of(&self, bus: &Bus) -> Option<&Bus> {
        bus.parent.map(|parent| &self.buses[parent])
    }

    /// The functions in the slot of `function` (an index), itself included, as indexes in the order
    /// of their addresses.
    pub fn slot_of(&self, function: usize) -> impl Iterator<Item = usize> {
        let slot = self.functions[function].bdf.slot();
        self.bus_of(function)
            .functions
            .iter()
            .copied()
            .filter(move |other| self.functions[*other].bdf.slot() == slot)
    }

    /// The bus below a bridge. `function` is an index into [`functions`](Self::functions).
    pub fn below(&self, function: usize) -> Option<&Bus> {
        let bridge = self.functions[function].bridge()?;
        let number = (self.functions[function].bdf.segment(), bridge.secondary);
        let bus = self.buses.binary_search_by_key(&number, |bus| bus.number).ok()?;
        Some(&self.buses[bus]).filter(|bus| bus.bridge == Some(function))
    }

    /// The bridges between `function` (an index) and its root bus, the nearest first, as indexes.
    pub fn bridges_above(&self, function: usize) -> impl Iterator<Item = usize> {
        let mut bus = Some(self.bus_of(function));
        std::iter::from_fn(move || {
            let here = bus?;
            bus = self.parent_of(here);
            Some(here.bridge)
        })
        .flatten()
    }

    /// What is known beside PCI: kernel, command line, IOMMUs.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Adds to [`anomalies`](Self::anomalies).
    pub(crate) fn note(&mut self, anomaly: Anomaly) {
        self.anomalies.push(anomaly);
    }

    /// What in the source cannot be, and was left out.
    pub fn anomalies(&self) -> &[Anomaly] {
        &self.anomalies
    }
}

/// The buses, and for each function the one that it sits on.
fn link(functions: &[PciFunction], anomalies: &mut Vec<Anomaly>) -> (Vec<Bus>, Vec<usize>) {
    let mut bridges: BTreeMap<(u32, u8), usize> = BTreeMap::new();
    for (index, function) in functions.iter().enumerate() {
        let Some(&Bridge { secondary, .. }) = function.bridge() else { continue };
        let bdf = function.bdf;
        // 0 is what a bridge says that nobody has configured.
        if secondary <= bdf.bus() {
            if secondary != 0 {
                anomalies.push(Anomaly::BadSecondary { bridge: bdf, secondary });
            }
            continue;
        }
        match bridges.entry((bdf.segment(), secondary)) {
            btree_map::Entry::Vacant(place) => drop(place.insert(index)),
            btree_map::Entry::Occupied(first) => {
                anomalies.push(Anomaly::SharedBus {
                    bridge: functions[*first.get()].bdf,
                    other: bdf,
                    secondary,
                });
            }
        }
    }
    let mut numbers: Vec<(u32, u8)> =
        functions.iter().map(|function| (function.bdf.segment(), function.bdf.bus())).collect();
    numbers.extend(bridges.keys());
    numbers.sort_unstable();
    numbers.dedup();
    let place = |number: (u32, u8)| numbers.binary_search(&number).ok();
    let parent_of = |number: (u32, u8)| match bridges.get(&number) {
        Some(bridge) => place((number.0, functions[*bridge].bdf.bus())),
        None => virtual_parent(functions, &bridges, number).and_then(place),
    };
    let mut buses: Vec<Bus> = numbers
        .iter()
        .map(|&number| Bus {
            number,
            bridge: bridges.get(&number).copied(),
            parent: parent_of(number),
            functions: Vec::new(),
        })
        .collect();
    let mut bus_of = Vec::with_capacity(functions.len());
    for (index, function) in functions.iter().enumerate() {
        // Every function's bus is among the numbers.
        let bus = place((function.bdf.segment(), function.bdf.bus())).unwrap_or_default();
        buses[bus].functions.push(index);
        bus_of.push(bus);
    }
    (buses, bus_of)
}

/// A bus without a bridge inside another bridge's range is one of SR-IOV's: it hangs from the
/// innermost such bus.
fn virtual_parent(
    functions: &[PciFunction],
    bridges: &BTreeMap<(u32, u8), usize>,
    number: (u32, u8),
) -> Option<(u32, u8)> {
    let (segment, bus) = number;
    let mut lower = bridges.range((segment, 0)..(segment, bus)).rev();
    lower
        .find(|(_, bridge)| {
            functions[**bridge].bridge().is_some_and(|bridge| bridge.subordinate >= bus)
        })
        .map(|(number, _)| *number)
}
