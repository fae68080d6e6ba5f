//! Random fabrics, and addresses worth asking about.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod small;
pub(crate) mod switch;

use proptest::prelude::*;
use sva_core::topology::PathPolicy;
use sva_core::{AddrRange, Bdf, Capabilities, PasidWidth};
use sva_pci::{Acs, AcsBits, Fabric, FabricSpec, FunctionSpec, HostBridgeSpec, PortKind, PortSpec};

const MIB: u64 = 1 << 20;

/// The PCI address in `text`.
pub(crate) fn at(text: &str) -> Bdf {
    text.parse().expect("an address in a test")
}

/// What is below a port, without numbers and addresses.
#[derive(Debug, Clone)]
pub(crate) enum Shape {
    Empty,
    Device(Vec<FunctionShape>),
    /// Its downstream ports, and functions beside its upstream port.
    Switch(Vec<PortShape>, Vec<FunctionShape>),
    Bridge(Vec<Vec<FunctionShape>>),
}

#[derive(Debug, Clone)]
pub(crate) struct PortShape {
    acs: Option<AcsBits>,
    prefix: bool,
    spare: u8,
    below: Shape,
}

/// BARs: the logarithm of the size, and whether it lies above 4 GiB.
#[derive(Debug, Clone)]
pub(crate) struct FunctionShape {
    isolates: bool,
    redirects: bool,
    direct: bool,
    bars: Vec<(u32, bool)>,
}

#[derive(Debug, Clone)]
pub(crate) struct HostShape {
    p2p: bool,
    integrated: Vec<Vec<FunctionShape>>,
    bridge: Option<Vec<Vec<FunctionShape>>>,
    ports: Vec<PortShape>,
}

fn functions() -> impl Strategy<Value = Vec<FunctionShape>> {
    let function =
        (any::<bool>(), any::<bool>(), prop::collection::vec((4..22u32, any::<bool>()), 0..3));
    (any::<bool>(), prop::collection::vec(function, 1..4)).prop_map(|(isolates, functions)| {
        let shape = |(redirects, direct, bars)| FunctionShape { isolates, redirects, direct, bars };
        functions.into_iter().map(shape).collect()
    })
}

/// Any set of the services that a port can enable.
pub(crate) fn services() -> impl Strategy<Value = AcsBits> {
    // One port with TB keeps all translated requests from what is above it, so it is rare.
    let translated = (any::<bool>(), prop::bool::weighted(0.1));
    (0..16u8, translated).prop_map(|(set, (direct, blocks))| {
        let untranslated =
            [AcsBits::SV, AcsBits::RR, AcsBits::CR, AcsBits::UF].into_iter().enumerate();
        let bits = untranslated.filter(|(n, _)| set >> n & 1 == 1).map(|(_, bit)| bit);
        bits.chain(direct.then_some(AcsBits::DT))
            .chain(blocks.then_some(AcsBits::TB))
            .fold(AcsBits::NONE, |all, bit| all | bit)
    })
}

fn port(below: impl Strategy<Value = Shape>) -> impl Strategy<Value = PortShape> {
    // Of the sets of SV, RR, CR and UF, the full one is the most interesting.
    let isolating = services().prop_map(|services| Some(services | AcsBits::ISOLATION));
    let acs = prop_oneof![1 => Just(None), 2 => isolating, 2 => services().prop_map(Some)];
    (acs, prop::bool::weighted(0.9), 0..3u8, below)
        .prop_map(|(acs, prefix, spare, below)| PortShape { acs, prefix, spare, below })
}

fn bridge() -> impl Strategy<Value = Vec<Vec<FunctionShape>>> {
    prop::collection::vec(functions(), 0..3)
}

fn shape() -> impl Strategy<Value = Shape> {
    let leaf = prop_oneof![
        1 => Just(Shape::Empty),
        6 => functions().prop_map(Shape::Device),
        1 => bridge().prop_map(Shape::Bridge),
    ];
    leaf.prop_recursive(3, 24, 3, |inner| {
        let beside = prop_oneof![2 => Just(Vec::new()), 1 => functions()];
        (prop::collection::vec(port(inner), 0..4), beside)
            .prop_map(|(ports, beside)| Shape::Switch(ports, beside))
    })
}

/// One or two host bridges with all that may be below them.
pub(crate) fn specs() -> impl Strategy<Value = FabricSpec> {
    let host = (
        any::<bool>(),
        prop::collection::vec(functions(), 0..2),
        prop::option::weighted(0.2, bridge()),
        prop::collection::vec(port(shape()), 0..4),
    );
    let host = host.prop_map(|(p2p, integrated, bridge, ports)| HostShape {
        p2p,
        integrated,
        bridge,
        ports,
    });
    prop::collection::vec(host, 1..3).prop_map(|hosts| {
        let mut layout = Layout {
            spec: FabricSpec::new(PathPolicy::Strict),
            bus: 0,
            low: 2 << 30,
            high: 256 << 30,
            names: 0,
        };
        for host in &hosts {
            layout.host(host);
        }
        layout.spec
    })
}

/// Gives numbers and addresses in the order of a walk down, so that they nest.
struct Layout {
    spec: FabricSpec,
    bus: u8,
    low: u64,
    high: u64,
    names: usize,
}

impl Layout {
    fn next_bus(&mut self) -> u8 {
        self.bus += 1;
        self.bus
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("n{}", self.names)
    }

    fn align(&mut self) {
        self.low = self.low.next_multiple_of(MIB);
        self.high = self.high.next_multiple_of(MIB);
    }

    fn host(&mut self, shape: &HostShape) {
        let name = self.name();
        let bus = if self.names == 1 { 0 } else { self.next_bus() };
        let (low, high) = (self.low, self.high);
        let mut device = 1;
        for functions in &shape.integrated {
            self.functions(&name, bus, device, functions);
            device += 1;
        }
        if let Some(devices) = &shape.bridge {
            self.bridge(&name, Bdf::new(0, bus, device, 0).expect("in range"), devices);
            device += 1;
        }
        for port in &shape.ports {
            self.port(PortKind::Root, &name, Bdf::new(0, bus, device, 0).expect("in range"), port);
            device += 1;
        }
        self.align();
        let windows = [AddrRange::new(low, self.low - low), AddrRange::new(high, self.high - high)];
        let mut host = HostBridgeSpec::new(name, windows.into_iter().flatten());
        (host.bus, host.p2p) = (bus, shape.p2p);
        self.spec.host_bridges.push(host);
    }

    fn port(&mut self, kind: PortKind, parent: &str, bdf: Bdf, shape: &PortShape) {
        self.align();
        let (name, secondary) = (self.name(), self.next_bus());
        let mut port = PortSpec::new(kind, name.as_str(), parent, bdf, secondary);
        port.tlp_prefix = shape.prefix;
        port.acs = shape.acs.map(Acs::port);
        let child = Bdf::new(0, secondary, 0, 0).expect("in range");
        match &shape.below {
            Shape::Empty => {}
            Shape::Device(functions) => self.functions(&name, secondary, 0, functions),
            Shape::Bridge(devices) => self.bridge(&name, child, devices),
            Shape::Switch(ports, beside) => {
                self.functions(&name, secondary, 0, beside);
                self.align();
                let (upstream, internal) = (self.name(), self.next_bus());
                let at = Bdf::new(0, secondary, 0, beside.len() as u8).expect("few functions");
                let mut port = PortSpec::new(
                    PortKind::Upstream,
                    upstream.as_str(),
                    name.as_str(),
                    at,
                    internal,
                );
                port.multifunction = !beside.is_empty();
                self.spec.ports.push(port);
                for (n, port) in ports.iter().enumerate() {
                    let bdf = Bdf::new(0, internal, n as u8, 0).expect("few ports");
                    self.port(PortKind::Downstream, &upstream, bdf, port);
                }
            }
        }
        self.align();
        if let Some(spare) = AddrRange::new(self.low, u64::from(shape.spare) * MIB) {
            port.windows.push(spare);
            self.low += spare.len();
        }
        self.spec.ports.push(port);
    }

    fn bridge(&mut self, parent: &str, bdf: Bdf, devices: &[Vec<FunctionShape>]) {
        self.align();
        let (name, secondary) = (self.name(), self.next_bus());
        self.spec.ports.push(PortSpec::new(
            PortKind::PciBridge,
            name.as_str(),
            parent,
            bdf,
            secondary,
        ));
        for (n, functions) in devices.iter().enumerate() {
            self.functions(&name, secondary, n as u8, functions);
        }
        self.align();
    }

    fn functions(&mut self, parent: &str, bus: u8, device: u8, shapes: &[FunctionShape]) {
        for (n, shape) in shapes.iter().enumerate() {
            let bdf = Bdf::new(0, bus, device, n as u8).expect("few functions");
            let mut function = FunctionSpec::new(parent, bdf)
                .with_capabilities(Capabilities::sva(PasidWidth::MAX));
            let direct = if shape.direct { AcsBits::DT } else { AcsBits::NONE };
            function.acs = match (shape.isolates, shape.redirects) {
                (true, _) => Some(Acs::function(AcsBits::FUNCTION_ISOLATION | direct)),
                (false, true) => Some(Acs::function(AcsBits::RR | direct)),
                (false, false) => None,
            };
            for (log, above) in &shape.bars {
                let size = 1 << log;
                let cursor = if *above { &mut self.high } else { &mut self.low };
                let address = cursor.next_multiple_of(size);
                *cursor = address + size;
                function = function.with_bar(address, size);
            }
            self.spec.functions.push(function);
        }
    }
}

/// The ends of everything that anything decodes, and their neighbours.
pub(crate) fn edges(fabric: &Fabric, spec: &FabricSpec) -> Vec<u64> {
    let view = sva_pci::FabricView::new(fabric);
    let mut ranges: Vec<(u64, u64)> = spec
        .host_bridges
        .iter()
        .flat_map(|host| &host.windows)
        .map(|w| (w.first(), w.last()))
        .collect();
    ranges.extend(
        spec.functions
            .iter()
            .flat_map(|function| &function.bars)
            .map(|bar| (bar.address, bar.address + (bar.size - 1))),
    );
    let mut nodes: Vec<&sva_pci::NodeView> =
        view.host_bridges.iter().flat_map(|host| &host.children).collect();
    while let Some(node) = nodes.pop() {
        if let sva_pci::NodeView::Port(port) = node {
            let number = |text: &str| sva_pci::parse_address(text).expect("a number of our own");
            ranges.extend(
                port.windows.iter().map(|window| (number(&window.first), number(&window.last))),
            );
            nodes.extend(&port.children);
        }
    }
    let mut edges: Vec<u64> = ranges
        .into_iter()
        .flat_map(|(first, last)| [first.wrapping_sub(1), first, last, last.wrapping_add(1)])
        .collect();
    edges.extend([0, u64::MAX, 0xfee0_0000]);
    edges.sort();
    edges.dedup();
    edges
}
