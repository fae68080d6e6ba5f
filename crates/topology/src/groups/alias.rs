//! Requester IDs that are not a function's own: quirks of models, bridges that take ownership of
//! requests, VMD (drivers/pci/search.c, pci_for_each_dma_alias).

use crate::machine::{ExpressKind, Header, Ids, Machine, PciFunction};

/// Models whose requests carry other function numbers of their bus.
#[derive(Debug)]
pub struct AliasQuirk {
    /// The kernel's function.
    pub kernel: &'static str,
    /// What it is, for people.
    pub what: &'static str,
    vendor: u16,
    devices: &'static [u16],
    /// Subsystem vendor and device; empty for any.
    subsystems: &'static [(u16, u16)],
    numbers: Numbers,
}

/// Which numbers of the bus.
#[derive(Debug, Clone, Copy)]
enum Numbers {
    /// This function of the own slot.
    OwnSlot(u8),
    /// These devices and functions.
    Fixed(&'static [(u8, u8)]),
    /// Functions 0..this of every slot.
    EverySlot(u8),
    /// All 256.
    All,
}

/// A set of device and function numbers of one bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct DevfnSet([u64; 4]);

impl DevfnSet {
    pub(super) fn contains(&self, devfn: u8) -> bool {
        self.0[usize::from(devfn >> 6)] >> (devfn & 63) & 1 == 1
    }

    /// Adds a number; whether it was in the set before.
    pub(super) fn insert(&mut self, devfn: u8) -> bool {
        let before = self.contains(devfn);
        self.0[usize::from(devfn >> 6)] |= 1 << (devfn & 63);
        before
    }
}

const fn quirk(
    vendor: u16,
    devices: &'static [u16],
    numbers: Numbers,
    kernel: &'static str,
    what: &'static str,
) -> AliasQuirk {
    AliasQuirk { kernel, what, vendor, devices, subsystems: &[], numbers }
}

static ALIASES: &[AliasQuirk] = &[
    quirk(
        0x1180,
        &[0xe832, 0xe476],
        Numbers::OwnSlot(0),
        "quirk_dma_func0_alias",
        "Ricoh card reader",
    ),
    quirk(0x6766, &[0x3d40, 0x3d41], Numbers::OwnSlot(0), "quirk_dma_func0_alias", "Glenfly audio"),
    quirk(
        0x1b4b,
        &[
            0x9120, 0x9123, 0x9125, 0x9128, 0x9130, 0x9170, 0x9172, 0x917a, 0x9182, 0x9183, 0x91a0,
            0x9215, 0x9220, 0x9230, 0x9235,
        ],
        Numbers::OwnSlot(1),
        "quirk_dma_func1_alias",
        "Marvell SATA controller",
    ),
    quirk(
        0x1103,
        &[0x0642, 0x0645],
        Numbers::OwnSlot(1),
        "quirk_dma_func1_alias",
        "HighPoint SATA controller",
    ),
    quirk(0x197b, &[0x2392], Numbers::OwnSlot(1), "quirk_dma_func1_alias", "JMicron JMB388"),
    quirk(0x1c28, &[0x0122], Numbers::OwnSlot(1), "quirk_dma_func1_alias", "Plextor M6E"),
    AliasQuirk {
        subsystems: &[(0x9005, 0x02bb), (0x9005, 0x02bc)],
        ..quirk(
            0x9005,
            &[0x0285],
            Numbers::Fixed(&[(1, 0)]),
            "quirk_fixed_dma_alias",
            "Adaptec RAID controller",
        )
    },
    quirk(
        0x8086,
        &[0x2260, 0x2264],
        Numbers::Fixed(&[(0x10, 0), (0x11, 0), (0x12, 3)]),
        "quirk_mic_x200_dma_alias",
        "Intel MIC x200",
    ),
    quirk(
        0x8086,
        &[0x2954, 0x2955, 0x2956, 0x2958, 0x2959, 0x295a],
        Numbers::EverySlot(5),
        "quirk_pex_vca_alias",
        "Intel Visual Compute Accelerator",
    ),
    quirk(
        0x10b5,
        &[0x87b0, 0x87b1],
        Numbers::All,
        "quirk_plx_ntb_dma_alias",
        "PLX non-transparent bridge",
    ),
];

/// The numbers that a function's requests may carry beside its own, and why.
pub(super) fn aliases(it: &PciFunction) -> Option<(&'static AliasQuirk, DevfnSet)> {
    let ids = it.ids?.value;
    let subsystem = it.subsystem.map(|ids| (ids.value.vendor, ids.value.device));
    let named = |quirk: &&AliasQuirk| {
        quirk.vendor == ids.vendor
            && quirk.devices.contains(&ids.device)
            && (quirk.subsystems.is_empty()
                || subsystem.is_some_and(|subsystem| quirk.subsystems.contains(&subsystem)))
    };
    let quirk = ALIASES.iter().find(named)?;
    let numbers: Vec<u8> = match quirk.numbers {
        Numbers::OwnSlot(function) if function == it.bdf.function() => return None,
        Numbers::OwnSlot(function) => vec![it.bdf.device() << 3 | function],
        Numbers::Fixed(list) => {
            list.iter().map(|(device, function)| device << 3 | function).collect()
        }
        Numbers::EverySlot(functions) => {
            (0..=u8::MAX).filter(|devfn| devfn & 7 < functions).collect()
        }
        Numbers::All => (0..=u8::MAX).collect(),
    };
    let mut set = DevfnSet::default();
    for devfn in numbers {
        set.insert(devfn);
    }
    Some((quirk, set))
}

/// What a bridge does to the requester IDs of requests from below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BridgeRequesterId {
    /// They are preserved.
    Preserved,
    /// They may become the number of the bus below, device 0, function 0.
    SecondaryBus,
    /// They may become the bridge's own.
    Bridge,
    /// They are preserved, and the IOMMU sits here: nothing above counts.
    Translated,
}

/// What the bridge `bridge` (an index) does to requester IDs.
pub(super) fn bridge_requester_id(machine: &Machine, bridge: usize) -> BridgeRequesterId {
    let it = &machine.functions()[bridge];
    let ids = it.ids.map(|ids| (ids.value.vendor, ids.value.device));
    if ids == Some((0x14e4, 0x9000)) || ids == Some((0x14e4, 0x9084)) {
        return BridgeRequesterId::Translated;
    }
    match it.express.value.map(|express| express.kind) {
        // The BMC's bridge AST1150 forwards what it gets: it has no real PCI bus.
        Some(ExpressKind::PcieToPci) if ids == Some((0x1a03, 0x1150)) => {
            BridgeRequesterId::Preserved
        }
        Some(ExpressKind::PcieToPci) => BridgeRequesterId::SecondaryBus,
        Some(ExpressKind::PciToPcie) => BridgeRequesterId::Bridge,
        Some(_) => BridgeRequesterId::Preserved,
        None if disguised(machine, bridge) => BridgeRequesterId::SecondaryBus,
        None => BridgeRequesterId::Bridge,
    }
}

/// A PCIe-to-PCI bridge that hides its PCI Express capability: a known model without it, below a
/// PCI Express port.
pub(super) fn disguised(machine: &Machine, bridge: usize) -> bool {
    const MODELS: [(u16, u16); 5] =
        [(0x1b21, 0x1080), (0x10e3, 0x8113), (0x1283, 0x8892), (0x1283, 0x8893), (0x8086, 0x244e)];
    let it = &machine.functions()[bridge];
    let known = it.ids.is_some_and(|ids| MODELS.contains(&(ids.value.vendor, ids.value.device)));
    let above =
        machine.bus_of(bridge).bridge.and_then(|port| machine.functions()[port].express.value);
    known
        && it.express.value.is_none()
        && matches!(it.header.value, Header::Bridge(_))
        && above.is_some_and(|port| port.kind != ExpressKind::PcieToPci)
}

/// The VMD function that issues the requests of each VMD domain, as `(segment, function)`.
///
/// Linux numbers VMD domains from 0x10000 in the order in which it finds the VMD functions, so the
/// n-th domain is the n-th function's. No dump says it outright; where some functions have no
/// domain, the number decides.
pub(super) fn vmd_domains(machine: &Machine) -> Vec<(u32, usize)> {
    const FIRST: u32 = 0x10000;
    let functions = machine.functions();
    let mut owners: Vec<usize> =
        (0..functions.len()).filter(|index| is_vmd(&functions[*index])).collect();
    // A VMD function that has no driver has no domain.
    if owners.iter().any(|index| functions[*index].driver.is_some()) {
        owners.retain(|index| functions[*index].driver.as_deref() == Some("vmd"));
    }
    let mut segments: Vec<u32> = functions
        .iter()
        .map(|function| function.bdf.segment())
        .filter(|segment| *segment >= FIRST)
        .collect();
    segments.dedup();
    if segments.len() == owners.len() {
        return segments.into_iter().zip(owners).collect();
    }
    segments
        .into_iter()
        .filter_map(|segment| Some((segment, *owners.get((segment - FIRST) as usize)?)))
        .collect()
}

/// Whether a function can have a VMD domain.
pub(super) fn is_vmd(it: &PciFunction) -> bool {
    const MODELS: [u16; 11] =
        [0x201d, 0x28c0, 0x467f, 0x4c3d, 0x7d0b, 0x9a0b, 0xa77f, 0xad0b, 0xb06f, 0xb07f, 0xb60b];
    let numbered = matches!(
        it.ids.map(|ids| ids.value),
        Some(Ids { vendor: 0x8086, device }) if MODELS.contains(&device)
    );
    it.bdf.segment() < 0x10000 && (numbered || it.driver.as_deref() == Some("vmd"))
}
