//! What a device's requests carry and pass on their way to the root: requester ID, defects,
//! reserved addresses.

use sva_core::topology::PathDefect;
use sva_core::topology::RequesterId;
use sva_core::{AddrRange, Bdf};
use sva_topology::AcsBits;

use crate::fabric::ranges::joined;
use crate::fabric::route::AddressType;
use crate::fabric::spec::PortKind;
use crate::fabric::tree::{Function, Parent, Tree, bus_zero};

/// The requester ID that the IOMMU sees.
///
/// A PCIe-to-PCI bridge issues the requests of its conventional bus as device 0, function 0 of that
/// bus (PCIe to PCI/PCI-X bridge 1.0, section 2.3). Bridges do not nest, so at most one is on the
/// way. Answers by position, so also for a device that is not there any more.
pub(crate) fn requester(tree: &Tree, device: Bdf) -> RequesterId {
    match tree.bus_of(device) {
        Some(Parent::Port(port)) if tree.ports[port].spec.kind == PortKind::PciBridge => {
            RequesterId(bus_zero(device.segment(), device.bus()))
        }
        _ => RequesterId(device),
    }
}

/// The first thing that the path of `from` lacks, from the device up, as ACS is now.
///
/// A function is asked for RR where it has siblings in its device.
pub(crate) fn defect(tree: &Tree, from: &Function) -> Option<PathDefect> {
    let bdf = from.spec.bdf;
    let peers_inside = tree.slot(bdf).nth(1).is_some() || tree.beside(bdf).is_some();
    let conventional = matches!(
        from.above,
        Parent::Port(port) if tree.ports[port].spec.kind == PortKind::PciBridge
    );
    if peers_inside && !conventional && !from.enables(AcsBits::RR) {
        return Some(PathDefect::NoRequestRedirect(bdf));
    }
    let (ports, _) = tree.upward(from.above);
    ports.into_iter().find_map(|port| {
        let port = &tree.ports[port];
        let bdf = port.spec.bdf;
        match port.spec.kind {
            // A conventional bus redirects nothing.
            PortKind::PciBridge => Some(PathDefect::NoRequestRedirect(bdf)),
            // Nor does an upstream port between its switch and the functions beside it.
            PortKind::Upstream if port.spec.multifunction => {
                Some(PathDefect::NoRequestRedirect(bdf))
            }
            PortKind::Root | PortKind::Downstream if !port.enables(AcsBits::RR) => {
                Some(PathDefect::NoRequestRedirect(bdf))
            }
            PortKind::Root | PortKind::Downstream if !port.enables(AcsBits::UF) => {
                Some(PathDefect::NoUpstreamForwarding(bdf))
            }
            _ if !port.spec.tlp_prefix => Some(PathDefect::NoTlpPrefix(bdf)),
            _ => None,
        }
    })
}

/// The first port or bridge on the way of `from` that stops its translated requests, as ACS is now.
pub(crate) fn translation_blocker(tree: &Tree, from: &Function) -> Option<Bdf> {
    let (ports, _) = tree.upward(from.above);
    let stops = |port: &usize| AddressType::Translated.stopped_by(&tree.ports[*port]);
    ports.into_iter().find(stops).map(|port| tree.ports[port].spec.bdf)
}

/// The reserved ranges of the host bridge above `device`, sorted and disjoint; of all host bridges
/// where none is known.
pub(crate) fn reserved(tree: &Tree, device: Bdf) -> Vec<AddrRange> {
    let ranges: Vec<AddrRange> = match tree.bus_of(device) {
        Some(above) => tree.hosts[tree.upward(above).1].spec.reserved.clone(),
        None => tree.hosts.iter().flat_map(|host| host.spec.reserved.iter().copied()).collect(),
    };
    joined(ranges)
}
