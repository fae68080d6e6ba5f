//! Addresses: which windows and BARs of the machine the fabric can have, as they are programmed.
//!
//! On each bus what is decoded is claimed, windows before BARs; what lies outside the windows
//! above, or is claimed already, is left out with a note. All root buses share one space, for no
//! address has two host bridges. Child domains of VMD claim first: their addresses lie inside a BAR
//! of the VMD endpoint, which then is left out, as it is no memory of its own.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use sva_core::{AddrRange, Bdf};
use sva_topology::machine::{Bar, Machine, PciFunction};

use super::note::{Note, RangeUnsupported};
use crate::fabric::{
    BarSpec, FOUR_GIB, FabricSpec, FunctionSpec, HostBridgeSpec, PortSpec, WINDOW_UNIT, joined,
    limit,
};

/// A bus of the fabric: segment and number.
type BusNumber = (u32, u8);

/// What is claimed on one bus, or on all root buses.
#[derive(Default)]
struct Claims {
    /// By first address: the range, and whose root bus.
    taken: BTreeMap<u64, (AddrRange, BusNumber)>,
}

impl Claims {
    /// Ranges of two root buses also keep the 1 MiB apart that host bridge windows are made of.
    fn claim(&mut self, range: AddrRange, owner: BusNumber) -> Result<(), RangeUnsupported> {
        let before = self.taken.range(..=range.first()).next_back();
        let after = self.taken.range(range.first()..).next();
        for (_, (other, other_owner)) in before.into_iter().chain(after) {
            let near = *other_owner != owner && rounded(*other).overlaps(rounded(range));
            if near || other.overlaps(range) {
                return Err(RangeUnsupported::Overlaps(*other));
            }
        }
        self.taken.insert(range.first(), (range, owner));
        Ok(())
    }

    /// The fewest windows that hold what `owner` claimed and nothing of others, each on one side of
    /// 4 GiB and off the doorbells.
    fn windows(&self, owner: BusNumber) -> Vec<AddrRange> {
        let mut windows: Vec<AddrRange> = Vec::new();
        // Whether something that is not `owner`'s lies behind the last window.
        let mut interrupted = true;
        for (range, other) in self.taken.values() {
            if *other != owner {
                interrupted = true;
                continue;
            }
            let range = rounded(*range);
            match windows.last_mut() {
                Some(last) if !interrupted => {
                    match AddrRange::inclusive(last.first(), last.last().max(range.last())) {
                        Some(both) if one_side(both) && !doorbells(both) => *last = both,
                        _ => windows.push(range),
                    }
                }
                _ => windows.push(range),
            }
            interrupted = false;
        }
        windows
    }
}

fn rounded(range: AddrRange) -> AddrRange {
    AddrRange::inclusive(range.first() & !(WINDOW_UNIT - 1), range.last() | (WINDOW_UNIT - 1))
        .unwrap_or(range)
}

fn one_side(range: AddrRange) -> bool {
    (range.first() < FOUR_GIB) == (range.last() < FOUR_GIB)
}

fn doorbells(range: AddrRange) -> bool {
    let (first, last) = HostBridgeSpec::MSI_DOORBELLS;
    AddrRange::inclusive(first, last).is_some_and(|doorbells| doorbells.overlaps(range))
}

/// Gives the ports and functions of `spec`, which has parents before children, their windows and
/// BARs, and the host bridges the windows that hold them.
pub(super) fn program(machine: &Machine, spec: &mut FabricSpec, notes: &mut Vec<Note>) {
    let mut memory = Memory::default();
    let mut segments: Vec<u32> = spec.host_bridges.iter().map(|host| host.segment).collect();
    segments.sort_unstable_by_key(|segment| Reverse(*segment));
    segments.dedup();
    for segment in segments {
        let ports = spec.ports.iter_mut().filter(|port| port.bdf.segment() == segment);
        ports.for_each(|port| memory.port(machine, port, notes));
        let functions =
            spec.functions.iter_mut().filter(|function| function.bdf.segment() == segment);
        functions.for_each(|function| memory.function(machine, function, notes));
    }
    for host in &mut spec.host_bridges {
        host.windows = memory.top.windows((host.segment, host.bus));
    }
}

#[derive(Default)]
struct Memory {
    /// What is claimed on root buses.
    top: Claims,
    /// What is claimed on each other bus, the windows that lead there, and the root bus above.
    buses: HashMap<BusNumber, (Claims, Vec<AddrRange>, BusNumber)>,
    /// The root bus of each bus below a port that was added.
    added: HashMap<BusNumber, BusNumber>,
}

impl Memory {
    fn port(&mut self, machine: &Machine, port: &mut PortSpec, notes: &mut Vec<Note>) {
        let (segment, bdf) = (port.bdf.segment(), port.bdf);
        let root = self.root((segment, bdf.bus()));
        if machine.get(bdf).is_none() {
            // An added port decodes what is below it.
            self.added.insert((segment, port.secondary), root);
            return;
        }
        let windows = machine
            .get(bdf)
            .and_then(PciFunction::bridge)
            .map(|bridge| split(&bridge.windows))
            .unwrap_or_default();
        for window in windows {
            let fits = if port.windows.len() >= limit::RANGES {
                Err(RangeUnsupported::TooMany)
            } else {
                aligned(window)
            };
            match fits.and_then(|()| self.claim(bdf, window)) {
                Ok(()) => port.windows.push(window),
                Err(why) => notes.push(Note::Window { bdf, window, why }),
            }
        }
        self.buses
            .insert((segment, port.secondary), (Claims::default(), port.windows.clone(), root));
    }

    fn function(&mut self, machine: &Machine, function: &mut FunctionSpec, notes: &mut Vec<Note>) {
        let bdf = function.bdf;
        for bar in machine.get(bdf).into_iter().flat_map(|it| &it.bars) {
            let another = function.bars.iter().any(|other| other.index == bar.index)
                || usize::from(bar.index) >= limit::BARS;
            let fits = if another { Err(RangeUnsupported::TooMany) } else { range(bar) };
            match fits.and_then(|range| self.claim(bdf, range).map(|()| range)) {
                Ok(range) => function.bars.push(BarSpec {
                    index: bar.index,
                    address: range.first(),
                    size: range.len(),
                }),
                Err(why) => {
                    notes.push(Note::Bar { bdf, index: bar.index, address: bar.address, why })
                }
            }
        }
    }

    /// Claims `range` on the bus of `bdf`.
    fn claim(&mut self, bdf: Bdf, range: AddrRange) -> Result<(), RangeUnsupported> {
        let bus = (bdf.segment(), bdf.bus());
        match self.buses.get_mut(&bus) {
            Some((_, windows, _)) if !windows.iter().any(|window| window.covers(range)) => {
                Err(RangeUnsupported::Outside)
            }
            Some((claims, _, root)) => claims.claim(range, *root),
            None if doorbells(range) => Err(RangeUnsupported::Doorbells),
            None => self.top.claim(range, self.root(bus)),
        }
    }

    /// The root bus above `bus`.
    fn root(&self, bus: BusNumber) -> BusNumber {
        let above = self.buses.get(&bus).map(|(_, _, root)| *root);
        above.or_else(|| self.added.get(&bus).copied()).unwrap_or(bus)
    }
}

/// The windows cut at 4 GiB, those that touch joined.
fn split(windows: &[AddrRange]) -> Vec<AddrRange> {
    let sides = |window: &AddrRange| {
        let low = AddrRange::inclusive(window.first(), window.last().min(FOUR_GIB - 1));
        let high = AddrRange::inclusive(window.first().max(FOUR_GIB), window.last());
        [low, high].into_iter().flatten()
    };
    let cut = joined(windows.to_vec());
    cut.iter().flat_map(sides).collect()
}

fn aligned(window: AddrRange) -> Result<(), RangeUnsupported> {
    if rounded(window) == window { Ok(()) } else { Err(RangeUnsupported::Misaligned) }
}

fn range(bar: &Bar) -> Result<AddrRange, RangeUnsupported> {
    let size = bar.size.ok_or(RangeUnsupported::NoSize)?;
    if bar.address == 0 {
        return Err(RangeUnsupported::Unassigned);
    }
    if size < 16 || !size.is_power_of_two() || !bar.address.is_multiple_of(size) {
        return Err(RangeUnsupported::Misaligned);
    }
    AddrRange::new(bar.address, size)
        .filter(|range| one_side(*range))
        .ok_or(RangeUnsupported::Crosses)
}
