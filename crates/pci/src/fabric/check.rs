//! What a description must satisfy before its windows are programmed.

use std::collections::HashSet;

use sva_core::{AddrRange, Bdf};
use sva_topology::AcsBits;

use crate::acs::Acs;
use crate::fabric::error::{Decoder, SpecError};
use crate::fabric::limit;
use crate::fabric::ranges::{FOUR_GIB, WINDOW_UNIT};
use crate::fabric::spec::{FabricSpec, FunctionSpec, HostBridgeSpec, PortKind, PortSpec};
use crate::fabric::tree::{Child, Parent, Port, Tree, host_bdf};

/// Checks every element by itself, and that no two have one name or address.
pub(crate) fn elements(spec: &FabricSpec) -> Result<(), SpecError> {
    if spec.host_bridges.is_empty() {
        return Err(SpecError::NoHostBridge);
    }
    at_most("host bridges", spec.host_bridges.len(), limit::HOST_BRIDGES)?;
    at_most("ports", spec.ports.len(), limit::PORTS)?;
    at_most("functions", spec.functions.len(), limit::FUNCTIONS)?;

    let mut ids = HashSet::new();
    for id in
        spec.host_bridges.iter().map(|host| &host.id).chain(spec.ports.iter().map(|port| &port.id))
    {
        name(id)?;
        if !ids.insert(id) {
            return Err(SpecError::DuplicateId { id: id.clone() });
        }
    }
    distinct(spec.host_bridges.iter().map(host_bdf))?;
    distinct(
        spec.ports
            .iter()
            .map(|port| port.bdf)
            .chain(spec.functions.iter().map(|function| function.bdf)),
    )?;
    groups(spec)?;
    spec.host_bridges.iter().try_for_each(host)?;
    spec.ports.iter().try_for_each(port)?;
    spec.functions.iter().try_for_each(function)
}

fn distinct(addresses: impl Iterator<Item = Bdf>) -> Result<(), SpecError> {
    let mut seen = HashSet::new();
    match addresses.into_iter().find(|bdf| !seen.insert(*bdf)) {
        Some(bdf) => Err(SpecError::DuplicateAddress { bdf }),
        None => Ok(()),
    }
}

/// Checks that no group is empty and nothing is in two. Whether all members are there is asked
/// once, of a new fabric: later they may leave.
fn groups(spec: &FabricSpec) -> Result<(), SpecError> {
    at_most("groups", spec.groups.len(), limit::FUNCTIONS)?;
    at_most(
        "members of groups",
        spec.groups.iter().map(Vec::len).sum(),
        limit::FUNCTIONS + limit::PORTS + limit::HOST_BRIDGES,
    )?;
    if let Some(number) = spec.groups.iter().position(Vec::is_empty) {
        return Err(SpecError::EmptyGroup { number });
    }
    let mut seen = HashSet::new();
    match spec.groups.iter().flatten().find(|bdf| !seen.insert(**bdf)) {
        Some(&bdf) => Err(SpecError::InTwoGroups { bdf }),
        None => Ok(()),
    }
}

/// Checks that all members of declared groups are there.
pub(crate) fn members(spec: &FabricSpec) -> Result<(), SpecError> {
    let ports = spec.ports.iter().map(|port| port.bdf);
    let there: HashSet<Bdf> = spec
        .host_bridges
        .iter()
        .map(host_bdf)
        .chain(ports)
        .chain(spec.functions.iter().map(|function| function.bdf))
        .collect();
    match spec.groups.iter().flatten().find(|bdf| !there.contains(bdf)) {
        Some(&bdf) => Err(SpecError::UnknownMember { bdf }),
        None => Ok(()),
    }
}

fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), SpecError> {
    if count <= limit { Ok(()) } else { Err(SpecError::TooMany { what, count, limit }) }
}

/// Names are drawn on terminals and compared: nothing but plain characters.
fn name(name: &str) -> Result<(), SpecError> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if plain && !name.is_empty() && name.len() <= limit::NAME {
        return Ok(());
    }
    Err(SpecError::BadName { name: name.chars().take(limit::NAME).collect() })
}

fn host(host: &HostBridgeSpec) -> Result<(), SpecError> {
    let bdf = host_bdf(host);
    at_most("windows of a host bridge", host.windows.len(), limit::RANGES)?;
    at_most("reserved ranges of a host bridge", host.reserved.len(), limit::RANGES)?;
    for &window in &host.windows {
        window_aligned(Decoder::HostBridge(bdf), window)?;
        if let Some(&reserved) = host.reserved.iter().find(|reserved| reserved.overlaps(window)) {
            return Err(SpecError::WindowReserved { host: bdf, window, reserved });
        }
    }
    Ok(())
}

fn window_aligned(decoder: Decoder, range: AddrRange) -> Result<(), SpecError> {
    let aligned =
        range.first().is_multiple_of(WINDOW_UNIT) && range.last() % WINDOW_UNIT == WINDOW_UNIT - 1;
    if aligned { Ok(()) } else { Err(SpecError::Misaligned { decoder, range, to: WINDOW_UNIT }) }
}

fn one_side(decoder: Decoder, range: AddrRange) -> Result<(), SpecError> {
    if range.first() < FOUR_GIB && range.last() >= FOUR_GIB {
        return Err(SpecError::CrossesFourGib { decoder, range });
    }
    Ok(())
}

fn port(port: &PortSpec) -> Result<(), SpecError> {
    let bdf = port.bdf;
    at_most("windows of a port", port.windows.len(), limit::RANGES)?;
    for &window in &port.windows {
        window_aligned(Decoder::Port(bdf), window)?;
        one_side(Decoder::Port(bdf), window)?;
    }
    if port.multifunction && port.kind != PortKind::Upstream {
        return Err(SpecError::MultifunctionMisplaced { bdf, kind: port.kind });
    }
    if port.kind == PortKind::PciBridge && port.tlp_prefix {
        return Err(SpecError::PrefixOnPci { bdf });
    }
    match port.acs {
        Some(_) if matches!(port.kind, PortKind::Upstream | PortKind::PciBridge) => {
            Err(SpecError::AcsMisplaced { bdf, kind: port.kind })
        }
        Some(acs) => consistent(bdf, acs),
        None => Ok(()),
    }
}

fn consistent(bdf: Bdf, acs: Acs) -> Result<(), SpecError> {
    let bits = acs.enabled & !acs.implemented;
    if !bits.is_empty() {
        return Err(SpecError::AcsNotImplemented { bdf, bits });
    }
    if acs.enabled.contains(AcsBits::EC) {
        return Err(SpecError::EgressControl { bdf });
    }
    Ok(())
}

fn function(function: &FunctionSpec) -> Result<(), SpecError> {
    let bdf = function.bdf;
    if let Some(model) = &function.model {
        name(model)?;
    }
    if let Some(acs) = function.acs {
        let bits = acs.implemented & (AcsBits::SV | AcsBits::TB | AcsBits::UF);
        if !bits.is_empty() {
            return Err(SpecError::AcsNotForFunctions { bdf, bits });
        }
        consistent(bdf, acs)?;
    }
    if function.capabilities.pri.is_some() && !function.capabilities.ats {
        return Err(SpecError::PriWithoutAts { bdf });
    }
    at_most("BARs of a function", function.bars.len(), limit::BARS)?;
    for (n, bar) in function.bars.iter().enumerate() {
        let index = bar.index;
        if usize::from(index) >= limit::BARS {
            return Err(SpecError::BarIndex { bdf, index });
        }
        if function.bars[..n].iter().any(|other| other.index == index) {
            return Err(SpecError::DuplicateBar { bdf, index });
        }
    }
    Ok(())
}

/// Checks that every element is on the bus below its parent, and that bus numbers nest. `order` has
/// parents before children.
pub(crate) fn buses(tree: &mut Tree, order: &[usize]) -> Result<(), SpecError> {
    for port in &tree.ports {
        placed(tree, port)?;
    }
    for function in &tree.functions {
        let bdf = function.spec.bdf;
        if let Parent::Port(above) = function.above {
            let above = &tree.ports[above];
            if above.spec.kind == PortKind::Upstream {
                return Err(SpecError::FunctionMisplaced { bdf, parent: above.spec.id.clone() });
            }
        }
        on_bus(tree, bdf, function.above)?;
    }
    for &port in order.iter().rev() {
        let subordinate = tree.ports[port].subordinate;
        if let Parent::Port(above) = tree.ports[port].above {
            let above = &mut tree.ports[above];
            above.subordinate = above.subordinate.max(subordinate);
        }
    }
    nested(tree, order)
}

fn placed(tree: &Tree, port: &Port) -> Result<(), SpecError> {
    let kind = port.spec.kind;
    let fits = match port.above {
        Parent::HostBridge(_) => matches!(kind, PortKind::Root | PortKind::PciBridge),
        Parent::Port(above) => match tree.ports[above].spec.kind {
            PortKind::Root | PortKind::Downstream => {
                matches!(kind, PortKind::Upstream | PortKind::PciBridge)
            }
            PortKind::Upstream => kind == PortKind::Downstream,
            PortKind::PciBridge => false,
        },
    };
    if !fits {
        let parent_kind = match port.above {
            Parent::HostBridge(_) => "host bridge",
            Parent::Port(above) => tree.ports[above].spec.kind.name(),
        };
        return Err(SpecError::PortMisplaced {
            bdf: port.spec.bdf,
            kind,
            parent: port.spec.parent.clone(),
            parent_kind,
        });
    }
    on_bus(tree, port.spec.bdf, port.above)
}

fn on_bus(tree: &Tree, bdf: Bdf, above: Parent) -> Result<(), SpecError> {
    let (parent, segment, bus) = match above {
        Parent::HostBridge(host) => {
            let host = &tree.hosts[host].spec;
            (&host.id, host.segment, host.bus)
        }
        Parent::Port(port) => {
            let port = &tree.ports[port].spec;
            (&port.id, port.bdf.segment(), port.secondary)
        }
    };
    if (bdf.segment(), bdf.bus()) != (segment, bus) {
        return Err(SpecError::WrongBus { bdf, parent: parent.clone(), segment, bus });
    }
    match above {
        Parent::Port(port) if tree.ports[port].faces_down() && bdf.device() != 0 => {
            Err(SpecError::NotDeviceZero { bdf, port: tree.ports[port].spec.bdf })
        }
        _ => Ok(()),
    }
}

/// A range of buses, and what it is below.
struct Buses {
    segment: u32,
    first: u8,
    last: u8,
    owner: Bdf,
}

fn conflict(a: &Buses, b: &Buses) -> SpecError {
    let (port, first, last) = (a.owner, a.first, a.last);
    SpecError::BusConflict {
        port,
        first,
        last,
        other: b.owner,
        other_first: b.first,
        other_last: b.last,
    }
}

/// Checks that the ranges of siblings are disjoint and above their parent's bus, as routing by bus
/// number needs.
fn nested(tree: &Tree, order: &[usize]) -> Result<(), SpecError> {
    let below = |port: usize| {
        let port = &tree.ports[port];
        Buses {
            segment: port.spec.bdf.segment(),
            first: port.spec.secondary,
            last: port.subordinate,
            owner: port.spec.bdf,
        }
    };
    let ports_of = |children: &[Child]| -> Vec<Buses> {
        children
            .iter()
            .filter_map(
                |child| if let Child::Port(port) = child { Some(below(*port)) } else { None },
            )
            .collect()
    };
    let mut roots = Vec::new();
    for host in &tree.hosts {
        let children = ports_of(&host.children);
        let last = children.iter().map(|range| range.last).fold(host.spec.bus, u8::max);
        let own = Buses {
            segment: host.spec.segment,
            first: host.spec.bus,
            last: host.spec.bus,
            owner: host.bdf(),
        };
        siblings(children, &own)?;
        roots.push(Buses { last, ..own });
    }
    for &port in order {
        let range = below(port);
        siblings(ports_of(&tree.ports[port].children), &Buses { last: range.first, ..range })?;
    }
    disjoint(roots)
}

/// `children` hang from the bus `own`, one bus wide.
fn siblings(children: Vec<Buses>, own: &Buses) -> Result<(), SpecError> {
    match children.iter().find(|child| child.first <= own.last) {
        Some(child) => Err(conflict(child, own)),
        None => disjoint(children),
    }
}

fn disjoint(mut ranges: Vec<Buses>) -> Result<(), SpecError> {
    ranges.sort_by_key(|range| (range.segment, range.first));
    match ranges
        .windows(2)
        .find(|pair| pair[0].segment == pair[1].segment && pair[1].first <= pair[0].last)
    {
        Some(pair) => Err(conflict(&pair[0], &pair[1])),
        None => Ok(()),
    }
}

/// Checks what shares a device number: bridges are alone or among their like, endpoints may sit
/// beside an upstream port that says so, and functions isolate all or none.
pub(crate) fn slots(tree: &Tree) -> Result<(), SpecError> {
    let mut ports: Vec<_> = tree.ports.iter().map(|port| &port.spec).collect();
    ports.sort_by_key(|port| port.bdf);
    for pair in ports.windows(2).filter(|pair| pair[0].bdf.slot() == pair[1].bdf.slot()) {
        let (a, b) = (pair[0], pair[1]);
        if a.kind != b.kind || !matches!(a.kind, PortKind::Root | PortKind::Downstream) {
            return Err(SpecError::MixedSlot { a: a.bdf, kind: a.kind, b: b.bdf });
        }
    }
    for port in ports.into_iter().filter(|port| !port.multifunction) {
        if let Some(function) = tree.slot(port.bdf).next() {
            return Err(SpecError::MixedSlot {
                a: port.bdf,
                kind: port.kind,
                b: function.spec.bdf,
            });
        }
    }
    let mut isolating: Vec<_> = tree
        .functions
        .iter()
        .map(|function| (function.spec.bdf, isolates(&function.spec)))
        .collect();
    isolating.sort();
    for pair in isolating.windows(2).filter(|pair| pair[0].0.slot() == pair[1].0.slot()) {
        match (pair[0], pair[1]) {
            ((with, true), (without, false)) | ((without, false), (with, true)) => {
                return Err(SpecError::MixedFunctionAcs { with, without });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a function redirects what is meant for the other functions of its device, as it was
/// enumerated.
pub(crate) fn isolates(function: &FunctionSpec) -> bool {
    crate::acs::enabled(function.acs, AcsBits::FUNCTION_ISOLATION)
}
