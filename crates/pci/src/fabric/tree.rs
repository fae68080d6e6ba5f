//! The hierarchy: host bridges, ports and functions, linked.
//!
//! An enumerated tree is immutable: a change of the fabric builds another one. So a reader that
//! holds one sees one state of the bus and takes no lock.

use std::collections::{BTreeMap, HashMap};

use sva_core::{AddrRange, Bdf};
use sva_topology::AcsBits;

use crate::acs::Acs;
use crate::fabric::spec::{FunctionSpec, HostBridgeSpec, PortKind, PortSpec};

/// The bridge above a bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parent {
    HostBridge(usize),
    Port(usize),
}

/// What sits on a bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Child {
    Port(usize),
    Function(usize),
}

#[derive(Debug)]
pub(crate) struct HostBridge {
    pub(crate) spec: HostBridgeSpec,
    pub(crate) children: Vec<Child>,
}

impl HostBridge {
    pub(crate) fn bdf(&self) -> Bdf {
        host_bdf(&self.spec)
    }
}

#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) spec: PortSpec,
    /// ACS as it is now; `spec.acs` is as it was when the port was enumerated.
    pub(crate) acs: Option<Acs>,
    pub(crate) above: Parent,
    /// In the order of their addresses.
    pub(crate) children: Vec<Child>,
    /// Bridges between it and the host bridge.
    pub(crate) depth: usize,
    /// The last bus below it.
    pub(crate) subordinate: u8,
    /// What it decodes: sorted ranges that do not touch.
    pub(crate) windows: Vec<AddrRange>,
}

impl Port {
    /// The window that holds `address`.
    pub(crate) fn decodes(&self, address: u64) -> bool {
        self.windows.iter().any(|window| window.contains(address))
    }

    pub(crate) fn enables(&self, bits: AcsBits) -> bool {
        crate::acs::enabled(self.acs, bits)
    }

    /// Whether requests enter it from a link below: root and downstream ports.
    pub(crate) fn faces_down(&self) -> bool {
        matches!(self.spec.kind, PortKind::Root | PortKind::Downstream)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bar {
    pub(crate) index: u8,
    pub(crate) range: AddrRange,
}

#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) spec: FunctionSpec,
    /// ACS as it is now.
    pub(crate) acs: Option<Acs>,
    pub(crate) above: Parent,
    pub(crate) bars: Vec<Bar>,
}

impl Function {
    pub(crate) fn enables(&self, bits: AcsBits) -> bool {
        crate::acs::enabled(self.acs, bits)
    }
}

#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) hosts: Vec<HostBridge>,
    pub(crate) ports: Vec<Port>,
    pub(crate) functions: Vec<Function>,
    by_bdf: BTreeMap<Bdf, usize>,
    /// For each member of a declared group its first one.
    pub(crate) declared: HashMap<Bdf, Bdf>,
    buses: BTreeMap<(u32, u8), Parent>,
    /// By function 0 of their device, the upstream ports that have endpoints beside them.
    beside: BTreeMap<Bdf, usize>,
}

impl Tree {
    /// Links the parts, given with their parents but without children and indexes. `declared` has
    /// for each member of a declared group the first one.
    pub(crate) fn new(
        hosts: Vec<HostBridge>,
        ports: Vec<Port>,
        functions: Vec<Function>,
        declared: HashMap<Bdf, Bdf>,
    ) -> Self {
        let mut tree = Self {
            hosts,
            ports,
            functions,
            by_bdf: BTreeMap::new(),
            declared,
            buses: BTreeMap::new(),
            beside: BTreeMap::new(),
        };
        link_children(&mut tree);
        tree
    }

    /// The function at `bdf`.
    pub(crate) fn function(&self, bdf: Bdf) -> Option<&Function> {
        self.by_bdf.get(&bdf).map(|n| &self.functions[*n])
    }

    /// The functions in the order of their addresses.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = &Function> {
        self.by_bdf.values().map(|n| &self.functions[*n])
    }

    /// The functions of the device that `bdf` is, or would be, a function of.
    pub(crate) fn slot(&self, bdf: Bdf) -> impl Iterator<Item = &Function> {
        let slot = bdf.slot();
        self.by_bdf
            .range(slot..)
            .take_while(move |(other, _)| other.slot() == slot)
            .map(|(_, n)| &self.functions[*n])
    }

    /// The upstream port of the device that `bdf` is, or would be, a function of.
    pub(crate) fn beside(&self, bdf: Bdf) -> Option<usize> {
        self.beside.get(&bdf.slot()).copied()
    }

    /// The bridge above the bus that `bdf` is on.
    pub(crate) fn bus_of(&self, bdf: Bdf) -> Option<Parent> {
        self.buses.get(&(bdf.segment(), bdf.bus())).copied()
    }

    pub(crate) fn bdf_above(&self, above: Parent) -> Bdf {
        match above {
            Parent::HostBridge(host) => self.hosts[host].bdf(),
            Parent::Port(port) => self.ports[port].spec.bdf,
        }
    }

    pub(crate) fn bdf_below(&self, below: Child) -> Bdf {
        match below {
            Child::Port(port) => self.ports[port].spec.bdf,
            Child::Function(function) => self.functions[function].spec.bdf,
        }
    }

    pub(crate) fn children(&self, above: Parent) -> &[Child] {
        match above {
            Parent::HostBridge(host) => &self.hosts[host].children,
            Parent::Port(port) => &self.ports[port].children,
        }
    }

    /// The ports from `above` up to the host bridge, and that.
    pub(crate) fn upward(&self, above: Parent) -> (Vec<usize>, usize) {
        let mut ports = Vec::new();
        let mut at = above;
        loop {
            match at {
                Parent::HostBridge(host) => return (ports, host),
                Parent::Port(port) => {
                    ports.push(port);
                    at = self.ports[port].above;
                }
            }
        }
    }
}

/// Where a host bridge sits: 00.0 of its root bus.
pub(crate) fn host_bdf(host: &HostBridgeSpec) -> Bdf {
    bus_zero(host.segment, host.bus)
}

/// Device 00, function 0 of a bus.
pub(crate) fn bus_zero(segment: u32, bus: u8) -> Bdf {
    const { assert!(Bdf::new(0, 0, 0, 0).is_some()) };
    Bdf::new(segment, bus, 0, 0)
        .unwrap_or_else(|| unreachable!("device 0 and function 0 are in range"))
}

/// Fills the lists of children and the indexes.
fn link_children(tree: &mut Tree) {
    let mut links: Vec<(Parent, Child, Bdf)> =
        Vec::with_capacity(tree.ports.len() + tree.functions.len());
    links.extend(
        tree.ports.iter().enumerate().map(|(n, port)| (port.above, Child::Port(n), port.spec.bdf)),
    );
    links.extend(
        tree.functions
            .iter()
            .enumerate()
            .map(|(n, function)| (function.above, Child::Function(n), function.spec.bdf)),
    );
    links.sort_by_key(|(_, _, bdf)| *bdf);
    for (above, below, bdf) in links {
        match above {
            Parent::HostBridge(host) => tree.hosts[host].children.push(below),
            Parent::Port(port) => tree.ports[port].children.push(below),
        }
        if let Child::Function(function) = below {
            tree.by_bdf.insert(bdf, function);
        }
    }
    let multifunction = tree.ports.iter().enumerate().filter(|(_, port)| port.spec.multifunction);
    tree.beside.extend(multifunction.map(|(n, port)| (port.spec.bdf.slot(), n)));
    tree.buses.extend(
        tree.hosts
            .iter()
            .enumerate()
            .map(|(n, host)| ((host.spec.segment, host.spec.bus), Parent::HostBridge(n))),
    );
    tree.buses.extend(
        tree.ports
            .iter()
            .enumerate()
            .map(|(n, port)| ((port.spec.bdf.segment(), port.spec.secondary), Parent::Port(n))),
    );
}
