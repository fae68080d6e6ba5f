//! Where one memory request goes: the bus's rules, hop by hop.
//!
//! By address and address type; a PASID, if there is one, is not looked at (PCIe 6.0, section
//! 2.2.4.1). This is the literal form of the rules, one address at a time; `windows` has the same
//! for all addresses.
//!
//! From an endpoint up:
//!
//! 1. Inside a multifunction device, the BAR of another function takes the request unless the
//!    issuing function's RR redirects it, and so does a window of the upstream port beside it; what
//!    leaves a switch through such a port is taken by the BARs beside that, for upstream ports have
//!    no ACS here. On a conventional bus the BAR of any other device takes it, the bridge drops
//!    what lies in its own window, and the rest continues as the bridge's request.
//! 2. A root or downstream port that a request enters from below, the address being in the port's
//!    own window: UF sends it further up, without UF it is dropped. Elsewhere, with RR: further up.
//! 3. Elsewhere, without RR: in a switch, the downstream port whose window decodes it takes it
//!    down; what then lies in the window of the upstream port is dropped there; the rest goes
//!    further up. At the root complex, where the host bridge permits peer-to-peer, the other ports
//!    and integrated endpoints are asked; an integrated endpoint's own requests go to the IOMMU at
//!    once.
//! 4. What leaves the root complex upward reaches the IOMMU.
//!
//! Translated requests go the same way, but for three things:
//!
//! - A root or downstream port with TB stops those that enter it from below, before all else that
//!   it does.
//! - RR redirects none of those that a peer decodes where DT is set too, in a port or between
//!   functions. What no peer decodes is redirected all the same.
//! - There are none on a conventional bus, which has no address types: its bridge stops them, and
//!   no device on it hears them.
//!
//! SV holds always here, for a device of this fabric issues no foreign requester ID.

use sva_core::Bdf;
use sva_topology::AcsBits;

use crate::acs::{Acs, enabled};
use crate::fabric::spec::PortKind;
use crate::fabric::tree::{Child, Function, Parent, Port, Tree};

/// Where a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    /// The IOMMU gets it.
    Upstream,
    /// A BAR of a peer decodes it.
    Peer {
        /// The peer.
        bdf: Bdf,
        /// The index of the BAR, 0 to 5.
        bar: u8,
    },
    /// A port or bridge drops it: the address is in its window, and nobody behind decodes it, or
    /// the request came from there.
    Dropped {
        /// The port or bridge; for a device that is not on the fabric, that device.
        bridge: Bdf,
    },
    /// A port stops requests with a translated address (ACS Translation Blocking), or a bridge
    /// leads to a bus that cannot carry one.
    Blocked {
        /// The port or bridge.
        port: Bdf,
    },
}

/// What the address of a memory request is, as its AT field says (PCIe 6.0, section 10.2.1).
///
/// Translation requests, the third type, are routed as untranslated ones and stopped as translated
/// ones; nobody follows them here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressType {
    Untranslated,
    Translated,
}

impl AddressType {
    /// Whether a port or function with `acs` sends such requests up although a peer decodes them:
    /// RR, which DT lifts for translated ones.
    pub(crate) fn redirected_by(self, acs: Option<Acs>) -> bool {
        let direct = self == Self::Translated && enabled(acs, AcsBits::DT);
        enabled(acs, AcsBits::RR) && !direct
    }

    /// Whether `port` stops such requests that enter it from below.
    pub(crate) fn stopped_by(self, port: &Port) -> bool {
        let stops = match port.spec.kind {
            PortKind::PciBridge => true,
            PortKind::Root | PortKind::Downstream => port.enables(AcsBits::TB),
            PortKind::Upstream => false,
        };
        stops && self == Self::Translated
    }
}

/// Follows a request of `from` to `address`.
pub(crate) fn route(
    tree: &Tree,
    from: &Function,
    address_type: AddressType,
    address: u64,
) -> Route {
    if let Some(caught) = in_device(tree, from, address_type, address) {
        return caught;
    }
    // The bus that the request is on, the element that put it there, and whether that lets nothing
    // but the way up take it.
    let mut at = from.above;
    let mut redirect = true;
    let mut source = from.spec.bdf;
    loop {
        let port = match at {
            Parent::HostBridge(host) => return root_complex(tree, host, source, redirect, address),
            Parent::Port(port) => &tree.ports[port],
        };
        source = port.spec.bdf;
        if address_type.stopped_by(port) {
            return Route::Blocked { port: source };
        }
        let own = port.decodes(address);
        match port.spec.kind {
            PortKind::PciBridge if own => return Route::Dropped { bridge: source },
            PortKind::PciBridge => redirect = false,
            PortKind::Root | PortKind::Downstream if own && !port.enables(AcsBits::UF) => {
                return Route::Dropped { bridge: source };
            }
            PortKind::Root | PortKind::Downstream => {
                redirect = own || address_type.redirected_by(port.acs)
            }
            PortKind::Upstream if port.spec.multifunction => {
                if let Some(taken) = tree.slot(source).find_map(|beside| claim(beside, address)) {
                    return taken;
                }
            }
            PortKind::Upstream => {}
        }
        if let (PortKind::Downstream, Parent::Port(upstream), false) =
            (port.spec.kind, port.above, redirect)
        {
            if let Some(taken) = sideways(tree, Parent::Port(upstream), source, address) {
                return taken;
            }
            if tree.ports[upstream].decodes(address) && !port.enables(AcsBits::RR) {
                return Route::Dropped { bridge: tree.ports[upstream].spec.bdf };
            }
        }
        at = port.above;
    }
}

/// What takes a request before it leaves the device, or the conventional bus that the device is on.
fn in_device(
    tree: &Tree,
    from: &Function,
    address_type: AddressType,
    address: u64,
) -> Option<Route> {
    match from.above {
        Parent::Port(port) if tree.ports[port].spec.kind == PortKind::PciBridge => {
            match address_type {
                AddressType::Untranslated => sideways(tree, from.above, from.spec.bdf, address),
                AddressType::Translated => None,
            }
        }
        _ if address_type.redirected_by(from.acs) => None,
        _ => {
            let siblings =
                tree.slot(from.spec.bdf).filter(|sibling| sibling.spec.bdf != from.spec.bdf);
            let below = || {
                tree.beside(from.spec.bdf)
                    .and_then(|upstream| down(tree, Child::Port(upstream), address))
            };
            siblings.filter_map(|sibling| claim(sibling, address)).next().or_else(below)
        }
    }
}

fn root_complex(tree: &Tree, host: usize, source: Bdf, redirect: bool, address: u64) -> Route {
    if redirect || !tree.hosts[host].spec.p2p {
        return Route::Upstream;
    }
    sideways(tree, Parent::HostBridge(host), source, address).unwrap_or(Route::Upstream)
}

/// The element of a bus, other than `source`, that takes the request.
fn sideways(tree: &Tree, bus: Parent, source: Bdf, address: u64) -> Option<Route> {
    tree.children(bus)
        .iter()
        .filter(|child| tree.bdf_below(**child) != source)
        .find_map(|child| down(tree, *child, address))
}

/// Where a request for `address` ends that `child` is offered; `None` where it does not decode it.
fn down(tree: &Tree, child: Child, address: u64) -> Option<Route> {
    match child {
        Child::Function(function) => claim(&tree.functions[function], address),
        Child::Port(port) => {
            let port = &tree.ports[port];
            if !port.decodes(address) {
                return None;
            }
            let taken = port.children.iter().find_map(|child| down(tree, *child, address));
            Some(taken.unwrap_or(Route::Dropped { bridge: port.spec.bdf }))
        }
    }
}

fn claim(function: &Function, address: u64) -> Option<Route> {
    let bar = function.bars.iter().find(|bar| bar.range.contains(address))?;
    Some(Route::Peer { bdf: function.spec.bdf, bar: bar.index })
}
