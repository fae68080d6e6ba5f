//! Who is in the fabric, and below whom: the machine from its root buses down.

mod endpoints;

use std::collections::HashSet;

use sva_core::Bdf;
use sva_core::topology::PathPolicy;
use sva_topology::AcsBits;
use sva_topology::groups::Policy;
use sva_topology::machine::{Bus, Class, ExpressKind, Machine, PciFunction};

use super::acs;
use super::note::{FunctionUnsupported, Note};
use crate::acs::Acs;
use crate::fabric::{FabricSpec, HostBridgeSpec, PortKind, PortSpec};

/// The name of the model of a function that can issue PASIDs, in
/// [`FunctionSpec`](crate::fabric::FunctionSpec).
pub const MODEL: &str = "data-mover";

/// Segments from here on are domains that VMD made.
const VMD_SEGMENTS: u32 = 0x1_0000;

struct Walk<'a> {
    machine: &'a Machine,
    policy: Policy,
    spec: FabricSpec,
    notes: Vec<Note>,
    root_complex: Vec<Bdf>,
    other_requester: Vec<Bdf>,
    /// Indexes of the functions that were looked at.
    seen: HashSet<usize>,
}

/// What is above a bus.
#[derive(Clone)]
struct ParentBridge {
    /// Its name in the fabric.
    id: String,
    /// The bridge; none for a root bus.
    bridge: Option<(Bdf, PortKind)>,
    /// Whether requests from the bus reach the IOMMU under another requester ID than in the
    /// fabric.
    other_requester: bool,
}

/// The fabric without addresses and declared groups.
pub(super) fn walk(machine: &Machine, policy: Policy) -> (FabricSpec, Vec<Note>) {
    let spec = FabricSpec::new(PathPolicy::Strict);
    let (root_complex, other_requester) = (Vec::new(), Vec::new());
    let mut walk = Walk {
        machine,
        policy,
        spec,
        notes: Vec::new(),
        root_complex,
        other_requester,
        seen: HashSet::new(),
    };
    for bus in machine.buses().iter().filter(|bus| bus.parent.is_none()) {
        walk.root(bus);
    }
    walk.finish()
}

impl Walk<'_> {
    fn root(&mut self, bus: &Bus) {
        let (segment, number) = bus.number;
        let before = (self.spec.ports.len(), self.spec.functions.len());
        let id = format!("rc-{segment:04x}-{number:02x}");
        let mut above =
            ParentBridge { id: id.clone(), bridge: None, other_requester: segment >= VMD_SEGMENTS };
        let number = match self.missing_root_port(bus, &id) {
            Some(port) => {
                above = ParentBridge {
                    id: port.id.clone(),
                    bridge: Some((port.bdf, PortKind::Root)),
                    ..above
                };
                let number = port.bdf.bus();
                self.notes.push(Note::RootPortAdded { bdf: port.bdf });
                self.spec.ports.push(port);
                number
            }
            None => number,
        };
        self.bus(bus, &above);
        // A root bus with nothing but parts of the root complex is none that a fabric needs.
        if before != (self.spec.ports.len(), self.spec.functions.len()) {
            let mut host = HostBridgeSpec { segment, bus: number, ..HostBridgeSpec::new(id, []) };
            if self
                .machine
                .host()
                .architecture
                .as_ref()
                .is_some_and(|name| !matches!(name.as_str(), "x86_64" | "i686" | "i586" | "i386"))
            {
                host.reserved.clear();
            }
            self.spec.host_bridges.push(host);
        }
    }

    /// A root port for a bus that begins with a switch, as it does in an excerpt of a machine; on
    /// the bus before, where nothing is.
    fn missing_root_port(&self, bus: &Bus, host: &str) -> Option<PortSpec> {
        let (segment, number) = bus.number;
        let upstream = |function: &usize| {
            let it = &self.machine.functions()[*function];
            it.bdf.device() == 0
                && it.express.value.is_some_and(|express| express.kind == ExpressKind::Upstream)
        };
        let before = number.checked_sub(1)?;
        let taken = self
            .machine
            .buses()
            .binary_search_by_key(&(segment, before), |other| other.number)
            .is_ok();
        if taken || !bus.functions.iter().any(upstream) {
            return None;
        }
        let bdf = Bdf::new(segment, before, 1, 0)?;
        Some(
            PortSpec::new(
                PortKind::Root,
                format!("rp-{segment:04x}-{before:02x}"),
                host,
                bdf,
                number,
            )
            .with_acs(Acs::isolating()),
        )
    }

    fn bus(&mut self, bus: &Bus, above: &ParentBridge) {
        let mut slots: Vec<&[usize]> = Vec::new();
        for slot in bus.functions.chunk_by(|a, b| self.bdf(*a).slot() == self.bdf(*b).slot()) {
            slots.push(slot);
        }
        for slot in slots {
            self.seen.extend(slot);
            self.slot(slot, above);
        }
    }

    fn bdf(&self, function: usize) -> Bdf {
        self.machine.functions()[function].bdf
    }

    /// Places the functions of one device: bridges of one kind, or endpoints.
    fn slot(&mut self, slot: &[usize], above: &ParentBridge) {
        let (parts, rest): (Vec<usize>, Vec<usize>) = slot
            .iter()
            .copied()
            .partition(|function| is_root_complex(&self.machine.functions()[*function]));
        self.root_complex
            .extend(parts.into_iter().map(|function| self.machine.functions()[function].bdf));
        let (bridges, endpoints): (Vec<usize>, Vec<usize>) = rest
            .into_iter()
            .partition(|function| self.machine.functions()[*function].bridge().is_some());
        let mut first: Option<(Bdf, PortKind)> = None;
        // Where the first bridge comes.
        let place = self.spec.ports.len();
        for bridge in bridges {
            let placed = self.kind(bridge, above).and_then(|kind| match first {
                Some((_, together))
                    if kind == together
                        && matches!(kind, PortKind::Root | PortKind::Downstream) =>
                {
                    Ok(kind)
                }
                Some((with, _)) => Err(FunctionUnsupported::SharesDevice { with }),
                None => Ok(kind),
            });
            match placed {
                Ok(kind) => {
                    first.get_or_insert((self.bdf(bridge), kind));
                    self.bridge(bridge, kind, above);
                }
                Err(why) => self.leave_out(bridge, why),
            }
        }
        let fits = |walk: &Self, function| match (first, above.bridge) {
            (Some((_, PortKind::Upstream)), _) => Ok(()),
            (Some((with, _)), _) => Err(FunctionUnsupported::SharesDevice { with }),
            (None, Some((bdf, kind @ PortKind::Upstream))) => {
                Err(FunctionUnsupported::Below { above: bdf, kind })
            }
            (None, Some((_, PortKind::Root | PortKind::Downstream)))
                if walk.bdf(function).device() != 0 =>
            {
                Err(FunctionUnsupported::NotDeviceZero)
            }
            _ => Ok(()),
        };
        let (fitting, others): (Vec<usize>, Vec<usize>) =
            endpoints.into_iter().partition(|function| fits(self, *function).is_ok());
        for function in others {
            if let Err(why) = fits(self, function) {
                self.leave_out(function, why);
            }
        }
        let upstream = self
            .spec
            .ports
            .get_mut(place)
            .filter(|port| first == Some((port.bdf, PortKind::Upstream)));
        let beside = upstream
            .filter(|_| !fitting.is_empty())
            .map(|port| port.multifunction = true)
            .is_some();
        self.endpoints(&fitting, beside, above);
    }

    /// What the fabric takes a bridge for, where it is.
    fn kind(&self, function: usize, above: &ParentBridge) -> Result<PortKind, FunctionUnsupported> {
        let it = &self.machine.functions()[function];
        if self.machine.below(function).is_none() {
            return Err(FunctionUnsupported::NoBusBelow);
        }
        let express = it.express.value.map(|express| express.kind);
        let conventional = matches!(express, None | Some(ExpressKind::PcieToPci));
        match above.bridge {
            None if conventional => Ok(PortKind::PciBridge),
            // Also where a hypervisor shows a switch on a root bus.
            None => Ok(PortKind::Root),
            Some((_, PortKind::Root | PortKind::Downstream)) if it.bdf.device() != 0 => {
                Err(FunctionUnsupported::NotDeviceZero)
            }
            Some((_, PortKind::Root | PortKind::Downstream)) if conventional => {
                Ok(PortKind::PciBridge)
            }
            Some((_, PortKind::Root | PortKind::Downstream))
                if express == Some(ExpressKind::Upstream) =>
            {
                Ok(PortKind::Upstream)
            }
            Some((_, PortKind::Upstream)) if express == Some(ExpressKind::Downstream) => {
                Ok(PortKind::Downstream)
            }
            Some((bdf, kind)) => Err(FunctionUnsupported::Below { above: bdf, kind }),
        }
    }

    fn bridge(&mut self, function: usize, kind: PortKind, above: &ParentBridge) {
        let machine = self.machine;
        let it = &machine.functions()[function];
        let Some(below) = machine.below(function) else { return };
        let short = match kind {
            PortKind::Root => "rp",
            PortKind::Upstream => "up",
            PortKind::Downstream => "dp",
            PortKind::PciBridge => "pci",
        };
        let id = format!("{short}-{}", it.bdf.to_string().replace(':', "-"));
        let mut port = PortSpec::new(kind, id.clone(), above.id.clone(), it.bdf, below.number.1);
        if kind != PortKind::PciBridge {
            port.tlp_prefix =
                it.express.value.is_some_and(|express| express.end_to_end_prefix.value);
        }
        if matches!(kind, PortKind::Root | PortKind::Downstream) {
            let possible = !AcsBits::NONE;
            port.acs = acs::counted(
                machine,
                function,
                possible,
                AcsBits::ISOLATION,
                self.policy,
                &mut self.notes,
            );
        }
        self.spec.ports.push(port);
        if !it.bars.is_empty() {
            self.notes.push(Note::BridgeBars { bdf: it.bdf, count: it.bars.len() });
        }
        // A bridge without PCI Express issues requests under its own number, those with under
        // device 0 of the bus below.
        let own_requester = kind == PortKind::PciBridge && it.express.value.is_none();
        let other_requester = above.other_requester || own_requester;
        self.bus(below, &ParentBridge { id, bridge: Some((it.bdf, kind)), other_requester });
    }

    /// Leaves out a function and everything below it.
    fn leave_out(&mut self, function: usize, why: FunctionUnsupported) {
        let mut below = 0;
        let mut buses: Vec<&Bus> = self.machine.below(function).into_iter().collect();
        while let Some(bus) = buses.pop() {
            self.seen.extend(&bus.functions);
            below += bus.functions.len();
            buses.extend(bus.functions.iter().filter_map(|function| self.machine.below(*function)));
        }
        self.notes.push(Note::LeftOut { bdf: self.bdf(function), why, below });
    }

    fn finish(mut self) -> (FabricSpec, Vec<Note>) {
        let unseen: Vec<usize> = (0..self.machine.functions().len())
            .filter(|function| !self.seen.contains(function))
            .collect();
        for function in unseen {
            self.notes.push(Note::LeftOut {
                bdf: self.bdf(function),
                why: FunctionUnsupported::VirtualBus,
                below: 0,
            });
        }
        let ports = self
            .spec
            .ports
            .iter()
            .filter(|port| matches!(port.kind, PortKind::Root | PortKind::Downstream))
            .map(|port| port.bdf);
        let assumed = acs::assumed(self.machine, &ports.collect::<Vec<_>>(), self.policy);
        let lists = [
            (
                self.root_complex,
                (|functions| Note::RootComplex { functions }) as fn(Vec<Bdf>) -> Note,
            ),
            (self.other_requester, |functions| Note::Requester { functions }),
            (assumed, |functions| Note::AcsAssumed { functions }),
        ];
        for (functions, note) in lists.into_iter().filter(|(functions, _)| !functions.is_empty()) {
            self.notes.push(note(functions));
        }
        (self.spec, self.notes)
    }
}

/// Parts of the root complex that issue no requests for anybody.
fn is_root_complex(it: &PciFunction) -> bool {
    let code = it.class.map(|class| class.value.code());
    let collector =
        it.express.value.is_some_and(|express| express.kind == ExpressKind::EventCollector);
    collector || (it.bridge().is_none() && matches!(code, Some(Class::HOST_BRIDGE | Class::IOMMU)))
}
