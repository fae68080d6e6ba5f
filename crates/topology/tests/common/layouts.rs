//! Random topologies, built as a machine and as the functions of the literal reference at once.

use crate::machines::{endpoint, machine, pci, pcie};
use proptest::prelude::*;
use sva_testkit::iommu_groups::{Function, ISOLATION, Kind};
use sva_topology::AcsBits;
use sva_topology::machine::{ExpressKind, Machine};

/// What is below a bridge, without numbers.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    functions: Vec<Shape>,
    /// Below function 0, if that is a bridge.
    below: Vec<Device>,
    /// Virtual functions of function 0: on the same bus, and on a bus of their own.
    virtual_functions: (u8, u8),
}

#[derive(Debug, Clone)]
struct Shape {
    model: Model,
    kind: u8,
    acs: Option<(u8, u8)>,
    memory: bool,
    translated: bool,
    /// Function 0 does not say that there are others.
    modest: bool,
}

/// What a table says of the function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Model {
    Unknown,
    /// Aliases function 0 or 1 of the slot, 01.0, functions 0..5 of all slots, all.
    Alias(u8),
    /// A quirk: endpoint or port that is vouched for, or an unknown Wangxun device, that fails.
    VouchedFor,
    Denied,
    /// A conventional bridge of a model that is a PCIe-to-PCI bridge where it sits below a PCI
    /// Express port.
    Disguised,
}

fn shape() -> impl Strategy<Value = Shape> {
    let acs = prop_oneof![
        3 => Just(None),
        3 => Just(Some((31, 31))),
        2 => (0..32u8, 0..32u8).prop_map(Some),
    ];
    let model = prop_oneof![
        12 => Just(Model::Unknown),
        3 => (0..5u8).prop_map(Model::Alias),
        1 => Just(Model::VouchedFor),
        1 => Just(Model::Denied),
        2 => Just(Model::Disguised),
    ];
    (model, 0..12u8, acs, any::<bool>(), prop::bool::weighted(0.97), prop::bool::weighted(0.05))
        .prop_map(|(model, kind, acs, memory, translated, modest)| Shape {
            model,
            kind,
            acs,
            memory,
            translated,
            modest,
        })
}

pub(crate) fn device() -> impl Strategy<Value = Device> {
    let leaf = (prop::collection::vec(shape(), 1..5), (0..3u8, 0..3u8));
    let leaf = leaf.prop_map(|(functions, virtual_functions)| Device {
        functions,
        below: Vec::new(),
        virtual_functions,
    });
    leaf.prop_recursive(5, 48, 4, |inner| {
        (prop::collection::vec(shape(), 1..3), prop::collection::vec(inner, 0..4))
            .prop_map(|(functions, below)| Device { functions, below, virtual_functions: (0, 0) })
    })
}

/// Numbers everything and builds both forms.
struct Layout {
    machine: Vec<crate::machines::F>,
    reference: Vec<Function>,
    bus: u8,
    segment: u32,
    vmd: Option<usize>,
}

impl Layout {
    fn bus(&mut self, bus: u8, devices: &[Device], parent: Option<Kind>) {
        for (slot, device) in devices.iter().enumerate().take(32) {
            // Slots 0 and 1 are where fixed aliases point to.
            let first = self.reference.len();
            for (number, shape) in device.functions.iter().enumerate() {
                let bridge = number == 0 && !device.below.is_empty();
                self.function(
                    bus,
                    slot as u8,
                    number as u8,
                    device.functions.len() > 1,
                    shape,
                    bridge,
                    parent,
                );
            }
            self.virtual_functions(bus, slot as u8, first, device.virtual_functions);
            if !device.below.is_empty() {
                self.below(first, &device.below);
            }
        }
    }

    fn below(&mut self, bridge: usize, devices: &[Device]) {
        let Some(secondary) = self.bus.checked_add(1).filter(|bus| *bus < 200) else { return };
        self.bus = secondary;
        self.bus(secondary, devices, self.reference[bridge].kind);
        let it = self.machine.remove(bridge);
        self.machine.insert(bridge, it.below(secondary, self.bus));
        self.reference[bridge].buses_below = Some((secondary, self.bus));
    }

    /// A type that makes sense for the place.
    fn kind(
        shape: &Shape,
        bridge: bool,
        root_bus: bool,
        parent: Option<Kind>,
    ) -> Option<(ExpressKind, Kind)> {
        let bridges = match parent {
            _ if root_bus => [
                Some((ExpressKind::RootPort, Kind::Root)),
                None,
                Some((ExpressKind::PciToPcie, Kind::FromPci)),
            ],
            Some(Kind::Upstream) => [Some((ExpressKind::Downstream, Kind::Downstream)); 3],
            Some(Kind::Root | Kind::Downstream) => [
                Some((ExpressKind::Upstream, Kind::Upstream)),
                Some((ExpressKind::PcieToPci, Kind::ToPci)),
                None,
            ],
            _ => [
                None,
                Some((ExpressKind::PciToPcie, Kind::FromPci)),
                Some((ExpressKind::Upstream, Kind::Upstream)),
            ],
        };
        let pick = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2][usize::from(shape.kind)];
        if bridge {
            return bridges[pick];
        }
        match shape.kind {
            // Inside a switch there are downstream ports, also such as lead nowhere.
            0..=9 if parent == Some(Kind::Upstream) => {
                Some((ExpressKind::Downstream, Kind::Downstream))
            }
            0..=5 if root_bus => Some((ExpressKind::IntegratedEndpoint, Kind::Integrated)),
            0..=5 => Some((ExpressKind::Endpoint, Kind::Endpoint)),
            6..=7 => Some((ExpressKind::LegacyEndpoint, Kind::Endpoint)),
            8 => Some((ExpressKind::EventCollector, Kind::EventCollector)),
            9 if !root_bus => Some((ExpressKind::Downstream, Kind::Downstream)),
            _ => None,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the place of a function")]
    fn function(
        &mut self,
        bus: u8,
        slot: u8,
        number: u8,
        several: bool,
        shape: &Shape,
        bridge: bool,
        parent: Option<Kind>,
    ) {
        let kind = Self::kind(
            shape,
            bridge,
            self.reference.iter().all(|it| it.buses_below.is_none_or(|(first, _)| first != bus))
                && parent.is_none()
                && bus == 0,
            parent,
        );
        let name = format!("{:x}:{bus:02x}:{slot:02x}.{number}", self.segment);
        let mut it = match kind {
            Some((kind, _)) => pcie(&name, kind),
            None => pci(&name),
        };
        let several = several && !(number == 0 && shape.modest);
        it.0.multifunction.value = several;
        let bits = |bits: u8| AcsBits::from_bits(u16::from(bits));
        let mut acs = None;
        if let (Some((implemented, enabled)), Some(_)) = (shape.acs, kind) {
            it = it.acs(bits(implemented), bits(enabled));
            acs = Some((u16::from(implemented), u16::from(enabled)));
        }
        let (ids, quirk, aliases) = tables(shape.model, slot, number);
        it = it.ids(ids.0, ids.1);
        if shape.memory {
            it = it.bar();
        }
        // What the kernel left out is said by its having a group for others.
        it.0.kernel_group = Some(shape.translated.then_some(7));
        self.machine.push(it);
        self.reference.push(Function {
            segment: self.segment,
            bus,
            devfn: slot << 3 | number,
            buses_below: None,
            kind: kind.map(|(_, kind)| kind),
            multifunction: several,
            acs,
            quirk,
            aliases,
            issuer: self.vmd,
            physical: None,
            disguised: shape.model == Model::Disguised
                && bridge
                && kind.is_none()
                && parent.is_some_and(|above| above != Kind::ToPci),
            memory: shape.memory,
            translated: shape.translated,
        });
    }

    fn virtual_functions(&mut self, bus: u8, slot: u8, physical: usize, (near, far): (u8, u8)) {
        if self.reference[physical].kind != Some(Kind::Endpoint)
            || !self.reference[physical].translated
            || slot > 15
        {
            return;
        }
        let pf = self.machine[physical].0.bdf.to_string();
        let number = (self.reference.len() - physical) as u8;
        let segment = self.segment;
        let mut add = |bus: u8, devfn: u8| {
            let name = format!("{segment:x}:{bus:02x}:{:02x}.{}", devfn >> 3, devfn & 7);
            let mut it = endpoint(&name).virtual_of(&pf);
            it.0.kernel_group = Some(Some(7));
            self.machine.push(it);
            let of = Function {
                bus,
                devfn,
                buses_below: None,
                multifunction: false,
                acs: None,
                quirk: None,
                aliases: Vec::new(),
                physical: Some(physical),
                memory: false,
                ..self.reference[physical].clone()
            };
            self.reference.push(of);
        };
        // The first one in the slot of the physical function, if there is room.
        (0..near).for_each(|n| {
            add(bus, if n == 0 && number < 8 { slot << 3 | number } else { (slot + 16) << 3 | n })
        });
        if far > 0 && bus > 0 && self.bus < 200 {
            self.bus += 1;
            let other = self.bus;
            (0..far).for_each(|n| add(other, n));
        }
    }
}

/// Numbers, a quirk's answer, and aliases of a model; written anew from the rules, so that the
/// tables are tried too.
fn tables(model: Model, slot: u8, number: u8) -> ((u16, u16), Option<u16>, Vec<u8>) {
    let own = slot << 3;
    match model {
        Model::Unknown => ((0x1af4, 1), None, Vec::new()),
        Model::VouchedFor => ((0x1924, 0x0903), Some(ISOLATION), Vec::new()),
        Model::Denied => ((0x8088, 0x7777), Some(0), Vec::new()),
        Model::Disguised => ((0x1b21, 0x1080), None, Vec::new()),
        Model::Alias(0) => {
            ((0x1180, 0xe832), None, if number == 0 { Vec::new() } else { vec![own] })
        }
        Model::Alias(1) => {
            ((0x1b4b, 0x9123), None, if number == 1 { Vec::new() } else { vec![own | 1] })
        }
        Model::Alias(2) => ((0x10b5, 0x87b0), None, (0..=255).collect()),
        Model::Alias(3) => ((0x10b5, 0x87b1), None, (0..=255).collect()),
        Model::Alias(_) => {
            ((0x197b, 0x2392), None, if number == 1 { Vec::new() } else { vec![own | 1] })
        }
    }
}

pub(crate) fn build(devices: &[Device], below_vmd: &[Device]) -> (Machine, Vec<Function>) {
    let mut layout =
        Layout { machine: Vec::new(), reference: Vec::new(), bus: 0, segment: 0, vmd: None };
    layout.bus(0, devices, None);
    if !below_vmd.is_empty() {
        let shape = Shape {
            model: Model::Unknown,
            kind: 0,
            acs: None,
            memory: false,
            translated: true,
            modest: false,
        };
        layout.function(0, 31, 0, false, &shape, false, None);
        let vmd = layout.reference.len() - 1;
        let it = layout.machine.pop().expect("just added");
        layout.machine.push(it.ids(0x8086, 0x467f));
        // An integrated endpoint of Intel's isolates by quirk; a single function does anyway.
        (layout.segment, layout.bus, layout.vmd) = (0x10000, 0, Some(vmd));
        layout.bus(0, below_vmd, None);
    }
    // Someone has a group of the kernel's, so that the others can be left out by it.
    (machine(layout.machine), layout.reference)
}
